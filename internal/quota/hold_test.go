package quota_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// One reservation may hold so much of a limit, rounded up; a plain acquire may take all of it.
func TestMaxHold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit   int64
		percent int
		most    int64
	}{
		{10, 30, 3},
		{7, 30, 3}, // of 2.1
		{10, 100, 10},
		{10, 0, 10},
		{1, 1, 1},
		{99, 1, 1},
		{100, 1, 1},
		{101, 1, 2},
		{0, 50, 0},
		{2*quota.AmountMax - 1, 50, quota.AmountMax},
	} {
		s := newState(t, quota.Defaults{}, map[string]quota.Settings{"a": {MaxHold: c.percent, Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: c.limit}}}})
		if c.most < quota.AmountMax {
			d := s.apply(t, noon, reserve("a", "more", c.most+1))
			share := c.percent > 0
			if d.Outcome != quota.Denied || d.Violations[0].MaxHold != share || d.Violations[0].Cap != c.most || d.Violations[0].Requested != c.most+1 || !d.Violations[0].Never {
				t.Errorf("%+v: %v", c, outcomeOf(d))
			}
		}
		if c.most > 0 {
			if d := s.apply(t, noon, reserve("a", "1", c.most)); d.Outcome != quota.Done {
				t.Errorf("%+v: %v", c, outcomeOf(d))
			}
		}
	}
	s := newState(t, quota.Defaults{}, map[string]quota.Settings{"a": {MaxHold: 30, Limits: limits("10, 100/month")}, "free": {MaxHold: 1}})
	share := func(most, asked int) string {
		return fmt.Sprintf("denied, a: one may hold %d calls a day, %d asked", most, asked)
	}
	play(
		t, s,
		step{0, charge("a", 4), "done", ""},
		step{0, reserve("a", "1", 3), "done, until 12:15:00", ""},
		step{0, extend("1", "x", 0, 1), share(3, 4), ""}, // an extension adds to it
		step{12 * time.Hour, extend("1", "x", 0, 1), "already_expired, expired, 0 of 3 calls of a", ""},
		step{0, reserve("a", "2", 3), "done, until 12:15:00", ""},
		step{0, reserve("a", "3", 3), "denied, a: 4 of 10 calls used and 6 held this day, 3 asked", ""}, // each by itself, and all within the limit
		step{0, reserve("a", "3", 4), share(3, 4) + ", never", ""},
		step{0, quota.SetOverride{Bucket: "a", Limit: quota.AtMost(20)}, "done", ""},
		step{0, reserve("a", "3", 6), "done, until 12:15:00", ""}, // of the limit in force
		step{0, reserve("a", "4", 7), share(6, 7) + ", never", ""},
		step{0, reserve("free", "5", 1000), "done, until 12:15:00", ""}, // a share of no limit is no bound
	)
}

// The next day, an extension holds nothing yet of that day's limit.
func TestMaxHoldOverMidnight(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, map[string]quota.Settings{"a": {MaxHold: 30, Limits: limits("10, 20/month")}})
	play(
		t, s,
		step{0, held(reserve("a", "1", 3), 24*time.Hour), "done, until 12:00:00", ""},
		step{0, extend("1", "x", 0, 2), "denied, a: one may hold 3 calls a day, 5 asked", ""},
		step{12 * time.Hour, extend("1", "x", 0, 3), "done, until 12:00:00", ""},
		step{12 * time.Hour, extend("1", "y", 0, 1), "denied, a: one may hold 3 calls a day, 4 asked, " +
			"a: one may hold 6 calls a month, 7 asked", ""},
	)
	d := s.apply(t, noon.Add(12*time.Hour), extend("1", "y", 0, 1))
	if want := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC); !d.RetryAt.Equal(want) {
		t.Errorf("come again at %v, want %v", d.RetryAt, want)
	}
}

