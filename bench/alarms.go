package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// The class of alarms: its one method sets the object's alarm to the Unix milliseconds that it is given.
const (
	alarmClass  = "Alarm"
	alarmMethod = "/holdfast.bench.Alarm/Set"
)

// alarms is a class whose handlers write a key and note when they began. It is described by hand: the
// messages are the counter's.
type alarms struct {
	mu   sync.Mutex
	runs []alarmRun
}

type alarmRun struct{ scheduled, began time.Time }

func (a *alarms) class() actor.Class {
	return actor.NewClass(alarmClass, &grpc.ServiceDesc{
		ServiceName: "holdfast.bench.Alarm",
		Methods: []grpc.MethodDesc{{MethodName: "Set", Handler: func(srv any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req := &counterv1.IncrementRequest{}
			if err := decode(req); err != nil {
				return nil, err
			}
			o, ok := srv.(*alarm)
			if !ok {
				return nil, fmt.Errorf("%T is no alarm", srv)
			}
			return &counterv1.IncrementResponse{}, o.state.SetAlarm(time.UnixMilli(req.GetAmount()))
		}}},
	}, func(s *actor.State) any { return &alarm{a, s} })
}

type alarm struct {
	all   *alarms
	state *actor.State
}

// Alarm implements actor.Alarmer.
func (o *alarm) Alarm(_ context.Context, info actor.AlarmInfo) error {
	o.all.mu.Lock()
	o.all.runs = append(o.all.runs, alarmRun{info.ScheduledTime, time.Now()})
	o.all.mu.Unlock()
	return actor.Put(o.state.Storage(), "ran", info.ScheduledTime.UnixMilli())
}

// take answers with the runs since it was last called: how late each was, and between which moments they
// began.
func (a *alarms) take() answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := answer{Count: len(a.runs)}
	for i, r := range a.runs {
		if len(out.Micros) < samplesMax {
			out.Micros = append(out.Micros, int(r.began.Sub(r.scheduled).Microseconds()))
		}
		if at := r.began.UnixMicro(); i == 0 || at < out.FirstMicro {
			out.FirstMicro = at
		}
		out.LastMicro = max(out.LastMicro, r.began.UnixMicro())
	}
	a.runs = nil
	return out
}

// ran are the alarms that have run on all nodes.
type ran struct {
	count       int
	late        []time.Duration // ascending
	first, last int64
}

// collect waits until so many alarms have run.
func (b *bench) collect(nodes []*child, count int) (ran, error) {
	var out ran
	err := b.until(func() (bool, error) {
		for _, n := range nodes {
			a, err := n.ask(request{Do: "alarms"})
			if err != nil {
				return false, err
			}
			out.count += a.Count
			out.late = append(out.late, durations(a.Micros)...)
			if a.Count > 0 && (out.first == 0 || a.FirstMicro < out.first) {
				out.first = a.FirstMicro
			}
			out.last = max(out.last, a.LastMicro)
		}
		return out.count >= count, nil
	})
	slices.Sort(out.late)
	if err == nil && out.count != count {
		err = fmt.Errorf("%d alarms ran instead of %d", out.count, count)
	}
	return out, err
}

// setAlarm sets the alarm of an object.
func (b *bench) setAlarm(c *client.Client, name string, at time.Time) error {
	req, resp := &counterv1.IncrementRequest{Amount: new(at.UnixMilli())}, &counterv1.IncrementResponse{}
	return c.Name(alarmClass, name).Invoke(b.ctx, alarmMethod, req, resp)
}

// row names.
const (
	rowOnTime  = "on time under load"
	rowDrain3  = "due at once, three nodes"
	rowDrain1  = "due at once, one node"
	rowWaiting = "heap of waiting"
)

// runAlarms measures how late alarms run under load, how fast many that are due at once are through, and
// what those that wait cost.
func (b *bench) runAlarms() error {
	b.printf("\n## alarms\n\n")
	want := b.o.rows.MatchString
	if want(rowOnTime) || want(rowDrain3) {
		nodes, err := b.cluster()
		if err != nil {
			return err
		}
		c, err := client.New([]string{nodes[0].ready.GRPC, nodes[1].ready.GRPC, nodes[2].ready.GRPC})
		if err != nil {
			return err
		}
		defer c.Close()
		if want(rowOnTime) {
			if err := b.onTime(c, nodes); err != nil {
				return err
			}
		}
		if want(rowDrain3) {
			if err := b.drain(rowDrain3, c, nodes); err != nil {
				return err
			}
		}
		b.stopAll()
	}
	one, err := b.spawn(roleConfig{Role: "node", Name: "alarms", Dir: filepath.Join(b.dir, "alarms"), Bootstrap: true})
	if err != nil {
		return err
	}
	if want(rowWaiting) {
		if err := b.waiting(one); err != nil {
			return err
		}
		b.stopAll()
		if one, err = b.spawn(roleConfig{Role: "node", Name: "drain", Dir: filepath.Join(b.dir, "drain"), Bootstrap: true}); err != nil {
			return err
		}
	}
	alone, err := client.New([]string{one.ready.GRPC})
	if err != nil {
		return err
	}
	defer alone.Close()
	if want(rowDrain1) {
		return b.drain(rowDrain1, alone, []*child{one})
	}
	return nil
}

