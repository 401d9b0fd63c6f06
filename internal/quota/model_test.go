package quota_test

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// model is the rules of counting told a second time, apart from the code and from the promises alone: plain maps, loops over
// everything, sums instead of subtractions. It shares the nouns of package quota, and asks package window for windows; it calls
// nothing that decides.
type model struct {
	defaults quota.Defaults
	declared map[string]quota.Settings
	counts   map[quota.AccountKey]quota.Account
	receipts map[quota.ReceiptKey]grant
	live     map[string]map[quota.Bucket]bool // undeclared names by day
	windows  window.Cache
}

// grant is an acquire that was granted under an id.
type grant struct {
	op    quota.Acquire
	parts []quota.Entry
}

// answer is what the model says to an op.
type answer struct {
	outcome    quota.Outcome
	replayed   bool
	balances   []quota.Balance
	violations []quota.Violation
	before     []quota.Balance
	after      []quota.Balance
	changes    []string // names declared otherwise
	changed    []quota.AccountKey
	audits     int
	asks       []ask // of an acquire: all that it wants
	retryAt    time.Time
}

func newModel(defaults quota.Defaults, declared map[string]quota.Settings) *model {
	return &model{
		defaults: defaults, declared: maps.Clone(declared),
		counts:   make(map[quota.AccountKey]quota.Account),
		receipts: make(map[quota.ReceiptKey]grant),
		live:     make(map[string]map[quota.Bucket]bool),
	}
}

// patternMatches goes segment by segment.
func patternMatches(pattern, name string) bool {
	ps, ns := strings.Split(pattern, "/"), strings.Split(name, "/")
	if len(ps) != len(ns) {
		return false
	}
	for i := range ps {
		if ps[i] != "*" && ps[i] != ns[i] {
			return false
		}
	}
	return true
}

// stars is 0 for each plain segment and 1 for each star: the least of them is the most specific pattern.
func stars(pattern string) string {
	var b strings.Builder
	for p := range strings.SplitSeq(pattern, "/") {
		if p == "*" {
			b.WriteByte('1')
		} else {
			b.WriteByte('0')
		}
	}
	return b.String()
}

// declarationFor returns the most specific declaration for a name, the name's own before all.
func (m *model) declarationFor(name quota.Bucket) (quota.Settings, bool) {
	if s, ok := m.declared[string(name)]; ok {
		return s, true
	}
	best := ""
	for pattern := range m.declared {
		if patternMatches(pattern, string(name)) && (best == "" || stars(pattern) < stars(best)) {
			best = pattern
		}
	}
	s, ok := m.declared[best]
	return s, ok
}

// parents returns the buckets above a name, the nearest first.
func parents(name quota.Bucket) []quota.Bucket {
	parts := strings.Split(string(name), "/")
	var above []quota.Bucket
	for i := len(parts) - 1; i > 0; i-- {
		above = append(above, quota.Bucket(strings.Join(parts[:i], "/")))
	}
	return above
}

// settingsFor returns what holds for a name, and whether nobody declared it; false if the name is unknown.
func (m *model) settingsFor(name quota.Bucket) (s quota.Settings, undeclared, known bool) {
	if s, ok := m.declarationFor(name); ok {
		return s, false, true
	}
	for _, p := range parents(name) {
		if _, ok := m.declarationFor(p); ok {
			return quota.Settings{}, true, true
		}
	}
	return quota.Settings{Limits: m.defaults.Limits}, true, len(m.defaults.Limits) > 0
}

// inForce is settingsFor, where an unknown name is one that has no limits.
func (m *model) inForce(name quota.Bucket) quota.Settings {
	s, _, known := m.settingsFor(name)
	if !known {
		return quota.Settings{}
	}
	return s
}

func (m *model) zone(s quota.Settings) *time.Location {
	name := s.Zone
	if name == "" {
		name = m.defaults.Zone
	}
	zone, err := window.LoadZone(name)
	if err != nil {
		panic(err)
	}
	return zone
}

func limitIn(s quota.Settings, unit quota.Unit, span window.Span) quota.Cap {
	for _, l := range s.Limits {
		if l.Unit == unit && l.Span == span {
			return quota.AtMost(l.Max)
		}
	}
	return quota.Cap{}
}

// limitAt is limitIn, but on the day of a restored backup, of which a limited unit has nothing left.
func (m *model) limitAt(s quota.Settings, unit quota.Unit, w window.Window) quota.Cap {
	restored := m.defaults.Exhausted
	if w.Span == window.Day && limited(s, unit) && !restored.IsZero() && !restored.Before(w.Start) && restored.Before(w.End) {
		return quota.AtMost(0)
	}
	return limitIn(s, unit, w.Span)
}

