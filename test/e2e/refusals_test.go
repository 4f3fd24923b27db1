package e2e_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// rawClient speaks HTTP/2 without a gRPC library, which would refuse some of what is sent here
// before it is sent.
type rawClient struct {
	addr string
	http *http.Client
}

func newRawClient(t *testing.T, addr string) *rawClient {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &rawClient{addr: addr, http: &http.Client{Transport: transport, Timeout: 20 * time.Second}}
}

// message is a gRPC message on the wire.
func message(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
}

// call posts what is given and returns the status as gRPC's client would; headers come in pairs.
func (c *rawClient) call(ctx context.Context, path string, body []byte, headers ...string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addr+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	trailer := resp.Trailer
	if resp.Header.Get("Grpc-Status") != "" {
		trailer = resp.Header // No message: the trailers came as headers.
	}
	code, err := strconv.Atoi(trailer.Get("Grpc-Status"))
	if err != nil {
		return errors.New("HTTP " + resp.Status + " without a gRPC status")
	}
	if details := trailer.Get("Grpc-Status-Details-Bin"); details != "" {
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(details, "="))
		if err != nil {
			return err
		}
		var s spb.Status
		if err := proto.Unmarshal(raw, &s); err != nil {
			return err
		}
		return status.FromProto(&s).Err()
	}
	text, err := url.PathUnescape(trailer.Get("Grpc-Message"))
	if err != nil {
		return err
	}
	return status.Error(codes.Code(code), text)
}

// refused checks an error: its code, its reason, and that its text has every one of the words.
func refused(t *testing.T, what string, err error, code codes.Code, reason fault.Reason, words ...string) {
	t.Helper()
	s, _ := status.FromError(err)
	if s.Code() != code || fault.ReasonOf(err) != reason {
		t.Errorf("%s: got %s %q (%s), want %s %q", what, s.Code(), fault.ReasonOf(err), s.Message(), code, reason)
		return
	}
	for _, word := range words {
		if !strings.Contains(s.Message(), word) {
			t.Errorf("%s: %q is not in %q", what, word, s.Message())
		}
	}
}

const (
	counterGet       = "/holdfast.examples.counter.v1.Counter/Get"
	counterIncrement = "/holdfast.examples.counter.v1.Counter/Increment"
)

// with returns a context with metadata and a deadline.
func with(t *testing.T, pairs ...string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), pairs...), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestRefusals sends what is wrong to a cluster, in every way that a caller has, and checks what a
// caller sees (P7); afterwards the same nodes answer as before, and nothing is stored.
func TestRefusals(t *testing.T) {
	nodes := threeNodes(t)
	for _, p := range nodes {
		t.Run("through "+p.name, func(t *testing.T) {
			t.Run("plain gRPC", func(t *testing.T) { plainRefusals(t, p) })
			t.Run("Objects", func(t *testing.T) { objectsRefusals(t, p) })
			t.Run("large", func(t *testing.T) { largeRefusals(t, p) })
			t.Run("raw HTTP2", func(t *testing.T) { rawRefusals(t, p) })
			t.Run("command line", func(t *testing.T) { commandRefusals(t, p) })
		})
	}
	for _, p := range nodes {
		p.alive()
		if out, errs, code := holdfast("objects", "Counter", "--addr", p.ports["grpc"]); out != "" || code != 0 {
			t.Errorf("objects through %s: exit %d, %q, %s", p.name, code, out, errs)
		}
	}
	for i, p := range nodes {
		resp, err := counterv1.NewCounterClient(p.conn()).Increment(with(t, "holdfast-name", "after"), &counterv1.IncrementRequest{})
		if err != nil || resp.GetValue() != int64(i+1) {
			t.Errorf("increment through %s: %v, %v", p.name, resp, err)
		}
	}
}

