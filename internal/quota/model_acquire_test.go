package quota_test

import (
	"math/bits"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// wish is an acquire or an extension, laid out over the counts that it touches.
type wish struct {
	op    quota.Acquire // with every amount known
	adds  *grant        // the reservation that it adds to; nil if it is an acquire
	asks  []ask
	keys  [][]quota.AccountKey // the counts of each charge
	names []quota.Bucket       // charged, and undeclared
	fresh []quota.Bucket       // those that the day has not seen
	most  []inFlight
}

// inFlight is a bucket that is charged, and how many reservations may be open there; 0 is any number.
type inFlight struct {
	bucket quota.Bucket
	most   int64
}

// ask is what an acquire wants of one count.
type ask struct {
	key      quota.AccountKey
	win      window.Window
	amount   uint64
	declared quota.Cap // the limit but for an override
	lasting  quota.Cap // the limit on other days than that of a restored backup
	ceilings []int64
	percent  int // of the limit, that one reservation may hold; 0 means the whole
}

// said returns charges as a caller means them: an amount that was left out is 1 to him, whatever it is estimated at.
func said(main quota.Bucket, charges []quota.Charge) []quota.Charge {
	all := slices.Clone(charges)
	for i := range all {
		if all[i].Bucket == "" {
			all[i].Bucket = main
		}
		if all[i].Unit == "" {
			all[i].Unit = quota.Calls
		}
		if all[i].Default {
			all[i].Amount = 1
		}
	}
	return all
}

// sameCharge tells whether two charges ask the same.
func sameCharge(a, b quota.Charge) bool {
	a.Default, b.Default = false, false
	return a == b
}

// priced returns an acquire with every amount known.
func (m *model) priced(op quota.Acquire) quota.Acquire {
	bare := len(op.Charges) == 0
	if bare {
		op.Charges = []quota.Charge{{Bucket: op.Bucket, Unit: quota.Calls, Default: true}}
	}
	op.Charges = said(op.Bucket, op.Charges)
	for i := range op.Charges {
		c := &op.Charges[i]
		for _, e := range m.termsFor(c.Bucket).Estimates {
			if c.Default && e.Unit == c.Unit {
				c.Amount = e.Amount
			}
		}
	}
	if bare {
		for _, e := range m.termsFor(op.Bucket).Estimates {
			if e.Unit != quota.Calls {
				op.Charges = append(op.Charges, quota.Charge{Bucket: op.Bucket, Unit: e.Unit, Amount: e.Amount})
			}
		}
	}
	return op
}

// layOut tells which counts are touched; the outcome is 0 unless it is refused for what it names.
func (m *model) layOut(now time.Time, op quota.Acquire, adds *grant) (w *wish, refusal quota.Outcome) {
	w = &wish{op: m.priced(op), adds: adds}
	for _, c := range w.op.Charges {
		s, undeclared, known := m.settingsFor(c.Bucket)
		if !known {
			return nil, quota.UnknownBucket
		}
		if c.CeilingSpan != 0 && !slices.Contains(countedIn(s, c.Unit), c.CeilingSpan) {
			return nil, quota.Invalid
		}
		if undeclared {
			w.names = append(w.names, c.Bucket)
		}
		m.charge(w, now, c, s)
	}
	return w, 0
}

// charge lays one charge out over its bucket and the parents that are declared.
func (m *model) charge(w *wish, now time.Time, c quota.Charge, s quota.Settings) {
	w.keys = append(w.keys, nil)
	m.ask(w, now, c, c.Bucket, s)
	for _, p := range parents(c.Bucket) {
		if s, ok := m.declarationFor(p); ok {
			m.ask(w, now, quota.Charge{Unit: c.Unit, Amount: c.Amount}, p, s)
		}
	}
}

func (m *model) ask(w *wish, now time.Time, c quota.Charge, name quota.Bucket, s quota.Settings) {
	if !slices.ContainsFunc(w.most, func(o inFlight) bool { return o.bucket == name }) {
		w.most = append(w.most, inFlight{name, s.MaxInFlight})
	}
	for _, span := range countedIn(s, c.Unit) {
		win := m.windows.At(span, now, m.zone(s))
		key := quota.AccountKey{Bucket: name, Unit: c.Unit, Span: span, Label: win.Label}
		i := slices.IndexFunc(w.asks, func(a ask) bool { return a.key == key })
		if i < 0 {
			i = len(w.asks)
			w.asks = append(w.asks, ask{key: key, win: win, declared: m.limitAt(s, c.Unit, win), lasting: limitIn(s, c.Unit, span), percent: s.MaxHold})
		}
		w.keys[len(w.keys)-1] = append(w.keys[len(w.keys)-1], key)
		w.asks[i].amount += uint64(c.Amount)
		binds := c.CeilingSpan == span
		if c.CeilingSpan == 0 {
			binds = limitIn(s, c.Unit, span).Set || !limited(s, c.Unit)
		}
		if c.Ceiling.Set && binds {
			w.asks[i].ceilings = append(w.asks[i].ceilings, c.Ceiling.Max)
		}
	}
}

// limit returns the limit in force of a count, an override included.
func (m *model) limit(key quota.AccountKey, declared quota.Cap) quota.Cap {
	if o := m.marks[key].Override; o.Set {
		return o
	}
	return declared
}

// shareOf returns so many percent of a limit, rounded up.
func shareOf(limit int64, percent int) uint64 {
	hi, lo := bits.Mul64(uint64(limit), uint64(percent))
	share, rest := bits.Div64(hi, lo, 100)
	if rest > 0 {
		share++
	}
	return share
}

// tooLarge tells whether a reservation would hold more of a count than its share of the limit.
func (m *model) tooLarge(w *wish, a ask) (v quota.Violation, is bool) {
	limit := m.limit(a.key, a.declared)
	if !w.op.Reserve || a.percent == 0 || !limit.Set {
		return quota.Violation{}, false
	}
	holds := a.amount
	for _, l := range m.lines[a.key] {
		if l.grant == w.adds {
			holds += uint64(l.of().amount)
		}
	}
	most := shareOf(limit.Max, a.percent)
	return quota.Violation{
		Balance:   m.balance(a.key, a.win, a.declared),
		Requested: int64(holds), Cap: int64(most), MaxHold: true,
		Restored: !m.marks[a.key].Override.Set && a.declared != a.lasting,
		Never:    a.key.Span == window.Ever || a.lasting.Set && a.amount > shareOf(a.lasting.Max, a.percent),
	}, holds > most
}

// violation tells whether a count has no room for what is asked of it.
func (m *model) violation(w *wish, a ask) (v quota.Violation, violated bool) {
	if v, is := m.tooLarge(w, a); is {
		return v, true
	}
	most := quota.CountMax
	if limit := m.limit(a.key, a.declared); limit.Set {
		most = min(most, limit.Max)
	}
	bound, lasting := most, quota.CountMax
	if a.lasting.Set {
		lasting = a.lasting.Max
	}
	for _, c := range a.ceilings {
		bound, lasting = min(bound, c), min(lasting, c)
	}
	count := m.account(a.key)
	if uint64(count.Used)+uint64(count.Held)+a.amount <= uint64(bound) {
		return quota.Violation{}, false
	}
	return quota.Violation{
		Balance:   m.balance(a.key, a.win, a.declared),
		Requested: int64(a.amount),
		Cap:       bound,
		Ceiling:   bound < most,
		Restored:  !count.Override.Set && a.declared != a.lasting,
		Never:     a.key.Span == window.Ever && uint64(count.Used)+a.amount > uint64(bound) || a.amount > uint64(lasting),
	}, true
}

// crowded returns the buckets on which there may be no more reservations.
func (m *model) crowded(w *wish) []quota.Violation {
	var vs []quota.Violation
	for _, o := range w.most {
		there := w.adds != nil && slices.Contains(w.adds.buckets, o.bucket)
		if open := m.openOn(o.bucket); w.op.Reserve && !there && o.most > 0 && open >= o.most {
			vs = append(vs, quota.Violation{
				Balance: quota.Balance{
					Bucket: o.bucket, Unit: "reservations", Window: window.Window{Span: window.Ever}, Limit: quota.AtMost(o.most), Held: open,
				},
				Requested: 1, Cap: o.most, InFlight: true,
			})
		}
	}
	return vs
}

func (m *model) balance(key quota.AccountKey, w window.Window, declared quota.Cap) quota.Balance {
	count := m.account(key)
	return quota.Balance{
		Bucket: key.Bucket, Unit: key.Unit, Window: w, Limit: m.limit(key, declared),
		Used: count.Used, Held: count.Held, Overridden: count.Override.Set,
	}
}

// shown leaves out counts without a limit where the same bucket and unit has a limited one.
func shown(all []quota.Balance) []quota.Balance {
	var some []quota.Balance
	for _, b := range all {
		hidden := slices.ContainsFunc(all, func(o quota.Balance) bool {
			return o.Bucket == b.Bucket && o.Unit == b.Unit && o.Limit.Set && !b.Limit.Set
		})
		if !hidden {
			some = append(some, b)
		}
	}
	return some
}

func (m *model) balances(w *wish) []quota.Balance {
	if w == nil {
		return nil
	}
	var bs []quota.Balance
	for _, a := range w.asks {
		bs = append(bs, m.balance(a.key, a.win, a.declared))
	}
	return shown(bs)
}

// newNames notes the undeclared names that a day has not seen: they are neither among its live names nor is there a count of
// what is charged. It tells whether there is room for them.
func (m *model) newNames(w *wish, day string) (room bool) {
	for _, name := range w.names {
		counted := slices.ContainsFunc(w.asks, func(a ask) bool {
			_, kept := m.marks[a.key]
			return kept && a.key.Bucket == name && a.key.Span == window.Day
		})
		if !counted && !m.live[day][name] && !slices.Contains(w.fresh, name) {
			w.fresh = append(w.fresh, name)
		}
	}
	return len(w.fresh) == 0 || int64(len(m.live[day])+len(w.fresh)) <= m.defaults.UndeclaredLive
}

// tooManyUnits tells whether a bucket would come to count more than 64 units on one day by those that it does not limit.
func (m *model) tooManyUnits(w *wish) bool {
	begun := make(map[quota.Bucket]int)
	for _, a := range w.asks {
		_, kept := m.marks[a.key]
		if kept || a.key.Span != window.Day || limited(m.inForce(a.key.Bucket), a.key.Unit) {
			continue
		}
		begun[a.key.Bucket]++
		had := 0
		for key := range m.marks {
			if key.Bucket == a.key.Bucket && key.Span == window.Day && key.Label == a.key.Label {
				had++
			}
		}
		if had+begun[a.key.Bucket] > 64 {
			return true
		}
	}
	return false
}

// retry returns when an acquire could pass if nothing else were taken; zero if it would not in any of the next 8 windows that
// it has to wait for.
func (m *model) retry(now time.Time, op quota.Acquire, adds *grant) time.Time {
	for n := 0; ; n++ {
		w, _ := m.layOut(now, op, adds)
		var ends []time.Time
		for _, a := range w.asks {
			_, violated := m.violation(w, a)
			if violated && a.key.Span == window.Ever {
				return time.Time{}
			}
			if violated {
				ends = append(ends, a.win.End)
			}
		}
		switch {
		case ends == nil:
			return now
		case n == 8:
			return time.Time{}
		}
		now = slices.MaxFunc(ends, time.Time.Compare)
	}
}

// verdict tells what an acquire or an extension would be answered, and changes nothing.
func (m *model) verdict(now time.Time, op quota.Acquire, adds *grant) answer {
	ans := m.outcome(now, op, adds)
	if ans.outcome != quota.Denied {
		return ans
	}
	if len(m.due(now)) > 0 { // what they hold may be free
		return answer{outcome: quota.Behind}
	}
	at := m.retry(now, op, adds)
	ans.retryAt = at
	for i := range ans.violations {
		v := &ans.violations[i]
		v.Never = v.Never && at.IsZero()
		if v.InFlight { // nobody knows when
			ans.retryAt = time.Time{}
		}
	}
	return ans
}

// outcome is verdict but for what lies ahead and what is due.
func (m *model) outcome(now time.Time, op quota.Acquire, adds *grant) answer {
	w, refusal := m.layOut(now, op, adds)
	if refusal != 0 {
		return answer{outcome: refusal}
	}
	if m.tooManyUnits(w) || !m.newNames(w, m.today(now)) {
		return answer{outcome: quota.TooManyNames}
	}
	ans := answer{outcome: quota.Done, wish: w}
	for _, a := range w.asks {
		if v, violated := m.violation(w, a); violated {
			ans.violations = append(ans.violations, v)
		}
	}
	ans.violations = append(ans.violations, m.crowded(w)...)
	if ans.violations != nil {
		ans.outcome = quota.Denied
	}
	return ans
}

// today is the day of undeclared names.
func (m *model) today(now time.Time) string {
	return m.windows.At(window.Day, now, m.zone(quota.Settings{})).Label
}

func (m *model) acquire(now time.Time, op quota.Acquire) answer {
	id := quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	if g, ok := m.grants[id]; ok {
		if !sameAcquire(g.op, op) {
			return answer{outcome: quota.IDReused, field: "request_id"}
		}
		return m.repeat(now, g)
	}
	ans := m.verdict(now, op, nil)
	if ans.outcome != quota.Done {
		return ans
	}
	g := &grant{op: op, n: m.n, made: now, reserve: op.Reserve}
	if op.Reserve {
		terms := m.termsFor(op.Bucket)
		hold := terms.Hold
		if op.Hold > 0 {
			hold = op.Hold
		}
		g.onExpiry, g.expiry, g.extends = terms.OnExpiry, toMilli(now.Add(hold)), make(map[string]quota.Extend)
		ans.expiry, ans.phase = g.expiry, quota.PhaseOpen
	}
	if op.RequestID != "" {
		g.id = id
		m.grants[id] = g
	}
	ans.changed = m.take(now, ans.wish, g)
	ans.balances = m.balances(ans.wish)
	return ans
}

func toMilli(t time.Time) time.Time { return time.UnixMilli(t.UnixMilli()) }

// sameAcquire tells whether two acquires say the same.
func sameAcquire(a, b quota.Acquire) bool {
	bare := []quota.Charge{{Default: true}}
	if len(a.Charges) == 0 {
		a.Charges = bare
	}
	if len(b.Charges) == 0 {
		b.Charges = bare
	}
	return a.Bucket == b.Bucket && a.Reserve == b.Reserve && (!a.Reserve || a.Hold == b.Hold) &&
		slices.EqualFunc(said(a.Bucket, a.Charges), said(b.Bucket, b.Charges), sameCharge)
}

// take notes what was granted, and returns the counts that are changed by it.
func (m *model) take(now time.Time, w *wish, g *grant) []quota.AccountKey {
	var changed []quota.AccountKey
	for _, a := range w.asks {
		m.mark(a)
		changed = append(changed, a.key)
	}
	for i, c := range w.op.Charges {
		m.add(g, take{spot: spot{c.Bucket, c.Unit}, amount: c.Amount}, w.keys[i])
	}
	for _, name := range w.fresh {
		day := m.today(now)
		if m.live[day] == nil {
			m.live[day] = make(map[quota.Bucket]bool)
		}
		m.live[day][name] = true
	}
	return changed
}

// repeat answers what was granted before, unless it has been given back.
func (m *model) repeat(now time.Time, g *grant) answer {
	switch {
	case g.released > 0:
		return refused(quota.AlreadyReleased, g)
	case g.reserve && g.settled == 0 && !now.Before(g.expiry) && g.onExpiry == quota.ExpiryRelease:
		return refused(quota.AlreadyExpired, g)
	}
	return m.replay(now, g)
}

// replay answers with the counts that were charged, as they stand.
func (m *model) replay(now time.Time, g *grant) answer {
	ans := answer{outcome: quota.Done, replayed: true, balances: m.standings(now, g), expiry: g.expiry}
	if g.reserve {
		ans.phase, ans.late = g.phase(now), g.late
	}
	return ans
}

// standings are the counts that a grant touches, as they stand.
func (m *model) standings(now time.Time, g *grant) []quota.Balance {
	var bs []quota.Balance
	for _, key := range g.keys {
		bs = append(bs, m.standing(now, key))
	}
	return shown(bs)
}

// standing is a count with the limit that holds for it now, or with its last one if its window has ended.
func (m *model) standing(now time.Time, key quota.AccountKey) quota.Balance {
	mark := m.marks[key]
	w := window.Window{Span: key.Span, Label: key.Label, Start: mark.Start, End: mark.End}
	declared := mark.Limit
	if w.Span == window.Ever || w.End.After(now) {
		declared = m.limitAt(m.inForce(key.Bucket), key.Unit, w)
	}
	return m.balance(key, w, declared)
}
