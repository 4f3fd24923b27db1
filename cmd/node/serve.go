package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/node"
	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// listenFlags are shared by dev and serve.
type listenFlags struct {
	traceFlags

	LogLevel  string        `help:"debug, info, warn or error." default:"info" enum:"debug,info,warn,error"`
	LogFormat string        `help:"text or json." default:"text" enum:"text,json"`
	Drain     time.Duration `name:"drain-timeout" help:"How long a stopping node waits for running handlers." default:"30s"`
	Memory    int64         `name:"memory-limit" help:"Memory in bytes that the node reckons with; 0 asks the machine. A quarter of it is for mailboxes and unflushed writes." default:"0"`
	MinFree   size          `name:"min-free-disk" help:"How much of the data directory's disk to keep free, such as 256MiB: below it writes are refused with DISK_FULL. 0 keeps nothing free, and a full disk ends the process." default:"256MiB"`
	JoinAfter time.Duration `name:"ring-join-after" help:"How long a node must be alive before objects are placed on it." default:"5s"`
	DeadAfter time.Duration `name:"ring-dead-after" help:"How long a node may be dead before its replicas are rebuilt elsewhere." default:"5m"`
	Rate      int           `name:"snapshot-rate" help:"How many bytes of snapshots the node sends in a second, at most. More rebuilds lost replicas sooner, and leaves less of the disks to calls." default:"8388608"`
	Stable    time.Duration `name:"leader-stable" help:"How long the ring must wish the same before ownership is moved to its first choice." default:"5s"`
}

type devCmd struct {
	listenFlags
	fetchFlags

	Path    string `arg:"" optional:"" help:"A wrangler project to run, again whenever its files change: its directory, or its configuration."`
	DataDir string `help:"Where the data lives." default:".holdfast"`
	Shards  int    `help:"How many shards a new cluster has; fixed for ever." default:"256"`
	GRPC    string `name:"grpc" help:"Public gRPC address." default:"127.0.0.1:7070"`
	Peer    string `help:"Address for other nodes." default:"127.0.0.1:0"`
	Gossip  string `help:"Gossip address." default:"127.0.0.1:0"`
	HTTP    string `name:"http" help:"HTTP address of workers." default:"127.0.0.1:8787"`
	Admin   string `help:"Admin HTTP address: /healthz, /readyz, /metrics." default:"127.0.0.1:7080"`
}

type serveCmd struct {
	listenFlags
	fetchFlags

	Name          string   `help:"This node's name; unique in the cluster." required:""`
	DataDir       string   `help:"Where the data and the node's identity live." required:"" placeholder:"DIR"`
	Bootstrap     bool     `help:"Create the cluster, if no seed knows one."`
	Join          []string `help:"Gossip addresses of other nodes, for a node that has no cluster yet. Known members are stored: a restart needs none." placeholder:"HOST:PORT"`
	Shards        int      `help:"How many shards a new cluster has (1 to 4096); fixed for ever. Used with --bootstrap." default:"256"`
	Replicas      int      `help:"How many nodes keep each shard. Used with --bootstrap." default:"3"`
	GRPC          string   `name:"grpc" help:"Public gRPC address." default:":7070"`
	Peer          string   `help:"Address for other nodes." default:":7071"`
	Gossip        string   `help:"Gossip address (TCP and UDP)." default:":7946"`
	HTTP          string   `name:"http" help:"HTTP address of workers." default:":8787"`
	Admin         string   `help:"Admin HTTP address: /healthz, /readyz, /metrics." default:"127.0.0.1:7080"`
	Advertise     string   `help:"Host name or IP under which other nodes reach this one; by default the listen address, or the first private address of the machine." placeholder:"HOST"`
	GossipKeyFile string   `help:"File with the cluster's gossip key: 16, 24 or 32 bytes in base64. Without it gossip is not encrypted." placeholder:"FILE"`
}

