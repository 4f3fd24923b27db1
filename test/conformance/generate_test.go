package conformance_test

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/actor"
)

// mishap is what befalls an object between its events, or during one.
type mishap string

const (
	nothingAmiss mishap = ""
	eviction     mishap = "evict"
	move         mishap = "move"
	stop         mishap = "stop" // of its owner, in order
	kill         mishap = "kill" // of its owner
)

// ownerEnds says that the object has another owner, or another incarnation of it, after this.
func (m mishap) ownerEnds() bool { return m == move || m == stop || m == kill }

// step is an event of one of a program's objects, and what befalls the object.
type step struct {
	Object   int
	Before   mishap `json:",omitempty"`
	During   mishap `json:",omitempty"`
	After    mishap `json:",omitempty"` // while its alarm is about to run
	Delay    time.Duration
	Through  int
	Existing bool `json:",omitempty"` // the call wants the object to exist
	Event    event
}

const programObjects = 2

// generator draws programs. What it draws depends on its seed alone, and on nothing that happens.
type generator struct {
	rng   *rand.Rand
	moves bool // there is more than one node
	depth int
	// brief says that the event has set an alarm that is due in a moment: from then on it must not become
	// durable before the event ends, or the alarm could run within it.
	brief bool
}

func generate(seed uint64, nodes int) []step {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 0)), moves: nodes > 1}
	out := make([]step, 12+g.rng.IntN(12))
	for i := range out {
		g.brief = false
		out[i] = step{
			Object: g.rng.IntN(programObjects), Before: g.mishap(5), During: g.mishap(25), After: g.mishap(4),
			Delay: time.Duration(g.rng.IntN(4000)) * time.Microsecond, Through: g.rng.IntN(nodes), Existing: g.one(8),
			Event: event{Ops: g.ops(8, false), End: g.ending(8, fails, panics, aborts)},
		}
	}
	return out
}

func (g *generator) one(in int) bool { return g.rng.IntN(in) == 0 }

func (g *generator) mishap(one int) mishap {
	n := g.rng.IntN(20)
	switch {
	case !g.one(one):
		return nothingAmiss
	case n < 1:
		return stop
	case n < 4:
		return kill
	case n < 11 && g.moves:
		return move
	}
	return eviction
}

func (g *generator) ending(one int, of ...ending) ending {
	end := of[g.rng.IntN(len(of))]
	if !g.one(one) {
		return returns
	}
	return end
}

var programKeys = []string{"", "\x00", "a", "a\x00", "aa", "ab", "b", "b1", "b2", "é", "😀"}

func (g *generator) key() string { return programKeys[g.rng.IntN(len(programKeys))] }

func (g *generator) keys() []string {
	keys := make([]string, g.rng.IntN(5))
	for i := range keys {
		keys[i] = g.key()
	}
	return keys
}

func (g *generator) value() string {
	return strconv.Itoa(g.rng.IntN(100_000)) + strings.Repeat("x", []int{0, 0, 0, 10, 600, 20_000}[g.rng.IntN(6)])
}

// ops draws up to so many. Those of an alarm's handler set no alarm that is due in a moment, and make
// nothing durable by itself: a run that is cut off must leave nothing.
func (g *generator) ops(most int, handler bool) []op {
	var out []op
	for range g.rng.IntN(most) {
		out = append(out, g.op(handler)...)
	}
	return out
}

func (g *generator) op(handler bool) []op {
	o := op{Unconfirmed: g.one(4), Outer: g.one(3)}
	switch n := g.rng.IntN(100); {
	case n < 16:
		o.Do, o.Entries = "put", map[string]string{g.key(): g.value()}
	case n < 24:
		o.Do, o.Entries = "put many", make(map[string]string)
		for _, key := range g.keys() {
			o.Entries[key] = g.value()
		}
	case n < 32:
		o.Do, o.Keys = "get", []string{g.key()}
	case n < 36:
		o.Do, o.Keys = "get many", g.keys()
	case n < 42:
		o.Do, o.Keys = "delete", []string{g.key()}
	case n < 49:
		o.Do, o.Keys = "delete many", g.keys()
	case n < 53:
		o.Do = "delete all"
	case n < 69:
		o.Do, o.Options = "list", g.listOptions()
		if g.one(3) {
			o.Ops = []op{{Do: "put", Entries: map[string]string{g.key(): g.value()}}, {Do: "delete", Keys: []string{g.key()}}}
		}
	case n < 82:
		if g.depth == 3 {
			return nil
		}
		g.depth++
		o.Do, o.Ops, o.End = "transaction", g.ops(6, handler), g.ending(2, fails, panics)
		g.depth--
	case n < 93:
		return g.alarmOp(o, handler)
	case n < 99:
		if handler || g.brief {
			return nil
		}
		o.Do = "sync"
	default:
		o.Do = "abort"
	}
	return []op{o}
}

func (g *generator) alarmOp(o op, handler bool) []op {
	switch n := g.rng.IntN(10); {
	case n < 2:
		o.Do = "delete alarm"
	case n < 5:
		o.Do = "alarm"
	case n < 7 || handler:
		o.Do, o.At = "set alarm", farAlarms.Add(time.Duration(g.rng.IntN(1000))*time.Hour).UnixMilli()
	default:
		g.brief = true
		o.Do = "set alarm"
		plan := event{Ops: g.ops(5, true), End: g.ending(2, fails, panics, aborts, givesUp), Runs: 1 + g.rng.IntN(alarmRetries+2)}
		return []op{{Do: "put", Entries: map[string]string{planKey: plan.encode()}}, o}
	}
	return []op{o}
}

func (g *generator) listOptions() actor.ListOptions {
	o := actor.ListOptions{Reverse: g.one(2)}
	switch g.rng.IntN(3) {
	case 0:
		o.Start = g.key()
	case 1:
		o.StartAfter = g.key()
	}
	if g.one(2) {
		o.End = g.key()
	}
	if g.one(2) {
		o.Prefix = g.key()
	}
	if g.one(2) {
		o.Limit = 1 + g.rng.IntN(4)
	}
	return o
}
