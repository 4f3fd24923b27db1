package worker

import (
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/worker/quickjs"
)

// ErrorDomain is the ErrorInfo domain of what JavaScript has thrown: the reason is the name of the standard
// class that the error is of, or of a DOMException, and the message of the status is the error's.
const ErrorDomain = "holdfast.js"

// Keys of an ErrorInfo's metadata: of what JavaScript has thrown, and of a fault by which JavaScript is to be told
// something else than the fault's own text. Flags are "true".
const (
	metaDOM        = "dom"        // the error is a DOMException
	metaRetryable  = "retryable"  // error.retryable
	metaOverloaded = "overloaded" // error.overloaded
	metaReset      = "reset"      // error.durableObjectReset
	metaName       = "js-name"    // of the error that reset the object
	metaMessage    = "js-message"
)

// jsError is what JavaScript has thrown, outside of the engine. It is a gRPC status.
type jsError struct {
	Name, Message, Stack              string
	DOM, Retryable, Overloaded, Reset bool
}

// Error implements error.
func (e *jsError) Error() string { return e.Name + ": " + e.Message }

// GRPCStatus is what callers elsewhere get.
func (e *jsError) GRPCStatus() *status.Status {
	s := status.New(codes.Unknown, strings.ToValidUTF8(e.Message, "\uFFFD"))
	d, err := s.WithDetails(&errdetails.ErrorInfo{Domain: ErrorDomain, Reason: e.Name, Metadata: e.metadata()})
	if err != nil {
		return s
	}
	return d
}

func (e *jsError) metadata() map[string]string {
	md := make(map[string]string)
	for key, is := range map[string]bool{metaDOM: e.DOM, metaRetryable: e.Retryable, metaOverloaded: e.Overloaded, metaReset: e.Reset} {
		if is {
			md[key] = "true"
		}
	}
	return md
}

// reset is the fault by which an object is reset because JavaScript threw e.
func (e *jsError) reset() *fault.Error {
	f := fault.New(fault.ObjectReset, "the object was reset: %s", e.Error()).With(metaName, e.Name).With(metaMessage, e.Message)
	if e.DOM {
		f = f.With(metaDOM, "true")
	}
	return f
}

// resetFor is the fault by which an object is reset whose callers get an Error with the message.
func resetFor(message string) *fault.Error {
	return fault.New(fault.ObjectReset, "the object was reset: %s", message).With(metaMessage, message)
}

// thrown takes what JavaScript has thrown out of the engine.
func (e *engine) thrown(err *quickjs.Error) error {
	out := &jsError{Name: err.Name, Message: err.Message, Stack: err.Stack}
	if errors.Is(err, quickjs.ErrStackOverflow) {
		out.Name, out.Message = "RangeError", "Maximum call stack size exceeded"
		return out
	}
	if err.Name != "" && err.Value.IsUndefined() {
		return out // It was made in Go.
	}
	v, failed := e.run.thrown.Value().Call(quickjs.Value{}, err.Value)
	if failed != nil {
		if isFatal(failed) || isAbort(failed) {
			return failed
		}
		out.Name = "Error"
		return out
	}
	for name, to := range map[string]*string{"name": &out.Name, "message": &out.Message, "stack": &out.Stack} {
		if p, err := v.Get(name); err == nil && p.Kind() == quickjs.String {
			if text, err := p.Text(); err == nil {
				*to = text
			}
		}
	}
	for name, to := range map[string]*bool{"dom": &out.DOM, "retryable": &out.Retryable, "overloaded": &out.Overloaded, "durableObjectReset": &out.Reset} {
		if p, err := v.Get(name); err == nil {
			*to = p.Truthy()
		}
	}
	return out
}

// told is what JavaScript is told of an error that it did not throw itself.
type told struct {
	name, message                     string
	dom, retryable, overloaded, reset bool
	breaks                            bool // the stub is of no use any more
	remote                            bool // the other side has thrown it
}

