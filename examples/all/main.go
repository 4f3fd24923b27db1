// Command all runs one node on loopback with the classes of every example, as a program of your own
// runs yours. It listens where 'holdfast dev' does, so 'holdfast call' finds it, and keeps its data in
// .holdfast-examples/.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/cart"
	"github.com/holdfast-io/holdfast/examples/chat"
	"github.com/holdfast-io/holdfast/examples/counter"
	"github.com/holdfast-io/holdfast/examples/leaderboard"
	"github.com/holdfast-io/holdfast/examples/lock"
	"github.com/holdfast-io/holdfast/examples/ratelimiter"
	"github.com/holdfast-io/holdfast/examples/scheduler"
	"github.com/holdfast-io/holdfast/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "all:", err)
		os.Exit(1)
	}
}

// run runs the node until the context ends, and stops it in order.
func run(ctx context.Context) error {
	n, err := node.Start(ctx, node.Config{
		Name: "dev", DataDir: ".holdfast-examples", Bootstrap: true,
		GRPC: "127.0.0.1:7070", HTTP: "127.0.0.1:8787", Admin: "127.0.0.1:7080", Peer: "127.0.0.1:0", Gossip: "127.0.0.1:0",
		Classes: []actor.Class{
			cart.Class(), cart.InventoryClass(), chat.Class(), counter.Class(),
			leaderboard.Class(), lock.Class(), ratelimiter.Class(), scheduler.Class(),
		},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return n.Run(ctx, os.Stdout)
}