// onTime sets alarms that are due while objects are written to as fast as some callers can.
func (b *bench) onTime(c *client.Client, nodes []*child) error {
	const count = 2000
	callers := b.o.callers[len(b.o.callers)/2]
	sayf("alarms: %d of them while %d callers write", count, callers)
	begin := time.Now().Add(5 * time.Second)
	if _, err := b.forEach(64, count, func(i int) error {
		return b.setAlarm(c, fmt.Sprint("time-", i), begin.Add(time.Duration(i)*b.o.length/count))
	}); err != nil {
		return err
	}
	if time.Now().After(begin) {
		return errors.New("setting the alarms took longer than until they were due")
	}
	done := make(chan struct{})
	ctx, stop := context.WithCancel(b.ctx)
	defer stop()
	var written int
	var loadErr error
	go func() {
		defer close(done)
		written, _, loadErr = load(ctx, callers, time.Until(begin)+b.o.length-warmUp, incrementMany(stubs(c)), func() {})
	}()
	got, err := b.collect(nodes, count)
	<-done
	if err := errors.Join(err, loadErr); err != nil {
		return err
	}
	b.printf("%-28s %10s late at the median, %s at the 99th percentile (%d alarms, %d callers, %d writes beside them)\n", rowOnTime,
		quantile(got.late, 0.5).Round(10*time.Microsecond), quantile(got.late, 0.99).Round(10*time.Microsecond), count, callers, written)
	return nil
}

// drain sets many alarms for one moment.
func (b *bench) drain(row string, c *client.Client, nodes []*child) error {
	const probe = 2000
	name := func(i int) string { return fmt.Sprint("drain-", i) }
	count := b.o.alarms
	begun := time.Now()
	far := begun.Add(24 * time.Hour)
	if _, err := b.forEach(256, min(probe, count), func(i int) error { return b.setAlarm(c, name(i), far) }); err != nil {
		return err
	}
	due := time.Now().Add(time.Since(begun)*time.Duration(count)/probe*3/2 + 5*time.Second)
	sayf("alarms: %s: %d in %s", row, count, time.Until(due).Round(time.Second))
	if _, err := b.forEach(256, count, func(i int) error { return b.setAlarm(c, name(i), due) }); err != nil {
		return err
	}
	if time.Now().After(due) {
		return errors.New("setting the alarms took longer than until they were due")
	}
	select {
	case <-time.After(time.Until(due)):
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	got, err := b.collect(nodes, count)
	if err != nil {
		return err
	}
	took := time.Duration(got.last-due.UnixMicro()) * time.Microsecond
	b.printf("%-28s %10.0f per second (%d alarms in %s)\n", row, float64(count)/took.Seconds(), count, took.Round(time.Millisecond))
	return nil
}

// waiting sets alarms for tomorrow, and looks at the heap of the node before, and when it has been
// started again: what is left then is what the alarms cost, and not what setting them has left in caches.
func (b *bench) waiting(n *child) error {
	before, err := n.ask(request{})
	if err != nil {
		return err
	}
	sayf("alarms: setting %d for tomorrow", b.o.alarms)
	c, err := client.New([]string{n.ready.GRPC})
	if err != nil {
		return err
	}
	defer c.Close()
	far := time.Now().Add(24 * time.Hour)
	if _, err := b.forEach(256, b.o.alarms, func(i int) error { return b.setAlarm(c, fmt.Sprint("far-", i), far) }); err != nil {
		return err
	}
	n.stop()
	if n, err = b.spawn(roleConfig{Role: "node", Name: "alarms", Dir: filepath.Join(b.dir, "alarms"), Bootstrap: true}); err != nil {
		return err
	}
	conn, err := dial(n.ready.GRPC)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := b.until(func() (bool, error) { // All of its shards are its own, and it has read their alarms.
		st, err := holdfastv1.NewAdminClient(conn).Status(b.ctx, &holdfastv1.StatusRequest{})
		return len(st.GetNodes()) == 1 && int(st.GetNodes()[0].GetOwns()) == len(st.GetShards()), err
	}); err != nil {
		return err
	}
	after, err := n.ask(request{})
	if err != nil {
		return err
	}
	b.printf("%-28s %10.1f MiB with %d, %.1f MiB without\n", rowWaiting, float64(after.HeapBytes)/(1<<20), b.o.alarms, float64(before.HeapBytes)/(1<<20))
	return nil
}
