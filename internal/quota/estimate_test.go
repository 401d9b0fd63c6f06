package quota_test

import (
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

func TestParseEstimate(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]quota.Estimate{
		"4096 output_tokens":  {Unit: "output_tokens", Amount: 4096},
		"4_096 output_tokens": {Unit: "output_tokens", Amount: 4096},
		"2":                   {Unit: quota.Calls, Amount: 2},
		"2 calls":             {Unit: quota.Calls, Amount: 2},
		"  7   tokens ":       {Unit: "tokens", Amount: 7},
		"007":                 {Unit: quota.Calls, Amount: 7},
		"1000000000000000":    {Unit: quota.Calls, Amount: quota.AmountMax},
	} {
		if got, err := quota.ParseEstimate(s); got != want || err != nil {
			t.Errorf("%q is %+v, want %+v: %v", s, got, want, err)
		}
	}
}

func TestParseEstimateErrors(t *testing.T) {
	t.Parallel()
	const right = `; want a number and a unit, such as "4096 output_tokens"`
	const unit = `; a unit is 1 to 64 bytes of a-z, 0-9 and _, starting with a letter, such as input_tokens`
	for s, want := range map[string]string{
		"":                             `"" is not a number` + right,
		" ":                            `"" is not a number` + right,
		"output_tokens":                `"output_tokens" is not a whole number` + right,
		"1.5 tokens":                   `"1.5" is not a whole number` + right,
		"1e3":                          `"1e3" is not a whole number` + right,
		"+5":                           `"+5" is not a number` + right,
		"5_":                           `"5_" is not a number` + right,
		"5__0":                         `"5__0" is not a number` + right,
		"4096 output_tokens/day":       `has a window, and is of one call` + right,
		"4096/":                        `has a window, and is of one call` + right,
		"0":                            `calls is estimated at 0; want 1 to 1000000000000000`,
		"-5 tokens":                    `tokens is estimated at -5; want 1 to 1000000000000000`,
		"1000000000000001":             `calls is estimated at 1000000000000001; want 1 to 1000000000000000`,
		"9223372036854775808":          `9223372036854775808 is too large, at most 1000000000000000` + right,
		"5 Tokens":                     `unit "Tokens"` + unit,
		"5 output tokens":              `unit "output tokens"` + unit,
		"5 " + strings.Repeat("a", 65): `unit has 65 bytes` + unit,
	} {
		want = `estimate ` + strconv.Quote(s) + `: ` + want
		if got, err := quota.ParseEstimate(s); err == nil || err.Error() != want {
			t.Errorf("%q is %+v\n got %v\nwant %s", s, got, err, want)
		}
	}
}

// What String writes, ParseEstimate reads, and it takes nothing that Check refuses.
func TestEstimateString(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := quota.Estimate{
			Unit:   quota.Unit(rapid.StringMatching(`[a-z][a-z0-9_]{0,63}`).Draw(t, "unit")),
			Amount: rapid.Int64Range(1, quota.AmountMax).Draw(t, "amount"),
		}
		if got, err := quota.ParseEstimate(want.String()); got != want || err != nil {
			t.Errorf("%s is read as %+v: %v", want, got, err)
		}
		text := rapid.StringMatching(`[ +-]?[0-9_]{0,20}[ /]?[a-zA-Z_ ]{0,8}`).Draw(t, "text")
		if e, err := quota.ParseEstimate(text); err == nil && e.Check() != nil {
			t.Errorf("%q is taken as %s: %v", text, e, e.Check())
		}
	})
}

// An estimate with which nothing would be granted is refused, with the most that would be.
func TestEstimateAboveLimit(t *testing.T) {
	t.Parallel()
	limits := func(s string) []quota.Limit {
		ls, err := quota.ParseLimits(s)
		if err != nil {
			t.Fatal(err)
		}
		return ls
	}
	const tail = " lets one reservation hold, so that none would be granted; want at most "
	for _, c := range []struct {
		limits  string
		maxHold int
		amount  int64
		want    string // "" means that it is taken
	}{
		{"10 tokens/day", 0, 10, ""},
		{"10 tokens/day", 0, 11, "estimates: 11 tokens is more than the limit of 10 tokens/day" + tail + "10"},
		{"10 tokens/day", 25, 3, ""}, // rounded up
		{"10 tokens/day", 25, 4, "estimates: 4 tokens is more than the limit of 10 tokens/day" + tail + "3"},
		{"5 tokens/hour, 100 tokens/day", 100, 6, "estimates: 6 tokens is more than the limit of 5 tokens/hour" + tail + "5"},
		{"0 tokens/day", 1, 6, ""}, // closed, and perhaps for today only
		{"5 calls/day", 1, 6, ""},
	} {
		s := quota.Settings{Limits: limits(c.limits), MaxHold: c.maxHold, Estimates: []quota.Estimate{{Unit: "tokens", Amount: c.amount}}}
		if err := s.Check(); c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%s: %v, want %q", s, err, c.want)
		}
	}
}

// A change of any one field is seen, and can be read in the audit trail: else a buckets file in which nothing else is changed
// would not be taken.
func TestSettingsDiffer(t *testing.T) {
	t.Parallel()
	changed := map[string]quota.Settings{
		"Limits":      {Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 1}}},
		"Zone":        {Zone: "Europe/Berlin"},
		"OnExpiry":    {OnExpiry: quota.ExpiryRelease},
		"Description": {Description: "x"},
		"MaxHold":     {MaxHold: 1},
		"MaxInFlight": {MaxInFlight: 1},
		"Hold":        {Hold: quota.HoldMin},
		"Estimates":   {Estimates: []quota.Estimate{{Unit: quota.Calls, Amount: 1}}},
		"Thresholds":  {Thresholds: quota.Thresholds{}}, // none is something else than the daemon's
	}
	for f := range reflect.TypeFor[quota.Settings]().Fields() {
		s, known := changed[f.Name]
		if f.Name == "Source" { // where it comes from is no part of what is declared
			continue
		}
		if !known {
			t.Errorf("%s is a new field; add it above", f.Name)
		}
		if base := (quota.Settings{}); s.Equal(base) || base.Equal(s) || s.String() == base.String() {
			t.Errorf("a change of %s is not seen: %q and %q", f.Name, s, base)
		}
	}
}
