package quota

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// AuditHash is the hash of an audit record and of the one before it. The zero value is none.
type AuditHash [sha256.Size]byte

// String returns the hash in lower-case hexadecimal digits.
func (h AuditHash) String() string { return hex.EncodeToString(h[:]) }

// ParseAuditHash reads a hash of 64 hexadecimal digits.
func ParseAuditHash(s string) (AuditHash, error) {
	var h AuditHash
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%q is not a hash; want %d hexadecimal digits", s, 2*len(h))
	}
	return AuditHash(b), nil
}

// chainVersion begins what is hashed, so that another way of doing it can never give the same bytes.
const chainVersion = "quotad audit 1\n"

// Link returns the hash that this record has after one with the hash previous: a SHA-256 over all of it but Hash itself, the time to
// the millisecond. docs/format.md gives the bytes.
func (a AuditRecord) Link(previous AuditHash) AuditHash {
	texts := [...]string{a.Principal, a.Action, a.Bucket, a.Before, a.After, a.Reason}
	size := len(chainVersion) + len(previous) + 16
	for _, s := range texts {
		size += 8 + len(s)
	}
	buf := append(make([]byte, 0, size), chainVersion...)
	buf = append(buf, previous[:]...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(a.Sequence))         //nolint:gosec // never negative
	buf = binary.BigEndian.AppendUint64(buf, uint64(a.Time.UnixMilli())) // times before 1970 wrap
	for _, s := range texts {
		buf = append(binary.BigEndian.AppendUint64(buf, uint64(len(s))), s...)
	}
	return sha256.Sum256(buf)
}

// AuditPoint is a place in the chain of audit records: after the record with that number, which has that hash. The zero value is the
// place before the first record.
type AuditPoint struct {
	Sequence int64
	Hash     AuditHash
}

// String returns the point as ParseAuditPoint reads it, such as "17:3f5a...".
func (p AuditPoint) String() string { return fmt.Sprintf("%d:%s", p.Sequence, p.Hash) }

// ParseAuditPoint reads a point such as somebody has noted it: the number of a record and its hash.
func ParseAuditPoint(s string) (AuditPoint, error) {
	number, hash, _ := strings.Cut(s, ":")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 {
		return AuditPoint{}, fmt.Errorf("%q does not begin with the number of a record; want SEQUENCE:HASH", s)
	}
	h, err := ParseAuditHash(hash)
	return AuditPoint{Sequence: n, Hash: h}, err
}

// AuditChain is where the chain of audit records begins and ends.
type AuditChain struct {
	Base AuditPoint // the last record that has left by its age; zero if none has
	Head AuditPoint // the newest record; zero if there never was one
}

// ActionMigrate is the action of the record that a new layout of the file begins with. Records from before there was a chain have no
// hash, and this is the first that has one.
const ActionMigrate = "migrate"

// Chain checks the chain of audit records, one after the other. It goes on after a fault by what the faulty record says of itself,
// so that each is told of once. NewChain makes one.
type Chain struct {
	base   int64
	last   AuditPoint
	lost   bool  // whether the hash of last is not known
	bare   int64 // the first of those just before that have no hash; 0 if the last one has
	hashed bool  // whether a record with a hash has been met
}

// NewChain returns a Chain for the records that come after base.
func NewChain(base AuditPoint) *Chain { return &Chain{base: base.Sequence, last: base} }

// Last returns the place after the record that was added last, with the hash that it has by the chain; the base if there was none.
func (c *Chain) Last() AuditPoint { return c.last }

// Skip takes a record that is there and cannot be read. Somebody else tells of it, and the one after it is not held against it.
func (c *Chain) Skip(sequence int64) {
	if sequence <= c.base {
		return
	}
	c.last, c.lost = AuditPoint{Sequence: sequence}, true
}

// Add takes the next record, by rising numbers, and tells what is wrong with it; nil if nothing is.
func (c *Chain) Add(r AuditRecord) error {
	if r.Sequence <= c.base {
		return fmt.Errorf("audit record %d is from before the chain, which begins after %d", r.Sequence, c.base)
	}
	err := c.check(r)
	if r.Hash == (AuditHash{}) {
		if c.bare == 0 {
			c.bare = r.Sequence
		}
		c.last = AuditPoint{Sequence: r.Sequence, Hash: r.Link(c.last.Hash)}
		return err
	}
	c.bare, c.hashed, c.lost = 0, true, false
	c.last = AuditPoint{Sequence: r.Sequence, Hash: r.Hash}
	return err
}

// check holds a record against the one before it.
func (c *Chain) check(r AuditRecord) error {
	bare, changed := r.Hash == AuditHash{}, !c.lost && r.Hash != r.Link(c.last.Hash)
	switch {
	case r.Sequence <= c.last.Sequence:
		return fmt.Errorf("audit record %d comes after %d", r.Sequence, c.last.Sequence)
	case r.Sequence != c.last.Sequence+1:
		return fmt.Errorf("%s missing before audit record %d", theRecords(c.last.Sequence+1, r.Sequence-1), r.Sequence)
	case bare && c.hashed:
		return fmt.Errorf("audit record %d has no hash, though one before it has", r.Sequence)
	case bare:
		return nil
	case changed && c.bare != 0:
		return fmt.Errorf("audit record %d does not match its hash: it was changed, or one of those from %d on, which have no hash of their own", r.Sequence, c.bare)
	case changed:
		return fmt.Errorf("audit record %d does not match its hash: it was changed, or the hash before it", r.Sequence)
	case c.bare != 0 && !c.hashed && r.Action != ActionMigrate:
		return fmt.Errorf("audit record %d is the first with a hash and no migration: hashes before it were taken away", r.Sequence)
	}
	return nil
}

// End tells whether the chain ends at head, as it must; nil if it does.
func (c *Chain) End(head AuditPoint) error {
	switch {
	case c.last.Sequence < head.Sequence:
		return fmt.Errorf("%s missing at the end: the head is %d", theRecords(c.last.Sequence+1, head.Sequence), head.Sequence)
	case c.last.Sequence > head.Sequence:
		return fmt.Errorf("audit record %d comes after the head, which is %d", c.last.Sequence, head.Sequence)
	case c.bare != 0 && !c.hashed:
		return fmt.Errorf("no audit record from %d on has a hash: they were taken away", c.bare)
	case c.last.Hash != head.Hash && !c.lost:
		return fmt.Errorf("the head has another hash than audit record %d: %s, want %s", head.Sequence, head.Hash, c.last.Hash)
	}
	return nil
}

// theRecords names the records from one number to another, as what something is said of.
func theRecords(from, to int64) string {
	if from == to {
		return fmt.Sprintf("audit record %d is", from)
	}
	return fmt.Sprintf("audit records %d to %d are", from, to)
}
