package actor

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
)

// Bounds of the calls that objects make.
const (
	// ChainMax is how many objects may be in a chain of calls, the last one included.
	ChainMax = 64
	// OutgoingTimeMax is how long a call takes at most when the handler's context has no deadline.
	OutgoingTimeMax = 30 * time.Second
	// answerTimeMax is how long before the handler's own deadline its calls end: it is to have the time
	// to say why. It is less when there is little time.
	answerTimeMax = 100 * time.Millisecond
	// labelBytesMax bounds what names an object for people.
	labelBytesMax = 128
)

// Caller takes the calls that objects make to where their objects are.
type Caller interface {
	// Call makes a call, with the outgoing metadata of ctx; it does not wait, and ctx may end before the
	// call does. done is called exactly once, by the call's deadline, from any goroutine, possibly before
	// Call returns, and must not block. The returned function says that nobody waits any more.
	Call(ctx context.Context, c *Outgoing, done func(Result)) (cancel func(cause error))
	// NewUniqueID draws the id of a new object of a class.
	NewUniqueID(ctx context.Context, class string) (placement.ObjectID, error)
}

// Outgoing is a call that an object makes of another.
type Outgoing struct {
	Class string
	// Name is the other's when Named; otherwise ID is.
	Name  string
	Named bool
	ID    placement.ObjectID
	// Existing says that the other must exist.
	Existing bool
	// Method is "/package.Service/Method", or bare with Values.
	Method string
	// Values says that Body is a CBOR array of arguments, and that the reply is to be one CBOR item.
	Values   bool
	Body     []byte
	Deadline time.Time
	// Chain are the events that wait for it; the last is the one that makes it.
	Chain []Link
}

// Link is an event that waits for a call which its object has made.
type Link struct {
	// Event is the number of the event: no other in the cluster has it.
	Event uint64
	// Label names its object for people.
	Label string
}

// Stub is what an object calls another one with. It is a grpc.ClientConnInterface: the ordinary
// generated client of the other's class runs on it.
//
//	reply, err := counterv1.NewCounterClient(state.Object("Counter", "visits")).Get(ctx, &counterv1.GetRequest{})
//
// A call leaves the object as a reply does: when everything that the object has written is durable,
// and this node has been found to be its owner since. So what was written before it is a segment of
// its own, which stays when the handler fails afterwards. The handler keeps its turn until the answer
// is there, and no other event of the object runs meanwhile; call inside a Yield to let others in.
//
// ctx is the handler's own, or made from it. Its outgoing metadata goes with the call. The call ends
// a little before ctx does, by at most 100 ms, so that the handler can still answer; after 30 s when
// ctx has no deadline. When the call is cut short in such a way it may or may not have taken effect,
// and so it is after OUTCOME_UNKNOWN; it is made again by itself when it certainly did not run.
//
// A call that would wait for itself, because an object that waits for it holds its turn, is refused at
// once with CALL_CYCLE, and so is one that would be the 65th in a chain. Two chains that wait for each
// other are not found: they end by their deadlines, with OBJECT_TIMEOUT. Both errors list the chain.
//
// Calls on one stub reach the other object in the order in which the handler makes them, one after
// the other. Calls that goroutines of a handler make at the same time have no order.
type Stub struct {
	i     *incarnation
	class string
	name  string
	named bool
	id    placement.ObjectID
	// existing says that the object must exist.
	existing bool
}

// Object returns a stub of the object of a class that has a name: any UTF-8, also empty. Making one
// costs nothing, and it may be kept as long as the State.
func (s *State) Object(class, name string) *Stub {
	return &Stub{i: s.o, class: class, name: name, named: true}
}

// ObjectByID returns a stub of the object of a class with an id.
func (s *State) ObjectByID(class string, id placement.ObjectID) *Stub {
	return &Stub{i: s.o, class: class, id: id}
}

// NewUniqueID draws the id of a new object of a class, which no name has, for ObjectByID. It lets
// nothing out of the object, and waits only while this node does not know the class yet.
func (s *State) NewUniqueID(ctx context.Context, class string) (placement.ObjectID, error) {
	if err := checkClass(class); err != nil {
		return placement.ObjectID{}, err
	}
	return s.o.shard.manager.cfg.Caller.NewUniqueID(ctx, class)
}

