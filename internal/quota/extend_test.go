package quota_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// until is what a reservation that nobody lengthened is answered.
const until = "done, until 12:15:00"

// extensions are stories of the bucket a, which may use 5 calls a day; of back, which gives back what expires; of guess, which takes a call
// for two; and of names that nobody declared.
var extensions = map[string][]step{
	"longer": {
		{0, reserve("a", "1", 3), until, ""},
		{10 * time.Minute, extend("1", "", 15*time.Minute, 0), "done, until 12:25:00", today + "0+3; a has 1"},
		{24 * time.Minute, quota.Expire{Max: 9}, "done", today + "0+3; a has 1"},
		{25 * time.Minute, quota.Expire{Max: 9}, "done, 1 charged, 0 released", today + "3+0"},
	},
	"never shorter": {
		{0, reserve("a", "1", 3), until, ""},
		{0, extend("1", "", time.Minute, 0), until, ""},
		{0, extend("1", "x", time.Minute, 1), until, today + "0+4; a has 1"},
	},
	"more": {
		{0, reserve("a", "1", 3), until, ""},
		{0, extend("1", "x", 0, 2), until, today + "0+5; a has 1"},
		{0, release("1"), "done", noCounts},
	},
	"more, of another bucket": {
		{0, reserve("a", "1", 3), until, ""},
		{
			0,
			quota.Extend{Principal: "p", RequestID: "1", ExtendID: "x", Charges: []quota.Charge{{Bucket: "b/c", Amount: 1}}},
			until,
			today + "0+3; b/c calls/day 2026-11-22: 0+1; a has 1; b/c has 1",
		},
		{0, settle("1", 1), "done", today + "1+0; b/c calls/day 2026-11-22: 1+0"},
	},
	"more than there is": {
		{0, reserve("a", "1", 3), until, ""},
		{0, extend("1", "x", time.Hour, 3), "denied, a: 0 of 5 calls used and 3 held this day, 3 asked", today + "0+3; a has 1"},
		{0, extend("1", "x", time.Hour, 2), "done, until 13:00:00", today + "0+5; a has 1"}, // a denial leaves no receipt
	},
	"the same again": {
		{0, reserve("a", "1", 1), until, ""},
		{0, extend("1", "x", time.Minute, 1), until, today + "0+2; a has 1"},
		{time.Minute, extend("1", "x", time.Minute, 1), "done, replayed, until 12:15:00", today + "0+2; a has 1"},
		{time.Minute, extend("1", "y", time.Minute, 1), until, today + "0+3; a has 1"},
		{time.Minute, settle("1", 2), "done", today + "2+0"},
		{time.Minute, extend("1", "x", time.Minute, 1), "done, replayed, until 12:15:00", today + "2+0"},
	},
	"the same again, after what it took was given back": {
		{0, reserve("a", "1", 1), until, ""},
		{0, extend("1", "x", 0, 1), until, ""},
		{0, release("1"), "done", noCounts},
		{0, extend("1", "x", 0, 1), "already_released, released, 0 of 2 calls of a", noCounts},
		{0, extend("1", "x", 0, 2), "id_reused, extend_id", noCounts},
	},
	"the same again, after it expired and was given back": {
		{0, reserve("back", "1", 1), until, ""},
		{0, extend("1", "x", 0, 1), until, ""},
		{15*time.Minute - 1, extend("1", "x", 0, 1), "done, replayed, until 12:15:00", ""},
		{15 * time.Minute, extend("1", "x", 0, 1), "already_expired, expired, 0 of 2 calls of back", "back calls/day 2026-11-22: 0+2; back has 1"},
		{15 * time.Minute, quota.Expire{Max: 1}, "done, 0 charged, 1 released", noCounts},
		{15 * time.Minute, extend("1", "x", 0, 1), "already_expired, expired, 0 of 2 calls of back", noCounts},
		{15 * time.Minute, settle("1", 1), "done, late", "back calls/day 2026-11-22: 1+0"},
		{15 * time.Minute, extend("1", "x", 0, 1), "done, replayed, until 12:15:00", "back calls/day 2026-11-22: 1+0"},
	},
	"the same again, after it expired and was charged": {
		{0, reserve("a", "1", 1), until, ""},
		{0, extend("1", "x", 0, 1), until, ""},
		{15 * time.Minute, extend("1", "x", 0, 1), "done, replayed, until 12:15:00", today + "0+2; a has 1"},
		{15 * time.Minute, quota.Expire{Max: 1}, "done, 1 charged, 0 released", today + "2+0"},
		{15 * time.Minute, extend("1", "x", 0, 1), "done, replayed, until 12:15:00", today + "2+0"},
		{15 * time.Minute, release("1"), "done, late", noCounts},
		{15 * time.Minute, extend("1", "x", 0, 1), "already_released, released, 0 of 2 calls of a", noCounts},
	},
	"without an id, from now each time": {
		{0, reserve("a", "1", 1), until, ""},
		{0, extend("1", "", time.Hour, 0), "done, until 13:00:00", ""},
		{time.Minute, extend("1", "", time.Hour, 0), "done, until 13:01:00", ""},
	},
	"one id for two things": {
		{0, reserve("a", "1", 1), until, ""},
		{0, extend("1", "x", 0, 1), until, ""},
		{0, extend("1", "x", 0, 2), "id_reused, extend_id", today + "0+2; a has 1"},
		{0, extend("1", "x", time.Hour, 1), "id_reused, extend_id", today + "0+2; a has 1"},
		{0, reserve("a", "2", 1), until, ""},
		{0, extend("2", "x", 0, 1), until, today + "0+4; a has 2"}, // it is another reservation's
	},
	"what an acquire without an amount asks": {
		{0, reserve("guess", "1", 1), until, ""},
		{
			0,
			quota.Extend{Principal: "p", RequestID: "1", ExtendID: "x", Charges: []quota.Charge{{Amount: 1, Default: true}}},
			until,
			"guess calls/day 2026-11-22: 0+3; guess has 1",
		},
	},
	"too late": {
		{0, reserve("a", "1", 1), until, ""},
		{15 * time.Minute, extend("1", "x", time.Hour, 0), "already_expired, expired, 0 of 1 calls of a", today + "0+1; a has 1"},
		{15 * time.Minute, quota.Expire{Max: 1}, "done, 1 charged, 0 released", ""},
		{15 * time.Minute, extend("1", "x", time.Hour, 0), "already_expired, expired, 0 of 1 calls of a", today + "1+0"},
	},
	"after the end": {
		{0, reserve("a", "1", 1), until, ""},
		{0, reserve("a", "2", 1), until, ""},
		{0, settle("1", 1), "done", ""},
		{0, release("2"), "done", ""},
		{0, extend("1", "x", time.Hour, 0), "already_settled, settled, 1 of 1 calls of a", ""},
		{0, extend("2", "x", time.Hour, 0), "already_released, released, 0 of 1 calls of a", today + "1+0"},
	},
	"what is not there": {
		{0, extend("1", "x", time.Hour, 0), "unknown_reservation", ""},
		{0, quota.Acquire{Principal: "p", Bucket: "a", RequestID: "1"}, "done", ""},
		{0, extend("1", "x", time.Hour, 0), "not_reservation", ""},
		{0, as("q", reserve("a", "2", 1)), until, ""},
		{0, extend("2", "x", time.Hour, 0), "unknown_reservation", ""},
	},
	"one thing twice": {
		{0, reserve("a", "1", 1), until, ""},
		{
			0,
			quota.Extend{Principal: "p", RequestID: "1", ExtendID: "x", Charges: []quota.Charge{{Amount: 1}, {Bucket: "a", Amount: 1}}},
			"invalid, charges[1].unit: calls of a is charged twice; add the amounts up in one charge", today + "0+1; a has 1",
		},
	},
	"what has been forbidden since": {
		{0, reserve("b/c", "1", 1), until, ""},
		{0, quota.Configure{Defaults: quota.Defaults{UndeclaredLive: 9}}, "done", ""},
		{0, extend("1", "x", 0, 1), "unknown_bucket", ""},
		{0, extend("1", "", time.Hour, 0), "done, until 13:00:00", ""},
		{0, settle("1", 4), "done", "b/c calls/day 2026-11-22: 4+0"},
	},
	"held by what is due": {
		{0, held(reserve("back", "1", 3), time.Minute), "done, until 12:01:00", ""},
		{0, reserve("back", "2", 1), until, ""},
		{time.Minute, extend("2", "x", 0, 3), "behind", "back calls/day 2026-11-22: 0+4; back has 2"},
		{time.Minute, quota.Expire{Max: 1}, "done, 0 charged, 1 released", ""},
		{time.Minute, extend("2", "x", 0, 3), until, "back calls/day 2026-11-22: 0+4; back has 1"},
	},
}

