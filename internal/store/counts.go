package store

import (
	"fmt"

	"github.com/quotad/quotad/internal/quota"
)

// counts keeps what one transaction has read and written of counts, so that a bucket which many of its ops charge is read and
// written once. It is written to the transaction before the transaction ends, and before anything scans it.
type counts struct {
	byKey map[quota.AccountKey]*count
	dirty []*count // those to be written, in the order in which they were changed first

	inFlight      map[quota.Bucket]*number
	dirtyInFlight []*number
}

type count struct {
	space, key string
	account    quota.Account
	kept       bool // whether anything is kept of it
	dirty      bool
}

type number struct {
	bucket quota.Bucket
	n, was int64
	dirty  bool
}

// Account returns a count.
func (s *state) Account(k quota.AccountKey) (quota.Account, bool, error) {
	c, err := s.count(k)
	if err != nil {
		return quota.Account{}, false, err
	}
	return c.account, c.kept, nil
}

func (s *state) count(k quota.AccountKey) (*count, error) {
	if c := s.counts.byKey[k]; c != nil {
		return c, nil
	}
	c := &count{space: s.space(k), key: accountKey(k)}
	record, err := s.tx.Get(c.space, c.key)
	if err != nil {
		return nil, err
	}
	if record != nil {
		if c.account, err = parseAccountRecord(record, c.space, c.key); err != nil {
			return nil, err
		}
		c.kept = true
	}
	if s.counts.byKey == nil {
		s.counts.byKey = make(map[quota.AccountKey]*count)
	}
	s.counts.byKey[k] = c
	return c, nil
}

// SetAccount keeps a count.
func (s *state) SetAccount(k quota.AccountKey, a quota.Account) error {
	c, err := s.count(k)
	if err != nil {
		return err
	}
	s.writes++
	c.account, c.kept = a, true
	if !c.dirty {
		c.dirty = true
		s.counts.dirty = append(s.counts.dirty, c)
	}
	return nil
}

// InFlight returns how many reservations are open on a bucket.
func (s *state) InFlight(b quota.Bucket) (int64, error) {
	n, err := s.openOn(b)
	if err != nil {
		return 0, err
	}
	return n.n, nil
}

func (s *state) openOn(b quota.Bucket) (*number, error) {
	if n := s.counts.inFlight[b]; n != nil {
		return n, nil
	}
	open, err := s.number(spaceInFlight, string(b))
	if err != nil {
		return nil, err
	}
	if s.counts.inFlight == nil {
		s.counts.inFlight = make(map[quota.Bucket]*number)
	}
	n := &number{bucket: b, n: open, was: open}
	s.counts.inFlight[b] = n
	return n, nil
}

// SetInFlight keeps how many reservations are open on a bucket.
func (s *state) SetInFlight(b quota.Bucket, open int64) error {
	n, err := s.openOn(b)
	if err != nil {
		return err
	}
	s.writes++
	n.n = open
	if !n.dirty {
		n.dirty = true
		s.counts.dirtyInFlight = append(s.counts.dirtyInFlight, n)
	}
	return nil
}

// flush writes the counts that were changed. They have been counted as writes when they were set.
func (s *state) flush() error {
	writes := s.writes
	defer func() { s.writes = writes }()
	for _, c := range s.counts.dirty {
		s.buf = appendAccount(s.buf[:0], c.account)
		if err := s.put(c.space, c.key, s.buf); err != nil {
			return err
		}
		c.dirty = false
	}
	s.counts.dirty = s.counts.dirty[:0]
	for _, n := range s.counts.dirtyInFlight {
		if err := s.flushInFlight(n); err != nil {
			return err
		}
		n.dirty, n.was = false, n.n
	}
	s.counts.dirtyInFlight = s.counts.dirtyInFlight[:0]
	return nil
}

func (s *state) flushInFlight(n *number) error {
	switch n.n {
	case n.was: // as many have ended as were made
		return nil
	case 0: // a bucket that nobody uses any more costs nothing
		if err := s.tx.Delete(spaceInFlight, string(n.bucket)); err != nil {
			return fmt.Errorf("writing how many reservations are open on %s: %w", n.bucket, err)
		}
		return nil
	}
	return s.putNumber(spaceInFlight, string(n.bucket), n.n)
}
