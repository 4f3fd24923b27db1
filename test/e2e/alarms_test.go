package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// bellTower is a cluster whose bells are to ring, whatever happens to its nodes (P5).
type bellTower struct {
	t     *testing.T
	nodes []*process
}

// stub calls through the first node that is there.
func (b *bellTower) stub(name string) (context.Context, context.CancelFunc, classesv1.BellClient) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(b.t.Context(), "holdfast-name", name), 20*time.Second)
	for _, p := range b.nodes {
		if p.cmd != nil {
			return ctx, cancel, classesv1.NewBellClient(p.conn())
		}
	}
	b.t.Fatal("no node is there")
	return nil, nil, nil
}

func (b *bellTower) set(name string, req *classesv1.SetBellRequest) {
	b.t.Helper()
	ctx, cancel, bell := b.stub(name)
	defer cancel()
	if _, err := bell.Set(ctx, req); err != nil {
		b.t.Fatalf("set %s: %v", name, err)
	}
}

func (b *bellTower) rings(name string) []*classesv1.Ring {
	b.t.Helper()
	ctx, cancel, bell := b.stub(name)
	defer cancel()
	s, err := bell.Rings(ctx, &classesv1.GetRequest{})
	if err != nil {
		b.t.Fatalf("rings of %s: %v", name, err)
	}
	return s.GetRings()
}

// waitRings waits until each of the bells has rung so often.
func (b *bellTower) waitRings(names []string, want int, limit time.Duration) {
	b.t.Helper()
	left := slices.Clone(names)
	waitFor(b.t, fmt.Sprintf("%d bells to ring %d times", len(names), want), limit, func() (bool, string) {
		left = slices.DeleteFunc(left, func(name string) bool { return len(b.rings(name)) >= want })
		return len(left) == 0, fmt.Sprintf("missing: %v", left)
	})
}

// late returns how late each first ring began, ascending.
func (b *bellTower) late(names []string) []time.Duration {
	b.t.Helper()
	var out []time.Duration
	for _, name := range names {
		rings := b.rings(name)
		if len(rings) != 1 {
			b.t.Errorf("%s rang %d times", name, len(rings))
			continue
		}
		out = append(out, time.Duration(rings[0].GetBeganMs()-rings[0].GetScheduledMs())*time.Millisecond)
	}
	slices.Sort(out)
	return out
}

// ownerOf returns the node that owns a bell.
func (b *bellTower) ownerOf(name string) *process {
	b.t.Helper()
	s, err := b.nodes[0].status()
	if err != nil {
		b.t.Fatal(err)
	}
	shard := placement.ShardOf(placement.NewNamespace("Bell").IDFromName(name), len(s.Shards))
	for _, p := range b.nodes {
		if p.name == s.Shards[shard].Owner {
			return p
		}
	}
	b.t.Fatalf("nobody owns %s: %+v", name, s.Shards[shard])
	return nil
}

func bellNames(prefix string, count int) []string {
	var out []string
	for i := range count {
		out = append(out, fmt.Sprintf("%s-%d", prefix, i))
	}
	return out
}

// TestAlarms sets alarms in a cluster of real processes, and does to it what may happen.
func TestAlarms(t *testing.T) {
	b := &bellTower{t: t, nodes: startNodes(t, prepareNodes(t, testnode, 3))}
	for _, step := range []struct {
		name string
		run  func(b *bellTower)
	}{
		{"run when they are due", (*bellTower).onTime},
		{"die after their last retry and are armed again", (*bellTower).deadLetters},
		{"run soon after the death of their owner", (*bellTower).ownerDies},
		{"move with their shard", (*bellTower).ownerStops},
		{"outlive the whole cluster", (*bellTower).allDie},
		{"run each, in order, under kills", (*bellTower).chains},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			b.t = t
			step.run(b)
		}) {
			break
		}
	}
}

func (b *bellTower) onTime() {
	names := bellNames("time", 30)
	for _, name := range names {
		b.set(name, &classesv1.SetBellRequest{AfterMs: 1000})
	}
	b.waitRings(names, 1, 20*time.Second)
	late := b.late(names)
	b.t.Logf("late: median %s, at most %s", late[len(late)/2], late[len(late)-1])
	if late[0] < 0 || late[len(late)/2] > 50*time.Millisecond {
		b.t.Errorf("late, in order: %v", late)
	}
}

