package storage

// Limits on what one object may write. They are checked where writes enter, by the object's
// storage; the store itself has none, because pages and undo records have their own.
const (
	MaxKeyBytes      = 2048
	MaxValueBytes    = 2 << 20
	MaxCallKeys      = 128 // of one call for many keys
	MaxSegmentBytes  = 16 << 20
	MaxSegmentWrites = 10_000
	MaxNameBytes     = 64 << 10
	MaxClassBytes    = 255
	// MaxRequestIDBytes is the size of a request id, and MaxRequestsBytes that of all the Requests
	// which an object keeps.
	MaxRequestIDBytes = 128
	MaxRequestsBytes  = 1 << 20
	// MaxAlarmErrorBytes is how much of an error's text a DeadAlarm keeps.
	MaxAlarmErrorBytes = 1 << 10
)
