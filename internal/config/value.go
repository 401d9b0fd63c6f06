package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a duration as time.ParseDuration does, with weeks and days in front: "400d", "2w", "1d12h". Nothing is
// negative.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration; want one such as 90s, 10m, 36h, 400d or 2w", s)
	var total time.Duration
	rest := s
	for _, unit := range []struct {
		letter string
		length time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		number, after, found := strings.Cut(rest, unit.letter)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil || number[0] == '+' || number[0] == '-' {
			return 0, bad
		}
		if n > int64((math.MaxInt64-total)/unit.length) {
			return 0, fmt.Errorf("%q is too long; want at most 200 years", s)
		}
		total += time.Duration(n) * unit.length
		rest = after
	}
	if rest == "" && s != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || strings.ContainsAny(rest, "+-") {
		return 0, bad
	}
	if d > math.MaxInt64-total {
		return 0, fmt.Errorf("%q is too long; want at most 200 years", s)
	}
	return total + d, nil
}

// FormatDuration returns a duration as ParseDuration reads it, in days where it is a whole number of them.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// parseSize reads a number of bytes, such as "4GiB" or "1073741824".
func parseSize(s string) (int64, error) {
	number := strings.TrimRight(s, "KMGTiB")
	shift := 0
	switch unit := strings.TrimSpace(s[len(number):]); unit {
	case "", "B":
	case "KiB":
		shift = 10
	case "MiB":
		shift = 20
	case "GiB":
		shift = 30
	case "TiB":
		shift = 40
	default:
		return 0, fmt.Errorf("%q is not a size; want bytes, or a number of KiB, MiB, GiB or TiB, such as 4GiB", s)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 63)
	if errors.Is(err, strconv.ErrRange) || err == nil && n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is too large; want at most %d bytes", s, int64(math.MaxInt64))
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a size; want a whole number of bytes, KiB, MiB, GiB or TiB, such as 4GiB", s)
	}
	return int64(n) << shift, nil
}

// formatSize returns a number of bytes as parseSize reads it.
func formatSize(n int64) string {
	for _, unit := range []struct {
		name  string
		shift int
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		if n > 0 && n%(1<<unit.shift) == 0 {
			return fmt.Sprintf("%d%s", n>>unit.shift, unit.name)
		}
	}
	return strconv.FormatInt(n, 10)
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither; want true or false", s)
}
