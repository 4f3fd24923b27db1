package storage

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-io/holdfast/placement"
)

// randomBytes is now and then empty, and now and then long enough for a longer length.
func randomBytes(random *rand.Rand) []byte {
	sizes := [...]int{0, 1, 3, 127, 128, 300}
	b := make([]byte, sizes[random.IntN(len(sizes))])
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func randomSegment(random *rand.Rand) Segment {
	number := func() uint64 { return random.Uint64() >> random.IntN(64) }
	seg := Segment{
		Object: ObjectRef{Class: string(randomBytes(random))},
		Term:   number(), Incarnation: number(), Sequence: number(), CommitSequence: number(), Time: number(),
	}
	seg.Object.Class = seg.Object.Class[:min(len(seg.Object.Class), MaxClassBytes)]
	for i := range seg.Object.ID {
		seg.Object.ID[i] = byte(random.Uint32())
	}
	for range random.IntN(5) {
		op := Op{Op: OpKind(1 + random.IntN(3)), Kind: KeyKind(random.IntN(256)), Key: randomBytes(random)}
		switch op.Op {
		case OpSet:
			op.Value = randomBytes(random)
		case OpDeleteRange:
			op.End = randomBytes(random)
		case OpDelete, OpPatch:
		}
		seg.Ops = append(seg.Ops, op)
	}
	return seg
}

func FuzzSegmentsComeBackAsTheyWere(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, []byte("what follows"))
	}
	f.Fuzz(func(t *testing.T, seed uint64, rest []byte) {
		seg := randomSegment(rand.New(rand.NewPCG(seed, 0)))
		before := []byte("what was there")
		raw := seg.AppendTo(bytes.Clone(before))
		if !bytes.HasPrefix(raw, before) {
			t.Fatal("AppendTo changed what was there")
		}
		raw = raw[len(before):]
		if len(raw) > seg.Size() {
			t.Errorf("Size says %d, has %d", seg.Size(), len(raw))
		}
		got, left, err := DecodeSegment(append(bytes.Clone(raw), rest...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(seg, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !bytes.Equal(left, rest) {
			t.Errorf("left %x, want %x", left, rest)
		}
		for cut := range raw {
			if _, _, err := DecodeSegment(raw[:cut:cut]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("cut after %d of %d bytes: got %v", cut, len(raw), err)
			}
		}
	})
}

func FuzzDecodedSegmentsEncodeAgain(f *testing.F) {
	for seed := range uint64(10) {
		seg := randomSegment(rand.New(rand.NewPCG(seed, 1)))
		f.Add(seg.AppendTo(nil))
	}
	f.Add([]byte{})
	f.Add([]byte{segmentVersion + 1})
	f.Add(append([]byte{segmentVersion, 255}, bytes.Repeat([]byte{'c'}, 300)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		given := bytes.Clone(b)
		seg, rest, err := DecodeSegment(b)
		if !bytes.Equal(b, given) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnknownOp) {
				t.Errorf("got %v, which is neither ErrMalformed nor ErrUnknownOp", err)
			}
			return
		}
		if !bytes.HasSuffix(b, rest) || len(rest) == len(b) {
			t.Fatalf("%x is no rest of %x", rest, b)
		}
		// Lengths need not come in their shortest form, so the bytes may differ.
		raw := seg.AppendTo(nil)
		if len(raw) > len(b)-len(rest) || len(raw) > seg.Size() {
			t.Errorf("encoded again it has %d bytes; it was read from %d and Size says %d", len(raw), len(b)-len(rest), seg.Size())
		}
		again, left, err := DecodeSegment(raw)
		if err != nil || len(left) > 0 {
			t.Fatalf("left %x, %v", left, err)
		}
		if diff := cmp.Diff(seg, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A replica that skipped an operation would differ from the others for ever.
func TestDecodeSegmentStopsAtWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, kind := range []OpKind{0, OpPatch, 5, 255} {
		seg := Segment{Object: ObjectRef{Class: "C"}, Ops: []Op{{Op: OpDelete, Kind: KindKV}, {Op: kind, Kind: KindKV, Key: []byte("k")}}}
		if _, _, err := DecodeSegment(seg.AppendTo(nil)); !errors.Is(err, ErrUnknownOp) {
			t.Errorf("operation %d: got %v", kind, err)
		}
	}
	raw := (&Segment{Object: ObjectRef{Class: "C"}}).AppendTo(nil)
	raw[0]++
	if _, _, err := DecodeSegment(raw); !errors.Is(err, ErrUnknownOp) {
		t.Errorf("a later version: got %v", err)
	}
}

// A count that could not be there must not be believed.
func TestDecodeSegmentAllocatesNoMoreThanTheInputExplains(t *testing.T) {
	t.Parallel()
	raw := (&Segment{Object: ObjectRef{Class: "C", ID: placement.ObjectID{1}}}).AppendTo(nil)
	raw = append(raw[:len(raw)-1], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)
	if _, _, err := DecodeSegment(raw); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v", err)
	}
}

// What is in logs must not change.
func TestEncodedSegmentNeverChanges(t *testing.T) {
	t.Parallel()
	seg := Segment{
		Object: ObjectRef{Class: "Co", ID: placement.ObjectID{0: 0xaa, 31: 0xbb}},
		Term:   1, Incarnation: 2, Sequence: 300, CommitSequence: 4, Time: math.MaxUint64,
		Ops: []Op{
			{Op: OpSet, Kind: KindKV, Key: []byte("k"), Value: []byte("vv")},
			{Op: OpDelete, Kind: KindRecord},
			{Op: OpDeleteRange, Kind: KindKV, Key: []byte("a"), End: []byte("b")},
		},
	}
	want := []byte{1, 2, 'C', 'o', 0xaa}
	want = append(want, make([]byte, 30)...)
	want = append(want, 0xbb, 1, 2, 0xac, 0x02, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)
	want = append(want, 3, 1, 0x10, 1, 'k', 2, 'v', 'v', 2, 0x01, 0, 3, 0x10, 1, 'a', 1, 'b')
	if diff := cmp.Diff(want, seg.AppendTo(nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzDecodeFence(f *testing.F) {
	f.Add(Fence{Term: 1, Incarnation: 2, Sequence: 3, CommitSequence: 4, Time: 5}.Append(nil))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		fence, err := DecodeFence(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) || len(b) == fenceBytes {
				t.Errorf("%x: got %v", b, err)
			}
			return
		}
		if got := fence.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("got %x, want %x", got, b)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	for _, r := range []Record{{Class: "C"}, {Class: "C", Name: new(""), CodeVersion: 7}} {
		raw, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte{0xa1})
	f.Fuzz(func(t *testing.T, b []byte) {
		record, err := DecodeRecord(b)
		if err != nil {
			return
		}
		raw, err := record.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeRecord(raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(record, again); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	for _, r := range []Request{
		{Time: 1 << 60, State: RequestClaimed, ID: "id"},
		{State: RequestReplied, Fingerprint: [16]byte{1, 15: 2}, ID: string(make([]byte, MaxRequestIDBytes)), Reply: []byte("reply")},
		{State: RequestFailed},
		{State: RequestDropped},
	} {
		f.Add(r.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v", err)
			}
			return
		}
		if raw := r.Append(nil); !bytes.Equal(raw, b) || len(raw) != r.Size() {
			t.Errorf("%x encodes again as %x, of size %d", b, raw, r.Size())
		}
	})
}

func TestRequestsAreStoredForEver(t *testing.T) {
	r := Request{Time: 0x0102030405060708, State: RequestReplied, Fingerprint: [16]byte{0xaa, 15: 0xbb}, ID: "id", Reply: []byte("r")}
	const want = "\x02\x01\x02\x03\x04\x05\x06\x07\x08\xaa\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xbb\x02idr"
	if got := string(r.Append(nil)); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	if got := string(RequestKey(1023)); got != "\x03\xff" {
		t.Errorf("slot 1023: got %x", got)
	}
	if slot, err := RequestSlot([]byte{0x03, 0xff}); slot != 1023 || err != nil {
		t.Errorf("got %d, %v", slot, err)
	}
	for _, bad := range []string{"", "\x00", "\x04\x00", "\x00\x00\x00"} {
		if _, err := RequestSlot([]byte(bad)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("slot %x: got %v", bad, err)
		}
	}
}

func FuzzDecodeAlarm(f *testing.F) {
	for _, a := range []Alarm{{Due: 1, Scheduled: 1}, {Due: math.MaxInt64, Scheduled: 7, Retries: math.MaxUint32}} {
		raw, err := a.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	raw, err := DeadAlarm{Scheduled: 1, Died: 2, Retries: 3, Error: "é"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := DecodeAlarm(b); err == nil {
			comesBack(t, a, a.Encode, DecodeAlarm)
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v", err)
		}
		if d, err := DecodeDeadAlarm(b); err == nil {
			comesBack(t, d, d.Encode, DecodeDeadAlarm)
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v", err)
		}
	})
}

func comesBack[T any](t *testing.T, v T, encode func() ([]byte, error), decode func([]byte) (T, error)) {
	t.Helper()
	raw, err := encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, again); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
