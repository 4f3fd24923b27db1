package replica

import "errors"

// traceProposed records in the spans of segments that Raft has taken them. It says whether there are any.
func traceProposed(batch []proposal) (traced bool) {
	for i := range batch {
		if seg := batch[i].seg; seg != nil && seg.Span != nil {
			seg.Span.Event("proposed")
			traced = true
		}
	}
	return traced
}

// traceSynced records in the spans of segments that the entries of the Ready are on this disk. Entries are
// proposed only while nothing is on its way to the disk, so those of this owner in a Ready are the last in flight.
func (g *Group) traceSynced() {
	g.traced = false
	own := 0
	for _, e := range g.ready.Entries {
		if g.isOwn(e) {
			own++
		}
	}
	for _, e := range g.inFlight[max(len(g.inFlight)-own, 0):] {
		for _, p := range e.batch {
			if p.seg != nil {
				p.seg.Span.Event("synced")
			}
		}
	}
}

// Why the span of a segment's commit ends with an error.
var (
	errRefused        = errors.New("the segment was refused, and is never applied")
	errLeadershipLost = errors.New("leadership was lost with the segment in the log; it may yet be committed")
)

// traceRefused ends the span of a segment that was not, or may not be, applied.
func (p *proposal) traceRefused(unknown bool) {
	err := errRefused
	if unknown {
		err = errLeadershipLost
	}
	p.seg.Span.End(err)
}
