package quota_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// spoiled is a state that is not what it says, where a function is set.
type spoiled struct {
	quota.State
	book       func(quota.Defaults, map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings)
	account    func(quota.Account) quota.Account
	setAccount func(quota.AccountKey, *quota.Account) (keep bool)
	receipt    func(quota.ReceiptKey, quota.Receipt) (quota.Receipt, bool)
	setReceipt func(*quota.Receipt)
	inFlight   func(b quota.Bucket, was, is int64) int64
	due        func([]quota.ReceiptKey) []quota.ReceiptKey
	schedule   func(quota.Receipt) (keep bool)
	liveNames  func(known bool, n int64) (bool, int64)
	units      func([]quota.Unit) []quota.Unit
	declare    func(*quota.Settings) (keep bool)
	audit      func() (keep bool)
	announce   func(quota.Event) (keep bool)
}

func (s *spoiled) Book() (*quota.Book, error) {
	b, err := s.State.Book()
	if err != nil || s.book == nil {
		return b, err
	}
	declared := make(map[string]quota.Settings)
	for _, name := range b.Names() {
		declared[name], _ = b.Settings(name)
	}
	return quota.NewBook(s.book(b.Defaults(), declared))
}

func (s *spoiled) Account(k quota.AccountKey) (quota.Account, bool, error) {
	a, ok, err := s.State.Account(k)
	if s.account != nil {
		a = s.account(a)
	}
	return a, ok, err
}

func (s *spoiled) SetAccount(k quota.AccountKey, a quota.Account) error {
	if s.setAccount != nil && !s.setAccount(k, &a) {
		return nil
	}
	return s.State.SetAccount(k, a)
}

func (s *spoiled) Receipt(k quota.ReceiptKey) (quota.Receipt, bool, error) {
	r, ok, err := s.State.Receipt(k)
	if s.receipt != nil && ok {
		r, ok = s.receipt(k, r)
	}
	return r, ok, err
}

func (s *spoiled) SetReceipt(k quota.ReceiptKey, r quota.Receipt) error {
	if s.setReceipt != nil {
		s.setReceipt(&r)
	}
	return s.State.SetReceipt(k, r)
}

func (s *spoiled) SetInFlight(b quota.Bucket, n int64) error {
	was, err := s.InFlight(b)
	if err == nil && s.inFlight != nil {
		n = s.inFlight(b, was, n)
	}
	if err != nil {
		return err
	}
	return s.State.SetInFlight(b, n)
}

func (s *spoiled) Due(now time.Time, most int) ([]quota.ReceiptKey, error) {
	if s.due == nil {
		return s.State.Due(now, most)
	}
	all, err := s.State.Due(now, 1_000)
	all = s.due(all)
	return all[:min(len(all), most)], err
}

func (s *spoiled) Schedule(k quota.ReceiptKey, before time.Time, r quota.Receipt) error {
	if s.schedule != nil && !s.schedule(r) {
		return nil
	}
	return s.State.Schedule(k, before, r)
}

func (s *spoiled) LiveNames(day string, name quota.Bucket) (bool, int64, error) {
	known, n, err := s.State.LiveNames(day, name)
	if s.liveNames != nil {
		known, n = s.liveNames(known, n)
	}
	return known, n, err
}

func (s *spoiled) Units(b quota.Bucket, w window.Window) ([]quota.Unit, error) {
	units, err := s.State.Units(b, w)
	if s.units != nil {
		units = s.units(units)
	}
	return units, err
}

func (s *spoiled) Declare(name string, settings *quota.Settings) error {
	if s.declare != nil && !s.declare(settings) {
		return nil
	}
	return s.State.Declare(name, settings)
}

func (s *spoiled) Audit(r quota.AuditRecord) error {
	if s.audit != nil && !s.audit() {
		return nil
	}
	return s.State.Audit(r)
}

func (s *spoiled) Announce(e quota.Event) error {
	if s.announce != nil && !s.announce(e) {
		return nil
	}
	return s.State.Announce(e)
}

// decide makes a decision that is patched where it is an acquire's.
func decide(patch func(quota.State, time.Time, quota.Acquire, quota.Decision) (quota.Decision, error)) func(*checker) {
	return func(c *checker) {
		c.apply = func(s quota.State, now time.Time, op quota.Op) (quota.Decision, error) {
			d, err := quota.Apply(s, now, op)
			if a, ok := op.(quota.Acquire); ok && err == nil {
				return patch(s, now, a, d)
			}
			return d, err
		}
	}
}

