package window_test

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/window"
)

// knownWindows are easily got wrong.
var knownWindows = []struct {
	span   window.Span
	zone   string
	label  string
	start  string // in UTC
	length time.Duration
	why    string
}{
	{window.Day, "UTC", "2026-11-22", "2026-11-22T00:00:00Z", 24 * time.Hour, "an ordinary day"},
	{window.Day, "Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00Z", 23 * time.Hour, "clocks forward at 02:00"},
	{window.Day, "Europe/Berlin", "2026-10-25", "2026-10-24T22:00:00Z", 25 * time.Hour, "clocks back at 03:00"},
	{window.Day, "America/Havana", "2026-03-08", "2026-03-08T05:00:00Z", 23 * time.Hour, "midnight does not exist"},
	{window.Day, "America/Havana", "2026-11-01", "2026-11-01T04:00:00Z", 25 * time.Hour, "midnight comes twice, the first counts"},
	{window.Day, "America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z", 23 * time.Hour, "midnight does not exist"},
	{window.Day, "America/Sao_Paulo", "2018-02-17", "2018-02-17T02:00:00Z", 25 * time.Hour, "clocks back at midnight"},
	{window.Day, "Atlantic/Azores", "2026-03-29", "2026-03-29T01:00:00Z", 23 * time.Hour, "midnight does not exist"},
	{window.Day, "Atlantic/Azores", "2026-10-25", "2026-10-25T00:00:00Z", 25 * time.Hour, "midnight comes twice, the first counts"},
	{window.Day, "Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00:00Z", 24*time.Hour + 30*time.Minute, "half an hour back"},
	{window.Day, "Australia/Lord_Howe", "2026-10-04", "2026-10-03T13:30:00Z", 23*time.Hour + 30*time.Minute, "half an hour forward"},
	{window.Day, "Antarctica/Troll", "2026-03-29", "2026-03-29T00:00:00Z", 22 * time.Hour, "two hours forward"},
	{window.Day, "Antarctica/Troll", "2026-10-25", "2026-10-24T22:00:00Z", 26 * time.Hour, "two hours back"},
	{window.Day, "America/St_Johns", "2010-11-06", "2010-11-06T02:30:00Z", 24 * time.Hour, "its last hour comes again after it"},
	{window.Day, "America/St_Johns", "2010-11-07", "2010-11-07T02:30:00Z", 25 * time.Hour, "back to the date before at 00:01"},
	{window.Day, "Pacific/Apia", "2011-12-29", "2011-12-29T10:00:00Z", 24 * time.Hour, "before the date that was skipped"},
	{window.Day, "Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00Z", 24 * time.Hour, "after the date that was skipped"},
	{window.Day, "Pacific/Kwajalein", "1969-09-30", "1969-09-29T13:00:00Z", 47 * time.Hour, "back by 23 hours"},
	{window.Day, "Asia/Kathmandu", "2026-11-22", "2026-11-21T18:15:00Z", 24 * time.Hour, "a quarter of an hour off"},
	{window.Week, "UTC", "2026-11-16", "2026-11-16T00:00:00Z", 7 * 24 * time.Hour, "an ordinary week"},
	{window.Week, "UTC", "2026-12-28", "2026-12-28T00:00:00Z", 7 * 24 * time.Hour, "across the new year"},
	{window.Week, "Europe/Berlin", "2026-03-23", "2026-03-22T23:00:00Z", 7*24*time.Hour - time.Hour, "with a short Sunday"},
	{window.Week, "Pacific/Apia", "2011-12-26", "2011-12-26T10:00:00Z", 6 * 24 * time.Hour, "without its Friday"},
	{window.Month, "America/Havana", "2026-11", "2026-11-01T04:00:00Z", 30*24*time.Hour + time.Hour, "with a long first day"},
	{window.Month, "UTC", "2028-02", "2028-02-01T00:00:00Z", 29 * 24 * time.Hour, "a leap year"},
	{window.Month, "Pacific/Apia", "2011-12", "2011-12-01T10:00:00Z", 30 * 24 * time.Hour, "without its 30th"},
	{window.Year, "UTC", "2028", "2028-01-01T00:00:00Z", 366 * 24 * time.Hour, "a leap year"},
	{window.Year, "Pacific/Apia", "2011", "2011-01-01T10:00:00Z", 364 * 24 * time.Hour, "without a day"},
	{window.Year, "Asia/Kolkata", "2026", "2025-12-31T18:30:00Z", 365 * 24 * time.Hour, "from midnight there"},
	{window.Hour, "UTC", "2026-11-22T16:00:00Z", "2026-11-22T16:00:00Z", time.Hour, "an ordinary hour"},
	{window.Hour, "Asia/Kolkata", "2026-11-22T16:30:00Z", "2026-11-22T16:30:00Z", time.Hour, "22:00 there"},
	{window.Hour, "Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T00:00:00Z", time.Hour, "02:00, the first time"},
	{window.Hour, "Europe/Berlin", "2026-10-25T01:00:00Z", "2026-10-25T01:00:00Z", time.Hour, "02:00, the second time"},
	{window.Hour, "Australia/Lord_Howe", "2026-04-04T14:00:00Z", "2026-04-04T14:00:00Z", time.Hour, "01:00 to 02:00"},
	{window.Hour, "Australia/Lord_Howe", "2026-04-04T15:00:00Z", "2026-04-04T15:00:00Z", 30 * time.Minute, "01:30 to 02:00 again"},
	{window.Hour, "Australia/Lord_Howe", "2026-10-03T15:30:00Z", "2026-10-03T15:30:00Z", 30 * time.Minute, "02:30 to 03:00, its first half skipped"},
	{window.Minute, "UTC", "2026-11-22T16:05:00Z", "2026-11-22T16:05:00Z", time.Minute, "an ordinary minute"},
	{window.Minute, "America/St_Johns", "2010-11-07T02:31:00Z", "2010-11-07T02:31:00Z", time.Minute, "23:01 again"},
}

