package e2e_test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// kind is what a call of a register does.
type kind int

const (
	get kind = iota
	add
	compareAndSet
	over // no call: what has not happened by now never did
)

// operation is a call of one register, and what came of it.
type operation struct {
	object   string
	client   int
	kind     kind
	amount   int64 // add: what is added; compareAndSet: the new value
	expected int64
	// Times since the history began.
	call, end time.Duration
	// known says that there was an answer; else it may take effect at any time, or never.
	known bool
	state state
	did   bool // the write took effect
}

// state is what a register holds.
type state struct{ value, version int64 }

// place is where the search of a history stands.
type place struct {
	state

	over bool
}

// history is what callers saw. It is safe for concurrent use.
type history struct {
	began time.Time

	mu  sync.Mutex
	ops []operation
}

func (h *history) now() time.Duration { return time.Since(h.began) }

func (h *history) add(op operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
}

// byObject splits the history: objects know nothing of each other.
func (h *history) byObject() map[string][]operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string][]operation)
	for _, op := range h.ops {
		out[op.object] = append(out[op.object], op)
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
func register(ops []operation) porcupine.Model {
	made := make(map[int64]bool)
	values := make(map[int64]int64)
	last := int64(0)
	for i := range ops {
		if op := &ops[i]; op.known {
			made[op.state.version] = made[op.state.version] || op.did
			values[op.state.version] = op.state.value
			last = max(last, op.state.version)
		}
	}
	could := func(s state) bool {
		value, seen := values[s.version]
		return s.version <= last && !made[s.version] && (!seen || value == s.value)
	}
	return porcupine.Model{
		Init: func() any { return place{} },
		Step: func(before, input, output any) (bool, any) {
			s, op, out := before.(place), input.(operation), output.(operation)
			did := false
			switch {
			case op.kind == over:
				s.over = true
				return true, s
			case s.over:
				return !out.known, s
			case op.kind == add:
				s.state, did = state{s.value + op.amount, s.version + 1}, true
			case op.kind == compareAndSet && s.value == op.expected:
				s.state, did = state{op.amount, s.version + 1}, true
			}
			if !out.known {
				return did && could(s.state), s
			}
			return out.state == s.state && out.did == did, s
		},
		DescribeOperation: describe,
		DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s) },
	}
}

func describe(input, output any) string {
	op, out := input.(operation), output.(operation)
	result := "?"
	if out.known {
		result = fmt.Sprintf("%d (version %d)", out.state.value, out.state.version)
	}
	switch op.kind {
	case over:
		return "the end"
	case add:
		return fmt.Sprintf("add %d → %s", op.amount, result)
	case compareAndSet:
		return fmt.Sprintf("%d if %d → %s %t", op.amount, op.expected, result, out.did)
	default:
		return "get → " + result
	}
}

// Bounds of the search: of one object's history, and of all.
const (
	checkTimeMax    = 20 * time.Second
	checkAllTimeMax = time.Minute
)

// check checks that each object's history is linearizable (P1, P2, P4). It returns the objects for
// which it is not, and how many could not be decided in time. What a person needs to see why is
// written to a file.
func (h *history) check(t *testing.T) (wrong []string, undecided int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	began := time.Now()
	for object, ops := range h.byObject() {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			result := porcupine.Unknown
			if time.Since(began) < checkAllTimeMax {
				result = porcupine.CheckOperationsTimeout(register(ops), porcupineHistory(ops), checkTimeMax)
			}
			mu.Lock()
			defer mu.Unlock()
			switch result {
			case porcupine.Ok:
			case porcupine.Unknown:
				undecided++
			case porcupine.Illegal:
				wrong = append(wrong, object)
			}
		})
	}
	wg.Wait()
	slices.Sort(wrong)
	return wrong, undecided
}

