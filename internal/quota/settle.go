package quota

import (
	"fmt"
	"slices"
	"time"
)

// actual is what was really used of a bucket and unit.
type actual struct {
	bucket Bucket
	unit   Unit
	amount int64
}

// settle replaces what is held by what was used. It is never refused for its amounts: they are spent already.
func settle(s State, now time.Time, op Settle) (Decision, error) {
	id := ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	r, seen, err := s.Receipt(id)
	if err != nil {
		return Decision{}, err
	}
	if refusal := reservationIn(id, r, seen, now); refusal.Outcome != 0 {
		return refusal, nil
	}
	used, ps := r.actuals(op.Charges)
	if ps != nil {
		return Decision{Outcome: Invalid, Problems: ps}, nil
	}
	switch r.Phase {
	case PhaseSettled:
		if !slices.Equal(used, r.settled()) {
			return refuseEnded(AlreadySettled, id, r, now), nil
		}
		return replay(s, now, r)
	case PhaseReleased:
		return refuseEnded(AlreadyReleased, id, r, now), nil
	case PhaseOpen, PhaseExpired, PhaseUsed:
	}
	was := r
	r.Hold, r.Entries = r.Hold.clone(), slices.Clone(r.Entries)
	extra, refusal, err := r.allot(s, used)
	if err != nil || refusal.Outcome != 0 {
		return refusal, err
	}
	e := ending{state: s, now: now, id: id, was: was, extra: extra}
	return e.end(r, PhaseSettled)
}

// release gives back what was taken: what a reservation holds, or what a plain acquire used and no reset has forgotten since.
func release(s State, now time.Time, op Release) (Decision, error) {
	id := ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	r, seen, err := s.Receipt(id)
	switch {
	case err != nil:
		return Decision{}, err
	case !seen:
		return Decision{Outcome: UnknownReservation, Detail: op.RequestID}, nil
	case r.Phase == PhaseSettled:
		return refuseEnded(AlreadySettled, id, r, now), nil
	case r.Phase == PhaseReleased:
		return replay(s, now, r)
	}
	was := r
	r.Entries = slices.Clone(r.Entries)
	for i := range r.Entries {
		r.Entries[i].Used = 0
	}
	if r.Hold != nil {
		r.Hold = r.Hold.clone()
	}
	e := ending{state: s, now: now, id: id, was: was}
	return e.end(r, PhaseReleased)
}

// reservationIn refuses what is not a reservation of the caller's.
func reservationIn(id ReceiptKey, r Receipt, seen bool, now time.Time) Decision {
	switch {
	case !seen:
		return Decision{Outcome: UnknownReservation, Detail: id.RequestID}
	case r.Hold == nil && r.Phase == PhaseReleased:
		return refuseEnded(AlreadyReleased, id, r, now)
	case r.Hold == nil:
		return Decision{Outcome: NotReservation, Detail: id.RequestID}
	}
	return Decision{}
}

func refuseEnded(o Outcome, id ReceiptKey, r Receipt, now time.Time) Decision {
	d := Decision{Outcome: o, Detail: id.RequestID}
	if v, ok := ReservationOf(id, r, now); ok {
		d.Reservation = &v
	}
	return d
}

func (h *Hold) clone() *Hold {
	c := *h
	c.Charges = slices.Clone(h.Charges)
	return &c
}

// held returns what a reservation holds or held, by bucket and unit in the order in which they were taken.
func (r Receipt) held() []actual { return r.sums(func(c HeldCharge) int64 { return c.Amount }) }

// settled returns what it was settled with.
func (r Receipt) settled() []actual {
	sums := r.sums(func(c HeldCharge) int64 { return c.Used })
	held := r.held()
	kept := sums[:0]
	for i, a := range sums {
		if held[i].amount > 0 || a.amount > 0 { // what was not held, and not used either, says nothing
			kept = append(kept, a)
		}
	}
	return kept
}

func (r Receipt) sums(of func(HeldCharge) int64) []actual {
	sums := make([]actual, 0, len(r.Hold.Charges))
	for _, c := range r.Hold.Charges {
		i := slices.IndexFunc(sums, func(a actual) bool { return a.bucket == c.Bucket && a.unit == c.Unit })
		if i < 0 {
			i = len(sums)
			sums = append(sums, actual{bucket: c.Bucket, unit: c.Unit})
		}
		sums[i].amount += of(c)
	}
	return sums
}

