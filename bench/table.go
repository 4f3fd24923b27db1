package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/placement"
)

// row is a thing to measure.
type row struct {
	name    string
	measure func(callers int) (figures, error)
}

func (b *bench) outside(servers []*child, op operation) func(int) (figures, error) {
	return func(callers int) (figures, error) { return b.measure(callers, servers, op) }
}

// table collects the figures of each row, by callers and round.
type table struct {
	title string
	cells map[cell][]figures
}

type cell struct {
	row     string
	callers int
}

func newTable(title string) *table { return &table{title: title, cells: make(map[cell][]figures)} }

// rounds measures all rows in every round and prints the table.
func (b *bench) rounds(t *table, rows []row) error {
	rows = slices.DeleteFunc(rows, func(r row) bool { return !b.o.rows.MatchString(r.name) })
	for round := range b.o.rounds {
		for _, callers := range b.o.callers {
			for _, r := range rows {
				f, err := r.measure(callers)
				if err != nil {
					return fmt.Errorf("%s, %d callers: %w", r.name, callers, err)
				}
				sayf("%s, round %d of %d: %-36s %3d callers  %8.0f/s", t.title, round+1, b.o.rounds, r.name, callers, f.perSecond)
				c := cell{r.name, callers}
				t.cells[c] = append(t.cells[c], f)
			}
		}
	}
	b.print(t, rows)
	return nil
}

// print prints the medians; a ratio is the median of the rounds' ratios.
func (b *bench) print(t *table, rows []row) {
	b.printf("\n## %s\n\n%-36s %7s %10s %9s %9s %9s %8s %8s %8s %8s\n", t.title,
		"", "callers", "per second", "p50", "p99", "CPU/call", "× echo", "× pebble", "× many", "× empty")
	for _, r := range rows {
		for _, n := range b.o.callers {
			all := t.cells[cell{r.name, n}]
			b.printf("%-36s %7d %10.0f %9s %9s %9s %8s %8s %8s %8s\n", r.name, n,
				median(all, func(f figures) float64 { return f.perSecond }),
				short(median(all, func(f figures) float64 { return float64(f.p50) })),
				short(median(all, func(f figures) float64 { return float64(f.p99) })),
				short(median(all, func(f figures) float64 { return float64(f.cpu) })),
				t.ratio(r.name, rowEcho, n), t.ratio(r.name, rowPebble, n), t.ratio(r.name, rowMany, n), t.ratio(r.name, rowEmpty, n))
		}
	}
}

// compared says which ratios are worth a column.
var compared = map[string][]string{
	rowRead: {rowEcho}, rowPlain: {rowEcho}, rowForward: {rowEcho},
	rowMany: {rowPebble, rowEmpty}, rowHot: {rowPebble, rowMany}, rowEmpty: {rowPebble},
}

func (t *table) ratio(name, reference string, callers int) string {
	a, b := t.cells[cell{name, callers}], t.cells[cell{reference, callers}]
	if !slices.Contains(compared[name], reference) || len(b) != len(a) {
		return ""
	}
	ratios := make([]figures, len(a))
	for i := range a {
		ratios[i].perSecond = a[i].perSecond / b[i].perSecond
	}
	return fmt.Sprintf("%.2f", median(ratios, func(f figures) float64 { return f.perSecond }))
}

func median(all []figures, of func(figures) float64) float64 {
	values := make([]float64, len(all))
	for i, f := range all {
		values[i] = of(f)
	}
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}

// short prints a time with three digits.
func short(ns float64) string {
	switch d := time.Duration(ns); {
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.1f µs", ns/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", ns/1e3)
	default:
		return fmt.Sprintf("%.1f ms", ns/1e6)
	}
}

func readAll(r io.Reader) string {
	var b strings.Builder
	_, _ = io.Copy(&b, io.LimitReader(r, 4<<20))
	return b.String()
}

func shardOf(name string, shards int) uint32 {
	return uint32(placement.ShardOf(placement.NewNamespace("Counter").IDFromName(name), shards))
}
