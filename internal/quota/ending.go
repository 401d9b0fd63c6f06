package quota

import (
	"slices"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// ending is a reservation, or a plain acquire, that ends: settled, released or expired.
type ending struct {
	state State
	now   time.Time
	id    ReceiptKey
	was   Receipt // as it stood
	extra *plan   // what was used and not held; nil if nothing was

	counts []count            // those that it touches, each once
	places map[AccountKey]int // of counts, once there are many
}

// count is one count that an ending changes.
type count struct {
	key    AccountKey
	kept   bool // whether there is such a count; if it has left with its window, nothing is changed
	before Account
	after  Account
	window *window.Window // of a count that begins with this settlement; else nil
}

// end makes the change: r is the receipt with what was used of each entry, and phase how it ended. It reads first and writes last.
func (e *ending) end(r Receipt, phase Phase) (Decision, error) {
	r.Phase = phase
	d := Decision{Outcome: Done}
	if r.Hold != nil {
		d.Late = phase != PhaseExpired && (e.was.Phase == PhaseExpired || !r.Hold.Expiry.After(e.now))
		r.Hold.Ended, r.Hold.Late = e.now, d.Late
	}
	if e.was.Phase == PhaseOpen {
		d.Ended = phase
	}
	for i := range r.Entries {
		c, err := e.count(r.Entries[i].Key)
		if err != nil {
			return Decision{}, err
		}
		e.charge(&e.counts[c], &r.Entries[i], e.before(i))
	}
	freed, err := e.freed()
	if err != nil {
		return Decision{}, err
	}
	if d.Balances, d.Overage, err = e.balances(); err != nil {
		return Decision{}, err
	}
	return d, e.write(r, freed)
}

// count returns the place of a count among those that are touched.
func (e *ending) count(k AccountKey) (int, error) {
	if i := e.place(k); i >= 0 {
		return i, nil
	}
	a, kept, err := e.state.Account(k)
	if err != nil {
		return 0, err
	}
	c := count{key: k, kept: kept, before: a, after: a}
	if e.extra != nil {
		if i, ok := e.extra.index[k]; ok {
			began := &e.extra.entries[i]
			c.kept, c.window = true, &began.window
			c.after.Limit = began.declared
			c.after.cover(began.window)
		}
	}
	e.counts = append(e.counts, c)
	if e.places != nil {
		e.places[k] = len(e.counts) - 1
	}
	return len(e.counts) - 1, nil
}

// place returns where a count is among those that are touched; -1 if it is not yet.
func (e *ending) place(k AccountKey) int {
	const many = 16
	if len(e.counts) < many {
		return slices.IndexFunc(e.counts, func(c count) bool { return c.key == k })
	}
	if e.places == nil {
		e.places = make(map[AccountKey]int)
		for i, c := range e.counts {
			e.places[c.key] = i
		}
	}
	if i, ok := e.places[k]; ok {
		return i
	}
	return -1
}

// charge moves one entry's amounts: had is what it had in its count's used, and x.Used what was used, which is left at what is in
// the count for it now.
func (e *ending) charge(c *count, x *Entry, had int64) {
	a := &c.after
	if !c.kept { // its window is so long past that its count has left
		x.Used = 0
		return
	}
	a.Held -= min(a.Held, e.was.Held(*x)) // less would mean that the count had left, and come back with a clock that was set back
	forgotten := x.Resets != a.Resets && had > 0
	x.Resets = a.Resets
	if x.Used -= had; forgotten { // what was used has been forgotten by a reset: nothing is left of it to give back
		x.Used = max(0, x.Used)
		had = 0
	}
	x.Used = max(min(x.Used, UsedMax-a.Used), -min(a.Used, a.Receipted)) // likewise, no count goes below 0 whatever has become of it
	a.Used += x.Used
	a.Receipted += x.Used
	x.Used = max(0, x.Used+had)
}

// before returns what entry i had in its count's used. Entries that a settlement adds come last, and had nothing.
func (e *ending) before(i int) int64 {
	if i >= len(e.was.Entries) {
		return 0
	}
	return e.was.Used(e.was.Entries[i])
}

// freed returns the buckets on which there is one open reservation less, with how many there are left.
func (e *ending) freed() ([]inFlightOn, error) {
	var freed []inFlightOn
	for _, b := range e.was.InFlight() {
		n, err := e.state.InFlight(b)
		if err != nil {
			return nil, err
		}
		freed = append(freed, inFlightOn{bucket: b, open: max(0, n-1)})
	}
	return freed, nil
}

// balances returns how the counts stand after the change, and what it added above their limits.
func (e *ending) balances() ([]Balance, []Amount, error) {
	book, err := e.state.Book()
	if err != nil {
		return nil, nil, err
	}
	bs := make([]Balance, 0, len(e.counts))
	var over []Amount
	for _, c := range e.counts {
		if !c.kept {
			continue
		}
		b := standing(book, e.now, c.key, c.after)
		bs = append(bs, b)
		more := b.Overage() - standing(book, e.now, c.key, c.before).Overage()
		if more <= 0 {
			continue
		}
		i := slices.IndexFunc(over, func(a Amount) bool { return a.Unit == c.key.Unit })
		if i < 0 {
			i = len(over)
			over = append(over, Amount{Unit: c.key.Unit})
		}
		over[i].Amount = max(over[i].Amount, more)
	}
	return worthShowing(bs), over, nil
}

// write keeps the change.
func (e *ending) write(r Receipt, freed []inFlightOn) error {
	book, err := e.state.Book()
	if err != nil {
		return err
	}
	for _, c := range e.counts {
		if c.after == c.before {
			continue
		}
		limit, tells := book.inForce(e.now, c.key, c.after)
		if err := tells.announce(e.state, e.now, c.key, &c.after, limit); err != nil {
			return err
		}
		if err := e.state.SetAccount(c.key, c.after); err != nil {
			return err
		}
	}
	for _, f := range freed {
		if err := e.state.SetInFlight(f.bucket, f.open); err != nil {
			return err
		}
	}
	if err := e.state.SetReceipt(e.id, r); err != nil {
		return err
	}
	if e.was.Phase != PhaseOpen {
		return nil
	}
	return e.state.Schedule(e.id, e.was.Hold.Expiry, r)
}