func TestExtend(t *testing.T) {
	t.Parallel()
	for name, steps := range extensions {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			play(t, newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, map[string]quota.Settings{
				"a": {Limits: limits("5")}, "back": {Limits: limits("5"), OnExpiry: quota.ExpiryRelease},
				"guess": {Limits: limits("5"), Estimates: estimates("calls", 2)},
			}), steps...)
		})
	}
}

// Whoever may take no more from a bucket that the reservation charges does not extend it, neither its time nor its amounts, and learns
// of each such bucket. Settling and releasing it ask for nothing.
func TestExtendMay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		may     []quota.Bucket
		refused []quota.Bucket
	}{
		{[]quota.Bucket{"a", "b"}, nil},
		{[]quota.Bucket{"b"}, []quota.Bucket{"a"}},
		{[]quota.Bucket{"a"}, []quota.Bucket{"b"}},
		{nil, []quota.Bucket{"a", "b"}},
	} {
		s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "9", "b": "9"}))
		op := held(reserve("a", "1", 1), time.Minute)
		op.Charges = append(op.Charges, quota.Charge{Bucket: "b", Amount: 1})
		s.apply(t, noon, op)
		s.apply(t, noon, extend("1", "before", 0, 1))
		before := s.tally()
		may := func(b quota.Bucket) bool { return slices.Contains(c.may, b) }
		for _, x := range []quota.Extend{extend("1", "", time.Hour, 0), extend("1", "x", 0, 2), extend("1", "before", 0, 1)} {
			x.May = may
			d := s.apply(t, noon, x)
			if refused := d.Outcome == quota.NotAllowed; refused != (c.refused != nil) || !slices.Equal(d.Refused, c.refused) {
				t.Errorf("may %v, extended by %q: %v, %v, want %v refused", c.may, x.ExtendID, d.Outcome, d.Refused, c.refused)
			}
		}
		if after := s.tally(); (after == before) != (c.refused != nil) {
			t.Errorf("may %v: %s became %s", c.may, before, after)
		}
		play(t, s, step{0, quota.Release{Principal: "p", RequestID: "1"}, "done", ""})
	}
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "9"}))
	x := extend("none", "x", 0, 1)
	x.May = func(quota.Bucket) bool { return false }
	if d := s.apply(t, noon, x); d.Outcome != quota.UnknownReservation {
		t.Errorf("of no reservation: %v", d.Outcome)
	}
}

