package auth

import (
	"fmt"
	"strings"

	"github.com/quotad/quotad/internal/quota"
)

// Pattern names buckets in a policy: a bucket's name, in which some segments may be *, each standing for any one segment, and the
// last may be **, standing for one or more. It is compared segment by segment, never byte by byte, so that acme/* has nothing of
// acme-evil or of acme itself. The zero value matches nothing.
type Pattern string

// Everything is the pattern that matches every bucket.
const Everything Pattern = "**"

// Check tells what is wrong with the pattern; nil if nothing is.
func (p Pattern) Check() error {
	name, open := strings.CutSuffix(string(p), "**")
	if !open {
		return quota.CheckPattern(string(p))
	}
	if name == "" {
		return nil
	}
	if !strings.HasSuffix(name, "/") {
		return fmt.Errorf("%q: ** stands for whole segments at the end, as in acme/**", string(p))
	}
	return quota.CheckPattern(name + "*")
}

// Matches tells whether the pattern matches a bucket.
func (p Pattern) Matches(b quota.Bucket) bool { return p.covers(string(b), false) }

// Covers tells whether the pattern matches every bucket that a declared name stands for: a bucket's name, or a pattern with * for
// whole segments.
func (p Pattern) Covers(declared string) bool { return p.covers(declared, true) }

// covers compares segment by segment. Where stars is set a * in name stands for any segment, and only a * or ** covers it.
func (p Pattern) covers(name string, stars bool) bool {
	if p == "" || name == "" {
		return false
	}
	rest, more := string(p), true
	for left := true; left; {
		if !more {
			return false // name goes on
		}
		var want, got string
		want, rest, more = strings.Cut(rest, "/")
		got, name, left = strings.Cut(name, "/")
		if !named(got, stars) {
			return false
		}
		if want == "**" && !more {
			return properSegments(name, left, stars)
		}
		if want != "*" && want != got {
			return false
		}
	}
	return !more
}

// properSegments tells whether what is left of a name has no segment that no name has.
func properSegments(name string, left, stars bool) bool {
	for left {
		var got string
		if got, name, left = strings.Cut(name, "/"); !named(got, stars) {
			return false
		}
	}
	return true
}

// named tells whether a segment may be one of a name. Names are checked before anybody asks what matches them; this is so that what
// was not checked is not matched by a * either.
func named(segment string, stars bool) bool {
	switch segment {
	case "", ".", "..":
		return false
	case "*":
		return stars
	}
	return strings.IndexByte(segment, '*') < 0
}
