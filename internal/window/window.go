// Package window answers which counting window an instant falls in, and when
// that window ends.
//
// The windows of a span tile the time line in every zone: each instant is in
// exactly one of them, also where clocks change at midnight, where a date is
// skipped, and where clocks are set back to the date before. Two rules do it:
//
//   - A day starts at the first instant at which clocks in the zone show its
//     date or a later one. When clocks are then set back across midnight, the
//     repeated time still belongs to the day that had begun. A week, month or
//     year starts with the day that is its first.
//   - An hour is the longest run of instants with one civil hour and one offset
//     from UTC; a minute likewise. An hour that clocks repeat is two windows,
//     and one that a change of clocks cuts short is a short window.
//
// Bounds are whole seconds. Offsets come from the time zone database, of which
// the program carries a copy for machines that have none.
package window

import (
	"fmt"
	"time"
	_ "time/tzdata" // a container made from scratch has no zones of its own
)

// Window is one window of a span. The zero value contains no instant.
type Window struct {
	// Span is the kind of window.
	Span Span
	// Label is what the window's counts are filed under. It is unique within
	// its span and zone, and labels of a span sort as the windows do in time.
	// Day: its date, "2026-11-22". Week: the date of its Monday. Month:
	// "2026-11". Year: "2026". Minute and hour: Start in UTC,
	// "2026-11-22T16:05:00Z". Ever: "".
	Label string
	// Start is the first instant of the window, in its zone; zero for Ever.
	Start time.Time
	// End is the first instant after the window, in its zone; zero for Ever.
	End time.Time
}

// Contains reports whether t is in the window. Ever contains every instant.
func (w Window) Contains(t time.Time) bool {
	if w.Span == Ever {
		return true
	}
	return !t.Before(w.Start) && t.Before(w.End)
}

// The instants that At tells apart, in Unix seconds. Inside of them every label
// has a year of four digits, whatever the zone, and so labels sort.
const (
	firstSecond = -62135510400 // 0001-01-02T00:00:00Z
	lastSecond  = 253402214399 // 9999-12-30T23:59:59Z
)

// At returns the window of span s that t falls in, where clocks are those of
// zone; nil is UTC. It always ends after t.
//
// The calendar reaches from 0001-01-02 to 9999-12-30 in UTC. An instant before
// or after it is answered as the first or last one inside, so that every label
// has four digits for the year; it is not in the window it gets.
//
// At panics if s is not a span, or if zone is not of this world: 25 hours or
// more behind UTC, or 26 ahead, where no zone of the database has ever been.
func (s Span) At(t time.Time, zone *time.Location) Window {
	if zone == nil {
		zone = time.UTC
	}
	sec := min(max(t.Unix(), firstSecond), lastSecond)
	switch s {
	case Minute:
		return clockWindow(s, sec, 60, zone)
	case Hour:
		return clockWindow(s, sec, 60*60, zone)
	case Day, Week, Month, Year:
		return s.of(dateAt(sec, zone), zone)
	case Ever:
		return Window{Span: Ever}
	default:
		panic(fmt.Sprintf("window: At of %v, which is not a window", s))
	}
}

// layout returns the form of the labels of s, as the time package writes it.
func (s Span) layout() string {
	switch s {
	case Minute, Hour:
		return "2006-01-02T15:04:05Z"
	case Day, Week:
		return time.DateOnly
	case Month:
		return "2006-01"
	case Year:
		return "2006"
	case Ever:
		return ""
	default:
		panic(fmt.Sprintf("window: no labels for %v, which is not a window", s))
	}
}

// Parse returns the window of span s with that label in zone; nil is UTC. It is
// the inverse of At: it accepts the labels that At gives and no others. The
// error says what the right form is, and for a label that belongs to no window,
// such as a date that the zone skipped, which window there is instead.
func (s Span) Parse(label string, zone *time.Location) (Window, error) {
	if !s.Valid() {
		return Window{}, fmt.Errorf("parsing the label %.40q: %v is not a window", label, s)
	}
	if s == Ever {
		if label != "" {
			return Window{}, fmt.Errorf("label %.40q of window ever: want an empty one, there is only one such window", label)
		}
		return Window{Span: Ever}, nil
	}
	if zone == nil {
		zone = time.UTC
	}
	// The time package reads fractions of a second that the layout lacks, so
	// that the form is checked by writing the label again.
	first, err := time.Parse(s.layout(), label)
	if err != nil || first.Format(s.layout()) != label {
		return Window{}, fmt.Errorf("label %.40q of window %v: want the form %q", label, s, exampleOf(s))
	}
	start := first.Unix()
	if s >= Day {
		start = dayStart(start, zone)
	}
	w := s.At(time.Unix(start, 0), zone)
	if w.Label != label {
		return Window{}, fmt.Errorf("label %q belongs to no %v in zone %v: the nearest is %q", label, s, zone, w.Label)
	}
	return w, nil
}

// exampleOf returns a label of s to show in an error.
func exampleOf(s Span) string {
	return s.At(time.Unix(1795363500, 0), time.UTC).Label // 2026-11-22T16:05:00Z
}