func TestKnownWindows(t *testing.T) {
	t.Parallel()
	for _, c := range knownWindows {
		start, err := time.Parse(time.RFC3339, c.start)
		if err != nil {
			t.Fatal(err)
		}
		zone := loadZone(t, c.zone)
		w, err := c.span.Parse(c.label, zone)
		if err != nil || w.Label != c.label || !w.Start.Equal(start) || w.End.Sub(w.Start) != c.length {
			t.Errorf("%v %s in %s (%s) is [%v, %v), %v long, want %v and %v: %v",
				c.span, c.label, c.zone, c.why, w.Start.UTC(), w.End.UTC(), w.End.Sub(w.Start), start, c.length, err)
		}
		if err := checkTile(at, c.span, start.Add(c.length/2), zone); err != nil {
			t.Errorf("%v %s in %s (%s): %v", c.span, c.label, c.zone, c.why, err)
		}
	}
}

// Bounds are shown in the zone, and nil is UTC.
func TestBoundsAreInTheZone(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 16, 5, 9, 7, time.FixedZone("elsewhere", 5*60*60))
	havana := loadZone(t, "America/Havana")
	for _, s := range window.Spans()[:6] {
		if w := s.At(now, havana); w.Start.Location() != havana || w.End.Location() != havana {
			t.Errorf("%v in Havana: [%v, %v)", s, w.Start, w.End)
		}
		if got, want := s.At(now, nil), s.At(now, time.UTC); got != want || got.Start.Location() != time.UTC {
			t.Errorf("%v in no zone is %v, want %v", s, got, want)
		}
		w := s.At(now, nil)
		if got, err := s.Parse(w.Label, nil); got != w || err != nil {
			t.Errorf("%v.Parse(%q) in no zone = %v, %v, want %v", s, w.Label, got, err, w)
		}
	}
}

