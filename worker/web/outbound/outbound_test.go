package outbound_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func server(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

// sayf answers; the client may have gone.
func sayf(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

func client(t *testing.T, cfg outbound.Config) *outbound.Client {
	t.Helper()
	c := outbound.New(cfg)
	t.Cleanup(c.Close)
	return c
}

func get(t *testing.T, c *outbound.Client, r *outbound.Request) (*outbound.Response, string, error) {
	t.Helper()
	if r.Redirect == "" {
		r.Redirect = outbound.Follow
	}
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	resp, err := c.Do(t.Context(), r)
	if err != nil {
		return nil, "", err
	}
	text, err := io.ReadAll(resp.Body)
	if closeErr := resp.Body.Close(); closeErr != nil {
		t.Error(closeErr)
	}
	return resp, string(text), err
}

func TestLoopbackIsRefusedUnlessAllowed(t *testing.T) {
	t.Parallel()
	url := server(t, func(w http.ResponseWriter, _ *http.Request) { sayf(w, "inside") })
	redirecting := strings.Replace(url, "127.0.0.1", "localhost", 1)
	for _, u := range []string{url, redirecting, strings.Replace(url, "127.0.0.1", "[::ffff:127.0.0.1]", 1), strings.Replace(url, "127.0.0.1", "0.0.0.0", 1)} {
		_, _, err := get(t, client(t, outbound.Config{}), &outbound.Request{URL: u})
		var denied *outbound.DeniedError
		if !errors.As(err, &denied) || denied.Kind != "loopback" || !strings.Contains(err.Error(), "fetch-allow") {
			t.Errorf("%s: got %v, want a refusal of loopback that names the setting", u, err)
		}
	}
	if _, text, err := get(t, client(t, outbound.Config{Allow: loopback}), &outbound.Request{URL: url}); err != nil || text != "inside" {
		t.Errorf("allowed: got %q, %v", text, err)
	}
}

// The address that counts is the one dialled, also after a redirect.
func TestRedirectToARefusedAddress(t *testing.T) {
	t.Parallel()
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
	})
	_, _, err := get(t, client(t, outbound.Config{Allow: loopback}), &outbound.Request{URL: url})
	var denied *outbound.DeniedError
	if !errors.As(err, &denied) || denied.Kind != "link-local" {
		t.Errorf("got %v, want a refusal of a link-local address", err)
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/found":
			http.Redirect(w, r, "/end#x", http.StatusFound)
		case "/again":
			http.Redirect(w, r, "/end", http.StatusTemporaryRedirect)
		default:
			text, _ := io.ReadAll(r.Body)
			sayf(w, "%s %s %s", r.Method, text, r.Header.Get("Referer"))
		}
	})
	c := client(t, outbound.Config{Allow: loopback})
	for _, test := range []struct {
		path, method, redirect, body string
		streamed                     bool
		want, wantErr                string
	}{
		{path: "/found", want: "GET  "},
		{path: "/found", method: "POST", body: "x", want: "GET  "},
		{path: "/again", method: "POST", body: "x", want: "POST x "},
		{path: "/again", method: "POST", body: "x", streamed: true, wantErr: "streamed"},
		{path: "/loop", wantErr: "more than 20 redirects"},
		{path: "/found", redirect: "error", wantErr: `redirect: "error"`},
	} {
		r := &outbound.Request{URL: url + test.path, Method: test.method, Redirect: test.redirect, Length: int64(len(test.body))}
		if test.streamed {
			r.Body = io.NopCloser(strings.NewReader(test.body))
		} else if test.body != "" {
			r.Body = outbound.Bytes([]byte(test.body))
		}
		resp, text, err := get(t, c, r)
		switch {
		case test.wantErr != "":
			if err == nil || !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("%s %s: got %v, want an error with %q", test.method, test.path, err, test.wantErr)
			}
		case err != nil || text != test.want || !resp.Redirected || resp.URL != url+"/end":
			t.Errorf("%s %s: got %q, %v, %+v", test.method, test.path, text, err, resp)
		}
	}
	resp, _, err := get(t, c, &outbound.Request{URL: url + "/found", Redirect: "manual"})
	if err != nil || resp.Status != http.StatusFound || resp.Redirected {
		t.Errorf("manual: got %+v, %v", resp, err)
	}
}

func TestHeadersOfTheRequest(t *testing.T) {
	t.Parallel()
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		sayf(w, "%q %q %q %q %q", r.Host, r.Header["X-A"], r.Header["User-Agent"], r.Header["Connection"], r.Header["Accept-Encoding"])
	})
	c := client(t, outbound.Config{Allow: loopback})
	_, text, err := get(t, c, &outbound.Request{URL: url, Header: []string{"x-a", "1", "X-A", "2", "Host", "other", "connection", "close", "accept-encoding", "br"}})
	if want := fmt.Sprintf("%q [\"1\" \"2\"] [] [] [\"gzip\"]", strings.TrimPrefix(url, "http://")); err != nil || text != want {
		t.Errorf("got %s, %v; want %s", text, err, want)
	}
	if _, _, err := get(t, c, &outbound.Request{URL: url, Header: []string{"upgrade", "websocket"}}); err == nil {
		t.Error("an upgrade was not refused")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/head":
			w.Header().Set("X-Long", strings.Repeat("x", 200<<10))
		case "/body":
			sayf(w, "%2000s", "x")
		case "/slow":
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			fallthrough
		case "/never":
			select {
			case <-r.Context().Done():
			case <-stop:
			}
		}
	}))
	t.Cleanup(s.Close)
	c := client(t, outbound.Config{Allow: loopback, BodyBytesMax: 1000, HeadTime: 100 * time.Millisecond, IdleTime: 100 * time.Millisecond})
	for path, want := range map[string]string{
		"/head": "server response headers exceeded", "/body": "fetch-body-max", "/slow": "fetch-idle-time", "/never": "fetch-head-time",
	} {
		if _, _, err := get(t, c, &outbound.Request{URL: s.URL + path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", path, err, want)
		}
	}
}

// A request beyond the limit waits for one to end, and its context ends its wait.
func TestRequestsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	url := server(t, func(w http.ResponseWriter, _ *http.Request) { sayf(w, "x") })
	c := client(t, outbound.Config{Allow: loopback, InFlightMax: 1})
	first, err := c.Do(t.Context(), &outbound.Request{Method: http.MethodGet, URL: url, Redirect: outbound.Follow})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, &outbound.Request{Method: http.MethodGet, URL: url}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second request: got %v, want to wait", err)
	}
	if err := first.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := get(t, c, &outbound.Request{URL: url}); err != nil {
		t.Errorf("after the first: %v", err)
	}
}
