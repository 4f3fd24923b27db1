package main

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
)

// collector is what traces are sent to. It keeps the names of spans, each behind the instance of its service.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer

	addr string

	mu    sync.Mutex
	spans []string
}

// Export implements collectorv1.TraceServiceServer.
func (c *collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range req.GetResourceSpans() {
		attributes := of.GetResource().GetAttributes()
		i := slices.IndexFunc(attributes, func(a *commonv1.KeyValue) bool { return a.GetKey() == "service.instance.id" })
		for _, scope := range of.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, attributes[i].GetValue().GetStringValue()+": "+span.GetName())
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// got returns the names of spans, sorted.
func (c *collector) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(slices.Values(c.spans))
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{addr: l.Addr().String()}
	s := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(s, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return c
}

// What a node has traced is at the collector when it has stopped, wherever it is told of that, and in the part that
// it is told to sample.
func TestTraces(t *testing.T) { // not parallel: it tunes the process's garbage collector
	all := []string{"dev: Counter/Increment", "dev: commit", "dev: handler", "dev: mailbox", "dev: output gate"}
	for _, tt := range []struct {
		what   string
		flags  []string
		env    map[string]string
		sample bool
	}{
		{"flags", []string{"--trace-endpoint", "http://ADDR", "--trace-sample", "1"}, nil, true},
		{"the environment", nil, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDR", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true},
		{"a flag before the environment", []string{"--trace-endpoint", "http://ADDR"}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, true},
		{"none are sampled", []string{"--trace-endpoint", "http://ADDR", "--trace-sample", "0"}, nil, false},
		{"the environment samples none", []string{"--trace-endpoint", "http://ADDR"}, map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, false},
		{"turned off", []string{"--trace-endpoint", "http://ADDR"}, map[string]string{"OTEL_SDK_DISABLED": "true"}, false},
		{"none are sent", nil, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ADDR", "OTEL_TRACES_EXPORTER": "none"}, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			c := startCollector(t)
			for key, value := range tt.env {
				t.Setenv(key, strings.ReplaceAll(value, "ADDR", c.addr))
			}
			for i := range tt.flags {
				tt.flags[i] = strings.ReplaceAll(tt.flags[i], "ADDR", c.addr)
			}
			d := startDev(t, filepath.Join(t.TempDir(), "data"), tt.flags...)
			d.wants(0, `"1"`, `^$`, "call", "Counter", "x", "Increment")
			if status, stderr := d.stop(); status != 0 {
				t.Errorf("exit status %d: %s", status, stderr)
			}
			var want []string
			if tt.sample {
				want = all
			}
			if got := c.got(); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestTraceFlagsAreChecked(t *testing.T) {
	above := 1.5
	for _, tt := range []struct {
		flags traceFlags
		env   map[string]string
		want  string
	}{
		{traceFlags{TraceEndpoint: "localhost:4317"}, nil, "--trace-endpoint"},
		{traceFlags{TraceEndpoint: "http://localhost"}, nil, "--trace-endpoint"},
		{traceFlags{TraceEndpoint: "http://localhost:4318/v1/traces"}, nil, "--trace-endpoint"},
		{traceFlags{TraceEndpoint: "https://localhost:4317"}, nil, ""},
		{traceFlags{TraceSample: &above}, nil, "--trace-sample"},
		{traceFlags{}, map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ""},
		{traceFlags{TraceEndpoint: "http://h:1"}, map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "OTEL_EXPORTER_OTLP_PROTOCOL"},
		{
			traceFlags{TraceEndpoint: "http://h:1"},
			map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
			"",
		},
	} {
		t.Run(tt.want, func(t *testing.T) {
			for key, value := range tt.env {
				t.Setenv(key, value)
			}
			err := tt.flags.check()
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, %v: got %v", tt.flags, tt.env, err)
			}
		})
	}
}

// A collector that takes connections and says nothing keeps nobody: spans are dropped when the queue is full, and the
// node's end waits for it no longer than it may.
func TestCollectorThatDoesNotAnswer(t *testing.T) { // not parallel: it tunes the process's garbage collector
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
	d := startDev(t, filepath.Join(t.TempDir(), "data"), "--trace-endpoint", "http://"+l.Addr().String(), "--trace-flush", "50ms")
	for range 20 {
		d.wants(0, `"\d+"`, `^$`, "call", "Counter", "x", "Increment")
	}
	began := time.Now()
	status, stderr := d.stop()
	if status != 0 || !strings.Contains(stderr, "the last traces could not be sent") {
		t.Errorf("exit status %d: %s", status, stderr)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the node took %v to stop", took)
	}
}

// That traces can't be sent is logged now and then.
func TestTraceErrorsAreFew(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	e := &traceErrors{logger: slog.New(slog.NewTextHandler(&out, nil))}
	for range 10 {
		e.Handle(context.DeadlineExceeded)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 {
		t.Errorf("logged %d times: %s", n, &out)
	}
}
