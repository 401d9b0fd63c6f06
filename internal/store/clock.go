package store

import (
	"fmt"
	"time"
)

// A jump of the wall clock that the steady clock does not confirm is believed only after it has lasted.
const (
	jumpMin  = time.Minute      // a smaller step forward is taken as it is: clocks are set right by less all the time
	jumpHold = 10 * time.Minute // how long a larger one must last, by the steady clock
)

// clock makes the time by which a ledger counts out of two fallible ones. It never goes back, so that a window that has ended
// stays ended; and it does not follow a jump forward until the jump has lasted, so that a wrong clock does not open tomorrow's
// budget today. Only the writer uses it.
type clock struct {
	now    func() time.Time     // the wall's
	uptime func() time.Duration // steady: nobody sets it

	last   time.Time     // the newest time given out
	wall   time.Time     // the wall clock when it was last believed
	up     time.Duration // the steady clock then
	jump   time.Duration // by how much the wall clock is ahead of what is believed; 0 if it is not held back
	jumped time.Duration // the steady clock when that jump was first seen
	behind time.Duration // how far the wall clock is behind the newest time given out
}

// newClock starts from the newest time that the ledger has seen. Nothing tells whether a clock was right while nobody looked,
// so a jump over a stop is believed.
func newClock(now func() time.Time, uptime func() time.Duration, seen time.Time) *clock {
	c := &clock{now: now, uptime: uptime, last: seen, wall: now().Round(0), up: uptime()}
	c.advance(c.wall)
	return c
}

// read returns the time by which to count now.
func (c *clock) read() time.Time {
	wall, up := c.now().Round(0), c.uptime() // Round drops the steady part, which would hide a jump
	expected := c.wall.Add(up - c.up)
	jump := wall.Sub(expected)
	if jump <= jumpMin {
		c.believe(wall, up)
		return c.advance(wall)
	}
	if c.jump == 0 || (jump-c.jump).Abs() > jumpMin {
		c.jump, c.jumped = jump, up
	}
	if up-c.jumped >= jumpHold {
		c.believe(wall, up)
		return c.advance(wall)
	}
	return c.advance(expected)
}

func (c *clock) believe(wall time.Time, up time.Duration) {
	c.wall, c.up, c.jump = wall, up, 0
}

func (c *clock) advance(t time.Time) time.Time {
	c.behind = max(0, c.last.Sub(t))
	if t.After(c.last) {
		c.last = t
	}
	return c.last
}

// problem says in a line what is wrong with the clock; "" if nothing is.
func (c *clock) problem() string {
	switch {
	case c.jump != 0:
		return fmt.Sprintf("the clock jumped forward by %s, which is not believed until it has lasted %s", c.jump.Round(time.Second), jumpHold)
	case c.behind > jumpMin:
		return fmt.Sprintf("the clock is %s behind the newest time in the ledger, which stands still until it is past; "+
			"if the ledger's time was wrong, start once with --accept-clock", c.behind.Round(time.Second))
	}
	return ""
}
