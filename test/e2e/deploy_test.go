package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// countingWorker is a worker that counts, by ?name, and answers with its version and the count.
const countingWorker = `
import { DurableObject } from "cloudflare:workers";
const version = "%s";
export class Tally extends DurableObject {
	async count() {
		const n = ((await this.ctx.storage.get("n")) ?? 0) + 1;
		await this.ctx.storage.put("n", n);
		return version + " " + n;
	}
}
export default {
	async fetch(request, env) {
		return new Response(await env.TALLY.getByName(new URL(request.url).searchParams.get("name")).count());
	},
};
`

const countingConfig = `
name = "tally"
main = "index.ts"
compatibility_date = "2026-01-01"
[[durable_objects.bindings]]
name = "TALLY"
class_name = "Tally"
[[migrations]]
tag = "v1"
new_sqlite_classes = ["Tally"]
`

// countingProject writes the worker's project, of a version.
func countingProject(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"wrangler.toml": countingConfig, "index.ts": fmt.Sprintf(countingWorker, version)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// webLoad are callers of the worker over HTTP, each with a count of its own.
type webLoad struct {
	t       *testing.T
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	counts  []atomic.Int64 // the last that each caller was answered
	version []atomic.Pointer[string]
	failed  atomic.Int64
	failure atomic.Pointer[string] // one of them
}

func startWebLoad(t *testing.T, nodes []*process, callers int) *webLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &webLoad{t: t, cancel: cancel, counts: make([]atomic.Int64, callers), version: make([]atomic.Pointer[string], callers)}
	for i := range callers {
		l.wg.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				l.call(ctx, i, nodes[n%len(nodes)])
			}
		})
	}
	t.Cleanup(l.finish)
	return l
}

func (l *webLoad) call(ctx context.Context, i int, through *process) {
	version, count, err := tally(ctx, through, fmt.Sprintf("caller-%d", i))
	switch last := l.counts[i].Load(); {
	case ctx.Err() != nil:
	case err == nil && count <= last:
		l.t.Errorf("caller %d was answered %d after %d", i, count, last)
	case err == nil:
		l.counts[i].Store(count)
		l.version[i].Store(&version)
	default:
		text := fmt.Sprintf("through %s: %v", through.name, err)
		l.failure.Store(&text)
		l.failed.Add(1)
	}
}

func (l *webLoad) finish() {
	l.cancel()
	l.wg.Wait()
}

// waitVersion waits until every caller is answered by a version, and has been answered so many times more.
func (l *webLoad) waitVersion(version string, more int64) {
	l.t.Helper()
	from := make([]int64, len(l.counts))
	for i := range from {
		from[i] = l.counts[i].Load()
	}
	waitFor(l.t, "answers of version "+version, 20*time.Second, func() (bool, string) {
		for i := range l.counts {
			if v := l.version[i].Load(); v == nil || *v != version || l.counts[i].Load() < from[i]+more {
				return false, fmt.Sprintf("caller %d: %d answers", i, l.counts[i].Load())
			}
		}
		return true, ""
	})
}

// tally has one name's object of the worker count.
func tally(ctx context.Context, through *process, name string) (version string, count int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+through.ports["http"]+"/?name="+name, http.NoBody)
	if err != nil {
		return "", 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", 0, err
	}
	if n, _ := fmt.Sscanf(string(body), "%s %d", &version, &count); resp.StatusCode != http.StatusOK || n != 2 {
		return "", 0, fmt.Errorf("%s: %s", resp.Status, body)
	}
	return version, count, nil
}

// A worker is deployed, replaced and rolled back without a failed request, runs on when a node is killed, and
// also on a node that joins later.
func TestDeployedWorker(t *testing.T) {
	nodes := threeNodes(t)
	c := commands{t}
	if out := c.must(nodes[1], "deploy", countingProject(t, "one")); !strings.Contains(out, "worker tally: deployment 1") {
		t.Errorf("deploy: %s", out)
	}
	l := startWebLoad(t, nodes, 6)
	l.waitVersion("one", 20)
	c.must(nodes[0], "deploy", countingProject(t, "two"))
	l.waitVersion("two", 20)
	c.must(nodes[2], "rollback", "tally")
	l.waitVersion("one", 20)
	if n := l.failed.Load(); n != 0 {
		t.Errorf("%d requests failed while versions changed, one of them %s", n, *l.failure.Load())
	}
	if out := c.must(nodes[0], "deployments", "tally"); !strings.Contains(out, "rolled back to 1") {
		t.Errorf("deployments: %s", out)
	}
	l.finish()

	nodes[2].kill()
	rest := slices.Clone(nodes[:2])
	late := newProcess(t, "n4", "--join", nodes[0].ports["gossip"])
	late.start()
	late.waitReady()
	rest = append(rest, late)
	for i := range l.counts {
		name, want := fmt.Sprintf("caller-%d", i), l.counts[i].Load()
		for _, p := range rest {
			waitFor(t, "an answer through "+p.name, 20*time.Second, func() (bool, string) {
				_, got, err := tally(t.Context(), p, name)
				if err == nil && got <= want {
					t.Errorf("%s: %d through %s, after %d", name, got, p.name, want)
				}
				want = max(want, got)
				return err == nil, fmt.Sprint(err)
			})
		}
	}
}