// A change of zone may lead to a day in which the reservation was made: there it holds something already.
func TestMaxHoldOfADayThatComesAgain(t *testing.T) {
	t.Parallel()
	in := func(zone string) quota.Settings { return quota.Settings{MaxHold: 30, Limits: limits("10"), Zone: zone} }
	s := newState(t, quota.Defaults{}, map[string]quota.Settings{"a": in("Asia/Kolkata")})
	play(
		t, s,
		step{8 * time.Hour, held(reserve("a", "1", 3), 24*time.Hour), "done, until 20:00:00", "a calls/day 2026-11-23: 0+3; a has 1"},
		step{8 * time.Hour, quota.SetBucket{Name: "a", Settings: in("")}, "done", ""},
		step{8 * time.Hour, extend("1", "x", 0, 3), "done, until 20:00:00", today + "0+3; a calls/day 2026-11-23: 0+3; a has 1"},
		step{8 * time.Hour, extend("1", "y", 0, 1), "denied, a: one may hold 3 calls a day, 4 asked", ""},
	)
	d := s.apply(t, noon.Add(8*time.Hour), extend("1", "y", 0, 1))
	if want := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC); !d.RetryAt.Equal(want) {
		t.Errorf("come again at %v, want %v: the day before is full for it too", d.RetryAt, want)
	}
}

// Every bucket has its own bound on reservations, and each counts those below it.
func TestMaxInFlight(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, map[string]quota.Settings{"a": {MaxInFlight: 2}, "a/b": {MaxInFlight: 1}, "c": {MaxInFlight: 1}})
	both := reserve("a/b", "both", 1)
	both.Charges = append(both.Charges, quota.Charge{Bucket: "a", Unit: "tokens", Amount: 1}, quota.Charge{Bucket: "c", Amount: 1})
	more := quota.Extend{Principal: "p", RequestID: "1", ExtendID: "x", Charges: []quota.Charge{{Bucket: "c", Amount: 1}}}
	const full = "a calls/day 2026-11-22: 0+2; a/b calls/day 2026-11-22: 0+1; a/x calls/day 2026-11-22: 0+1; a has 2; a/b has 1; a/x has 1"
	play(
		t, s,
		step{0, reserve("a/b", "1", 1), "done, until 12:15:00", ""},
		step{0, reserve("a/b", "1", 1), "done, replayed, until 12:15:00", ""},
		step{0, reserve("a/b", "2", 1), "denied, a/b: 1 of 1 reservations in flight", ""},
		step{0, reserve("a/x", "2", 1), "done, until 12:15:00", full},
		step{0, reserve("a/y", "3", 1), "denied, a: 2 of 2 reservations in flight", full},
		step{0, both, "denied, a/b: 1 of 1 reservations in flight, a: 2 of 2 reservations in flight", full},
		step{0, charge("a/b", 1), "done", ""}, // what is used at once is not in flight
		step{0, extend("1", "w", 0, 1), "done, until 12:15:00", ""},
		step{0, reserve("c", "4", 1), "done, until 12:15:00", ""},
		step{0, more, "denied, c: 1 of 1 reservations in flight", ""},
		step{0, release("4"), "done", ""},
		step{0, more, "done, until 12:15:00", ""},
		step{0, reserve("c", "5", 1), "denied, c: 1 of 1 reservations in flight", ""},
		step{0, settle("1", 1), "done", "a calls/day 2026-11-22: 2+1; a/b calls/day 2026-11-22: 2+0; a/x calls/day 2026-11-22: 0+1; " +
			"c calls/day 2026-11-22: 1+0; a has 1; a/x has 1"},
		step{0, both, "done, until 12:15:00", ""},
		step{15 * time.Minute, reserve("a", "6", 1), "behind", ""},
		step{15 * time.Minute, quota.Expire{Max: 9}, "done, 2 charged, 0 released", ""},
		step{15 * time.Minute, reserve("a", "6", 1), "done, until 12:30:00", ""},
		step{15 * time.Minute, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("0")}}, "done", ""},
		step{15 * time.Minute, quota.SetBucket{Name: "c", Settings: quota.Settings{MaxInFlight: 1}}, "done", ""},
	)
	s.apply(t, noon.Add(time.Hour), quota.Expire{Max: 9})
	s.apply(t, noon.Add(time.Hour), reserve("c", "7", 1))
	crowd := reserve("c", "8", 1)
	crowd.Charges[0].Ceiling = quota.AtMost(0)
	d := s.apply(t, noon.Add(time.Hour), crowd)
	if len(d.Violations) != 2 || d.Violations[0].InFlight || !d.Violations[1].InFlight || !d.RetryAt.IsZero() {
		t.Errorf("%v at %v, want a ceiling and a crowd, and nobody knows when", outcomeOf(d), d.RetryAt)
	}
	b := d.Violations[1].Balance
	if b.Unit != quota.Reservations || b.Held != 1 || b.Used != 0 || b.Limit != quota.AtMost(1) || d.Violations[1].Never {
		t.Errorf("%+v", d.Violations[1])
	}
}

