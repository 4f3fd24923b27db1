package objectfile_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/holdfast-io/holdfast/client/objectfile"
	"github.com/holdfast-io/holdfast/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var header = objectfile.Header{Class: "Counter", UniqueKey: "Counter#2", ClusterID: "c0ffee", UnixMilli: 1_700_000_000_000}

func object(n byte) *objectfile.Object {
	name := strings.Repeat("n", int(n))
	return &objectfile.Object{ID: placement.ObjectID{31: n}, Name: &name, CommitSequence: uint64(n), Time: 1 << 60}
}

// sample is a file with an object that has everything, one without a name or entries, one that was skipped,
// and one that takes several items.
func sample(tb testing.TB) []byte {
	tb.Helper()
	var out bytes.Buffer
	w, err := objectfile.NewWriter(&out, header)
	if err != nil {
		tb.Fatal(err)
	}
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	o := object(1)
	o.Alarm = &objectfile.Alarm{Due: 7, Scheduled: 5, Retries: 1}
	o.Dead = &objectfile.Dead{Scheduled: 3, Died: 4, Retries: 6, Error: "why"}
	must(w.Begin(o))
	must(w.Entry(nil, []byte{0xf6}))
	must(w.Entry([]byte("k"), []byte{0x01}))
	must(w.End())
	must(w.Begin(&objectfile.Object{ID: placement.ObjectID{31: 2}, Alarm: &objectfile.Alarm{Due: 1, Scheduled: 1}}))
	must(w.End())
	must(w.Skip(&objectfile.Skipped{ID: placement.ObjectID{31: 3}, Why: "it is being imported"}))
	_, err = w.Close()
	must(err)
	return out.Bytes()
}

// read returns what a file has, and why it ends.
func read(raw []byte) (items []objectfile.Item, err error) {
	r, err := objectfile.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	for {
		item, err := r.Next()
		if err != nil {
			return items, err
		}
		items = append(items, item)
	}
}

// The bytes are in files that outlive this release.
func TestBytesNeverChange(t *testing.T) {
	t.Parallel()
	const want = "d9d9f78300" + "5a0000003b" +
		"a60170" + "686f6c6466617374206f626a65637473" + "0201" + "0367436f756e746572" + "0469436f756e7465722332" + "0566633066666565" + "061b0000018bcfe56800" + "1a" + "4dc6dba3"
	if got := hex.EncodeToString(sample(t)); !strings.HasPrefix(got, want) {
		t.Errorf("the file begins with\n%s, want\n%s", got[:min(len(got), len(want))], want)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	raw := sample(t)
	r, err := objectfile.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if r.Header() != header {
		t.Errorf("header: %+v", r.Header())
	}
	items, err := read(raw)
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	first := object(1)
	first.Alarm = &objectfile.Alarm{Due: 7, Scheduled: 5, Retries: 1}
	first.Dead = &objectfile.Dead{Scheduled: 3, Died: 4, Retries: 6, Error: "why"}
	want := []objectfile.Item{
		first,
		objectfile.Entries{{Key: []byte{}, Value: []byte{0xf6}}, {Key: []byte("k"), Value: []byte{1}}},
		&objectfile.ObjectEnd{Entries: 2, Bytes: 3},
		&objectfile.Object{ID: placement.ObjectID{31: 2}, Alarm: &objectfile.Alarm{Due: 1, Scheduled: 1}}, &objectfile.ObjectEnd{},
		&objectfile.Skipped{ID: placement.ObjectID{31: 3}, Why: "it is being imported"},
		&objectfile.End{Objects: 2, Entries: 2, Bytes: 3, Skipped: 1},
	}
	if diff := cmp.Diff(want, items, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(objectfile.Entry{})); diff != "" {
		t.Errorf("(-written +read)\n%s", diff)
	}
}

// A file that was cut off anywhere, or in which any one bit has turned, is never taken for a whole one, and
// the error says where: not behind the damage.
func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	raw := sample(t)
	check := func(what string, at int, damaged []byte) {
		t.Helper()
		_, err := read(damaged)
		damage, ok := errors.AsType[*objectfile.DamageError](err)
		switch {
		case !ok:
			t.Errorf("%s at %d: got %v", what, at, err)
		case damage.Offset > int64(at):
			t.Errorf("%s at %d: found only at %d: %v", what, at, damage.Offset, err)
		}
	}
	for at := range raw {
		check("cut off", at, raw[:at])
		for bit := range 8 {
			flipped := bytes.Clone(raw)
			flipped[at] ^= 1 << bit
			check("a bit turned", at, flipped)
		}
	}
	check("something behind it", len(raw), append(bytes.Clone(raw), 0))
	if _, err := read(raw[:len(raw)-1]); !errors.Is(err, objectfile.ErrTruncated) {
		t.Errorf("cut off: %v", err)
	}
	r, err := objectfile.NewReader(bytes.NewReader(raw[:len(raw)*6/10]))
	for err == nil {
		_, err = r.Next()
	}
	if text := err.Error(); !strings.Contains(text, "at byte ") || !strings.Contains(text, "item ") {
		t.Errorf("the error does not say where: %v", err)
	}
}

