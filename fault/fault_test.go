package fault_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-io/holdfast/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// codeOf is what callers rely on.
var codeOf = map[fault.Reason]codes.Code{
	"MISSING_OBJECT":      codes.InvalidArgument,
	"AMBIGUOUS_OBJECT":    codes.InvalidArgument,
	"INVALID_ID":          codes.InvalidArgument,
	"INVALID_KEY":         codes.InvalidArgument,
	"INVALID_ARGUMENT":    codes.InvalidArgument,
	"VALUE_TOO_LARGE":     codes.InvalidArgument,
	"WRITE_SET_TOO_LARGE": codes.InvalidArgument,
	"REQUEST_TOO_LARGE":   codes.InvalidArgument,
	"UNKNOWN_CLASS":       codes.NotFound,
	"UNKNOWN_OBJECT":      codes.NotFound,
	"UNKNOWN_NODE":        codes.NotFound,
	"UNKNOWN_WORKER":      codes.NotFound,
	"UNKNOWN_METHOD":      codes.Unimplemented,
	"UNKNOWN_ALARM":       codes.NotFound,
	"ALARM_PENDING":       codes.FailedPrecondition,
	"OBJECT_EXISTS":       codes.AlreadyExists,
	"IMPORT_UNFINISHED":   codes.FailedPrecondition,
	"NO_OWNER":            codes.Unavailable,
	"OWNER_CHANGED":       codes.Unavailable,
	"DISK_FULL":           codes.Unavailable,
	"OUTCOME_UNKNOWN":     codes.Aborted,
	"REQUEST_INTERRUPTED": codes.Aborted,
	"OBJECT_RESET":        codes.Aborted,
	"OVERLOADED":          codes.ResourceExhausted,
	"SLOW_CONSUMER":       codes.ResourceExhausted,
	"CALL_CYCLE":          codes.FailedPrecondition,
	"OBJECT_TIMEOUT":      codes.DeadlineExceeded,
	"PANIC":               codes.Internal,
}

// declared reads the reasons from the source: one without a code would be INTERNAL in silence.
func declared(t *testing.T) []fault.Reason {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "fault.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []fault.Reason
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Reason" {
			return true
		}
		for _, v := range spec.Values {
			lit, ok := v.(*ast.BasicLit)
			if !ok {
				t.Fatalf("%v is no literal", spec.Names)
			}
			s, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fault.Reason(s))
		}
		return true
	})
	return out
}

func TestEveryReasonHasItsCode(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(codeOf)), slices.Sorted(slices.Values(declared(t)))); diff != "" {
		t.Errorf("reasons (-want +declared):\n%s", diff)
	}
	for reason, want := range codeOf {
		if got := fault.New(reason, "x").Code(); got != want {
			t.Errorf("%s: got %s, want %s", reason, got, want)
		}
	}
	if got := fault.New("NO_SUCH_REASON", "x").Code(); got != codes.Internal {
		t.Errorf("a reason that is none: got %s", got)
	}
}

// Proxies and clients send again by themselves what ends UNAVAILABLE.
func TestNothingThatMayHaveRunIsUnavailable(t *testing.T) {
	t.Parallel()
	for reason, code := range codeOf {
		if reason.Retryable() && code != codes.Unavailable {
			t.Errorf("%s is retried, but %s", reason, code)
		}
	}
	var retried []fault.Reason
	for reason := range codeOf {
		if reason.Retryable() {
			retried = append(retried, reason)
		}
	}
	slices.Sort(retried)
	if diff := cmp.Diff([]fault.Reason{fault.NoOwner, fault.OwnerChanged}, retried); diff != "" {
		t.Errorf("retried (-want +got):\n%s", diff)
	}
}

func TestStatusCarriesErrorInfo(t *testing.T) {
	t.Parallel()
	for reason, code := range codeOf {
		s := fault.New(reason, "key: at most %d bytes, has %d", 2048, 3000).With("field", "key").With("limit", "2048").GRPCStatus()
		want := &spb.Status{Code: int32(code), Message: "key: at most 2048 bytes, has 3000"} //nolint:gosec // a small number
		info := &errdetails.ErrorInfo{Domain: "holdfast", Reason: string(reason), Metadata: map[string]string{"field": "key", "limit": "2048"}}
		got := s.Proto()
		if len(s.Details()) != 1 {
			t.Errorf("%s: got details %v", reason, s.Details())
			continue
		}
		if diff := cmp.Diff(info, s.Details()[0], protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", reason, diff)
		}
		got.Details = nil
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", reason, diff)
		}
	}
}