func plainRefusals(t *testing.T, p *process) {
	t.Helper()
	conn := p.conn()
	invoke := func(method string, pairs ...string) error {
		return conn.Invoke(with(t, pairs...), method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	id := placement.NewNamespace("Counter").IDFromName("x").String()
	foreign := placement.NewNamespace("Other").IDFromName("x").String()
	const hex64 = "64"
	large := strings.Repeat("x", 64<<10+1)

	refused(t, "no object", invoke(counterGet), codes.InvalidArgument, fault.MissingObject, "holdfast-name", "holdfast-name-bin", "holdfast-id", hex64)
	for what, pairs := range map[string][]string{
		"name and id":          {"holdfast-name", "a", "holdfast-id", id},
		"name and binary name": {"holdfast-name", "a", "holdfast-name-bin", "a"},
		"two names":            {"holdfast-name", "a", "holdfast-name", "b"},
		"two ids":              {"holdfast-id", id, "holdfast-id", id},
	} {
		refused(t, what, invoke(counterGet, pairs...), codes.InvalidArgument, fault.AmbiguousObject, "exactly one", "holdfast-name", "holdfast-id")
	}
	for what, bad := range map[string]string{"no hex": "xyz", "empty": "", "short": id[:62], "long": id + "00", "no digits": strings.Repeat("g", 64)} {
		refused(t, "id: "+what, invoke(counterGet, "holdfast-id", bad), codes.InvalidArgument, fault.InvalidID, "holdfast-id", hex64)
	}
	refused(t, "id of another class", invoke(counterGet, "holdfast-id", foreign), codes.InvalidArgument, fault.InvalidID, foreign, "class Counter")
	refused(t, "large name", invoke(counterGet, "holdfast-name", large), codes.InvalidArgument, fault.InvalidArgument, "name", "65536", "65537")
	refused(t, "large binary name", invoke(counterGet, "holdfast-name-bin", large), codes.InvalidArgument, fault.InvalidArgument, "name", "65536", "65537")
	refused(t, "binary name that is not UTF-8", invoke(counterIncrement, "holdfast-name-bin", "\xff"), codes.InvalidArgument, fault.InvalidArgument, "name", "UTF-8")

	refused(t, "unknown service", invoke("/no.such.Service/Get", "holdfast-name", "a"), codes.NotFound, fault.UnknownClass, "no.such.Service")
	refused(t, "unknown method", invoke("/holdfast.examples.counter.v1.Counter/Nope", "holdfast-name", "a"), codes.Unimplemented, fault.UnknownMethod, "Counter", "Nope")
	refused(t, "reserved service", invoke("/holdfast.system.v1.System/Facts", "holdfast-name", "cluster"), codes.NotFound, fault.UnknownClass, "reserved")

	// A stream of a service that is not there, of all shapes.
	for what, desc := range map[string]*grpc.StreamDesc{
		"of the client": {ClientStreams: true}, "of the server": {ServerStreams: true}, "of both": {ClientStreams: true, ServerStreams: true},
	} {
		for messages := range 3 {
			if messages != 1 && !desc.ClientStreams {
				continue
			}
			stream, err := conn.NewStream(with(t, "holdfast-name", "a"), desc, "/no.such.Service/Stream")
			if err != nil {
				t.Fatal(err)
			}
			for range messages {
				_ = stream.SendMsg(&emptypb.Empty{}) // The answer says what became of it.
			}
			_ = stream.CloseSend()
			err = stream.RecvMsg(&emptypb.Empty{})
			refused(t, "a stream "+what, err, codes.NotFound, fault.UnknownClass, "no.such.Service")
		}
	}
}

func objectsRefusals(t *testing.T, p *process) {
	t.Helper()
	objects := holdfastv1.NewObjectsClient(p.conn())
	call := func(req *holdfastv1.CallRequest) error {
		_, err := objects.Call(with(t), req)
		return err
	}
	named := func(class, name, method, json string) error {
		return call(&holdfastv1.CallRequest{Class: class, Object: &holdfastv1.CallRequest_Name{Name: name}, Method: method, Json: json})
	}
	byID := func(id string) error {
		return call(&holdfastv1.CallRequest{Class: "Counter", Object: &holdfastv1.CallRequest_Id{Id: id}, Method: "Get"})
	}
	foreign := placement.NewNamespace("Other").IDFromName("x").String()
	refused(t, "no object", call(&holdfastv1.CallRequest{Class: "Counter", Method: "Get"}), codes.InvalidArgument, fault.MissingObject, "name or id")
	refused(t, "no id", byID("xyz"), codes.InvalidArgument, fault.InvalidID, "id", "64")
	refused(t, "id of another class", byID(foreign), codes.InvalidArgument, fault.InvalidID, foreign, "Counter")
	drawn, err := objects.NewUniqueID(with(t), &holdfastv1.NewUniqueIDRequest{Class: "Counter"})
	if err == nil {
		err = byID(drawn.GetId())
	}
	if err != nil {
		t.Errorf("an id that was drawn: %v", err)
	}
	_, err = objects.NewUniqueID(with(t), &holdfastv1.NewUniqueIDRequest{Class: "Nope"})
	refused(t, "an id of an unknown class", err, codes.NotFound, fault.UnknownClass, `"Nope"`)
	refused(t, "no class", named("", "a", "Get", ""), codes.NotFound, fault.UnknownClass, "class")
	refused(t, "unknown class", named("Nope", "a", "Get", ""), codes.NotFound, fault.UnknownClass, `"Nope"`)
	refused(t, "reserved class", named("holdfast.System", "cluster", "Facts", ""), codes.NotFound, fault.UnknownClass, "reserved")
	refused(t, "no method", named("Counter", "a", "", ""), codes.Unimplemented, fault.UnknownMethod, "method")
	refused(t, "unknown method", named("Counter", "a", "Nope", ""), codes.Unimplemented, fault.UnknownMethod, "Counter", `"Nope"`)
	refused(t, "no JSON", named("Counter", "a", "Increment", "{"), codes.InvalidArgument, fault.InvalidArgument, "IncrementRequest")
	refused(t, "another field", named("Counter", "a", "Increment", `{"amuont": 1}`), codes.InvalidArgument, fault.InvalidArgument, "IncrementRequest", "amuont")
	refused(t, "another type", named("Counter", "a", "Increment", `{"amount": "five"}`), codes.InvalidArgument, fault.InvalidArgument, "IncrementRequest", "amount")
	refused(t, "large name", named("Counter", strings.Repeat("x", 64<<10+1), "Get", ""), codes.InvalidArgument, fault.InvalidArgument, "name", "65536", "65537")
}

// largeRefusals sends requests over the limit in every way; the connection goes on.
func largeRefusals(t *testing.T, p *process) {
	t.Helper()
	conn := p.conn()
	body := make([]byte, 40<<20)
	limit := []string{"request", "33554432"}
	err := conn.Invoke(with(t, "holdfast-name", "a"), counterIncrement, wrapperspb.Bytes(body), &emptypb.Empty{})
	refused(t, "40 MiB", err, codes.InvalidArgument, fault.RequestTooLarge, limit...)
	_, err = holdfastv1.NewObjectsClient(conn).Call(with(t), &holdfastv1.CallRequest{
		Class: "Counter", Object: &holdfastv1.CallRequest_Name{Name: "a"}, Method: "Get", Json: strings.Repeat(" ", len(body)),
	})
	refused(t, "40 MiB of JSON", err, codes.InvalidArgument, fault.RequestTooLarge, limit...)
	if _, err := counterv1.NewCounterClient(conn).Get(with(t, "holdfast-name", "a"), &counterv1.GetRequest{}); err != nil {
		t.Errorf("the same connection afterwards: %v", err)
	}

	c, err := client.New([]string{p.ports["grpc"]})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := c.Name("Counter", "a")
	refused(t, "40 MiB through the client", o.Invoke(with(t), counterIncrement, wrapperspb.Bytes(body), &emptypb.Empty{}), codes.InvalidArgument, fault.RequestTooLarge, limit...)
	if _, err := counterv1.NewCounterClient(o).Get(with(t), &counterv1.GetRequest{}); err != nil {
		t.Errorf("the client afterwards: %v", err)
	}
}

func rawRefusals(t *testing.T, p *process) {
	t.Helper()
	c := newRawClient(t, p.ports["grpc"])
	ctx := with(t)
	get := func(headers ...string) error { return c.call(ctx, counterGet, message(nil), headers...) }
	if err := get("holdfast-name", "a"); err != nil {
		t.Fatalf("a call that is right: %v", err)
	}
	// gRPC itself may be the one that sees that the deadline has passed.
	if err := get("holdfast-name", "a", "grpc-timeout", "1n"); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(status.Convert(err).Message(), "deadline") {
		t.Errorf("a deadline in the past: %v", err)
	}
	refused(t, "a deadline that is none", get("holdfast-name", "a", "grpc-timeout", "soon"), codes.Internal, "", "timeout")
	refused(t, "no message", c.call(ctx, counterGet, []byte{0, 0, 0, 0, 9}, "holdfast-name", "a"), codes.Internal, "")
	refused(t, "no protobuf", c.call(ctx, counterIncrement, message([]byte{0xff, 0xff, 0xff}), "holdfast-name", "a"), codes.InvalidArgument, fault.InvalidArgument, "IncrementRequest")
	refused(t, "an encoding nobody has", c.call(ctx, counterGet, append([]byte{1}, message(nil)[1:]...), "holdfast-name", "a", "grpc-encoding", "zip"), codes.Unimplemented, "", "zip")
	for _, path := range []string{"/", "//", "/Counter", "/holdfast.examples.counter.v1.Counter/", "/%00/%ff"} {
		if err := c.call(ctx, path, message(nil), "holdfast-name", "a"); status.Code(err) == codes.OK || status.Code(err) == codes.Unavailable || status.Code(err) == codes.Internal {
			t.Errorf("path %q: %v", path, err)
		}
	}
	// What begins with "holdfast-" is the gateway's to set: a caller cannot pretend to be a node.
	if err := get("holdfast-name", "a", "holdfast-from", "1", "holdfast-hops", "9", "holdfast-revision", "999999"); err != nil {
		t.Errorf("foreign holdfast-… metadata: %v", err)
	}
}

func commandRefusals(t *testing.T, p *process) {
	t.Helper()
	foreign := placement.NewNamespace("Other").IDFromName("x").String()
	for what, tc := range map[string]struct {
		args  []string
		code  int
		words []string
	}{
		"no id":               {[]string{"call", "Counter", "--id", "xyz", "Get"}, 1, []string{"INVALID_ID", "64"}},
		"id of another class": {[]string{"call", "Counter", "--id", foreign, "Get"}, 1, []string{"INVALID_ID", foreign, "Counter"}},
		"unknown class":       {[]string{"call", "Nope", "a", "Get"}, 1, []string{"UNKNOWN_CLASS", `"Nope"`}},
		"reserved class":      {[]string{"call", "holdfast.System", "a", "Facts"}, 1, []string{"UNKNOWN_CLASS", "reserved"}},
		"unknown method":      {[]string{"call", "Counter", "a", "Nope"}, 1, []string{"UNKNOWN_METHOD", `"Nope"`}},
		"no JSON":             {[]string{"call", "Counter", "a", "Increment", "{"}, 1, []string{"INVALID_ARGUMENT", "IncrementRequest"}},
		"large name":          {[]string{"call", "Counter", strings.Repeat("x", 64<<10+1), "Get"}, 1, []string{"INVALID_ARGUMENT", "name", "65536"}},
		"name of no UTF-8":    {[]string{"call", "Counter", "\xff", "Get"}, 2, []string{"UTF-8"}},
		"no time":             {[]string{"call", "Counter", "a", "Get", "--timeout", "0s"}, 1, []string{"DeadlineExceeded"}},
		"no method":           {[]string{"call", "Counter", "a"}, 2, []string{"CLASS NAME METHOD"}},
		"too much":            {[]string{"call", "Counter", "a", "Get", "{}", "more"}, 2, []string{"CLASS NAME METHOD"}},
		"bad timeout":         {[]string{"call", "Counter", "a", "Get", "--timeout", "soon"}, 2, []string{"--timeout"}},
		"unknown flag":        {[]string{"call", "Counter", "a", "Get", "--nope"}, 2, []string{"--nope"}},
		"bad output":          {[]string{"status", "-o", "xml"}, 2, []string{"--output", "json"}},
		"objects of nothing":  {[]string{"objects", "Nope"}, 1, []string{"UNKNOWN_CLASS", `"Nope"`}},
		"show nothing":        {[]string{"object", "Counter"}, 2, []string{"NAME", "--id"}},
		"show no object":      {[]string{"object", "Counter", "not-there"}, 1, []string{"UNKNOWN_OBJECT"}},
		"show no id":          {[]string{"object", "Counter", "--id", "xyz"}, 1, []string{"INVALID_ID", "64"}},
		"evict no id":         {[]string{"evict", "Counter", "--id", foreign}, 1, []string{"INVALID_ID"}},
		"drain nobody":        {[]string{"drain", "nobody"}, 1, []string{"UNKNOWN_NODE", "nobody"}},
		"drain --off nobody":  {[]string{"drain", "--off", "nobody"}, 1, []string{"UNKNOWN_NODE", "nobody"}},
		"drain and wait less": {[]string{"drain", "n1", "--wait=-1s"}, 2, []string{"--wait", "negative"}},
		"remove nobody":       {[]string{"remove", "nobody"}, 1, []string{"UNKNOWN_NODE", "nobody"}},
	} {
		_, errs, code := holdfast(append(tc.args, "--addr", p.ports["grpc"])...)
		if code != tc.code {
			t.Errorf("%s: exit %d, want %d: %s", what, code, tc.code, errs)
		}
		for _, word := range tc.words {
			if !strings.Contains(errs, word) {
				t.Errorf("%s: %q is not in %q", what, word, errs)
			}
		}
	}
}

// TestLimitsOfWhatIsStored: keys, values and events over their limits are refused, naming the
// limit, and nothing of the event stays.
func TestLimitsOfWhatIsStored(t *testing.T) {
	p := newProcess(t, "n1", "--bootstrap")
	p.bin = testnode
	p.start()
	p.waitReady()
	box := classesv1.NewBoxClient(p.conn())
	put := func(name string, keyBytes, valueBytes, count int32) error {
		_, err := box.Put(with(t, "holdfast-name", name), &classesv1.PutRequest{KeyBytes: keyBytes, ValueBytes: valueBytes, Count: count})
		return err
	}
	refused(t, "a key over the limit", put("key", 2049, 10, 1), codes.InvalidArgument, fault.InvalidKey, "key", "2048", "2049")
	refused(t, "a value over the limit", put("value", 10, 2<<20+1, 1), codes.InvalidArgument, fault.ValueTooLarge, "value", "2097152", "2097153")
	refused(t, "bytes of an event over the limit", put("bytes", 10, 1<<20, 17), codes.InvalidArgument, fault.WriteSetTooLarge, "16777216")
	refused(t, "writes of an event over the limit", put("writes", 10, 10, 10_001), codes.InvalidArgument, fault.WriteSetTooLarge, "10000")
	for _, name := range []string{"key", "value"} {
		if resp, err := box.Keys(with(t, "holdfast-name", name), &classesv1.KeysRequest{}); err != nil || resp.GetKeys() != 0 {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	// At the limits all is well, over a restart too.
	for name, err := range map[string]error{
		"key": put("key", 2048, 10, 1), "value": put("value", 10, 2<<20, 1), "bytes": put("bytes", 10, 1<<20, 15), "writes": put("writes", 10, 10, 10_000),
	} {
		if err != nil {
			t.Errorf("%s at its limit: %v", name, err)
		}
	}
	p.kill()
	p.start()
	p.waitReady()
	for name, want := range map[string]int32{"key": 1, "value": 1, "bytes": 15, "writes": 10_000} {
		if resp, err := box.Keys(with(t, "holdfast-name", name), &classesv1.KeysRequest{}); err != nil || resp.GetKeys() != want {
			t.Errorf("%s after a restart: %v, %v, want %d", name, resp.GetKeys(), err, want)
		}
	}

	stream, err := box.Watch(with(t, "holdfast-name", "a"))
	if err == nil {
		_, err = stream.Recv()
	}
	refused(t, "a streaming method that the class does not implement", err, codes.Unimplemented, "", "Watch", "not implemented")
	_, err = holdfastv1.NewObjectsClient(p.conn()).Call(with(t), &holdfastv1.CallRequest{Class: "Box", Object: &holdfastv1.CallRequest_Name{Name: "a"}, Method: "Watch"})
	refused(t, "a streaming method through Objects", err, codes.Unimplemented, fault.UnknownMethod, "Watch", "streaming")

	_, err = box.Panic(with(t, "holdfast-name", "panics"), &classesv1.KeysRequest{})
	refused(t, "a panic", err, codes.Internal, fault.Panic, "Panic", "Box", "as it was told")
	if resp, err := box.Keys(with(t, "holdfast-name", "panics"), &classesv1.KeysRequest{}); err != nil || resp.GetKeys() != 0 {
		t.Errorf("after a panic: %v, %v", resp, err)
	}
	p.alive()
}
