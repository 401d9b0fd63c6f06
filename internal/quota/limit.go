package quota

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/quotad/quotad/internal/window"
)

// Cap is an upper bound that may be absent. The zero value is no bound.
type Cap struct {
	Max int64 // the bound, itself included; 0 or more
	Set bool  // whether there is a bound at all
}

// AtMost returns the bound n.
func AtMost(n int64) Cap { return Cap{Max: n, Set: true} }

// Lower returns the stricter of two bounds.
func (c Cap) Lower(d Cap) Cap {
	if !c.Set || d.Set && d.Max < c.Max {
		return d
	}
	return c
}

// Limit is the most of a unit that a bucket may use in a window.
type Limit struct {
	Unit Unit
	Span window.Span
	Max  int64 // 0 to CountMax; 0 refuses everything
}

// String returns the limit as ParseLimit reads it, such as "50 calls/day".
func (l Limit) String() string { return fmt.Sprintf("%d %s/%s", l.Max, l.Unit, l.Span) }

// Check tells what is wrong with the limit; nil if nothing is.
func (l Limit) Check() error {
	if err := l.Unit.Check(); err != nil {
		return fmt.Errorf("unit %w", err)
	}
	if !l.Span.Valid() {
		return fmt.Errorf("window: none is given; want one of minute, hour, day, week, month, year, ever")
	}
	if l.Max < 0 || l.Max > CountMax {
		return fmt.Errorf("max %d is out of range; want 0 to %d", l.Max, CountMax)
	}
	return nil
}

// ParseLimit reads a limit such as "50 calls/day". The unit may be left out for calls and the window for the day: "50" and
// "50/hour" are limits too. The number may have "_" between digits.
func ParseLimit(s string) (Limit, error) {
	const right = `; want a number, a unit and a window, such as "50 calls/day" or "2_000_000 tokens/month"`
	amount, per, hasWindow := strings.Cut(s, "/")
	number, unit, _ := strings.Cut(strings.TrimSpace(amount), " ")
	l := Limit{Unit: Unit(strings.TrimSpace(unit)), Span: window.Day}
	var err error
	if l.Max, err = ParseNumber(number, CountMax); err != nil {
		return Limit{}, fmt.Errorf("limit %q: %w%s", s, err, right)
	}
	if l.Unit == "" {
		l.Unit = Calls
	}
	if hasWindow {
		if l.Span, err = window.ParseSpan(strings.TrimSpace(per)); err != nil {
			return Limit{}, fmt.Errorf("limit %q: %w", s, err)
		}
	}
	if err := l.Check(); err != nil {
		return Limit{}, fmt.Errorf("limit %q: %w", s, err)
	}
	return l, nil
}

// ParseLimits reads limits parted by commas; "off" and the empty string are none.
func ParseLimits(s string) ([]Limit, error) {
	if s = strings.TrimSpace(s); s == "" || s == "off" {
		return nil, nil
	}
	var limits []Limit
	for part := range strings.SplitSeq(s, ",") {
		l, err := ParseLimit(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		limits = append(limits, l)
	}
	return limits, CheckLimits(limits)
}

// CheckLimits tells what is wrong with the limits of one bucket: one of them, too many, a unit and window named twice, or one
// that can never apply, as a lower one of a longer window refuses before it.
func CheckLimits(limits []Limit) error {
	if len(limits) > LimitsMax {
		return fmt.Errorf("%d limits; at most %d", len(limits), LimitsMax)
	}
	for i, l := range limits {
		if err := l.Check(); err != nil {
			return fmt.Errorf("limit %d: %w", i+1, err)
		}
		for _, other := range limits[:i] {
			if other.Unit == l.Unit && other.Span == l.Span {
				return fmt.Errorf("%s/%s is limited twice: %d and %d; keep one", l.Unit, l.Span, other.Max, l.Max)
			}
			for _, pair := range [2][2]Limit{{l, other}, {other, l}} {
				if idle, longer := pair[0], pair[1]; idle.idleBeside(longer) {
					return fmt.Errorf("%s can never apply beside %s; lower it or take it away", idle, longer)
				}
			}
		}
	}
	return nil
}

// idleBeside tells whether a limit can never refuse anything that one of a longer window does not refuse too.
func (l Limit) idleBeside(longer Limit) bool {
	return l.Unit == longer.Unit && l.Max > longer.Max && within(l.Span, longer.Span)
}

// within tells whether every window of one span lies in one window of another, longer one. A week may lie in two months and in
// two years.
func within(short, long window.Span) bool {
	if short == window.Week {
		return long == window.Ever
	}
	return short < long
}

// FormatLimits returns limits as ParseLimits reads them; "off" for none.
func FormatLimits(limits []Limit) string {
	if len(limits) == 0 {
		return "off"
	}
	parts := make([]string, len(limits))
	for i, l := range limits {
		parts[i] = l.String()
	}
	return strings.Join(parts, ", ")
}

// ParseNumber reads a whole number, which may have "_" between digits. Whether it is in range is for the caller to tell; most is
// what the error names where a number is too large even to be read.
func ParseNumber(s string, most int64) (int64, error) {
	digits := strings.ReplaceAll(s, "_", "")
	if digits == "" || strings.HasPrefix(s, "+") || strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") || strings.Contains(s, "__") {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil && n == math.MaxInt64 {
		return 0, fmt.Errorf("%s is too large, at most %d", s, most)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return n, nil
}
