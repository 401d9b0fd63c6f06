package quota_test

import (
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// during spoils the state while ops of one kind are applied.
func during[T quota.Op](spoil func(c *checker, op T) spoiled) func(*checker) {
	return func(c *checker) {
		c.apply = func(s quota.State, now time.Time, op quota.Op) (quota.Decision, error) {
			if op, ok := op.(T); ok {
				s := spoil(c, op)
				s.State = c.state
				return quota.Apply(&s, now, op)
			}
			return quota.Apply(s, now, op)
		}
	}
}

// instead makes another decision than Apply on ops of one kind.
func instead[T quota.Op](decide func(s quota.State, now time.Time, op T) (quota.Decision, error)) func(*checker) {
	return func(c *checker) {
		c.apply = func(s quota.State, now time.Time, op quota.Op) (quota.Decision, error) {
			if op, ok := op.(T); ok {
				return decide(s, now, op)
			}
			return quota.Apply(s, now, op)
		}
	}
}

// patched changes what Apply answers to ops of one kind.
func patched[T quota.Op](patch func(*quota.Decision)) func(*checker) {
	return instead(func(s quota.State, now time.Time, op T) (quota.Decision, error) {
		d, err := quota.Apply(s, now, op)
		patch(&d)
		return d, err
	})
}

// receipts spoils each receipt that ops of one kind read; it is given a copy.
func receipts[T quota.Op](change func(c *checker, r *quota.Receipt)) func(*checker) {
	return during(func(c *checker, _ T) spoiled {
		return spoiled{receipt: func(_ quota.ReceiptKey, r quota.Receipt) (quota.Receipt, bool) {
			r.Entries = slices.Clone(r.Entries)
			if r.Hold != nil {
				hold := *r.Hold
				hold.Charges = slices.Clone(hold.Charges)
				r.Hold = &hold
			}
			change(c, &r)
			return r, true
		}}
	})
}

// granted answers what is repeated after it ended in one way as if nothing had been given back.
func granted[T quota.Op](phase quota.Phase) func(*checker) {
	return during(func(c *checker, op T) spoiled {
		id := subject(op)
		if x, ok := any(op).(quota.Extend); ok {
			id.ExtendID = x.ExtendID
		}
		_, before := c.state.receipts[id]
		return spoiled{receipt: func(_ quota.ReceiptKey, r quota.Receipt) (quota.Receipt, bool) {
			if before && r.Phase == phase {
				r.Phase = quota.PhaseSettled
			}
			return r, true
		}}
	})
}

// sinceTheReset makes a receipt one of after the last reset.
func sinceTheReset(c *checker, r *quota.Receipt) {
	for i, e := range r.Entries {
		r.Entries[i].Resets = c.state.accounts[e.Key].Resets
	}
}

// settings declares everything otherwise.
func settings(change func(*quota.Settings)) func(quota.Defaults, map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings) {
	return func(d quota.Defaults, all map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings) {
		for name, s := range all {
			change(&s)
			all[name] = s
		}
		return d, all
	}
}

// brokenReservations break a promise about reservations each.
var brokenReservations = map[string]func(*checker){
	"settled where it is now": receipts[quota.Settle](func(c *checker, r *quota.Receipt) {
		for i := range r.Entries {
			k := &r.Entries[i].Key
			k.Label = c.state.windows.At(k.Span, c.now, c.state.book.Zone(k.Bucket)).Label
		}
	}),
	"unheld amounts are counted now":                   receipts[quota.Settle](func(c *checker, r *quota.Receipt) { r.Time = c.now }),
	"a release gives back what a reset forgot":         receipts[quota.Release](sinceTheReset),
	"a late settlement gives back what a reset forgot": receipts[quota.Settle](sinceTheReset),
	"all that expires is charged": receipts[quota.Expire](func(_ *checker, r *quota.Receipt) {
		if r.Hold != nil {
			r.Hold.OnExpiry = quota.ExpiryCharge
		}
	}),
	"all that expires is given back": receipts[quota.Expire](func(_ *checker, r *quota.Receipt) {
		if r.Hold != nil {
			r.Hold.OnExpiry = quota.ExpiryRelease
		}
	}),
	"expired as it is declared now": receipts[quota.Expire](func(c *checker, r *quota.Receipt) {
		if v, err := quota.Look(c.state, c.now, string(r.Hold.Bucket)); err == nil {
			r.Hold.OnExpiry = v.Settings.OnExpiry
		}
	}),
	"a settlement counts twice": receipts[quota.Settle](func(_ *checker, r *quota.Receipt) {
		if r.Phase == quota.PhaseSettled {
			r.Phase = quota.PhaseExpired
			for i := range r.Entries {
				r.Entries[i].Used = 0
			}
		}
	}),
	"a settlement may be changed": receipts[quota.Settle](func(_ *checker, r *quota.Receipt) {
		if r.Phase == quota.PhaseSettled {
			r.Phase = quota.PhaseExpired
		}
	}),
	"the last that was taken is used first": receipts[quota.Settle](func(_ *checker, r *quota.Receipt) {
		if r.Hold == nil || r.Phase == quota.PhaseSettled {
			return
		}
		slices.Reverse(r.Hold.Charges)
		for i := range r.Entries {
			r.Entries[i].Charge = len(r.Hold.Charges) - 1 - r.Entries[i].Charge
		}
	}),
	"anybody's reservation": during(func(c *checker, op quota.Settle) spoiled {
		if _, ok := c.state.receipts[subject(op)]; ok {
			return spoiled{}
		}
		for k, r := range c.state.receipts {
			if k.RequestID == op.RequestID && k.ExtendID == "" {
				c.state.receipts[subject(op)] = r
			}
		}
		return spoiled{}
	}),
	"what is settled stays held": during(func(c *checker, _ quota.Settle) spoiled {
		return spoiled{setAccount: func(k quota.AccountKey, a *quota.Account) bool {
			a.Held = max(a.Held, c.state.accounts[k].Held)
			return true
		}}
	}),
	"what is released stays held": during(func(c *checker, _ quota.Release) spoiled {
		return spoiled{setAccount: func(k quota.AccountKey, a *quota.Account) bool {
			a.Held = max(a.Held, c.state.accounts[k].Held)
			return true
		}}
	}),
	"reservations stay in flight": state(spoiled{inFlight: func(_ quota.Bucket, was, is int64) int64 { return max(was, is) }}),
	"children only are in flight": state(spoiled{inFlight: func(b quota.Bucket, was, is int64) int64 {
		if b.Parent() == "" {
			return was
		}
		return is
	}}),
	"reservations without an end": state(spoiled{schedule: func(quota.Receipt) bool { return false }}),
	"held until it is swept": during(func(*checker, quota.Acquire) spoiled {
		return spoiled{due: func([]quota.ReceiptKey) []quota.ReceiptKey { return nil }}
	}),
	"held by others until it is swept": during(func(*checker, quota.Extend) spoiled {
		return spoiled{due: func([]quota.ReceiptKey) []quota.ReceiptKey { return nil }}
	}),
	"a reset leaves what is due": during(func(*checker, quota.Reset) spoiled {
		return spoiled{due: func([]quota.ReceiptKey) []quota.ReceiptKey { return nil }}
	}),
	"the last to expire goes first": state(spoiled{due: func(all []quota.ReceiptKey) []quota.ReceiptKey {
		slices.Reverse(all)
		return all
	}}),
	"a grant waits for what is due": instead(func(s quota.State, now time.Time, op quota.Acquire) (quota.Decision, error) {
		if due, err := s.Due(now, 1); err != nil || len(due) > 0 {
			return quota.Decision{Outcome: quota.Behind, Time: now}, err
		}
		return quota.Apply(s, now, op)
	}),
	"a denied extension charges": instead(func(s quota.State, now time.Time, op quota.Extend) (quota.Decision, error) {
		d, err := quota.Apply(s, now, op)
		if d.Outcome == quota.Denied {
			for _, c := range op.Charges {
				a := quota.Acquire{Principal: op.Principal, Bucket: "a", Charges: []quota.Charge{c}}
				a.Validate()
				if _, err := quota.Apply(s, now, a); err != nil {
					return d, err
				}
			}
		}
		return d, err
	}),
	"an extension sent again takes again": state(spoiled{receipt: func(k quota.ReceiptKey, r quota.Receipt) (quota.Receipt, bool) {
		return r, k.ExtendID == ""
	}}),
	"an extension may shorten": instead(func(s quota.State, now time.Time, op quota.Extend) (quota.Decision, error) {
		d, err := quota.Apply(s, now, op)
		k := subject(op)
		r, _, _ := s.Receipt(k)
		if err != nil || d.Outcome != quota.Done || d.Replayed || op.Hold == 0 || !r.Hold.Expiry.After(now.Add(op.Hold)) {
			return d, err
		}
		before, hold := r.Hold.Expiry, *r.Hold
		hold.Expiry = now.Add(op.Hold).Truncate(time.Millisecond)
		r.Hold, d.Expiry = &hold, hold.Expiry
		if err := s.SetReceipt(k, r); err != nil {
			return d, err
		}
		return d, s.Schedule(k, before, r)
	}),
	"max_hold is not asked of extensions": during(func(*checker, quota.Extend) spoiled {
		return spoiled{book: settings(func(s *quota.Settings) { s.MaxHold = 0 })}
	}),
	"max_hold of each extension alone": instead(func(s quota.State, now time.Time, op quota.Extend) (quota.Decision, error) {
		d, err := quota.Apply(s, now, op)
		if err != nil || d.Outcome != quota.Denied {
			return d, err
		}
		for _, v := range d.Violations {
			if !v.MaxHold || slices.ContainsFunc(op.Charges, func(c quota.Charge) bool { return c.Amount > v.Cap }) {
				return d, err
			}
		}
		return quota.Apply(&spoiled{State: s, book: settings(func(s *quota.Settings) { s.MaxHold = 0 })}, now, op)
	}),
	"max_hold without bound":      state(spoiled{book: settings(func(s *quota.Settings) { s.MaxHold = 0 })}),
	"max_in_flight without bound": state(spoiled{book: settings(func(s *quota.Settings) { s.MaxInFlight = 0 })}),
	"every call needs one":        state(spoiled{book: settings(func(s *quota.Settings) { s.Estimates = nil })}),
	"held for as long as others":  state(spoiled{book: settings(func(s *quota.Settings) { s.Hold = 0 })}),
	"reserved is used": instead(func(s quota.State, now time.Time, op quota.Acquire) (quota.Decision, error) {
		op.Reserve = false
		return quota.Apply(s, now, op)
	}),
	"a release settles": instead(func(s quota.State, now time.Time, op quota.Release) (quota.Decision, error) {
		return quota.Apply(s, now, quota.Settle{Principal: op.Principal, RequestID: op.RequestID})
	}),
	"no more is used than was held": instead(func(s quota.State, now time.Time, op quota.Settle) (quota.Decision, error) {
		r, _, err := s.Receipt(subject(op))
		if err != nil || r.Hold == nil {
			return quota.Apply(s, now, op)
		}
		op.Charges = slices.Clone(op.Charges)
		for i := range op.Charges {
			c := &op.Charges[i]
			for _, h := range r.Hold.Charges {
				if (h.Bucket == c.Bucket || c.Bucket == "" && h.Bucket == r.Hold.Bucket) && h.Unit == c.Unit {
					c.Amount = min(c.Amount, h.Amount)
				}
			}
		}
		return quota.Apply(s, now, op)
	}),
	"a repeated acquire after its release is answered as granted":                   granted[quota.Acquire](quota.PhaseReleased),
	"a repeated acquire after it was given back by expiry is answered as granted":   granted[quota.Acquire](quota.PhaseExpired),
	"a repeated extension after a release is answered as granted":                   granted[quota.Extend](quota.PhaseReleased),
	"a repeated extension after it was given back by expiry is answered as granted": granted[quota.Extend](quota.PhaseExpired),
	"a repeated acquire is answered as granted while it is due to expire": receipts[quota.Acquire](func(c *checker, r *quota.Receipt) {
		if r.Phase == quota.PhaseOpen && r.Hold.OnExpiry == quota.ExpiryRelease && !r.Hold.Expiry.After(c.now) {
			r.Hold.Expiry = r.Hold.Expiry.Add(24 * time.Hour)
		}
	}),
	"a repeated acquire is refused whatever became of it": receipts[quota.Acquire](func(_ *checker, r *quota.Receipt) {
		if r.Hold != nil {
			r.Hold.OnExpiry = quota.ExpiryRelease
		}
	}),
	"the wrong id is named": patched[quota.Extend](func(d *quota.Decision) {
		if d.Outcome == quota.IDReused {
			d.Field = "request_id"
		}
	}),
	"nobody is told that it was late":     patched[quota.Settle](func(d *quota.Decision) { d.Late = false }),
	"nobody is told of overage":           patched[quota.Settle](func(d *quota.Decision) { d.Overage = nil }),
	"nobody is told the first settlement": patched[quota.Settle](func(d *quota.Decision) { d.Reservation = nil }),
	"nobody is told that there are more":  patched[quota.Expire](func(d *quota.Decision) { d.More = false }),
}
