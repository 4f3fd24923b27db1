package actor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// life drives a machine by commands, as the shell does by events. Each command returns what the
// machine wants done, then whom it answers, in order:
//
//	deliver a b      nothing, or a=OVERLOADED
//	begin            "a runs", "a loads" (and is born), or "waits"
//	fetch, born      begin of an object that is not alive, in its two halves
//	wrote [sole]     the handler returned and has written: "propose 1"
//	unconfirmed [sole]  it returned and has only unconfirmed writes: "propose 1 confirm 1"
//	read [sole]      it returned and has not: "confirm 1", or nothing when it is answered at once
//	barrier wrote, barrier read
//	leave            the handler gives up its turn; "begin" may say "a resumes" from when it has
//	want a           asked for it
//	enter, exit      a critical section
//	skip, panic      the event did not run; it ended its incarnation
//	fail a           an event that need not have the turn ended its incarnation
//	returned         the handler of an event that is over
//	commit 1, readable 1, refuse 1 [unknown], confirmed 1 [lost], lose
//	is               what the machine says of itself
type life struct {
	t           *testing.T
	m           machine
	incarnation uint64
	barriers    []string
	events      map[string]*event
}

func (l *life) do(command string) string {
	l.t.Helper()
	words := strings.Fields(command)
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	has := func(word string) bool { return slices.Contains(words[1:], word) }
	number := func() uint64 {
		n, err := strconv.ParseUint(words[1], 10, 64)
		if err != nil {
			l.t.Fatalf("command %q: %v", command, err)
		}
		return n
	}
	gated := func(g gate) {
		if g&gatePropose != 0 {
			say("propose %d", l.m.seq)
		}
		if g&gateConfirm != 0 {
			say("confirm %d", l.m.token)
		}
	}
	wrote := map[string]writes{"read": noWrites, "unconfirmed": unconfirmedWrites, "wrote": confirmedWrites}
	switch words[0] {
	case "deliver":
		for _, name := range words[1:] {
			if err := l.m.deliver(&Call{Name: name}); err != nil {
				say("%s=%s", name, fault.ReasonOf(err))
			}
		}
	case "begin", "fetch":
		switch {
		case l.m.resumable() != nil:
			say("%s resumes", l.m.resume().call.Name)
		case !l.m.runnable():
			say("waits")
		case l.m.alive:
			say("%s runs", l.begin())
		default:
			say("%s loads", l.begin())
			if words[0] == "begin" {
				l.born()
			}
		}
	case "born":
		l.born()
	case "wrote", "unconfirmed", "read":
		gated(l.m.finish(Result{Body: []byte(l.m.running.call.Name)}, wrote[words[0]], has("sole")))
	case "barrier":
		told := func(err error) { l.barriers = append(l.barriers, "barrier="+outcome(err)) }
		gated(l.m.barrier(waiter{e: l.m.running, barrier: told}, wrote[words[1]], has("sole")))
	case "skip":
		l.m.skip(fault.New(fault.ObjectTimeout, ""))
	case "leave":
		l.m.leave()
	case "want":
		l.m.want(l.events[words[1]])
	case "enter":
		l.m.enter()
	case "exit":
		l.m.exit()
	case "returned":
		l.m.returned()
	case "panic":
		gated(l.m.die(panicOf(l.m.running), has("sole")))
	case "fail":
		gated(l.m.die(panicOf(l.events[words[1]]), has("sole")))
	case "commit":
		l.m.commit(number())
	case "readable":
		l.m.read(number())
	case "refuse":
		l.m.refuse(number(), has("unknown"))
	case "confirmed":
		var err error
		if has("lost") {
			err = errOwnerChanged()
		}
		l.m.confirm(number(), err)
	case "lose":
		l.m.lose()
	case "is":
		for _, flag := range []struct {
			name string
			is   bool
		}{{"alive", l.m.alive}, {"settled", l.m.settled()}, {"busy", l.m.busy()}, {"idle", l.m.idle()}} {
			if flag.is {
				say("%s", flag.name)
			}
		}
	default:
		l.t.Fatalf("unknown command %q", command)
	}
	answers, ended := l.m.take()
	for _, e := range ended {
		if !e.over {
			l.t.Fatalf("%s is told that it is over, and is not", e.call.Name)
		}
	}
	for _, a := range answers {
		switch {
		case a.barrier != nil:
			a.barrier(a.result.Err)
			out = append(out, l.barriers...)
			l.barriers = nil
		case a.result.Err == nil && string(a.result.Body) != a.call.Name:
			say("%s got the reply of %s", a.call.Name, a.result.Body)
		default:
			say("%s=%s", a.call.Name, outcome(a.result.Err))
		}
	}
	out = append(out, l.barriers...) // Those that were answered at once.
	l.barriers = nil
	return strings.Join(out, " ")
}

