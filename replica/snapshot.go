package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

// A snapshot's data does not come from Raft's message, which only says that one is needed: it is
// cut from the store when it is sent, at whatever is applied then, and the message that the
// receiver steps names that index. So a snapshot is never older than the replica it is for, and
// the shard works on while it is sent.

//
// The receiver first says which parts of the state it has from an earlier try, that a restart or a
// broken connection has ended. What is still the same at the sender is not sent again. So a large
// shard arrives over a bad network too.

const (
	pairsBytesMax = 256 << 10
	// partsBytesMax bounds what a receiver says that it has.
	partsBytesMax = 1 << 20
	// snapshotStallMax is how long a receiver may take over one run: a stuck one would hold back the
	// disk space of everything deleted since the snapshot was cut.
	snapshotStallMax = 30 * time.Second
	// snapshotBurst is how much may be sent at once after a rest.
	snapshotBurst = 1 << 20
	// The loop, which serves every shard, stands still while a snapshot is installed. It is left alone
	// for so many times as long afterwards, and no longer than installRestMax: those that wait must be
	// through before their senders give up.
	installRest    = 9
	installRestMax = 500 * time.Millisecond
)

// What a run of a snapshot is, by its first byte.
const (
	runPairs = 1 // keys and values
	runKeep  = 2 // the place of a part that the receiver has
)

// snapshotHeader goes before the data.
type snapshotHeader struct {
	shard    placement.ShardID
	to, from uint64
	term     uint64 // the leader's
	at       indexTerm
	desc     descriptor
}

func (s *snapshotHeader) encode() []byte {
	out := binary.AppendUvarint(nil, uint64(s.shard))
	for _, v := range [...]uint64{s.to, s.from, s.term, s.at.Index, s.at.Term} {
		out = binary.AppendUvarint(out, v)
	}
	return append(out, s.desc.encode()...)
}

func decodeSnapshotHeader(b []byte) (snapshotHeader, error) {
	d := decoder{b: b}
	var s snapshotHeader
	s.shard = placement.ShardID(d.uvarint()) //nolint:gosec // checked by the caller
	for _, p := range [...]*uint64{&s.to, &s.from, &s.term, &s.at.Index, &s.at.Term} {
		*p = d.uvarint()
	}
	if d.err != nil {
		return snapshotHeader{}, fmt.Errorf("snapshot header: %w", d.err)
	}
	var err error
	s.desc, err = decodeDescriptor(d.b)
	return s, err
}

// sendSnapshot begins to send the shard's state to a replica that is too far behind.
func (h *Host) sendSnapshot(g *Group, m *raftpb.Message) {
	to := m.GetTo()
	failed := func(err error) {
		h.logger.Debug("snapshot not sent", slog.Int("shard", int(g.shard)), slog.Any("error", err))
		h.guard(g, func() { g.rn.ReportSnapshot(to, raft.SnapshotFailure) })
	}
	if h.sending >= snapshotsMax {
		// It waits its turn. Raft sends the replica nothing meanwhile.
		h.snapshots = append(h.snapshots, queuedSnapshot{g, m})
		return
	}
	node, ok := g.address(to)
	if !ok {
		failed(errors.New("no node is known to have that replica"))
		return
	}
	snap := h.store.Snapshot()
	header, err := cutHeader(snap, g, m)
	if err != nil {
		_ = snap.Close()
		failed(err)
		return
	}
	h.sending++
	h.shell.stream(snap, node, header, func(err error) {
		h.sending--
		h.nextSnapshot()
		if h.groups[g.shard] != g || g.failed != nil {
			return
		}
		if err != nil {
			failed(err)
		} else {
			h.counters.snapshotsSent.Add(1)
			h.guard(g, func() { g.rn.ReportSnapshot(to, raft.SnapshotFinish) })
		}
		h.mark(g)
	})
}

// queuedSnapshot is one that waits for others to be sent; at most one a replica.
type queuedSnapshot struct {
	g *Group
	m *raftpb.Message
}

// nextSnapshot begins the next one that is still wanted.
func (h *Host) nextSnapshot() {
	for len(h.snapshots) > 0 && h.sending < snapshotsMax {
		q := h.snapshots[0]
		h.snapshots = h.snapshots[1:]
		if h.groups[q.g.shard] != q.g || q.g.failed != nil {
			continue
		}
		if !q.g.leader || q.m.GetTerm() != q.g.term {
			continue // Raft has forgotten about it with its leadership.
		}
		h.sendSnapshot(q.g, q.m)
	}
}

