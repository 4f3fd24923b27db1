// Package history keeps what callers of registers saw, and judges it: each object's history must be
// linearizable, and have every write that was acknowledged (P1, P2, P4). The judge knows nothing of
// how the calls were made, nor where the nodes ran.
package history

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what a call of a register does.
type Kind int

// The kinds of calls.
const (
	Get           Kind = iota
	Add                // adds Amount
	CompareAndSet      // sets Amount where the value is Expected
	over               // no call: what has not happened by now never did
)

// Operation is a call of one register, and what came of it.
type Operation struct {
	Object   string
	Client   int
	Kind     Kind
	Amount   int64
	Expected int64
	// Times since the history began.
	Call, End time.Duration
	// Known says that there was an answer; else the call may take effect at any time, or never.
	Known bool
	State State
	Did   bool // the write took effect
}

// State is what a register holds.
type State struct{ Value, Version int64 }

// place is where the search of a history stands.
type place struct {
	State

	over bool
}

// History is what callers saw. Its methods are safe for concurrent use.
type History struct {
	began time.Time

	mu  sync.Mutex
	ops []Operation
}

// New begins a history.
func New() *History { return &History{began: time.Now()} }

// Now is the time since the history began.
func (h *History) Now() time.Duration { return time.Since(h.began) }

// Add adds a call that has ended.
func (h *History) Add(op Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
}

// ByObject splits the history: objects know nothing of each other.
func (h *History) ByObject() map[string][]Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string][]Operation)
	for _, op := range h.ops {
		out[op.Object] = append(out[op.Object], op)
	}
	return out
}

// register is what a register does, one call after another. A call without an answer takes effect
// somewhere before the end of the history, or after it, which is to say never.
//
// What is known of each version keeps the search from trying what cannot be: one without an answer
// made a version that no other made, that was seen with no other value, and that was seen or lies
// before one that was. (A later one is as good after the end.) Without this the search is
// exponential in the number of such calls.
func register(ops []Operation) porcupine.Model {
	made := make(map[int64]bool)
	values := make(map[int64]int64)
	last := int64(0)
	for i := range ops {
		if op := &ops[i]; op.Known {
			made[op.State.Version] = made[op.State.Version] || op.Did
			values[op.State.Version] = op.State.Value
			last = max(last, op.State.Version)
		}
	}
	could := func(s State) bool {
		value, seen := values[s.Version]
		return s.Version <= last && !made[s.Version] && (!seen || value == s.Value)
	}
	return porcupine.Model{
		Init: func() any { return place{} },
		Step: func(before, input, output any) (bool, any) {
			s, op, out := before.(place), input.(Operation), output.(Operation)
			did := false
			switch {
			case op.Kind == over:
				s.over = true
				return true, s
			case s.over:
				return !out.Known, s
			case op.Kind == Add:
				s.State, did = State{s.Value + op.Amount, s.Version + 1}, true
			case op.Kind == CompareAndSet && s.Value == op.Expected:
				s.State, did = State{op.Amount, s.Version + 1}, true
			}
			if !out.Known {
				return did && could(s.State), s
			}
			return out.State == s.State && out.Did == did, s
		},
		DescribeOperation: describe,
		DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s) },
	}
}

func describe(input, output any) string {
	op, out := input.(Operation), output.(Operation)
	result := "?"
	if out.Known {
		result = fmt.Sprintf("%d (version %d)", out.State.Value, out.State.Version)
	}
	switch op.Kind {
	case over:
		return "the end"
	case Add:
		return fmt.Sprintf("add %d → %s", op.Amount, result)
	case CompareAndSet:
		return fmt.Sprintf("%d if %d → %s %t", op.Amount, op.Expected, result, out.Did)
	default:
		return "get → " + result
	}
}

// checkTimeMax bounds the search of one object's history.
const checkTimeMax = 20 * time.Second

// Verdict is what Check found.
type Verdict struct {
	Objects   int
	Wrong     []string // those whose history is not linearizable, sorted
	Undecided int      // how many could not be searched within the time
	// Lost are the acknowledged writes that are missing, by object.
	Lost map[string]int
}