func (b *bellTower) deadLetters() {
	addr := "--addr=" + b.nodes[1].ports["grpc"]
	must := func(args ...string) string {
		b.t.Helper()
		out, errs, code := holdfast(append(args, addr)...)
		if code != 0 {
			b.t.Fatalf("%v: exit status %d: %s", args, code, errs)
		}
		return out
	}
	b.set("cracked", &classesv1.SetBellRequest{AfterMs: 10, Failures: 3})
	b.set("later", &classesv1.SetBellRequest{AfterMs: 3_600_000})
	waitFor(b.t, "the alarm to die", 20*time.Second, func() (bool, string) {
		out := must("alarms", "Bell", "--dead")
		return strings.Contains(out, `"cracked"`) && strings.Contains(out, `after 2 retries: "the bell is cracked"`), out
	})
	if out := must("alarms", "Bell"); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"later"`) {
		b.t.Errorf("pending: %s", out)
	}
	if out := must("object", "Bell", "cracked"); !strings.Contains(out, "\nalarm    -\n") || !strings.Contains(out, "\ndead     ") {
		b.t.Errorf("object: %s", out)
	}
	if _, errs, code := holdfast("alarms", "rearm", "Bell", "later", addr); code != 1 || !strings.Contains(errs, "UNKNOWN_ALARM") {
		b.t.Errorf("rearm of one that is not dead: exit status %d, %s", code, errs)
	}
	if out := must("alarms", "rearm", "Bell", "cracked"); out != "armed\n" {
		b.t.Errorf("rearm: %q", out)
	}
	b.waitRings([]string{"cracked"}, 1, 20*time.Second)
	if ring := b.rings("cracked")[0]; ring.GetRetryCount() != 0 {
		b.t.Errorf("armed again, it ran as %v", ring)
	}
	if out := must("alarms", "Bell", "--dead"); out != "" {
		b.t.Errorf("dead afterwards: %s", out)
	}
	b.paging()
	b.set("cracked2", &classesv1.SetBellRequest{AfterMs: 10, Failures: 3})
	waitFor(b.t, "the alarm to die", 20*time.Second, func() (bool, string) {
		out, errs, code := holdfast("alarms", "discard", "Bell", "cracked2", addr)
		return code == 0 && out == "discarded\n", errs
	})
}

// paging lists alarms in small pages: each comes once.
func (b *bellTower) paging() {
	b.t.Helper()
	admin := holdfastv1.NewAdminClient(b.nodes[1].conn())
	later, dead := bellNames("page", 25), bellNames("dead", 5)
	for _, name := range later {
		b.set(name, &classesv1.SetBellRequest{AfterMs: 3_600_000})
	}
	for _, name := range dead {
		b.set(name, &classesv1.SetBellRequest{AfterMs: 10, Failures: 3})
	}
	later = append(later, "later")
	all := func(size int32, page func(*holdfastv1.ListAlarmsRequest) ([]string, string, error)) []string {
		b.t.Helper()
		var names []string
		for req := (&holdfastv1.ListAlarmsRequest{Class: "Bell", PageSize: size}); ; {
			got, next, err := page(req)
			if err != nil {
				b.t.Fatal(err)
			}
			names = append(names, got...)
			if req.PageToken = next; next == "" {
				slices.Sort(names)
				return names
			}
		}
	}
	pending := all(4, func(req *holdfastv1.ListAlarmsRequest) (names []string, next string, err error) {
		page, err := admin.ListAlarms(b.t.Context(), req)
		for _, a := range page.GetAlarms() {
			if strings.HasPrefix(a.GetName(), "dead-") {
				continue // It is not dead yet.
			}
			names = append(names, a.GetName())
		}
		return names, page.GetNextPageToken(), err
	})
	slices.Sort(later)
	if !slices.Equal(pending, later) {
		b.t.Errorf("pending: %q, want %q", pending, later)
	}
	waitFor(b.t, "the alarms to die", 20*time.Second, func() (bool, string) {
		got := all(2, func(req *holdfastv1.ListAlarmsRequest) (names []string, next string, err error) {
			page, err := admin.ListDeadAlarms(b.t.Context(), req)
			for _, a := range page.GetAlarms() {
				names = append(names, a.GetName())
			}
			return names, page.GetNextPageToken(), err
		})
		return slices.Equal(got, dead), fmt.Sprint(got)
	})
	for _, token := range []string{"x", "0", "-1/00", "0/xyz", "0/00"} {
		req := &holdfastv1.ListAlarmsRequest{Class: "Bell", PageToken: token}
		if _, err := admin.ListAlarms(b.t.Context(), req); fault.ReasonOf(err) != fault.InvalidArgument {
			b.t.Errorf("page token %q: %v", token, err)
		}
		if _, err := admin.ListDeadAlarms(b.t.Context(), req); fault.ReasonOf(err) != fault.InvalidArgument {
			b.t.Errorf("page token %q: %v", token, err)
		}
	}
}

// The owner of bells dies the moment that the last of them is set: those that it owned ring within 3 s of
// its death, or when they are due.
func (b *bellTower) ownerDies() {
	names := bellNames("death", 30)
	owner := b.ownerOf(names[0])
	for i, name := range names { // Every other one is due when nobody owns it.
		b.set(name, &classesv1.SetBellRequest{AfterMs: 200 + int64(i%2)*1300})
	}
	owner.kill()
	died := time.Now()
	b.waitRings(names, 1, 20*time.Second)
	for _, name := range names {
		ring := b.rings(name)[0]
		if began := time.UnixMilli(ring.GetBeganMs()); began.After(died.Add(3*time.Second)) && ring.GetBeganMs() > ring.GetScheduledMs()+1000 {
			b.t.Errorf("%s rang %s after the death of %s", name, began.Sub(died), owner.name)
		}
	}
	late := b.late(names)
	b.t.Logf("late: median %s, at most %s", late[len(late)/2], late[len(late)-1])
	b.restart(owner)
}

func (b *bellTower) restart(nodes ...*process) {
	b.t.Helper()
	for _, p := range nodes {
		p.start()
	}
	for _, p := range nodes {
		p.waitReady()
	}
	waitSpread(b.t, b.nodes[0], len(b.nodes))
}

// The owner hands over and stops; then its shards move back to it. The alarms go with them.
func (b *bellTower) ownerStops() {
	first, second := bellNames("stop", 30), bellNames("back", 30)
	owner := b.ownerOf(first[0])
	for _, name := range first {
		b.set(name, &classesv1.SetBellRequest{AfterMs: 2000})
	}
	owner.stop()
	b.waitRings(first, 1, 20*time.Second)
	late := b.late(first)
	b.t.Logf("handed over, late: median %s, at most %s", late[len(late)/2], late[len(late)-1])
	for _, name := range second {
		b.set(name, &classesv1.SetBellRequest{AfterMs: 8000})
	}
	b.restart(owner)
	b.waitRings(second, 1, 20*time.Second)
	late = b.late(second)
	b.t.Logf("moved back, late: median %s, at most %s", late[len(late)/2], late[len(late)-1])
	if late[len(late)/2] > 50*time.Millisecond {
		b.t.Errorf("late, in order: %v", late)
	}
}

// Every process is killed at once. What was due meanwhile rings when they are back, what is due later then.
func (b *bellTower) allDie() {
	during, later := bellNames("during", 20), bellNames("later", 20)
	for i := range during {
		b.set(during[i], &classesv1.SetBellRequest{AfterMs: 500})
		b.set(later[i], &classesv1.SetBellRequest{AfterMs: 15_000})
	}
	for _, p := range b.nodes {
		p.kill()
	}
	b.restart(b.nodes...)
	b.waitRings(during, 1, 20*time.Second)
	b.waitRings(later, 1, 40*time.Second)
	late := b.late(later)
	if late[0] < 0 || late[len(late)/2] > 50*time.Millisecond {
		b.t.Errorf("late, in order: %v", late)
	}
}

// Each bell sets its alarm again whenever it has rung, so that one that is lost is missed, and one whose
// effects are there twice is too many.
func (b *bellTower) chains() {
	const repeats = 40
	names := bellNames("chain", 20)
	for _, name := range names {
		b.set(name, &classesv1.SetBellRequest{AfterMs: 10, Repeats: repeats, EveryMs: 100})
	}
	for _, p := range b.nodes {
		p.kill()
		p.start()
		p.waitReady()
	}
	b.waitRings(names, repeats+1, 60*time.Second)
	for _, name := range names {
		rings := b.rings(name)
		if len(rings) != repeats+1 {
			b.t.Errorf("%s rang %d times, want %d", name, len(rings), repeats+1)
		}
		for i, ring := range rings[1:] {
			if ring.GetRetryCount() != 0 {
				b.t.Errorf("%s: ring %d is retry %d: the loss of an owner does not count", name, i+1, ring.GetRetryCount())
			}
			if ring.GetScheduledMs() != rings[i].GetBeganMs()+100 {
				b.t.Errorf("%s: ring %d was set for %d, by one that began at %d", name, i+1, ring.GetScheduledMs(), rings[i].GetBeganMs())
			}
		}
	}
	for _, p := range b.nodes {
		p.alive()
	}
}
