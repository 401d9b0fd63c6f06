package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/strictyaml"
	"github.com/quotad/quotad/internal/window"
)

// BucketsBytesMax is how large a buckets file may be.
const BucketsBytesMax = 8 << 20

// LoadBuckets reads a buckets file. What is wrong in it is an error of type strictyaml.Faults.
func LoadBuckets(path string) (map[string]quota.Settings, error) {
	src, err := readFile(path, BucketsBytesMax)
	if err != nil {
		return nil, fmt.Errorf("buckets file: %w", err)
	}
	return ParseBuckets(path, src)
}

// ParseBuckets reads the content of a buckets file; name is what errors call it. The settings have no Source: who applies them
// gives them one. The error is of type strictyaml.Faults, with all that is wrong.
func ParseBuckets(name string, src []byte) (map[string]quota.Settings, error) {
	if len(src) > BucketsBytesMax {
		return nil, strictyaml.Faults{{File: name, Text: "is too large: at most " + formatSize(BucketsBytesMax)}}
	}
	f, top := parseFile(name, src)
	if f.Err() == nil && len(top) == 0 {
		// An empty file is more likely a slip (a truncated write, a wrong path) than the wish to take every limit away.
		f.Fault(strictyaml.Place{}, `declares nothing; want "buckets:" and what each may use, or "buckets: {}" for none`)
	}
	buckets := make(map[string]quota.Settings)
	for _, e := range top {
		if e.Key != "buckets" {
			f.Fault(e.At, "unknown key %q%s", e.Key, orList(e.Key, []string{"buckets"}, strconv.Quote))
			continue
		}
		declared := f.Mapping(e.Value, "buckets")
		if len(declared) > quota.DeclaredMax {
			f.Fault(declared[quota.DeclaredMax].At, "this is the %dth bucket; at most %d may be declared: use a pattern such as acme/*", quota.DeclaredMax+1, quota.DeclaredMax)
			break
		}
		for _, b := range declared {
			buckets[b.Key] = f.bucket(b)
		}
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return buckets, nil
}

var bucketKeys = []string{"description", "zone", "limits", "on_expiry", "max_hold", "max_in_flight", "hold", "estimates", "thresholds"}

func (f file) bucket(b strictyaml.Entry) quota.Settings {
	var s quota.Settings
	if err := quota.CheckPattern(b.Key); err != nil {
		f.Fault(b.At, "bucket %v", err)
	}
	if b.Value.Kind == strictyaml.Null {
		f.Fault(b.At, "%s has no settings; want \"%s: {}\" if it is to be counted without a limit", b.Key, b.Key)
		return s
	}
	var estimates []strictyaml.Place // where each stands
	for _, e := range f.Mapping(b.Value, b.Key) {
		if e.Key == "limits" {
			s.Limits = f.limits(e)
			continue
		}
		if e.Key == "estimates" {
			s.Estimates, estimates = f.estimates(e)
			continue
		}
		if e.Key == "thresholds" {
			s.Thresholds = f.thresholds(e)
			continue
		}
		if !slices.Contains(bucketKeys, e.Key) {
			f.Fault(e.At, "unknown key %q%s", e.Key, orList(e.Key, bucketKeys, strconv.Quote))
			continue
		}
		text, ok := f.Scalar(e, e.Value)
		if !ok {
			continue
		}
		if err := setBucketKey(&s, e.Key, text); err != nil {
			f.Fault(e.Value.At, "%s: %v", e.Key, err)
		}
	}
	f.checkEstimates(s, estimates)
	return s
}

func setBucketKey(s *quota.Settings, key, text string) (err error) {
	switch key {
	case "zone":
		if text == "" {
			return fmt.Errorf("is empty; leave it out for the daemon's zone")
		}
		s.Zone = text
		_, err = window.LoadZone(text)
	case "description":
		s.Description = text
		if len(text) > quota.NoteBytesMax {
			return fmt.Errorf("has %d bytes; at most %d", len(text), quota.NoteBytesMax)
		}
	case "on_expiry":
		switch text {
		case "charge":
			s.OnExpiry = quota.ExpiryCharge
		case "release":
			s.OnExpiry = quota.ExpiryRelease
		default:
			return fmt.Errorf("%q is unknown; want charge or release", text)
		}
	case "max_hold":
		s.MaxHold, err = parseShare(text)
	case "max_in_flight":
		s.MaxInFlight, err = parseInFlight(text)
	case "hold":
		s.Hold, err = parseHold(text)
	}
	return err
}

func (f file) limits(e strictyaml.Entry) []quota.Limit {
	var limits []quota.Limit
items:
	for i, n := range f.List(e) {
		if i == quota.LimitsMax {
			f.Fault(n.At, "this is limit %d; a bucket may have at most %d", i+1, quota.LimitsMax)
			break
		}
		text, ok := f.Scalar(e, n)
		if !ok {
			continue
		}
		l, err := quota.ParseLimit(text)
		if err != nil {
			f.Fault(n.At, "%v", err)
			continue
		}
		for _, before := range limits {
			if err := quota.CheckLimits([]quota.Limit{before, l}); err != nil {
				f.Fault(n.At, "%v", err)
				continue items
			}
		}
		limits = append(limits, l)
	}
	return limits
}

// FormatBuckets returns a buckets file that declares the same, sorted by name. What it does not know of settings is their
// Source.
func FormatBuckets(buckets map[string]quota.Settings) []byte {
	var s strings.Builder
	s.WriteString("# What each bucket may use. quotad --buckets FILE keeps to it, and reads it again when it changes.\n")
	if len(buckets) == 0 {
		s.WriteString("buckets: {}\n")
		return []byte(s.String())
	}
	s.WriteString("buckets:\n")
	for _, name := range slices.Sorted(maps.Keys(buckets)) {
		b := buckets[name]
		fmt.Fprintf(&s, "  %s:", quoteYAML(name))
		if b.Equal(quota.Settings{}) {
			s.WriteString(" {} # counted only\n")
			continue
		}
		s.WriteByte('\n')
		if b.Description != "" {
			fmt.Fprintf(&s, "    description: %s\n", quoteYAML(b.Description))
		}
		if b.Zone != "" {
			fmt.Fprintf(&s, "    zone: %s\n", quoteYAML(b.Zone))
		}
		if len(b.Limits) > 0 {
			s.WriteString("    limits:\n")
		}
		for _, l := range b.Limits {
			fmt.Fprintf(&s, "      - %s\n", l)
		}
		formatReservations(&s, b)
		formatThresholds(&s, b.Thresholds)
	}
	return []byte(s.String())
}

// quoteYAML returns a scalar that every YAML reader takes for this text.
func quoteYAML(s string) string {
	if plainText(s) {
		return s
	}
	var q strings.Builder
	q.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			q.WriteByte('\\')
			q.WriteRune(r)
		case r == '\n':
			q.WriteString(`\n`)
		case r == '\t':
			q.WriteString(`\t`)
		case strconv.IsPrint(r):
			q.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&q, `\u%04x`, r)
		default:
			fmt.Fprintf(&q, `\U%08x`, r)
		}
	}
	q.WriteByte('"')
	return q.String()
}

// plainText tells whether a text needs no quotes: words of letters, digits and harmless marks, none of which some reader of
// YAML takes for a truth value, a null or a number.
func plainText(s string) bool {
	if s == "" || slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "y", "n"}, strings.ToLower(s)) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		later := '0' <= c && c <= '9' || strings.IndexByte("._/+-@", c) >= 0 || c == ' ' && i+1 < len(s)
		if !letter && (i == 0 && c != '/' || !later) {
			return false
		}
	}
	return true
}
