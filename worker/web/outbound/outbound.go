// Package outbound makes the HTTP requests of workers. It is a plain HTTP client with limits, and with a list of
// addresses that it does not connect to: a worker must not reach what listens on its node, or the metadata
// service of the machine, because a request named a host that resolves there. The list is checked on the address
// that is dialled, after names are resolved and for each redirect.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

// Config sets the limits. The zero value has the defaults.
type Config struct {
	// Allow are addresses that may be dialled although they are refused by default or by DenyPrivate: loopback
	// addresses for development, say.
	Allow []netip.Prefix
	// DenyPrivate refuses private addresses too (RFC 1918, RFC 4193, RFC 6598). Set it where workers are not
	// trusted with the network that the node is in.
	DenyPrivate bool
	// InFlightMax is how many requests may be under way, to the end of their bodies; more wait. Default 256.
	InFlightMax int64
	// HeaderBytesMax limits the head of a response. Default 64 KiB.
	HeaderBytesMax int64
	// BodyBytesMax limits the body of a response, decompressed. Default 128 MiB.
	BodyBytesMax int64
	// HeadTime limits the time until the head of the response is there, redirects included. Default 60 s.
	HeadTime time.Duration
	// IdleTime is how long a body may pause. Default 60 s.
	IdleTime time.Duration
}

func (c Config) withDefaults() Config {
	if c.InFlightMax == 0 {
		c.InFlightMax = 256
	}
	if c.HeaderBytesMax == 0 {
		c.HeaderBytesMax = 64 << 10
	}
	if c.BodyBytesMax == 0 {
		c.BodyBytesMax = 128 << 20
	}
	if c.HeadTime == 0 {
		c.HeadTime = time.Minute
	}
	if c.IdleTime == 0 {
		c.IdleTime = time.Minute
	}
	return c
}

// redirectsMax is how many redirects a request follows, as the fetch standard says.
const redirectsMax = 20

// What to do with a redirect, as Request.redirect says.
const (
	Follow = "follow"
	Manual = "manual" // the redirect is the response
	Error  = "error"  // the redirect is an error
)

// Request is one that leaves. Header is a flat list of names and values; what belongs to the connection is
// left out of it. Body may be nil; Do closes it. Length is its length in bytes, -1 if that is not known.
type Request struct {
	Method   string
	URL      string
	Header   []string
	Body     io.ReadCloser
	Length   int64
	Redirect string
}

// Response is what came back. The caller closes Body, which fails beyond Config.BodyBytesMax.
type Response struct {
	Status     int
	StatusText string
	URL        string
	Redirected bool
	Header     []string
	Body       io.ReadCloser
	Length     int64 // -1 if not known
}

// Client makes requests. It is safe for concurrent use, and must be closed.
type Client struct {
	cfg       Config
	transport *http.Transport
	inFlight  *semaphore.Weighted
}

// New returns a Client.
func New(cfg Config) *Client {
	cfg = cfg.withDefaults()
	guard := guard{allow: cfg.Allow, denyPrivate: cfg.DenyPrivate}
	dialer := &net.Dialer{Timeout: 30 * time.Second, ControlContext: guard.control}
	return &Client{
		cfg:      cfg,
		inFlight: semaphore.NewWeighted(cfg.InFlightMax),
		transport: &http.Transport{
			// No proxy, not even one of the environment: it would dial in our stead.
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    32,
			IdleConnTimeout:        90 * time.Second,
			TLSHandshakeTimeout:    15 * time.Second,
			MaxResponseHeaderBytes: cfg.HeaderBytesMax,
		},
	}
}

// Close drops connections that are idle. Requests under way end by their contexts.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
}

// Do makes a request and returns when the head of the response is there. ctx ends the body too. Its errors are
// for the worker's log: they say what was refused, and by which setting.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	if err := c.inFlight.Acquire(ctx, 1); err != nil {
		closeBody(r.Body)
		return nil, err
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		c.inFlight.Release(1)
		return nil, err
	}
	return resp, nil
}

func closeBody(b io.Closer) {
	if b != nil {
		_ = b.Close()
	}
}

