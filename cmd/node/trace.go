package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// traceFlags say where traces go. What they leave open is said by OpenTelemetry's own variables of the environment.
type traceFlags struct {
	TraceEndpoint string        `name:"trace-endpoint" help:"Collector that traces are sent to, by OTLP over gRPC: http://HOST:4317, or https://HOST:4317 with TLS. Without it OTEL_EXPORTER_OTLP_ENDPOINT says where, and without that there are no traces." placeholder:"URL"`
	TraceSample   *float64      `name:"trace-sample" help:"Which part of the calls to trace that come without a trace of their own: 0 to 1. Others are traced if their callers say so. By default all, or what OTEL_TRACES_SAMPLER says." placeholder:"RATIO"`
	TraceFlush    time.Duration `name:"trace-flush" help:"How long a node that has stopped tries to send its last traces." default:"3s"`
}

// traceErrorsEvery is how often it is logged that traces can't be sent.
const traceErrorsEvery = time.Minute

// wanted says whether there are to be traces.
func (f traceFlags) wanted() bool {
	switch {
	case strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true"):
		return false
	case f.TraceEndpoint != "":
		return true
	case os.Getenv("OTEL_TRACES_EXPORTER") == "none":
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != ""
}

// check returns everything that is wrong with the flags.
func (f traceFlags) check() error {
	var errs []error
	if f.TraceEndpoint != "" {
		u, err := url.Parse(f.TraceEndpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
			errs = append(errs, fmt.Errorf("--trace-endpoint %q: must be http://HOST:PORT or https://HOST:PORT", f.TraceEndpoint))
		}
	}
	if s := f.TraceSample; s != nil && !(*s >= 0 && *s <= 1) {
		errs = append(errs, fmt.Errorf("--trace-sample %v: must be 0 to 1", *s))
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		protocol := os.Getenv(name)
		if protocol == "" || !f.wanted() {
			continue
		}
		if protocol != "grpc" {
			errs = append(errs, fmt.Errorf("%s=%s: traces are sent by grpc only; OTEL_TRACES_EXPORTER=none sends none", name, protocol))
		}
		break
	}
	return errors.Join(errs...)
}

// traceExport is what sends the traces of a node.
type traceExport struct {
	*sdktrace.TracerProvider

	exporter *otlptrace.Exporter
	flush    time.Duration
	logger   *slog.Logger
}

// start begins to send traces of the node of a name; it does not wait for the collector. It returns nil when there
// are to be none. Close it.
func (f traceFlags) start(ctx context.Context, node, version string, logger *slog.Logger) (*traceExport, error) {
	if !f.wanted() {
		return nil, nil //nolint:nilnil // documented
	}
	var options []otlptracegrpc.Option
	if f.TraceEndpoint != "" {
		options = append(options, otlptracegrpc.WithEndpointURL(f.TraceEndpoint))
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "holdfast"), attribute.String("service.instance.id", node), attribute.String("service.version", version)),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("traces: OTEL_RESOURCE_ATTRIBUTES: %w", err), exporter.Shutdown(ctx))
	}
	otel.SetErrorHandler(&traceErrors{logger: logger})
	// What is sent waits in a queue of 2,048 spans, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise: over it they are dropped.
	provider := []sdktrace.TracerProviderOption{sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)}
	if f.TraceSample != nil {
		provider = append(provider, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(*f.TraceSample))))
	}
	return &traceExport{sdktrace.NewTracerProvider(provider...), exporter, f.TraceFlush, logger}, nil
}

// Close sends what is left, as long as it may, and ends.
func (t *traceExport) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), t.flush)
	defer cancel()
	if err := t.Shutdown(ctx); err != nil {
		t.logger.Warn("the last traces could not be sent", slog.Any("error", err))
		_ = t.exporter.Shutdown(ctx) // Ends what is under way: ctx has ended.
	}
}

// traceErrors logs that traces can't be sent, now and then.
type traceErrors struct {
	logger *slog.Logger

	mu   sync.Mutex
	last time.Time
}

// Handle implements otel.ErrorHandler.
func (t *traceErrors) Handle(err error) {
	t.mu.Lock()
	now := time.Now()
	due := t.last.IsZero() || now.Sub(t.last) >= traceErrorsEvery
	if due {
		t.last = now
	}
	t.mu.Unlock()
	if due {
		t.logger.Warn("traces can't be sent; calls go on without them", slog.Any("error", err))
	}
}
