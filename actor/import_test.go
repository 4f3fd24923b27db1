package actor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/storage"
	"github.com/holdfast-io/holdfast/storage/value"
)

// importing is what an object is to have: keys, each with the same number.
func importing(id byte, part uint64, last bool, n int, keys ...string) *ImportPart {
	p := &ImportPart{Import: [16]byte{id}, Part: part, Last: last}
	encoded, err := value.Encode(n)
	if err != nil {
		panic(err)
	}
	for _, key := range keys {
		p.Entries = append(p.Entries, ImportEntry{Key: []byte(key), Value: encoded})
	}
	return p
}

func (w *bells) importPart(n byte, p *ImportPart) error {
	w.t.Helper()
	encoded, err := value.Encode(p)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.manager.Import(w.t.Context(), 0, bellRef(bellClass, n), bellClass, encoded)
}

// wantImport wants a part to be refused for a reason, or taken when that is empty.
func (w *bells) wantImport(n byte, p *ImportPart, want fault.Reason) {
	w.t.Helper()
	if err := w.importPart(n, p); fault.ReasonOf(err) != want || (err == nil) != (want == "") {
		w.t.Errorf("part %d of import %d into object %d: got %v, want %q", p.Part, p.Import[0], n, err, want)
	}
}

// keysOf is what the object has, as "key=number".
func (w *bells) keysOf(n byte) string {
	w.t.Helper()
	var out []string
	w.must(n, func(b *bell) error {
		for e, err := range b.state.Storage().List(ListOptions{}) {
			if err != nil {
				return err
			}
			var n int
			if err := value.Decode(e.Value, &n); err != nil {
				return err
			}
			out = append(out, fmt.Sprintf("%s=%d", e.Key, n))
		}
		return nil
	})
	return strings.Join(out, " ")
}

// What is imported in one part is there at once, name and alarms included. An object that exists is left as
// it is, unless it is to be replaced; then nothing is left of it, and what it remembers in memory ends.
func TestImport(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		name := "one"
		p := importing(1, 0, true, 1, "a", "b")
		p.Name = &name
		p.Alarm = &storage.Alarm{Due: w.began.Add(2 * time.Hour).UnixMilli(), Scheduled: w.began.Add(time.Hour).UnixMilli(), Retries: 3}
		p.Dead = &storage.DeadAlarm{Scheduled: 5, Died: 7, Retries: 2, Error: "cracked"}
		w.wantImport(1, p, "")
		if got := w.keysOf(1); got != "a=1 b=1" || w.alarmOf(1) != time.Hour {
			t.Errorf("imported: %s, alarm for %s", got, w.alarmOf(1))
		}
		if diff := cmp.Diff([]storage.DeadAlarmListing{{ID: bellRef(bellClass, 1).ID, Alarm: *p.Dead}}, w.deadAlarms()); diff != "" {
			t.Error(diff)
		}
		after(2 * time.Hour)
		w.wantRuns(bellRun{1, 2 * time.Hour, AlarmInfo{ScheduledTime: w.began.Add(time.Hour), RetryCount: 3, IsRetry: true}})

		// Again, because the answer was lost; the object has gone on.
		w.must(1, func(b *bell) error { return Put(b.state.Storage(), "b", 5) })
		w.wantImport(1, p, "")
		w.wantImport(1, importing(2, 0, true, 2, "c"), fault.ObjectExists)
		if got := w.keysOf(1); got != "a=1 b=5" {
			t.Errorf("an import that came twice, or was refused, left %s", got)
		}

		var first *incarnation
		w.must(1, func(b *bell) error {
			first = b.state.o
			return b.state.SetAlarm(time.Now().Add(time.Hour))
		})
		p = importing(3, 0, true, 3, "c")
		p.Replace = true
		w.wantImport(1, p, "")
		if got := w.keysOf(1); got != "c=3" || w.alarmOf(1) != -1 || len(w.deadAlarms()) != 0 {
			t.Errorf("replaced: %s, alarm for %s, dead %v", got, w.alarmOf(1), w.deadAlarms())
		}
		w.must(1, func(b *bell) error {
			if b.state.o == first {
				t.Error("the instance that was there before goes on")
			}
			if got, _ := b.state.Name(); got != name {
				t.Errorf("the name is %q", got)
			}
			return nil
		})
		after(24 * time.Hour)
		w.wantRuns()
		w.wantImport(2, importing(4, 0, true, 0), fault.InvalidArgument)
	})
}

