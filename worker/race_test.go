//go:build race

package worker_test

// raceDetector says that the tests run with the race detector, which makes the engine, C that became Go, some thirty
// times slower.
const raceDetector = true
