package window_test

import (
	"archive/zip"
	"fmt"
	"go/build"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/window"
)

// atFunc is what the checkers check: window.Span.At, or a broken variant of it.
type atFunc func(s window.Span, t time.Time, zone *time.Location) window.Window

func at(s window.Span, t time.Time, zone *time.Location) window.Window { return s.At(t, zone) }

// checkTile returns what is wrong with the window that t gets, and with where it
// meets its neighbours, or nil.
func checkTile(at atFunc, s window.Span, t time.Time, zone *time.Location) error {
	w := at(s, t, zone)
	fail := func(what string, other any) error {
		return fmt.Errorf("%v of %v in %v is [%v, %v) %q: %s %v", s, t.In(zone), zone, w.Start, w.End, w.Label, what, other)
	}
	if w.Span != s || !w.Contains(t) {
		return fail("does not contain it, span", w.Span)
	}
	if s == window.Ever {
		if w != (window.Window{Span: window.Ever}) {
			return fail("want no label and no bounds, got", w)
		}
		return nil
	}
	if t.Before(w.Start) || !w.End.After(t) {
		return fail("does not end after it, or starts later than", t.In(zone))
	}
	for _, inside := range []time.Time{w.Start, w.End.Add(-1)} {
		if got := at(s, inside, zone); got != w {
			return fail(fmt.Sprintf("but %v, inside, gets", inside), got)
		}
	}
	if next := at(s, w.End, zone); !next.Start.Equal(w.End) || next.Label <= w.Label {
		return fail("the next is", next)
	}
	if before := at(s, w.Start.Add(-1), zone); !before.End.Equal(w.Start) || before.Label >= w.Label {
		return fail("the one before is", before)
	}
	if got, err := s.Parse(w.Label, zone); err != nil || got != w {
		return fail("its label reads as", fmt.Sprint(got, err))
	}
	return nil
}

