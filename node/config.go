package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/cluster"
	"github.com/holdfast-io/holdfast/placement"
)

// Config says what a node is. The zero value of every field but Name and DataDir is usable.
type Config struct {
	// Name is unique in the cluster: 1 to 63 letters, digits, '.', '_' or '-'.
	Name string
	// DataDir holds the data and the node's identity. One process at a time.
	DataDir string

	// Bootstrap creates a cluster when DataDir has none and no seed knows one.
	Bootstrap bool
	// Join are gossip addresses of other nodes, asked when DataDir has no cluster yet.
	Join []string
	// Shards of a cluster to be created: 1 to 4096, default 256, fixed for ever.
	Shards int
	// Replicas of each shard in a cluster to be created: default 3. Odd.
	Replicas int

	// Listen addresses, HOST:PORT; port 0 picks one. Defaults :7070, :7071, :7946, :8787 and
	// 127.0.0.1:7080.
	GRPC, Peer, Gossip, HTTP, Admin string
	// Advertise is the host name or IP that other nodes reach this one by. Default: the listen
	// address where it names a host, else the machine's first private address.
	Advertise string
	// DialPeer reaches another node's peer port, for networks where a plain TCP dial, the default,
	// does not. It must end with its context.
	DialPeer func(ctx context.Context, addr string) (net.Conn, error)
	// GossipKey encrypts gossip: 16, 24 or 32 bytes, the same on every node. Empty: no encryption.
	GossipKey []byte

	// Classes that this node runs. Names beginning with "holdfast." are reserved.
	Classes []actor.Class
	// Worker is the name of the worker that answers what comes to the HTTP address for a host that names none.
	// Default: the only one that is deployed.
	Worker string
	// Loader has the node run workers; nil: it runs none, and owns nothing while workers are deployed.
	Loader Loader

	// RingJoinAfter is how long a node must be alive before objects are placed on it: default 5 s.
	// Shorter makes a new node useful sooner, longer keeps a flapping one from moving data.
	RingJoinAfter time.Duration
	// RingDeadAfter is how long a node may be dead before its replicas are rebuilt on others:
	// default 5 min. Longer than a reboot.
	RingDeadAfter time.Duration
	// LeaderStable is how long the ring must wish the same before ownership moves to its first
	// choice: default 5 s.
	LeaderStable time.Duration
	// Tick is Raft's unit of time: default 100 ms. An election takes ten, a heartbeat three.
	Tick time.Duration

	// SnapshotRate is how many bytes of snapshots a node sends in a second, at most: default 8 MiB.
	// Less leaves more of the disks and the network to calls while replicas are rebuilt.
	SnapshotRate int
	// MemoryLimit in bytes, of which a quarter is for mailboxes and unflushed writes, and a quarter for
	// calls on their way; 0 takes the Go runtime's limit, else the container's, else the machine's memory.
	MemoryLimit int64
	// MinFreeDisk is how much of the data directory's disk is kept free: below it, writes are refused
	// with DISK_FULL; a little above it, ownership goes to nodes with more room. Default 256 MiB;
	// negative: nothing is kept free, and a full disk ends the process.
	MinFreeDisk int64
	// DrainTimeout is how long a stopping node waits for running handlers: default 30 s.
	DrainTimeout time.Duration

	// Now is the wall clock: default time.Now. Tests give one that is wrong; no promise rests on it.
	Now func() time.Time

	// TracerProvider makes the spans of OpenTelemetry that follow calls through the node; nil: there are none. It
	// must not block, and it is for whoever made it to shut it down, after the node.
	TracerProvider trace.TracerProvider

	// Logger receives everything the node has to say. Default: discards.
	Logger *slog.Logger
	// Version is shown in status.
	Version string

	// FreeDisk returns how many bytes of the data directory's disk are free: default statfs.
	FreeDisk func() (uint64, error)

	fs vfs.FS // of the store, in tests; nil is the disk
}

