package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-io/holdfast/placement"
)

var compareEntries = cmp.Transformer("entry", func(e *raftpb.Entry) map[string]any {
	return map[string]any{"type": e.GetType(), "term": e.GetTerm(), "index": e.GetIndex(), "data": string(e.GetData())}
})

// comparePackets compares by what the protobuf getters see: the decoder sets every field, and the
// encoder leaves out what is zero.
var comparePackets = cmp.Options{
	cmp.AllowUnexported(packet{}),
	cmpopts.EquateEmpty(),
	compareEntries,
	cmp.Transformer("message", func(m *raftpb.Message) map[string]any {
		if m == nil {
			return nil
		}
		return map[string]any{
			"type": m.GetType(), "to": m.GetTo(), "from": m.GetFrom(), "term": m.GetTerm(), "logTerm": m.GetLogTerm(), "index": m.GetIndex(),
			"commit": m.GetCommit(), "vote": m.GetVote(), "reject": m.GetReject(), "rejectHint": m.GetRejectHint(), "context": string(m.GetContext()), "entries": m.GetEntries(),
		}
	}),
}

func randomBytes(random *rand.Rand) []byte {
	sizes := [...]int{0, 1, 3, 127, 128, 300}
	b := make([]byte, sizes[random.IntN(len(sizes))])
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

func randomPacket(random *rand.Rand) packet {
	number := func() uint64 { return random.Uint64() >> random.IntN(64) }
	p := packet{kind: byte(1 + random.IntN(3)), shard: placement.ShardID(random.Uint32() >> random.IntN(32)), to: number(), from: number()}
	if p.kind != kindRaft {
		p.generation, p.nextID = number(), number()
		return p
	}
	m := &raftpb.Message{
		Type: raftpb.MessageType(random.IntN(24)).Enum(), To: &p.to, From: &p.from,
		Term: new(number()), LogTerm: new(number()), Index: new(number()), Commit: new(number()),
	}
	if random.IntN(2) == 0 {
		m.Reject, m.RejectHint = new(true), new(number())
	}
	if random.IntN(2) == 0 {
		m.Vote = new(number())
	}
	if random.IntN(2) == 0 {
		m.Context = randomBytes(random)
	}
	for range random.IntN(4) {
		m.Entries = append(m.Entries, &raftpb.Entry{Type: raftpb.EntryType(random.IntN(3)).Enum(), Term: new(number()), Index: new(number()), Data: randomBytes(random)})
	}
	p.msg = m
	return p
}

func FuzzPacketsComeBackAsTheyWere(f *testing.F) {
	for seed := range uint64(30) {
		f.Add(seed, []byte{kindAsk})
	}
	f.Fuzz(func(t *testing.T, seed uint64, rest []byte) {
		p := randomPacket(rand.New(rand.NewPCG(seed, 0)))
		before := []byte("what was there")
		raw := p.append(bytes.Clone(before))
		if !bytes.HasPrefix(raw, before) {
			t.Fatal("append changed what was there")
		}
		raw = raw[len(before):]
		got, left, err := decodePacket(append(bytes.Clone(raw), rest...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, got, comparePackets); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !bytes.Equal(left, rest) {
			t.Errorf("left %x, want %x", left, rest)
		}
		for cut := range raw {
			if _, _, err := decodePacket(raw[:cut:cut]); !errors.Is(err, errMalformed) {
				t.Fatalf("cut after %d of %d bytes: got %v", cut, len(raw), err)
			}
		}
	})
}

func FuzzDecodedPacketsEncodeAgain(f *testing.F) {
	for seed := range uint64(20) {
		p := randomPacket(rand.New(rand.NewPCG(seed, 1)))
		f.Add(p.append(nil))
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		given := bytes.Clone(b)
		p, rest, err := decodePacket(b)
		if !bytes.Equal(b, given) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Errorf("got %v", err)
			}
			return
		}
		if !bytes.HasSuffix(b, rest) || len(rest) == len(b) {
			t.Fatalf("%x is no rest of %x", rest, b)
		}
		if (p.kind == kindRaft) != (p.msg != nil) {
			t.Fatalf("kind %d with message %v", p.kind, p.msg)
		}
		// Numbers need not come in their shortest form, so the bytes may differ.
		raw := p.append(nil)
		if len(raw) > len(b)-len(rest) {
			t.Errorf("encoded again it has %d bytes; it was read from %d", len(raw), len(b)-len(rest))
		}
		again, left, err := decodePacket(raw)
		if err != nil || len(left) > 0 {
			t.Fatalf("left %x, %v", left, err)
		}
		if diff := cmp.Diff(p, again, comparePackets); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
}

// A count that could not be there must not be believed.
func TestDecodePacketAllocatesNoMoreThanTheInputExplains(t *testing.T) {
	t.Parallel()
	head := []byte{kindRaft, 1, 2, 3, byte(raftpb.MsgApp), flagEntries, 0, 0, 0, 0}
	for _, count := range []uint64{1, 100, 1 << 40, 1<<64 - 1} {
		raw := binary.AppendUvarint(bytes.Clone(head), count)
		if _, _, err := decodePacket(append(raw, 0, 0, 0)); !errors.Is(err, errMalformed) {
			t.Errorf("%d entries: got %v", count, err)
		}
	}
}

func TestMessageSizeIsAnUpperBound(t *testing.T) {
	t.Parallel()
	const much = 1 << 48
	m := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), Term: new(uint64(much)), LogTerm: new(uint64(much)), Index: new(uint64(much)), Commit: new(uint64(much)),
		Vote: new(uint64(much)), Reject: new(true), RejectHint: new(uint64(much)), Context: make([]byte, 300),
	}
	for range 200 {
		m.Entries = append(m.Entries, &raftpb.Entry{Term: new(uint64(1<<64 - 1)), Index: new(uint64(1<<64 - 1)), Data: make([]byte, 200)})
	}
	if n := len(appendMessage(nil, m)); n > messageSize(m) {
		t.Errorf("says %d, has %d", messageSize(m), n)
	}
}

