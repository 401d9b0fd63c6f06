package quota_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// An override holds in its one window: "100, but only today".
func TestOverrideIsForOneWindow(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5, 1_000/month"}))
	grant := func(now time.Time, most int64) {
		t.Helper()
		if d := s.apply(t, now, charge("a", most)); d.Outcome != quota.Done {
			t.Errorf("%d of %d: %v", most, most, told(d))
		}
		if d := s.apply(t, now, charge("a", 1)); d.Outcome != quota.Denied || d.Violations[0].Cap != most {
			t.Errorf("one more than %d: %v", most, told(d))
		}
	}
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	s.apply(t, noon, quota.SetOverride{Bucket: "a", Limit: quota.AtMost(100)})
	s.apply(t, noon, quota.SetOverride{Bucket: "a", Label: "2026-11-24", Limit: quota.AtMost(0)})
	s.apply(t, noon, quota.SetOverride{Bucket: "a", Label: "2026-11-25", Limit: quota.AtMost(7)})
	grant(noon, 100)
	grant(day(1), 5)
	if d := s.apply(t, day(2), charge("a", 1)); d.Outcome != quota.Denied || d.RetryAt != day(2).Add(12*time.Hour) {
		t.Errorf("on the closed day: %v", told(d))
	}
	grant(day(3), 7)
	s.apply(t, day(4), quota.SetOverride{Bucket: "a", Limit: quota.AtMost(9)})
	s.apply(t, day(4), quota.SetOverride{Bucket: "a"}) // taken away
	grant(day(4), 5)
	past, err := quota.Look(s, noon, "a")
	if err != nil || past.Balances[0].Limit != quota.AtMost(100) || !past.Balances[0].Overridden {
		t.Errorf("history shows %+v, %v, want the override", past.Balances, err)
	}
}

func TestOverrideCreatesAndLifts(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, declare(map[string]string{"a": "5/month", "free": ""}))
	for _, c := range []struct {
		op     quota.SetOverride
		amount int64 // the most that is then granted
	}{
		{quota.SetOverride{Bucket: "a", Limit: quota.AtMost(3)}, 3},                     // a day, where only the month has a limit
		{quota.SetOverride{Bucket: "a", Span: window.Month, Limit: quota.AtMost(9)}, 3}, // above it the month's is lifted, the day's holds
		{quota.SetOverride{Bucket: "a", Limit: quota.AtMost(quota.CountMax)}, 9},
		{quota.SetOverride{Bucket: "free", Limit: quota.AtMost(4)}, 4}, // a limit where there is none
		{quota.SetOverride{Bucket: "u", Limit: quota.AtMost(70)}, 70},  // a name that nobody declared
		{quota.SetOverride{Bucket: "u", Limit: quota.AtMost(0)}, 0},
		{quota.SetOverride{Bucket: "free", Unit: "tokens", Limit: quota.AtMost(0)}, 4}, // another unit
	} {
		if d := s.apply(t, noon, c.op); d.Outcome != quota.Done || len(d.Before) != 1 || len(d.After) != 1 {
			t.Fatalf("%+v: %+v", c.op, d)
		}
		most, err := quota.Check(s, noon, valid(t, charge(c.op.Bucket, c.amount+1)))
		if err != nil || most.Outcome != quota.Denied {
			t.Errorf("%+v: %d pass: %v", c.op, c.amount+1, told(most))
		}
		if c.amount == 0 {
			continue
		}
		if most, err = quota.Check(s, noon, valid(t, charge(c.op.Bucket, c.amount))); err != nil || most.Outcome != quota.Done {
			t.Errorf("%+v: %d do not pass: %v", c.op, c.amount, told(most))
		}
	}
	off := newState(t, quota.Defaults{}, nil)
	if d := off.apply(t, noon, quota.SetOverride{Bucket: "u", Limit: quota.AtMost(1)}); d.Outcome != quota.UnknownBucket || d.Detail != "u" {
		t.Errorf("where the default is off: %v", told(d))
	}
}