func (l *life) begin() string {
	e := l.m.begin()
	if l.events == nil {
		l.events = make(map[string]*event)
	}
	l.events[e.call.Name] = e
	return e.call.Name
}

func panicOf(e *event) death {
	reset := fault.New(fault.ObjectReset, "")
	return death{by: e, result: Result{Err: fault.New(fault.Panic, "")}, begun: reset, queued: reset}
}

func (l *life) born() {
	l.incarnation++
	l.m.born(1, l.incarnation)
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return string(fault.ReasonOf(err))
}

type step struct{ do, want string }

func (l *life) play(steps []step) {
	l.t.Helper()
	for i, s := range steps {
		if got := l.do(s.do); got != s.want {
			l.t.Fatalf("step %d, %q: got %q, want %q", i+1, s.do, got, s.want)
		}
	}
}

func TestLifeOfAnObject(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]step{
		"one event runs at a time, in the order of delivery (P4)": {
			{"is", "settled idle"},
			{"begin", "waits"},
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"begin", "waits"},
			{"read", "confirm 1"},
			{"begin", "b runs"},
			{"begin", "waits"},
			{"read", "confirm 2"},
			{"begin", "c runs"},
			{"read", "confirm 3"},
			{"confirmed 3", "a=ok b=ok c=ok"},
			{"is", "alive settled idle"},
		},
		"an event begins before the writes of those before it are committed": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"wrote", "propose 2"},
			{"begin", "c runs"},
			{"wrote", "propose 3"},
			{"is", "alive busy"},
			{"commit 1", "a=ok"},
			{"commit 3", "b=ok c=ok"},
			{"is", "alive busy"},
			{"readable 3", ""},
			{"is", "alive settled idle"},
		},
		"a reply waits for the commit and not for the store to show it (P2)": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"wrote sole", "propose 1"},
			{"commit 1", "a=ok"},
			{"is", "alive busy"},
			{"readable 1", ""},
			{"is", "alive settled idle"},
		},
		"a read behind an uncommitted write waits for the commit and its confirmation (P2)": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"read", "confirm 1"},
			{"confirmed 1", ""},
			{"commit 1", "a=ok b=ok"},
		},
		"a read whose write is committed still waits for its confirmation (P1)": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"read", "confirm 1"},
			{"commit 1", "a=ok"},
			{"is", "alive busy"},
			{"confirmed 1", "b=ok"},
		},
		"a read behind an uncommitted write waits also where nobody else can own the object (P2)": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"read sole", "confirm 1"},
			{"confirmed 1", ""},
			{"commit 1", "a=ok b=ok"},
		},
		"a read is answered at once where nobody else can own the object": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"read sole", "a=ok"},
			{"begin", "b runs"},
			{"wrote", "propose 1"},
			{"commit 1", "b=ok"},
			{"begin", "c runs"},
			{"read sole", "c=ok"},
		},
		"a read does not overtake one that waits": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"read", "confirm 1"},
			{"begin", "b runs"},
			{"read sole", "confirm 2"},
			{"confirmed 2", "a=ok b=ok"},
		},
		"the commit of a later segment confirms the reads before it": {
			{"deliver a b c d", ""},
			{"begin", "a loads"},
			{"read", "confirm 1"},
			{"begin", "b runs"},
			{"wrote", "propose 1"},
			{"begin", "c runs"},
			{"read", "confirm 2"},
			{"begin", "d runs"},
			{"wrote", "propose 2"},
			{"commit 1", "a=ok b=ok"},
			{"commit 2", "c=ok d=ok"},
			{"confirmed 2", ""},
		},
		"a confirmation covers the ones before it and none after": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"read", "confirm 1"},
			{"begin", "b runs"},
			{"read", "confirm 2"},
			{"begin", "c runs"},
			{"read", "confirm 3"},
			{"confirmed 2", "a=ok b=ok"},
			{"confirmed 1", ""},
			{"confirmed 3", "c=ok"},
		},
		"a read that is not confirmed is refused and may be repeated; what was proposed goes on (P1)": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"read", "confirm 1"},
			{"begin", "b runs"},
			{"wrote", "propose 1"},
			{"begin", "c runs"},
			{"read", "confirm 2"},
			{"confirmed 1 lost", "a=OWNER_CHANGED"},
			{"confirmed 2 lost", "c=OWNER_CHANGED"},
			{"commit 1", "b=ok"},
		},
		"a confirmation that fails late does not take back one that succeeded": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"read", "confirm 1"},
			{"confirmed 1", ""},
			{"confirmed 1 lost", ""},
			{"commit 1", "a=ok b=ok"},
		},
		"a refused segment refuses every later one and ends the incarnation (P3)": {
			{"deliver a b c d e", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"wrote", "propose 2"},
			{"begin", "c runs"},
			{"wrote", "propose 3"},
			{"begin", "d runs"},
			{"read", "confirm 1"},
			{"commit 1", "a=ok"},
			{"refuse 2", "b=OWNER_CHANGED c=OWNER_CHANGED d=OWNER_CHANGED e=OWNER_CHANGED"},
			{"is", "busy"},
			{"refuse 3", ""},
			{"is", "busy"},
			{"readable 1", ""},
			{"is", "settled idle"},
		},
		"what waits for a segment before the refused one keeps waiting": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"read", "confirm 1"},
			{"begin", "c runs"},
			{"wrote", "propose 2"},
			{"refuse 2", "c=OWNER_CHANGED"},
			{"commit 1", "a=ok"},
			{"confirmed 1", "b=ok"},
		},
		"a segment that may yet turn out to be committed leaves the outcome unknown, of writes only": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"read", "confirm 1"},
			{"begin", "c runs"},
			{"wrote", "propose 2"},
			{"refuse 1 unknown", "a=OUTCOME_UNKNOWN b=OWNER_CHANGED c=OUTCOME_UNKNOWN"},
			{"refuse 2 unknown", ""},
			{"is", "settled idle"},
		},
		"the event that runs when its incarnation ends is answered, and forgotten": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"refuse 1", "a=OWNER_CHANGED b=OWNER_CHANGED c=OWNER_CHANGED"},
			{"is", "settled"},
			{"deliver d", ""},
			{"begin", "d loads"},
			{"wrote", "propose 1"},
			{"commit 1", "d=ok"},
			{"readable 1", ""},
			{"is", "alive settled"},
			{"returned", ""},
			{"is", "alive settled idle"},
		},
		"an object is loaded again only when each of its segments is readable or refused": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"wrote", "propose 2"},
			{"begin", "c runs"},
			{"wrote", "propose 3"},
			{"commit 1", "a=ok"},
			{"refuse 2", "b=OWNER_CHANGED c=OWNER_CHANGED"},
			{"deliver d", ""},
			{"begin", "waits"},
			{"readable 1", ""},
			{"begin", "waits"},
			{"refuse 3", "d=OWNER_CHANGED"},
			{"deliver e", ""},
			{"begin", "e loads"},
			{"wrote", "propose 1"},
			{"commit 1", "e=ok"},
			{"readable 1", ""},
			{"is", "alive settled idle"},
		},
		"a panic refuses the mailbox and leaves in flight what was proposed": {
			{"deliver a b c d", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"panic", "confirm 1"},
			{"is", "busy"},
			{"deliver e", ""},
			{"begin", "waits"},
			{"commit 1", "a=ok"},
			{"confirmed 1", "b=PANIC c=OBJECT_RESET d=OBJECT_RESET"},
			{"begin", "waits"},
			{"readable 1", ""},
			{"begin", "e loads"},
			{"wrote", "propose 1"},
			{"refuse 1", "e=OWNER_CHANGED"},
		},
		"what is in flight when an event panics can still be refused": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"panic", "confirm 1"},
			{"deliver c", ""},
			{"refuse 1", "a=OWNER_CHANGED b=OWNER_CHANGED c=OWNER_CHANGED"},
			{"deliver d", ""},
			{"begin", "d loads"},
		},
		"an unconfirmed write is answered when this node is found to be the owner, as a read is (P1)": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"unconfirmed", "propose 1 confirm 1"},
			{"begin", "b runs"},
			{"read", "confirm 2"},
			{"confirmed 2", "a=ok b=ok"},
			{"begin", "c runs"},
			{"wrote", "propose 2"},
			{"commit 1", ""},
			{"commit 2", "c=ok"},
			{"is", "alive busy"},
			{"readable 2", ""},
			{"is", "alive settled idle"},
		},
		"an unconfirmed write is answered at once where nobody else can own the object": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"unconfirmed sole", "propose 1 a=ok"},
			{"begin", "b runs"},
			{"read sole", "b=ok"},
			{"is", "alive busy"},
		},
		"an unconfirmed write waits for the confirmed ones before it (P2)": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"unconfirmed sole", "propose 2 confirm 1"},
			{"confirmed 1", ""},
			{"commit 1", "a=ok b=ok"},
		},
		"its own commit confirms an unconfirmed write, and nothing that ran after it": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"unconfirmed", "propose 1 confirm 1"},
			{"begin", "b runs"},
			{"read", "confirm 2"},
			{"commit 1", "a=ok"},
			{"confirmed 2", "b=ok"},
		},
		"an unconfirmed write that is refused resets the object, and all that has seen it is told": {
			{"deliver a b c d", ""},
			{"begin", "a loads"},
			{"read", "confirm 1"},
			{"begin", "b runs"},
			{"unconfirmed", "propose 1 confirm 2"},
			{"begin", "c runs"},
			{"read", "confirm 3"},
			{"refuse 1", "b=OWNER_CHANGED c=OWNER_CHANGED d=OWNER_CHANGED"},
			{"confirmed 3", "a=ok"},
			{"is", "settled idle"},
		},
		"an unconfirmed write that may yet be committed is never said not to have happened": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"unconfirmed", "propose 1 confirm 1"},
			{"confirmed 1 lost", "a=OUTCOME_UNKNOWN"},
			{"begin", "b runs"},
			{"unconfirmed", "propose 2 confirm 2"},
			{"refuse 1 unknown", "b=OUTCOME_UNKNOWN"},
		},
		"an unconfirmed write waits with the ownership that is lost": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"unconfirmed", "propose 1 confirm 1"},
			{"lose", "a=OUTCOME_UNKNOWN"},
		},
		"a barrier waits for unconfirmed writes too": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"unconfirmed", "propose 1 confirm 1"},
			{"confirmed 1", "a=ok"},
			{"begin", "b runs"},
			{"barrier read", "confirm 2"},
			{"confirmed 2", ""},
			{"commit 1", "barrier=ok"},
			{"barrier unconfirmed", "propose 2"},
			{"commit 2", "barrier=ok"},
			{"read sole", "b=ok"},
		},
		"lost ownership answers everything (P1)": {
			{"deliver a b c d e", ""},
			{"begin", "a loads"},
			{"read", "confirm 1"},
			{"begin", "b runs"},
			{"wrote", "propose 1"},
			{"begin", "c runs"},
			{"read", "confirm 2"},
			{"begin", "d runs"},
			{"lose", "a=OWNER_CHANGED b=OUTCOME_UNKNOWN c=OWNER_CHANGED d=OWNER_CHANGED e=OWNER_CHANGED"},
			{"deliver f", "f=OWNER_CHANGED"},
			{"begin", "waits"},
		},
		"nothing gets out after ownership is lost (P1)": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"read", "confirm 1"},
			{"lose", "a=OUTCOME_UNKNOWN b=OWNER_CHANGED"},
			{"is", "busy"},
			{"confirmed 1", ""},
			{"commit 1", ""},
			{"readable 1", ""},
			{"is", "settled idle"},
			{"begin", "waits"},
		},
		"an object that is lost while it is loaded has no effect (P1)": {
			{"deliver a b", ""},
			{"fetch", "a loads"},
			{"lose", "a=OWNER_CHANGED b=OWNER_CHANGED"},
			{"is", "settled"},
			{"returned", ""},
			{"is", "settled idle"},
		},
		"an event that does not run is answered and leaves its place to the next": {
			{"deliver a b", ""},
			{"fetch", "a loads"},
			{"skip", "a=OBJECT_TIMEOUT"},
			{"begin", "b loads"},
			{"read sole", "b=ok"},
		},
		"a barrier closes a segment of its own and waits as a write does": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"begin", "waits"},
			{"commit 1", "barrier=ok"},
			{"wrote", "propose 2"},
			{"begin", "b runs"},
			{"read", "confirm 1"},
			{"commit 2", "a=ok"},
			{"confirmed 1", "b=ok"},
		},
		"a barrier without writes waits for what is in flight and for its confirmation": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"barrier read sole", "confirm 1"},
			{"confirmed 1", ""},
			{"commit 1", "a=ok barrier=ok"},
			{"barrier read sole", "barrier=ok"},
			{"read sole", "b=ok"},
		},
		"a barrier learns that its segment was refused": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"refuse 1", "barrier=OWNER_CHANGED a=OWNER_CHANGED"},
		},
		"a barrier learns that the fate of its segment is not known": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"lose", "barrier=OUTCOME_UNKNOWN a=OUTCOME_UNKNOWN"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			(&life{t: t}).play(steps)
		})
	}
}

