package store

import (
	"fmt"
	"sync"
	"time"
)

const (
	// jumpMin is the largest step forward that is taken as it is: clocks are set right by less all the time.
	jumpMin = time.Minute
	// jumpHold is how long a larger step must last, by the steady clock, before it is believed.
	jumpHold = 10 * time.Minute
	// doubtMin is the longest stop over which the clock is not doubted.
	doubtMin = time.Hour
	// doubtHold is how long a time that was believed after a jump, or found at a start, must have lasted before anything is
	// deleted by it: a wrong clock can be set right again, and what was deleted cannot.
	doubtHold = 24 * time.Hour
)

// clock makes the time by which a ledger counts out of two fallible ones. It never goes back, so that a window that has ended
// stays ended; and it does not follow a jump forward until the jump has lasted, so that a wrong clock does not open tomorrow's
// budget today.
type clock struct {
	now    func() time.Time     // the wall's
	uptime func() time.Duration // steady: nobody sets it

	mu     sync.Mutex // guards what follows
	last   time.Time  // the newest time given out
	wall   time.Time  // the wall clock when it was last believed
	up     time.Duration
	jump   time.Duration // by how much the wall clock is ahead of what is believed; 0 if it is not held back
	jumped time.Duration // the steady clock when that jump was first seen
	behind time.Duration // how far the wall clock is behind the newest time given out

	doubt      time.Duration // how much of last came from jumps that nothing has confirmed
	doubtUntil time.Duration // by the steady clock
}

// newClock starts from the newest time that the ledger has seen; zero if it has seen none, or is to forget it. Nothing tells
// whether a clock was right while nobody looked, so a jump over a stop is believed for counting, and doubted for deleting.
func newClock(now func() time.Time, uptime func() time.Duration, seen time.Time) *clock {
	c := &clock{now: now, uptime: uptime, last: seen, wall: now().Round(0), up: uptime()}
	if stop := c.wall.Sub(seen); !seen.IsZero() && stop > doubtMin {
		c.doubt, c.doubtUntil = stop, c.up+doubtHold
	}
	c.advance(c.wall)
	return c
}

// read returns the time by which to count now. Readings and the writer may call it at once.
func (c *clock) read() time.Time {
	wall, up := c.now().Round(0), c.uptime() // Round drops the steady part, which would hide a jump
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.doubt > 0 && up >= c.doubtUntil {
		c.doubt = 0
	}
	expected := c.wall.Add(up - c.up)
	jump := wall.Sub(expected)
	if jump <= jumpMin {
		if c.jump = 0; jump >= -jumpMin {
			c.wall, c.up = wall, up
		} // a clock that was set back by more may be set right again, and that is no jump
		return c.advance(wall)
	}
	if c.jump == 0 || (jump-c.jump).Abs() > jumpMin {
		c.jump, c.jumped = jump, up
	}
	if up-c.jumped < jumpHold {
		return c.advance(expected)
	}
	c.doubt += jump
	c.doubtUntil = up + doubtHold
	c.wall, c.up, c.jump = wall, up, 0
	return c.advance(wall)
}

func (c *clock) advance(t time.Time) time.Time {
	c.behind = max(0, c.last.Sub(t))
	if t.After(c.last) {
		c.last = t
	}
	return c.last
}

// settled returns the time by which things may be deleted: the ledger's, less what is in doubt.
func (c *clock) settled() time.Time {
	c.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.Add(-c.doubt)
}

// ahead returns by how much the wall clock was ahead of the time that was given out when it was last read; negative if it was behind.
func (c *clock) ahead() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jump - c.behind
}

// problem says in a line what is wrong with the clock, and whether a jump is held back; "" if nothing is.
func (c *clock) problem() (text string, held bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.jump != 0:
		return fmt.Sprintf("the clock jumped forward by %s, which is not believed until it has lasted %s", c.jump.Round(time.Second), jumpHold), true
	case c.behind > jumpMin:
		return fmt.Sprintf("the clock is %s behind the newest time in the ledger, which stands still until it is past; "+
			"if the ledger's time was wrong, start once with --accept-clock", c.behind.Round(time.Second)), false
	}
	return "", false
}
