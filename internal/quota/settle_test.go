package quota_test

import (
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// today begins the tally of what most tests count.
const today = "a calls/day 2026-11-22: "

// settlements are stories of the bucket a, which may use 5 calls a day, and of back, which gives back what expires.
var settlements = map[string][]step{
	"as held": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", today + "0+3; a has 1"},
		{time.Minute, quota.Settle{Principal: "p", RequestID: "1"}, "done", today + "3+0"},
	},
	"less": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", today + "0+3; a has 1"},
		{time.Minute, settle("1", 1), "done", today + "1+0"},
	},
	"nothing": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Minute, settle("1", 0), "done", noCounts},
	},
	"more, within the limit": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Minute, settle("1", 5), "done", today + "5+0"},
	},
	"more than the limit": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Minute, settle("1", 7), "done, 2 calls over", today + "7+0"},
		{time.Minute, reserve("a", "2", 1), "denied, a: 7 of 5 calls used this day, 1 asked", today + "7+0"},
		{time.Minute, settle("1", 7), "done, replayed, until 12:15:00", today + "7+0"},
	},
	"more, where the limit was passed before": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{0, reserve("a", "2", 2), "done, until 12:15:00", ""},
		{time.Minute, settle("1", 7), "done, 2 calls over", ""},
		{time.Minute, settle("2", 3), "done, 3 calls over", today + "10+0"},
	},
	"alike again": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Minute, settle("1", 3), "done", today + "3+0"},
		{time.Hour, settle("1", 3), "done, replayed, until 12:15:00", today + "3+0"},
		{time.Hour, quota.Settle{Principal: "p", RequestID: "1"}, "done, replayed, until 12:15:00", today + "3+0"},
	},
	"otherwise": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Minute, settle("1", 2), "done", today + "2+0"},
		{time.Minute, settle("1", 3), "already_settled, settled, 2 of 3 calls of a", today + "2+0"},
		{time.Minute, quota.Settle{Principal: "p", RequestID: "1"}, "already_settled, settled, 2 of 3 calls of a", today + "2+0"},
	},
	"after midnight, on the day that admitted it": {
		{11 * time.Hour, held(reserve("a", "1", 3), 2*time.Hour), "done, until 01:00:00", today + "0+3; a has 1"},
		{12*time.Hour + time.Minute, settle("1", 4), "done", today + "4+0"},
	},
	"a limit that was lowered": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{0, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("2")}}, "done", ""},
		{0, reserve("a", "2", 1), "denied, a: 0 of 2 calls used and 3 held this day, 1 asked", ""},
		{0, settle("1", 3), "done, 1 calls over", today + "3+0"},
	},
	"a bucket that was deleted": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{0, quota.DeleteBucket{Name: "a"}, "done", ""},
		{0, settle("1", 7), "done", today + "7+0"},
	},
	"another zone": {
		{11 * time.Hour, reserve("a", "1", 3), "done, until 23:15:00", today + "0+3; a has 1"},
		{11 * time.Hour, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("5"), Zone: "Asia/Kolkata"}}, "done", ""},
		{11 * time.Hour, settle("1", 2), "done", today + "2+0"},
	},
	"late, after a charge": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Hour, quota.Expire{Max: 9}, "done, 1 charged, 0 released", today + "3+0"},
		{time.Hour, settle("1", 1), "done, late", today + "1+0"},
		{time.Hour, settle("1", 1), "done, replayed, until 12:15:00", today + "1+0"},
		{time.Hour, settle("1", 3), "already_settled, settled, 1 of 3 calls of a", today + "1+0"},
	},
	"late, before anybody looked": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Hour, settle("1", 1), "done, late", today + "1+0"},
		{time.Hour, quota.Expire{Max: 9}, "done", today + "1+0"},
	},
	"late, after a release by expiry": {
		{0, reserve("back", "1", 3), "done, until 12:15:00", ""},
		{time.Hour, quota.Expire{Max: 9}, "done, 0 charged, 1 released", noCounts},
		{time.Hour, settle("1", 2), "done, late", "back calls/day 2026-11-22: 2+0"},
	},
	"after a reset": {
		{0, charge("a", 1), "done", ""},
		{0, reserve("a", "1", 3), "done, until 12:15:00", today + "1+3; a has 1"},
		{0, quota.Reset{Bucket: "a"}, "done", today + "0+3; a has 1"},
		{0, settle("1", 2), "done", today + "2+0"},
	},
	"late, after a reset of what the expiry charged": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Hour, quota.Expire{Max: 9}, "done, 1 charged, 0 released", today + "3+0"},
		{time.Hour, quota.Reset{Bucket: "a"}, "done", noCounts},
		{time.Hour, charge("a", 1), "done", today + "1+0"},
		{time.Hour, settle("1", 2), "done, late", today + "1+0"},
	},
	"late, after a reset, more than the expiry charged": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{time.Hour, quota.Expire{Max: 9}, "done, 1 charged, 0 released", today + "3+0"},
		{time.Hour, quota.Reset{Bucket: "a"}, "done", noCounts},
		{time.Hour, settle("1", 5), "done, late", today + "2+0"},
	},
	"twice a reset": {
		{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		{0, settle("1", 3), "done", today + "3+0"},
		{0, quota.Reset{Bucket: "a"}, "done", noCounts},
		{0, settle("1", 3), "done, replayed, until 12:15:00", noCounts},
	},
}