func TestNoIncarnationBeginsWhileTheLastWaitsAtTheGate(t *testing.T) {
	t.Parallel()
	(&life{t: t}).play([]step{
		{"deliver a b c", ""},
		{"begin", "a loads"},
		{"wrote", "propose 1"},
		{"begin", "b runs"},
		{"read", "confirm 1"},
		{"begin", "c runs"},
		{"panic", "confirm 2"},
		{"commit 1", "a=ok"},
		{"readable 1", ""},
		{"deliver d", ""},
		{"begin", "waits"},
		{"confirmed 1", "b=ok"},
		{"begin", "waits"},
		{"confirmed 2", "c=PANIC"},
		{"begin", "d loads"},
		{"read", "confirm 3"},
		{"confirmed 3", "d=ok"},
	})
}

func TestPanicIsToldWhenItsReasonsAreDurable(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]step{
		"with a segment before it": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"panic", "confirm 1"},
			{"confirmed 1", ""},
			{"commit 1", "a=ok b=PANIC c=OBJECT_RESET"},
		},
		"with a segment before it that is refused": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"wrote", "propose 1"},
			{"begin", "b runs"},
			{"panic", "confirm 1"},
			{"refuse 1", "a=OWNER_CHANGED b=OWNER_CHANGED c=OWNER_CHANGED"},
		},
		"by an owner of the past": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"panic", "confirm 1"},
			{"lose", "a=OWNER_CHANGED b=OWNER_CHANGED"},
		},
		"by the only voter": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"panic sole", "a=PANIC b=OBJECT_RESET"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			(&life{t: t}).play(steps)
		})
	}
}

