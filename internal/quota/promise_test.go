package quota_test

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// checkAgrees holds Check to what the model says the acquire will be answered.
func (c *checker) checkAgrees(op, said quota.Acquire) error {
	writes := c.state.writes
	got, err := c.check(c.seen, c.now, op)
	if err != nil {
		return err
	}
	want := c.model.verdict(c.now, said, nil)
	want.balances = c.model.balances(want.wish)
	if want.outcome == quota.Behind { // of which nothing else is said
		got.Balances = nil
	}
	if err := c.sameAnswer(got, want); err != nil {
		return err
	}
	if c.state.writes != writes || !got.Time.Equal(c.now) {
		return fmt.Errorf("made %d writes, want none; at %v, want %v", c.state.writes-writes, got.Time, c.now)
	}
	return nil
}

// subject returns the reservation or acquire that an op is about.
func subject(op quota.Op) quota.ReceiptKey {
	switch op := op.(type) {
	case quota.Acquire:
		return quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	case quota.Settle:
		return quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	case quota.Release:
		return quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	case quota.Extend:
		return quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	}
	return quota.ReceiptKey{}
}

// ends are the ways that an acquire may go: each ends once, but for a late correction of one that expired.
var ends = map[quota.Phase][]quota.Phase{
	quota.PhaseUsed:    {quota.PhaseReleased},
	quota.PhaseOpen:    {quota.PhaseSettled, quota.PhaseReleased, quota.PhaseExpired},
	quota.PhaseExpired: {quota.PhaseSettled, quota.PhaseReleased},
}

// promises checks what is promised of an op, whatever the model says.
func (c *checker) promises(op quota.Op, d quota.Decision, w *wish) error {
	for _, w := range c.state.written {
		if err := lawful(op, w.was, c.state.accounts[w.key]); err != nil {
			return fmt.Errorf("%+v: %w", w.key, err)
		}
	}
	if err := c.endsOnce(op); err != nil {
		return err
	}
	switch op := op.(type) {
	case quota.Acquire:
		if d.Outcome == quota.Denied {
			return c.retry(op, d, w)
		}
		return c.bounded(d, w)
	case quota.Extend:
		return c.bounded(d, w)
	}
	return nil
}

// lawful tells whether an op may do that to a count.
func lawful(op quota.Op, was, is quota.Account) error {
	rises := is.Used+is.Held > was.Used+was.Held
	ok := is.Used >= 0 && is.Held >= 0 && is.Receipted >= 0 && is.Receipted <= is.Used
	switch op := op.(type) {
	case quota.Acquire:
		ok = ok && rises && (op.Reserve && is.Used == was.Used || !op.Reserve && is.Held == was.Held)
	case quota.Extend:
		ok = ok && rises && is.Used == was.Used
	case quota.Settle:
		ok = ok && is.Held <= was.Held
	case quota.Release:
		ok = ok && is.Held <= was.Held && is.Used <= was.Used
	case quota.Expire:
		ok = ok && !rises && is.Held < was.Held && is.Used >= was.Used
	case quota.Reset:
		ok = ok && is.Held == was.Held && is.Used == 0
	default:
		ok = ok && is.Held == was.Held && is.Used == was.Used
	}
	if !ok {
		return fmt.Errorf("%T makes of %+v\n%+v", op, was, is)
	}
	return nil
}

// endsOnce follows each acquire with an id through its phases.
func (c *checker) endsOnce(op quota.Op) error {
	follow := func(id quota.ReceiptKey) error {
		r, kept := c.state.receipts[id]
		was, known := c.phases[id]
		switch {
		case !kept:
			return nil
		case !known && r.Phase > quota.PhaseOpen, known && was != r.Phase && !slices.Contains(ends[was], r.Phase):
			return fmt.Errorf("%+v was %v and is %v", id, was, r.Phase)
		}
		c.phases[id] = r.Phase
		return nil
	}
	if _, all := op.(quota.Expire); !all {
		return follow(subject(op))
	}
	for id := range c.state.receipts {
		if err := follow(id); err != nil {
			return err
		}
	}
	return nil
}

// bounded checks that what was granted is within every limit and ceiling.
func (c *checker) bounded(d quota.Decision, w *wish) error {
	if d.Outcome != quota.Done || d.Replayed || w == nil {
		return nil
	}
	for _, a := range w.asks {
		bounds := append(a.ceilings, quota.CountMax)
		count := c.state.accounts[a.key]
		if count.Override.Set {
			bounds = append(bounds, count.Override.Max)
		} else if a.declared.Set {
			bounds = append(bounds, a.declared.Max)
		}
		if most := slices.Min(bounds); count.Used+count.Held > most {
			return fmt.Errorf("over-admitted: %+v has %d used and %d held of %d", a.key, count.Used, count.Held, most)
		}
	}
	for _, o := range w.most {
		if n := c.state.inFlight[o.bucket]; w.op.Reserve && w.adds == nil && o.most > 0 && n > o.most {
			return fmt.Errorf("over-admitted: %d reservations on %s of %d", n, o.bucket, o.most)
		}
	}
	return nil
}

