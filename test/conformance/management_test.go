package conformance_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

var management = section{"Observability and management", []fact{
	{"classes (namespaces) are listed, with their keys", func(t *testing.T, w *world) {
		var names []string
		for _, c := range w.status().GetClasses() {
			names = append(names, c.GetName())
			want(t, "the key of "+c.GetName(), c.GetUniqueKey(), c.GetName())
		}
		for _, class := range []string{subject, mute, golden} {
			want(t, class+" is listed", slices.Contains(names, class), true)
		}
	}},
	{"the objects of a class that have data are listed, by pages, and by their names", func(t *testing.T, w *world) {
		var made []string
		for range 7 {
			o := w.objectOf(golden)
			o.must(put("k", 1))
			made = append(made, o.id.String())
			w.step(o)
		}
		w.objectOf(golden).must(nothing)
		var listed []string
		req := &holdfastv1.ListObjectsRequest{Class: golden, PageSize: 3, NamePrefix: "object "}
		for {
			resp, err := w.admin().ListObjects(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range resp.GetObjects() {
				listed = append(listed, o.GetId())
				if o.GetName() == "" {
					t.Errorf("object %s has no name", o.GetId())
				}
			}
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		slices.Sort(made)
		slices.Sort(listed)
		want(t, "listed", listed, made)
	}},
	{"an object is shown with its keys, its alarm and its owner, without being run", func(t *testing.T, w *world) {
		o := w.object()
		at := far()
		o.must(func(_ context.Context, th *thing) error {
			if err := th.SetAlarm(at); err != nil {
				return err
			}
			return actor.Put(th.Storage(), "k", "v")
		})
		w.step(o)
		lives := o.constructed()
		shown := o.shown()
		want(t, "keys", o.stored(), map[string]string{"k": `"v"`})
		want(t, "its name", shown.GetName(), o.name)
		want(t, "its alarm", shown.GetAlarmUnixMs(), at.UnixMilli())
		want(t, "its owner", shown.GetOwner(), w.status().GetShards()[o.shard()].GetOwner())
		want(t, "constructed", o.constructed(), lives)
	}},
	{"an object can be evicted (evictDurableObject)", func(t *testing.T, w *world) {
		o := w.object()
		o.must(put("k", 1))
		w.evict(o)
		o.must(func(_ context.Context, th *thing) error { wantValue(t, th, "k", 1); return nil })
		want(t, "constructed", o.constructed(), 2)
	}},
	{"an alarm that was given up can be listed, run (runDurableObjectAlarm) and discarded", func(t *testing.T, w *world) {
		o := w.objectOf(retries)
		rings := rung(o)
		rings.then = func(context.Context, *thing, actor.AlarmInfo) error { return errMine }
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		dead := func() []string {
			resp, err := w.admin().ListDeadAlarms(t.Context(), &holdfastv1.ListAlarmsRequest{Class: o.class})
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, a := range resp.GetAlarms() {
				out = append(out, a.GetId())
			}
			return out
		}
		w.wait("it to be given up", func() (bool, string) { return slices.Contains(dead(), o.id.String()), "" })
		w.step(o)
		rings.set(func() { rings.then = nil })
		before := rings.count()
		if _, err := w.admin().RearmAlarm(t.Context(), &holdfastv1.RearmAlarmRequest{Class: o.class, Object: &holdfastv1.RearmAlarmRequest_Id{Id: o.id.String()}}); err != nil {
			t.Fatal(err)
		}
		rings.wait(before + 1)
		w.step(o)
		want(t, "dead ones left", dead(), nil)
	}},
	{"metrics count calls, incarnations, evictions, resets and alarms", func(t *testing.T, w *world) {
		names := []string{
			"holdfast_calls_total", "holdfast_object_activations_total", "holdfast_object_resets_total",
			"holdfast_object_evictions_total", "holdfast_alarm_runs_total",
		}
		sum := func() map[string]float64 {
			out := make(map[string]float64)
			for n := range w.nodes {
				for _, name := range names {
					out[name] += w.metric(n, name)
				}
			}
			return out
		}
		before := sum()
		o := w.object()
		rings := rung(o)
		o.must(func(_ context.Context, th *thing) error { return th.SetAlarm(time.Now()) })
		rings.wait(1)
		_ = o.do(func(_ context.Context, th *thing) error { th.Abort(""); return nil })
		o.must(nothing)
		w.evict(o)
		after := sum()
		for _, name := range names {
			if after[name] <= before[name] {
				t.Errorf("%s: %v before, %v after", name, before[name], after[name])
			}
		}
	}},
}}