// Check checks that each object's history is linearizable and has every acknowledged write. The
// search takes at most about the limit, and 20 s for one object.
func (h *History) Check(limit time.Duration) Verdict {
	objects := h.ByObject()
	v := Verdict{Objects: len(objects), Lost: make(map[string]int)}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	began := time.Now()
	for object, ops := range objects {
		if n := lost(ops); n > 0 {
			v.Lost[object] = n
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			result := porcupine.Unknown
			if time.Since(began) < limit {
				result = porcupine.CheckOperationsTimeout(register(ops), porcupineHistory(ops), checkTimeMax)
			}
			mu.Lock()
			defer mu.Unlock()
			switch result {
			case porcupine.Ok:
			case porcupine.Unknown:
				v.Undecided++
			case porcupine.Illegal:
				v.Wrong = append(v.Wrong, object)
			}
		})
	}
	wg.Wait()
	slices.Sort(v.Wrong)
	return v
}

// wrongMax is how many objects Err describes.
const wrongMax = 3

// LostWrites is how many acknowledged writes are missing.
func (v Verdict) LostWrites() int {
	n := 0
	for _, lost := range v.Lost {
		n += lost
	}
	return n
}

// Linearizable is "yes", or what is wrong.
func (v Verdict) Linearizable() string {
	if len(v.Wrong) == 0 && v.Undecided == 0 {
		return "yes"
	}
	return fmt.Sprintf("no: %d of %d objects are not, %d undecided", len(v.Wrong), v.Objects, v.Undecided)
}

// Complaints are what is wrong with the history, one line each: none when all is well. For the first
// objects that are not linearizable they name a page that shows why, which is written then.
func (h *History) Complaints(v Verdict) []string {
	var out []string
	for object, n := range v.Lost {
		out = append(out, fmt.Sprintf("%s has lost %d acknowledged writes", object, n))
	}
	slices.Sort(out)
	objects := h.ByObject()
	for _, object := range v.Wrong[:min(len(v.Wrong), wrongMax)] {
		file, err := visualize(object, objects[object])
		if err != nil {
			file = err.Error()
		}
		out = append(out, fmt.Sprintf("the history of %s is not linearizable: see %s", object, file))
	}
	if v.Undecided > 0 {
		out = append(out, fmt.Sprintf("the histories of %d objects could not be decided in time", v.Undecided))
	}
	return out
}

// visualize writes a page that shows where a history goes wrong, and returns its file.
func visualize(object string, ops []Operation) (string, error) {
	model := register(ops)
	_, info := porcupine.CheckOperationsVerbose(model, porcupineHistory(ops), checkTimeMax)
	dir, err := os.MkdirTemp("", "holdfast-history")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, strings.ReplaceAll(object, "/", "-")+".html")
	return file, porcupine.VisualizePath(model, info, file)
}

// porcupineHistory puts calls without an answer to the end of time: they may still happen. Each of
// those gets a line of its own, since its caller went on.
func porcupineHistory(ops []Operation) []porcupine.Operation {
	end, client := time.Duration(0), 0
	for i := range ops {
		end, client = max(end, ops[i].End), max(client, ops[i].Client+1)
	}
	var out []porcupine.Operation
	for i := range ops {
		op := ops[i]
		one := porcupine.Operation{ClientId: op.Client, Input: op, Output: op, Call: int64(op.Call), Return: int64(op.End)}
		if !op.Known {
			if op.Kind == Get {
				continue // It changes nothing, and nobody saw it.
			}
			one.ClientId, one.Return = client, int64(end+3)
			client++
		}
		out = append(out, one)
	}
	return append(out, porcupine.Operation{ClientId: client, Input: Operation{Kind: over}, Output: Operation{Known: true}, Call: int64(end + 1), Return: int64(end + 2)})
}

// lost counts the acknowledged writes that an object's last state does not have, and those that two
// calls were told they made. It says nothing of order, and needs no search.
func lost(ops []Operation) int {
	last := slices.MaxFunc(ops, func(a, b Operation) int { return cmp.Compare(a.Call, b.Call) })
	if !last.Known {
		return 0 // It was never read at the end; the test fails for that.
	}
	n := 0
	seen := make(map[int64]bool)
	for _, op := range ops {
		if !op.Known || !op.Did {
			continue
		}
		if op.State.Version > last.State.Version || seen[op.State.Version] {
			n++
		}
		seen[op.State.Version] = true
	}
	return n
}