func TestSettle(t *testing.T) {
	t.Parallel()
	for name, steps := range settlements {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			back := quota.Settings{Limits: limits("5"), OnExpiry: quota.ExpiryRelease}
			play(t, newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, map[string]quota.Settings{"a": {Limits: limits("5")}, "back": back}), steps...)
		})
	}
}

func TestSettleRefusals(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, declare(map[string]string{"a": "50"}))
	plain := reserve("a", "plain", 1)
	plain.Reserve = false
	undone := reserve("a", "undone", 1)
	undone.Reserve = false
	two := reserve("a", "two", 1)
	two.Charges = append(two.Charges, quota.Charge{Bucket: "b/c", Amount: 2})
	with := func(id string, charges ...quota.Charge) quota.Settle {
		return quota.Settle{Principal: "p", RequestID: id, Charges: charges}
	}
	const counts = today + "1+1; b/c calls/day 2026-11-22: 0+2; a has 1; b/c has 1"
	play(
		t, s,
		step{0, plain, "done", ""}, step{0, undone, "done", ""}, step{0, release("undone"), "done", ""}, step{0, two, "done, until 12:15:00", counts},
		step{0, reserve("a", "gone", 1), "done, until 12:15:00", ""}, step{0, release("gone"), "done", counts},
		step{0, settle("none", 1), "unknown_reservation", counts},
		step{0, quota.Settle{Principal: "q", RequestID: "two"}, "unknown_reservation", counts},
		step{0, settle("plain", 1), "not_reservation", counts},
		step{0, settle("undone", 1), "already_released", counts},
		step{0, settle("gone", 1), "already_released, released, 0 of 1 calls of a", counts},
		step{
			0, with("two", quota.Charge{Amount: 1}, quota.Charge{Bucket: "a", Unit: "calls", Amount: 1}),
			"invalid, charges[1].unit: calls of a is settled twice; add the amounts up in one charge", counts,
		},
		step{
			0, with("two", quota.Charge{Bucket: "c", Amount: 1}),
			"invalid, charges[0].bucket: c was not charged by this reservation; want one that was, such as a", counts,
		},
		step{0, with("two", quota.Charge{Bucket: "b", Unit: "tokens", Amount: 1}), // a parent is not what was charged
			"invalid, charges[0].bucket: b was not charged by this reservation; want one that was, such as a", counts},
		step{
			0, with("two", quota.Charge{Bucket: "c"}, quota.Charge{Bucket: "d", Default: true}), // nothing of it is an amount too
			"invalid, charges[0].bucket: c was not charged by this reservation; want one that was, such as a, " +
				"charges[1].bucket: d was not charged by this reservation; want one that was, such as a", counts,
		},
		step{
			0, with("two", quota.Charge{Unit: "tokens", Default: true}, quota.Charge{Bucket: "b/c", Unit: "pages", Default: true}),
			"invalid, charges[0].amount: is left out, and no tokens are held; say how many were used, " +
				"charges[1].amount: is left out, and no pages are held; say how many were used", counts,
		},
		step{0, with("two", quota.Charge{Default: true}, quota.Charge{Unit: "tokens"}), "done", today + "2+0; b/c calls/day 2026-11-22: 2+0"},
		step{
			0, with("two", quota.Charge{Bucket: "c"}), // and not of what was settled before either
			"invalid, charges[0].bucket: c was not charged by this reservation; want one that was, such as a", "",
		},
	)
}