func TestContains(t *testing.T) {
	t.Parallel()
	w := window.Hour.At(time.Date(2026, 11, 22, 16, 5, 0, 0, time.UTC), nil)
	for _, c := range []struct {
		w    window.Window
		t    time.Time
		want bool
	}{
		{w, w.Start, true},
		{w, w.Start.Add(-1), false},
		{w, w.End.Add(-1), true},
		{w, w.End, false},
		{window.Ever.At(w.Start, nil), time.Time{}, true},
		{window.Ever.At(w.Start, nil), w.Start, true},
		{window.Window{}, time.Time{}, false},
		{window.Window{}, w.Start, false},
	} {
		if got := c.w.Contains(c.t); got != c.want {
			t.Errorf("%v contains %v: %v, want %v", c.w, c.t, got, c.want)
		}
	}
}

// Labels sort as their windows do, which is how counts of a space are read in
// order; and two windows never share one.
func TestLabelsSortByTime(t *testing.T) {
	t.Parallel()
	names := zoneNames(t)
	rapid.Check(t, func(t *rapid.T) {
		zone, err := window.LoadZone(rapid.SampledFrom(names).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		s := rapid.SampledFrom(window.Spans()).Draw(t, "span")
		a := instants().Draw(t, "a")
		b := a.Add(time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "later")))
		first, second := s.At(a, zone), s.At(b, zone)
		if byLabel, byTime := strings.Compare(first.Label, second.Label), first.Start.Compare(second.Start); byLabel != byTime {
			t.Fatalf("%v and %v: labels compare %d, starts %d", first, second, byLabel, byTime)
		}
	})
}

// Outside of the calendar's bounds the answer is that of the bound, so that each
// label has four digits for the year.
func TestOutsideOfTheCalendar(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		t    time.Time
		want []string // for Minute to Year
	}{
		{time.Time{}, []string{"0001-01-02T00:00:00Z", "0001-01-02T00:00:00Z", "0001-01-02", "0001-01-01", "0001-01", "0001"}},
		{time.Unix(math.MinInt64, 0), []string{"0001-01-02T00:00:00Z", "0001-01-02T00:00:00Z", "0001-01-02", "0001-01-01", "0001-01", "0001"}},
		{time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC), []string{"9999-12-30T23:59:00Z", "9999-12-30T23:00:00Z", "9999-12-30", "9999-12-27", "9999-12", "9999"}},
		{time.Unix(math.MaxInt64, 0), []string{"9999-12-30T23:59:00Z", "9999-12-30T23:00:00Z", "9999-12-30", "9999-12-27", "9999-12", "9999"}},
	} {
		for i, want := range c.want {
			s := window.Spans()[i]
			w := s.At(c.t, nil)
			if w.Label != want {
				t.Errorf("%v at %v is %q, want %q", s, c.t, w.Label, want)
			}
			if got, err := s.Parse(want, nil); got != w || err != nil {
				t.Errorf("%v.Parse(%q) = %v, %v, want %v", s, want, got, err, w)
			}
		}
	}
	for _, zone := range []string{"Asia/Manila", "America/Juneau", "Pacific/Kiritimati"} { // the widest offsets
		for _, s := range window.Spans() {
			for _, now := range []time.Time{{}, time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)} {
				w := s.At(now, loadZone(t, zone))
				if got, err := s.Parse(w.Label, loadZone(t, zone)); got != w || err != nil {
					t.Errorf("%v.Parse(%q) in %s = %v, %v, want %v", s, w.Label, zone, got, err, w)
				}
			}
		}
	}
}

