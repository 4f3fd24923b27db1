package actor

// Pipe is the messages of a streamed call, between its caller and the object. Its methods do not
// block and are safe for concurrent use.
type Pipe interface {
	// Begin says that the object has taken the call: it is not made again elsewhere, and the caller's
	// messages come.
	Begin()
	// Take takes the caller's oldest message. over says that there is none and none comes.
	Take() (msg []byte, ok, over bool)
	// OnReadable sets what is called when there may be something to take.
	OnReadable(fn func())
	// Push sends a message to the caller, and does not copy it. It returns false, and sends nothing,
	// when too many wait.
	Push(msg []byte) bool
	// OnTaken sets what is called when messages that were pushed have been taken, or went nowhere, with
	// their bytes.
	OnTaken(fn func(bytes int))
	// Waiting returns how many messages that were pushed wait, and how large they are together.
	Waiting() (messages, bytes int)
	// Discard forgets the messages that wait to be taken by the caller, and those to come.
	Discard()
}
