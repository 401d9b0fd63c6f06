package quota_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

func TestParseLimit(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]quota.Limit{
		"50 calls/day":                  {Unit: quota.Calls, Span: window.Day, Max: 50},
		"50":                            {Unit: quota.Calls, Span: window.Day, Max: 50},
		"0":                             {Unit: quota.Calls, Span: window.Day},
		"50/hour":                       {Unit: quota.Calls, Span: window.Hour, Max: 50},
		"50 tokens":                     {Unit: "tokens", Span: window.Day, Max: 50},
		"2_000_000 tokens/month":        {Unit: "tokens", Span: window.Month, Max: 2_000_000},
		"  7   tokens  /  ever ":        {Unit: "tokens", Span: window.Ever, Max: 7},
		"007 calls/week":                {Unit: quota.Calls, Span: window.Week, Max: 7},
		"4000000000000000000/year":      {Unit: quota.Calls, Span: window.Year, Max: quota.CountMax},
		"1_0 usd_micros/minute":         {Unit: "usd_micros", Span: window.Minute, Max: 10},
		"50 " + strings.Repeat("a", 64): {Unit: quota.Unit(strings.Repeat("a", 64)), Span: window.Day, Max: 50},
	} {
		if got, err := quota.ParseLimit(s); got != want || err != nil {
			t.Errorf("%q is %+v, want %+v: %v", s, got, want, err)
		}
	}
}

func TestParseLimitErrors(t *testing.T) {
	t.Parallel()
	const right = `; want a number, a unit and a window, such as "50 calls/day" or "2_000_000 tokens/month"`
	for s, want := range map[string]string{
		"":                            `limit "": "" is not a number` + right,
		" ":                           `limit " ": "" is not a number` + right,
		"calls/day":                   `limit "calls/day": "calls" is not a whole number` + right,
		"/day":                        `limit "/day": "" is not a number` + right,
		"1.5 calls/day":               `limit "1.5 calls/day": "1.5" is not a whole number` + right,
		"1e3":                         `limit "1e3": "1e3" is not a whole number` + right,
		"0x10":                        `limit "0x10": "0x10" is not a whole number` + right,
		"+5":                          `limit "+5": "+5" is not a number` + right,
		"+_5":                         `limit "+_5": "+_5" is not a number` + right,
		"_5":                          `limit "_5": "_5" is not a number` + right,
		"5_":                          `limit "5_": "5_" is not a number` + right,
		"5__0":                        `limit "5__0": "5__0" is not a number` + right,
		"-5":                          `limit "-5": max -5 is out of range; want 0 to 4000000000000000000`,
		"4000000000000000001":         `limit "4000000000000000001": max 4000000000000000001 is out of range; want 0 to 4000000000000000000`,
		"9223372036854775808":         `limit "9223372036854775808": 9223372036854775808 is too large, at most 4000000000000000000` + right,
		"-9223372036854775809":        `limit "-9223372036854775809": "-9223372036854775809" is not a whole number` + right,
		"50 Calls":                    `limit "50 Calls": unit "Calls"; a unit is 1 to 64 bytes of a-z, 0-9 and _, starting with a letter, such as input_tokens`,
		"50 calls per day":            `limit "50 calls per day": unit "calls per day"; a unit is 1 to 64 bytes of a-z, 0-9 and _, starting with a letter, such as input_tokens`,
		"50 calls/":                   `limit "50 calls/": unknown window "": want one of minute, hour, day, week, month, year, ever`,
		"50 calls/days":               `limit "50 calls/days": unknown window "days": want one of minute, hour, day, week, month, year, ever; did you mean "day"?`,
		"50 calls/day/hour":           `limit "50 calls/day/hour": unknown window "day/hour": want one of minute, hour, day, week, month, year, ever`,
		"50 calls/day, 60 calls/hour": `limit "50 calls/day, 60 calls/hour": unknown window "day, 60 calls/hour": want one of minute, hour, day, week, month, year, ever`,
	} {
		if got, err := quota.ParseLimit(s); err == nil || err.Error() != want {
			t.Errorf("%q is %+v with the error\n%v, want\n%s", s, got, err, want)
		}
	}
}

func TestParseLimits(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{"": "off", " off ": "off", "5": "5 calls/day", "6,5/hour": "6 calls/day, 5 calls/hour", " 5 , 6 tokens ": "5 calls/day, 6 tokens/day"} {
		if got, err := quota.ParseLimits(s); quota.FormatLimits(got) != want || err != nil {
			t.Errorf("%q is %v, want %s: %v", s, got, want, err)
		}
	}
	for s, want := range map[string]string{
		"5,":             `limit "": "" is not a number`,
		"5,off":          `limit "off": "off" is not a whole number`,
		"5,6":            "calls/day is limited twice: 5 and 6; keep one",
		"5 calls/day, 5": "calls/day is limited twice: 5 and 5; keep one",
		"5,6/hour":       "6 calls/hour can never apply beside 5 calls/day; lower it or take it away",
		"none":           `limit "none": "none" is not a whole number`,
	} {
		if got, err := quota.ParseLimits(s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q is %v with the error %v, want %s", s, got, err, want)
		}
	}
}

