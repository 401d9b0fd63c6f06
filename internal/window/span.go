package window

import (
	"fmt"
	"strings"
)

// Span is the kind of window: how long a count goes on before it starts anew.
// The zero value is not a span. The numbers are stored in files and equal those
// of the wire contract, so they never change.
type Span uint8

// The spans, shortest first. Their bounds follow the clocks of a zone.
const (
	Minute Span = 1 // one civil minute
	Hour   Span = 2 // one civil hour
	Day    Span = 3 // one date
	Week   Span = 4 // an ISO week: Monday to Sunday
	Month  Span = 5 // one month of the calendar
	Year   Span = 6 // one year of the calendar
	Ever   Span = 7 // all of time: a count that never resets
)

// names are the text forms, indexed by span. The zero value has none.
var names = [...]string{Minute: "minute", Hour: "hour", Day: "day", Week: "week", Month: "month", Year: "year", Ever: "ever"}

// Spans returns every span, shortest first. The slice is the caller's own.
func Spans() []Span {
	return []Span{Minute, Hour, Day, Week, Month, Year, Ever}
}

// Valid reports whether s is one of the spans; the zero value is not.
func (s Span) Valid() bool {
	return s >= Minute && s <= Ever
}

// String returns the name that ParseSpan reads, such as "day", or "span(9)" for
// a number that is no span.
func (s Span) String() string {
	if !s.Valid() {
		return fmt.Sprintf("span(%d)", uint8(s))
	}
	return names[s]
}

// ParseSpan returns the span with that name. Names are lower case. The error
// lists the names, and hints at the nearest one if there is one near.
func ParseSpan(name string) (Span, error) {
	for _, s := range Spans() {
		if name == names[s] {
			return s, nil
		}
	}
	err := fmt.Errorf("unknown window %.40q: want one of %s", name, strings.Join(names[Minute:], ", "))
	if near := nearest(name); near != "" {
		err = fmt.Errorf("%w; did you mean %q?", err, near)
	}
	return 0, err
}

// nearest returns the span name that is fewest edits away from name, or "" if
// the best one is a different word rather than a slip or an inflection.
func nearest(name string) string {
	const (
		maxEdits = 2  // reaches "daily", "weekly" and "mounth"
		maxLen   = 16 // no longer name is that near, and the cost stays small
	)
	if len(name) > maxLen {
		return ""
	}
	best, bestEdits := "", maxEdits+1
	for _, s := range Spans() {
		candidate := names[s]
		// Rewriting most of a short word would not be a hint.
		if edits := distance(strings.ToLower(name), candidate); edits < bestEdits && 2*edits <= len(candidate)+1 {
			best, bestEdits = candidate, edits
		}
	}
	return best
}

// distance counts the bytes to insert, delete or replace to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // row[j]: from the part of a read so far to b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
