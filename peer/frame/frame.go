// Package frame is the multiplexed conversation that nodes have with each other and the Go client
// has with nodes: many calls at once on one stream, in order, in frames of at most 256 KiB that
// take turns, so that a large call delays no small one.
//
// The codec is pure and by hand, because it is on the path of every forwarded call; the frames are
// described byte by byte in docs/format/frames.md. Mux is the conversation itself, over any gRPC
// stream of holdfast.v1.Frames.
package frame

import (
	"fmt"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
)

// Limits. What is over them is refused by who sends, and ends the stream of who sends it anyway.
const (
	// FrameBytesMax is the size of a frame with its length, and of a message of frames.
	FrameBytesMax = 256 << 10
	// BodyBytesMax is the size of a call's request or reply.
	BodyBytesMax = 32 << 20
	// NameBytesMax is the size of an object's name.
	NameBytesMax = 64 << 10
	// MetadataBytesMax is the size of a call's metadata, all keys and values together, each value
	// with its key and 8 bytes more.
	MetadataBytesMax = 64 << 10
	// RequestIDBytesMax is the size of a request id.
	RequestIDBytesMax = 128
	// MethodBytesMax is the size of a method's name, and of a class's.
	MethodBytesMax = 4 << 10
	// statusBytesMax is the size of an encoded google.rpc.Status. One over it loses its details.
	statusBytesMax = 64 << 10
	// ChainMax is how many links the chain of a call may have.
	ChainMax = 64
	// LabelBytesMax is the size of a link's label.
	LabelBytesMax = 256
	addrBytesMax  = 1 << 10
	kindBytesMax  = 256
)

// Request is a call of one object.
type Request struct {
	// Method is "/service/Method" when Class is empty, else the bare method name.
	Method string
	Class  string
	// Name is the object's when Named; otherwise ID is.
	Name  string
	Named bool
	ID    placement.ObjectID
	// JSON says that Body is JSON and the reply is to be.
	JSON bool
	// Values says that Body is a CBOR array of arguments, and that the reply is to be one CBOR item: see
	// docs/format/values.md. It is not sent to a side that has not said that it knows this. Not with JSON.
	Values bool
	// Ordered says that the caller keeps the order of its calls itself: no node may retry.
	Ordered bool
	// Hops counts the nodes that have forwarded the call.
	Hops uint8
	// Revision of the cluster facts that the sender knows.
	Revision uint64
	// Deadline is absolute here and what remains of it on the wire; zero: none.
	Deadline time.Time
	Metadata metadata.MD
	// RequestID makes the call one that is safe to send again: the object runs it once and answers the
	// others with the first's answer. Empty: none.
	RequestID string
	// Existing says that the object must exist: if it does not, nothing runs. It is not sent to a side
	// that has not said that it knows this.
	Existing bool
	// Chain are the events that wait for the call, the first caller's first; empty when no object made
	// it. Only nodes may say so: what a client says of it is dropped.
	Chain []Link
	Body  []byte
	// Pipe makes it a streamed call: Body is empty, and so is that of the Response, which ends it.
	Pipe *Pipe
}

// Link is an event that waits for a call which its object has made.
type Link struct {
	// Event is the number of the event: no other in the cluster has it.
	Event uint64
	// Label names its object for people. It is UTF-8.
	Label string
}

// check refuses what is over a limit (P7).
func (r *Request) check() error {
	switch {
	case len(r.Body) > BodyBytesMax:
		return fault.New(fault.RequestTooLarge, "request: at most %d bytes, has %d", BodyBytesMax, len(r.Body))
	case len(r.Name) > NameBytesMax:
		return fault.New(fault.InvalidArgument, "name: at most %d bytes, has %d", NameBytesMax, len(r.Name))
	case len(r.Method) > MethodBytesMax:
		return fault.New(fault.InvalidArgument, "method: at most %d bytes, has %d", MethodBytesMax, len(r.Method))
	case len(r.Class) > MethodBytesMax:
		return fault.New(fault.InvalidArgument, "class: at most %d bytes, has %d", MethodBytesMax, len(r.Class))
	case len(r.RequestID) > RequestIDBytesMax:
		return fault.New(fault.InvalidArgument, "holdfast-request-id: at most %d bytes, has %d", RequestIDBytesMax, len(r.RequestID))
	case len(r.Chain) > ChainMax:
		return fault.New(fault.InvalidArgument, "call chain: at most %d links, has %d", ChainMax, len(r.Chain))
	case len(r.Metadata) > 0:
		if n := metadataBytes(r.Metadata); n > MetadataBytesMax {
			return fault.New(fault.RequestTooLarge, "metadata: at most %d bytes, has %d", MetadataBytesMax, n)
		}
	}
	for i := range r.Chain {
		if l := len(r.Chain[i].Label); l > LabelBytesMax {
			return fault.New(fault.InvalidArgument, "label in a call chain: at most %d bytes, has %d", LabelBytesMax, l)
		}
	}
	return nil
}