// Existing returns a stub of the same object whose calls fail with UNKNOWN_OBJECT when the object does
// not exist, that is, has neither data nor an alarm. Nothing of it runs then, and it does not come to be.
func (s *Stub) Existing() *Stub {
	existing := *s
	existing.existing = true
	return &existing
}

// checkClass refuses a class that objects can't call.
func checkClass(name string) error {
	switch {
	case strings.HasPrefix(name, ReservedPrefix):
		return fault.New(fault.UnknownClass, "class %q: names beginning with %q are reserved for the cluster itself", name, ReservedPrefix)
	case name == "":
		return fault.New(fault.UnknownClass, "class: must be given")
	}
	return nil
}

// String names the object for people.
func (s *Stub) String() string { return label(s.class, s.name, s.named, s.id) }

// NewStream implements grpc.ClientConnInterface. Objects open no streams of others.
func (*Stub) NewStream(_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, fault.New(fault.UnknownMethod, "%s: streaming methods are not supported yet", method)
}

// Invoke implements grpc.ClientConnInterface: it calls a unary method, given as
// "/package.Service/Method", and waits for the answer. Call options are ignored.
func (s *Stub) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	in, ok := args.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "arguments of type %T: not a protobuf message", args)
	}
	out, ok := reply.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "a reply of type %T: not a protobuf message", reply)
	}
	if err := checkClass(s.class); err != nil {
		return err
	}
	body, err := proto.Marshal(in)
	if err != nil {
		return status.Errorf(codes.Internal, "encode the arguments of %s: %v", method, err)
	}
	result := s.call(ctx, method, body, false)
	if result.Err != nil {
		return result.Err
	}
	if err := proto.Unmarshal(result.Body, out); err != nil {
		return status.Errorf(codes.Internal, "decode the reply of %s: %v", method, err)
	}
	return nil
}

// call makes the call. Whoever has been reset meanwhile, or has another owner, is told so.
func (s *Stub) call(ctx context.Context, method string, body []byte, values bool) Result {
	e := eventOf(ctx)
	result := s.let(ctx, e, method, body, values)
	s.i.mu.Lock()
	defer s.i.mu.Unlock()
	if e != nil && e.over {
		return Result{Err: s.i.over}
	}
	return result
}

// let lets the call of an event out, and waits for the answer.
func (s *Stub) let(ctx context.Context, e *event, method string, body []byte, values bool) Result {
	chain, gate, err := s.i.outward(e)
	switch {
	case err != nil:
		return Result{Err: err}
	case len(chain) >= ChainMax:
		return Result{Err: errLongChain(chain, s.String())}
	}
	if err := s.i.pass(ctx, gate); err != nil {
		return Result{Err: err}
	}
	if err := ctx.Err(); err != nil {
		return Result{Err: status.FromContextError(err).Err()}
	}
	s.i.class.tally.count(s.i.shard.id, func(t *Tally) { t.CallsMade++ })
	until := endsBefore(ctx)
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	answered := make(chan Result, 1)
	abandon := s.i.shard.manager.cfg.Caller.Call(ctx, &Outgoing{
		Class: s.class, Name: s.name, Named: s.named, ID: s.id, Existing: s.existing, Method: method, Values: values, Body: body, Deadline: until, Chain: chain,
	}, func(r Result) { answered <- r })
	var result Result
	select {
	case result = <-answered:
	case <-ctx.Done():
		abandon(context.Cause(ctx))
		result.Err = status.FromContextError(ctx.Err()).Err()
	}
	if status.Code(result.Err) == codes.DeadlineExceeded && !time.Now().Before(until) {
		result.Err = timedOut(result.Err, listed(chain, s.String()))
	}
	return result
}

// endsBefore is when a call ends that is made with a context.
func endsBefore(ctx context.Context) time.Time {
	now := time.Now()
	deadline, ok := ctx.Deadline()
	if !ok {
		return now.Add(OutgoingTimeMax)
	}
	return deadline.Add(-min(deadline.Sub(now)/20, answerTimeMax))
}

const chainIs = "call chain: "