// What was not held may be settled too; it is counted when the reservation was made, as the rules are now.
func TestSettleUnheld(t *testing.T) {
	t.Parallel()
	tokens := func(b quota.Bucket, n int64) quota.Charge { return quota.Charge{Bucket: b, Unit: "tokens", Amount: n} }
	with := func(charges ...quota.Charge) quota.Settle {
		return quota.Settle{Principal: "p", RequestID: "1", Charges: charges}
	}
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5, 9 tokens/month", "a/b": "5"}))
	const settled = "a calls/day 2026-11-22: 2+0; a tokens/day 2026-11-22: 12+0; a tokens/month 2026-11: 12+0; " +
		"a/b calls/day 2026-11-22: 2+0; a/b tokens/day 2026-11-22: 12+0"
	play(
		t, s,
		step{0, held(reserve("a/b", "1", 2), 24*time.Hour), "done, until 12:00:00", ""},
		step{13 * time.Hour, with(tokens("", 12), quota.Charge{Unit: "usd_micros"}), "done, 3 tokens over", settled},
		step{13 * time.Hour, with(tokens("a/b", 12)), "done, replayed, until 12:00:00", settled},
		step{
			13 * time.Hour, with(tokens("", 12), quota.Charge{Unit: "usd_micros", Amount: 1}),
			"already_settled, settled, 2 of 2 calls of a/b, 12 of 0 tokens of a/b", settled,
		},
		step{13 * time.Hour, with(), "already_settled, settled, 2 of 2 calls of a/b, 12 of 0 tokens of a/b", settled},
		step{
			13 * time.Hour, with(quota.Charge{Unit: "tokens", Default: true}), // settled they were, but not held
			"invalid, charges[0].amount: is left out, and no tokens are held; say how many were used", settled,
		},
		step{13 * time.Hour, release("1"), "already_settled, settled, 2 of 2 calls of a/b, 12 of 0 tokens of a/b", settled},
	)
	key := quota.AccountKey{Bucket: "a", Unit: "tokens", Span: window.Month, Label: "2026-11"}
	if a := s.accounts[key]; a.Limit != quota.AtMost(9) || a.Start.IsZero() || a.End.IsZero() {
		t.Errorf("%+v is %+v, want its limit and its window", key, a)
	}
	for i := range quota.UnitsMax {
		s.accounts[quota.AccountKey{Bucket: "a/b", Unit: quota.Unit("u" + strings.Repeat("x", i)), Span: window.Day, Label: "2026-11-23"}] = quota.Account{}
	}
	play(
		t, s,
		step{13 * time.Hour, reserve("a/b", "2", 1), "done, until 01:15:00", ""},
		step{13 * time.Hour, quota.Settle{Principal: "p", RequestID: "2", Charges: []quota.Charge{tokens("", 1)}}, "too_many_names", ""},
		step{13 * time.Hour, settle("2", 1), "done", ""},
	)
}

// What was taken first is used first, and what is beyond all of it belongs to the last.
func TestSettleFillsInTurn(t *testing.T) {
	t.Parallel()
	const monday, tuesday = "a calls/day 2026-11-23: ", "a calls/day 2026-11-24: "
	for used, want := range map[int64]string{
		1: today + "1+0",
		3: today + "3+0",
		4: today + "3+0; " + monday + "1+0",
		6: today + "3+0; " + monday + "2+0; " + tuesday + "1+0",
		9: today + "3+0; " + monday + "2+0; " + tuesday + "4+0",
	} {
		s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5"}))
		play(
			t, s,
			step{11 * time.Hour, held(reserve("a", "1", 2), 24*time.Hour), "done, until 23:00:00", ""},
			step{11 * time.Hour, extend("1", "x", 0, 1), "done, until 23:00:00", today + "0+3; a has 1"},
			step{34 * time.Hour, extend("1", "y", 24*time.Hour, 2), "done, until 22:00:00", today + "0+3; " + monday + "0+2; a has 1"},
			step{37 * time.Hour, extend("1", "z", 0, 3), "done, until 22:00:00", today + "0+3; " + monday + "0+2; " + tuesday + "0+3; a has 1"},
			step{37 * time.Hour, settle("1", used), "done", want},
		)
	}
}