func state(s spoiled) func(*checker) {
	return func(c *checker) {
		s := s
		s.State = c.state
		c.seen = &s
	}
}

// brokenStates are ledgers that break a promise each.
var brokenStates = map[string]spoiled{
	"one more than the limit": {book: func(d quota.Defaults, all map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings) {
		for name, s := range all {
			s.Limits = append([]quota.Limit(nil), s.Limits...)
			for i := range s.Limits {
				s.Limits[i].Max = min(s.Limits[i].Max+1, quota.CountMax)
			}
			all[name] = s
		}
		return d, all
	}},
	"all days are those of UTC": {book: func(d quota.Defaults, all map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings) {
		d.Zone = ""
		for name, s := range all {
			s.Zone = ""
			all[name] = s
		}
		return d, all
	}},
	"patterns match nothing": {book: func(d quota.Defaults, all map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings) {
		maps.DeleteFunc(all, func(name string, _ quota.Settings) bool { return quota.IsPattern(name) })
		return d, all
	}},
	"a restored day is like any other": {book: func(d quota.Defaults, all map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings) {
		d.Exhausted = time.Time{}
		return d, all
	}},
	"parents are not charged": {setAccount: func(k quota.AccountKey, _ *quota.Account) bool { return k.Bucket.Parent() != "" }},
	"overrides are forgotten": {account: func(a quota.Account) quota.Account { a.Override = quota.Cap{}; return a }},
	"what is held is free":    {account: func(a quota.Account) quota.Account { a.Held = 0; return a }},
	"counts of 32 bits":       {account: func(a quota.Account) quota.Account { a.Used = max(0, int64(int32(a.Used))); return a }},
	"resets are not numbered": {setAccount: func(_ quota.AccountKey, a *quota.Account) bool { a.Resets = 0; return true }},
	"receipts are not summed": {setAccount: func(_ quota.AccountKey, a *quota.Account) bool { a.Receipted = 0; return true }},
	"ids are not recognised":  {receipt: func(_ quota.ReceiptKey, r quota.Receipt) (quota.Receipt, bool) { return r, false }},
	"content is not compared": {setReceipt: func(r *quota.Receipt) { r.Fingerprint[0]++ }},
	"receipts lack a count":   {setReceipt: func(r *quota.Receipt) { r.Entries = r.Entries[:max(0, len(r.Entries)-1)] }},
	"names without bound":     {liveNames: func(known bool, _ int64) (bool, int64) { return known, -1000 }},
	"names are always new":    {liveNames: func(_ bool, n int64) (bool, int64) { return false, n }},
	"units without bound":     {units: func(units []quota.Unit) []quota.Unit { return units[:min(1, len(units))] }},
	"nothing is taken away":   {declare: func(s *quota.Settings) bool { return s != nil }},
	"changes leave no trace":  {audit: func() bool { return false }},
	"told again and again":    {account: func(a quota.Account) quota.Account { a.Told = 0; return a }},
	"the last is not told":    {announce: func(e quota.Event) bool { return e.Percent < 100 }},
	"past windows tell nothing": {announce: func(e quota.Event) bool {
		return e.Balance.Window.Span == window.Ever || e.Balance.Window.End.After(e.Time)
	}},
	"told one percent early": {book: func(d quota.Defaults, all map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings) {
		for name, s := range all {
			s.Thresholds = slices.Clone(s.Thresholds)
			for i := range s.Thresholds {
				if s.Thresholds[i] == 80 {
					s.Thresholds[i] = 79
				}
			}
			all[name] = s
		}
		return d, all
	}},
	"a bucket has no thresholds of its own": {book: func(d quota.Defaults, all map[string]quota.Settings) (quota.Defaults, map[string]quota.Settings) {
		for name, s := range all {
			s.Thresholds = nil
			all[name] = s
		}
		return d, all
	}},
}