// What FormatLimits writes, ParseLimits reads.
func TestLimitsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limits := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) quota.Limit {
			return quota.Limit{
				Unit: quota.Unit(rapid.StringMatching(`[a-z][a-z0-9_]{0,63}`).Draw(t, "unit")),
				Span: rapid.SampledFrom(window.Spans()).Draw(t, "span"),
				Max:  rapid.Int64Range(0, quota.CountMax).Draw(t, "max"),
			}
		}), 0, quota.LimitsMax, func(l quota.Limit) string { return string(l.Unit) + "/" + l.Span.String() }).Draw(t, "limits")
		lowered(limits)
		got, err := quota.ParseLimits(quota.FormatLimits(limits))
		if err != nil || !slices.Equal(got, limits) {
			t.Fatalf("%s is read as %s: %v", quota.FormatLimits(limits), quota.FormatLimits(got), err)
		}
	})
}

// limitsOf reads limits one by one, so that together they may be wrong.
func limitsOf(s string) []quota.Limit {
	var limits []quota.Limit
	for part := range strings.SplitSeq(s, ", ") {
		l, err := quota.ParseLimit(part)
		if err != nil {
			panic(err)
		}
		limits = append(limits, l)
	}
	return limits
}

func TestCheckLimits(t *testing.T) {
	t.Parallel()
	many := make([]quota.Limit, 0, 33)
	for i := range 33 {
		many = append(many, quota.Limit{Unit: quota.Unit("u" + strings.Repeat("x", i)), Span: window.Day})
	}
	good := quota.Limit{Unit: "u", Span: window.Day, Max: 1}
	for _, c := range []struct {
		limits []quota.Limit
		want   string
	}{
		{nil, ""},
		{many[:32], ""},
		{many, "33 limits; at most 32"},
		{[]quota.Limit{good, {Unit: "u", Span: window.Hour}, {Unit: "v", Span: window.Day}}, ""},
		{[]quota.Limit{good, {Unit: "v", Span: window.Day}, good}, "u/day is limited twice: 1 and 1; keep one"},
		{limitsOf("50/hour, 50/day, 60/week, 55/month, 70/year, 80/ever"), ""},
		{limitsOf("100/week, 50/month"), ""}, // a week may lie in two months,
		{limitsOf("100/week, 50/year"), ""},  // and in two years
		{limitsOf("100/day, 50 tokens/month"), ""},
		{limitsOf("100/day, 50/month"), "100 calls/day can never apply beside 50 calls/month; lower it or take it away"},
		{limitsOf("50/month, 100/day"), "100 calls/day can never apply beside 50 calls/month; lower it or take it away"},
		{limitsOf("3/minute, 2/hour"), "3 calls/minute can never apply beside 2 calls/hour; "},
		{limitsOf("1/minute, 8/hour, 0/day"), "1 calls/minute can never apply beside 0 calls/day; "},
		{limitsOf("9/day, 8/week"), "9 calls/day can never apply beside 8 calls/week; "},
		{limitsOf("9 tokens/month, 1/day, 8 tokens/year"), "9 tokens/month can never apply beside 8 tokens/year; "},
		{limitsOf("9/week, 8/ever"), "9 calls/week can never apply beside 8 calls/ever; "},
		{limitsOf("9/year, 8/ever"), "9 calls/year can never apply beside 8 calls/ever; "},
		{[]quota.Limit{good, {Span: window.Day}}, "limit 2: unit is empty; "},
		{[]quota.Limit{{Unit: "u"}}, "limit 1: window: none is given; want one of minute, hour, day, week, month, year, ever"},
		{[]quota.Limit{{Unit: "u", Span: 8}}, "limit 1: window: none is given"},
		{[]quota.Limit{{Unit: "u", Span: window.Day, Max: -1}}, "limit 1: max -1 is out of range; want 0 to 4000000000000000000"},
		{[]quota.Limit{{Unit: "u", Span: window.Day, Max: math.MaxInt64}}, "limit 1: max 9223372036854775807 is out of range"},
	} {
		err := quota.CheckLimits(c.limits)
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", quota.FormatLimits(c.limits), err, c.want)
		}
	}
}

func TestCaps(t *testing.T) {
	t.Parallel()
	none, three, five := quota.Cap{}, quota.AtMost(3), quota.AtMost(5)
	for _, c := range [][3]quota.Cap{
		{none, none, none},
		{none, three, three},
		{three, none, three},
		{three, five, three},
		{five, three, three},
		{three, three, three},
		{quota.AtMost(0), none, quota.AtMost(0)},
		{{Max: 1}, three, three}, // a number without Set is none
	} {
		if got := c[0].Lower(c[1]); got != c[2] {
			t.Errorf("the lower of %+v and %+v is %+v, want %+v", c[0], c[1], got, c[2])
		}
	}
	for _, c := range []struct {
		b         quota.Balance
		remaining quota.Cap
		overage   int64
	}{
		{quota.Balance{Used: 5, Held: 5}, none, 0},
		{quota.Balance{Limit: five, Used: 1, Held: 2}, quota.AtMost(2), 0},
		{quota.Balance{Limit: five, Used: 5}, quota.AtMost(0), 0},
		{quota.Balance{Limit: five, Used: 4, Held: 4}, quota.AtMost(0), 0},
		{quota.Balance{Limit: five, Used: 8, Held: 1}, quota.AtMost(0), 3},
		{quota.Balance{Limit: quota.AtMost(0), Used: quota.CountMax, Held: quota.CountMax}, quota.AtMost(0), quota.CountMax},
	} {
		if got := c.b.Remaining(); got != c.remaining || c.b.Overage() != c.overage {
			t.Errorf("%+v: remaining %+v, overage %d, want %+v, %d", c.b, got, c.b.Overage(), c.remaining, c.overage)
		}
	}
}
