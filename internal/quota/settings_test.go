package quota_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// limits reads limits that the test wrote itself.
func limits(s string) []quota.Limit {
	ls, err := quota.ParseLimits(s)
	if err != nil {
		panic(err)
	}
	return ls
}

// estimates are so many of units, by turns.
func estimates(of ...any) []quota.Estimate {
	var es []quota.Estimate
	for i := 0; i < len(of); i += 2 {
		es = append(es, quota.Estimate{Unit: quota.Unit(of[i].(string)), Amount: int64(of[i+1].(int))})
	}
	return es
}

func TestSettingsCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s    quota.Settings
		want string
	}{
		{quota.Settings{}, ""},
		{quota.Settings{Limits: limits("5"), Zone: "Europe/Berlin", OnExpiry: quota.ExpiryRelease, Description: strings.Repeat("d", 500)}, ""},
		{quota.Settings{Limits: append(limits("5"), limits("6")...)}, "limits: calls/day is limited twice: 5 and 6; keep one"},
		{quota.Settings{Zone: "Mars"}, `zone: unknown time zone "Mars"`},
		{quota.Settings{Zone: "Local"}, `zone: time zone "Local" means another zone on every machine`},
		{quota.Settings{OnExpiry: 2}, "on_expiry: 2 is unknown; want charge or release"},
		{quota.Settings{Description: strings.Repeat("d", 501)}, "description: has 501 bytes; at most 500"},
		{quota.Settings{MaxHold: 100, MaxInFlight: quota.InFlightMax, Hold: 24 * time.Hour, Estimates: estimates("calls", 1, "tokens", 1_000_000_000_000_000)}, ""},
		{quota.Settings{MaxHold: 1, MaxInFlight: 1, Hold: time.Millisecond}, ""},
		{quota.Settings{MaxHold: -1}, "max_hold: is -1 percent; want 1 to 100, or leave it out for the whole"},
		{quota.Settings{MaxHold: 101}, "max_hold: is 101 percent; want 1 to 100"},
		{quota.Settings{MaxInFlight: -1}, "max_in_flight: is -1; want 1 to 1000000000, or leave it out for any number"},
		{quota.Settings{MaxInFlight: quota.InFlightMax + 1}, "max_in_flight: is 1000000001; want 1 to 1000000000"},
		{quota.Settings{Hold: -1}, "hold: is -1ns; want 1ms to 24h0m0s, or leave it out for 15m0s"},
		{quota.Settings{Hold: time.Millisecond - 1}, "hold: is 999.999µs; want"},
		{quota.Settings{Hold: 24*time.Hour + 1}, "hold: is 24h0m0.000000001s; want"},
		{quota.Settings{Estimates: make([]quota.Estimate, 33)}, "estimates: there are 33; at most 32"},
		{quota.Settings{Estimates: estimates("Tokens", 1)}, `estimates: unit "Tokens"`},
		{quota.Settings{Estimates: estimates("tokens", 0)}, "estimates: tokens is estimated at 0; want 1 to 1000000000000000"},
		{quota.Settings{Estimates: estimates("tokens", 1_000_000_000_000_001)}, "estimates: tokens is estimated at 1000000000000001; want"},
		{quota.Settings{Estimates: estimates("tokens", 1, "calls", 1, "tokens", 2)}, "estimates: tokens is estimated twice; keep one"},
		{quota.Settings{Limits: limits("5, 9 tokens/month"), Estimates: estimates("calls", 5, "tokens", 9)}, ""},
		{quota.Settings{Limits: limits("5"), Estimates: estimates("calls", 6)}, "estimates: 6 calls is more than the limit of 5 calls/day lets one reservation hold"},
		{quota.Settings{Limits: limits("5, 9 tokens/hour"), Estimates: estimates("tokens", 10)}, "estimates: 10 tokens is more than the limit of 9 tokens/hour"},
		{quota.Settings{Limits: limits("5"), MaxHold: 50, Estimates: estimates("calls", 3)}, ""},
		{quota.Settings{Limits: limits("5"), MaxHold: 40, Estimates: estimates("calls", 3)}, "estimates: 3 calls is more than the limit of 5 calls/day lets one reservation hold"},
		{quota.Settings{Limits: limits("0"), Estimates: estimates("calls", 3)}, ""}, // it is closed on purpose
	} {
		if err := c.s.Check(); (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: %v, want %s", c.s, err, c.want)
		}
	}
}

func TestDefaultsCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d    quota.Defaults
		want string
	}{
		{quota.Defaults{}, ""},
		{quota.Defaults{Limits: limits("50"), Zone: "Asia/Kolkata", UndeclaredLive: 10_000}, ""},
		{quota.Defaults{Limits: append(limits("5"), limits("6")...)}, "default: calls/day is limited twice"},
		{quota.Defaults{Zone: "Mars"}, `zone: unknown time zone "Mars"`},
		{quota.Defaults{UndeclaredLive: -1}, "undeclared names: -1 is negative; want 0 or more"},
	} {
		if err := c.d.Check(); (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: %v, want %s", c.d, err, c.want)
		}
	}
}

func TestSettingsString(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s    quota.Settings
		want string
	}{
		{quota.Settings{}, "counted only"},
		{quota.Settings{Zone: "UTC"}, "counted only; zone UTC"},
		{quota.Settings{Limits: limits("50, 2_000 tokens/month")}, "50 calls/day, 2000 tokens/month"},
		{
			quota.Settings{Limits: limits("5"), Zone: "Europe/Berlin", OnExpiry: quota.ExpiryRelease, Description: "a\nb", Source: quota.SourceFile},
			`5 calls/day; zone Europe/Berlin; on expiry release; described as "a\nb"; from the buckets file`,
		},
	} {
		if got := c.s.String(); got != c.want {
			t.Errorf("%#v\n%s, want\n%s", c.s, got, c.want)
		}
	}
	if got, want := (quota.Defaults{}).String(), "off; zone UTC; at most 0 undeclared names"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	d := quota.Defaults{Limits: limits("50"), Zone: "Europe/Berlin", UndeclaredLive: 10_000}
	if got, want := d.String(), "50 calls/day; zone Europe/Berlin; at most 10000 undeclared names"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestSettingsEqual(t *testing.T) {
	t.Parallel()
	base := quota.Settings{Limits: limits("6, 5/hour"), Zone: "UTC", Description: "d"}
	for name, c := range map[string]struct {
		change func(*quota.Settings)
		want   bool
	}{
		"itself":              {func(*quota.Settings) {}, true},
		"another source":      {func(s *quota.Settings) { s.Source = quota.SourceFile }, true},
		"limits turned round": {func(s *quota.Settings) { s.Limits = limits("5/hour, 6") }, true},
		"no zone":             {func(s *quota.Settings) { s.Zone = "" }, false},
		"another expiry":      {func(s *quota.Settings) { s.OnExpiry = quota.ExpiryRelease }, false},
		"another description": {func(s *quota.Settings) { s.Description = "e" }, false},
		"another max":         {func(s *quota.Settings) { s.Limits = limits("6, 4/hour") }, false},
		"another window":      {func(s *quota.Settings) { s.Limits = limits("6, 5/minute") }, false},
		"another unit":        {func(s *quota.Settings) { s.Limits = limits("6, 5 tokens/hour") }, false},
		"fewer limits":        {func(s *quota.Settings) { s.Limits = limits("5") }, false},
		"more limits":         {func(s *quota.Settings) { s.Limits = limits("6, 5/hour, 7/week") }, false},
		"no limits":           {func(s *quota.Settings) { s.Limits = nil }, false},
		"another max_hold":    {func(s *quota.Settings) { s.MaxHold = 50 }, false},
		"another number":      {func(s *quota.Settings) { s.MaxInFlight = 3 }, false},
		"another hold":        {func(s *quota.Settings) { s.Hold = time.Minute }, false},
		"estimates":           {func(s *quota.Settings) { s.Estimates = estimates("calls", 2) }, false},
	} {
		other := base
		c.change(&other)
		if base.Equal(other) != c.want || other.Equal(base) != c.want {
			t.Errorf("%s: %v and %v, want %v", name, base.Equal(other), other.Equal(base), c.want)
		}
	}
}

