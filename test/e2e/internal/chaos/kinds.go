package chaos

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// kind is a kind of fault. inject strikes, and returns which nodes it hits and what ends it.
type kind struct {
	name string
	// needs is what the kernel must have of the command faults; empty: only Docker.
	needs string
	// inject returns a description, beside the nodes hit.
	inject func(*chaos, context.Context) (strike, error)
}

// strike is a fault that is on.
type strike struct {
	hit    []*member
	detail string
	// end mends what the fault did, and may add to the detail.
	end func(context.Context) (string, error)
}

// fullDisk is the one fault that a node may end of.
const fullDisk = "full-disk"

// kinds are what can happen.
var kinds = []kind{
	{"kill", "", (*chaos).kill},
	{"restart", "", (*chaos).restart},
	{"pause", "", (*chaos).pause},
	{"partition", "drop", (*chaos).partition},
	{"one-way", "drop", (*chaos).oneWay},
	{"loss", "loss", (*chaos).loss},
	{"delay", "delay", (*chaos).delay},
	{"slow", "slow", (*chaos).slow},
	{fullDisk, "", (*chaos).fullDisk},
	{"skew", "", (*chaos).skew},
}

func (c *chaos) pick() *member { return c.cluster.nodes[c.rng.IntN(len(c.cluster.nodes))] }

func names(nodes []*member) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.name)
	}
	return out
}

// kill ends a node at once.
func (c *chaos) kill(ctx context.Context) (strike, error) {
	n := c.pick()
	_, err := run(ctx, nil, "docker", "kill", n.id)
	return strike{hit: []*member{n}, end: func(ctx context.Context) (string, error) {
		_, err := run(ctx, nil, "docker", "start", n.id)
		return "", err
	}}, err
}

// restart ends a node in order.
func (c *chaos) restart(ctx context.Context) (strike, error) {
	n := c.pick()
	began := time.Now()
	_, err := run(ctx, nil, "docker", "stop", n.id)
	return strike{
		hit: []*member{n}, detail: "stopped in " + time.Since(began).Round(10*time.Millisecond).String(),
		end: func(ctx context.Context) (string, error) {
			_, err := run(ctx, nil, "docker", "start", n.id)
			return "", err
		},
	}, err
}

// pause stops a node's processes, and lets them go on as if nothing had been, with many reads waiting
// at the door: it must not answer them from what it remembers.
func (c *chaos) pause(ctx context.Context) (strike, error) {
	i := c.rng.IntN(len(c.cluster.nodes))
	n := c.cluster.nodes[i]
	_, err := run(ctx, nil, "docker", "pause", n.id)
	return strike{hit: []*member{n}, end: func(ctx context.Context) (string, error) {
		// Stub i goes through node i.
		wait := c.load.ReadThrough(i, 4)
		_, err := run(ctx, nil, "docker", "unpause", n.id)
		wait()
		return "", err
	}}, err
}

// heal ends the faults of the network of some nodes, and says how many packets they lost.
func (c *chaos) heal(nodes []*member) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		lost := make([]int, len(c.cluster.nodes))
		err := each(nodes, func(n *member) error {
			out, err := c.cluster.faults(ctx, n.id, "heal")
			if err == nil {
				lost[c.index(n)], err = strconv.Atoi(out)
			}
			return err
		})
		sum := 0
		for _, n := range lost {
			sum += n
		}
		if sum == 0 {
			return "", err
		}
		return fmt.Sprintf("%d packets lost", sum), err
	}
}

func (c *chaos) index(n *member) int {
	for i, one := range c.cluster.nodes {
		if one == n {
			return i
		}
	}
	return -1
}

// partition cuts the smaller part of the nodes off from the others, both ways. Callers still reach all.
func (c *chaos) partition(ctx context.Context) (strike, error) {
	nodes := append([]*member(nil), c.cluster.nodes...)
	c.rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	few := 1 + c.rng.IntN(len(nodes)/2)
	minority, majority := nodes[:few], nodes[few:]
	err := each(nodes, func(n *member) error {
		others := majority
		for _, m := range majority {
			if m == n {
				others = minority
			}
		}
		_, err := c.cluster.faults(ctx, n.id, append([]string{"drop"}, names(others)...)...)
		return err
	})
	return strike{
		hit: minority, detail: strings.Join(names(minority), "+") + " | " + strings.Join(names(majority), "+"),
		end: c.heal(nodes),
	}, err
}

