package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/client/objectfile"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage/value"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// adders add 1 to registers, without end, and count what was acknowledged.
type adders struct {
	t     *testing.T
	names []string
	acked []atomic.Int64
	sent  []atomic.Int64
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

func startAdders(t *testing.T, nodes []*process, count int) *adders {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a := &adders{t: t, acked: make([]atomic.Int64, count), sent: make([]atomic.Int64, count), stop: cancel}
	for i := range count {
		a.names = append(a.names, fmt.Sprintf("register-%d", i))
	}
	for w := range 6 {
		register := classesv1.NewRegisterClient(nodes[w%len(nodes)].conn())
		a.wg.Go(func() {
			for i := w; ctx.Err() == nil; i = (i + 1) % count {
				a.sent[i].Add(1)
				call, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "holdfast-name", a.names[i]), 10*time.Second)
				if _, err := register.Add(call, &classesv1.AddRequest{Amount: 1}); err == nil {
					a.acked[i].Add(1)
				}
				cancel()
			}
		})
	}
	t.Cleanup(a.finish)
	return a
}

func (a *adders) finish() {
	a.stop()
	a.wg.Wait()
}

// waitAcked waits until each register has so many calls acknowledged.
func (a *adders) waitAcked(each int64) {
	a.t.Helper()
	waitFor(a.t, "registers to be added to", 30*time.Second, func() (bool, string) {
		for i := range a.acked {
			if a.acked[i].Load() < each {
				return false, fmt.Sprintf("register %d: %d", i, a.acked[i].Load())
			}
		}
		return true, ""
	})
}

// registersIn returns what a file has of registers: by name, the value and the number of writes.
func registersIn(t *testing.T, path string) map[string][2]int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := objectfile.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][2]int64)
	name := ""
	for {
		item, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		switch it := item.(type) {
		case *objectfile.Object:
			name = *it.Name
			if it.ID != placement.NewNamespace("Register").IDFromName(name) {
				t.Errorf("register %q has the id %s", name, it.ID)
			}
		case objectfile.Entries:
			state := out[name]
			for _, e := range it {
				var n int64
				if err := value.Decode(e.Value, &n); err != nil {
					t.Fatal(err)
				}
				if string(e.Key) == "value" {
					state[0] = n
				} else {
					state[1] = n
				}
			}
			out[name] = state
		}
	}
}