func TestWithLeavesTheOriginalAlone(t *testing.T) {
	t.Parallel()
	first := fault.New(fault.NoOwner, "m").With("a", "1")
	second := first.With("a", "2").With("b", "3")
	if diff := cmp.Diff(map[string]string{"a": "1"}, first.Metadata); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&fault.Error{Reason: fault.NoOwner, Message: "m", Metadata: map[string]string{"a": "2", "b": "3"}}, second); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// overTheWire returns err as a caller on another machine gets it.
func overTheWire(t *testing.T, err error) error {
	t.Helper()
	s, _ := status.FromError(err)
	raw, marshalErr := proto.Marshal(s.Proto())
	if marshalErr != nil {
		t.Fatal(marshalErr)
	}
	var p spb.Status
	if err := proto.Unmarshal(raw, &p); err != nil {
		t.Fatal(err)
	}
	return status.ErrorProto(&p)
}

func TestReasonSurvivesWrappingAndTheWire(t *testing.T) {
	t.Parallel()
	for reason := range codeOf {
		plain := fault.New(reason, "m").With("k", "v")
		wrapped := fmt.Errorf("open shard 3: %w", plain)
		for name, err := range map[string]error{
			"plain":           plain,
			"wrapped":         wrapped,
			"wrapped twice":   fmt.Errorf("start: %w", wrapped),
			"joined":          errors.Join(errors.New("other"), wrapped),
			"its status":      plain.GRPCStatus().Err(),
			"wrapped status":  fmt.Errorf("call: %w", plain.GRPCStatus().Err()),
			"wire":            overTheWire(t, plain),
			"wrapped, wire":   overTheWire(t, wrapped),
			"wire, wrapped":   fmt.Errorf("call: %w", overTheWire(t, plain)),
			"over two wires":  overTheWire(t, overTheWire(t, plain)),
			"joined, by wire": errors.Join(errors.New("other"), overTheWire(t, plain)),
		} {
			if got := fault.ReasonOf(err); got != reason {
				t.Errorf("%s, %s: got %q", reason, name, got)
			}
			if got := status.Code(err); got != codeOf[reason] {
				t.Errorf("%s, %s: got code %s", reason, name, got)
			}
		}
	}
}

func TestWhatIsNoFaultHasNoReason(t *testing.T) {
	t.Parallel()
	foreign, err := status.New(codes.Unavailable, "x").WithDetails(&errdetails.ErrorInfo{Domain: "googleapis.com", Reason: "NO_OWNER"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := status.New(codes.Unavailable, "x").WithDetails(&errdetails.RetryInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		nil, errors.New("NO_OWNER"), context.Canceled, context.DeadlineExceeded,
		status.Error(codes.Unavailable, "NO_OWNER"), foreign.Err(), other.Err(),
	} {
		if got := fault.ReasonOf(err); got != "" {
			t.Errorf("%v: got %q", err, got)
		}
	}
	if got := fault.ReasonOfStatus(status.New(codes.OK, "")); got != "" {
		t.Errorf("OK: got %q", got)
	}
	if got := fault.ReasonOfStatus(nil); got != "" {
		t.Errorf("no status: got %q", got)
	}
}

// A proxy on the way may add details of its own.
func TestReasonIsFoundAmongOtherDetails(t *testing.T) {
	t.Parallel()
	s, err := status.New(codes.Unavailable, "x").WithDetails(
		&errdetails.RetryInfo{},
		&errdetails.ErrorInfo{Domain: "proxy.example", Reason: "SLOW"},
		&errdetails.ErrorInfo{Domain: fault.Domain, Reason: string(fault.NoOwner)},
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := fault.ReasonOf(s.Err()); got != fault.NoOwner {
		t.Errorf("got %q", got)
	}
}

func TestErrorsMatchByReason(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("call: %w", fault.New(fault.NoOwner, "one text"))
	if !errors.Is(err, fault.New(fault.NoOwner, "another")) {
		t.Error("the same reason does not match")
	}
	if errors.Is(err, fault.New(fault.OwnerChanged, "one text")) || errors.Is(err, errors.New("one text")) {
		t.Error("another error matches")
	}
	if got := fault.New(fault.NoOwner, "shard %d", 3).Error(); got != "NO_OWNER: shard 3" {
		t.Errorf("got %q", got)
	}
}
