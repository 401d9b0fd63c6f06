package quota

import (
	"fmt"
	"strings"
)

// Bucket names something that is counted: a path such as "portfolio/bedrock", of 1 to 8 segments of [A-Za-z0-9._:@=+-], 1 to
// 200 bytes, case-sensitive. The zero value is not a name.
type Bucket string

// Parent returns the bucket above b, or "" for one at the top.
func (b Bucket) Parent() Bucket {
	i := strings.LastIndexByte(string(b), '/')
	if i < 0 {
		return ""
	}
	return b[:i]
}

// Within tells whether b is prefix or lies below it. Every bucket is within "".
func (b Bucket) Within(prefix Bucket) bool {
	if !strings.HasPrefix(string(b), string(prefix)) {
		return false
	}
	return len(b) == len(prefix) || prefix == "" || b[len(prefix)] == '/'
}

// Check tells what is wrong with the name of a bucket; nil if nothing is.
func (b Bucket) Check() error { return checkName(string(b), false) }

// CheckPattern tells what is wrong with the name of a declaration: a bucket's name, or a pattern in which some segments are
// "*", each standing for any one segment.
func CheckPattern(name string) error { return checkName(name, true) }

// IsPattern tells whether the name of a declaration is a pattern.
func IsPattern(name string) bool { return strings.Contains(name, "*") }

func checkName(name string, pattern bool) error {
	const right = "; a name is 1 to 200 bytes, up to 8 segments of letters, digits and ._:@=+- parted by /, such as acme/alice"
	if name == "" {
		return fmt.Errorf("is empty%s", right)
	}
	if len(name) > NameBytesMax {
		return fmt.Errorf("has %d bytes%s", len(name), right)
	}
	segments := 0
	for rest, more := name, true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		segments++
		if err := checkSegment(segment, pattern); err != nil {
			return fmt.Errorf("%q: %w%s", name, err, right)
		}
	}
	if segments > SegmentsMax {
		return fmt.Errorf("%q has %d segments%s", name, segments, right)
	}
	return nil
}

func checkSegment(segment string, pattern bool) error {
	switch {
	case segment == "":
		return fmt.Errorf("an empty segment")
	case segment == "." || segment == "..":
		return fmt.Errorf("a segment %q", segment)
	case segment == "*" && pattern:
		return nil
	}
	for i := range len(segment) {
		if c := segment[i]; !isNameByte(c) {
			if c == '*' && pattern {
				return fmt.Errorf("* stands for a whole segment, never for a part of one")
			}
			return fmt.Errorf("%q is not allowed", []rune(segment[i:])[0])
		}
	}
	return nil
}

func isNameByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("._:@=+-", c) >= 0
}

// Unit names what is counted in a bucket, such as "calls" or "input_tokens": 1 to 64 bytes of [a-z0-9_], starting with a
// letter. The zero value is not a unit; where one may be left out, Calls is meant.
type Unit string

// Calls is the unit where none is named.
const Calls Unit = "calls"

// Check tells what is wrong with the name of a unit; nil if nothing is.
func (u Unit) Check() error {
	const right = "; a unit is 1 to 64 bytes of a-z, 0-9 and _, starting with a letter, such as input_tokens"
	if u == "" {
		return fmt.Errorf("is empty%s", right)
	}
	if len(u) > UnitBytesMax {
		return fmt.Errorf("has %d bytes%s", len(u), right)
	}
	for i := range len(u) {
		c := u[i]
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return fmt.Errorf("%q%s", string(u), right)
		}
	}
	return nil
}

// requireRequestID is for what names an acquire that was made before.
func requireRequestID(id string) error {
	if id == "" {
		return fmt.Errorf("is left out; want the request_id of the acquire")
	}
	return checkRequestID(id)
}

func checkRequestID(id string) error {
	const right = "; a request id is 1 to 128 bytes of printable ASCII without spaces, such as a UUID"
	if len(id) > RequestIDBytesMax {
		return fmt.Errorf("has %d bytes%s", len(id), right)
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return fmt.Errorf("has the byte %#02x%s", id[i], right)
		}
	}
	return nil
}
