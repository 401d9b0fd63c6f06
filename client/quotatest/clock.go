package quotatest

import (
	"sync"
	"time"
)

// clock stands still until it is set. The ledger does not believe a step of the wall's clock that its steady clock knows nothing of,
// so that the two move as one.
type clock struct {
	mu    sync.Mutex
	began time.Time
	at    time.Time
}

func newClock(at time.Time) *clock { return &clock{began: at, at: at} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) uptime() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at.Sub(c.began)
}

// step moves the clock to where next says, and tells how it stands. It does not go back: then ok is false.
func (c *clock) step(next func(now time.Time) time.Time) (at time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to := next(c.at)
	if to.Before(c.at) {
		return c.at, false
	}
	c.at = to
	return c.at, true
}
