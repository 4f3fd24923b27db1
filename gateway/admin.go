package gateway

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminConfig of the admin HTTP handler.
type AdminConfig struct {
	// Ready says whether the node serves, and if not, why.
	Ready    func() (ok bool, reasons []string)
	Gatherer prometheus.Gatherer
}

// NewAdminHandler returns the handler of the admin port: /healthz answers while the process lives,
// /readyz when the node serves, /metrics for Prometheus. It has no way to change anything.
func NewAdminHandler(cfg AdminConfig) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ok, reasons := cfg.Ready()
		w.Header().Set("Content-Type", "application/json")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if reasons == nil {
			reasons = []string{}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ready": ok, "reasons": reasons})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "Holdfast: /healthz /readyz /metrics\n")
	})
	return mux
}