// actuals returns what was used of everything held, and then of what was not held but used, by bucket and unit.
func (r Receipt) actuals(charges []Charge) ([]actual, Problems) {
	var ps Problems
	used := r.held()
	n := 0
	for n < len(used) && used[n].amount > 0 {
		n++
	}
	used = used[:n] // what only a settlement named is none of what was held
	named := make([]actual, 0, len(charges))
	var extra []actual
	for i, c := range charges {
		field := func(name string) string { return fmt.Sprintf("charges[%d].%s", i, name) }
		if c.Bucket == "" {
			c.Bucket = r.Hold.Bucket
		}
		is := func(a actual) bool { return a.bucket == c.Bucket && a.unit == c.Unit }
		if slices.ContainsFunc(named, is) {
			ps.Add(field("unit"), "%s of %s is settled twice; add the amounts up in one charge", c.Unit, c.Bucket)
			continue
		}
		named = append(named, actual{c.Bucket, c.Unit, c.Amount})
		at := slices.IndexFunc(used, is)
		switch {
		case at >= 0 && !c.Default:
			used[at].amount = c.Amount
		case at >= 0: // as held
		case !slices.ContainsFunc(used, func(a actual) bool { return a.bucket == c.Bucket }):
			ps.Add(field("bucket"), "%s was not charged by this reservation; want one that was, such as %s", c.Bucket, used[0].bucket)
		case c.Default:
			ps.Add(field("amount"), "is left out, and no %s are held; say how many were used", c.Unit)
		case c.Amount > 0:
			extra = append(extra, actual{c.Bucket, c.Unit, c.Amount})
		}
	}
	slices.SortFunc(extra, func(a, b actual) int {
		if c := compareText(string(a.bucket), string(b.bucket)); c != 0 {
			return c
		}
		return compareText(string(a.unit), string(b.unit))
	})
	return append(used, extra...), ps
}

// allot shares what was used out over what was taken: the first that was taken is used first, and what is beyond all of it belongs
// to the last. What was not held is laid out over the windows in which the reservation was made; extra is the plan of that.
func (r *Receipt) allot(s State, used []actual) (extra *plan, refusal Decision, err error) {
	for _, a := range used {
		left, last := a.amount, -1
		for i := range r.Hold.Charges {
			c := &r.Hold.Charges[i]
			if c.Bucket != a.bucket || c.Unit != a.unit {
				continue
			}
			c.Used = min(left, c.Amount)
			left -= c.Used
			last = i
		}
		if last >= 0 {
			r.Hold.Charges[last].Used += left
			continue
		}
		if extra == nil {
			book, err := s.Book()
			if err != nil {
				return nil, Decision{}, err
			}
			extra = &plan{reader: s, now: r.Time, book: book, index: make(map[AccountKey]int), hold: &holding{extended: r}}
		}
		extra.charges = append(extra.charges, Charge{Bucket: a.bucket, Unit: a.unit, Amount: a.amount})
	}
	for i := range r.Entries {
		r.Entries[i].Used = r.Hold.Charges[r.Entries[i].Charge].Used
	}
	if extra == nil {
		return nil, Decision{}, nil
	}
	refusal, err = extra.unheld(r)
	return extra, refusal, err
}

// unheld finds the counts of what was used and not held, and adds them to the receipt.
func (p *plan) unheld(r *Receipt) (Decision, error) {
	for i, c := range p.charges {
		rules := p.book.Rules(c.Bucket)
		if rules == nil { // it was declared when the reservation was made
			rules = p.book.counted
		}
		p.charge(i, rules, c)
		r.Hold.Charges = append(r.Hold.Charges, HeldCharge{Bucket: c.Bucket, Unit: c.Unit, Used: c.Amount})
	}
	first := len(r.Hold.Charges) - len(p.charges)
	for _, part := range p.hold.parts {
		r.Entries = append(r.Entries, Entry{
			Key: p.entries[part.entry].key, Charge: first + part.charge, Used: p.charges[part.charge].Amount,
		})
	}
	if n := touched(r.Entries); n > CountsMax {
		return tooManyHeld(n), nil
	}
	if err := p.read(); err != nil {
		return Decision{}, err
	}
	return p.admitUnits()
}
