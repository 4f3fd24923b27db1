package registers

import (
	"strings"
	"testing"
	"time"
)

// TestReport: what belongs to which fault, and how long objects were silent.
func TestReport(t *testing.T) {
	const ms = time.Millisecond
	l := &Load{cfg: Config{Objects: 2}, stopped: 1000 * ms}
	l.windows = []Window{
		{Kind: "kill", Began: 100 * ms, End: 400 * ms, hit: func(object string) bool { return object == "0-0" }},
		{Kind: "pause", Began: 500 * ms, End: 600 * ms, generation: 1},
	}
	answer := func(object string, ended time.Duration) {
		l.calls = append(l.calls, call{object, ended - 5*ms, ended, ""})
	}
	answer("0-0", 50*ms)
	answer("0-1", 90*ms)
	l.calls = append(l.calls, call{"0-0", 95 * ms, 150 * ms, "NO_OWNER"}) // begun before, and it saw the fault
	answer("0-1", 120*ms)
	answer("0-1", 280*ms)
	answer("0-0", 350*ms) // 250 ms after the fault began: not 300, since the answer before
	answer("0-1", 405*ms) // begun when it ended
	answer("0-0", 410*ms) // after it, but what was silent in it counts to here
	answer("1-0", 505*ms)
	answer("1-1", 507*ms)
	answer("1-0", 650*ms)
	answer("1-1", 651*ms)
	answer("1-1", 999*ms)
	answer("1-1", 1100*ms) // the last reads are no part of the timeline

	r := l.Report(100 * ms)
	rows := make(map[string]Row)
	for _, row := range r.Rows {
		rows[row.Kind] = row
	}
	for kind, want := range map[string]struct {
		calls, acked    int
		median, longest time.Duration
	}{
		None:    {8, 8, 0, 0},
		"kill":  {4, 3, 250 * ms, 250 * ms},
		"pause": {2, 2, 145 * ms, 145 * ms},
	} {
		got := rows[kind]
		if got.Calls != want.calls || got.Acked != want.acked || got.PauseMedian != want.median || got.PauseLongest != want.longest {
			t.Errorf("%s: %+v, want %+v", kind, got, want)
		}
	}
	if r.Total.Calls != 14 || r.Total.Acked != 13 || r.Total.Failed["NO_OWNER"] != 1 || r.Total.Times != 2 {
		t.Errorf("total %+v", r.Total)
	}
	sum := 0
	for _, n := range r.Acked {
		sum += n
	}
	if sum != 12 || r.Failed[1] != 1 || r.Acked[9] != 1 {
		t.Errorf("timeline %v, %v", r.Acked, r.Failed)
	}
	if share := r.CalmShare(); share != 1 {
		t.Errorf("share %f", share)
	}
	if table := r.String(); !strings.Contains(table, "NO_OWNER 1") {
		t.Error(table)
	}
}

// TestPauseWithoutAnAnswer: an object that is silent all through was silent for all of it.
func TestPauseWithoutAnAnswer(t *testing.T) {
	w := Window{Began: 100, End: 400}
	for _, tc := range []struct {
		answers []time.Duration
		want    time.Duration
	}{
		{nil, 300},
		{[]time.Duration{50}, 300},
		{[]time.Duration{50, 150}, 250},
		{[]time.Duration{50, 150, 900}, 750},
		{[]time.Duration{50, 390, 410}, 290},
	} {
		if got := w.pause(tc.answers); got != tc.want {
			t.Errorf("%v: %d, want %d", tc.answers, got, tc.want)
		}
	}
}