func (c Config) withDefaults() Config {
	set(&c.Shards, placement.DefaultShards)
	set(&c.Replicas, 3)
	set(&c.GRPC, ":7070")
	set(&c.Peer, ":7071")
	set(&c.Gossip, ":7946")
	set(&c.HTTP, ":8787")
	set(&c.Admin, "127.0.0.1:7080")
	set(&c.RingJoinAfter, 5*time.Second)
	set(&c.RingDeadAfter, 5*time.Minute)
	set(&c.LeaderStable, 5*time.Second)
	set(&c.Tick, 100*time.Millisecond)
	set(&c.DrainTimeout, 30*time.Second)
	set(&c.SnapshotRate, 8<<20)
	set(&c.MinFreeDisk, 256<<20)
	set(&c.Version, "devel")
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// set gives a field its default when it is unset.
func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// workerClassPattern is of WORKER/CLASS. It does not count: a pattern that counts letters of all alphabets
// takes megabytes.
var workerClassPattern = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]*/[\pL_$][\pL\pN\pM_$]*$`)

// workerPartMax is how many characters a worker's name and that of its class have at most.
const workerPartMax = 100

func isWorkerClass(name string) bool {
	worker, class, _ := strings.Cut(name, "/")
	return workerClassPattern.MatchString(name) && len(worker) <= workerPartMax && utf8.RuneCountInString(class) <= workerPartMax
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate returns everything that is wrong with c, at once, naming each field by its flag.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if !namePattern.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("--name %q: must be 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", c.Name))
	}
	if c.DataDir == "" {
		errs = append(errs, errors.New("--data-dir: must be given"))
	}
	if c.Shards < 1 || c.Shards > placement.MaxShards {
		errs = append(errs, fmt.Errorf("--shards %d: must be 1 to %d", c.Shards, placement.MaxShards))
	}
	if c.Replicas < 1 || c.Replicas > 7 || c.Replicas%2 == 0 {
		errs = append(errs, fmt.Errorf("--replicas %d: must be 1, 3, 5 or 7 (an even number survives no more failures than one less)", c.Replicas))
	}
	for _, a := range []struct{ flag, addr string }{
		{"grpc", c.GRPC}, {"peer", c.Peer}, {"gossip", c.Gossip}, {"http", c.HTTP}, {"admin", c.Admin},
	} {
		_, port, err := net.SplitHostPort(a.addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s %q: must be HOST:PORT: %w", a.flag, a.addr, err))
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			errs = append(errs, fmt.Errorf("--%s %q: the port must be a number up to 65535", a.flag, a.addr))
		}
	}
	for _, seed := range c.Join {
		if err := cluster.CheckAddress(seed); err != nil {
			errs = append(errs, fmt.Errorf("--join %q: must be HOST or HOST:PORT: %w", seed, err))
		}
	}
	switch len(c.GossipKey) {
	case 0, 16, 24, 32:
	default:
		errs = append(errs, fmt.Errorf("--gossip-key-file: a key must be 16, 24 or 32 bytes, is %d", len(c.GossipKey)))
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"ring-join-after", c.RingJoinAfter},
		{"ring-dead-after", c.RingDeadAfter},
		{"leader-stable", c.LeaderStable},
		{"drain-timeout", c.DrainTimeout},
		{"tick", c.Tick},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("--%s %s: must not be negative", d.flag, d.value))
		}
	}
	if c.MemoryLimit < 0 {
		errs = append(errs, fmt.Errorf("--memory-limit %d: must not be negative", c.MemoryLimit))
	}
	if c.SnapshotRate < 1<<20 {
		errs = append(errs, fmt.Errorf("--snapshot-rate %d: must be at least %d bytes in a second, or a shard is never rebuilt", c.SnapshotRate, 1<<20))
	}
	seen := make(map[string]bool)
	for _, class := range c.Classes {
		switch {
		case !namePattern.MatchString(class.Name) && (class.Service != nil || !isWorkerClass(class.Name)):
			errs = append(errs, fmt.Errorf("class %q: a name must be 1 to 63 letters, digits, '.', '_' or '-'", class.Name))
		case len(class.Name) >= len(reservedPrefix) && class.Name[:len(reservedPrefix)] == reservedPrefix:
			errs = append(errs, fmt.Errorf("class %q: names beginning with %q are reserved", class.Name, reservedPrefix))
		case seen[class.Name]:
			errs = append(errs, fmt.Errorf("class %q: registered twice", class.Name))
		}
		seen[class.Name] = true
	}
	return errors.Join(errs...)
}

const reservedPrefix = "holdfast."
