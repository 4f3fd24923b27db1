package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
)

// answers fails the test unless the node counts one further.
func (p *process) answers(name string, want int64) {
	p.t.Helper()
	resp, err := counterv1.NewCounterClient(p.conn()).Increment(with(p.t, "holdfast-name", name), &counterv1.IncrementRequest{})
	if err != nil || resp.GetValue() != want {
		p.t.Errorf("increment through %s: %v, %v, want %d", p.name, resp, err, want)
	}
}

// ends says that a command failed with a status and said what it should.
func ends(t *testing.T, what string, got int, text string, want int, words ...string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: exit %d, want %d: %s", what, got, want, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s: %q is not in %q", what, word, text)
		}
	}
}

// TestStartRefusals: a node that cannot or must not start says why and ends, with 2 when the command
// line is wrong and 1 when something else is; the node that runs does not notice.
func TestStartRefusals(t *testing.T) {
	p := oneNode(t)
	free := freePorts(t, 5)
	flags := []string{"grpc", "peer", "gossip", "http", "admin"}
	serve := func(args ...string) (string, int) {
		all := []string{"serve"}
		for i, flag := range flags {
			all = append(all, "--"+flag, free[i])
		}
		_, errs, code := holdfast(append(all, args...)...)
		return errs, code
	}
	fresh := func() []string { return []string{"--name", "x", "--data-dir", t.TempDir()} }
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("no directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	type refusal struct {
		args  []string
		code  int
		words []string
	}
	cases := map[string]refusal{
		"a directory in use":         {[]string{"--name", "n1", "--data-dir", p.dir}, 1, []string{p.dir, "another process"}},
		"a directory that is a file": {[]string{"--name", "x", "--data-dir", file, "--bootstrap"}, 1, []string{file}},
		"neither join nor bootstrap": {fresh(), 1, []string{"--join", "--bootstrap"}},
		"no name":                    {[]string{"--data-dir", t.TempDir()}, 2, []string{"--name"}},
		"no directory":               {[]string{"--name", "x"}, 2, []string{"--data-dir"}},
		"a bad name":                 {[]string{"--name", "a b", "--data-dir", t.TempDir(), "--bootstrap"}, 2, []string{"--name", `"a b"`, "63"}},
		"a long name":                {[]string{"--name", strings.Repeat("n", 64), "--data-dir", t.TempDir(), "--bootstrap"}, 2, []string{"--name", "63"}},
		"even replicas":              {append(fresh(), "--bootstrap", "--replicas", "2"), 2, []string{"--replicas 2"}},
		"too many shards":            {append(fresh(), "--bootstrap", "--shards", "4097"), 2, []string{"--shards 4097", "4096"}},
		"shards of no number":        {append(fresh(), "--bootstrap", "--shards", "many"), 2, []string{"--shards", "many"}},
		"no shards":                  {append(fresh(), "--bootstrap", "--shards", "0"), 2, []string{"--shards 0"}},
		"no replicas":                {append(fresh(), "--bootstrap", "--replicas", "0"), 2, []string{"--replicas 0"}},
		"a size of no number":        {append(fresh(), "--bootstrap", "--min-free-disk", "5%"), 2, []string{"--min-free-disk", "KiB"}},
		"a negative time":            {append(fresh(), "--bootstrap", "--ring-dead-after", "-1s"), 2, []string{"--ring-dead-after"}},
		"an unknown flag":            {[]string{"--nope"}, 2, []string{"--nope"}},
		"a seed of no address":       {append(fresh(), "--join", "1.2.3.4:x"), 2, []string{"--join", "1.2.3.4:x"}},
		"a missing key file":         {append(fresh(), "--bootstrap", "--gossip-key-file", file+"2"), 1, []string{"--gossip-key-file", file + "2"}},
		"a bad key file":             {append(fresh(), "--bootstrap", "--gossip-key-file", file), 1, []string{"--gossip-key-file", file, "base64"}},
		"a missing config":           {[]string{"--config", file + "2"}, 2, []string{file + "2"}},
	}
	for _, flag := range flags {
		cases["a taken port: "+flag] = refusal{append(fresh(), "--bootstrap", "--"+flag, p.ports[flag]), 1, []string{"--" + flag, p.ports[flag]}}
		cases["no address: "+flag] = refusal{append(fresh(), "--bootstrap", "--"+flag, "7070"), 2, []string{"--" + flag, "HOST:PORT"}}
		cases["no port: "+flag] = refusal{append(fresh(), "--bootstrap", "--"+flag, "127.0.0.1:70000"), 2, []string{"--" + flag, "70000"}}
		cases["not ours: "+flag] = refusal{append(fresh(), "--bootstrap", "--"+flag, "192.0.2.1:7070"), 1, []string{"--" + flag, "192.0.2.1:7070"}}
	}
	for what, tc := range cases {
		text, code := serve(tc.args...)
		ends(t, what, code, text, tc.code, tc.words...)
	}
	for what, tc := range map[string]refusal{
		"no command":         {nil, 2, []string{"--help"}},
		"an unknown command": {[]string{"nope"}, 2, []string{"nope"}},
		"dev with nothing":   {[]string{"dev", "project"}, 1, []string{"project"}},
		"a call of nobody":   {[]string{"call", "Counter", "A", "Get", "--addr", free[0]}, 1, []string{"no node answers", free[0]}},
		"health of nobody":   {[]string{"health", "--admin", free[0]}, 1, []string{"no node answers", free[0]}},
		"health of no port":  {[]string{"health", "--admin", "nope"}, 2, []string{"--admin"}},
	} {
		_, errs, code := holdfast(tc.args...)
		ends(t, what, code, errs, tc.code, tc.words...)
	}
	p.alive()
	p.answers("a", 1)

	// The directory of a node that does not run, under another name.
	p.stop()
	errs, code := serve("--name", "other", "--data-dir", p.dir)
	ends(t, "another node's directory", code, errs, 1, p.dir, `"n1"`, `"other"`, "--name n1")
	p.start()
	p.waitReady()
	p.answers("a", 2)
}

