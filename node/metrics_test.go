package node

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
)

// scrape returns what Prometheus would get.
func scrape(t *testing.T, n *Node) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.Addresses().Admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %s, %v: %s", resp.Status, err, body)
	}
	return string(body)
}

func TestMetricsOfACluster(t *testing.T) {
	t.Parallel()
	n := startAlone(t, func(*Config) {})
	defer func() {
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///"+n.Addresses().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := counterv1.NewCounterClient(conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "holdfast-name", "x")
	for range 3 {
		if _, err := c.Increment(ctx, &counterv1.IncrementRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, class := range []string{"Counter", "Invented"} {
		if err := conn.Invoke(ctx, "/"+class+"/Missing", &counterv1.GetRequest{}, &counterv1.GetResponse{}); err == nil {
			t.Error("a method that there is not has answered")
		}
	}
	got := scrape(t, n)
	for _, want := range []string{
		`holdfast_calls_total{class="Counter"} 3`,
		`holdfast_call_duration_seconds_count{class="Counter"} 3`,
		`holdfast_handler_duration_seconds_bucket{class="Counter",le="+Inf"} 3`,
		`holdfast_output_gate_wait_seconds_count{class="Counter"} 3`,
		`holdfast_storage_writes_total{class="Counter"} 3`,
		`holdfast_objects{class="Counter"} 1`,
		`holdfast_stored_bytes{class="Counter"} `,
		`holdfast_forwarded_calls_total{class="Counter"} 0`,
		`holdfast_call_errors_total{class="(unknown)",code="NOT_FOUND",reason="UNKNOWN_CLASS"} 2`,
		`holdfast_ready 1`,
		`holdfast_calls_total{class="holdfast.System"} `,
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(got, "Invented") {
		t.Error("what a caller made up is a label")
	}
	problems, err := promlint.New(strings.NewReader(got)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "holdfast_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// oneHistogram is a collector.
type oneHistogram struct{ prometheus.Metric }

func (h oneHistogram) Describe(ch chan<- *prometheus.Desc) { ch <- h.Desc() }
func (h oneHistogram) Collect(ch chan<- prometheus.Metric) { ch <- h.Metric }

func TestHistogramsAreCumulative(t *testing.T) {
	t.Parallel()
	d := actor.Durations{Sum: 90 * time.Second}
	d.Counts[0], d.Counts[1], d.Counts[len(d.Counts)-1] = 1, 2, 3
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(oneHistogram{histogram(classDesc("x_seconds", "help"), &d, "C")})
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	for _, want := range []string{
		`bucket{class="C",le="2.5e-05"} 1`, `bucket{class="C",le="5e-05"} 3`, `bucket{class="C",le="60"} 3`, `bucket{class="C",le="+Inf"} 6`,
		`sum{class="C"} 90`, `count{class="C"} 6`,
	} {
		if want = "\nholdfast_x_seconds_" + want + "\n"; !strings.Contains(rec.Body.String(), want) {
			t.Errorf("no %q in\n%s", want, rec.Body)
		}
	}
}

var metricName = regexp.MustCompile(`fqName: "([^"]+)"`)

func TestEveryMetricIsInTheHandbook(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n## Metrics\n")
	if !ok {
		t.Fatal("docs/operations.md has no section on metrics")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	descs := make(chan *prometheus.Desc, 1000)
	(&nodeCollector{}).Describe(descs)
	(&classCollector{}).Describe(descs)
	close(descs)
	known := make(map[string]bool)
	for d := range descs {
		name := metricName.FindStringSubmatch(d.String())[1]
		known[name] = true
		if !strings.Contains(section, "| `"+name+"` |") {
			t.Errorf("docs/operations.md does not list %s", name)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(holdfast_[a-z_]+)` \\|").FindAllStringSubmatch(section, -1) {
		if !known[m[1]] {
			t.Errorf("docs/operations.md lists %s, which there is not", m[1])
		}
	}
}