func TestEventWithACommittedSegmentIsNotSaidNotToHaveRun(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]step{
		"lost after the barrier's segment was committed": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"commit 1", "barrier=ok"},
			{"lose", "a=OUTCOME_UNKNOWN"},
		},
		"lost while the barrier's segment was in flight": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"lose", "barrier=OUTCOME_UNKNOWN a=OUTCOME_UNKNOWN"},
		},
		"refused in flight, while another segment of the event is committed": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"commit 1", "barrier=ok"},
			{"barrier wrote", "propose 2"},
			{"refuse 2", "barrier=OWNER_CHANGED a=OUTCOME_UNKNOWN"},
		},
		"lost after it has passed the gate and may have acted": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier read", "confirm 1"},
			{"confirmed 1", "barrier=ok"},
			{"lose", "a=OUTCOME_UNKNOWN"},
		},
		"what it may have done before is not undone by the refusal of what it wrote": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier read sole", "barrier=ok"},
			{"wrote", "propose 1"},
			{"refuse 1", "a=OUTCOME_UNKNOWN"},
		},
		"not confirmed after it has passed the gate": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier read sole", "barrier=ok"},
			{"read", "confirm 1"},
			{"confirmed 1 lost", "a=OUTCOME_UNKNOWN"},
		},
		"its last segment refused": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"commit 1", "barrier=ok"},
			{"wrote", "propose 2"},
			{"refuse 2", "a=OUTCOME_UNKNOWN"},
		},
		"its last segment only read, and not confirmed": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"commit 1", "barrier=ok"},
			{"read", "confirm 1"},
			{"confirmed 1 lost", "a=OUTCOME_UNKNOWN"},
		},
	} {
		t.Run(name, func(t *testing.T) { (&life{t: t}).play(steps) })
	}
}