// An extension takes from the windows that are current, and shows the counts of all of the reservation.
func TestExtendOverMidnight(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "9/month", "b": "9"}))
	op := held(reserve("a", "1", 1), 24*time.Hour)
	op.Charges = append(op.Charges, quota.Charge{Bucket: "b", Amount: 1})
	s.apply(t, noon, op)
	d := s.apply(t, noon.Add(13*time.Hour), extend("1", "x", 0, 2))
	want := "done; a calls/month 2026-11: 0 of 9; b calls/day 2026-11-22: 0 of 9"
	if got := strings.Join(told(d), "; "); got != want { // the days of a, which limits the month alone, are not shown
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	if got, want := s.tally(), today+"0+1; a calls/day 2026-11-23: 0+2; a calls/month 2026-11: 0+3; b calls/day 2026-11-22: 0+1; a has 1; b has 1"; got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	if r := s.receipts[quota.ReceiptKey{Principal: "p", RequestID: "1"}]; len(r.Hold.Charges) != 3 || len(r.Entries) != 5 {
		t.Errorf("%+v, want a charge for each day of a and one for b", r)
	}
}

// A stream that is topped up again and again in the same windows does not grow.
func TestExtendAddsUp(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "500"}))
	s.apply(t, noon, reserve("a", "1", 1))
	for i := range 100 {
		s.apply(t, noon, extend("1", "x"+string(rune('0'+i%10))+strings.Repeat("y", i), 0, 1))
	}
	r := s.receipts[quota.ReceiptKey{Principal: "p", RequestID: "1"}]
	if len(r.Hold.Charges) != 1 || len(r.Entries) != 1 || r.Entries[0].Amount != 101 {
		t.Errorf("%+v, want one charge of 101", r)
	}
	play(t, s, step{0, settle("1", 60), "done", today + "60+0"})
}

func TestExtendValidate(t *testing.T) {
	t.Parallel()
	for want, x := range map[string]quota.Extend{
		"":                        {RequestID: "1", Hold: time.Millisecond},
		" ":                       {RequestID: "1", ExtendID: "x", Charges: []quota.Charge{{Amount: 1}}},
		"request_id: is left out": {Hold: time.Hour},
		"hold: is left out, and so are charges; want one of them, or nothing would be extended":            {RequestID: "1"},
		"hold: is 24h0m0.001s; want 1ms to 24h0m0s, or leave it out to keep the expiry":                    {RequestID: "1", Hold: 24*time.Hour + time.Millisecond},
		"hold: is -1ns; want 1ms to 24h0m0s, or leave it out to keep the expiry":                           {RequestID: "1", Hold: -1},
		"extend_id: is left out; with charges it is needed, so that sending them again takes nothing more": {RequestID: "1", Charges: []quota.Charge{{Amount: 1}}},
		"extend_id: has the byte 0x20": {RequestID: "1", ExtendID: "a b", Hold: time.Hour},
		"charges[0].amount: is 0; want 1 to 1000000000000000, or leave it out for the bucket's estimate, or 1": {RequestID: "1", ExtendID: "x", Charges: []quota.Charge{{}}},
		"charges[1].unit: calls of a is charged by charges[0] already; add the amounts up in one charge":       {RequestID: "1", ExtendID: "x", Charges: []quota.Charge{{Bucket: "a", Amount: 1}, {Bucket: "a", Amount: 2}}},
		"charges[0].ceiling_window: is given without a ceiling; give both or neither":                          {RequestID: "1", ExtendID: "x", Charges: []quota.Charge{{Amount: 1, CeilingSpan: 1}}},
		"charges: has 33; at most 32 in one request":                                                           {RequestID: "1", ExtendID: "x", Charges: make([]quota.Charge, 33)},
	} {
		if ps := x.Validate(); (ps == nil) != (strings.TrimSpace(want) == "") || ps != nil && (len(ps) != 1 || !strings.HasPrefix(ps[0].String(), want)) {
			t.Errorf("%+v: %v, want %s", x, ps, want)
		}
	}
}
