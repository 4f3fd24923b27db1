package conformance_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

var (
	programCount = flag.Int("programs", 4, "how many random programs run in each cluster")
	firstProgram = flag.Uint64("first", 0, "seed of the first of them, from which the others count; 0: it is drawn")
	progress     = flag.Bool("progress", false, "with -v, say after each program how far the test is")
)

// TestPrograms runs random programs on clusters of processes, whose nodes are stopped and killed, and
// wants every answer, and what each object has after each event, to be the model's.
func TestPrograms(t *testing.T) {
	t.Parallel()
	first := *firstProgram
	if first == 0 {
		first = rand.Uint64N(1 << 40)
	}
	for name, nodes := range map[string]int{"one node": 1, "three nodes": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Logf("%d programs from seed %d on", *programCount, first)
			ps := newProcesses(t, nodes)
			all := make(map[string]int)
			for i := range *programCount {
				p := &player{t: t, ps: ps, seed: first + uint64(i), counts: all}
				p.play()
				if *progress {
					t.Logf("%d of %d, seed %d: %v", i+1, *programCount, p.seed, all)
				}
			}
			t.Log(all)
		})
	}
}

// player runs a program.
type player struct {
	t       *testing.T
	ps      *processes
	seed    uint64
	objects [programObjects]role
	done    []string
	counts  map[string]int
}

// role is what an object is to a program.
type role struct {
	name string
	id   placement.ObjectID
	has  kept
}

func (o *role) shard() placement.ShardID { return placement.ShardOf(o.id, shards) }

func (p *player) play() {
	p.t.Helper()
	for i := range p.objects {
		name := fmt.Sprintf("%d of program %d", i, p.seed)
		p.objects[i] = role{name: name, id: placement.NewNamespace(programClass).IDFromName(name), has: kept{keys: make(map[string]string)}}
	}
	for _, s := range generate(p.seed, len(p.ps.nodes)) {
		raw, err := json.Marshal(s)
		if err != nil {
			p.t.Fatal(err)
		}
		p.sayf("step %s", raw)
		p.step(&p.objects[s.Object], s)
	}
	for i := range p.objects { // Neither has seen what the other did.
		o := &p.objects[i]
		p.befall(o, eviction)
		p.settle(o, []kept{o.has})
	}
	p.counts["programs"]++
}

func (p *player) sayf(format string, args ...any) {
	p.done = append(p.done, fmt.Sprintf(format, args...))
}

// fatalf fails the test with all that has led to it.
func (p *player) fatalf(format string, args ...any) {
	p.t.Helper()
	said := strings.Join(p.done, "\n")
	p.t.Fatalf("%s\nagain: go test ./test/conformance -run '^%s$' -programs=1 -first=%d\nafter:\n%s", fmt.Sprintf(format, args...), strings.ReplaceAll(p.t.Name(), "/", "$/^"), p.seed, said)
}

// step runs a step, and waits until the object's alarm is not due.
func (p *player) step(o *role, s step) {
	p.t.Helper()
	p.counts["events"]++
	p.befall(o, s.Before)
	term := p.term(o)
	m, end := o.has.play(s.Event)
	refused := s.Existing && !o.has.exists()
	answer := p.start(o, s.Through, s.Existing, s.Event)
	if s.During != nothingAmiss {
		<-time.After(s.Delay)
		p.befall(o, s.During)
	}
	got := <-answer
	p.sayf("  was told: %v\n    %s", got.err, strings.ReplaceAll(got.text, "\n", "\n    "))
	could, problem := []kept{m.now}, got.differs(m, end)
	if refused {
		could, problem = []kept{o.has}, ""
		if fault.ReasonOf(got.err) != fault.UnknownObject {
			problem = fmt.Sprintf("an object that does not exist was called: %v", got.err)
		}
	}
	if problem != "" {
		could = p.afterTrouble(o, got, m, problem, s.During.ownerEnds() || p.term(o) != term)
	}
	if could[len(could)-1].at == momentary {
		p.counts["alarms"]++
		p.befall(o, s.After)
	}
	if len(could) == 1 && !refused && anyUnconfirmed(s.Event.Ops) && (s.During.ownerEnds() || s.After.ownerEnds() || p.term(o) != term) {
		could = m.commits // What is written so may be lost with its owner, although it was seen.
	}
	p.settle(o, could)
	p.ps.restore()
}

// afterTrouble returns what an object could have after a call whose answer is not the model's.
func (p *player) afterTrouble(o *role, got answer, m *model, problem string, ownerChanged bool) []kept {
	p.t.Helper()
	switch {
	case ownerChanged && got.didNotRun():
		p.counts["did not run"]++
		return []kept{o.has}
	case ownerChanged && got.unknown():
		p.counts["unknown"]++
		return m.commits
	}
	p.fatalf("%s", problem)
	return nil
}

// term changes with the owner.
func (p *player) term(o *role) uint64 {
	p.t.Helper()
	_, term := p.ps.owner(o.shard())
	return term
}

func anyUnconfirmed(ops []op) bool {
	return slices.ContainsFunc(ops, func(o op) bool { return o.Unconfirmed || anyUnconfirmed(o.Ops) })
}