// Where the caller does not say how much, the bucket does, or the nearest parent that is declared.
// TestNeverWhileHeld: of what never starts anew, a wait helps while reservations hold it, and no more once it is used.
func TestNeverWhileHeld(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, map[string]quota.Settings{"a": {Limits: limits("10/ever")}})
	s.apply(t, noon, reserve("a", "1", 10))
	denied := func() quota.Decision { return s.apply(t, noon, charge("a", 1)) }
	if d := denied(); d.Outcome != quota.Denied || d.Violations[0].Never || !d.RetryAt.IsZero() {
		t.Errorf("while all of it is held: %s, at %v", outcomeOf(d), d.RetryAt)
	}
	s.apply(t, noon, settle("1", 10))
	if d := denied(); d.Outcome != quota.Denied || !d.Violations[0].Never {
		t.Errorf("when all of it is used: %s", outcomeOf(d))
	}
}

func TestEstimates(t *testing.T) {
	t.Parallel()
	guess := quota.Settings{Limits: limits("9, 100 tokens, 7 usd_micros"), Estimates: estimates("tokens", 40, "calls", 2, "usd_micros", 1)}
	left := func(b quota.Bucket, unit quota.Unit) quota.Charge {
		return quota.Charge{Bucket: b, Unit: unit, Amount: 1, Default: true}
	}
	for name, c := range map[string]struct {
		op   quota.Acquire
		want string
	}{
		"no charges":                         {quota.Acquire{Bucket: "g"}, "g calls/day: 2, g tokens/day: 40, g usd_micros/day: 1"},
		"no charges of a child":              {quota.Acquire{Bucket: "g/x/y"}, "g calls/day: 2, g tokens/day: 40, g usd_micros/day: 1, g/x/y calls/day: 2, g/x/y tokens/day: 40, g/x/y usd_micros/day: 1"},
		"no charges of one that is declared": {quota.Acquire{Bucket: "g/own"}, "g calls/day: 1, g/own calls/day: 1"},
		"no charges of another":              {quota.Acquire{Bucket: "other"}, "other calls/day: 1"},
		"calls":                              {quota.Acquire{Bucket: "g", Charges: []quota.Charge{left("", "")}}, "g calls/day: 2"},
		"tokens":                             {quota.Acquire{Bucket: "g", Charges: []quota.Charge{left("", "tokens")}}, "g tokens/day: 40"},
		"a unit that nobody knows":           {quota.Acquire{Bucket: "g", Charges: []quota.Charge{left("", "pages")}}, "g pages/day: 1"},
		"one said, one not":                  {quota.Acquire{Bucket: "g", Charges: []quota.Charge{{Amount: 1}, left("", "tokens")}}, "g calls/day: 1, g tokens/day: 40"},
		"of another bucket":                  {quota.Acquire{Bucket: "other", Charges: []quota.Charge{left("g", "tokens")}}, "g tokens/day: 40"},
	} {
		s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, map[string]quota.Settings{"g": guess, "g/own": {}})
		d := s.apply(t, noon, c.op)
		var got []string
		for k, a := range s.accounts {
			got = append(got, fmt.Sprintf("%s %s/%s: %d", k.Bucket, k.Unit, k.Span, a.Used))
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s: %v\n%s", name, outcomeOf(d), diff)
		}
	}
	s := newState(t, quota.Defaults{}, map[string]quota.Settings{"g": guess})
	bare := quota.Acquire{Principal: "p", Bucket: "g", RequestID: "1", Reserve: true}
	one := quota.Acquire{Principal: "p", Bucket: "g", RequestID: "1", Reserve: true, Charges: []quota.Charge{{Amount: 1}}}
	again := bare
	again.RequestID = "2"
	third := bare
	third.RequestID = "3"
	play(
		t, s,
		step{0, bare, "done, until 12:15:00", "g calls/day 2026-11-22: 0+2; g tokens/day 2026-11-22: 0+40; g usd_micros/day 2026-11-22: 0+1; g has 1"},
		step{0, quota.SetBucket{Name: "g", Settings: quota.Settings{Limits: limits("9, 100 tokens"), Estimates: estimates("tokens", 60)}}, "done", ""},
		step{0, bare, "done, replayed, until 12:15:00", ""}, // what was said is the same, whatever is declared
		step{0, one, "done, replayed, until 12:15:00", ""},
		step{0, again, "done, until 12:15:00", "g calls/day 2026-11-22: 0+3; g tokens/day 2026-11-22: 0+100; g usd_micros/day 2026-11-22: 0+1; g has 2"},
		step{0, third, "denied, g: 0 of 100 tokens used and 100 held this day, 60 asked", ""},
	)
}