// What the package cannot answer for is a mistake of the program.
func TestAtPanics(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		span   window.Span
		offset int // hours ahead of UTC
		want   bool
	}{
		{0, 0, true},
		{8, 0, true},
		{window.Day, 26, true},
		{window.Hour, -25, true},
		{window.Day, 25, false},
		{window.Year, -24, false},
		{window.Ever, 26, false},
	} {
		zone := time.FixedZone("test", c.offset*60*60)
		got := func() (message any) {
			defer func() { message = recover() }()
			c.span.At(time.Unix(1795363500, 0), zone)
			return nil
		}()
		if (got != nil) != c.want {
			t.Errorf("%v at %d hours from UTC: panic %v, want one %v", c.span, c.offset, got, c.want)
		}
		if !c.want && c.span != window.Ever {
			if err := checkTile(at, c.span, time.Unix(1795363500, 0), zone); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		span  window.Span
		zone  string
		label string
		want  string // part of the error
	}{
		{window.Day, "UTC", "", `label "" of window day: want the form "2026-11-22"`},
		{window.Day, "UTC", "today", `want the form "2026-11-22"`},
		{window.Day, "UTC", "2026-11", `want the form "2026-11-22"`},
		{window.Day, "UTC", "2026-1-2", `want the form "2026-11-22"`},
		{window.Day, "UTC", "2026-02-29", `want the form "2026-11-22"`},
		{window.Day, "UTC", "0000-01-01", `nearest is "0001-01-02"`},
		{window.Day, "UTC", "12026-01-01", `want the form "2026-11-22"`},
		{window.Day, "Pacific/Apia", "2011-12-30", `label "2011-12-30" belongs to no day in zone Pacific/Apia: the nearest is "2011-12-31"`},
		{window.Day, "Pacific/Kwajalein", "1993-08-21", `the nearest is "1993-08-22"`},
		{window.Week, "UTC", "2026-11-22", `belongs to no week in zone UTC: the nearest is "2026-11-16"`},
		{window.Month, "UTC", "2026-11-22", `want the form "2026-11"`},
		{window.Month, "UTC", "2026-13", `want the form "2026-11"`},
		{window.Year, "UTC", "26", `want the form "2026"`},
		{window.Hour, "UTC", "2026-11-22T16:00:00", `want the form "2026-11-22T16:00:00Z"`},
		{window.Hour, "UTC", "2026-11-22T16:00:00+00:00", `want the form "2026-11-22T16:00:00Z"`},
		{window.Hour, "UTC", "2026-11-22T16:00:00.0Z", `want the form "2026-11-22T16:00:00Z"`},
		{window.Hour, "UTC", "2026-11-22T16:05:00Z", `the nearest is "2026-11-22T16:00:00Z"`},
		{window.Hour, "Asia/Kolkata", "2026-11-22T16:00:00Z", `the nearest is "2026-11-22T15:30:00Z"`},
		{window.Minute, "UTC", "2026-11-22T16:05:01Z", `the nearest is "2026-11-22T16:05:00Z"`},
		{window.Minute, "UTC", "2026-11-22", `want the form "2026-11-22T16:05:00Z"`},
		{window.Ever, "UTC", "2026", `want an empty one`},
		{0, "UTC", "2026", `span(0) is not a window`},
		{window.Day, "UTC", strings.Repeat("x", 1000), `label "` + strings.Repeat("x", 40) + `" of`},
	} {
		w, err := c.span.Parse(c.label, loadZone(t, c.zone))
		if err == nil || !strings.Contains(err.Error(), c.want) || w != (window.Window{}) {
			t.Errorf("%v.Parse(%q) in %s = %v, %v, want an error with %q", c.span, c.label, c.zone, w, err, c.want)
		}
	}
}