// cutHeader reads from the store's snapshot what index the data has.
func cutHeader(snap *storage.Snapshot, g *Group, m *raftpb.Message) (snapshotHeader, error) {
	header := snapshotHeader{shard: g.shard, to: m.GetTo(), from: g.id, term: m.GetTerm()}
	raw, _, err := snap.Get(storage.AppliedKey(g.shard))
	if err != nil {
		return header, err
	}
	if err := readUints("applied index", raw, &header.at.Index, &header.at.Term); err != nil {
		return header, err
	}
	if g.hooks.snapshotWithoutApplied {
		header.at = g.applied
	}
	raw, _, err = snap.Get(storage.DescriptorKey(g.shard))
	if err != nil {
		return header, err
	}
	if header.desc, err = decodeDescriptor(raw); err != nil {
		return header, err
	}
	if !header.desc.contains(header.to) {
		return header, errors.New("the store does not have the replica's addition yet")
	}
	return header, nil
}

// streamSnapshot sends the data. It gives up when the receiver takes nothing for too long.
func (h *Host) streamSnapshot(snap *storage.Snapshot, node placement.NodeID, header snapshotHeader) error {
	defer func() { _ = snap.Close() }()
	ctx, cancel := context.WithCancelCause(h.ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(snapshotStallMax, func() { cancel(errors.New("the receiver takes nothing")) })
	defer stalled.Stop()
	it, err := snap.Iter(storage.StateSpan(header.shard))
	if err != nil {
		return err
	}
	defer it.Close()
	return h.cfg.Transport.SendSnapshot(ctx, node, header.encode(), func(has []byte) (func() ([]byte, error), error) {
		parts, err := decodeParts(has)
		if err != nil {
			return nil, err
		}
		runs := newRunReader(it, parts)
		return func() ([]byte, error) {
			stalled.Reset(snapshotStallMax)
			run, err := runs.next()
			if err != nil {
				return nil, err
			}
			if err := h.sendRate.WaitN(ctx, min(len(run), snapshotBurst)); err != nil {
				return nil, err
			}
			return run, nil
		}, nil
	})
}

// runReader reads what a snapshot sends.
type runReader struct {
	it    *storage.Iter
	ok    bool
	parts []storage.Part // that the receiver has, and that may still come
	part  int            // the place of the first of them
}

func newRunReader(it *storage.Iter, parts []storage.Part) *runReader {
	return &runReader{it: it, ok: it.First(), parts: parts}
}

// next returns the next run, and io.EOF at the end.
func (r *runReader) next() ([]byte, error) {
	if r.ok && r.atPart() && r.skipPart() {
		return binary.AppendUvarint([]byte{runKeep}, uint64(r.part-1)), nil //nolint:gosec // not negative
	}
	run := []byte{runPairs}
	for r.ok && len(run) < pairsBytesMax {
		run = appendBytes(run, r.it.Key())
		run = appendBytes(run, r.it.Value())
		if r.ok = r.it.Next(); r.ok && r.atPart() {
			break
		}
	}
	if len(run) > 1 {
		return run, nil
	}
	if err := r.it.Error(); err != nil {
		return nil, err
	}
	return nil, io.EOF
}

// atPart says whether the receiver has a part that begins here.
func (r *runReader) atPart() bool {
	for len(r.parts) > 0 && bytes.Compare(r.parts[0].First, r.it.Key()) < 0 {
		r.parts, r.part = r.parts[1:], r.part+1
	}
	return len(r.parts) > 0 && bytes.Equal(r.parts[0].First, r.it.Key())
}

// skipPart passes the part that begins here if it is the same here, and returns whether it is.
func (r *runReader) skipPart() bool {
	p := r.parts[0]
	r.parts, r.part = r.parts[1:], r.part+1
	sum := storage.NewPartSum()
	for ; r.ok && bytes.Compare(r.it.Key(), p.Last) <= 0; r.ok = r.it.Next() {
		sum.Add(r.it.Key(), r.it.Value())
	}
	if r.it.Error() == nil && sum.Sum() == p.Sum {
		return true
	}
	r.ok = r.it.SeekGE(p.First)
	return false
}

// encodeParts encodes what a receiver has, or as much of it as may be said.
func encodeParts(parts []storage.Part) []byte {
	var out []byte
	for _, p := range parts {
		if len(out)+len(p.First)+len(p.Last)+len(p.Sum)+16 > partsBytesMax {
			break
		}
		out = appendBytes(appendBytes(out, p.First), p.Last)
		out = append(out, p.Sum[:]...)
	}
	return out
}

func decodeParts(b []byte) ([]storage.Part, error) {
	var parts []storage.Part
	for d := (decoder{b: b}); len(d.b) > 0; {
		p := storage.Part{First: d.bytes(), Last: d.bytes()}
		if d.err != nil || len(d.b) < len(p.Sum) {
			return nil, fmt.Errorf("parts of a snapshot: %w", errMalformed)
		}
		d.b = d.b[copy(p.Sum[:], d.b):]
		parts = append(parts, p)
	}
	return parts, nil
}

// install is a received snapshot that waits for Raft to accept it.
type install struct {
	header snapshotHeader
	ingest *storage.Ingest
	done   bool
}

// ReceiveSnapshot takes a shard's state from a node and returns when it is installed. The data is
// written beside the store first; the shard's old state is replaced at once, or not at all.
//
// offer is called once, first, with what is here already; next then returns runs, and io.EOF at the
// end. What was received before an error is kept for the next try.
func (h *Host) ReceiveSnapshot(ctx context.Context, from placement.NodeID, rawHeader []byte, offer func(parts []byte) error, next func() ([]byte, error)) error {
	select { // Meanwhile the sender waits, for as long as it does for a receiver that takes nothing.
	case h.received <- struct{}{}:
		defer func() { <-h.received }()
	case <-h.ctx.Done():
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	in, err := h.stage(rawHeader, offer, next)
	if err != nil {
		return err
	}
	select {
	case h.installs <- struct{}{}:
		defer h.restFromInstall(time.Now())
	case <-h.ctx.Done():
		return errors.Join(errClosed, in.ingest.Suspend())
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), in.ingest.Suspend())
	}
	result := make(chan error, 1)
	if !h.control(func() { h.offer(from, in, result) }) {
		return errors.Join(errClosed, in.ingest.Suspend())
	}
	select {
	case err := <-result:
		return err
	case <-h.ctx.Done():
		return errClosed // The loop has ended or is about to; nobody touches the ingest any more.
	case <-ctx.Done():
		return context.Cause(ctx) // The loop finishes or aborts it by itself.
	}
}