// How long a reservation is held is what its caller says, else its bucket, else the nearest parent that is declared, else the default.
func TestHoldTime(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, map[string]quota.Settings{
		"a": {Hold: time.Hour}, "a/none": {}, "a/short": {Hold: time.Minute}, "p/*": {Hold: time.Second},
	})
	play(
		t, s,
		step{0, reserve("a", "1", 1), "done, until 13:00:00", ""},
		step{0, held(reserve("a", "2", 1), time.Millisecond), "done, until 12:00:00.001", ""},
		step{0, held(reserve("a", "3", 1), 24*time.Hour), "done, until 12:00:00", ""},
		step{0, reserve("a/x/y", "4", 1), "done, until 13:00:00", ""},
		step{0, reserve("a/none", "5", 1), "done, until 12:15:00", ""},
		step{0, reserve("a/short", "6", 1), "done, until 12:01:00", ""},
		step{0, reserve("p/1", "7", 1), "done, until 12:00:01", ""},
		step{0, reserve("other", "8", 1), "done, until 12:15:00", ""},
		step{999_999, held(reserve("a", "9", 1), time.Millisecond), "done, until 12:00:00.001", ""}, // to the millisecond, and never at once
		step{0, held(reserve("a", "1", 1), time.Hour), "id_reused, request_id", ""},
	)
	if d := s.apply(t, noon, reserve("a", "1", 1)); d.Phase != quota.PhaseOpen {
		t.Errorf("%v, is %v", outcomeOf(d), d.Phase)
	}
	if d := s.apply(t, noon.Add(time.Hour), reserve("a", "1", 1)); d.Phase != quota.PhaseExpired {
		t.Errorf("%v, is %v, want expired though nobody has looked", outcomeOf(d), d.Phase)
	}
}