// visualize writes a page that shows where a history goes wrong, and returns its file.
func visualize(object string, ops []operation) (string, error) {
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
func porcupineHistory(ops []operation) []porcupine.Operation {
	end, client := time.Duration(0), 0
	for i := range ops {
		end, client = max(end, ops[i].end), max(client, ops[i].client+1)
	}
	var out []porcupine.Operation
	for i := range ops {
		op := ops[i]
		one := porcupine.Operation{ClientId: op.client, Input: op, Output: op, Call: int64(op.call), Return: int64(op.end)}
		if !op.known {
			if op.kind == get {
				continue // It changes nothing, and nobody saw it.
			}
			one.ClientId, one.Return = client, int64(end+3)
			client++
		}
		out = append(out, one)
	}
	return append(out, porcupine.Operation{ClientId: client, Input: operation{kind: over}, Output: operation{known: true}, Call: int64(end + 1), Return: int64(end + 2)})
}

// lost counts the acknowledged writes that an object's last state does not have, and those that two
// calls were told they made. It says nothing of order, and needs no search.
func lost(ops []operation) int {
	last := slices.MaxFunc(ops, func(a, b operation) int { return cmp.Compare(a.call, b.call) })
	if !last.known {
		return 0 // It was never read at the end; the test fails for that.
	}
	n := 0
	seen := make(map[int64]bool)
	for _, op := range ops {
		if !op.known || !op.did {
			continue
		}
		if op.state.version > last.state.version || seen[op.state.version] {
			n++
		}
		seen[op.state.version] = true
	}
	return n
}

// TestHistoriesAreJudged: the judge itself knows right from wrong.
func TestHistoriesAreJudged(t *testing.T) {
	ok := func(kind kind, call, end int, amount, expected, value, version int64, did bool) operation {
		return operation{
			object: "o", kind: kind, call: time.Duration(call), end: time.Duration(end), amount: amount, expected: expected,
			known: true, state: state{value, version}, did: did,
		}
	}
	open := func(kind kind, call int, amount, expected int64) operation {
		return operation{object: "o", kind: kind, call: time.Duration(call), end: time.Duration(call + 1), amount: amount, expected: expected}
	}
	for what, tc := range map[string]struct {
		ops   []operation
		right bool
		lost  int
	}{
		"one after another":            {[]operation{ok(add, 1, 2, 5, 0, 5, 1, true), ok(compareAndSet, 3, 4, 7, 5, 7, 2, true), ok(get, 5, 6, 0, 0, 7, 2, false)}, true, 0},
		"compared with another":        {[]operation{ok(add, 1, 2, 5, 0, 5, 1, true), ok(compareAndSet, 3, 4, 7, 6, 5, 1, false), ok(get, 5, 6, 0, 0, 5, 1, false)}, true, 0},
		"an old value is read":         {[]operation{ok(add, 1, 2, 5, 0, 5, 1, true), ok(get, 3, 4, 0, 0, 0, 0, false), ok(get, 5, 6, 0, 0, 5, 1, false)}, false, 0},
		"read while it is written":     {[]operation{ok(add, 1, 9, 5, 0, 5, 1, true), ok(get, 3, 4, 0, 0, 5, 1, false), ok(get, 10, 11, 0, 0, 5, 1, false)}, true, 0},
		"there and back":               {[]operation{ok(add, 1, 9, 5, 0, 5, 1, true), ok(get, 3, 4, 0, 0, 5, 1, false), ok(get, 5, 6, 0, 0, 0, 0, false), ok(get, 10, 11, 0, 0, 5, 1, false)}, false, 0},
		"a write is lost":              {[]operation{ok(add, 1, 2, 5, 0, 5, 1, true), ok(get, 3, 4, 0, 0, 0, 0, false)}, false, 1},
		"one count is answered twice":  {[]operation{ok(add, 1, 2, 5, 0, 5, 1, true), ok(add, 3, 4, 5, 0, 5, 1, true), ok(get, 5, 6, 0, 0, 5, 1, false)}, false, 1},
		"no answer, and it happened":   {[]operation{open(add, 1, 5, 0), ok(get, 3, 4, 0, 0, 0, 0, false), ok(get, 5, 6, 0, 0, 5, 1, false)}, true, 0},
		"no answer, and it did not":    {[]operation{open(compareAndSet, 1, 5, 0), ok(get, 3, 4, 0, 0, 0, 0, false)}, true, 0},
		"no answer, and it happened 2": {[]operation{open(add, 1, 5, 0), ok(get, 3, 4, 0, 0, 5, 1, false), ok(get, 5, 6, 0, 0, 10, 2, false)}, false, 0},
		"no answer, never compared":    {[]operation{open(compareAndSet, 1, 5, 3), ok(add, 3, 4, 3, 0, 3, 1, true), ok(get, 5, 6, 0, 0, 3, 1, false)}, true, 0},
		"no answer, late":              {[]operation{open(compareAndSet, 1, 5, 3), ok(add, 3, 4, 3, 0, 3, 1, true), ok(get, 5, 6, 0, 0, 5, 2, false)}, true, 0},
		"nobody wrote that":            {[]operation{ok(get, 3, 4, 0, 0, 1, 1, false)}, false, 0},
	} {
		h := &history{ops: tc.ops}
		wrong, undecided := h.check(t)
		if (len(wrong) == 0) != tc.right || undecided > 0 {
			t.Errorf("%s: wrong %v, undecided %d, want right %t", what, wrong, undecided, tc.right)
		}
		if got := lost(tc.ops); got != tc.lost {
			t.Errorf("%s: %d lost, want %d", what, got, tc.lost)
		}
	}
	// Many calls without an answer, of which one in four took effect, are no burden.
	h := &history{}
	var s state
	for i := int64(1); i <= 400; i++ {
		op := open(add, int(10*i), i<<20, 0)
		if i%2 == 0 {
			op = open(compareAndSet, int(10*i), i<<20, s.value)
		}
		h.add(op)
		if i%4 == 0 {
			s = state{i << 20, s.version + 1}
		}
		h.add(ok(get, int(10*i+5), int(10*i+6), 0, 0, s.value, s.version, false))
	}
	if wrong, undecided := h.check(t); len(wrong) > 0 || undecided > 0 {
		t.Errorf("many without an answer: wrong %v, undecided %d", wrong, undecided)
	}
	h.add(ok(get, 9000, 9001, 0, 0, s.value, s.version-1, false))
	if wrong, undecided := h.check(t); len(wrong) != 1 || undecided > 0 {
		t.Errorf("many without an answer, and an old value read: wrong %v, undecided %d", wrong, undecided)
	}
	file, err := visualize("o", []operation{ok(get, 3, 4, 0, 0, 1, 1, false)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(filepath.Dir(file)) }()
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Errorf("visualization: %v, %v", info, err)
	}
}