func TestMailboxRefusesMoreEventsThanItsBound(t *testing.T) {
	t.Parallel()
	var m machine
	for i := range MailboxEventsMax {
		if err := m.deliver(&Call{}); err != nil {
			t.Fatalf("event %d: %v", i+1, err)
		}
	}
	if err := m.deliver(&Call{}); fault.ReasonOf(err) != fault.Overloaded {
		t.Errorf("event over the bound: %v", err)
	}
	m.begin()
	if err := m.deliver(&Call{}); err != nil {
		t.Errorf("after one has begun: %v", err)
	}
	if err := m.deliver(&Call{}); fault.ReasonOf(err) != fault.Overloaded {
		t.Errorf("event over the bound: %v", err)
	}
	if got, _ := m.take(); len(got) != 0 {
		t.Errorf("a refused event is answered by who delivered it, not by the machine: %d answers", len(got))
	}
}

func TestMailboxRefusesMoreBytesThanItsBound(t *testing.T) {
	t.Parallel()
	var m machine
	large := make([]byte, MailboxBytesMax/4)
	for i := range 3 {
		if err := m.deliver(&Call{Body: large}); err != nil {
			t.Fatalf("event %d: %v", i+1, err)
		}
	}
	if err := m.deliver(&Call{Body: large}); fault.ReasonOf(err) != fault.Overloaded {
		t.Errorf("over the bound: %v", err)
	}
	if err := m.deliver(&Call{Body: large[:100]}); err != nil {
		t.Errorf("a small event that fits: %v", err)
	}
	m.begin()
	if err := m.deliver(&Call{Body: large}); err != nil {
		t.Errorf("after a large one has begun: %v", err)
	}
	m.lose()
	if m.mailboxBytes != 0 || len(m.mailbox) != 0 {
		t.Errorf("a refused mailbox still has %d events, %d bytes", len(m.mailbox), m.mailboxBytes)
	}
}