func errLongChain(chain []Link, last string) error {
	return fault.New(fault.CallCycle, "a chain of calls has at most %d objects, and this call would make one more; %s%s", ChainMax, chainIs, listed(chain, last))
}

// timedOut says what waited for what, if the error does not say it yet.
func timedOut(err error, chain string) error {
	if strings.Contains(status.Convert(err).Message(), chainIs) {
		return err
	}
	return fault.New(fault.ObjectTimeout, "the call did not end in time, and may or may not have taken effect; an object may wait for another that waits for it; %s%s", chainIs, chain)
}

// outward puts a call that an event is about to make at the output gate, and returns the chain that it
// is at the end of.
func (i *incarnation) outward(e *event) ([]Link, <-chan error, error) {
	if e == nil {
		return nil, nil, ErrNoTurn
	}
	i.mu.Lock()
	if e.number == 0 {
		e.number = rand.Uint64() | 1 //nolint:gosec // to tell events apart
	}
	chain := i.chainLocked(e, e.number)
	i.mu.Unlock()
	gate, err := i.leaving(e, outwardCall)
	return chain, gate, err
}

// chainLocked is the chain of a call that an event makes, for which it has the number.
func (i *incarnation) chainLocked(e *event, number uint64) []Link {
	name, named := i.state.Name()
	return append(slices.Clip(e.call.Chain), Link{Event: number, Label: label(i.class.Name, name, named, i.ref.ID)})
}

// outwardCall names a call of another object in errors.
const outwardCall = "A call of another object"

// leaving puts what an event is about to let out at the output gate; what names it in errors.
func (i *incarnation) leaving(e *event, what string) (<-chan error, error) {
	w, opened := barrierOf(e)
	return opened, i.atGate(w, what)
}

// atGate puts a barrier of an event, with the turn or without it, at the output gate.
func (i *incarnation) atGate(w waiter, what string) error {
	i.mu.Lock()
	outside := slices.Contains(i.m.suspended, w.e)
	i.mu.Unlock()
	if outside {
		return i.barrierOutside(w)
	}
	return i.barrier(w, what)
}

// barrierOutside is barrier, of an event that has given up its turn: it has no segment to close.
func (i *incarnation) barrierOutside(w waiter) error {
	log := i.shard.manager.log
	sole := log.ConfirmNow(i.shard.id, i.term)
	i.mu.Lock()
	if i.over != nil {
		defer i.mu.Unlock()
		return i.over
	}
	g := i.m.outside(w, sole)
	token := i.m.token
	i.unlock()
	if g == gateConfirm {
		log.Confirm(i.shard.id, i.term, i.object, token)
	}
	return nil
}

// label names an object for people.
func label(class, name string, named bool, id placement.ObjectID) string {
	which := id.String()
	if named {
		which = strconv.Quote(name[:min(len(name), labelBytesMax)])
	}
	l := class + " " + which
	if len(l) > labelBytesMax {
		l = l[:labelBytesMax-len("…")] + "…"
	}
	return strings.ToValidUTF8(l, "")
}

// listed lists the objects of a chain for people.
func listed(chain []Link, last string) string {
	var b strings.Builder
	for i := range chain {
		b.WriteString(chain[i].Label)
		b.WriteString(" → ")
	}
	b.WriteString(last)
	return b.String()
}

// errCycle refuses a call that would wait for itself.
func errCycle(c *Call) error {
	return fault.New(fault.CallCycle, "the call would wait for itself, and did not run: the object waits for it and holds its turn, which a Yield would give up; %s%s",
		chainIs, listed(c.Chain, label(c.Class, c.Name, c.Named, c.Object.ID)))
}

// noCaller is of a node on which objects can't call others.
type noCaller struct{}

// Call implements Caller.
func (noCaller) Call(_ context.Context, _ *Outgoing, done func(Result)) func(error) {
	done(Result{Err: status.Error(codes.Unimplemented, "objects can't call others on this node")})
	return func(error) {}
}

// NewUniqueID implements Caller.
func (noCaller) NewUniqueID(context.Context, string) (placement.ObjectID, error) {
	return placement.ObjectID{}, status.Error(codes.Unimplemented, "objects can't call others on this node")
}
