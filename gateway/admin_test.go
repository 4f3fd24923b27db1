package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-io/holdfast/gateway"
)

// The admin port says how the node is, and takes no orders.
func TestAdminHandler(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "things_total", Help: "Things."})
	registry.MustRegister(c)
	waiting, weak, well := []string{"waiting for a cluster"}, []string{"lacks a class"}, []string(nil)
	for _, tt := range []struct {
		method, path string
		ready        bool
		reasons      []string
		status       int
		body         string // in part
	}{
		{http.MethodGet, "/healthz", false, waiting, http.StatusOK, "ok\n"},
		{http.MethodGet, "/readyz", false, waiting, http.StatusServiceUnavailable, `{"ready":false,"reasons":["waiting for a cluster"]}`},
		{http.MethodGet, "/readyz", true, weak, http.StatusOK, `{"ready":true,"reasons":["lacks a class"]}`},
		{http.MethodGet, "/readyz", true, well, http.StatusOK, `{"ready":true,"reasons":[]}`},
		{http.MethodGet, "/metrics", true, well, http.StatusOK, "things_total 0"},
		{http.MethodGet, "/", true, well, http.StatusOK, "/healthz /readyz /metrics"},
		{http.MethodGet, "/other", true, well, http.StatusNotFound, ""},
		{http.MethodPost, "/healthz", true, well, http.StatusMethodNotAllowed, ""},
		{http.MethodDelete, "/readyz", true, well, http.StatusMethodNotAllowed, ""},
	} {
		h := gateway.NewAdminHandler(gateway.AdminConfig{Ready: func() (bool, []string) { return tt.ready, tt.reasons }, Gatherer: registry})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, nil))
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s %s: got %d, %q; want %d, %q", tt.method, tt.path, w.Code, w.Body, tt.status, tt.body)
		}
	}
}
