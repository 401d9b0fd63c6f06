package main

import (
	"fmt"
	"strings"
	"time"
)

// span writes a length of time in its two largest units, rounded up so that nothing resets before it is said to.
func span(d time.Duration) string {
	up := func(unit time.Duration) int64 { return int64((d + unit - 1) / unit) }
	switch {
	case d <= 0:
		return "0s"
	case up(time.Second) < 60:
		return fmt.Sprintf("%ds", up(time.Second))
	case up(time.Second) < 60*60:
		return pair(up(time.Second), 60, "m", "s")
	case up(time.Minute) < 24*60:
		return pair(up(time.Minute), 60, "h", "m")
	}
	return pair(up(time.Hour), 24, "d", "h")
}

// pair writes n small units, of which a large one has so many.
func pair(n, many int64, large, small string) string {
	if n%many == 0 {
		return fmt.Sprintf("%d%s", n/many, large)
	}
	return fmt.Sprintf("%d%s%d%s", n/many, large, n%many, small)
}

// stamp writes an instant in UTC, to the second.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// sizeOf writes a size for people.
func sizeOf(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// count writes a number of things, as in "1 bucket" and "2 buckets".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// orDash stands in for an empty cell, so that columns can be told apart by blanks.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

const barWidth = 20

// bar draws used and held of most in width cells: used solid, to an eighth of a cell, and held shaded. Only a count that has
// reached the limit fills the bar, and one that is not zero never looks empty.
func bar(used, held, most int64, width int) string {
	solid := eighths(used, most, width)
	all := max(solid, eighths(min(used, most)+held, most, width))
	var s strings.Builder
	for cell := range width {
		switch left := solid - 8*cell; {
		case left >= 8:
			s.WriteRune('█')
		case left > 0:
			s.WriteRune([]rune("▏▎▍▌▋▊▉")[left-1])
		case all > 8*cell:
			s.WriteRune('▒')
		default:
			s.WriteRune('·')
		}
	}
	return s.String()
}

// eighths returns how many eighths of cells n of most fills.
func eighths(n, most int64, width int) int {
	switch {
	case n <= 0:
		return 0
	case n >= most:
		return 8 * width
	}
	share := float64(n) / float64(most)
	return min(max(1, int(share*float64(8*width))), 8*width-1)
}

// percent writes n of most; 100% is reached only by reaching it.
func percent(n, most int64) string {
	switch {
	case most == 0:
		return "-"
	case n < most:
		return fmt.Sprintf("%d%%", min(99, int64(float64(n)/float64(most)*100)))
	}
	return fmt.Sprintf("%.0f%%", float64(n)/float64(most)*100)
}