func (c *Client) do(ctx context.Context, r *Request) (*Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := c.request(ctx, r)
	if err != nil {
		cancel(err)
		closeBody(r.Body)
		return nil, err
	}
	head := time.AfterFunc(c.cfg.HeadTime, func() {
		cancel(fmt.Errorf("no response from %s within %v (setting fetch-head-time)", req.URL.Host, c.cfg.HeadTime))
	})
	client := &http.Client{Transport: c.transport, CheckRedirect: checkRedirect(r, req)}
	resp, err := client.Do(req) //nolint:bodyclose // It is that of the Response, which the caller closes.
	if !head.Stop() && err == nil {
		closeBody(resp.Body)
		err = context.Cause(ctx)
	}
	if err == nil && r.Redirect == Follow && isRedirect(resp) {
		closeBody(resp.Body)
		err = errors.New("the response is a redirect that needs the request's body again, which was streamed")
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		cancel(err)
		return nil, plain(err)
	}
	return c.response(ctx, cancel, req, resp), nil
}

func isRedirect(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location") != ""
	default:
		return false
	}
}

// checkRedirect is the fetch standard's, where http.Client's differs.
func checkRedirect(r *Request, first *http.Request) func(*http.Request, []*http.Request) error {
	return func(next *http.Request, via []*http.Request) error {
		switch {
		case r.Redirect == Manual:
			return http.ErrUseLastResponse
		case r.Redirect == Error:
			return errors.New(`the response is a redirect, and the request says redirect: "error"`)
		case len(via) > redirectsMax:
			return fmt.Errorf("more than %d redirects", redirectsMax)
		case next.URL.Scheme != "http" && next.URL.Scheme != "https":
			return fmt.Errorf("a redirect to the scheme %q", next.URL.Scheme)
		}
		if first.Header.Get("Referer") == "" {
			next.Header.Del("Referer")
		}
		return nil
	}
}

// Headers that belong to the connection, or that the client sets itself.
var dropped = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func (c *Client) request(ctx context.Context, r *Request) (*http.Request, error) {
	var body io.Reader
	if r.Body != nil {
		body = r.Body
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, body)
	if err != nil {
		return nil, err
	}
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return nil, fmt.Errorf("fetch of the scheme %q is not supported: use http or https", req.URL.Scheme)
	}
	if replay, ok := r.Body.(interface{ Replay() (io.ReadCloser, error) }); ok {
		req.GetBody = replay.Replay
	}
	if r.Body != nil {
		req.ContentLength = r.Length
	}
	// Else Go names itself.
	req.Header["User-Agent"] = []string{""}
	fresh := map[string]bool{"User-Agent": true}
	for i := 0; i+1 < len(r.Header); i += 2 {
		name, value := textproto.CanonicalMIMEHeaderKey(r.Header[i]), r.Header[i+1]
		switch {
		case name == "Upgrade":
			return nil, errors.New("a fetch that upgrades to WebSocket is not supported yet")
		case slices.Contains(dropped, name):
		case name == "Accept-Encoding" && !strings.EqualFold(value, "identity"):
			// The transport asks for gzip itself and takes it off, so that the worker sees the content.
		case fresh[name]:
			req.Header.Set(name, value)
			delete(fresh, name)
		default:
			req.Header.Add(name, value)
		}
	}
	return req, nil
}

func (c *Client) response(ctx context.Context, cancel context.CancelCauseFunc, first *http.Request, resp *http.Response) *Response {
	final := *resp.Request.URL
	final.Fragment, final.RawFragment, final.User = "", "", nil
	out := &Response{
		Status:     resp.StatusCode,
		StatusText: strings.TrimPrefix(strings.TrimPrefix(resp.Status, strconv.Itoa(resp.StatusCode)), " "),
		URL:        final.String(),
		Redirected: resp.Request != first,
		Length:     resp.ContentLength,
	}
	for _, name := range slices.Sorted(keys(resp.Header)) {
		for _, value := range resp.Header[name] {
			out.Header = append(out.Header, name, value)
		}
	}
	b := &body{ctx: ctx, r: resp.Body, left: c.cfg.BodyBytesMax, client: c, cancel: cancel}
	b.idle = time.AfterFunc(c.cfg.IdleTime, func() {
		cancel(fmt.Errorf("the body of the response paused for more than %v (setting fetch-idle-time)", c.cfg.IdleTime))
	})
	// A worker that is slow to read is not a server that is slow to send.
	b.idle.Stop()
	out.Body = b
	return out
}