// restFromInstall lets the next snapshot be installed when the loop has had time for all else.
func (h *Host) restFromInstall(began time.Time) {
	time.AfterFunc(min(installRest*time.Since(began), installRestMax), func() { <-h.installs })
}

// stage writes a received snapshot beside the store.
func (h *Host) stage(rawHeader []byte, offer func(parts []byte) error, next func() ([]byte, error)) (*install, error) {
	header, err := decodeSnapshotHeader(rawHeader)
	if err != nil {
		return nil, err
	}
	if int(header.shard) >= h.cfg.Shards {
		return nil, fmt.Errorf("snapshot of shard %d of %d: %w", header.shard, h.cfg.Shards, errMalformed)
	}
	ingest := h.store.NewIngest(header.shard)
	err = offer(encodeParts(ingest.Parts()))
	if err == nil {
		err = receive(ingest, &header, next)
	}
	switch {
	case errors.Is(err, errMalformed):
		return nil, errors.Join(err, ingest.Abort())
	case err != nil:
		return nil, errors.Join(err, ingest.Suspend())
	}
	return &install{header: header, ingest: ingest}, nil
}

// receive writes what the shard will have, in the order of the keys: Raft's state but for the hard
// state, which is known only when Raft takes the snapshot, around the objects' state.
func receive(ingest *storage.Ingest, header *snapshotHeader, next func() ([]byte, error)) error {
	at := encodeUints(header.at.Index, header.at.Term)
	for _, kv := range [...][2][]byte{
		{storage.AppliedKey(header.shard), at},
		{storage.DescriptorKey(header.shard), header.desc.encode()},
		{storage.ReplicaKey(header.shard), encodeUints(header.to)},
	} {
		if err := ingest.Add(kv[0], kv[1]); err != nil {
			return err
		}
	}
	// The objects' state is in parts of its own, which may be the same at the next try.
	if err := ingest.Cut(); err != nil {
		return err
	}
	if err := receiveRuns(ingest, header.shard, next); err != nil {
		return err
	}
	if err := ingest.Cut(); err != nil {
		return err
	}
	return ingest.Add(storage.TruncatedKey(header.shard), at)
}

