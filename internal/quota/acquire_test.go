package quota_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// charge is an amount of calls from a bucket.
func charge(b quota.Bucket, n int64) quota.Acquire {
	return quota.Acquire{Bucket: b, Charges: []quota.Charge{{Amount: n}}}
}

// told returns what a decision on an acquire says, a line for each thing.
func told(d quota.Decision) []string {
	lines := []string{d.Outcome.String()}
	for _, b := range d.Balances {
		line := fmt.Sprintf("%s %s/%s %s: %d", b.Bucket, b.Unit, b.Window.Span, b.Window.Label, b.Used)
		if b.Limit.Set {
			line += fmt.Sprintf(" of %d", b.Limit.Max)
		}
		lines = append(lines, line)
	}
	for _, v := range d.Violations {
		line := v.String()
		if v.Never {
			line += ", never"
		}
		lines = append(lines, line)
	}
	if !d.RetryAt.IsZero() {
		lines = append(lines, "at "+d.RetryAt.UTC().Format(time.RFC3339))
	}
	for _, p := range d.Problems {
		lines = append(lines, p.String())
	}
	return lines
}

// The day of the Django app: 50 calls, of which the dear endpoint stops at 10.
func TestTheOriginsDay(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"portfolio": "50"}))
	dear := quota.Acquire{Bucket: "portfolio", Charges: []quota.Charge{{Amount: 1, Ceiling: quota.AtMost(10)}}}
	granted := 0
	for range 20 {
		if s.apply(t, noon, dear).Outcome == quota.Done {
			granted++
		}
	}
	if granted != 10 {
		t.Errorf("the dear endpoint was granted %d, want 10", granted)
	}
	want := []string{"denied", "portfolio: 10 of 10 calls used this day (the caller's own ceiling), 1 asked", "at 2026-11-23T00:00:00Z"}
	if diff := cmp.Diff(want, told(s.apply(t, noon, dear))); diff != "" {
		t.Error(diff)
	}
	for range 60 {
		if s.apply(t, noon, charge("portfolio", 1)).Outcome == quota.Done {
			granted++
		}
	}
	if granted != 50 {
		t.Errorf("granted %d in all, want 50", granted)
	}
	want = []string{"denied", "portfolio: 50 of 50 calls used this day, 1 asked", "at 2026-11-23T00:00:00Z"}
	if diff := cmp.Diff(want, told(s.apply(t, noon, charge("portfolio", 1)))); diff != "" {
		t.Error(diff)
	}
	if d := s.apply(t, noon.Add(12*time.Hour), charge("portfolio", 1)); d.Outcome != quota.Done {
		t.Errorf("at midnight: %v", told(d))
	}
}

// A denial names every limit that refused, over units, windows, parents and buckets, in the order of the charges.
func TestDenialNamesEveryLimit(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{
		"acme": "1000 tokens/day, 5 calls/hour", "acme/alice": "3 calls/minute, 100 calls/month, 10 tokens/ever", "other": "0",
	}))
	op := quota.Acquire{Bucket: "acme/alice", RequestID: "1", Charges: []quota.Charge{
		{Amount: 6}, {Unit: "tokens", Amount: 11}, {Bucket: "acme", Unit: "tokens", Amount: 990}, {Bucket: "other", Amount: 1},
	}}
	want := []string{
		"denied",
		"acme/alice: 0 of 3 calls used this minute, 6 asked, never",
		"acme: 0 of 5 calls used this hour, 6 asked, never",
		"acme/alice: 0 of 10 tokens used, 11 asked, never",
		"acme: 0 of 1000 tokens used this day, 1001 asked, never",
		"other: 0 of 0 calls used this day, 1 asked, never",
	}
	if diff := cmp.Diff(want, told(s.apply(t, noon, op))); diff != "" {
		t.Error(diff)
	}
	if s.writes != 0 {
		t.Errorf("a denial made %d writes", s.writes)
	}
	op.Charges[0].Amount, op.Charges[1].Amount, op.Charges = 3, 10, op.Charges[:3]
	want = []string{
		"done",
		"acme/alice calls/minute 2026-11-22T12:00:00Z: 3 of 3", "acme/alice calls/month 2026-11: 3 of 100", "acme calls/hour 2026-11-22T12:00:00Z: 3 of 5",
		"acme/alice tokens/ever : 10 of 10", "acme tokens/day 2026-11-22: 1000 of 1000",
	}
	if diff := cmp.Diff(want, told(s.apply(t, noon, op))); diff != "" {
		t.Error(diff)
	}
	op.RequestID = "2"
	op.Charges = []quota.Charge{{Amount: 1}, {Bucket: "acme", Unit: "tokens", Amount: 1}}
	want = []string{
		"denied", "acme/alice: 3 of 3 calls used this minute, 1 asked", "acme: 1000 of 1000 tokens used this day, 1 asked", "at 2026-11-23T00:00:00Z",
	}
	if diff := cmp.Diff(want, told(s.apply(t, noon, op))); diff != "" {
		t.Error(diff)
	}
}

