package quota

import (
	"fmt"
	"slices"
	"time"
)

// extend keeps a reservation longer and takes more for it. A refusal leaves it as it was.
func extend(s State, now time.Time, op Extend) (Decision, error) {
	id := ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	r, seen, err := s.Receipt(id)
	if err != nil {
		return Decision{}, err
	}
	if refusal := reservationIn(id, r, seen, now); refusal.Outcome != 0 {
		return refusal, nil
	}
	if refused := op.refused(r.Hold); refused != nil {
		return Decision{Outcome: NotAllowed, Refused: refused}, nil
	}
	extension := id
	extension.ExtendID = op.ExtendID
	if op.ExtendID != "" {
		x, seen, err := s.Receipt(extension)
		switch {
		case err != nil:
			return Decision{}, err
		case seen && x.Fingerprint != op.sum:
			return Decision{Outcome: IDReused, Field: "extend_id", Detail: op.ExtendID}, nil
		case seen:
			return repeat(s, now, id, r)
		}
	}
	switch {
	case r.Phase == PhaseSettled:
		return refuseEnded(AlreadySettled, id, r, now), nil
	case r.Phase == PhaseReleased:
		return refuseEnded(AlreadyReleased, id, r, now), nil
	case r.Phase != PhaseOpen || !r.Hold.Expiry.After(now):
		return refuseEnded(AlreadyExpired, id, r, now), nil
	}
	p, refusal, err := planExtension(s, now, op, &r)
	if err != nil || refusal.Outcome != 0 {
		return refusal, err
	}
	expiry := r.Hold.Expiry
	r.Hold, r.Entries = r.Hold.clone(), slices.Clone(r.Entries)
	if op.Hold > 0 {
		if later := expiryAfter(now, op.Hold); later.After(expiry) {
			r.Hold.Expiry = later
		}
	}
	p.record(&r)
	if refusal := r.tooLarge(); refusal.Outcome != 0 {
		return refusal, nil
	}
	return p.keepExtension(s, id, extension, r, expiry, op.sum)
}

// refused returns the buckets of a reservation that its caller may take from no more. Whoever may not acquire anew does not keep an old
// reservation going either.
func (x Extend) refused(h *Hold) []Bucket {
	if x.May == nil {
		return nil
	}
	var refused []Bucket
	ask := func(b Bucket) {
		if !slices.Contains(refused, b) && !x.May(b) {
			refused = append(refused, b)
		}
	}
	ask(h.Bucket)
	for _, c := range h.Charges {
		ask(c.Bucket)
	}
	return refused
}

// tooLarge refuses what would make a reservation more than it may become, however often it is extended: the counts that it touches,
// what is kept of it, and the sums of what it holds are bounded.
func (r Receipt) tooLarge() Decision {
	if n := touched(r.Entries); n > CountsMax {
		return tooManyHeld(n)
	}
	var ps Problems
	if n := len(r.Entries); n > EntriesMax {
		ps.Add("charges", "would make the reservation keep %d parts; at most %d: settle it, and acquire anew", n, EntriesMax)
	}
	left := make(map[[2]string]int64)
	for _, c := range r.Hold.Charges {
		k := [2]string{string(c.Bucket), string(c.Unit)}
		if _, ok := left[k]; !ok {
			left[k] = CountMax
		}
		if left[k] -= c.Amount; left[k] < 0 {
			ps.Add("charges", "would make the reservation hold more than %d %s of %s", CountMax, c.Unit, c.Bucket)
			break
		}
	}
	if ps != nil {
		return Decision{Outcome: Invalid, Problems: ps}
	}
	return Decision{}
}

func tooManyHeld(n int) Decision {
	var ps Problems
	ps.Add("charges", "would make the reservation touch %d counts, over all buckets, parents and windows; at most %d in one", n, CountsMax)
	return Decision{Outcome: Invalid, Problems: ps}
}

// planExtension lays out what is taken on top; nothing where nothing is.
func planExtension(s State, now time.Time, op Extend, r *Receipt) (plan, Decision, error) {
	if len(op.Charges) == 0 {
		return plan{reader: s, now: now, hold: &holding{extended: r}}, Decision{}, nil
	}
	charges := slices.Clone(op.Charges)
	var ps Problems
	for i := range charges {
		c := &charges[i]
		if c.Bucket == "" {
			c.Bucket = r.Hold.Bucket
		}
		if slices.ContainsFunc(charges[:i], func(d Charge) bool { return d.Bucket == c.Bucket && d.Unit == c.Unit }) {
			ps.Add(fmt.Sprintf("charges[%d].unit", i), "%s of %s is charged twice; add the amounts up in one charge", c.Unit, c.Bucket)
		}
	}
	if ps != nil {
		return plan{}, Decision{Outcome: Invalid, Problems: ps}, nil
	}
	p, refusal, err := planAcquire(s, now, Acquire{Bucket: r.Hold.Bucket, Charges: charges, Reserve: true}, r)
	if err != nil || refusal.Outcome != 0 {
		return p, refusal, err
	}
	d, err := p.verdict()
	if err != nil || d.Outcome != Done {
		return p, d, err
	}
	return p, Decision{}, nil
}

// keepExtension writes what was taken, the reservation as it is now, and that this extension has been made. It reads first: where a
// count of the reservation cannot be read, nothing is written.
func (p *plan) keepExtension(s State, id, extension ReceiptKey, r Receipt, before time.Time, sum Fingerprint) (Decision, error) {
	p.count(true)
	d, err := replay(counted{s, p.entries}, p.now, r)
	if err != nil {
		return Decision{}, err
	}
	d.Replayed = false
	if err := p.write(s); err != nil {
		return Decision{}, err
	}
	if err := p.countInFlight(s); err != nil {
		return Decision{}, err
	}
	if err := s.SetReceipt(id, r); err != nil {
		return Decision{}, err
	}
	if extension.ExtendID != "" {
		if err := s.SetReceipt(extension, Receipt{Fingerprint: sum, Time: p.now}); err != nil {
			return Decision{}, err
		}
	}
	if !r.Hold.Expiry.Equal(before) {
		if err := s.Schedule(id, before, r); err != nil {
			return Decision{}, err
		}
	}
	return d, nil
}

// counted is a state as it will be when a plan has been written.
type counted struct {
	State
	entries []entry
}

// Account returns a count as the plan has charged it.
func (s counted) Account(k AccountKey) (Account, bool, error) {
	for i := range s.entries {
		if s.entries[i].key == k {
			return s.entries[i].account, true, nil
		}
	}
	return s.State.Account(k)
}
