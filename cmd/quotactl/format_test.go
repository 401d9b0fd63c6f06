package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/window"
)

func TestSpan(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Second, "0s"},
		{0, "0s"},
		{time.Nanosecond, "1s"},
		{59 * time.Second, "59s"},
		{59*time.Second + 1, "1m"},
		{90 * time.Second, "1m30s"},
		{59*time.Minute + 59*time.Second + 1, "1h"},
		{3*time.Hour + 11*time.Minute + time.Second, "3h12m"},
		{23*time.Hour + 59*time.Minute + time.Second, "1d"},
		{24 * time.Hour, "1d"},
		{49*time.Hour + 1, "2d2h"},
		{400 * 24 * time.Hour, "400d"},
	} {
		if got := span(test.d); got != test.want {
			t.Errorf("span(%v) = %q, want %q", test.d, got, test.want)
		}
	}
}

// TestSpanIsNeverShort reads what span writes: it may round up, by less than its smaller unit, and never down.
func TestSpanIsNeverShort(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(1, int64(10_000*time.Hour)).Draw(t, "d"))
		said := readSpan(t, span(d))
		if slack := said - d; slack < 0 || slack >= time.Hour || d < 24*time.Hour && slack >= time.Minute || d < time.Hour && slack >= time.Second {
			t.Fatalf("span(%d) = %q is off by %v", d, span(d), slack)
		}
	})
}

func readSpan(t *rapid.T, s string) time.Duration {
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		days, rest = "0", s
	}
	n, err := parseAmount(days)
	if err != nil {
		t.Fatal(err)
	}
	total := time.Duration(n) * 24 * time.Hour
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil {
			t.Fatal(err)
		}
		total += d
	}
	return total
}

func TestBar(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		used, held, most int64
		want             string
	}{
		{0, 0, 10, "··········"},
		{5, 0, 10, "█████·····"},
		{5, 2, 10, "█████▒▒···"},
		{10, 0, 10, "██████████"},
		{15, 0, 10, "██████████"},
		{1, 0, 1000, "▏·········"},
		{999, 0, 1000, "█████████▉"},
		{999, 1, 1000, "█████████▉"},
		{0, 10, 10, "▒▒▒▒▒▒▒▒▒▒"},
		{0, 0, 0, "··········"},
		{3, 0, 0, "██████████"},
		{4e18, 4e18, 4e18, "██████████"},
	} {
		if got := bar(test.used, test.held, test.most, 10); got != test.want {
			t.Errorf("bar(%d, %d, %d) = %s, want %s", test.used, test.held, test.most, got, test.want)
		}
	}
}

// TestBarIsHonest draws any count: the width never varies, only a count that is used up fills the bar, and only one that is
// zero is empty.
func TestBarIsHonest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		used := rapid.Int64Range(0, 4e18).Draw(t, "used")
		held := rapid.Int64Range(0, 4e18).Draw(t, "held")
		most := rapid.Int64Range(1, 4e18).Draw(t, "most")
		drawn := bar(used, held, most, barWidth)
		if utf8.RuneCountInString(drawn) != barWidth {
			t.Fatalf("%s is not %d wide", drawn, barWidth)
		}
		if full := !strings.ContainsAny(drawn, "·▏▎▍▌▋▊▉▒"); full != (used >= most) {
			t.Fatalf("%s is full: %v", drawn, full)
		}
		if empty := drawn == strings.Repeat("·", barWidth); empty != (used+held == 0) {
			t.Fatalf("%s is empty: %v", drawn, empty)
		}
		if whole := percent(used, most) >= "100%" && len(percent(used, most)) >= 4; whole != (used >= most) {
			t.Fatalf("%d of %d is %s", used, most, percent(used, most))
		}
	})
}

func TestWriteCSV(t *testing.T) {
	t.Parallel()
	ten, six := int64(10), int64(6)
	start := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	var s strings.Builder
	err := writeCSV(&s, []*quotadv1.Balance{
		{
			Bucket: "a/b=c", Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, WindowLabel: "2026-11-22", Used: 3, Held: 1,
			Limit: &ten, Remaining: &six, Start: timestamppb.New(start), End: timestamppb.New(start.Add(23 * time.Hour)), Overridden: true,
		},
		{Bucket: "prepaid", Unit: "tokens", Window: quotadv1.Window_WINDOW_EVER, Used: 7},
	})
	want := `bucket,unit,window,label,start,end,limit,used,held,remaining,overage,overridden
a/b=c,calls,day,2026-11-22,2026-11-22T00:00:00Z,2026-11-22T23:00:00Z,10,3,1,6,0,true
prepaid,tokens,ever,,,,,7,0,,0,false
`
	if diff := cmp.Diff(want, s.String()); err != nil || diff != "" {
		t.Errorf("error %v, -want +got:\n%s", err, diff)
	}
}