// zoneNames returns the names of the time zone database: the list that is kept
// with the test, and what the Go installation has besides, if it can be found.
func zoneNames(tb testing.TB) []string {
	tb.Helper()
	list, err := os.ReadFile("testdata/zones.txt")
	if err != nil {
		tb.Fatal(err)
	}
	names := strings.Fields(string(list))
	if archive, err := zip.OpenReader(filepath.Join(build.Default.GOROOT, "lib", "time", "zoneinfo.zip")); err == nil {
		for _, f := range archive.File {
			if !strings.HasSuffix(f.Name, "/") {
				names = append(names, f.Name)
			}
		}
		if err := archive.Close(); err != nil {
			tb.Error(err)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func loadZone(tb testing.TB, name string) *time.Location {
	tb.Helper()
	zone, err := window.LoadZone(name)
	if err != nil {
		tb.Fatal(err)
	}
	return zone
}

// instants draws from the years that matter, and at times from all that exist.
func instants() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		from, to := time.Date(1850, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)
		if rapid.IntRange(0, 9).Draw(t, "anyYear") == 9 {
			from, to = time.Date(3, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9998, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		return time.Unix(rapid.Int64Range(from.Unix(), to.Unix()).Draw(t, "sec"), rapid.Int64Range(0, 999_999_999).Draw(t, "nsec"))
	})
}

// Windows tile the time line, in every zone.
func TestWindowsTile(t *testing.T) {
	t.Parallel()
	names := zoneNames(t)
	rapid.Check(t, func(t *rapid.T) {
		zone, err := window.LoadZone(rapid.SampledFrom(names).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		for _, now := range rapid.SliceOfN(instants(), 1, 20).Draw(t, "t") {
			for _, s := range window.Spans() {
				if err := checkTile(at, s, now, zone); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// So they do at instants spread over each zone of the database.
func TestWindowsTileInEachZone(t *testing.T) {
	t.Parallel()
	const perSpan = 8
	// A prime number of seconds, so that the instants fall on all times of day.
	const stride = 15_485_863
	names := zoneNames(t)
	if len(names) < 590 {
		t.Fatalf("%d zones, want the whole database", len(names))
	}
	next := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	for _, name := range names {
		zone := loadZone(t, name)
		for _, s := range window.Spans() {
			for range perSpan {
				if err := checkTile(at, s, time.Unix(next, 0), zone); err != nil {
					t.Error(err)
				}
				if next += stride; next > 4_000_000_000 { // 2096
					next -= 4_000_000_000
				}
			}
		}
	}
}

// difficult are zones whose clocks changed at or around midnight, by half an
// hour or by a day, in Ramadan, twice a year by two hours, or are a quarter off.
var difficult = []string{
	"Africa/Cairo", "Africa/Casablanca", "America/Asuncion", "America/Goose_Bay", "America/Godthab", "America/Havana",
	"America/Santiago", "America/Sao_Paulo", "America/Scoresbysund", "America/St_Johns", "Antarctica/Casey",
	"Antarctica/Troll", "Asia/Amman", "Asia/Beirut", "Asia/Damascus", "Asia/Gaza", "Asia/Kathmandu", "Asia/Kolkata",
	"Asia/Manila", "Asia/Tehran", "Atlantic/Azores", "Australia/Lord_Howe", "Europe/Berlin", "Europe/Lisbon",
	"Pacific/Apia", "Pacific/Chatham", "Pacific/Kwajalein",
}

// changes returns the instants from year to year at which the offset of zone
// changes, found by looking every twelve hours.
func changes(zone *time.Location, fromYear, toYear int) []int64 {
	offset := func(sec int64) int {
		_, seconds := time.Unix(sec, 0).In(zone).Zone()
		return seconds
	}
	const step = 12 * 60 * 60
	var found []int64
	end := time.Date(toYear, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	for sec := time.Date(fromYear, 1, 1, 0, 0, 0, 0, time.UTC).Unix(); sec < end; sec += step {
		if offset(sec) == offset(sec+step) {
			continue
		}
		same, other := sec, sec+step
		for other-same > 1 {
			if middle := (same + other) / 2; offset(middle) == offset(sec) {
				same = middle
			} else {
				other = middle
			}
		}
		found = append(found, other)
	}
	return found
}

// checkGaps checks what the search for changes of offset relies on: that no two
// are so near that it could miss both.
func checkGaps(tb testing.TB, changes []int64, zone *time.Location) {
	tb.Helper()
	const least = 3 * 24 * 60 * 60
	for i := 1; i < len(changes); i++ {
		if gap := changes[i] - changes[i-1]; gap < least {
			tb.Errorf("clocks in %v change twice within %d seconds, at Unix second %d", zone, gap, changes[i])
		}
	}
}

// checkChange checks the windows of every span around one change of clocks.
func checkChange(at atFunc, change int64, zone *time.Location) error {
	for _, s := range window.Spans() {
		for _, seconds := range []int64{-86400, -7200, -3600, -1800, -60, -1, 0, 1, 59, 1800, 3600, 7200, 86400} {
			if err := checkTile(at, s, time.Unix(change+seconds, 0), zone); err != nil {
				return err
			}
		}
	}
	return nil
}

// Windows tile around every change of clocks of the difficult zones.
func TestWindowsTileAroundChanges(t *testing.T) {
	t.Parallel()
	total := 0
	for _, name := range difficult {
		zone := loadZone(t, name)
		found := changes(zone, 1960, 2040)
		total += len(found)
		checkGaps(t, found, zone)
		for _, change := range found {
			if err := checkChange(at, change, zone); err != nil {
				t.Error(err)
			}
		}
	}
	if total < 1500 {
		t.Errorf("only %d changes of clocks found", total)
	}
}

// naive is the mistake that everybody makes first: a day starts at the midnight
// that time.Date gives.
func naive(s window.Span, t time.Time, zone *time.Location) window.Window {
	if s != window.Day {
		return s.At(t, zone)
	}
	year, month, day := t.In(zone).Date()
	start := time.Date(year, month, day, 0, 0, 0, 0, zone)
	return window.Window{Span: s, Label: start.Format(time.DateOnly), Start: start, End: time.Date(year, month, day+1, 0, 0, 0, 0, zone)}
}

// unclipped is another: an hour is 3,600 seconds.
func unclipped(s window.Span, t time.Time, zone *time.Location) window.Window {
	w := s.At(t, zone)
	if s == window.Hour {
		w.End = w.Start.Add(time.Hour)
	}
	return w
}

// The checker can fail: it finds both mistakes where they matter, and has
// nothing to say where they do not.
func TestCheckerFindsMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		at    atFunc
		zone  string
		found bool
	}{
		{"naive", naive, "America/Havana", true},
		{"naive", naive, "America/Sao_Paulo", true},
		{"naive", naive, "America/St_Johns", true},
		{"naive", naive, "America/Asuncion", true},
		{"naive", naive, "Atlantic/Azores", true},
		{"naive", naive, "Pacific/Apia", true},
		{"naive", naive, "Europe/Berlin", false},
		{"unclipped", unclipped, "Australia/Lord_Howe", true},
		{"unclipped", unclipped, "Europe/Berlin", false},
	} {
		zone := loadZone(t, c.zone)
		var err error
		for _, change := range changes(zone, 1985, 2026) {
			if err = checkChange(c.at, change, zone); err != nil {
				break
			}
		}
		if found := err != nil; found != c.found {
			t.Errorf("%s in %s: found %v, want %v: %v", c.name, c.zone, found, c.found, err)
		}
	}
}