// Which counts a ceiling binds.
func TestCeilings(t *testing.T) {
	t.Parallel()
	declared := declare(map[string]string{"none": "", "day": "9", "month": "9/month", "both": "9/hour, 9/month", "day/child": "5"})
	for _, c := range []struct {
		bucket quota.Bucket
		span   window.Span
		want   string // the windows whose ceiling refused
	}{
		{"none", 0, "day"},
		{"none", window.Day, "day"},
		{"none", window.Month, "charges[0].ceiling_window: none does not count calls by the month; want day, or leave it out"},
		{"day", 0, "day"},
		{"day/child", 0, "day"},
		{"month", 0, "month"},
		{"month", window.Day, "day"},
		{"month", window.Hour, "charges[0].ceiling_window: month does not count calls by the hour; want day or month, or leave it out"},
		{"both", 0, "hour month"},
		{"both", window.Hour, "hour"},
		{"both", window.Day, "day"},
		{"both", window.Ever, "charges[0].ceiling_window: both does not count calls by the ever; want hour or day or month, or leave it out"},
	} {
		s := newState(t, quota.Defaults{}, declared)
		op := quota.Acquire{Bucket: c.bucket, Charges: []quota.Charge{{Amount: 2, Ceiling: quota.AtMost(3), CeilingSpan: c.span}}}
		first, d := s.apply(t, noon, op), s.apply(t, noon, op)
		var got []string
		for _, v := range d.Violations {
			got = append(got, v.Balance.Window.Span.String())
			if v.Balance.Bucket != c.bucket || !v.Ceiling || v.Cap != 3 {
				t.Errorf("%s by %v: %+v, want a ceiling on that bucket alone", c.bucket, c.span, v)
			}
		}
		for _, p := range d.Problems {
			got = append(got, p.String())
		}
		if text := strings.Join(got, " "); text != c.want || d.Outcome == quota.Denied && first.Outcome != quota.Done {
			t.Errorf("%s by %v: %s, want %s", c.bucket, c.span, text, c.want)
		}
	}
}

func TestCeilingAndLimitTogether(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit   string
		ceiling int64
		amount  int64
		want    string // "" is granted
	}{
		{"5", 5, 5, ""},
		{"5", 6, 6, "a: 0 of 5 calls used this day, 6 asked, never"},
		{"5", 4, 5, "a: 0 of 4 calls used this day (the caller's own ceiling), 5 asked, never"},
		{"5", 5, 6, "a: 0 of 5 calls used this day, 6 asked, never"}, // as low as the limit is not the ceiling's doing
		{"5", 0, 1, "a: 0 of 0 calls used this day (the caller's own ceiling), 1 asked, never"},
		{"5", math.MaxInt64, 5, ""},
		{"", math.MaxInt64, quota.AmountMax, ""},
	} {
		s := newState(t, quota.Defaults{}, declare(map[string]string{"a": c.limit}))
		d := s.apply(t, noon, quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: c.amount, Ceiling: quota.AtMost(c.ceiling)}}})
		got := strings.Join(told(d)[1:], "; ")
		if (d.Outcome == quota.Done) != (c.want == "") || c.want != "" && got != c.want {
			t.Errorf("%+v: %v", c, told(d))
		}
	}
}