func TestCharts(t *testing.T) {
	t.Parallel()
	ten := int64(10)
	midnight := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	day := func(n int, bucket string, used int64, limit *int64) *quotadv1.Balance {
		start := midnight.AddDate(0, 0, n)
		return &quotadv1.Balance{
			Bucket: bucket, Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, WindowLabel: start.Format(time.DateOnly), Used: used,
			Start: timestamppb.New(start), End: timestamppb.New(start.AddDate(0, 0, 1)), Limit: limit,
		}
	}
	over := day(5, "a", 20, &ten)
	over.Overage = 10
	a := &app{env: env{isTerminal: func(int) bool { return true }}, color: "never"}
	var s strings.Builder
	a.charts(&s, []*quotadv1.Balance{day(0, "a", 5, &ten), day(0, "b", 1, nil), day(1, "a", 10, &ten), over})
	want := `a, calls by the day
  2026-11-20  ██████████······························  5 of 10
  2026-11-21  ████████████████████····················  10 of 10
  nothing for 3d
  2026-11-25  ████████████████████████████████████████  20 of 10  over-by-10

b, calls by the day
  2026-11-20  ████████████████████████████████████████  1
`
	if diff := cmp.Diff(want, s.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func FuzzParseCharge(f *testing.F) {
	for _, text := range []string{"calls=1", "input_tokens=1_200,bucket=a/b@c=d,ceiling=10,window=month", "=", "calls=1,,", "calls=1,window=day", "tokens", "tokens,bucket=a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCharge(text)
		if err != nil {
			return
		}
		again := c.GetUnit()
		if c.Amount != nil {
			again += fmt.Sprintf("=%d", c.GetAmount())
		}
		if c.GetBucket() != "" {
			again += ",bucket=" + c.GetBucket()
		}
		if c.Ceiling != nil {
			again += fmt.Sprintf(",ceiling=%d", c.GetCeiling())
		}
		if c.GetCeilingWindow() != 0 {
			again += ",window=" + spanOf(c.GetCeilingWindow()).String()
		}
		d, err := parseCharge(again)
		if diff := cmp.Diff(c, d, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%q reads as %q, which reads otherwise: %v\n%s", text, again, err, diff)
		}
	})
}

func TestParseCharge(t *testing.T) {
	t.Parallel()
	n := func(n int64) *int64 { return &n }
	for text, want := range map[string]*quotadv1.Charge{
		"calls=1":            {Unit: "calls", Amount: n(1)},
		"input_tokens=1_200": {Unit: "input_tokens", Amount: n(1200)},
		"calls=0":            {Unit: "calls", Amount: n(0)}, // the daemon says what is wrong with it
		"calls=1,bucket=a/b@c=d,ceiling=10,window=month": {
			Unit: "calls", Amount: n(1), Bucket: "a/b@c=d", Ceiling: n(10), CeilingWindow: quotadv1.Window_WINDOW_MONTH,
		},
		"calls=2,ceiling=0": {Unit: "calls", Amount: n(2), Ceiling: n(0)},
		"calls=-2":          {Unit: "calls", Amount: n(-2)},
		"tokens":            {Unit: "tokens"},
		"tokens,bucket=a":   {Unit: "tokens", Bucket: "a"},
	} {
		got, err := parseCharge(text)
		if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%q: error %v, -want +got:\n%s", text, err, diff)
		}
	}
	for text, want := range map[string]string{
		"":                               "want UNIT=AMOUNT first, such as calls=1 or input_tokens=1200, or UNIT alone",
		"=1":                             "want UNIT=AMOUNT first, such as calls=1 or input_tokens=1200, or UNIT alone",
		"1":                              "want UNIT=AMOUNT first, such as calls=1 or input_tokens=1200, or UNIT alone",
		"calls 1":                        "want UNIT=AMOUNT first, such as calls=1 or input_tokens=1200, or UNIT alone",
		"calls\x00=1":                    "want UNIT=AMOUNT first, such as calls=1 or input_tokens=1200, or UNIT alone",
		"calls=":                         `amount: "" is not a whole number`,
		"calls=1.5":                      `amount: "1.5" is not a whole number`,
		"calls=0x10":                     `amount: "0x10" is not a whole number`,
		"calls=99999999999999999999":     "amount: 99999999999999999999 is too large",
		"calls=1__0":                     `amount: "1__0" is not a whole number`,
		"calls=1,bucket=":                "bucket: is empty; leave it out for the command's own",
		"calls=1,ceiling=x":              `ceiling: "x" is not a whole number`,
		"calls=1,window=day":             "window is that of a ceiling, and none is given",
		"calls=1,ceiling=1,ceiling=2":    "ceiling is given twice",
		"calls=1,tokens=2":               `"tokens=2" is unknown; after UNIT=AMOUNT, in the same word, come bucket=, ceiling= and window=`,
		"calls=1,ceiling=1,window=daily": `unknown window "daily": want one of minute, hour, day, week, month, year, ever; did you mean "day"?`,
	} {
		if c, err := parseCharge(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, error %v, want %q", text, c, err, want)
		}
	}
}

func TestBack(t *testing.T) {
	t.Parallel()
	zone, err := window.LoadZone("America/Santiago") // its day of 2026-09-06 begins at one o'clock
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 9, 7, 12, 0, 0, 0, zone)
	for n, want := range []string{"2026-09-07", "2026-09-06", "2026-09-05"} {
		if got := back(window.Day, now, zone, n).Label; got != want {
			t.Errorf("%d days back is %q, want %q", n, got, want)
		}
	}
	if got := back(window.Month, now, zone, 9).Label; got != "2025-12" {
		t.Errorf("9 months back is %q", got)
	}
	if got := back(window.Ever, now, zone, 5); got.Span != window.Ever || got.Label != "" {
		t.Errorf("before ever there is %v", got)
	}
}

func TestPercentAndSize(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ got, want string }{
		{percent(0, 50), "0%"},
		{percent(49, 50), "98%"},
		{percent(9999, 10000), "99%"},
		{percent(50, 50), "100%"},
		{percent(75, 50), "150%"},
		{percent(3, 0), "-"},
		{sizeOf(0), "0 B"},
		{sizeOf(1023), "1023 B"},
		{sizeOf(1536), "1.5 KiB"},
		{sizeOf(4 << 30), "4.0 GiB"},
		{sizeOf(1<<63 - 1), "8.0 EiB"},
		{count(1, "fault"), "1 fault"},
		{count(0, "fault"), "0 faults"},
		{either(nil), ""},
		{either([]string{"a"}), "a"},
		{either([]string{"a", "b", "c"}), "a, b or c"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}