// countedIn returns the windows that a unit is counted in: those with a limit, and the day.
func countedIn(s quota.Settings, unit quota.Unit) []window.Span {
	var spans []window.Span
	for _, span := range window.Spans() {
		if span == window.Day || limitIn(s, unit, span).Set {
			spans = append(spans, span)
		}
	}
	return spans
}

func limited(s quota.Settings, unit quota.Unit) bool {
	return slices.ContainsFunc(s.Limits, func(l quota.Limit) bool { return l.Unit == unit })
}

// ask is what an acquire wants of one count.
type ask struct {
	key      quota.AccountKey
	win      window.Window
	amount   uint64
	declared quota.Cap // the limit but for an override
	lasting  quota.Cap // the limit on other days than that of a restored backup
	ceilings []int64
}

// asks lays an acquire out; the outcome is 0 unless it is refused for what it names.
func (m *model) asks(now time.Time, op quota.Acquire) (all []ask, names []quota.Bucket, refusal quota.Outcome) {
	for _, c := range op.Charges {
		s, undeclared, known := m.settingsFor(c.Bucket)
		if !known {
			return nil, nil, quota.UnknownBucket
		}
		if c.CeilingSpan != 0 && !slices.Contains(countedIn(s, c.Unit), c.CeilingSpan) {
			return nil, nil, quota.Invalid
		}
		if undeclared {
			names = append(names, c.Bucket)
		}
		all = m.ask(all, now, c, c.Bucket, s)
		for _, p := range parents(c.Bucket) {
			if s, ok := m.declarationFor(p); ok {
				all = m.ask(all, now, quota.Charge{Unit: c.Unit, Amount: c.Amount}, p, s)
			}
		}
	}
	if len(all) > 256 {
		return nil, nil, quota.Invalid
	}
	return all, names, 0
}

func (m *model) ask(all []ask, now time.Time, c quota.Charge, name quota.Bucket, s quota.Settings) []ask {
	for _, span := range countedIn(s, c.Unit) {
		w := m.windows.At(span, now, m.zone(s))
		key := quota.AccountKey{Bucket: name, Unit: c.Unit, Span: span, Label: w.Label}
		i := slices.IndexFunc(all, func(a ask) bool { return a.key == key })
		if i < 0 {
			i = len(all)
			all = append(all, ask{key: key, win: w, declared: m.limitAt(s, c.Unit, w), lasting: limitIn(s, c.Unit, span)})
		}
		all[i].amount += uint64(c.Amount)
		binds := c.CeilingSpan == span
		if c.CeilingSpan == 0 {
			binds = limitIn(s, c.Unit, span).Set || !limited(s, c.Unit)
		}
		if c.Ceiling.Set && binds {
			all[i].ceilings = append(all[i].ceilings, c.Ceiling.Max)
		}
	}
	return all
}

// limit returns the limit in force of a count, an override included.
func (m *model) limit(key quota.AccountKey, declared quota.Cap) quota.Cap {
	if o := m.counts[key].Override; o.Set {
		return o
	}
	return declared
}

// violation tells whether a count has no room for what is asked of it.
func (m *model) violation(a ask) (v quota.Violation, violated bool) {
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
	count := m.counts[a.key]
	if uint64(count.Used)+uint64(count.Held)+a.amount <= uint64(bound) {
		return quota.Violation{}, false
	}
	return quota.Violation{
		Balance:   m.balance(a.key, a.win, a.declared),
		Requested: int64(a.amount),
		Cap:       bound,
		Ceiling:   bound < most,
		Restored:  !m.counts[a.key].Override.Set && a.declared != a.lasting,
		Never:     a.key.Span == window.Ever || a.amount > uint64(lasting),
	}, true
}