func TestReserveValidate(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]quota.Acquire{
		"":  {Bucket: "a", Reserve: true, RequestID: "1"},
		" ": {Bucket: "a", Reserve: true, RequestID: "1", Hold: 24 * time.Hour},
		"request_id: is left out; a reservation is settled by it, so that hold needs one": {Bucket: "a", Reserve: true},
		"hold: is 999.999µs; want 1ms to 24h0m0s, or 0 for the bucket's own hold time":    {Bucket: "a", Reserve: true, RequestID: "1", Hold: time.Millisecond - 1},
		"hold: is 24h0m0.000000001s; want 1ms to 24h0m0s, or 0 for":                       {Bucket: "a", Reserve: true, RequestID: "1", Hold: 24*time.Hour + 1},
		"hold: is -1s; want": {Bucket: "a", Reserve: true, RequestID: "1", Hold: -time.Second},
	} {
		if ps := a.Validate(); (ps == nil) != (strings.TrimSpace(want) == "") || ps != nil && (len(ps) != 1 || !strings.HasPrefix(ps[0].String(), want)) {
			t.Errorf("%+v: %v, want %s", a, ps, want)
		}
	}
}

func TestSettleValidate(t *testing.T) {
	t.Parallel()
	for want, op := range map[string]quota.Settle{
		"":                              {RequestID: "1"},
		" ":                             {RequestID: "1", Charges: []quota.Charge{{}, {Unit: "tokens", Amount: quota.AmountMax}, {Unit: "pages", Default: true}}},
		"request_id: is left out":       {},
		"request_id: has the byte 0x20": {RequestID: "a b"},
		"charges: has 33; at most 32 in one request":                                             {RequestID: "1", Charges: make([]quota.Charge, 33)},
		`charges[0].bucket: "a/*": '*' is not`:                                                   {RequestID: "1", Charges: []quota.Charge{{Bucket: "a/*"}}},
		`charges[0].unit: "X"; a unit is`:                                                        {RequestID: "1", Charges: []quota.Charge{{Unit: "X"}}},
		"charges[0].amount: is -1; want 0 to 1000000000000000, or leave it out for what is held": {RequestID: "1", Charges: []quota.Charge{{Amount: -1}}},
		"charges[1].amount: is 1000000000000001; want":                                           {RequestID: "1", Charges: []quota.Charge{{}, {Unit: "tokens", Amount: quota.AmountMax + 1}}},
		"charges[0].ceiling: is given; a settlement records what was used, and is never refused for its amount": {
			RequestID: "1", Charges: []quota.Charge{{Ceiling: quota.AtMost(1)}},
		},
	} {
		if ps := op.Validate(); (ps == nil) != (strings.TrimSpace(want) == "") || ps != nil && (len(ps) != 1 || !strings.HasPrefix(ps[0].String(), want)) {
			t.Errorf("%+v: %v, want %s", op, ps, want)
		}
	}
	for id, want := range map[string]string{"1": "", "": "request_id: is left out", "é": "request_id: has the byte 0xc3"} {
		op := quota.Release{RequestID: id}
		if ps := op.Validate(); (ps == nil) != (want == "") || ps != nil && (len(ps) != 1 || !strings.HasPrefix(ps[0].String(), want)) {
			t.Errorf("release of %q: %v, want %s", id, ps, want)
		}
	}
}

// Check tells what a reservation would be answered, with its bounds, and writes nothing.
func TestCheckOfReservations(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, map[string]quota.Settings{"a": {Limits: limits("10"), MaxHold: 40, MaxInFlight: 1}})
	s.apply(t, noon, reserve("a", "1", 4))
	writes := s.writes
	for _, c := range []struct {
		op   quota.Acquire
		want string
	}{
		{charge("a", 6), "done"},
		{charge("a", 7), "denied, a: 0 of 10 calls used and 4 held this day, 7 asked"},
		{reserve("a", "1", 4), "denied, a: 1 of 1 reservations in flight"}, // no receipt is looked for
		{reserve("a", "2", 5), "denied, a: one may hold 4 calls a day, 5 asked, never, a: 1 of 1 reservations in flight"},
	} {
		d, err := quota.Check(s, noon, valid(t, c.op))
		if got := outcomeOf(d); got != c.want || err != nil || len(d.Balances) != 1 || d.Balances[0].Held != 4 {
			t.Errorf("%+v: %v, %v, with %+v, want %s", c.op, got, err, d.Balances, c.want)
		}
	}
	if s.writes != writes {
		t.Errorf("%d writes", s.writes-writes)
	}
}

