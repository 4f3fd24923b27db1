//go:build race

package quickjs_test

// With the race detector, Go ends the process where the engine would fault and be lost.
const raceEnabled = true