func (m *model) balance(key quota.AccountKey, w window.Window, declared quota.Cap) quota.Balance {
	count := m.counts[key]
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

func (m *model) balances(all []ask) []quota.Balance {
	var bs []quota.Balance
	for _, a := range all {
		bs = append(bs, m.balance(a.key, a.win, a.declared))
	}
	return shown(bs)
}

// newNames returns the undeclared names that a day has not seen: they are neither among its live names nor is there a count of
// what is charged; and whether there is room for them.
func (m *model) newNames(all []ask, names []quota.Bucket, day string) (fresh []quota.Bucket, room bool) {
	for _, name := range names {
		counted := slices.ContainsFunc(all, func(a ask) bool {
			_, kept := m.counts[a.key]
			return kept && a.key.Bucket == name && a.key.Span == window.Day
		})
		if !counted && !m.live[day][name] && !slices.Contains(fresh, name) {
			fresh = append(fresh, name)
		}
	}
	return fresh, len(fresh) == 0 || int64(len(m.live[day])+len(fresh)) <= m.defaults.UndeclaredLive
}

// tooManyUnits tells whether a bucket would come to count more than 64 units on one day by those that it does not limit.
func (m *model) tooManyUnits(all []ask) bool {
	begun := make(map[quota.Bucket]int)
	for _, a := range all {
		_, kept := m.counts[a.key]
		if kept || a.key.Span != window.Day || limited(m.inForce(a.key.Bucket), a.key.Unit) {
			continue
		}
		begun[a.key.Bucket]++
		had := 0
		for key := range m.counts {
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
func (m *model) retry(now time.Time, op quota.Acquire) time.Time {
	for n := 0; ; n++ {
		all, _, _ := m.asks(now, op)
		var ends []time.Time
		for _, a := range all {
			_, violated := m.violation(a)
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

// verdict tells what an acquire would be answered, and changes nothing.
func (m *model) verdict(now time.Time, op quota.Acquire) (ans answer, fresh []quota.Bucket) {
	ans, fresh = m.outcome(now, op)
	if ans.outcome == quota.Denied {
		ans.retryAt = m.retry(now, op)
	}
	for i := range ans.violations {
		if !ans.retryAt.IsZero() {
			ans.violations[i].Never = false
		}
	}
	return ans, fresh
}

// outcome is verdict but for what lies ahead.
func (m *model) outcome(now time.Time, op quota.Acquire) (ans answer, fresh []quota.Bucket) {
	all, names, refusal := m.asks(now, op)
	if refusal != 0 {
		return answer{outcome: refusal}, nil
	}
	if m.tooManyUnits(all) {
		return answer{outcome: quota.TooManyNames}, nil
	}
	fresh, room := m.newNames(all, names, m.today(now))
	if !room {
		return answer{outcome: quota.TooManyNames}, nil
	}
	ans.asks = all
	for _, a := range all {
		if v, violated := m.violation(a); violated {
			ans.violations = append(ans.violations, v)
		}
	}
	ans.outcome = quota.Done
	if ans.violations != nil {
		ans.outcome = quota.Denied
	}
	return ans, fresh
}

// today is the day of undeclared names.
func (m *model) today(now time.Time) string {
	return m.windows.At(window.Day, now, m.zone(quota.Settings{})).Label
}

func (m *model) acquire(now time.Time, op quota.Acquire) answer {
	id := quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	if g, ok := m.receipts[id]; ok {
		if g.op.Bucket != op.Bucket || !slices.EqualFunc(g.op.Charges, op.Charges, sameCharge) {
			return answer{outcome: quota.IDReused}
		}
		return m.replay(now, g)
	}
	ans, fresh := m.verdict(now, op)
	if ans.outcome != quota.Done {
		return ans
	}
	var parts []quota.Entry
	for _, a := range ans.asks {
		count := m.counts[a.key]
		count.Used += int64(a.amount)
		if op.RequestID != "" {
			count.Receipted += int64(a.amount)
		}
		count.Limit, count.Start, count.End = a.declared, earliest(count.Start, a.win.Start), a.win.End
		m.counts[a.key] = count
		ans.changed = append(ans.changed, a.key)
		parts = append(parts, quota.Entry{Key: a.key, Amount: int64(a.amount), Resets: count.Resets})
	}
	for _, name := range fresh {
		day := m.today(now)
		if m.live[day] == nil {
			m.live[day] = make(map[quota.Bucket]bool)
		}
		m.live[day][name] = true
	}
	if op.RequestID != "" {
		m.receipts[id] = grant{op: op, parts: parts}
	}
	ans.balances = m.balances(ans.asks)
	return ans
}

// sameCharge tells whether two charges ask the same. An amount that was left out is 1 to a caller, whatever it is estimated at.
func sameCharge(a, b quota.Charge) bool {
	a.Default, b.Default = false, false
	return a == b
}

// replay answers with the counts that were charged, as they stand.
func (m *model) replay(now time.Time, g grant) answer {
	ans := answer{outcome: quota.Done, replayed: true}
	var bs []quota.Balance
	for _, p := range g.parts {
		bs = append(bs, m.standing(now, p.Key))
	}
	ans.balances = shown(bs)
	return ans
}

// standing is a count with the limit that holds for it now, or with its last one if its window has ended.
func (m *model) standing(now time.Time, key quota.AccountKey) quota.Balance {
	count := m.counts[key]
	w := window.Window{Span: key.Span, Label: key.Label, Start: count.Start, End: count.End}
	declared := count.Limit
	if w.Span == window.Ever || w.End.After(now) {
		declared = m.limitAt(m.inForce(key.Bucket), key.Unit, w)
	}
	return m.balance(key, w, declared)
}

// earliest returns the start of a count whose window was b and is c: a change of zone never moves it later.
func earliest(b, c time.Time) time.Time {
	if b.IsZero() || b.After(c) {
		return c
	}
	return b
}