// Look shows what is held and in flight, and the terms that reservations are made under.
func TestLookAtReservations(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, map[string]quota.Settings{
		"a":   {Limits: limits("10"), OnExpiry: quota.ExpiryRelease, Hold: time.Hour, MaxHold: 40, MaxInFlight: 7, Estimates: estimates("calls", 2)},
		"p/*": {Hold: time.Minute}, "q/*": {},
	})
	s.apply(t, noon, reserve("a/x", "1", 2))
	s.apply(t, noon, reserve("a", "2", 1))
	s.apply(t, noon, settle("2", 1))
	for _, c := range []struct {
		name     string
		inFlight int64
		hold     time.Duration
		onExpiry quota.OnExpiry
		maxHold  int
		guesses  int
	}{
		{"a", 1, time.Hour, quota.ExpiryRelease, 40, 1},
		{"a/x", 1, time.Hour, quota.ExpiryRelease, 0, 1}, // bounds are each bucket's own
		{"p/1", 0, time.Minute, quota.ExpiryCharge, 0, 0},
		{"p/*", 0, time.Minute, quota.ExpiryCharge, 0, 0},
		{"q/*", 0, quota.HoldDefault, quota.ExpiryCharge, 0, 0},
		{"other", 0, quota.HoldDefault, quota.ExpiryCharge, 0, 0},
	} {
		v, err := quota.Look(s, noon, c.name)
		if err != nil {
			t.Fatal(err)
		}
		if v.InFlight != c.inFlight || v.Settings.Hold != c.hold || v.Settings.OnExpiry != c.onExpiry || v.Settings.MaxHold != c.maxHold || len(v.Settings.Estimates) != c.guesses {
			t.Errorf("%s: %d in flight, %+v, want %+v", c.name, v.InFlight, v.Settings, c)
		}
	}
	if v, _ := quota.Look(s, noon, "a"); v.Balances[0].Used != 1 || v.Balances[0].Held != 2 || v.Balances[0].Remaining() != quota.AtMost(7) {
		t.Errorf("%+v, want 1 used, 2 held and 7 left", v.Balances[0])
	}
}

// What is told of a reservation is how it stands by its time, whether that has been carried out or not.
func TestReservationOf(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5"}))
	s.apply(t, noon, quota.Acquire{Principal: "p", Bucket: "a", RequestID: "plain"})
	s.apply(t, noon, reserve("a", "1", 1))
	s.apply(t, noon, extend("1", "x", 0, 1))
	key := quota.ReceiptKey{Principal: "p", RequestID: "1"}
	for after, want := range map[time.Duration]quota.Phase{0: quota.PhaseOpen, 15*time.Minute - 1: quota.PhaseOpen, 15 * time.Minute: quota.PhaseExpired} {
		v, ok := quota.ReservationOf(key, s.receipts[key], noon.Add(after))
		if !ok || v.Phase != want || !v.Made.Equal(noon) || v.Bucket != "a" || v.Principal != "p" || v.RequestID != "1" {
			t.Errorf("after %v: %+v, %v, want %v", after, v, ok, want)
		}
	}
	for _, k := range []quota.ReceiptKey{{Principal: "p", RequestID: "plain"}, {Principal: "p", RequestID: "1", ExtendID: "x"}} {
		if v, ok := quota.ReservationOf(k, s.receipts[k], noon); ok {
			t.Errorf("%+v is told to be a reservation: %+v", k, v)
		}
	}
	for p, want := range map[quota.Phase]string{quota.PhaseUsed: "used", quota.PhaseExpired: "expired", 9: "phase(9)"} {
		if got := p.String(); got != want {
			t.Errorf("phase %d is called %q, want %q", uint8(p), got, want)
		}
	}
}