// Objects are exported under load, each as it was at one moment, with all that was acknowledged before, and
// come to another cluster as they were, alarms included.
func TestExportUnderLoadAndImportElsewhere(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, testnode, 3))
	a := startAdders(t, nodes, 40)
	a.waitAcked(5)
	b := &bellTower{t: t, nodes: nodes}
	bells := bellNames("bell", 10)
	for _, name := range bells {
		b.set(name, &classesv1.SetBellRequest{AfterMs: time.Hour.Milliseconds()})
	}
	dir := t.TempDir()
	c := commands{t}
	last := ""
	for round := range 3 {
		before := make([]int64, len(a.names))
		for i := range before {
			before[i] = a.acked[i].Load()
		}
		last = filepath.Join(dir, fmt.Sprintf("registers%d", round))
		c.must(nodes[round], "export", "Register", "-o", last)
		for i, name := range a.names {
			state, ok := registersIn(t, last)[name]
			if !ok || state[0] != state[1] || state[0] < before[i] || state[0] > a.sent[i].Load() {
				t.Errorf("%s: value %d after %d writes; %d were acknowledged before, %d sent since", name, state[0], state[1], before[i], a.sent[i].Load())
			}
		}
	}
	a.finish()
	c.must(nodes[0], "export", "Bell", "-o", filepath.Join(dir, "bells"))

	other := prepareNodes(t, testnode, 1)[0]
	other.start()
	other.waitReady()
	c.must(other, "import", last)
	c.must(other, "import", filepath.Join(dir, "bells"))
	register := classesv1.NewRegisterClient(other.conn())
	for name, want := range registersIn(t, last) {
		got, err := register.Get(with(t, "holdfast-name", name), &classesv1.GetRequest{})
		if err != nil || got.GetValue() != want[0] || got.GetVersion() != want[1] {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	if got, want := c.must(other, "alarms", "Bell"), c.must(nodes[0], "alarms", "Bell"); strings.Count(got, "\n") != len(bells) || !sameLines(got, want) {
		t.Errorf("alarms: got\n%s, want\n%s", got, want)
	}
	if out, ok := c.run(other, "import", last); ok || !strings.Contains(out, "OBJECT_EXISTS") || !strings.Contains(out, "40 objects were not imported") {
		t.Errorf("imported twice: %s", out)
	}
	c.must(other, "import", last, "--replace")
}

func sameLines(a, b string) bool {
	count := make(map[string]int)
	for line := range strings.Lines(a) {
		count[line]++
	}
	for line := range strings.Lines(b) {
		count[line]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// bigBox is an object that is far larger than what is imported at once.
const (
	bigBox      = "big"
	bigBoxKeys  = 5 * 20
	bigBoxValue = 512 << 10
)

// A large object is exported while its owner is killed, which shows, and again; and imported while its owner
// is killed, which does not. What was cut off in between is seen, and taken up.
func TestLargeObjectsAndLostOwners(t *testing.T) {
	nodes := startNodes(t, prepareNodes(t, testnode, 3))
	c := commands{t}
	box := classesv1.NewBoxClient(nodes[0].conn())
	for width := range int32(5) {
		if _, err := box.Put(with(t, "holdfast-name", bigBox), &classesv1.PutRequest{KeyBytes: 4 + width, ValueBytes: bigBoxValue, Count: 20}); err != nil {
			t.Fatal(err)
		}
	}
	owner := func() (own, other *process) {
		t.Helper()
		var s clusterStatus
		waitFor(t, "an owner", 20*time.Second, func() (bool, string) {
			var err error
			for _, p := range nodes {
				if p.cmd == nil {
					continue
				}
				if s, err = p.status(); err != nil {
					return false, err.Error()
				}
			}
			own, other = nil, nil
			for _, p := range nodes {
				switch {
				case p.cmd == nil:
				case p.name == s.Shards[boxShard(bigBox, len(s.Shards))].Owner:
					own = p
				default:
					other = p
				}
			}
			return own != nil && other != nil, fmt.Sprint(s.Warnings)
		})
		return own, other
	}
	restart := func(p *process) {
		t.Helper()
		p.start()
		p.waitReady()
		waitSpread(t, nodes[0], 3)
	}

	own, other := owner()
	stream, err := holdfastv1.NewAdminClient(other.conn()).ExportObjects(t.Context(), &holdfastv1.ExportObjectsRequest{Class: "Box"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // The header, and something of the object. What is not received is not sent.
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	own.kill()
	whole := false
	for err == nil {
		var msg *holdfastv1.ExportObjectsResponse
		msg, err = stream.Recv()
		for _, p := range msg.GetParts() {
			whole = whole || p.GetEnd() != nil
		}
	}
	if status.Code(err) != codes.Unavailable || whole {
		t.Errorf("an export whose owner was killed: whole %t, %v", whole, err)
	}
	file := filepath.Join(t.TempDir(), "boxes")
	c.must(other, "export", "Box", "-o", file)
	restart(own)

	// Imported in place of itself, up to about the half.
	own, other = owner()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	half := importHalf(ctx, t, other, file)
	unfinished := func(through *process) {
		t.Helper()
		waitFor(t, "the import to be seen as unfinished", 20*time.Second, func() (bool, string) {
			_, err := classesv1.NewBoxClient(through.conn()).Keys(with(t, "holdfast-name", bigBox), &classesv1.KeysRequest{})
			return fault.ReasonOf(err) == fault.ImportUnfinished, fmt.Sprint(err)
		})
	}
	unfinished(other)
	own.kill()
	unfinished(other) // The next owner knows it too.
	half.finish()
	if got, err := classesv1.NewBoxClient(other.conn()).Keys(with(t, "holdfast-name", bigBox), &classesv1.KeysRequest{}); err != nil || got.GetKeys() != bigBoxKeys {
		t.Errorf("imported: %v keys, %v", got, err)
	}
	restart(own)
	again := file + ".again"
	c.must(nodes[0], "export", "Box", "-o", again)
	sameObjects(t, file, again)

	// Cut off, and taken up by somebody else.
	cut, cancel := context.WithCancel(t.Context())
	importHalf(cut, t, nodes[0], file)
	unfinished(nodes[1])
	cancel()
	if out := c.must(nodes[1], "object", "Box", bigBox); !strings.Contains(out, "import   unfinished") {
		t.Errorf("object: %s", out)
	}
	if out, ok := c.run(nodes[1], "export", "Box", "-o", file+".without"); ok || !strings.Contains(out, "is left out") {
		t.Errorf("the export of half an object: %s", out)
	}
	c.must(nodes[2], "import", file)
	c.must(nodes[0], "export", "Box", "-o", file+".last")
	sameObjects(t, file, file+".last")
}

// halfImport is an import that has sent half of an object.
type halfImport struct {
	t      *testing.T
	stream holdfastv1.Admin_ImportObjectsClient
	rest   []*holdfastv1.ObjectPart
}

func importHalf(ctx context.Context, t *testing.T, through *process, file string) *halfImport {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := objectfile.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	h := &halfImport{t: t}
	for {
		item, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch it := item.(type) {
		case *objectfile.Object:
			h.rest = append(h.rest, &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_Begin{Begin: &holdfastv1.ObjectBegin{Id: it.ID[:], Name: it.Name}}})
		case objectfile.Entries:
			for _, e := range it {
				h.rest = append(h.rest, &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_Entry{Entry: &holdfastv1.Entry{Key: e.Key, Value: e.Value}}})
			}
		case *objectfile.ObjectEnd:
			h.rest = append(h.rest, &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_End{End: &holdfastv1.ObjectEnd{}}})
		}
	}
	if h.stream, err = holdfastv1.NewAdminClient(through.conn()).ImportObjects(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.stream.Send(&holdfastv1.ImportObjectsRequest{Begin: &holdfastv1.ImportBegin{Class: "Box", UniqueKey: "Box", Replace: true}}); err != nil {
		t.Fatal(err)
	}
	h.send(len(h.rest) / 2)
	return h
}

// send sends so many more parts.
func (h *halfImport) send(n int) {
	h.t.Helper()
	for _, p := range h.rest[:n] {
		if err := h.stream.Send(&holdfastv1.ImportObjectsRequest{Parts: []*holdfastv1.ObjectPart{p}}); err != nil {
			_, err = h.stream.Recv()
			h.t.Fatal(err)
		}
	}
	h.rest = h.rest[n:]
}

func (h *halfImport) finish() {
	h.t.Helper()
	h.send(len(h.rest))
	if err := h.stream.CloseSend(); err != nil {
		h.t.Fatal(err)
	}
	msg, err := h.stream.Recv()
	if err != nil || len(msg.GetObjects()) != 1 || msg.GetObjects()[0].GetReason() != "" {
		h.t.Fatalf("import: %v, %v", msg, err)
	}
	if _, err := h.stream.Recv(); !errors.Is(err, io.EOF) {
		h.t.Fatal(err)
	}
}

// sameObjects wants two files to have the same objects.
func sameObjects(t *testing.T, a, b string) {
	t.Helper()
	read := func(path string) string {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		r, err := objectfile.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for {
			item, err := r.Next()
			if errors.Is(err, io.EOF) {
				return out.String()
			}
			if err != nil {
				t.Fatal(err)
			}
			switch it := item.(type) {
			case *objectfile.Object:
				_, _ = fmt.Fprintf(&out, "object %s %q\n", it.ID, *it.Name)
			case objectfile.Entries:
				for _, e := range it {
					_, _ = fmt.Fprintf(&out, "%s = %d\n", e.Key, len(e.Value))
				}
			}
		}
	}
	if got, want := read(b), read(a); got != want || !strings.Contains(got, "object ") {
		t.Errorf("%s has\n%s\n%s has\n%s", b, got, a, want)
	}
}
