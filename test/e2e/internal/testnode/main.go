// Command testnode runs a node with the classes of the tests, as a user's program does with package
// node. It takes the flags of 'holdfast serve' that the tests use, and prints the same ready line.
//
// Its wall clock is wrong by the duration in the file that HOLDFAST_TEST_CLOCK_OFFSET_FILE names, if
// there is one, and follows it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/node"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "testnode:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "serve" {
		args = args[1:]
	}
	cfg := node.Config{
		Classes: []actor.Class{counter.Class(), classes.Register(), classes.Box(), classes.Relay(), classes.Bell(), classes.Feed()},
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Version: "testnode",
	}
	flags := flag.NewFlagSet("testnode", flag.ExitOnError)
	flags.StringVar(&cfg.Name, "name", "", "the node's name")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "where the data lives")
	flags.BoolVar(&cfg.Bootstrap, "bootstrap", false, "create the cluster")
	join := flags.String("join", "", "gossip addresses, with commas between")
	flags.IntVar(&cfg.Shards, "shards", 0, "shards of a new cluster")
	flags.StringVar(&cfg.GRPC, "grpc", "", "listen address")
	flags.StringVar(&cfg.Peer, "peer", "", "listen address")
	flags.StringVar(&cfg.Gossip, "gossip", "", "listen address")
	flags.StringVar(&cfg.HTTP, "http", "", "listen address")
	flags.StringVar(&cfg.Admin, "admin", "", "listen address")
	flags.StringVar(&cfg.Advertise, "advertise", "", "as in node.Config")
	flags.DurationVar(&cfg.RingJoinAfter, "ring-join-after", 0, "as in node.Config")
	flags.DurationVar(&cfg.RingDeadAfter, "ring-dead-after", 0, "as in node.Config")
	flags.DurationVar(&cfg.LeaderStable, "leader-stable", 0, "as in node.Config")
	flags.DurationVar(&cfg.DrainTimeout, "drain-timeout", 0, "as in node.Config")
	flags.Int64Var(&cfg.MinFreeDisk, "min-free-disk", 0, "as in node.Config")
	free := flags.String("free-disk-file", "", "a file that says how many MiB of the disk are free")
	via := flags.String("via", "", "reach other nodes through the proxy at this address, which is first told who calls whom")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *join != "" {
		cfg.Join = strings.Split(*join, ",")
	}
	if *free != "" {
		cfg.FreeDisk = func() (uint64, error) {
			raw, err := os.ReadFile(*free)
			if err != nil {
				return 0, err
			}
			mib, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32)
			return mib << 20, err
		}
	}
	if *via != "" {
		cfg.DialPeer = dialVia(*via, cfg.Name)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if file := os.Getenv("HOLDFAST_TEST_CLOCK_OFFSET_FILE"); file != "" {
		clock := &wrongClock{}
		var wg sync.WaitGroup
		wg.Go(func() { clock.follow(ctx, file) })
		defer wg.Wait()
		defer stop()
		cfg.Now = clock.now
	}
	n, err := node.Start(ctx, cfg)
	if err != nil {
		return err
	}
	return n.Run(ctx, os.Stdout)
}

// wrongClock is the wall clock and an offset.
type wrongClock struct{ offset atomic.Int64 }

func (c *wrongClock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// follow keeps the offset as a file has it; without one it is none.
func (c *wrongClock) follow(ctx context.Context, file string) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		raw, _ := os.ReadFile(file)
		offset, _ := time.ParseDuration(strings.TrimSpace(string(raw)))
		c.offset.Store(int64(offset))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// dialVia dials the proxy, says who calls whom, and waits for the word that the way is open: a dial
// that the proxy keeps from its target must not seem to have succeeded.
func dialVia(proxy, name string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", proxy)
		if err != nil {
			return nil, err
		}
		unblock := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		_, err = fmt.Fprintf(conn, "%s %s\n", name, addr)
		if err == nil {
			err = readWord(conn)
		}
		if !unblock() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

func readWord(conn net.Conn) error {
	// One byte at a time: what follows is the target's.
	word, err := bufio.NewReaderSize(oneByte{conn}, 16).ReadString('\n')
	if err != nil {
		return err
	}
	if word != "open\n" {
		return errors.New("the proxy refused the connection")
	}
	return nil
}

type oneByte struct{ net.Conn }

// Read implements io.Reader.
func (c oneByte) Read(p []byte) (int, error) { return c.Conn.Read(p[:1]) }
