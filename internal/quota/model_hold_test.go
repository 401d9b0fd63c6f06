package quota_test

import (
	"maps"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// refused answers that a reservation has ended already.
func refused(o quota.Outcome, g *grant) answer {
	if !g.reserve {
		g = nil
	}
	return answer{outcome: o, reservation: g}
}

// actuals returns what was really used of everything that was held, and of what was not; false if something is settled twice, or
// of a bucket that was not charged.
func (g *grant) actuals(charges []quota.Charge) (used map[spot]int64, ok bool) {
	used = make(map[spot]int64)
	charged := make(map[quota.Bucket]bool)
	for _, t := range g.takes {
		if t.amount > 0 {
			used[t.spot] += t.amount
			charged[t.bucket] = true
		}
	}
	named := make(map[spot]bool)
	for _, c := range said(g.op.Bucket, charges) {
		at := spot{c.Bucket, c.Unit}
		if named[at] {
			return nil, false
		}
		named[at] = true
		_, held := used[at]
		switch {
		case !charged[c.Bucket], c.Default && !held:
			return nil, false
		case held && !c.Default, c.Amount > 0 && !c.Default:
			used[at] = c.Amount
		}
	}
	return used, true
}

func (m *model) settle(now time.Time, op quota.Settle) answer {
	g := m.grants[quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}]
	switch {
	case g == nil:
		return answer{outcome: quota.UnknownReservation}
	case !g.reserve && g.released > 0:
		return refused(quota.AlreadyReleased, g)
	case !g.reserve:
		return answer{outcome: quota.NotReservation}
	}
	used, ok := g.actuals(op.Charges)
	switch {
	case !ok:
		return answer{outcome: quota.Invalid}
	case g.settled > 0 && maps.Equal(used, g.actual):
		return m.replay(now, g)
	case g.settled > 0:
		return refused(quota.AlreadySettled, g)
	case g.released > 0:
		return refused(quota.AlreadyReleased, g)
	}
	extra := m.unheld(g, used)
	if m.tooManyUnits(extra) {
		return answer{outcome: quota.TooManyNames}
	}
	keys := slices.Clone(g.keys)
	for _, a := range extra.asks {
		if !slices.Contains(keys, a.key) {
			keys = append(keys, a.key)
		}
	}
	return m.end(now, g, keys, func() {
		g.settled, g.actual = m.n, used
		g.fill(used)
		for _, a := range extra.asks {
			m.mark(a)
		}
		for i, c := range extra.op.Charges {
			at := spot{c.Bucket, c.Unit}
			m.add(g, take{spot: at, used: used[at]}, extra.keys[i])
		}
	})
}

// fill uses up what was taken, the first first; what is beyond all of it belongs to the last.
func (g *grant) fill(used map[spot]int64) {
	for at, left := range used {
		last := -1
		for i := range g.takes {
			t := &g.takes[i]
			if t.spot != at {
				continue
			}
			last = i
			t.used = min(left, t.amount)
			left -= t.used
		}
		if last >= 0 {
			g.takes[last].used += left
		}
	}
}

// unheld lays out what was used and not held, over the windows of the time at which the reservation was made.
func (m *model) unheld(g *grant, used map[spot]int64) *wish {
	w := &wish{}
	for at := range used {
		if !slices.ContainsFunc(g.takes, func(t take) bool { return t.spot == at }) {
			w.op.Charges = append(w.op.Charges, quota.Charge{Bucket: at.bucket, Unit: at.unit, Amount: used[at]})
		}
	}
	slices.SortFunc(w.op.Charges, func(a, b quota.Charge) int {
		if a.Bucket != b.Bucket {
			return compareTexts(string(a.Bucket), string(b.Bucket))
		}
		return compareTexts(string(a.Unit), string(b.Unit))
	})
	for _, c := range w.op.Charges {
		m.charge(w, g.made, c, m.inForce(c.Bucket))
	}
	return w
}