func receiveRuns(ingest *storage.Ingest, shard placement.ShardID, next func() ([]byte, error)) error {
	for {
		run, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := receiveRun(ingest, shard, run); err != nil {
			return err
		}
	}
}

func receiveRun(ingest *storage.Ingest, shard placement.ShardID, run []byte) error {
	lo, hi := storage.StateSpan(shard)
	d := decoder{b: run}
	switch kind := d.byte(); kind {
	case runKeep:
		part := d.uvarint()
		if d.err != nil || part >= uint64(len(ingest.Parts())) {
			return fmt.Errorf("snapshot: part %d of %d: %w", part, len(ingest.Parts()), errMalformed)
		}
		return ingest.Keep(int(part)) //nolint:gosec // below the number of parts
	case runPairs:
	default:
		return fmt.Errorf("snapshot: run of kind %d: %w", kind, errMalformed)
	}
	for len(d.b) > 0 {
		key, value := d.bytes(), d.bytes()
		if d.err != nil {
			return fmt.Errorf("snapshot pairs: %w", errMalformed)
		}
		if string(key) < string(lo) || string(key) >= string(hi) {
			return fmt.Errorf("snapshot of shard %d has the key %x of another: %w", shard, key, errMalformed)
		}
		if err := ingest.Add(key, value); err != nil {
			return err
		}
	}
	return nil
}

// offer steps the snapshot's message; Raft takes it or finds it stale.
func (h *Host) offer(from placement.NodeID, in *install, result chan<- error) {
	if h.flying {
		// It needs a batch of its own.
		h.offers = append(h.offers, func() { h.offer(from, in, result) })
		return
	}
	header := &in.header
	typ := raftpb.MsgSnap
	msg := &raftpb.Message{
		Type: &typ, To: &header.to, From: &header.from, Term: &header.term,
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &header.at.Index, Term: &header.at.Term, ConfState: header.desc.Conf.raft()}},
	}
	g := h.replicaFor(from, &packet{kind: kindRaft, shard: header.shard, to: header.to, from: header.from, msg: msg})
	if g == nil {
		result <- errors.Join(fmt.Errorf("shard %d has no replica %d here", header.shard, header.to), in.ingest.Abort())
		return
	}
	g.install = in
	h.guard(g, func() { g.step(from, msg) })
	h.mark(g)
	h.process() // With all that is dirty: the snapshot is taken in this Ready or never.
	g.install = nil
	if !in.done {
		result <- errors.Join(fmt.Errorf("shard %d is past the snapshot already", header.shard), in.ingest.Abort())
		return
	}
	h.counters.snapshotsGot.Add(1)
	result <- nil
}

// install replaces the shard's state by the received one, with Raft's own state beside it, at once.
func (h *Host) install(g *Group) error {
	in := g.install
	meta := g.ready.Snapshot.GetMetadata()
	if in == nil || in.header.at.Index != meta.GetIndex() {
		return errors.New("raft took a snapshot whose data is not here")
	}
	hard := [3]uint64{g.log.hard.GetTerm(), g.log.hard.GetVote(), meta.GetIndex()}
	if hs := g.ready.HardState; !raft.IsEmptyHardState(hs) {
		hard[0], hard[1] = hs.GetTerm(), hs.GetVote()
	}
	err := in.ingest.Finish(encodeUints(hard[:]...))
	in.done = err == nil
	if err != nil {
		return err
	}
	h.fences.Forget(g.shard)
	g.applied = in.header.at
	g.setDescriptor(in.header.desc)
	g.log.hard = raftpb.HardState{Term: &hard[0], Vote: &hard[1], Commit: &hard[2]}
	g.log.reset(in.header.at)
	return nil
}