// While an object is imported in parts nobody sees what it has, wherever it is owned, and the parts come in
// their order, each once. What was cut off is taken over by another import, and by nothing else.
func TestImportInParts(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		refused := func() {
			t.Helper()
			err := w.act(1, func(*bell) error {
				t.Error("a call has run")
				return nil
			})
			if fault.ReasonOf(err) != fault.ImportUnfinished {
				t.Errorf("a call meanwhile: %v", err)
			}
		}
		w.set(1, time.Hour)
		w.wantImport(1, importing(1, 0, false, 1, "a", "b"), fault.ObjectExists)
		begin := func(id byte) *ImportPart {
			p := importing(id, 0, false, int(id), "a", "b")
			p.Replace = id == 1
			return p
		}
		w.wantImport(1, begin(1), "")
		refused()
		w.wantImport(1, begin(1), "")
		w.wantImport(1, importing(1, 2, false, 1, "d"), fault.ImportUnfinished)
		w.wantImport(1, importing(2, 1, false, 2, "d"), fault.ImportUnfinished)
		w.wantImport(1, importing(1, 1, false, 1, "c"), "")
		after(2 * time.Hour)
		w.wantRuns() // It was replaced.
		w.lose()
		w.acquire()
		refused()
		w.wantImport(1, importing(1, 1, false, 9, "c"), "") // It is there already.
		w.wantImport(1, begin(3), "")                       // It was cut off, and may be taken over.
		w.wantImport(1, importing(1, 2, true, 1, "d"), fault.ImportUnfinished)
		if !w.manager.Evict(0, bellRef(bellClass, 1)) {
			t.Error("not in memory")
		}
		refused()
		last := importing(3, 1, true, 3, "e")
		last.Alarm = &storage.Alarm{Due: time.Now().Add(time.Hour).UnixMilli(), Scheduled: time.Now().Add(time.Hour).UnixMilli()}
		w.wantImport(1, last, "")
		w.wantImport(1, last, "")
		if got := w.keysOf(1); got != "a=3 b=3 e=3" {
			t.Errorf("imported: %s", got)
		}
		after(time.Hour)
		if runs := w.takeRuns(); len(runs) != 1 {
			t.Errorf("%d runs of the alarm", len(runs))
		}
	})
}

// The last part may have nothing, when the parts before it hold exactly all there is: the object is whole
// then, and not only as long as it is in memory.
func TestImportWithAnEmptyLastPart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.wantImport(1, importing(1, 0, false, 1, "a", "b"), "")
		w.wantImport(1, importing(1, 1, true, 0), "")
		w.lose()
		w.acquire()
		if got := w.keysOf(1); got != "a=1 b=1" {
			t.Errorf("imported: %s", got)
		}
	})
}

// Replaced, an object ends for those too that have given up their turn, and what they write is nowhere; what
// waits for its turn is tried again.
func TestImportResetsWhatRuns(t *testing.T) {
	t.Parallel()
	w := newPlainWorld(t)
	release, begun := make(chan struct{}), make(chan struct{})
	yielding := w.start(1, func(ctx context.Context, s *State) error {
		if err := Put(s.Storage(), "old", 1); err != nil {
			return err
		}
		err := s.Yield(ctx, func(context.Context) error {
			close(begun)
			<-release
			return nil
		})
		if err == nil {
			t.Error("the event goes on in the object that was replaced")
		}
		return Put(s.Storage(), "late", 1)
	})
	<-begun
	p := importing(1, 0, true, 2, "new")
	p.Replace = true
	encoded, err := value.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.manager.Import(t.Context(), 0, plainRef(1), plainClass, encoded); err != nil {
		t.Fatal(err)
	}
	if err := <-yielding; fault.ReasonOf(err) != fault.ObjectReset {
		t.Errorf("the event without its turn: %v", err)
	}
	close(release)
	w.with(func(s *Storage) error {
		got, err := s.GetMany("old", "late", "new")
		if len(got) != 1 || got["new"] == nil {
			t.Errorf("the object has %v", got)
		}
		return err
	})
}

// What can't be stored is refused whole (P7).
func TestImportRefusals(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, w *bells) {
		w.set(1, time.Hour)
		for name, tt := range map[string]struct {
			make func(p *ImportPart)
			want fault.Reason
		}{
			"no CBOR":        {func(p *ImportPart) { p.Entries[0].Value = []byte{0x1c} }, fault.InvalidArgument},
			"a long key":     {func(p *ImportPart) { p.Entries[0].Key = make([]byte, storage.MaxKeyBytes+1) }, fault.InvalidKey},
			"an early alarm": {func(p *ImportPart) { p.Alarm = &storage.Alarm{Due: 0, Scheduled: 1} }, fault.InvalidArgument},
			"a late alarm":   {func(p *ImportPart) { p.Alarm = &storage.Alarm{Due: maxAlarmUnixMilli + 1, Scheduled: 1} }, fault.InvalidArgument},
			"a long error":   {func(p *ImportPart) { p.Dead = &storage.DeadAlarm{Error: strings.Repeat("x", 2000)} }, fault.InvalidArgument},
			"too many writes": {func(p *ImportPart) {
				p.Entries = make([]ImportEntry, 10_001)
				for i := range p.Entries {
					p.Entries[i].Value = []byte{0}
				}
			}, fault.WriteSetTooLarge},
		} {
			p := importing(1, 0, true, 1, "a")
			p.Replace = true
			tt.make(p)
			if err := w.importPart(1, p); fault.ReasonOf(err) != tt.want {
				t.Errorf("%s: %v, want %s", name, err, tt.want)
			}
		}
		if got := w.keysOf(1); got != "" || w.alarmOf(1) != time.Hour {
			t.Errorf("a refused import left %q, alarm for %s", got, w.alarmOf(1))
		}
		if err := w.manager.Import(t.Context(), 0, bellRef(bellClass, 1), bellClass, []byte{0x01}); fault.ReasonOf(err) != fault.InvalidArgument {
			t.Errorf("no part: %v", err)
		}
		synctest.Wait()
	})
}