// TestWaitingForASeed: with seeds and none that answers, a node waits and says why, in its log and
// its /readyz; it can be stopped, and joins as soon as a seed answers.
func TestWaitingForASeed(t *testing.T) {
	waiter := newProcess(t, "n2")
	first := newProcess(t, "n1", "--bootstrap")
	waiter.args = []string{"--join", first.ports["gossip"]}
	waits := func(words ...string) {
		t.Helper()
		waitFor(t, fmt.Sprintf("readiness to say %q", words), 10*time.Second, func() (bool, string) {
			code, body, err := waiter.get("/readyz")
			if err != nil || code != 503 {
				return false, fmt.Sprint(code, body, err)
			}
			for _, word := range words {
				if !strings.Contains(body, word) {
					return false, body
				}
			}
			return true, ""
		})
		waiter.waitSaid(words[0])
		_, errs, code := holdfast("health", "--admin", waiter.ports["admin"])
		ends(t, "health of a node that waits", code, errs, 1, append(words, "not ready")...)
		if code, _, err := waiter.get("/healthz"); err != nil || code != 200 {
			t.Errorf("healthz: %d, %v", code, err)
		}
	}
	waiter.start()
	waits("waiting for a cluster", "no seed has a cluster yet", first.ports["gossip"], "refused")
	waiter.stop()
	if waiter.ended != nil {
		t.Errorf("stopped while it waited: %v", waiter.ended)
	}

	// A seed that is no gossip port.
	first.start()
	first.waitReady()
	waiter.args = []string{"--join", first.ports["admin"]}
	waiter.start()
	waits("waiting for a cluster", first.ports["admin"], "--gossip")
	waiter.stop()

	// With --bootstrap it creates no second cluster, however long no seed answers.
	first.stop()
	waiter.args = []string{"--bootstrap", "--join", first.ports["gossip"]}
	waiter.start()
	waits("waiting for a cluster", "will not create a cluster", first.ports["gossip"])
	first.start()
	first.waitReady()
	waiter.waitReady()
	waitFor(t, "both to be in one cluster", 20*time.Second, func() (bool, string) {
		s, err := first.status()
		return err == nil && s.id("n1") != "" && s.id("n2") != "", fmt.Sprint(s.Nodes, err)
	})
}

// TestForeignNodes: a node of another cluster, and a second one under the name of a living one, are
// refused with a reason on both sides, and change nothing.
func TestForeignNodes(t *testing.T) {
	ours := oneNode(t)
	other := newProcess(t, "b1", "--bootstrap")
	other.start()
	other.waitReady()
	other.answers("a", 1)
	other.stop()
	other.args = []string{"--join", ours.ports["gossip"]}
	other.start()
	other.waitReady() // It has its own cluster, which is well.
	ids := make(map[*process]string)
	for _, p := range []*process{ours, other} {
		s, err := p.status()
		if err != nil {
			t.Fatal(err)
		}
		ids[p] = s.ClusterID
	}
	ours.waitSaid(ids[other])
	other.waitSaid(ids[ours])
	for _, p := range []*process{ours, other} {
		if s, err := p.status(); err != nil || len(s.Nodes) != 1 {
			t.Errorf("%s: %+v, %v", p.name, s.Nodes, err)
		}
	}
	ours.answers("a", 1)
	other.answers("a", 2)

	twin := newProcess(t, ours.name, "--join", ours.ports["gossip"])
	twin.start()
	for _, p := range []*process{ours, twin} {
		p.waitSaid(`the living node`)
		p.waitSaid("a name of its own")
	}
	code, body, err := twin.get("/readyz")
	if err != nil || code != 503 || !strings.Contains(body, "the living node") {
		t.Errorf("readiness of the second %s: %d, %s, %v", twin.name, code, body, err)
	}
	if s, err := ours.status(); err != nil || len(s.Nodes) != 1 {
		t.Errorf("nodes: %+v, %v", s.Nodes, err)
	}
	ours.answers("a", 2)
}

// TestGossipKey: a node without the cluster's gossip key, or with another, does not get in.
func TestGossipKey(t *testing.T) {
	key := func(text string) string {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ours := newProcess(t, "n1", "--bootstrap", "--gossip-key-file", key("AAAAAAAAAAAAAAAAAAAAAA=="))
	ours.start()
	ours.waitReady()
	for what, args := range map[string][]string{
		"no key":      nil,
		"another key": {"--gossip-key-file", key("AQEBAQEBAQEBAQEBAQEBAQ==")},
	} {
		p := newProcess(t, "n2", append(args, "--join", ours.ports["gossip"])...)
		p.start()
		p.waitSaid("the same gossip key")
		if code, body, err := p.get("/readyz"); err != nil || code != 503 || !strings.Contains(body, "gossip key") {
			t.Errorf("%s: %d, %s, %v", what, code, body, err)
		}
		p.signal(syscall.SIGTERM)
	}
	if s, err := ours.status(); err != nil || len(s.Nodes) != 1 {
		t.Errorf("nodes: %+v, %v", s.Nodes, err)
	}
	ours.answers("a", 1)
}
