package web_test

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/worker/quickjs"
	"github.com/holdfast-io/holdfast/worker/web"
)

// BenchmarkInstall is what an engine costs from its start to its end, with each part of the platform in use: CPU time, and
// memory while it is there.
func BenchmarkInstall(b *testing.B) {
	for _, test := range []struct{ name, touch string }{
		{"nothing", ""},
		{"core", "1"},
		{"request", "new Response('x', {headers: {a: 'b'}}).text(), new URL('https://a.example/x').searchParams.get('y')"},
		{"streams", "ReadableStream"},
		{"subtle", "crypto.subtle"},
		{"urlpattern", "URLPattern"},
		{"inspect", "console.log({})"},
	} {
		b.Run(test.name, func(b *testing.B) {
			l := newLoop(b)
			touched(b, l, test.touch).close(b) // compiles what it touches
			before, began := rss(b), cpu(b)
			var open []*started
			for b.Loop() {
				open = append(open, touched(b, l, test.touch))
			}
			b.ReportMetric(float64(cpu(b)-began)/float64(b.N)/1e6, "cpu-ms/op")
			b.ReportMetric(float64(rss(b)-before)/float64(b.N)/1024, "KiB/op")
			for _, s := range open {
				s.close(b)
			}
		})
	}
}

// BenchmarkMessage is what the platform costs a request: a Request made of what arrived, a handler that looks at it, and
// the Response taken apart.
func BenchmarkMessage(b *testing.B) {
	for _, test := range []struct{ name, handler string }{
		{"text", `(r) => new Response("hello")`},
		{"json", `async (r) => { const u = new URL(r.url); return Response.json({path: u.pathname, q: u.searchParams.get("q"), h: r.headers.get("accept"), n: (await r.json()).n}); }`},
		{"stream", `(r) => new Response(r.body)`},
	} {
		b.Run(test.name, func(b *testing.B) {
			l := newLoop(b)
			l.enter(func() error {
				v, err := l.engine.Eval(test.handler, "handler.js")
				if err != nil {
					return err
				}
				return l.engine.Global().Set("handler", v)
			})
			head := &web.Head{
				Method: "POST", URL: "https://a.example/some/path?q=5", Length: 7,
				Header: []string{"Accept", "text/html", "Accept-Encoding", "gzip", "User-Agent", "bench", "Content-Type", "application/json", "Cookie", "a=b"},
			}
			began := cpu(b)
			for b.Loop() {
				var promise quickjs.Value
				if err := l.engine.Enter(func() error {
					request, err := l.web.Request(head, web.Body{Bytes: []byte(`{"n":1}`)})
					if err != nil {
						return err
					}
					if promise, err = l.engine.Global().Invoke("handler", request); err != nil {
						return err
					}
					if _, err := l.engine.RunJobs(1000); err != nil {
						return err
					}
					response := promise
					if state, v := promise.Promise(); state == quickjs.Fulfilled {
						response = v
					}
					_, _, err = l.web.Take(response)
					return err
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu(b)-began)/float64(b.N)/1e3, "cpu-µs/op")
		})
	}
}

type started struct {
	engine *quickjs.Engine
	web    *web.Platform
}

// touched starts an engine, with the platform unless touch is empty.
func touched(b *testing.B, l *loop, touch string) *started {
	b.Helper()
	e, err := quickjs.New(quickjs.Options{})
	if err != nil {
		b.Fatal(err)
	}
	s := &started{engine: e}
	if err := e.Enter(func() (err error) {
		if touch == "" {
			return nil
		}
		if s.web, err = web.Install(e, l); err != nil {
			return err
		}
		_, err = e.Eval(touch, "touch.js")
		return err
	}); err != nil {
		b.Fatal(err)
	}
	return s
}

func (s *started) close(b *testing.B) {
	b.Helper()
	if s.web != nil {
		s.web.Close()
	}
	if err := s.engine.Close(); err != nil {
		b.Error(err)
	}
}

// cpu is the CPU time of this process: others may use the machine too.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rss is the memory of this process, in bytes. What the engine allocates is not in Go's heap.
func rss(b *testing.B) int {
	b.Helper()
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Skip(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(raw))[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}
