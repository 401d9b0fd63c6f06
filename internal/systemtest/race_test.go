//go:build race

package systemtest_test

// underRace says that the clients are slowed down by the race detector, so that the suites take smaller portions.
const underRace = true