// OwnerHint says who owns the shard of the object that was called, as far as the answering node
// knows. Shards is 0 when there is no hint.
type OwnerHint struct {
	Node   placement.NodeID
	Addr   string // public gRPC address
	Shard  placement.ShardID
	Shards uint32
	Term   uint64
}

// Response is the answer to a Request.
type Response struct {
	Body []byte
	// Status is a google.rpc.Status, encoded; nil: OK.
	Status   []byte
	Owner    OwnerHint
	Revision uint64
	// local is the error itself, when it did not come over the wire.
	local error
}

// Err returns the call's error, as a gRPC status error (or the very error given to ErrorResponse,
// when it did not come over the wire), or nil.
func (r *Response) Err() error {
	if r.local != nil {
		return r.local
	}
	if r.Status == nil {
		return nil
	}
	var s spb.Status
	if err := proto.Unmarshal(r.Status, &s); err != nil {
		return fmt.Errorf("decode status: %w", err)
	}
	if err := status.ErrorProto(&s); err != nil {
		return err
	}
	return status.Error(codes.Unknown, "the call failed, but its status says OK")
}

// Failed says that the call ended with an error.
func (r *Response) Failed() bool { return r.local != nil || r.Status != nil }

// ErrorResponse answers with an error: a fault, a gRPC status, the error of a context, or any
// other, which becomes UNKNOWN with its text.
func ErrorResponse(err error) Response { return Response{local: err} }

// encodeStatus returns the wire form of the response's error; nil: there is none.
func (r *Response) encodeStatus() []byte {
	raw := r.Status
	if r.local != nil {
		s := fault.StatusOf(r.local)
		var err error
		if raw, err = proto.Marshal(s.Proto()); err != nil || s.Code() == codes.OK {
			raw = unknownStatus
		}
	}
	if len(raw) > statusBytesMax {
		raw = shortStatus(raw)
	}
	return raw
}

// unknownStatus is a status of code UNKNOWN without a text.
var unknownStatus = []byte{0x08, byte(codes.Unknown)}

// shortStatus keeps the code and the beginning of the text of a status over the limit.
func shortStatus(raw []byte) []byte {
	var s spb.Status
	if err := proto.Unmarshal(raw, &s); err != nil {
		return unknownStatus
	}
	s.Details = nil
	if cut := statusBytesMax / 2; len(s.GetMessage()) > cut {
		s.Message = string([]rune(s.GetMessage()[:cut])) + " (cut)"
	}
	short, err := proto.Marshal(&s)
	if err != nil {
		return unknownStatus
	}
	return short
}

// LostError says that the conversation ended before the answer came. Sent is false when the call
// certainly never left as a whole, and so certainly did not run.
//
// As a gRPC status it is what a caller may be told: OUTCOME_UNKNOWN, or NO_OWNER when not sent.
type LostError struct {
	Sent  bool
	Cause error
}

// Error implements error.
func (e *LostError) Error() string {
	if e.Sent {
		return fmt.Sprintf("the connection was lost before the answer came: %v", e.Cause)
	}
	return fmt.Sprintf("the connection was lost before the call was sent: %v", e.Cause)
}

// Unwrap implements errors.
func (e *LostError) Unwrap() error { return e.Cause }

// GRPCStatus implements the interface of status.FromError.
func (e *LostError) GRPCStatus() *status.Status {
	if e.Sent {
		return fault.New(fault.OutcomeUnknown, "%v; the call may or may not have taken effect: read before calling again", e).GRPCStatus()
	}
	return fault.New(fault.NoOwner, "%v", e).GRPCStatus()
}
