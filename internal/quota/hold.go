package quota

import (
	"slices"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// holding is the part of a plan that only a reservation has.
type holding struct {
	extended *Receipt     // the reservation that is added to; nil for a new one
	parts    []part       // which counts each charge touches
	buckets  []inFlightOn // where the reservation is in flight, each bucket once
}

// part is that a charge asks one count for its amount.
type part struct{ charge, entry int }

// inFlightOn is a bucket with its open reservations.
type inFlightOn struct {
	bucket Bucket
	most   int64 // max_in_flight; 0 means any number
	open   int64
	counts bool // the reservation is counted there already
}

// bucket notes that the reservation charges a bucket.
func (h *holding) bucket(b Bucket, rules *Rules) {
	if slices.ContainsFunc(h.buckets, func(o inFlightOn) bool { return o.bucket == b }) {
		return
	}
	h.buckets = append(h.buckets, inFlightOn{
		bucket: b, most: rules.Settings.MaxInFlight,
		counts: h.extended != nil && slices.ContainsFunc(h.extended.Entries, func(e Entry) bool { return e.Key.Bucket == b }),
	})
}

// amounts returns an acquire's charges with every amount known. Where the caller did not say, the estimates of the bucket that is
// charged do, so that a caller who does not know is bounded too.
func amounts(book *Book, op Acquire) []Charge {
	if !slices.ContainsFunc(op.Charges, func(c Charge) bool { return c.Default }) {
		return op.Charges
	}
	charges := slices.Clone(op.Charges)
	for i := range charges {
		if charges[i].Default {
			charges[i].Amount = book.terms(charges[i].Bucket).estimate(charges[i].Unit)
		}
	}
	if op.bare {
		for _, e := range book.terms(op.Bucket).Estimates {
			if e.Unit != Calls {
				charges = append(charges, Charge{Bucket: op.Bucket, Unit: e.Unit, Amount: e.Amount})
			}
		}
	}
	return charges
}

// estimate returns what a call is taken to need of a unit; 1 where nothing is declared.
func (s Settings) estimate(u Unit) int64 {
	for _, e := range s.Estimates {
		if e.Unit == u {
			return e.Amount
		}
	}
	return 1
}

// readHold reads what a reservation asks besides counts.
func (p *plan) readHold() error {
	for i := range p.hold.buckets {
		o := &p.hold.buckets[i]
		var err error
		if o.open, err = p.reader.InFlight(o.bucket); err != nil {
			return err
		}
	}
	for i := range p.entries {
		p.entries[i].holds = p.hold.holds(p.entries[i].key)
	}
	return nil
}

// holds returns what the reservation that is added to holds of a count already.
func (h *holding) holds(k AccountKey) int64 {
	if h == nil || h.extended == nil {
		return 0
	}
	var n int64
	for _, e := range h.extended.Entries {
		if e.Key == k {
			n += e.Amount
		}
	}
	return n
}

// share tells whether one reservation asks for more of a limit than it may hold.
func (p *plan) share(e *entry, limit Cap) (Violation, bool) {
	if p.hold == nil || e.rules.Settings.MaxHold == 0 || !e.declared.Set && !e.account.Override.Set {
		return Violation{}, false
	}
	most := share(limit, e.rules.Settings.MaxHold)
	if e.amount <= most.Max-e.holds {
		return Violation{}, false
	}
	return Violation{
		Balance:   balanceIn(e.key, e.window, e.account, e.declared),
		Requested: e.holds + e.amount, Cap: most.Max, MaxHold: true,
		Restored: e.declared != e.lasting && !e.account.Override.Set,
		Never:    e.key.Span == window.Ever || e.lasting.Set && e.amount > share(e.lasting, e.rules.Settings.MaxHold).Max, // the next window holds nothing yet
	}, true
}

// crowded returns the buckets on which there may be no more reservations.
func (p *plan) crowded() []Violation {
	if p.hold == nil {
		return nil
	}
	var violations []Violation
	for _, o := range p.hold.buckets {
		if o.most == 0 || o.counts || o.open < o.most {
			continue
		}
		violations = append(violations, Violation{
			Balance: Balance{
				Bucket: o.bucket, Unit: Reservations, Window: window.Window{Span: window.Ever}, Limit: AtMost(o.most), Held: o.open,
			},
			Requested: 1, Cap: o.most, InFlight: true,
		})
	}
	return violations
}

// keepReservation writes the receipt of a new reservation, and schedules its expiry.
func (p *plan) keepReservation(s State, id ReceiptKey, op Acquire) (time.Time, error) {
	terms := p.book.terms(op.Bucket)
	hold := op.Hold
	if hold == 0 {
		hold = terms.Hold
	}
	r := Receipt{Fingerprint: op.sum, Time: p.now, Phase: PhaseOpen, Hold: &Hold{
		Bucket: op.Bucket, OnExpiry: terms.OnExpiry, Expiry: expiryAfter(p.now, hold),
	}}
	p.record(&r)
	if err := p.countInFlight(s); err != nil {
		return time.Time{}, err
	}
	if err := s.SetReceipt(id, r); err != nil {
		return time.Time{}, err
	}
	return r.Hold.Expiry, s.Schedule(id, time.Time{}, r)
}

// expiryAfter returns when something held from now expires; like all times of a receipt, to the millisecond.
func expiryAfter(now time.Time, hold time.Duration) time.Time {
	return now.Add(hold).Truncate(time.Millisecond)
}

// countInFlight counts the reservation on the buckets where it is new.
func (p *plan) countInFlight(s State) error {
	for _, o := range p.hold.buckets {
		if o.counts {
			continue
		}
		if err := s.SetInFlight(o.bucket, o.open+1); err != nil {
			return err
		}
	}
	return nil
}

// record adds what was taken to a reservation's receipt. What has the same counts as was taken before is added up with it, so
// that a stream which is topped up again and again stays small.
func (p *plan) record(r *Receipt) {
	for i, c := range p.charges {
		var keys []AccountKey
		for _, part := range p.hold.parts {
			if part.charge == i {
				keys = append(keys, p.entries[part.entry].key)
			}
		}
		if p.hold.extended != nil && r.addUp(c, keys) {
			continue
		}
		at := len(r.Hold.Charges)
		r.Hold.Charges = append(r.Hold.Charges, HeldCharge{Bucket: c.Bucket, Unit: c.Unit, Amount: c.Amount})
		for _, k := range keys {
			r.Entries = append(r.Entries, Entry{Key: k, Amount: c.Amount, Charge: at})
		}
	}
}

// addUp adds a charge to the newest one of the same bucket and unit, if it touches the same counts.
func (r *Receipt) addUp(c Charge, keys []AccountKey) bool {
	at := -1
	for i, h := range r.Hold.Charges {
		if h.Bucket == c.Bucket && h.Unit == c.Unit {
			at = i
		}
	}
	if at < 0 {
		return false
	}
	had := make([]AccountKey, 0, len(keys))
	for _, e := range r.Entries {
		if e.Charge == at {
			had = append(had, e.Key)
		}
	}
	if !slices.Equal(had, keys) {
		return false
	}
	r.Hold.Charges[at].Amount += c.Amount
	for i := range r.Entries {
		if r.Entries[i].Charge == at {
			r.Entries[i].Amount += c.Amount
		}
	}
	return true
}