// Run implements the command.
func (c *devCmd) Run(ctx context.Context, e env) error {
	cfg := node.Config{
		Name: "dev", DataDir: c.DataDir, Bootstrap: true, Shards: c.Shards, Replicas: 3,
		GRPC: c.GRPC, Peer: c.Peer, Gossip: c.Gossip, HTTP: c.HTTP, Admin: c.Admin,
	}
	if c.Path != "" {
		return c.devWorker(ctx, e, cfg)
	}
	return serve(ctx, e, c.listenFlags, &loader{fetch: outbound.New(c.config(loopback...))}, cfg, nil)
}

// Run implements the command.
func (c *serveCmd) Run(ctx context.Context, e env) error {
	key, err := readGossipKey(c.GossipKeyFile)
	if err != nil {
		return err
	}
	return serve(ctx, e, c.listenFlags, &loader{fetch: outbound.New(c.config())}, node.Config{
		Name: c.Name, DataDir: c.DataDir, Bootstrap: c.Bootstrap, Join: c.Join,
		Shards: c.Shards, Replicas: c.Replicas,
		GRPC: c.GRPC, Peer: c.Peer, Gossip: c.Gossip, HTTP: c.HTTP, Admin: c.Admin,
		Advertise: c.Advertise, GossipKey: key,
	}, nil)
}

func readGossipKey(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return nil, fmt.Errorf("--gossip-key-file: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("--gossip-key-file %s: must be base64: %w", file, err)
	}
	return key, nil
}

// serve runs a node, with the workers that are deployed, until the context ends, and then stops it in
// order. It closes what l fetches with. started, if there is one, is given the node before it says that it is
// ready; its error ends the node.
func serve(ctx context.Context, e env, f listenFlags, l *loader, cfg node.Config, started func(*node.Node) error) error {
	defer l.fetch.Close()
	cfg.Loader = l
	cfg.Logger = newLogger(e, f)
	cfg.Version = version()
	cfg.SnapshotRate = f.Rate
	cfg.RingJoinAfter, cfg.RingDeadAfter, cfg.LeaderStable = noTime(f.JoinAfter), noTime(f.DeadAfter), noTime(f.Stable)
	cfg.MemoryLimit = f.Memory
	cfg.DrainTimeout = noTime(f.Drain)
	if cfg.MinFreeDisk = int64(f.MinFree); f.MinFree == 0 {
		cfg.MinFreeDisk = -1
	}
	cfg.Classes = append(cfg.Classes, counter.Class())
	if err := errors.Join(notZero("shards", cfg.Shards), notZero("replicas", cfg.Replicas), cfg.Validate(), f.check()); err != nil {
		return &usageError{err: err}
	}
	traces, err := f.start(ctx, cfg.Name, cfg.Version, cfg.Logger)
	if err != nil {
		return err
	}
	if traces != nil {
		defer traces.Close() // After the node.
		cfg.TracerProvider = traces
	}
	defer node.TuneRuntime(cfg.MemoryLimit)()
	n, err := node.Start(ctx, cfg)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			return nil // It was told to stop while it waited for a cluster.
		}
		return err
	}
	if started != nil {
		if err := started(n); err != nil && ctx.Err() == nil {
			return errors.Join(err, n.Close(context.WithoutCancel(ctx)))
		}
	}
	return n.Run(ctx, e.stdout)
}

// noTime is for the times of a node.Config, in which 0 means the default: on the command line it means
// none.
func noTime(d time.Duration) time.Duration {
	if d == 0 {
		return 1
	}
	return d
}

// notZero refuses a number that a node.Config would take for the default.
func notZero(flag string, n int) error {
	if n == 0 {
		return fmt.Errorf("--%s 0: must be at least 1", flag)
	}
	return nil
}

func newLogger(e env, f listenFlags) *slog.Logger {
	var level slog.Level
	// The flag is an enum of the level names: it cannot fail.
	_ = level.UnmarshalText([]byte(f.LogLevel))
	opts := &slog.HandlerOptions{Level: level}
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(e.stderr, opts))
	}
	return slog.New(slog.NewTextHandler(e.stderr, opts))
}

type versionCmd struct{}

// Run implements the command.
func (versionCmd) Run(e env) error {
	_, err := fmt.Fprintln(e.stdout, version())
	return err
}

// version is the module's, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