// Texts of Durable Objects.
const (
	textLost        = "Network connection lost."
	textOverloaded  = "Durable Object is overloaded. Too many requests queued."
	textTooLong     = "Durable Object is overloaded. Requests queued for too long."
	textBlocked     = "A call to blockConcurrencyWhile() in a Durable Object waited for too long. The call was canceled and the Durable Object was reset."
	textCPU         = "Durable Object exceeded its CPU time limit and was reset."
	textMemory      = "Durable Object's isolate exceeded its memory limit and was reset."
	textCPUOther    = "Durable Object was reset because another one in its JavaScript engine exceeded its CPU time limit."
	textMemoryOther = "Durable Object was reset because its JavaScript engine exceeded its memory limit."
	textEngine      = "Internal error in the JavaScript engine caused object to be reset."
)

// tell says what JavaScript is told of why a call has failed.
func tell(err error) told {
	if js, ok := errors.AsType[*jsError](err); ok {
		return told{name: js.Name, message: js.Message, dom: js.DOM, retryable: js.Retryable, overloaded: js.Overloaded, reset: js.Reset, remote: true}
	}
	s := fault.StatusOf(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == ErrorDomain {
			md := info.GetMetadata()
			return told{
				name: info.GetReason(), message: s.Message(), dom: md[metaDOM] != "", retryable: md[metaRetryable] != "",
				overloaded: md[metaOverloaded] != "", reset: md[metaReset] != "", remote: true,
			}
		}
	}
	return tellFault(fault.ReasonOf(err), s.Message(), fault.MetadataOf(err))
}

func tellFault(reason fault.Reason, message string, md map[string]string) told {
	out := told{name: "Error", message: message, remote: true}
	switch reason { //nolint:exhaustive // the others are told by their own texts
	case fault.ObjectReset, fault.Panic:
		out.reset, out.breaks, out.remote = true, true, false
		if m, ok := md[metaMessage]; ok {
			out.message = m
		}
		if name, ok := md[metaName]; ok {
			out.name, out.dom = name, md[metaDOM] != ""
		}
		out.overloaded = md[metaOverloaded] != ""
	case fault.ObjectTimeout:
		switch md[fault.LimitKey] {
		case fault.LimitBlock:
			out.message, out.reset, out.breaks, out.overloaded, out.remote = textBlocked, true, true, true, false
		case fault.LimitMailbox:
			out.message, out.overloaded = textTooLong, true
		}
	case fault.NoOwner, fault.OwnerChanged, fault.OutcomeUnknown:
		out.message, out.retryable, out.breaks, out.remote = textLost, true, true, false
	case fault.Overloaded:
		out.message, out.overloaded = textOverloaded, true
	case fault.UnknownMethod:
		out.name = "TypeError"
	}
	return out
}

// errorValue makes of an error what JavaScript is given, of a call of the object with an id.
func (e *engine) errorValue(err error, object string) (quickjs.Value, error) {
	t := tell(err)
	props := e.js.Object()
	set := func(name string, v quickjs.Value) {
		if err == nil {
			err = props.Set(name, v)
		}
	}
	err = nil
	for name, is := range map[string]bool{"remote": t.remote, "retryable": t.retryable, "overloaded": t.overloaded, "durableObjectReset": t.reset} {
		if is {
			set(name, quickjs.BoolValue(true))
		}
	}
	if object != "" {
		set("durableObjectId", e.js.String(object))
	}
	if err != nil {
		return quickjs.Value{}, err
	}
	return e.run.makeError.Value().Call(quickjs.Value{}, e.js.String(t.name), e.js.String(t.message), quickjs.BoolValue(t.dom), props, quickjs.BoolValue(t.breaks))
}

// refused makes of an error of the object's own storage, or the like, what its JavaScript is thrown.
func refused(err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return quickjs.NewError("Error", "%v", err)
	}
	switch f.Reason { //nolint:exhaustive // the others are plain errors
	case fault.ObjectReset, fault.Panic, fault.OwnerChanged, fault.NoOwner, fault.OutcomeUnknown:
		panic(errGone) // The object's turn is over, and so is its JavaScript.
	case fault.InvalidKey, fault.ValueTooLarge:
		return quickjs.NewError("RangeError", "%s", f.Message)
	case fault.InvalidArgument:
		return quickjs.NewError("TypeError", "%s", f.Message)
	}
	return quickjs.NewError("Error", "%s", f.Message)
}