func FuzzLogEntriesComeBackAsTheyWere(f *testing.F) {
	f.Add(uint64(7), byte(0), uint64(3), []byte("data"))
	f.Add(uint64(1), byte(2), uint64(1<<63), []byte{})
	f.Fuzz(func(t *testing.T, index uint64, typ byte, term uint64, data []byte) {
		want := newEntry(raftpb.EntryType(typ), term, index, data)
		raw := appendLogEntry(nil, want)
		got, err := decodeLogEntry(index, raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compareEntries); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		// The bytes come from an iterator, which uses them again.
		clear(raw)
		if !bytes.Equal(got.GetData(), data) {
			t.Error("the entry shares memory with what it was read from")
		}
	})
}

func FuzzDecodeLogEntry(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Add([]byte{0, 0x80})
	f.Add([]byte{0, 5, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeLogEntry(9, b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Errorf("got %v", err)
			}
			return
		}
		again, err := decodeLogEntry(9, appendLogEntry(nil, e))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, again, compareEntries); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
}

func randomDescriptor(random *rand.Rand) descriptor {
	list := func() []uint64 {
		out := make([]uint64, random.IntN(4))
		for i := range out {
			out[i] = random.Uint64() >> random.IntN(64)
		}
		return out
	}
	d := descriptor{
		Generation: random.Uint64() >> random.IntN(64), NextID: random.Uint64() >> random.IntN(64),
		Conf: confState{Voters: list(), Learners: list(), VotersOutgoing: list(), LearnersNext: list(), AutoLeave: random.IntN(2) == 0},
	}
	for _, id := range list() {
		d.Replicas = append(d.Replicas, replicaAddr{ID: id, Node: placement.NodeID(random.Uint64())})
	}
	return d
}

func FuzzDecodeDescriptor(f *testing.F) {
	for seed := range uint64(20) {
		want := randomDescriptor(rand.New(rand.NewPCG(seed, 0)))
		raw := want.encode()
		got, err := decodeDescriptor(raw)
		if err != nil {
			f.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			f.Errorf("(-want +got):\n%s", diff)
		}
		for cut := range raw {
			if _, err := decodeDescriptor(raw[:cut:cut]); !errors.Is(err, errMalformed) {
				f.Fatalf("cut after %d of %d bytes: got %v", cut, len(raw), err)
			}
		}
		f.Add(raw)
	}
	f.Add([]byte{descriptorVersion + 1})
	f.Add([]byte{descriptorVersion, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeDescriptor(b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Errorf("got %v", err)
			}
			return
		}
		again, err := decodeDescriptor(d.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
}

func FuzzDecodeSnapshotHeader(f *testing.F) {
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, 0))
		want := snapshotHeader{
			shard: placement.ShardID(random.Uint32()), to: random.Uint64(), from: random.Uint64(), term: random.Uint64(),
			at: indexTerm{Index: random.Uint64(), Term: random.Uint64()}, desc: randomDescriptor(random),
		}
		got, err := decodeSnapshotHeader(want.encode())
		if err != nil {
			f.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(snapshotHeader{}), cmpopts.EquateEmpty()); diff != "" {
			f.Errorf("(-want +got):\n%s", diff)
		}
		f.Add(want.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		header, err := decodeSnapshotHeader(b)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Errorf("got %v", err)
			}
			return
		}
		again, err := decodeSnapshotHeader(header.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(header, again, cmp.AllowUnexported(snapshotHeader{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
}

func TestMembershipChangesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	added := []replicaAddr{{ID: 4, Node: 0xbeef}}
	want := confChange(added, confStep(raftpb.ConfChangeAddLearnerNode, 4), confStep(raftpb.ConfChangeRemoveNode, 2))
	raw, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeConfChange(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := decodeConfChange([]byte{0xff}); err == nil {
		t.Error("no error for what is no membership change")
	}
	d := decoder{b: got.GetContext()}
	if diff := cmp.Diff(added, d.addrs()); diff != "" || d.err != nil {
		t.Errorf("%v, (-want +got):\n%s", d.err, diff)
	}
}

func TestNumbersOfRaftsStateComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	raw := encodeUints(1, 1<<63, 3)
	var a, b, c uint64
	if err := readUints("x", raw, &a, &b, &c); err != nil || a != 1 || b != 1<<63 || c != 3 {
		t.Errorf("got %d, %d, %d, %v", a, b, c, err)
	}
	for _, raw := range [][]byte{nil, raw[:23], append(raw, 0)} {
		if err := readUints("x", raw, &a, &b, &c); !errors.Is(err, errMalformed) {
			t.Errorf("%d bytes: got %v", len(raw), err)
		}
	}
}
