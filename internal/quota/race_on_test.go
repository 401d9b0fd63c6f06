//go:build race

package quota_test

// raced tells whether the race detector watches, which takes six times as long; there is one goroutine here to watch.
const raced = true