// settle waits until an object has no alarm that is due in a moment, and wants all that is seen of it
// meanwhile to be what comes of one of those that it could have.
func (p *player) settle(o *role, could []kept) {
	p.t.Helper()
	type course struct {
		chain []kept
		at    int // how far it has come
	}
	var courses []course
	for _, k := range could {
		courses = append(courses, course{chain: k.chain()})
	}
	p.ps.wait("the alarm", func() (bool, string) {
		got := <-p.start(o, 0, false, everything)
		if got.err != nil && (got.didNotRun() || got.unknown()) {
			return false, got.err.Error()
		}
		// A run of the alarm that resets the object takes what waits behind it along.
		rings := slices.ContainsFunc(courses, func(c course) bool { return c.at < len(c.chain)-1 })
		if reason := fault.ReasonOf(got.err); rings && (reason == fault.ObjectReset || reason == fault.Panic) {
			return false, got.err.Error()
		}
		var left []course
		var wanted []string
		for _, c := range courses {
			for at := c.at; at < len(c.chain); at++ {
				m, end := c.chain[at].play(everything)
				if got.differs(m, end) == "" {
					left = append(left, course{c.chain, at})
					break
				}
				wanted = append(wanted, m.said)
			}
		}
		if len(left) == 0 {
			p.fatalf("the object has, %v:\n%s\nbut should have:\n%s", got.err, got.text, strings.Join(wanted, "\nor:\n"))
		}
		courses = left
		for _, c := range courses {
			if c.at == len(c.chain)-1 {
				o.has = c.chain[c.at]
				return true, ""
			}
		}
		return false, got.text
	})
}

// answer is what a call of an object returned.
type answer struct {
	text string
	err  error
}

// start has an object run an event, as a call through a node that runs.
func (p *player) start(o *role, through int, existing bool, e event) <-chan answer {
	done := make(chan answer, 1)
	conn := p.ps.running(through)[0].conn
	ctx := metadata.AppendToOutgoingContext(p.t.Context(), "holdfast-name-bin", o.name)
	if existing {
		ctx = metadata.AppendToOutgoingContext(ctx, "holdfast-existing", "true")
	}
	go func() {
		resp := &wrapperspb.BytesValue{}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err := conn.Invoke(ctx, serviceOf(programClass)+"/Do", wrapperspb.Bytes([]byte(e.encode())), resp, grpc.MaxCallRecvMsgSize(64<<20))
		done <- answer{string(resp.GetValue()), err}
	}()
	return done
}

// differs says in what an answer is not the model's.
func (a answer) differs(m *model, end ending) string {
	reason := fault.ReasonOf(a.err)
	text, ended := a.text, a.err == nil
	if end != returns && a.err != nil {
		text = m.said
		if !strings.Contains(a.err.Error(), m.said) {
			text = a.err.Error()
		}
	}
	switch end {
	case fails:
		ended = status.Code(a.err) == codes.Unknown
	case panics:
		ended = reason == fault.Panic
	case aborts, givesUp:
		ended = reason == fault.ObjectReset
	case returns:
	}
	if ended && text == m.said {
		return ""
	}
	return fmt.Sprintf("the event was told (error: %v):\n%s\nbut should have been told (and then %q):\n%s", a.err, text, end, m.said)
}

// didNotRun says that the call certainly had no effect.
func (a answer) didNotRun() bool { return fault.ReasonOf(a.err).Retryable() }

// unknown says that the call may have had its effect, or a part of it that was durable by itself.
func (a answer) unknown() bool {
	reason, code := fault.ReasonOf(a.err), status.Code(a.err)
	return reason == fault.OutcomeUnknown || reason == "" && (code == codes.Unavailable || code == codes.Canceled)
}

// befall has a mishap befall an object.
func (p *player) befall(o *role, what mishap) {
	p.t.Helper()
	if what == nothingAmiss {
		return
	}
	p.counts[string(what)]++
	owner, _ := p.ps.owner(o.shard())
	switch what {
	case nothingAmiss:
	case eviction:
		_, err := holdfastv1.NewAdminClient(owner.conn).EvictObject(p.t.Context(), &holdfastv1.EvictObjectRequest{Class: programClass, Object: &holdfastv1.EvictObjectRequest_Id{Id: o.id.String()}})
		if err != nil {
			p.fatalf("evict: %v", err)
		}
	case move:
		for _, to := range p.ps.running(1) {
			if to != owner {
				if err := owner.move(o.shard(), to.cfg.Name); err != nil {
					p.sayf("  %v", err)
				}
				return
			}
		}
	case stop:
		p.end(owner, syscall.SIGTERM)
	case kill:
		p.end(owner, syscall.SIGKILL)
	}
}

// end ends a node. It stays away until the step is over where others can take over.
func (p *player) end(owner *process, how syscall.Signal) {
	p.t.Helper()
	p.ps.restore() // At most one is away.
	owner.end(how)
	if len(p.ps.nodes) == 1 {
		p.ps.restore()
	}
}
