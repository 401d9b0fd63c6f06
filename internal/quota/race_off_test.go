//go:build !race

package quota_test

// raced tells whether the race detector watches.
const raced = false