// brokenDecisions are deciders that break a promise each.
var brokenDecisions = map[string]func(*checker){
	"ceilings are ignored": func(c *checker) {
		c.apply = func(s quota.State, now time.Time, op quota.Op) (quota.Decision, error) {
			if a, ok := op.(quota.Acquire); ok {
				a.Charges = append([]quota.Charge(nil), a.Charges...)
				for i := range a.Charges {
					a.Charges[i].Ceiling, a.Charges[i].CeilingSpan = quota.Cap{}, 0
				}
				a.Validate()
				op = a
			}
			return quota.Apply(s, now, op)
		}
	},
	"written before it is checked": func(c *checker) {
		c.apply = func(s quota.State, now time.Time, op quota.Op) (quota.Decision, error) {
			if a, ok := op.(quota.Acquire); ok {
				if err := s.AddLiveName("today", a.Bucket); err != nil {
					return quota.Decision{}, err
				}
			}
			return quota.Apply(s, now, op)
		}
	},
	"a part of a denied request": decide(func(s quota.State, now time.Time, a quota.Acquire, d quota.Decision) (quota.Decision, error) {
		if d.Outcome == quota.Denied && len(a.Charges) > 1 {
			a.Charges, a.RequestID = a.Charges[:1], ""
			if _, err := quota.Apply(s, now, a); err != nil {
				return d, err
			}
		}
		return d, nil
	}),
	"a check that is always passed": func(c *checker) {
		c.check = func(r quota.Reader, now time.Time, op quota.Acquire) (quota.Decision, error) {
			d, err := quota.Check(r, now, op)
			if d.Outcome == quota.Denied {
				d.Outcome = quota.Done
			}
			return d, err
		}
	},
	"a denial is remembered": decide(func(s quota.State, now time.Time, a quota.Acquire, d quota.Decision) (quota.Decision, error) {
		if d.Outcome == quota.Denied && a.RequestID != "" {
			return d, s.SetReceipt(quota.ReceiptKey{Principal: a.Principal, RequestID: a.RequestID}, quota.Receipt{Time: now})
		}
		return d, nil
	}),
	"too much today is too much for ever": decide(func(_ quota.State, _ time.Time, _ quota.Acquire, d quota.Decision) (quota.Decision, error) {
		for i, v := range d.Violations {
			if v.Requested > v.Cap && !v.Balance.Overridden && !v.Restored {
				d.Violations[i].Never, d.RetryAt = true, time.Time{}
			}
		}
		return d, nil
	}),
	"one reason is enough": decide(func(_ quota.State, _ time.Time, _ quota.Acquire, d quota.Decision) (quota.Decision, error) {
		d.Violations = d.Violations[:min(1, len(d.Violations))]
		return d, nil
	}),
	"come again a second later": decide(func(_ quota.State, _ time.Time, _ quota.Acquire, d quota.Decision) (quota.Decision, error) {
		if !d.RetryAt.IsZero() {
			d.RetryAt = d.RetryAt.Add(time.Second)
		}
		return d, nil
	}),
	"come again when the first window ends": decide(func(_ quota.State, _ time.Time, _ quota.Acquire, d quota.Decision) (quota.Decision, error) {
		for _, v := range d.Violations {
			if end := v.Balance.Window.End; !d.RetryAt.IsZero() && end.Before(d.RetryAt) {
				d.RetryAt = end
			}
		}
		return d, nil
	}),
	"come again after the windows that refused": decide(func(_ quota.State, _ time.Time, _ quota.Acquire, d quota.Decision) (quota.Decision, error) {
		var last time.Time
		for _, v := range d.Violations {
			if v.Never {
				return d, nil
			}
			if v.Balance.Window.End.After(last) {
				last = v.Balance.Window.End
			}
		}
		d.RetryAt = last
		return d, nil
	}),
}

// The checker catches each broken variant, and finds nothing to say of the real thing.
func TestHistoriesCatchBrokenVariants(t *testing.T) {
	t.Parallel()
	variants := maps.Clone(brokenDecisions)
	maps.Copy(variants, brokenReservations)
	for name, s := range brokenStates {
		variants[name] = state(s)
	}
	const histories = 2_000
	for name, spoil := range variants {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(histories) {
				if err := history(seeded(seed), spoil); err != nil {
					t.Logf("caught by history %d", seed)
					return
				}
			}
			t.Errorf("not caught in %d histories", histories)
		})
	}
}
