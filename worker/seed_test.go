package worker_test

import (
	"fmt"
	"sync"
	"testing"
)

func TestSeed(t *testing.T) {
	t.Parallel()
	w := projectWorld(t, "testdata/seed")
	w.want("/?name=A", "Durable Object 'A' count: 0")
	w.want("/increment?name=A", "Durable Object 'A' count: 1")
	w.want("/increment?name=A", "Durable Object 'A' count: 2")
	w.want("/decrement?name=A", "Durable Object 'A' count: 1")
	w.want("/?name=B", "Durable Object 'B' count: 0")

	const callers, each = 64, 20
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				if status, body := w.get("/increment?name=C"); status != 200 {
					t.Errorf("got %d %q", status, body)
				}
			}
		})
	}
	wg.Wait()
	w.want("/?name=C", fmt.Sprintf("Durable Object 'C' count: %d", callers*each))
	w.restart()
	w.want("/?name=A", "Durable Object 'A' count: 1")
	w.want("/?name=C", fmt.Sprintf("Durable Object 'C' count: %d", callers*each))
}
