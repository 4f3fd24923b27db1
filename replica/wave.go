package replica

import "time"

// wave is everything of one sort that waits for other replicas at the moment: proposals for their
// commit, or reads for their confirmation. While a wave is out, what comes for the groups of this
// node waits for the next one. So the busier a node is, the more calls share each of its messages
// and fsyncs, and the less each costs; a call that comes alone waits for nobody.
//
// The answers to a wave bring the next calls of the same callers, one behind the other. The next
// wave waits for them a little, lest the first take off alone and all the others wait for it.
//
// A group that gets no answer (its majority is away) holds the others up for waveMax, and is then
// left behind. It is no promise, only economy: what is in a wave and what is not is equally safe.
type wave struct {
	number uint64
	out    int // of the current wave, without an answer
	size   int // of the current wave
	began  time.Time

	held     int       // for the next wave
	since    time.Time // when there was nothing but these
	expected int       // how many took part, or waited, when the last wave ended
	gather   time.Duration

	timer alarm // wakes who waits for the wave
	clock func() time.Time
}

const (
	// waveMax is how long a wave may hold others up: a few round trips in a data center.
	waveMax = 2 * time.Millisecond
	// gatherMax, and gatherShare of the time that the last wave took, are how long the next waits for
	// callers to come again; with fewer than gatherFrom it waits for nobody.
	gatherMax   = 500 * time.Microsecond
	gatherShare = 4
	gatherFrom  = 8
)

// hold counts one more for the next wave.
func (w *wave) hold() {
	if w.held == 0 && w.out == 0 {
		w.since = w.clock()
	}
	w.held++
}

// ready says that the next wave may begin, or else after how long to look again, if nothing comes
// before.
func (w *wave) ready() (bool, time.Duration) {
	switch {
	case w.held == 0:
		return false, waveMax
	case w.out > 0:
		left := waveMax - w.clock().Sub(w.began)
		return left <= 0, left
	case w.expected < gatherFrom || w.held >= w.expected-w.expected/8:
		return true, 0
	}
	left := w.gather - w.clock().Sub(w.since)
	return left <= 0, left
}

// begin begins the next wave, with everything that is held.
func (w *wave) begin() {
	if w.out > 0 { // It was late; whoever waited for it may come at any time.
		w.expected = 0
	}
	w.number++
	w.size, w.held, w.out = w.held, 0, 0
	w.began = w.clock()
}

// join counts one thing that waits for an answer, and returns the wave that it belongs to.
func (w *wave) join() uint64 {
	w.out++
	return w.number
}

// leave takes the answer to what joined the wave of a number.
func (w *wave) leave(number uint64) {
	if number != w.number {
		return
	}
	if w.out--; w.out == 0 {
		w.since = w.clock()
		w.expected = w.size + w.held
		w.gather = min(w.since.Sub(w.began)/gatherShare, gatherMax)
	}
}

// late says that the wave has been out for longer than it may hold others up.
func (w *wave) late() bool { return w.out > 0 && w.clock().Sub(w.began) >= waveMax }