// What Parse accepts is what At gives.
func FuzzParse(f *testing.F) {
	for _, label := range []string{"", "2026", "2026-11", "2026-11-22", "2011-12-30", "2026-11-22T16:05:00Z", "0000-00-00", "9999-12-31T23:59:60Z"} {
		for _, zone := range []string{"", "Pacific/Apia", "Australia/Lord_Howe", "Asia/Kolkata"} {
			f.Add(uint8(window.Day), label, zone)
			f.Add(uint8(window.Hour), label, zone)
			f.Add(uint8(window.Month), label, zone)
		}
	}
	f.Fuzz(func(t *testing.T, span uint8, label, zoneName string) {
		zone, err := window.LoadZone(zoneName)
		if err != nil {
			t.Skip()
		}
		w, err := window.Span(span).Parse(label, zone)
		if err != nil {
			return
		}
		if w.Label != label || w.Span != window.Span(span) || w.Span.At(w.Start, zone) != w && w.Span != window.Ever {
			t.Errorf("%v.Parse(%q) in %v = %v", window.Span(span), label, zone, w)
		}
	})
}

func TestSpan(t *testing.T) {
	t.Parallel()
	want := []string{"minute", "hour", "day", "week", "month", "year", "ever"}
	var got []string
	for i, s := range window.Spans() {
		if !s.Valid() || int(s) != i+1 {
			t.Errorf("span %d is number %d, valid %v", i+1, s, s.Valid())
		}
		if back, err := window.ParseSpan(s.String()); back != s || err != nil {
			t.Errorf("ParseSpan(%q) = %v, %v", s, back, err)
		}
		got = append(got, s.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	for s, name := range map[window.Span]string{0: "span(0)", 8: "span(8)", 255: "span(255)"} {
		if s.Valid() || s.String() != name {
			t.Errorf("span %d is %q, valid %v", uint8(s), s, s.Valid())
		}
	}
}

func TestParseSpanErrors(t *testing.T) {
	t.Parallel()
	const list = "want one of minute, hour, day, week, month, year, ever"
	for name, hint := range map[string]string{
		"dya":                            "day",
		"Day":                            "day",
		"days":                           "day",
		"daily":                          "day",
		"weekly":                         "week",
		"monthly":                        "month",
		"mounth":                         "month",
		"annually":                       "",
		"forever":                        "",
		"":                               "",
		"x":                              "",
		"fortnight":                      "",
		"span(3)":                        "",
		strings.Repeat("day", 1_000_000): "",
	} {
		s, err := window.ParseSpan(name)
		if s != 0 || err == nil || !strings.Contains(err.Error(), list) {
			t.Errorf("ParseSpan(%.20q) = %v, %.200v, want an error with %q", name, s, err, list)
			continue
		}
		_, got, _ := strings.Cut(strings.TrimSuffix(err.Error(), "?"), "did you mean ")
		if got != "" != (hint != "") || got != "" && got != `"`+hint+`"` {
			t.Errorf("ParseSpan(%.20q) hints at %s, want %q", name, got, hint)
		}
		if len(err.Error()) > 200 {
			t.Errorf("ParseSpan of a long name has an error of %d bytes", len(err.Error()))
		}
	}
}

func TestLoadZone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "UTC"} {
		if zone, err := window.LoadZone(name); zone != time.UTC || err != nil {
			t.Errorf("LoadZone(%q) = %v, %v, want UTC", name, zone, err)
		}
	}
	first, second := loadZone(t, "America/Havana"), loadZone(t, "America/Havana")
	if first != second || first.String() != "America/Havana" {
		t.Errorf("LoadZone gave %p %v and %p %v for one name", first, first, second, second)
	}
	for _, name := range []string{"Local", "local", "Berlin", "Europe", "../etc/passwd", "/etc/localtime", "right/UTC", "posix/UTC", "UTC+1", "Europe/Berlin ", "a\x00b", strings.Repeat("x/", 1000)} {
		zone, err := window.LoadZone(name)
		if zone != nil || err == nil {
			t.Errorf("LoadZone(%.40q) = %v, want an error", name, zone)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "Europe/Berlin") || len(text) > 200 || len(name) < 40 && !strings.Contains(text, strconv.Quote(name)) {
			t.Errorf("LoadZone(%.40q): %v, want the name and an example", name, err)
		}
	}
}
