package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

const (
	// expireMax is how many reservations one transaction expires at most: some milliseconds' work, while every other op waits.
	expireMax = 512
	// The keeper looks for what is due no more often than waitMin, and while anything is open no less often than waitMax.
	waitMin, waitMax = 20 * time.Millisecond, time.Minute
)

// Schedule notes when a reservation expires.
func (s *state) Schedule(k quota.ReceiptKey, before time.Time, r quota.Receipt) error {
	if !before.IsZero() {
		s.writes++
		s.opened--
		if err := s.tx.Delete(spaceExpiries, expiryKeyOf(before, s.receiptKey(k))); err != nil {
			return fmt.Errorf("taking an expiry away: %w", err)
		}
	}
	if r.Phase != quota.PhaseOpen {
		return nil
	}
	s.opened++
	if s.soonest.IsZero() || r.Hold.Expiry.Before(s.soonest) {
		s.soonest = r.Hold.Expiry
	}
	s.buf = append(s.buf[:0], recordVersion)
	s.buf = binary.AppendVarint(s.buf, r.Time.UnixMilli())
	s.buf = append(s.buf, r.Hold.Bucket...)
	return s.put(spaceExpiries, expiryKeyOf(r.Hold.Expiry, s.receiptKey(k)), s.buf)
}

// expiry is an open reservation as the index of expiries has it.
type expiry struct {
	at     time.Time
	key    quota.ReceiptKey
	made   time.Time
	bucket quota.Bucket
}

func parseExpiry(key string, record []byte) (x expiry, err error) {
	if x.at, x.key, err = parseExpiryKey(key); err != nil {
		return x, err
	}
	body, err := unseal(record, spaceExpiries, key)
	if err != nil {
		return x, err
	}
	d := decoder{rest: body}
	x.made = time.UnixMilli(d.varint()).UTC()
	x.bucket = quota.Bucket(d.rest)
	if d.bad {
		err = fmt.Errorf("%w: the expiry %q cannot be read", ErrCorrupt, key)
	}
	return x, err
}

// passed is how far the front of the index of expiries is known to be damaged, in this run. What was found damaged stays so, and
// what is made later expires later: nobody has to look at these again.
type passed struct {
	mu  sync.Mutex
	key string // the last of them; "" if there are none
}

func (p *passed) get() string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key
}

func (p *passed) set(key string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key = max(p.key, key)
}

// Due returns reservations whose time is over, the first to expire first. One with a damaged record is left out: it stays held,
// as nobody can say what it holds, and the problem is shown.
func (s *state) Due(now time.Time, most int) ([]quota.ReceiptKey, error) {
	var due []quota.ReceiptKey
	var bad error
	front := s.passed.get()
	err := s.tx.Scan(spaceExpiries, front, func(key string, _ []byte) bool {
		if key == front {
			return true
		}
		at, k, err := parseExpiryKey(key)
		if err == nil && at.After(now) {
			return false
		}
		if err == nil {
			err = s.readable(at, k)
		}
		switch {
		case errors.Is(err, ErrCorrupt):
			s.met(err)
			if len(due) == 0 {
				s.passed.set(key)
			}
			return true
		case err != nil:
			bad = err
			return false
		}
		due = append(due, k)
		return len(due) < most
	})
	if err == nil {
		err = bad
	}
	return due, err
}

// readable tells whether everything can be read that the expiry of a reservation changes, and that its receipt says so too.
func (s *state) readable(at time.Time, k quota.ReceiptKey) error {
	r, seen, err := s.Receipt(k)
	if err != nil {
		return err
	}
	if !seen || r.Phase != quota.PhaseOpen || !r.Hold.Expiry.Equal(at) {
		return fmt.Errorf("%w: the reservation %q of %q is to expire at %s, and no such one is open",
			ErrCorrupt, k.RequestID, k.Principal, at.Format(time.RFC3339))
	}
	for _, e := range r.Entries {
		if _, _, err := s.Account(e.Key); err != nil {
			return err
		}
		if _, err := s.InFlight(e.Key.Bucket); err != nil {
			return err
		}
	}
	return nil
}

// met tells of a damaged record that did not stop what was being done.
func (s *state) met(err error) {
	if s.damaged != nil {
		s.damaged(err)
	}
}

// keepOpen writes how many reservations are open, once for a whole transaction.
func (s *state) keepOpen() error {
	if s.opened == 0 {
		return nil
	}
	n, err := s.number(spaceMeta, keyOpen)
	if err != nil {
		return err
	}
	return s.putNumber(spaceMeta, keyOpen, n+s.opened)
}

// catchUp expires all that is due. Where there is no room for many in one transaction there may be for fewer: each writes some
// pages anew before it frees others.
func (s *Store) catchUp(ctx context.Context) error {
	for most := expireMax; ; {
		d, err := s.do(ctx, request{op: quota.Expire{Max: most}})
		switch {
		case errors.Is(err, ErrFull) && most > 1:
			most /= 2
		case err != nil || !d.More:
			return err
		default:
			most = min(2*most, expireMax)
		}
	}
}

// never is the time of the next expiry where nothing is held.
const never = math.MaxInt64

// expect notes that a reservation expires at a time, for the keeper to wake up then. It is only what wakes the keeper: decisions
// look into the transaction.
func (s *Store) expect(at time.Time) {
	ms := at.UnixMilli()
	for {
		next := s.next.Load()
		if ms >= next {
			return
		}
		if s.next.CompareAndSwap(next, ms) {
			break
		}
	}
	select {
	case s.wake <- struct{}{}:
	default: // it has been told to look
	}
}

// expire carries out the expiries that are due, and finds out when the next one is.
func (s *Store) expire(ctx context.Context) error {
	began := s.Now() // what falls due while we are at it is still to come
	if err := s.catchUp(ctx); err != nil {
		return err
	}
	s.next.Store(never)
	return s.engine.View(ctx, func(tx Tx) error {
		return tx.Scan(spaceExpiries, "", func(key string, _ []byte) bool {
			at, _, err := parseExpiryKey(key)
			if err == nil && at.After(began) { // what was due by then and is still there is damaged
				s.expect(at)
				return false
			}
			return true
		})
	})
}

// wait returns how long to wait for the next expiry; false if there is none. A ledger whose time stands still is looked at again
// and again, and so is one whose time may be moved on by more than has passed: a clock that is set right, a machine that slept.
func (s *Store) wait() (wait time.Duration, some bool) {
	next := s.next.Load()
	return min(max(waitMin, time.UnixMilli(next).Sub(s.Now())), waitMax), next != never
}
