// Package fault holds the errors that Holdfast itself answers a call with: one reason for each
// thing that can go wrong, each tied to one gRPC code, in one table. Errors of a class's own
// handlers are not faults and pass through as they are.
//
// A fault is an error and a gRPC status at once: returned from a gRPC handler it becomes a status
// with google.rpc.ErrorInfo{domain: "holdfast", reason, metadata}.
package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Domain is the ErrorInfo domain of every fault.
const Domain = "holdfast"

// Reason says what went wrong, in the words callers match on.
type Reason string

// The reasons. What each means for the caller stands beside it in the table below.
const (
	MissingObject      Reason = "MISSING_OBJECT"
	AmbiguousObject    Reason = "AMBIGUOUS_OBJECT"
	InvalidID          Reason = "INVALID_ID"
	InvalidKey         Reason = "INVALID_KEY"
	InvalidArgument    Reason = "INVALID_ARGUMENT"
	ValueTooLarge      Reason = "VALUE_TOO_LARGE"
	WriteSetTooLarge   Reason = "WRITE_SET_TOO_LARGE"
	RequestTooLarge    Reason = "REQUEST_TOO_LARGE"
	UnknownClass       Reason = "UNKNOWN_CLASS"
	UnknownObject      Reason = "UNKNOWN_OBJECT"
	UnknownNode        Reason = "UNKNOWN_NODE"
	UnknownWorker      Reason = "UNKNOWN_WORKER"
	UnknownMethod      Reason = "UNKNOWN_METHOD"
	UnknownAlarm       Reason = "UNKNOWN_ALARM"
	AlarmPending       Reason = "ALARM_PENDING"
	ObjectExists       Reason = "OBJECT_EXISTS"
	ImportUnfinished   Reason = "IMPORT_UNFINISHED"
	NoOwner            Reason = "NO_OWNER"
	OwnerChanged       Reason = "OWNER_CHANGED"
	DiskFull           Reason = "DISK_FULL"
	OutcomeUnknown     Reason = "OUTCOME_UNKNOWN"
	RequestInterrupted Reason = "REQUEST_INTERRUPTED"
	ObjectReset        Reason = "OBJECT_RESET"
	Overloaded         Reason = "OVERLOADED"
	SlowConsumer       Reason = "SLOW_CONSUMER"
	CallCycle          Reason = "CALL_CYCLE"
	ObjectTimeout      Reason = "OBJECT_TIMEOUT"
	Panic              Reason = "PANIC"
)

// A call of a method that is of the other kind (streaming, or not) is refused with UnknownMethod, and
// KindKey of the metadata says of which it is.
const (
	KindKey    = "kind"
	KindUnary  = "unary"
	KindStream = "stream"
)

// LimitKey of the metadata of an ObjectTimeout, or of an ObjectReset that follows from one, says what took too
// long: LimitMailbox, a method, or what has a limit of its own.
const (
	LimitKey     = "limit"
	LimitMailbox = "mailbox"
	LimitBlock   = "Block"
	LimitInit    = "Init"
)

// codeOf is the table. UNAVAILABLE means "certainly not executed" and nothing else, because
// proxies and clients retry it by themselves.
var codeOf = map[Reason]codes.Code{
	MissingObject:      codes.InvalidArgument,
	AmbiguousObject:    codes.InvalidArgument,
	InvalidID:          codes.InvalidArgument,
	InvalidKey:         codes.InvalidArgument,
	InvalidArgument:    codes.InvalidArgument,
	ValueTooLarge:      codes.InvalidArgument,
	WriteSetTooLarge:   codes.InvalidArgument,
	RequestTooLarge:    codes.InvalidArgument,
	UnknownClass:       codes.NotFound,
	UnknownObject:      codes.NotFound,
	UnknownNode:        codes.NotFound,
	UnknownWorker:      codes.NotFound,
	UnknownMethod:      codes.Unimplemented,
	UnknownAlarm:       codes.NotFound,
	AlarmPending:       codes.FailedPrecondition,
	ObjectExists:       codes.AlreadyExists,
	ImportUnfinished:   codes.FailedPrecondition,
	NoOwner:            codes.Unavailable,
	OwnerChanged:       codes.Unavailable,
	DiskFull:           codes.Unavailable,
	OutcomeUnknown:     codes.Aborted,
	RequestInterrupted: codes.Aborted,
	ObjectReset:        codes.Aborted,
	Overloaded:         codes.ResourceExhausted,
	SlowConsumer:       codes.ResourceExhausted,
	CallCycle:          codes.FailedPrecondition,
	ObjectTimeout:      codes.DeadlineExceeded,
	Panic:              codes.Internal,
}

// Error is a fault. It is immutable and safe for concurrent use.
type Error struct {
	Reason   Reason
	Message  string
	Metadata map[string]string
}

// New makes a fault. The message names the field and the limit, or says what to do next.
func New(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// With returns a copy of e with one more metadata pair.
func (e *Error) With(key, value string) *Error {
	md := make(map[string]string, len(e.Metadata)+1)
	maps.Copy(md, e.Metadata)
	md[key] = value
	return &Error{Reason: e.Reason, Message: e.Message, Metadata: md}
}

// Error implements error.
func (e *Error) Error() string { return string(e.Reason) + ": " + e.Message }

// Code returns the gRPC code of the reason.
func (e *Error) Code() codes.Code {
	code, ok := codeOf[e.Reason]
	if !ok {
		return codes.Internal
	}
	return code
}

// GRPCStatus makes a fault usable with status.FromError and as a gRPC handler's error.
func (e *Error) GRPCStatus() *status.Status {
	s := status.New(e.Code(), e.Message)
	d, err := s.WithDetails(&errdetails.ErrorInfo{Domain: Domain, Reason: string(e.Reason), Metadata: e.Metadata})
	if err != nil { // Only OK statuses and unmarshallable details fail; neither can happen here.
		return s
	}
	return d
}

// Is makes errors.Is match by reason: errors.Is(err, fault.New(fault.NoOwner, "")).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// ReasonOf returns the reason of err, which may be a fault or a gRPC status that carries one.
// It is empty when err is neither.
func ReasonOf(err error) Reason {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	s, ok := status.FromError(err)
	if !ok {
		return ""
	}
	return ReasonOfStatus(s)
}

// StatusOf returns what a call that ended with err is answered with: the status of a fault or of a gRPC
// error, that of the end of a context, or UNKNOWN with the error's text.
func StatusOf(err error) *status.Status {
	s, ok := status.FromError(err)
	if !ok && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		s = status.FromContextError(err)
	}
	return s
}

// ReasonOfStatus returns the reason that a gRPC status carries, or "".
func ReasonOfStatus(s *status.Status) Reason {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return Reason(info.GetReason())
		}
	}
	return ""
}

// Known says that it is one of the reasons above: what comes over the wire need not be.
func (r Reason) Known() bool {
	_, ok := codeOf[r]
	return ok
}

// Retryable says whether a call that ended so certainly did not execute and may be sent again.
func (r Reason) Retryable() bool { return r == NoOwner || r == OwnerChanged }

// MetadataOf returns the metadata of err, which may be a fault or a gRPC status that carries one. The
// caller must not change it.
func MetadataOf(err error) map[string]string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Metadata
	}
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return info.GetMetadata()
		}
	}
	return nil
}