// A count without a limit still has an end, where it could not be added up any more.
func TestCountMax(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "", "a/b": "", "a/c": "", "b": "4000000000000000000"}))
	key := quota.AccountKey{Bucket: "a", Unit: quota.Calls, Span: window.Day, Label: "2026-11-22"}
	both := quota.Acquire{Bucket: "a/b", Charges: []quota.Charge{{Amount: quota.AmountMax}, {Bucket: "a/c", Amount: quota.AmountMax}}}
	for _, c := range []struct {
		used, held int64
		want       string
	}{
		{quota.CountMax - 2*quota.AmountMax, 0, "done"},
		{quota.CountMax - 2*quota.AmountMax - 1, 1, "done"},
		{quota.CountMax - 2*quota.AmountMax, 1, "denied"},
		{quota.CountMax - 2*quota.AmountMax + 1, 0, "denied"},
		{quota.CountMax, 0, "denied"},
		{quota.CountMax, quota.CountMax, "denied"},
	} {
		s.accounts[key] = quota.Account{Used: c.used, Held: c.held}
		d := s.apply(t, noon, both)
		if d.Outcome.String() != c.want {
			t.Errorf("%+v: %v", c, told(d))
		}
		if d.Outcome == quota.Denied && (d.Violations[0].Cap != quota.CountMax || d.Violations[0].Balance.Limit.Set || d.RetryAt.IsZero()) {
			t.Errorf("%+v: %+v, until %v", c, d.Violations, d.RetryAt)
		}
		if a := s.accounts[key]; a.Used < 0 || a.Held < 0 || d.Outcome == quota.Denied && a.Used != c.used {
			t.Errorf("%+v: the count is %+v", c, a)
		}
	}
	all := quota.Acquire{Bucket: "b"}
	for i := range quota.ChargesMax {
		all.Charges = append(all.Charges, quota.Charge{Bucket: quota.Bucket(fmt.Sprintf("b/%d", i)), Amount: quota.AmountMax})
	}
	if d := s.apply(t, noon, all); d.Outcome != quota.TooManyNames {
		t.Errorf("new names where none may live: %v", told(d))
	}
	s = newState(t, quota.Defaults{UndeclaredLive: 32}, s.declared())
	if d := s.apply(t, noon, all); d.Outcome != quota.Done || s.accounts[quota.AccountKey{Bucket: "b", Unit: quota.Calls, Span: window.Day, Label: "2026-11-22"}].Used != 32*quota.AmountMax {
		t.Errorf("the largest request there is: %v", told(d))
	}
}