// oneWay loses what one node sends to another; what comes back arrives.
func (c *chaos) oneWay(ctx context.Context) (strike, error) {
	from := c.pick()
	to := c.pick()
	for to == from {
		to = c.pick()
	}
	_, err := c.cluster.faults(ctx, to.id, "drop", from.name)
	return strike{hit: []*member{from, to}, detail: from.name + " ↛ " + to.name, end: c.heal([]*member{to})}, err
}

// loss loses some of the packets that come in to a node, from other nodes and from callers.
func (c *chaos) loss(ctx context.Context) (strike, error) {
	n, percent := c.pick(), 5+c.rng.IntN(36)
	_, err := c.cluster.faults(ctx, n.id, "loss", strconv.Itoa(percent))
	return strike{hit: []*member{n}, detail: fmt.Sprintf("%d%%", percent), end: c.heal([]*member{n})}, err
}

// delay makes all that a node sends late.
func (c *chaos) delay(ctx context.Context) (strike, error) {
	n, by := c.pick(), time.Duration(20+c.rng.IntN(300))*time.Millisecond
	_, err := c.cluster.faults(ctx, n.id, "delay", by.String(), (by / 4).String())
	return strike{hit: []*member{n}, detail: by.String() + " ± " + (by / 4).String(), end: c.heal([]*member{n})}, err
}

// slow gives a node a line that is too thin for what it sends.
func (c *chaos) slow(ctx context.Context) (strike, error) {
	n, kbit := c.pick(), 200+c.rng.IntN(1800)
	_, err := c.cluster.faults(ctx, n.id, "slow", strconv.Itoa(1000*kbit))
	return strike{hit: []*member{n}, detail: fmt.Sprintf("%d kbit/s", kbit), end: c.heal([]*member{n})}, err
}

// fullDisk leaves no room on a node's disk, and writes what does not fit into the room that the node
// has set aside. When the node ends of it, Docker starts it again and again, later each time; with room
// again it gets its start at once.
func (c *chaos) fullDisk(ctx context.Context) (strike, error) {
	n := c.pick()
	ballast := "/" + n.name + "/ballast"
	size, err := c.cluster.faults(ctx, c.cluster.disks, "fill", ballast)
	if err != nil {
		return strike{}, err
	}
	bytes, err := strconv.Atoi(size)
	if err != nil {
		return strike{}, err
	}
	writeCtx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.writeMuch(writeCtx, c.cluster.nodes[(c.index(n)+1)%len(c.cluster.nodes)]) })
	return strike{hit: []*member{n}, detail: fmt.Sprintf("%d MiB of ballast", bytes>>20), end: func(ctx context.Context) (string, error) {
		stop()
		wg.Wait()
		state, err := run(ctx, nil, "docker", "inspect", "--format", "{{.State.Status}}, {{.RestartCount}} restarts", n.id)
		if err != nil {
			return "", err
		}
		if _, err := c.cluster.faults(ctx, c.cluster.disks, "free", ballast); err != nil || state == fmt.Sprintf("running, %d restarts", n.restarts) {
			return "", err
		}
		c.crashes[fullDisk]++
		n.restarts = 0 // It counts from the start by hand on.
		_, err = run(ctx, nil, "docker", "restart", "--time", "1", n.id)
		return "the node ended of it", err
	}}, err
}

// writeMuch writes more than a node keeps in memory and in the log that it has room for, over several
// objects, the same each time.
func (c *chaos) writeMuch(ctx context.Context, through *member) {
	const count, size, times = 4, 1 << 20, 20
	box := classesv1.NewBoxClient(through.conn)
	for i := range times {
		ctx := metadata.AppendToOutgoingContext(ctx, "holdfast-name", fmt.Sprintf("much-%d", i))
		// It may fail, as the disk is full.
		_, _ = box.Put(ctx, &classesv1.PutRequest{Count: count, KeyBytes: 8, ValueBytes: size})
	}
}

// skew makes the clock of a node jump, and jump back at the end.
func (c *chaos) skew(ctx context.Context) (strike, error) {
	const file = "/clock-offset"
	n := c.pick()
	by := time.Duration(1+c.rng.IntN(24*3600)) * time.Second
	if c.rng.IntN(2) == 0 {
		by = -by
	}
	_, err := c.cluster.faults(ctx, n.id, "skew", file, by.String())
	return strike{hit: []*member{n}, detail: by.String(), end: func(ctx context.Context) (string, error) {
		_, err := c.cluster.faults(ctx, n.id, "skew", file, "0s")
		return "", err
	}}, err
}
