package actor

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-io/holdfast/tracing"
)

// traceWorld is a plainWorld whose calls are traced.
type traceWorld struct {
	*plainWorld

	tracer   *tracing.Tracer
	recorder *tracetest.SpanRecorder
}

func newTraceWorld(t *testing.T) *traceWorld {
	t.Helper()
	r := tracetest.NewSpanRecorder()
	return &traceWorld{newPlainWorld(t), tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r))), r}
}

// start has object 1 do something, as a call that is traced.
func (w *traceWorld) start(id string, act func(ctx context.Context, s *State) error) <-chan error {
	done := make(chan error, 1)
	span := w.tracer.Receive(nil, true, trace.SpanKindServer, "call")
	call := &Call{Object: plainRef(1), Class: plainClass, Method: "Act", RequestID: id, Span: span, Done: func(r Result) {
		span.End(r.Err)
		done <- r.Err
	}}
	w.acts.Store(call, act)
	w.manager.Deliver(call)
	return done
}

// spans returns what has ended since it was last called: each name with how long it took, "!" for an error and
// what it is a part of, sorted.
func (w *traceWorld) spans() (lines []string) {
	synctest.Wait()
	names := make(map[trace.SpanID]string)
	for _, s := range w.recorder.Started() {
		names[s.SpanContext().SpanID()] = s.Name()
	}
	for _, s := range w.recorder.Ended() {
		line := s.Name() + " " + s.EndTime().Sub(s.StartTime()).String()
		if s.Status().Code == codes.Error {
			line += "!"
		}
		if of := names[s.Parent().SpanID()]; of != "" {
			line += " of " + of
		}
		lines = append(lines, line)
	}
	w.recorder.Reset()
	slices.Sort(lines)
	return lines
}

func (w *traceWorld) has(what string, want ...string) {
	w.t.Helper()
	if got := w.spans(); !slices.Equal(got, want) {
		w.t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCallsAreTraced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTraceWorld(t)
		works := func(d time.Duration) func(context.Context, *State) error {
			return func(_ context.Context, s *State) error {
				time.Sleep(d) //nolint:forbidigo // in a bubble: that is what is measured
				_, err := add(s)
				return err
			}
		}
		w.log.set(func() { w.log.hold = true })
		a, b := w.start("", works(3*time.Millisecond)), w.start("", works(20*time.Millisecond))
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
		w.log.commit()
		for _, done := range []<-chan error{a, b} {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		w.has("two calls",
			"call 1s", "call 1s", "handler 20ms of call", "handler 3ms of call", "mailbox 0s of call", "mailbox 3ms of call",
			"output gate 977ms of call", "output gate 997ms of call") // This log ends no commits.

		// A handler that waits at the gate, and has its own span in its context.
		c := w.start("", func(ctx context.Context, s *State) error {
			_, own := trace.SpanFromContext(ctx).TracerProvider().Tracer("own").Start(ctx, "own")
			own.End()
			if err := s.Storage().Put("n", []byte{1}); err != nil {
				return err
			}
			return s.Confirm(ctx)
		})
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		w.log.commit()
		if err := <-c; err != nil {
			t.Fatal(err)
		}
		w.has("Confirm", "call 1m0s", "handler 1m0s of call", "mailbox 0s of call", "output gate 1m0s of handler", "own 0s of handler")

		w.log.set(func() { w.log.hold = false })
		for _, want := range [][]string{
			{"call 0s", "handler 0s of call", "mailbox 0s of call", "output gate 0s of call"},
			{"call 0s"}, // It does not run: it is answered with the first's.
		} {
			if err := <-w.start("id", works(0)); err != nil {
				t.Fatal(err)
			}
			w.has("a call with an id", want...)
		}
		if <-w.start("", func(context.Context, *State) error { panic("on purpose") }) == nil {
			t.Error("no error after a panic")
		}
		w.has("a panic", "call 0s!", "handler 0s! of call", "mailbox 0s of call")
	})
}

// Work that outlives its call belongs to its trace, and an object's own calls are made in the span of its handler.
func TestWaitUntilIsTraced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTraceWorld(t)
		if err := <-w.start("", func(ctx context.Context, s *State) error {
			return s.WaitUntil(ctx, func(ctx context.Context) error {
				time.Sleep(time.Second) //nolint:forbidigo // in a bubble
				md := tracing.Continue(ctx, nil)
				if len(md.Get("traceparent")) != 1 {
					t.Errorf("a call from it leaves with %v", md)
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		w.has("WaitUntil", "WaitUntil 1s of call", "call 0s", "handler 0s of call", "mailbox 0s of call")
	})
}