// Items that are each as they were written, but lost, doubled or in another order.
func TestItemsHangTogether(t *testing.T) {
	t.Parallel()
	raw := sample(t)
	var cuts []int
	r, err := objectfile.NewReader(bytes.NewReader(raw))
	for err == nil {
		cuts = append(cuts, int(r.Offset()))
		_, err = r.Next()
	}
	for i := range len(cuts) - 1 {
		for j := i; j < len(cuts); j++ {
			if j == i+1 {
				continue // That is the file.
			}
			if _, err := read(append(bytes.Clone(raw[:cuts[i+1]]), raw[cuts[j]:]...)); errors.Is(err, io.EOF) {
				t.Errorf("from item %d on to item %d: not found", i+1, j)
			}
		}
	}
}

// A Writer refuses what a Reader would.
func TestWriterKeepsTheOrder(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(w *objectfile.Writer) error{
		"an entry of nothing": func(w *objectfile.Writer) error { return errors.Join(w.Entry(nil, nil), w.End()) },
		"two at once":         func(w *objectfile.Writer) error { return errors.Join(w.Begin(object(1)), w.Begin(object(2))) },
		"keys in disorder": func(w *objectfile.Writer) error {
			return errors.Join(w.Begin(object(1)), w.Entry([]byte("b"), nil), w.Entry([]byte("a"), nil), w.End())
		},
		"an end within an object": func(w *objectfile.Writer) error {
			_, err := w.Close()
			return errors.Join(w.Begin(object(1)), err, func() error { _, err := w.Close(); return err }())
		},
		"a value that is too large": func(w *objectfile.Writer) error {
			return errors.Join(w.Begin(object(1)), w.Entry(nil, make([]byte, objectfile.ItemBytesMax)), w.End())
		},
	} {
		w, err := objectfile.NewWriter(io.Discard, header)
		if err != nil {
			t.Fatal(err)
		}
		if write(w) == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

// A file that was cut off anywhere is written on from the last object that it has whole, and is then as if
// it had not been.
func TestRecover(t *testing.T) {
	t.Parallel()
	write := func(w *objectfile.Writer, from byte) {
		t.Helper()
		for n := from; n <= 3; n++ {
			err := errors.Join(w.Begin(object(n)), w.Entry([]byte("k"), bytes.Repeat([]byte{n}, 100)), w.Entry([]byte("l"), nil), w.End())
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var whole bytes.Buffer
	w, err := objectfile.NewWriter(&whole, header)
	if err != nil {
		t.Fatal(err)
	}
	begun := int(w.Mark().Offset)
	write(w, 1)
	for cut := range whole.Len() {
		h, mark, last, err := objectfile.Recover(bytes.NewReader(whole.Bytes()[:cut]))
		if cut < begun {
			if err == nil {
				t.Fatalf("cut at %d, within the header: recovered", cut)
			}
			continue
		}
		if err != nil || h != header || mark.Offset > int64(cut) {
			t.Fatalf("cut at %d: %+v, at %d, %v", cut, h, mark.Offset, err)
		}
		next := byte(1)
		if last != nil {
			next = last[31] + 1
		}
		if mark.Total.Objects != uint64(next-1) {
			t.Fatalf("cut at %d: %d objects, the last is %v", cut, mark.Total.Objects, last)
		}
		out := bytes.NewBuffer(bytes.Clone(whole.Bytes()[:mark.Offset]))
		write(objectfile.NewWriterAt(out, mark), next)
		if !bytes.Equal(out.Bytes(), whole.Bytes()) {
			t.Fatalf("cut at %d and written on from %d: it is another file", cut, mark.Offset)
		}
	}
	if _, _, _, err := objectfile.Recover(bytes.NewReader(whole.Bytes())); err == nil {
		t.Error("a whole file was recovered")
	}
}

// Whatever a reader takes is exactly what a writer writes.
func FuzzReader(f *testing.F) {
	raw := sample(f)
	f.Add(raw)
	f.Add(raw[:100])
	f.Add([]byte{0xd9, 0xd9, 0xf7})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := objectfile.NewReader(bytes.NewReader(raw))
		if err != nil {
			return
		}
		var again bytes.Buffer
		w, err := objectfile.NewWriter(&again, r.Header())
		if err != nil {
			t.Fatal(err)
		}
		for {
			item, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return
			}
			switch it := item.(type) {
			case *objectfile.Object:
				err = w.Begin(it)
			case objectfile.Entries:
				for _, e := range it {
					err = errors.Join(err, w.Entry(e.Key, e.Value))
				}
			case *objectfile.ObjectEnd:
				err = w.End()
			case *objectfile.Skipped:
				err = w.Skip(it)
			case *objectfile.End:
				_, err = w.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		// Entries may lie in other items.
		if end, err := read(again.Bytes()); !errors.Is(err, io.EOF) {
			t.Fatalf("what was read and written can't be read: %v, %v", end, err)
		}
	})
}

// appendItem appends an item whose checksum is right, whatever its payload.
func appendItem(raw []byte, sum uint32, kind byte, payload []byte) ([]byte, uint32) {
	sum = crc32.Checksum(append(append(binary.BigEndian.AppendUint32(nil, sum), kind), payload...), crc32.MakeTable(crc32.Castagnoli))
	raw = binary.BigEndian.AppendUint32(append(raw, 0x83, kind, 0x5a), uint32(len(payload)))
	return binary.BigEndian.AppendUint32(append(append(raw, payload...), 0x1a), sum), sum
}

// FuzzItems is FuzzReader behind checksums that are right: the input is a run of items, each as its kind, a
// byte that is the length of its payload, and that.
func FuzzItems(f *testing.F) {
	raw := sample(f)
	begin := 3 + 7 + int(raw[9])
	var run []byte
	for at := begin + 5; at < len(raw); at += 12 + int(raw[at+6]) {
		run = append(append(run, raw[at+1], raw[at+6]), raw[at+7:at+7+int(raw[at+6])]...)
	}
	f.Add(run)
	f.Fuzz(func(t *testing.T, run []byte) {
		file, sum := bytes.Clone(raw[:begin+5]), binary.BigEndian.Uint32(raw[begin+1:])
		for len(run) >= 2 {
			length := min(int(run[1]), len(run)-2)
			file, sum = appendItem(file, sum, run[0], run[2:2+length])
			run = run[2+length:]
		}
		items, err := read(file)
		if !errors.Is(err, io.EOF) {
			return
		}
		if _, ended := items[len(items)-1].(*objectfile.End); !ended {
			t.Errorf("a file is whole that ends with %+v", items[len(items)-1])
		}
	})
}