// end makes a change that ends a grant, which touches keys.
func (m *model) end(now time.Time, g *grant, keys []quota.AccountKey, change func()) answer {
	ans := answer{outcome: quota.Done, late: g.reserve && (g.expired > 0 || !now.Before(g.expiry))}
	open := g.open()
	counts := m.accounts(keys)
	over := make(map[quota.AccountKey]int64)
	for _, key := range keys {
		over[key] = above(m.standing(now, key))
	}
	change()
	g.late, g.ended = ans.late, now
	if open {
		ans.ended = g.phase(now)
	}
	for i, key := range keys {
		if m.account(key) != counts[i] {
			ans.changed = append(ans.changed, key)
		}
		more := above(m.standing(now, key)) - over[key]
		at := slices.IndexFunc(ans.overage, func(a quota.Amount) bool { return a.Unit == key.Unit })
		switch {
		case more <= 0:
		case at < 0:
			ans.overage = append(ans.overage, quota.Amount{Unit: key.Unit, Amount: more})
		default:
			ans.overage[at].Amount = max(ans.overage[at].Amount, more)
		}
	}
	ans.balances = m.standings(now, g)
	return ans
}

// above is what is used past the limit.
func above(b quota.Balance) int64 {
	if b.Limit.Set && b.Used > b.Limit.Max {
		return b.Used - b.Limit.Max
	}
	return 0
}

func (m *model) release(now time.Time, op quota.Release) answer {
	g := m.grants[quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}]
	switch {
	case g == nil:
		return answer{outcome: quota.UnknownReservation}
	case g.settled > 0:
		return refused(quota.AlreadySettled, g)
	case g.released > 0:
		return m.replay(now, g)
	}
	return m.end(now, g, g.keys, func() { g.released = m.n })
}

func (m *model) extend(now time.Time, op quota.Extend) answer {
	g := m.grants[quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}]
	switch {
	case g == nil:
		return answer{outcome: quota.UnknownReservation}
	case !g.reserve && g.released > 0:
		return refused(quota.AlreadyReleased, g)
	case !g.reserve:
		return answer{outcome: quota.NotReservation}
	}
	if before, ok := g.extends[op.ExtendID]; ok {
		if before.Hold != op.Hold || !slices.EqualFunc(said("", before.Charges), said("", op.Charges), sameCharge) {
			return answer{outcome: quota.IDReused, field: "extend_id"}
		}
		return m.repeat(now, g)
	}
	switch {
	case g.settled > 0:
		return refused(quota.AlreadySettled, g)
	case g.released > 0:
		return refused(quota.AlreadyReleased, g)
	case g.expired > 0 || !now.Before(g.expiry):
		return refused(quota.AlreadyExpired, g)
	}
	ans := answer{outcome: quota.Done}
	if len(op.Charges) > 0 {
		charges := said(g.op.Bucket, op.Charges)
		for i, c := range charges {
			for _, d := range charges[:i] {
				if c.Bucket == d.Bucket && c.Unit == d.Unit {
					return answer{outcome: quota.Invalid}
				}
			}
		}
		ans = m.verdict(now, quota.Acquire{Bucket: g.op.Bucket, Charges: charges, Reserve: true}, g)
		if ans.outcome != quota.Done {
			return ans
		}
		ans.changed = m.take(now, ans.wish, g)
	}
	if later := toMilli(now.Add(op.Hold)); op.Hold > 0 && later.After(g.expiry) {
		g.expiry = later
	}
	if op.ExtendID != "" {
		g.extends[op.ExtendID] = op
	}
	ans.balances, ans.expiry, ans.phase = m.standings(now, g), g.expiry, quota.PhaseOpen
	return ans
}

func (m *model) expire(now time.Time, op quota.Expire) answer {
	ans := answer{outcome: quota.Done}
	due := m.due(now)
	for _, g := range due[:min(len(due), op.Max)] {
		g.expired, g.ended = m.n, now
		if g.onExpiry == quota.ExpiryCharge {
			ans.charged++
		} else {
			ans.released++
		}
		for _, key := range g.keys {
			if !slices.Contains(ans.changed, key) {
				ans.changed = append(ans.changed, key)
			}
		}
		m.tell(now, g.keys, m.standing) // one after the other
	}
	ans.more = len(due) > op.Max
	return ans
}
