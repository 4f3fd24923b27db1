package worker_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// BenchmarkRequest is what a request of the seed's costs, from the parsed HTTP request to the answer, through the worker's
// handler and an object, when there are many at a time.
func BenchmarkRequest(b *testing.B) {
	for _, test := range []struct {
		name, path string
		objects    int
	}{
		{"none", "/", 1},
		{"read/objects=1", "/?name=%d", 1},
		{"read/objects=1000", "/?name=%d", 1000},
		{"increment/objects=1", "/increment?name=%d", 1},
	} {
		b.Run(test.name, func(b *testing.B) {
			w := projectWorld(b, "testdata/seed")
			requests := make([]*http.Request, test.objects)
			for i := range requests {
				path := test.path
				if path != "/" {
					path = fmt.Sprintf(path, i)
				}
				requests[i] = httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://worker.test"+path, nil)
				requests[i].Header.Set("User-Agent", "bench")
			}
			var next atomic.Int64
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					rec := httptest.NewRecorder()
					w.worker.ServeHTTP(rec, requests[int(next.Add(1))%len(requests)])
					if rec.Code != http.StatusOK {
						b.Error(rec.Code, rec.Body)
						return
					}
				}
			})
		})
	}
}
