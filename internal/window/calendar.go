package window

import (
	"fmt"
	"time"
)

const (
	daySeconds = 24 * 60 * 60

	// Offsets from UTC lie strictly between these, in seconds. RFC 9636 sets
	// them; the widest in the database are 15:13 ahead and 15:56 behind.
	minOffset = -25 * 60 * 60
	maxOffset = 26 * 60 * 60

	// Offsets are compared at instants this many seconds apart, at most. Two
	// changes within it that cancel each other would go unseen: in the database
	// no two changes of a zone are less than three days apart.
	probeSeconds = daySeconds

	// No search sees more runs of one offset than this in its two days.
	maxRuns = 64
)

// offsetAt returns how many seconds clocks in zone are ahead of UTC.
// Time.ZoneBounds, which would also say until when, errs on the last day of
// leap years in Go 1.26, so that changes of offset are searched for instead.
func offsetAt(sec int64, zone *time.Location) int64 {
	_, offset := time.Unix(sec, 0).In(zone).Zone()
	if offset <= minOffset || offset >= maxOffset {
		panic(fmt.Sprintf("window: zone %v is %d seconds from UTC at Unix second %d", zone, offset, sec))
	}
	return int64(offset)
}

// changeBetween returns an instant in (from, to] at which the offset of zone
// changes from or to the one at from. The offsets at from and to must differ.
func changeBetween(from, to int64, zone *time.Location) int64 {
	offset := offsetAt(from, zone)
	for range 64 { // halves a distance that fits 64 bits
		if to-from <= 1 {
			return to
		}
		middle := from + (to-from)/2
		if offsetAt(middle, zone) == offset {
			from = middle
		} else {
			to = middle
		}
	}
	panic(fmt.Sprintf("window: no change of offset found in zone %v before Unix second %d", zone, to))
}

// runEnd returns the first instant after from at which the offset of zone is
// another, or end if it stays the same until then. from must be before end.
func runEnd(from, end int64, zone *time.Location) int64 {
	offset := offsetAt(from, zone)
	for range maxRuns {
		if from >= end {
			return end
		}
		to := min(from+probeSeconds, end)
		if offsetAt(to, zone) != offset {
			return changeBetween(from, to, zone)
		}
		from = to
	}
	panic(fmt.Sprintf("window: looking for a change of offset in zone %v too far, at Unix second %d", zone, from))
}

// dayStart returns the first instant at which clocks in zone show the given
// midnight or something later. midnight is what clocks show, in seconds as if
// they stood on UTC. It is not always the instant that time.Date gives, nor one
// at which clocks show midnight: they may skip it, or show it twice.
func dayStart(midnight int64, zone *time.Location) int64 {
	from := midnight - maxOffset // clocks of no zone are there yet
	for range maxRuns {
		// If this offset stays, clocks show midnight at reached; if they jump
		// past it, it is reached at once.
		reached := max(from, midnight-offsetAt(from, zone))
		end := runEnd(from, reached+1, zone)
		if end > reached {
			return reached
		}
		from = end
	}
	panic(fmt.Sprintf("window: zone %v never shows %v", zone, time.Unix(midnight, 0).UTC()))
}

// dateAt returns the date whose day sec falls in, as its midnight in UTC.
func dateAt(sec int64, zone *time.Location) time.Time {
	shown := sec + offsetAt(sec, zone)
	date := time.Unix(shown, 0).UTC()
	midnight := time.Date(date.Year(), date.Month(), date.Day(), 0, 0, 0, 0, time.UTC)
	// That day has begun, because clocks show it. A later one has begun too if
	// clocks have shown it before and were then set back.
	for range 4 {
		next := midnight.AddDate(0, 0, 1)
		if sec < dayStart(next.Unix(), zone) {
			return midnight
		}
		midnight = next
	}
	panic(fmt.Sprintf("window: Unix second %d is in no day of zone %v", sec, zone))
}

// of returns the window of the calendar span s that holds the given date, which
// is a midnight in UTC.
func (s Span) of(date time.Time, zone *time.Location) Window {
	var first, next time.Time // dates, as midnights in UTC
	switch s {
	case Day:
		first = date
		next = first.AddDate(0, 0, 1)
	case Week:
		sinceMonday := (int(date.Weekday()) + 6) % 7
		first = date.AddDate(0, 0, -sinceMonday)
		next = first.AddDate(0, 0, 7)
	case Month:
		first = date.AddDate(0, 0, 1-date.Day())
		next = first.AddDate(0, 1, 0)
	case Year:
		first = date.AddDate(0, 0, 1-date.YearDay())
		next = first.AddDate(1, 0, 0)
	case Minute, Hour, Ever:
		fallthrough
	default:
		panic(fmt.Sprintf("window: %v does not consist of days", s))
	}
	return Window{
		Span:  s,
		Label: first.Format(s.layout()),
		Start: time.Unix(dayStart(first.Unix(), zone), 0).In(zone),
		End:   time.Unix(dayStart(next.Unix(), zone), 0).In(zone),
	}
}

// clockWindow returns the window of the given length, an hour or a minute in
// seconds, that sec falls in. Changes of offset cut it short.
func clockWindow(s Span, sec, length int64, zone *time.Location) Window {
	offset := offsetAt(sec, zone)
	into := (sec + offset) % length
	if into < 0 { // before 1970
		into += length
	}
	start, end := sec-into, sec-into+length
	if offsetAt(start, zone) != offset {
		start = changeBetween(start, sec, zone)
	}
	if offsetAt(end-1, zone) != offset {
		end = changeBetween(sec, end-1, zone)
	}
	from := time.Unix(start, 0)
	return Window{
		Span:  s,
		Label: from.UTC().Format(s.layout()),
		Start: from.In(zone),
		End:   time.Unix(end, 0).In(zone),
	}
}