func TestRetryAt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, limits, zone string
		overrides          []quota.SetOverride
		used, asked        int64
		want               string // "" is never
	}{
		{"the day's end", "5", "", nil, 5, 1, "2026-11-23T00:00:00Z"},
		{"the day's end elsewhere", "5", "Asia/Kolkata", nil, 5, 1, "2026-11-22T18:30:00Z"},
		{"the last to end", "5/minute, 5/month, 5/hour", "", nil, 5, 1, "2026-12-01T00:00:00Z"},
		{"only those that refuse", "5/minute, 6/month", "", nil, 5, 1, "2026-11-22T12:01:00Z"},
		{"prepaid", "5/ever", "", nil, 5, 1, ""},
		{"prepaid and a day", "5/ever, 5/day", "", nil, 5, 1, ""},
		{"too much", "5", "", nil, 0, 6, ""},
		{"zero", "0", "", nil, 0, 1, ""},
		{"a low override ends", "5", "", []quota.SetOverride{{Limit: quota.AtMost(1)}}, 1, 5, "2026-11-23T00:00:00Z"},
		{"a high override ends", "5", "", []quota.SetOverride{{Limit: quota.AtMost(9)}}, 5, 6, ""},
		{
			"a high override of a window that does not refuse ends", "5/minute, 20/day", "",
			[]quota.SetOverride{{Span: window.Minute, Limit: quota.AtMost(30)}},
			15, 6, "",
		},
		{"tomorrow is closed", "5", "", []quota.SetOverride{{Label: "2026-11-23", Limit: quota.AtMost(0)}}, 5, 1, "2026-11-24T00:00:00Z"},
		{
			"two days are closed", "5", "",
			[]quota.SetOverride{{Label: "2026-11-23", Limit: quota.AtMost(0)}, {Label: "2026-11-24", Limit: quota.AtMost(1)}},
			5, 2, "2026-11-25T00:00:00Z",
		},
		{"tomorrow grants more", "5", "", []quota.SetOverride{{Label: "2026-11-23", Limit: quota.AtMost(20)}}, 0, 10, "2026-11-23T00:00:00Z"},
		{"tomorrow grants more, but not enough", "5", "", []quota.SetOverride{{Label: "2026-11-23", Limit: quota.AtMost(9)}}, 0, 10, ""},
		{"the day after grants more", "5", "", []quota.SetOverride{{Label: "2026-11-24", Limit: quota.AtMost(20)}}, 5, 10, "2026-11-24T00:00:00Z"},
		{"seven days are closed", "5", "", closed(7), 5, 1, "2026-11-30T00:00:00Z"},
		{"eight days are closed", "5", "", closed(8), 5, 1, ""}, // which is as far as is looked
		{"tomorrow has less, but enough", "5", "", []quota.SetOverride{{Label: "2026-11-23", Limit: quota.AtMost(1)}}, 5, 1, "2026-11-23T00:00:00Z"},
		{
			"a month is closed while minutes refuse", "1/minute, 5/month", "",
			[]quota.SetOverride{{Span: window.Month, Label: "2026-12", Limit: quota.AtMost(0)}},
			1, 1, "2026-11-22T12:01:00Z",
		},
	} {
		s := newState(t, quota.Defaults{}, map[string]quota.Settings{"a": {Limits: limits(c.limits), Zone: c.zone}})
		if c.used > 0 {
			s.apply(t, noon, quota.SetOverride{Bucket: "a", Limit: quota.AtMost(100)})
			for _, span := range window.Spans() {
				s.apply(t, noon, quota.SetOverride{Bucket: "a", Span: span, Limit: quota.AtMost(100)})
			}
			s.apply(t, noon, charge("a", c.used))
			for _, span := range window.Spans() {
				s.apply(t, noon, quota.SetOverride{Bucket: "a", Span: span})
			}
		}
		for _, o := range c.overrides {
			o.Bucket = "a"
			if d := s.apply(t, noon, o); d.Outcome != quota.Done {
				t.Fatalf("%s: %+v is %v", c.name, o, d.Problems)
			}
		}
		d := s.apply(t, noon, charge("a", c.asked))
		got := ""
		if !d.RetryAt.IsZero() {
			got = d.RetryAt.UTC().Format(time.RFC3339)
		}
		if d.Outcome != quota.Denied || got != c.want || got != "" && never(d) {
			t.Errorf("%s: %v, want %q", c.name, told(d), c.want)
		}
	}
}

// never tells whether a decision says that no wait can help.
func never(d quota.Decision) bool {
	return slices.ContainsFunc(d.Violations, func(v quota.Violation) bool { return v.Never })
}

// closed returns overrides that close the next days of bucket a.
func closed(days int) []quota.SetOverride {
	ops := make([]quota.SetOverride, days)
	for i := range ops {
		ops[i] = quota.SetOverride{Label: noon.AddDate(0, 0, i+1).Format(time.DateOnly), Limit: quota.AtMost(0)}
	}
	return ops
}