// retry checks that a denied request passes when it was told to come again, and not before.
func (c *checker) retry(op quota.Acquire, d quota.Decision, w *wish) error {
	at := func(t time.Time) quota.Outcome { return c.model.outcome(t, w.op, nil).outcome }
	is := func(is func(quota.Violation) bool) bool { return slices.ContainsFunc(d.Violations, is) }
	hopeless := is(func(v quota.Violation) bool { return v.Never })
	if is(func(v quota.Violation) bool { return v.InFlight }) {
		if !d.RetryAt.IsZero() {
			return fmt.Errorf("come again at %v, where nobody knows when a reservation ends", d.RetryAt)
		}
		return nil
	}
	if !d.RetryAt.IsZero() {
		if hopeless {
			return fmt.Errorf("come again at %v, but a violation says never: %+v", d.RetryAt, d.Violations)
		}
		again, err := quota.Check(c.seen, d.RetryAt, op)
		if err != nil {
			return err
		}
		early := at(d.RetryAt.Add(-1))
		if again.Outcome != quota.Done && again.Outcome != quota.TooManyNames || early == quota.Done {
			return fmt.Errorf("come again at %v: it is then %v %+v, and just before %v", d.RetryAt, again.Outcome, again.Violations, early)
		}
	}
	if hopeless {
		return nil // the model has looked ahead
	}
	for _, a := range w.asks {
		if a.key.Span == window.Ever {
			continue
		}
		end := a.win.End
		for range 3 {
			if (d.RetryAt.IsZero() || end.Before(d.RetryAt)) && at(end) == quota.Done {
				return fmt.Errorf("come again at %v, but it passes at %v", d.RetryAt, end)
			}
			end = c.model.windows.At(a.key.Span, end, end.Location()).End
		}
	}
	return nil
}

// sameReservations compares what is open, where an op may have changed it.
func (c *checker) sameReservations(op quota.Op) error {
	switch op := op.(type) {
	case quota.Settle, quota.Release, quota.Extend, quota.Expire:
	case quota.Acquire:
		if !op.Reserve {
			return nil
		}
	default:
		return nil
	}
	open := 0
	inFlight := make(map[quota.Bucket]int64)
	for id, g := range c.model.grants {
		at, scheduled := c.state.expiries[id]
		if scheduled != g.open() || scheduled && !at.Equal(g.expiry) {
			return fmt.Errorf("%+v is scheduled for %v, want %v: %v", id, at, g.expiry, g.open())
		}
		if g.open() {
			open++
			for _, b := range g.buckets {
				inFlight[b]++
			}
		}
	}
	if len(c.state.expiries) != open {
		return fmt.Errorf("%d expiries are scheduled, want %d", len(c.state.expiries), open)
	}
	for b, n := range c.state.inFlight {
		if n != inFlight[b] {
			return fmt.Errorf("%d reservations are in flight on %s, want %d", n, b, inFlight[b])
		}
		delete(inFlight, b)
	}
	if len(inFlight) > 0 {
		return fmt.Errorf("reservations in flight that are not counted: %v", inFlight)
	}
	return nil
}

// whole compares everything that is kept, and recounts the receipts.
func (c *checker) whole() error {
	if len(c.state.accounts) != len(c.model.marks) {
		return fmt.Errorf("%d counts are kept, want %d", len(c.state.accounts), len(c.model.marks))
	}
	for key := range c.model.marks {
		if got, want := c.state.accounts[key], c.model.account(key); got != want {
			return fmt.Errorf("%+v is\n%+v, want\n%+v", key, got, want)
		}
	}
	if !reflect.DeepEqual(c.state.live, c.model.live) {
		return fmt.Errorf("live names %v, want %v", c.state.live, c.model.live)
	}
	extensions := 0
	for _, g := range c.model.grants {
		extensions += len(g.extends)
	}
	if len(c.state.receipts) != len(c.model.grants)+extensions {
		return fmt.Errorf("%d receipts, want %d of acquires and %d of extensions", len(c.state.receipts), len(c.model.grants), extensions)
	}
	return c.recount()
}

// recount holds the counts to what the receipts say.
func (c *checker) recount() error {
	used, held := make(map[quota.AccountKey]int64), make(map[quota.AccountKey]int64)
	inFlight := make(map[quota.Bucket]int64)
	open := 0
	for id, r := range c.state.receipts {
		for _, e := range r.Entries {
			held[e.Key] += r.Held(e)
			if e.Resets == c.state.accounts[e.Key].Resets {
				used[e.Key] += r.Used(e)
			}
		}
		for _, b := range r.InFlight() {
			inFlight[b]++
		}
		if r.Phase == quota.PhaseOpen {
			open++
			if !c.state.expiries[id].Equal(r.Hold.Expiry) {
				return fmt.Errorf("%+v is scheduled for %v, and expires at %v", id, c.state.expiries[id], r.Hold.Expiry)
			}
		}
		if id.ExtendID == "" && c.phases[id] != r.Phase {
			return fmt.Errorf("%+v is %v, and was %v when it was last asked about", id, r.Phase, c.phases[id])
		}
	}
	for key, a := range c.state.accounts {
		if a.Receipted != used[key] || a.Held != held[key] || a.Receipted > a.Used || a.Used < 0 {
			return fmt.Errorf("%+v is %+v, and its receipts come to %d used and %d held", key, a, used[key], held[key])
		}
	}
	for b, n := range c.state.inFlight {
		if n != inFlight[b] {
			return fmt.Errorf("%d reservations are in flight on %s, and the receipts come to %d", n, b, inFlight[b])
		}
	}
	if len(c.state.expiries) != open {
		return fmt.Errorf("%d expiries are scheduled, and %d receipts are open", len(c.state.expiries), open)
	}
	return nil
}
