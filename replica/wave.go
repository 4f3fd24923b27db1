package replica

import "time"

// wave is everything of one sort that waits for other replicas at the moment: proposals for their
// commit, or reads for their confirmation. While a wave is out, what comes for the groups of this node waits for the
// next one. So the busier a node is, the more calls share each of its messages and fsyncs, and the
// less each costs; a call that comes alone waits for nobody.
//
// A group that gets no answer (its majority is away) holds the others up for waveMax, and is then
// left behind. It is no promise, only economy: what is in a wave and what is not is equally safe.
type wave struct {
	number uint64
	out    int // of the current wave, without an answer
	began  time.Time
}

// waveMax is how long a wave may hold others up: a few round trips in a data center.
const waveMax = 2 * time.Millisecond

// join counts one thing that waits, and returns the wave that it belongs to.
func (w *wave) join() uint64 {
	if w.out == 0 {
		w.began = time.Now()
	}
	w.out++
	return w.number
}

// leave takes the answer to what joined the wave of a number.
func (w *wave) leave(number uint64) {
	if number == w.number {
		w.out--
	}
}

// late says that the wave has been out for longer than it may hold others up.
func (w *wave) late() bool { return w.out > 0 && time.Since(w.began) >= waveMax }

// over says that the next wave may begin, and begins it.
func (w *wave) over() bool {
	if w.out > 0 && !w.late() {
		return false
	}
	w.number++
	w.out = 0
	return true
}
