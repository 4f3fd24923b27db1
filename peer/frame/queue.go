package frame

// message is a run of whole frames that goes out in one Send, and how many of its bytes are of
// replies.
type message struct {
	data    []byte
	replies int
}

// longBody is what is still to be sent of a body that did not fit into its first frame.
type longBody struct {
	call  uint64
	of    *outbound // nil: a reply's
	after uint64    // the number of the message with the first frame, which must go out before
	rest  []byte
	reply bool
}

// Sent buffers are kept for reuse: while there is nothing to send, only small ones.
const (
	freeMax      = 2
	idleBytesMax = 64 << 10
)

// queue holds what waits to be sent: small frames, packed into messages, and the rests of long
// bodies, of which one frame at a time takes its turn with a message of small ones. It is not safe
// for concurrent use: Mux.mu guards it.
type queue struct {
	full []message // in order, sent before open
	open message   // being filled
	free [][]byte  // sent; to be filled again
	long []*longBody

	bytes   int // all that waits
	replies int // of these, of replies
	first   uint64
	longDue bool
}

// empty says that nothing waits.
func (q *queue) empty() bool { return len(q.full) == 0 && len(q.open.data) == 0 && len(q.long) == 0 }

// room returns the buffer to append a frame of at most size bytes to; add must follow.
func (q *queue) room(size int) []byte {
	if len(q.open.data) > 0 && len(q.open.data)+size > FrameBytesMax {
		q.full = append(q.full, q.open)
		q.open = message{}
	}
	if q.open.data == nil {
		if last := len(q.free) - 1; last >= 0 {
			q.open.data, q.free = q.free[last], q.free[:last]
		} else {
			q.open.data = make([]byte, 0, 4096)
		}
	}
	return q.open.data
}

// add takes the buffer of room back, with a frame more, and returns the number of the message that
// has it. Messages are numbered in the order of sending, from 1.
func (q *queue) add(data []byte, reply bool) uint64 {
	n := len(data) - len(q.open.data)
	q.open.data = data
	q.bytes += n
	if reply {
		q.open.replies += n
		q.replies += n
	}
	return q.first + uint64(len(q.full)) + 1
}

// addLong queues the rest of a body.
func (q *queue) addLong(b *longBody) {
	q.long = append(q.long, b)
	q.bytes += len(b.rest)
	if b.reply {
		q.replies += len(b.rest)
	}
}

// dropLong forgets the rest of a body that nobody wants any more.
func (q *queue) dropLong(call uint64, reply bool) {
	for i, b := range q.long {
		if b.call == call && b.reply == reply {
			q.long = append(q.long[:i], q.long[i+1:]...)
			q.gone(len(b.rest), b.reply)
			return
		}
	}
}

func (q *queue) gone(n int, reply bool) {
	q.bytes -= n
	if reply {
		q.replies -= n
	}
}

// take returns the next message to send; scratch is the buffer for frames of long bodies. small is
// false for such a frame: its buffer is scratch and not to be given to done.
func (q *queue) take(scratch []byte) (m message, small bool) {
	haveSmall := len(q.full) > 0 || len(q.open.data) > 0
	if len(q.long) > 0 && q.long[0].after <= q.first && (q.longDue || !haveSmall) {
		q.longDue = false
		return q.takeLong(scratch), false
	}
	q.longDue = true
	q.first++
	if len(q.full) > 0 {
		m = q.full[0]
		q.full[0] = message{}
		q.full = q.full[1:]
		return m, true
	}
	q.full = nil
	m, q.open = q.open, message{}
	return m, true
}

// takeLong makes a frame of the body whose turn it is, and puts that at the end of the line.
func (q *queue) takeLong(scratch []byte) message {
	b := q.long[0]
	n := min(len(b.rest), FrameBytesMax-64)
	data := appendBody(scratch[:0], b.call, b.reply, b.rest[:n])
	b.rest = b.rest[n:]
	copy(q.long, q.long[1:])
	q.long[len(q.long)-1] = nil
	q.long = q.long[:len(q.long)-1]
	if len(b.rest) > 0 {
		q.long = append(q.long, b)
	} else if b.of != nil {
		b.of.sent = true
	}
	q.gone(n, b.reply)
	return message{data: data}
}

// done takes back a small message that was sent.
func (q *queue) done(m message) {
	q.bytes -= len(m.data)
	q.replies -= m.replies
	if len(q.free) < freeMax {
		q.free = append(q.free, m.data[:0])
	}
}

// shrink lets go of large buffers.
func (q *queue) shrink() {
	kept := q.free[:0]
	for _, b := range q.free {
		if cap(b) <= idleBytesMax {
			kept = append(kept, b)
		}
	}
	clear(q.free[len(kept):])
	q.free = kept
}