// An acquire that is repeated under its id is not taken for leave to make a call whose amounts have been given back.
func TestAcquireAgainAfterTheEnd(t *testing.T) {
	t.Parallel()
	const replayed = "done, replayed, until 12:15:00"
	const inBack = "back calls/day 2026-11-22: "
	for name, steps := range map[string][]step{
		"settled": {
			{0, reserve("a", "1", 3), until, ""},
			{0, settle("1", 1), "done", ""},
			{time.Hour, reserve("a", "1", 3), replayed, today + "1+0"},
		},
		"settled with nothing": {
			{0, reserve("a", "1", 3), until, ""},
			{0, settle("1", 0), "done", ""},
			{0, reserve("a", "1", 3), replayed, noCounts},
		},
		"expired and charged": {
			{0, reserve("a", "1", 3), until, ""},
			{15 * time.Minute, reserve("a", "1", 3), replayed, today + "0+3; a has 1"},
			{15 * time.Minute, quota.Expire{Max: 1}, "done, 1 charged, 0 released", ""},
			{15 * time.Minute, reserve("a", "1", 3), replayed, today + "3+0"},
			{15 * time.Minute, release("1"), "done, late", noCounts},
			{15 * time.Minute, reserve("a", "1", 3), "already_released, released, 0 of 3 calls of a", noCounts},
		},
		"expired and given back": {
			{0, reserve("back", "1", 3), until, ""},
			{15*time.Minute - 1, reserve("back", "1", 3), replayed, inBack + "0+3; back has 1"},
			{15 * time.Minute, reserve("back", "1", 3), "already_expired, expired, 0 of 3 calls of back", inBack + "0+3; back has 1"}, // due
			{15 * time.Minute, reserve("back", "1", 2), "id_reused, request_id", ""},
			{15 * time.Minute, quota.Expire{Max: 1}, "done, 0 charged, 1 released", noCounts},
			{15 * time.Minute, reserve("back", "1", 3), "already_expired, expired, 0 of 3 calls of back", noCounts},
			{15 * time.Minute, settle("1", 2), "done, late", inBack + "2+0"},
			{15 * time.Minute, reserve("back", "1", 3), replayed, inBack + "2+0"},
		},
		"as it was declared when it was made": {
			{0, reserve("back", "1", 3), until, ""},
			{0, quota.SetBucket{Name: "back", Settings: quota.Settings{Limits: limits("5")}}, "done", ""},
			{15 * time.Minute, reserve("back", "1", 3), "already_expired, expired, 0 of 3 calls of back", ""},
		},
		"of somebody else": {
			{0, reserve("a", "1", 3), until, ""},
			{0, release("1"), "done", noCounts},
			{0, as("q", reserve("a", "1", 3)), until, today + "0+3; a has 1"},
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			play(t, newState(t, quota.Defaults{}, map[string]quota.Settings{
				"a": {Limits: limits("5")}, "back": {Limits: limits("5"), OnExpiry: quota.ExpiryRelease},
			}), steps...)
		})
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	plain := reserve("a", "1", 3)
	plain.Reserve = false
	for name, steps := range map[string][]step{
		"a reservation": {
			{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
			{0, release("1"), "done", noCounts},
			{0, release("1"), "done, replayed, until 12:15:00", noCounts},
			{0, reserve("a", "1", 3), "already_released, released, 0 of 3 calls of a", noCounts}, // the id is spent
			{0, reserve("a", "1", 2), "id_reused, request_id", noCounts},
		},
		"one that expired": {
			{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
			{time.Hour, quota.Expire{Max: 9}, "done, 1 charged, 0 released", today + "3+0"},
			{time.Hour, release("1"), "done, late", noCounts},
			{time.Hour, release("1"), "done, replayed, until 12:15:00", noCounts},
		},
		"one that expired, before anybody looked": {
			{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
			{15 * time.Minute, release("1"), "done, late", noCounts},
		},
		"one that expired, after a reset": {
			{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
			{time.Hour, quota.Expire{Max: 9}, "done, 1 charged, 0 released", ""},
			{time.Hour, quota.Reset{Bucket: "a"}, "done", noCounts},
			{time.Hour, charge("a", 2), "done", today + "2+0"},
			{time.Hour, release("1"), "done, late", today + "2+0"},
		},
		"a reservation, after a reset": {
			{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
			{0, charge("a", 2), "done", ""},
			{0, quota.Reset{Bucket: "a"}, "done", today + "0+3; a has 1"},
			{0, charge("a", 1), "done", ""},
			{0, release("1"), "done", today + "1+0"},
		},
		"one that was settled": {
			{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
			{0, settle("1", 2), "done", ""},
			{0, release("1"), "already_settled, settled, 2 of 3 calls of a", today + "2+0"},
		},
		"a plain acquire": {
			{0, plain, "done", today + "3+0"},
			{0, release("1"), "done", noCounts},
			{0, release("1"), "done, replayed", noCounts},
			{0, plain, "already_released", noCounts},
			{0, extend("1", "x", 0, 1), "already_released", noCounts},
		},
		"a plain acquire, after a reset": {
			{0, plain, "done", ""},
			{0, quota.Reset{Bucket: "a"}, "done", noCounts},
			{0, charge("a", 2), "done", today + "2+0"},
			{0, release("1"), "done", today + "2+0"},
		},
		"a plain acquire, days later": {
			{0, plain, "done", ""},
			{40 * time.Hour, release("1"), "done", noCounts},
		},
		"none": {
			{0, release("1"), "unknown_reservation", noCounts},
			{0, as("q", reserve("a", "1", 1)), "done, until 12:15:00", ""},
			{0, release("1"), "unknown_reservation", today + "0+1; a has 1"},
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			play(t, newState(t, quota.Defaults{}, declare(map[string]string{"a": "5"})), steps...)
		})
	}
}

// A count that has left with its window is not made anew by what ends later.
func TestEndingWithoutCounts(t *testing.T) {
	t.Parallel()
	for _, op := range []quota.Op{settle("1", 5), release("1"), quota.Expire{Max: 1}} {
		s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "9/minute"}))
		s.apply(t, noon, reserve("a", "1", 3))
		delete(s.accounts, quota.AccountKey{Bucket: "a", Unit: quota.Calls, Span: window.Minute, Label: "2026-11-22T12:00:00Z"})
		d := s.apply(t, noon.Add(time.Hour), op)
		if _, made := s.accounts[quota.AccountKey{Bucket: "a", Unit: quota.Calls, Span: window.Minute, Label: "2026-11-22T12:00:00Z"}]; made || d.Outcome != quota.Done {
			t.Errorf("%T: %v, with counts %s", op, outcomeOf(d), s.tally())
		}
	}
}

// Settlements may pass the most that an acquire can reach, but no sum overflows.
func TestUsedMax(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "4_000_000_000_000_000_000"}))
	key := quota.AccountKey{Bucket: "a", Unit: quota.Calls, Span: window.Day, Label: "2026-11-22"}
	s.apply(t, noon, reserve("a", "1", 3))
	s.apply(t, noon, reserve("a", "2", 3))
	a := s.accounts[key]
	a.Used = quota.UsedMax - quota.AmountMax - 5
	s.accounts[key] = a
	play(
		t, s,
		step{0, settle("1", quota.AmountMax), "done, 1000000000000000 calls over", today + "4999999999999999995+3; a has 1"},
		step{0, settle("2", quota.AmountMax), "done, 5 calls over", today + "5000000000000000000+0"},
		step{0, settle("2", quota.AmountMax), "done, replayed, until 12:15:00", ""},
		step{0, settle("2", 5), "already_settled, settled, 1000000000000000 of 3 calls of a", ""},
		step{0, charge("a", 1), "denied, a: 5000000000000000000 of 4000000000000000000 calls used this day, 1 asked", ""},
	)
	if r := s.receipts[quota.ReceiptKey{Principal: "p", RequestID: "2"}]; r.Entries[0].Used != 5 {
		t.Errorf("the receipt has %d in the count, want the 5 that are there", r.Entries[0].Used)
	}
}

// A late settlement gives back no more than the expiry could charge.
func TestUsedMaxOfAnExpiry(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "50"}))
	key := quota.AccountKey{Bucket: "a", Unit: quota.Calls, Span: window.Day, Label: "2026-11-22"}
	s.apply(t, noon, reserve("a", "1", 30))
	a := s.accounts[key]
	a.Used = quota.UsedMax - 10
	s.accounts[key] = a
	play(
		t, s,
		step{time.Hour, quota.Expire{Max: 1}, "done, 1 charged, 0 released", today + "5000000000000000000+0"},
		step{time.Hour, settle("1", 4), "done, late", today + "4999999999999999994+0"},
	)
}
