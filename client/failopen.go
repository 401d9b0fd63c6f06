package client

import (
	"sync"
	"time"
)

// localGrants counts what FailOpen lets through in the current minute, by bucket. It is bounded by LocalBucketsMax.
type localGrants struct {
	cap int
	now func() time.Time

	mu     sync.Mutex
	minute time.Time
	used   map[string]int
}

// grant takes one call of a bucket, and tells whether there was one left.
func (l *localGrants) grant(bucket string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A clock that goes back stays in the later minute, so that it opens no minute twice.
	if minute := l.now().Truncate(time.Minute); l.used == nil || minute.After(l.minute) {
		l.minute, l.used = minute, make(map[string]int)
	}
	n, known := l.used[bucket]
	if n >= l.cap || !known && len(l.used) >= LocalBucketsMax {
		return false
	}
	l.used[bucket]++
	return true
}