// A client that puts something of its own into the unit comes to an end. Units that the bucket limits are its own affair.
func TestTooManyUnits(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "50, 50 tokens/month", "a/b": "", "c": ""}))
	asking := func(b quota.Bucket, units ...string) quota.Acquire {
		op := quota.Acquire{Bucket: b}
		for _, u := range units {
			op.Charges = append(op.Charges, quota.Charge{Unit: quota.Unit(u), Amount: 1})
		}
		return op
	}
	step := func(now time.Time, want quota.Outcome, detail string, op quota.Acquire) {
		t.Helper()
		writes := s.writes
		d := s.apply(t, now, op)
		if d.Outcome != want || d.Detail != detail || want != quota.Done && s.writes != writes {
			t.Errorf("%v: %v %s after %d writes, want %v %s", op.Charges, told(d), d.Detail, s.writes-writes, want, detail)
		}
	}
	for i := range 62 {
		step(noon, quota.Done, "", asking("a", fmt.Sprint("id", i)))
	}
	step(noon, quota.TooManyNames, `a: unit "z"`, asking("a", "x", "y", "z")) // together they are too many
	step(noon, quota.Done, "", asking("a", "x", "y"))
	step(noon, quota.TooManyNames, `a: unit "z"`, asking("a", "z"))
	step(noon, quota.TooManyNames, `a: unit "z"`, asking("a/b", "z")) // the parent counts it too
	step(noon, quota.Done, "", asking("a", "id0", "x"))               // the known go on
	step(noon, quota.Done, "", asking("a", "calls", "tokens"))        // and so do those with a limit
	step(noon, quota.Done, "", asking("c", "z"))
	step(noon.Add(12*time.Hour), quota.Done, "", asking("a", "z")) // a new day
	if d, err := quota.Check(s, noon, valid(t, asking("a", "z"))); err != nil || d.Outcome != quota.TooManyNames {
		t.Errorf("Check says %v, %v", told(d), err)
	}
}

// The work of one request is bounded, as all others wait for it.
func TestCountsMax(t *testing.T) {
	t.Parallel()
	declared := make(map[string]quota.Settings)
	for n := range quota.SegmentsMax {
		name := "*" + strings.Repeat("/*", n)
		declared[name] = quota.Settings{Limits: limits("50/minute, 50/hour, 50/day, 50/week, 50/month, 50/year, 50/ever")}
	}
	s := newState(t, quota.Defaults{}, declared)
	op := quota.Acquire{Bucket: "a"}
	for i := range 29 { // 7 counts of each, and 49 of their 7 parents
		op.Charges = append(op.Charges, quota.Charge{Bucket: quota.Bucket(fmt.Sprint("a/b/c/d/e/f/g/", i)), Amount: 1})
	}
	if d := s.apply(t, noon, op); d.Outcome != quota.Done || len(s.accounts) != 252 {
		t.Fatalf("%v, with %d counts", told(d), len(s.accounts))
	}
	op.Charges = append(op.Charges, quota.Charge{Bucket: "a/b/c/d/e/f/g/x", Amount: 1})
	want := []string{"invalid", "charges: touch 259 counts, over all buckets, parents and windows; at most 256 in one request"}
	if diff := cmp.Diff(want, told(s.apply(t, noon, op))); diff != "" || len(s.accounts) != 252 {
		t.Errorf("%s, with %d counts", diff, len(s.accounts))
	}
}

