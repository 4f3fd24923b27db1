package history

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestHistoriesAreJudged: the judge itself knows right from wrong.
func TestHistoriesAreJudged(t *testing.T) {
	ok := func(kind Kind, call, end int, amount, expected, value, version int64, did bool) Operation {
		return Operation{
			Object: "o", Kind: kind, Call: time.Duration(call), End: time.Duration(end), Amount: amount, Expected: expected,
			Known: true, State: State{value, version}, Did: did,
		}
	}
	open := func(kind Kind, call int, amount, expected int64) Operation {
		return Operation{Object: "o", Kind: kind, Call: time.Duration(call), End: time.Duration(call + 1), Amount: amount, Expected: expected}
	}
	for what, tc := range map[string]struct {
		ops   []Operation
		right bool
		lost  int
	}{
		"one after another":            {[]Operation{ok(Add, 1, 2, 5, 0, 5, 1, true), ok(CompareAndSet, 3, 4, 7, 5, 7, 2, true), ok(Get, 5, 6, 0, 0, 7, 2, false)}, true, 0},
		"compared with another":        {[]Operation{ok(Add, 1, 2, 5, 0, 5, 1, true), ok(CompareAndSet, 3, 4, 7, 6, 5, 1, false), ok(Get, 5, 6, 0, 0, 5, 1, false)}, true, 0},
		"an old value is read":         {[]Operation{ok(Add, 1, 2, 5, 0, 5, 1, true), ok(Get, 3, 4, 0, 0, 0, 0, false), ok(Get, 5, 6, 0, 0, 5, 1, false)}, false, 0},
		"read while it is written":     {[]Operation{ok(Add, 1, 9, 5, 0, 5, 1, true), ok(Get, 3, 4, 0, 0, 5, 1, false), ok(Get, 10, 11, 0, 0, 5, 1, false)}, true, 0},
		"there and back":               {[]Operation{ok(Add, 1, 9, 5, 0, 5, 1, true), ok(Get, 3, 4, 0, 0, 5, 1, false), ok(Get, 5, 6, 0, 0, 0, 0, false), ok(Get, 10, 11, 0, 0, 5, 1, false)}, false, 0},
		"a write is lost":              {[]Operation{ok(Add, 1, 2, 5, 0, 5, 1, true), ok(Get, 3, 4, 0, 0, 0, 0, false)}, false, 1},
		"one count is answered twice":  {[]Operation{ok(Add, 1, 2, 5, 0, 5, 1, true), ok(Add, 3, 4, 5, 0, 5, 1, true), ok(Get, 5, 6, 0, 0, 5, 1, false)}, false, 1},
		"no answer, and it happened":   {[]Operation{open(Add, 1, 5, 0), ok(Get, 3, 4, 0, 0, 0, 0, false), ok(Get, 5, 6, 0, 0, 5, 1, false)}, true, 0},
		"no answer, and it did not":    {[]Operation{open(CompareAndSet, 1, 5, 0), ok(Get, 3, 4, 0, 0, 0, 0, false)}, true, 0},
		"no answer, and it happened 2": {[]Operation{open(Add, 1, 5, 0), ok(Get, 3, 4, 0, 0, 5, 1, false), ok(Get, 5, 6, 0, 0, 10, 2, false)}, false, 0},
		"no answer, never compared":    {[]Operation{open(CompareAndSet, 1, 5, 3), ok(Add, 3, 4, 3, 0, 3, 1, true), ok(Get, 5, 6, 0, 0, 3, 1, false)}, true, 0},
		"no answer, late":              {[]Operation{open(CompareAndSet, 1, 5, 3), ok(Add, 3, 4, 3, 0, 3, 1, true), ok(Get, 5, 6, 0, 0, 5, 2, false)}, true, 0},
		"nobody wrote that":            {[]Operation{ok(Get, 3, 4, 0, 0, 1, 1, false)}, false, 0},
	} {
		h := &History{ops: tc.ops}
		v := h.Check(time.Minute)
		if (len(v.Wrong) == 0) != tc.right || v.Undecided > 0 {
			t.Errorf("%s: wrong %v, undecided %d, want right %t", what, v.Wrong, v.Undecided, tc.right)
		}
		if got := v.LostWrites(); got != tc.lost {
			t.Errorf("%s: %d lost, want %d", what, got, tc.lost)
		}
	}
	// Many calls without an answer, of which one in four took effect, are no burden.
	h := &History{}
	var s State
	for i := int64(1); i <= 400; i++ {
		op := open(Add, int(10*i), i<<20, 0)
		if i%2 == 0 {
			op = open(CompareAndSet, int(10*i), i<<20, s.Value)
		}
		h.Add(op)
		if i%4 == 0 {
			s = State{i << 20, s.Version + 1}
		}
		h.Add(ok(Get, int(10*i+5), int(10*i+6), 0, 0, s.Value, s.Version, false))
	}
	if v := h.Check(time.Minute); len(v.Wrong) > 0 || v.Undecided > 0 {
		t.Errorf("many without an answer: wrong %v, undecided %d", v.Wrong, v.Undecided)
	}
	h.Add(ok(Get, 9000, 9001, 0, 0, s.Value, s.Version-1, false))
	if v := h.Check(time.Minute); len(v.Wrong) != 1 || v.Undecided > 0 {
		t.Errorf("many without an answer, and an old value read: wrong %v, undecided %d", v.Wrong, v.Undecided)
	}
	file, err := visualize("o", []Operation{ok(Get, 3, 4, 0, 0, 1, 1, false)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(filepath.Dir(file)) }()
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Errorf("visualization: %v, %v", info, err)
	}
}