func TestTurns(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]step{
		"others run while an event has given up its turn, and see what it wrote (P4)": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"begin", "waits"},
			{"leave", ""},
			{"begin", "b runs"},
			{"commit 1", "barrier=ok"},
			{"wrote", "propose 2"},
			{"want a", ""},
			{"begin", "a resumes"},
			{"read", "confirm 1"},
			{"commit 2", "b=ok"},
			{"confirmed 1", "a=ok"},
			{"readable 2", ""},
			{"is", "alive settled idle"},
		},
		"an event that has given up its turn keeps the object in memory, and does not hold up a move": {
			{"deliver a", ""},
			{"begin", "a loads"},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"is", "alive settled"},
			{"want a", ""},
			{"is", "alive settled"},
			{"begin", "a resumes"},
			{"is", "alive settled busy"},
		},
		"turns come back in the order in which they are asked for, before what has not begun": {
			{"deliver a b c d", ""},
			{"begin", "a loads"},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"begin", "b runs"},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"begin", "c runs"},
			{"want b", ""},
			{"want a", ""},
			{"begin", "waits"},
			{"read sole", "c=ok"},
			{"begin", "b resumes"},
			{"begin", "waits"},
			{"read sole", "b=ok"},
			{"begin", "a resumes"},
			{"read sole", "a=ok"},
			{"begin", "d runs"},
		},
		"an event may give up its turn again and again": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"leave", ""},
			{"commit 1", "barrier=ok"},
			{"want a", ""},
			{"begin", "a resumes"},
			{"barrier wrote", "propose 2"},
			{"leave", ""},
			{"commit 2", "barrier=ok"},
			{"want a", ""},
			{"begin", "a resumes"},
			{"wrote", "propose 3"},
			{"refuse 3", "a=OUTCOME_UNKNOWN b=OWNER_CHANGED"},
		},
		"a panic resets those that have given up their turn (P2)": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"leave", ""},
			{"begin", "b runs"},
			{"panic", "confirm 1"},
			{"commit 1", "barrier=ok"},
			{"confirmed 1", "b=PANIC a=OBJECT_RESET c=OBJECT_RESET"},
			{"readable 1", ""},
			{"deliver d", ""},
			{"begin", "d loads"},
			{"returned", ""},
			{"returned", ""},
			{"read sole", "d=ok"},
			{"is", "alive settled idle"},
		},
		"one that waits to have its turn back is over with the others": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"begin", "b runs"},
			{"want a", ""},
			{"panic sole", "b=PANIC a=OBJECT_RESET"},
			{"begin", "waits"},
		},
		"an event that is reset behind a segment that is refused may have acted": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"begin", "b runs"},
			{"wrote", "propose 1"},
			{"begin", "c runs"},
			{"panic", "confirm 1"},
			{"refuse 1", "b=OWNER_CHANGED c=OWNER_CHANGED a=OUTCOME_UNKNOWN"},
		},
		"lost ownership ends those that have given up their turn; who has not got through the gate calls again (P1)": {
			{"deliver a b c d", ""},
			{"begin", "a loads"},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"begin", "b runs"},
			{"barrier wrote", "propose 1"},
			{"leave", ""},
			{"begin", "c runs"},
			{"barrier read", "confirm 1"},
			{"leave", ""},
			{"want a", ""},
			{"lose", "barrier=OUTCOME_UNKNOWN barrier=OWNER_CHANGED a=OUTCOME_UNKNOWN b=OUTCOME_UNKNOWN c=OWNER_CHANGED d=OWNER_CHANGED"},
			{"begin", "waits"},
			{"commit 1", ""},
			{"readable 1", ""},
			{"is", "settled"},
		},
		"a refused segment ends those that have given up their turn": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"barrier wrote", "propose 1"},
			{"leave", ""},
			{"begin", "b runs"},
			{"refuse 1", "barrier=OWNER_CHANGED b=OWNER_CHANGED a=OWNER_CHANGED"},
			{"is", "settled"},
		},
		"nobody else has the turn in a critical section": {
			{"deliver a b c", ""},
			{"begin", "a loads"},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"begin", "b runs"},
			{"enter", ""},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"want a", ""},
			{"begin", "waits"},
			{"want b", ""},
			{"begin", "b resumes"},
			{"enter", ""},
			{"exit", ""},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"begin", "waits"},
			{"want b", ""},
			{"begin", "b resumes"},
			{"exit", ""},
			{"begin", "waits"},
			{"read sole", "b=ok"},
			{"begin", "a resumes"},
			{"read sole", "a=ok"},
			{"begin", "c runs"},
		},
		"a critical section that fails, or takes too long, is over": {
			{"deliver a b", ""},
			{"begin", "a loads"},
			{"enter", ""},
			{"barrier read sole", "barrier=ok"},
			{"leave", ""},
			{"begin", "waits"},
			{"fail a sole", "a=PANIC b=OBJECT_RESET"},
			{"deliver c", ""},
			{"begin", "c loads"},
			{"read sole", "c=ok"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			(&life{t: t}).play(steps)
		})
	}
}

func TestEventsWaitWhenTooManyHandlersHaveNotReturned(t *testing.T) {
	t.Parallel()
	l := &life{t: t}
	for range HandlersMax {
		l.play([]step{{"deliver a", ""}, {"begin", map[bool]string{true: "a runs", false: "a loads"}[l.m.alive]}, {"barrier read sole", "barrier=ok"}, {"leave", ""}})
	}
	l.play([]step{
		{"deliver b", ""},
		{"begin", "waits"},
		{"want a", ""},
		{"begin", "a resumes"},
		{"read sole", "a=ok"},
		{"begin", "b runs"},
		{"read sole", "b=ok"},
	})
	l.do("fail a sole") // The others have not returned, although their incarnation is over.
	l.play([]step{{"deliver c", ""}, {"begin", "c loads"}, {"barrier read sole", "barrier=ok"}, {"leave", ""}, {"deliver d", ""}, {"begin", "waits"}, {"returned", ""}, {"begin", "d runs"}})
}