// Undeclared names are bounded by day, and only those that are new on their day count.
func TestTooManyNames(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 3}, declare(map[string]string{"acme": "100", "p/*": ""}))
	step := func(now time.Time, want quota.Outcome, names ...quota.Bucket) {
		t.Helper()
		op := quota.Acquire{Bucket: names[0]}
		for _, n := range names {
			op.Charges = append(op.Charges, quota.Charge{Bucket: n, Amount: 1})
		}
		writes := s.writes
		d := s.apply(t, now, op)
		if d.Outcome != want || want != quota.Done && s.writes != writes {
			t.Errorf("%v: %v after %d writes, want %v", names, told(d), s.writes-writes, want)
		}
		if want == quota.TooManyNames && !slices.Contains(names, quota.Bucket(d.Detail)) {
			t.Errorf("%v: the refusal is about %q", names, d.Detail)
		}
	}
	step(noon, quota.Done, "a")
	step(noon, quota.Done, "acme/x")                    // a child that is only counted is one too
	step(noon, quota.TooManyNames, "b", "c")            // two at once are too many
	step(noon, quota.Done, "a", "b")                    // one is new
	step(noon, quota.TooManyNames, "c")                 // the fourth
	step(noon, quota.Done, "a", "b", "acme/x")          // the known go on
	step(noon, quota.Done, "acme", "p/1", "p/2", "p/3") // the declared are not bounded
	step(noon, quota.TooManyNames, "a", "c", "acme")    // with the known, all or nothing
	step(noon.Add(12*time.Hour), quota.Done, "c", "d")  // a new day
	step(noon.Add(12*time.Hour), quota.Done, "c", "d")  // again
	step(noon.Add(12*time.Hour), quota.TooManyNames, "e", "f")
	step(noon.Add(12*time.Hour), quota.Done, "e")
	twoUnits := quota.Acquire{Bucket: "g", Charges: []quota.Charge{{Amount: 1}, {Unit: "tokens", Amount: 1}}}
	s = newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 1}, nil)
	if d := s.apply(t, noon, twoUnits); d.Outcome != quota.Done || len(s.live["2026-11-22"]) != 1 {
		t.Errorf("two units of one name: %v, %v", told(d), s.live)
	}
	s = newState(t, quota.Defaults{Limits: limits("50")}, nil)
	if d := s.apply(t, noon, quota.Acquire{Bucket: "a"}); d.Outcome != quota.TooManyNames {
		t.Errorf("where none may live: %v", told(d))
	}
	s = newState(t, quota.Defaults{UndeclaredLive: 9}, nil)
	if d := s.apply(t, noon, quota.Acquire{Bucket: "a"}); d.Outcome != quota.UnknownBucket || d.Detail != "a" {
		t.Errorf("with the default off: %v", told(d))
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5, 4/minute"}))
	op := quota.Acquire{Principal: "p", Bucket: "a", RequestID: "1", Charges: []quota.Charge{{Amount: 2}}}
	s.apply(t, noon, op)
	s.apply(t, noon, charge("a", 1))
	writes := s.writes
	again := func(now time.Time, want ...string) {
		t.Helper()
		d := s.apply(t, now, op)
		if diff := cmp.Diff(want, told(d)); diff != "" || !d.Replayed {
			t.Errorf("replayed %v: %s", d.Replayed, diff)
		}
	}
	again(noon, "done", "a calls/minute 2026-11-22T12:00:00Z: 3 of 4", "a calls/day 2026-11-22: 3 of 5")
	again(noon.Add(23*time.Hour), "done", "a calls/minute 2026-11-22T12:00:00Z: 3 of 4", "a calls/day 2026-11-22: 3 of 5")
	other := op
	other.Charges = []quota.Charge{{Amount: 3}}
	if d := s.apply(t, noon, other); d.Outcome != quota.IDReused || d.Detail != "1" || d.Replayed {
		t.Errorf("the id for something else: %v", told(d))
	}
	if s.writes != writes {
		t.Errorf("replays made %d writes", s.writes-writes)
	}
	other.Principal = "q"
	if d := s.apply(t, noon, other); d.Outcome != quota.Denied {
		t.Errorf("the id of another caller: %v, want it taken for a new request", told(d))
	}
	s.apply(t, noon, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("4")}})
	again(noon, "done", "a calls/day 2026-11-22: 3 of 4") // the limit of today, in a window that goes on
	again(noon.Add(23*time.Hour), "done", "a calls/minute 2026-11-22T12:00:00Z: 3 of 4", "a calls/day 2026-11-22: 3 of 5")
	delete(s.accounts, quota.AccountKey{Bucket: "a", Unit: quota.Calls, Span: window.Minute, Label: "2026-11-22T12:00:00Z"})
	again(noon.Add(71*time.Hour), "done", "a calls/day 2026-11-22: 3 of 5") // as where the clock was set back
}

// A denial keeps no receipt: the same id may be granted later.
func TestDeniedThenGranted(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "1"}))
	s.apply(t, noon, charge("a", 1))
	op := quota.Acquire{Bucket: "a", RequestID: "1"}
	d := s.apply(t, noon, op)
	if d.Outcome != quota.Denied || len(s.receipts) != 0 {
		t.Fatalf("%v, with receipts %v", told(d), s.receipts)
	}
	if d := s.apply(t, d.RetryAt, op); d.Outcome != quota.Done || d.Replayed {
		t.Errorf("at the time it was told: %v, replayed %v", told(d), d.Replayed)
	}
}

// reserved makes a reservation of an acquire.
func reserved(tb testing.TB, a quota.Acquire) quota.Acquire {
	tb.Helper()
	a.Reserve = true
	return valid(tb, a)
}