func TestOverrideAnswers(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, map[string]quota.Settings{"a": {Limits: limits("5"), Zone: "Asia/Kolkata"}})
	s.apply(t, noon, charge("a", 2))
	day := window.Day.At(noon, s.book.Rules("a").Zone())
	before := quota.Balance{Bucket: "a", Unit: "calls", Window: day, Limit: quota.AtMost(5), Used: 2}
	after := before
	after.Limit, after.Overridden = quota.AtMost(1), true
	d := s.apply(t, noon, quota.SetOverride{Bucket: "a", Limit: quota.AtMost(1)})
	want := quota.Decision{Outcome: quota.Done, Time: noon, Before: []quota.Balance{before}, After: []quota.Balance{after}}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	if d := s.apply(t, noon, charge("a", 1)); d.Outcome != quota.Denied || d.Violations[0].Balance.Remaining() != quota.AtMost(0) || d.Violations[0].Balance.Overage() != 1 {
		t.Errorf("below what is used: %+v", d)
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	declared := declare(map[string]string{"a": "50, 60/month, 1_000 tokens/hour, 90/ever", "a/b": "50"})
	filled := func() *mapState {
		s := newState(t, quota.Defaults{}, declared)
		s.apply(t, noon.AddDate(0, 0, -1), quota.Acquire{Bucket: "a/b", RequestID: "old"})
		s.apply(t, noon, quota.Acquire{Bucket: "a/b", RequestID: "1", Charges: []quota.Charge{{Amount: 2}, {Unit: "tokens", Amount: 3}}})
		return s
	}
	const calls = "a calls/day 2026-11-22: 2 of 50"
	for _, c := range []struct {
		op   quota.Reset
		want []string
	}{
		{quota.Reset{Bucket: "a"}, []string{
			"a tokens/hour 2026-11-22T12:00:00Z: 3 of 1000", calls, "a tokens/day 2026-11-22: 3", "a calls/month 2026-11: 3 of 60", "a calls/ever : 3 of 90",
		}},
		{quota.Reset{Bucket: "a", Unit: "calls"}, []string{calls, "a calls/month 2026-11: 3 of 60", "a calls/ever : 3 of 90"}},
		{quota.Reset{Bucket: "a", Span: window.Day}, []string{calls, "a tokens/day 2026-11-22: 3"}},
		{quota.Reset{Bucket: "a", Unit: "calls", Span: window.Day}, []string{calls}},
		{quota.Reset{Bucket: "a", Unit: "usd_micros"}, nil},
		{quota.Reset{Bucket: "b"}, nil}, // nobody knows it: there is nothing to reset
	} {
		for _, only := range []bool{true, false} {
			s := filled()
			c.op.ValidateOnly = only
			before := s.writes
			d := s.apply(t, noon, c.op)
			if diff := cmp.Diff(c.want, told(quota.Decision{Balances: d.Before})[1:], equateNil); diff != "" {
				t.Errorf("%+v: %s", c.op, diff)
			}
			wrote := 0 // the counts, and a record of it
			if !only && len(c.want) > 0 {
				wrote = len(c.want) + 1
			}
			if d.Outcome != quota.Done || s.writes-before != wrote {
				t.Errorf("%+v: %v after %d writes, want %d", c.op, d.Outcome, s.writes-before, wrote)
			}
			for i, b := range d.After {
				want := d.Before[i]
				want.Used = 0
				if b != want {
					t.Errorf("%+v: after it %+v, want %+v", c.op, b, want)
				}
			}
		}
	}
}

var equateNil = cmp.FilterValues(func(a, b []string) bool { return len(a) == 0 && len(b) == 0 }, cmp.Ignore())

// What is held stays held, what was granted stays known, and the count is another one from then on.
func TestResetKeeps(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5"}))
	op := quota.Acquire{Bucket: "a", RequestID: "1", Charges: []quota.Charge{{Amount: 3}}}
	s.apply(t, noon, op)
	key := quota.AccountKey{Bucket: "a", Unit: "calls", Span: window.Day, Label: "2026-11-22"}
	held := s.accounts[key]
	held.Held = 2
	s.accounts[key] = held
	s.apply(t, noon, quota.Reset{Bucket: "a"})
	if a := s.accounts[key]; a.Used != 0 || a.Held != 2 || a.Receipted != 0 || a.Resets != 1 {
		t.Errorf("the count is %+v", a)
	}
	if d := s.apply(t, noon, op); !d.Replayed || d.Balances[0].Used != 0 {
		t.Errorf("the request sent again: %v, replayed %v", told(d), d.Replayed)
	}
	if d := s.apply(t, noon, charge("a", 4)); d.Outcome != quota.Denied {
		t.Errorf("what is held may be spent: %v", told(d))
	}
	s.apply(t, noon, quota.Acquire{Bucket: "a", RequestID: "2"})
	if e := s.receipts[quota.ReceiptKey{RequestID: "2"}].Entries[0]; e.Resets != 1 {
		t.Errorf("a receipt after the reset says %+v", e)
	}
	if e := s.receipts[quota.ReceiptKey{RequestID: "1"}].Entries[0]; e.Resets != 0 {
		t.Errorf("a receipt before the reset says %+v", e)
	}
}
