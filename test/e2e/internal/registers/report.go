package registers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// None is the row of the time without a fault.
const None = "(none)"

// Row is what happened under one kind of fault, or without one.
type Row struct {
	Kind         string
	Times        int
	Calls, Acked int
	// Failed counts the other calls, by reason.
	Failed map[string]int
	// Pause is how long objects gave no answer, from the fault on: the median of those that it struck,
	// and the longest of all in use.
	PauseMedian, PauseLongest time.Duration
	// Lasted is the longest, until every caller was answered again.
	Lasted time.Duration

	struck []time.Duration
}

// Report is what happened.
type Report struct {
	// Rows, the one without a fault first, then by kind.
	Rows    []Row
	Total   Row
	Windows []Window
	// Acked and Failed are calls by the time when they ended, in steps of Step.
	Step          time.Duration
	Acked, Failed []int
	Lasted        time.Duration
}

// Report sums up what happened, with throughput in steps. A call belongs to the first fault that it
// saw. Call Stop before.
func (l *Load) Report(step time.Duration) Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{Windows: l.windows, Step: step, Lasted: l.stopped, Total: newRow("total")}
	r.Acked = make([]int, l.stopped/step+1)
	r.Failed = make([]int, len(r.Acked))
	rows := map[string]*Row{None: new(newRow(None))}
	for _, w := range l.windows {
		if rows[w.Kind] == nil {
			rows[w.Kind] = new(newRow(w.Kind))
		}
		rows[w.Kind].Times++
		rows[w.Kind].Lasted = max(rows[w.Kind].Lasted, w.End-w.Began)
	}
	answers := make(map[string][]time.Duration)
	for _, one := range l.calls {
		kind := None
		// Windows follow one another.
		i, _ := slices.BinarySearchFunc(l.windows, one.began, func(w Window, t time.Duration) int { return int(w.End - t) })
		if i < len(l.windows) && one.ended > l.windows[i].Began && one.began < l.windows[i].End {
			kind = l.windows[i].Kind
		}
		for _, row := range []*Row{rows[kind], &r.Total} {
			row.count(one)
		}
		if one.ended > l.stopped {
			continue // The last reads come when nobody else calls.
		}
		if one.result != "" {
			r.Failed[one.ended/step]++
			continue
		}
		r.Acked[one.ended/step]++
		answers[one.object] = append(answers[one.object], one.ended)
	}
	for _, at := range answers {
		slices.Sort(at)
	}
	for _, w := range l.windows {
		row := rows[w.Kind]
		for slot := range l.cfg.Objects {
			object := l.object(w.generation, slot)
			pause := w.pause(answers[object])
			row.PauseLongest = max(row.PauseLongest, pause)
			if w.hit == nil || w.hit(object) {
				row.struck = append(row.struck, pause)
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(rows)) {
		row := rows[kind]
		if slices.Sort(row.struck); len(row.struck) > 0 {
			row.PauseMedian = row.struck[len(row.struck)/2]
		}
		r.Total.Times += row.Times
		r.Rows = append(r.Rows, *row)
	}
	return r
}

func newRow(kind string) Row { return Row{Kind: kind, Failed: make(map[string]int)} }

func (r *Row) count(one call) {
	r.Calls++
	if one.result == "" {
		r.Acked++
	} else {
		r.Failed[one.result]++
	}
}

// pause is the longest time without an answer that began in the window, or before it and then counts
// from its beginning on.
func (w Window) pause(answers []time.Duration) time.Duration {
	longest, last := time.Duration(0), w.Began
	for _, at := range answers {
		if at <= w.Began {
			continue
		}
		longest = max(longest, at-last)
		if last = at; at >= w.End {
			return longest
		}
	}
	return max(longest, w.End-last)
}

// CalmShare is the share of the calls without a fault that were acknowledged.
func (r Report) CalmShare() float64 {
	for _, row := range r.Rows {
		if row.Kind == None && row.Calls > 0 {
			return float64(row.Acked) / float64(row.Calls)
		}
	}
	return 0
}

// String is the table.
func (r Report) String() string {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "FAULT\tTIMES\tLONGEST\tCALLS\tACKED\tPAUSE MEDIAN\tPAUSE LONGEST\tFAILED")
	for _, row := range append(slices.Clip(r.Rows), r.Total) {
		var failed []string
		for _, reason := range slices.Sorted(maps.Keys(row.Failed)) {
			failed = append(failed, fmt.Sprintf("%s %d", reason, row.Failed[reason]))
		}
		lasted, median, longest := "", "", ""
		if row.Times > 0 && row.Kind != r.Total.Kind {
			lasted, median, longest = rounded(row.Lasted), rounded(row.PauseMedian), rounded(row.PauseLongest)
		}
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%s\t%d\t%d\t%s\t%s\t%s\n", row.Kind, row.Times, lasted, row.Calls, row.Acked, median, longest, strings.Join(failed, ", "))
	}
	_ = tw.Flush() // Into memory.
	return b.String()
}

func rounded(d time.Duration) string { return d.Round(time.Millisecond).String() }