// extended makes an extension nobody's, and validates it.
func extended(tb testing.TB, x quota.Extend) quota.Extend {
	tb.Helper()
	x.Principal = ""
	if ps := x.Validate(); ps != nil {
		tb.Fatalf("%+v: %v", x, ps)
	}
	return x
}

// Whichever call of the state fails, the op fails with its error; and where a reading failed, nothing was written.
func TestStateFails(t *testing.T) {
	t.Parallel()
	ops := []quota.Op{
		valid(t, quota.Acquire{Bucket: "a/x", RequestID: "new", Charges: []quota.Charge{{Amount: 1}, {Bucket: "u", Amount: 1}}}),
		valid(t, quota.Acquire{Bucket: "a", RequestID: "old"}),
		valid(t, charge("a", 5)),
		quota.SetBucket{Name: "b"},
		quota.DeleteBucket{Name: "a"},
		quota.ApplySet{Buckets: declare(map[string]string{"b": "1", "c": "1"})},
		quota.SetOverride{Bucket: "a", Limit: quota.AtMost(1)},
		quota.Reset{Bucket: "a"},
		quota.Configure{Defaults: quota.Defaults{UndeclaredLive: 1}},
		quota.Exhaust{},
		quota.Adopt{},
		quota.Note{Action: "note"},
		reserved(t, quota.Acquire{Bucket: "a/x", RequestID: "new", Charges: []quota.Charge{{Amount: 1}, {Bucket: "u", Amount: 1}}}),
		reserved(t, quota.Acquire{Bucket: "a", RequestID: "held", Charges: []quota.Charge{{Amount: 1}}}), // a replay
		reserved(t, quota.Acquire{Bucket: "a", RequestID: "crowd", Charges: []quota.Charge{{Amount: 9}}}),
		quota.Settle{RequestID: "held"},
		quota.Settle{RequestID: "held", Charges: []quota.Charge{{Unit: "tokens", Amount: 2}, {Unit: quota.Calls, Amount: 4}}},
		quota.Settle{RequestID: "settled"},
		quota.Settle{RequestID: "settled", Charges: []quota.Charge{{Unit: quota.Calls, Amount: 2}}},
		quota.Release{RequestID: "held"},
		quota.Release{RequestID: "old"},
		quota.Release{RequestID: "settled"},
		extended(t, extend("held", "x", 0, 1)),
		extended(t, extend("held", "", time.Hour, 0)),
		extended(t, extend("held", "twice", time.Hour, 0)),
		extended(t, extend("held", "y", 0, 9)),
		quota.Expire{Max: 1},
	}
	for _, op := range ops {
		for n := 1; ; n++ {
			s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, map[string]quota.Settings{"a": {Limits: limits("5, 4/hour")}, "f": {Source: quota.SourceFile}})
			s.apply(t, noon, quota.Acquire{Bucket: "a", RequestID: "old"})
			s.apply(t, noon, reserved(t, quota.Acquire{Bucket: "a", RequestID: "held", Charges: []quota.Charge{{Amount: 1}}}))
			s.apply(t, noon, reserved(t, quota.Acquire{Bucket: "a", RequestID: "settled"}))
			s.apply(t, noon, quota.Settle{RequestID: "settled"})
			s.apply(t, noon.Add(-8*time.Hour), extended(t, extend("held", "w", time.Hour, 1))) // in other windows
			s.apply(t, noon, extended(t, extend("held", "twice", time.Hour, 0)))
			now := noon
			_, expires := op.(quota.Expire)
			if expires {
				now = noon.Add(2 * time.Hour)
			}
			s.failIn, s.writes = n, 0
			_, err := quota.Apply(s, now, op)
			if s.failIn > 0 { // it made fewer calls
				if err != nil || n == 1 {
					t.Errorf("%T: %v after %d calls", op, err, n-1)
				}
				break
			}
			if !errors.Is(err, errState) {
				t.Errorf("%T, where call %d fails: %v, want %v", op, n, err, errState)
			}
			if s.unread && s.writes > 0 && !expires { // which looks for more when it has ended some
				t.Errorf("%T read in call %d, after %d writes", op, n, s.writes)
			}
		}
	}
}