// Equal settings are those of which the model says so, and those whose lines in the audit trail say the same.
func TestSettingsEqualAndStringAgree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawn(t)
		a, b := someSettings(p, 4), someSettings(p, 4)
		if p(2, "alike") == 0 {
			b = a
			b.Limits = slices.Clone(a.Limits)
			slices.Reverse(b.Limits)
			b.Estimates = slices.Clone(a.Estimates)
			slices.Reverse(b.Estimates)
		}
		if got, want := a.Equal(b), sameDeclaration(&a, &b); got != want || a.Equal(b) != b.Equal(a) {
			t.Fatalf("%v and %v are equal: %v, want %v", a, b, got, want)
		}
		byLine := func(x, y quota.Limit) int { return strings.Compare(x.String(), y.String()) }
		slices.SortFunc(a.Limits, byLine)
		slices.SortFunc(b.Limits, byLine)
		byUnit := func(x, y quota.Estimate) int { return strings.Compare(string(x.Unit), string(y.Unit)) }
		slices.SortFunc(a.Estimates, byUnit)
		slices.SortFunc(b.Estimates, byUnit)
		if got, want := a.String() == b.String(), a.Equal(b); got != want {
			t.Fatalf("%v and %v: the lines are alike %v, want %v", a, b, got, want)
		}
	})
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for i, o := range quota.Outcomes() {
		if int(o) != i+1 {
			t.Errorf("outcome %d of Outcomes is %d", i+1, o)
		}
		if name := o.String(); seen[name] || strings.Contains(name, "(") {
			t.Errorf("outcome %d is called %q", o, name)
		}
		seen[o.String()] = true
	}
	last := quota.Outcomes()[len(quota.Outcomes())-1]
	for o, want := range map[quota.Outcome]string{0: "outcome(0)", last + 1: "outcome(15)", 255: "outcome(255)", quota.Denied: "denied"} {
		if got := o.String(); got != want {
			t.Errorf("outcome %d is called %q, want %q", uint8(o), got, want)
		}
	}
}

func TestViolationString(t *testing.T) {
	t.Parallel()
	at := window.Window{Span: window.Day}
	for _, c := range []struct {
		v    quota.Violation
		want string
	}{
		{
			quota.Violation{Balance: quota.Balance{Bucket: "portfolio", Unit: "calls", Window: at, Used: 50}, Cap: 50, Requested: 1},
			"portfolio: 50 of 50 calls used this day, 1 asked",
		},
		{
			quota.Violation{Balance: quota.Balance{Bucket: "a/b", Unit: "tokens", Window: window.Window{Span: window.Month}, Used: 3, Held: 4}, Cap: 9, Requested: 5},
			"a/b: 3 of 9 tokens used and 4 held this month, 5 asked",
		},
		{
			quota.Violation{Balance: quota.Balance{Bucket: "a", Unit: "calls", Window: at, Used: 12}, Cap: 10, Requested: 1, Ceiling: true},
			"a: 12 of 10 calls used this day (the caller's own ceiling), 1 asked",
		},
		{
			quota.Violation{Balance: quota.Balance{Bucket: "a", Unit: "calls", Window: window.Window{Span: window.Ever}}, Cap: 0, Requested: 1, Never: true},
			"a: 0 of 0 calls used, 1 asked",
		},
	} {
		if got := c.v.String(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
