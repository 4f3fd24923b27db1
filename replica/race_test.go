//go:build race

package replica

// raceEnabled says that the race detector is on.
const raceEnabled = true
