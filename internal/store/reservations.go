package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// Reservations returns a page of reservations: the open ones by when they expire, others by the date of their last change and then
// by caller and id. next is the After of the page that follows; "" at the end.
func (s *Store) Reservations(ctx context.Context, q ReservationQuery) (found []quota.Reservation, next string, err error) {
	err = s.view(ctx, func(st *state) error {
		l := reservations{state: st, q: q}
		if q.Phase == quota.PhaseOpen {
			err = l.open()
		} else {
			err = l.all()
		}
		found, next = l.found, l.next
		return err
	})
	return found, next, err
}

// reservations is a listing under way.
type reservations struct {
	*state
	q      ReservationQuery
	last   string // the page token of what was looked at last
	looked int
	found  []quota.Reservation
	next   string
}

// look counts a record that is looked at; false when the page is full.
func (l *reservations) look() bool {
	if l.looked++; l.looked > looksMax || len(l.found) == l.q.Max {
		l.next = l.last
		return false
	}
	return true
}

// wants tells whether a reservation that was made at a time is asked for. A start may find the clock some seconds behind the ledger's
// time of before, so that one may have been made after now.
func (l *reservations) wants(bucket quota.Bucket, made time.Time) bool {
	return bucket.Within(l.q.Prefix) && (l.q.MinAge == 0 || !made.After(l.now.Add(-l.q.MinAge)))
}

// open lists along the index of expiries, which has no others.
func (l *reservations) open() error {
	from := ""
	if l.q.After != "" {
		ms, key, _ := strings.Cut(l.q.After, "\x00")
		n, err := strconv.ParseInt(ms, 10, 64)
		if k, bad := parseReceiptKey(spaceExpiries, key); err == nil && n >= 0 && bad == nil {
			from = expiryKey(time.UnixMilli(n), k) + "\x00"
		} else {
			return fmt.Errorf("%q: %w", l.q.After, ErrPageToken)
		}
	}
	l.last = l.q.After
	var bad error
	err := l.tx.Scan(spaceExpiries, from, func(key string, record []byte) bool {
		if !l.look() {
			return false
		}
		x, err := parseExpiry(key, record)
		if x.key.RequestID != "" {
			l.last = fmt.Sprintf("%d\x00%s", x.at.UnixMilli(), receiptKey(x.key))
		}
		if err == nil && l.wants(x.bucket, x.made) {
			err = l.take(x.key)
		}
		bad = l.pass(err)
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	return err
}

// pass goes on past a damaged record, and tells of it: the others are listed all the same.
func (l *reservations) pass(err error) error {
	if errors.Is(err, ErrCorrupt) {
		l.met(err)
		return nil
	}
	return err
}

func (l *reservations) take(k quota.ReceiptKey) error {
	r, seen, err := l.Receipt(k)
	if err != nil {
		return err
	}
	if v, ok := quota.ReservationOf(k, r, l.now); seen && ok && v.Phase == quota.PhaseOpen {
		l.found = append(l.found, v)
	}
	return nil
}

// all lists along the receipts. Those of plain acquires are passed over by their first byte.
func (l *reservations) all() error {
	afterSpace, afterKey, ok := strings.Cut(l.q.After, "\x00")
	if l.q.After != "" && (!ok || !strings.HasPrefix(afterSpace, receiptsAt)) {
		return fmt.Errorf("%q: %w", l.q.After, ErrPageToken)
	}
	spaces, err := l.spacesOf(receiptsAt)
	if err != nil {
		return err
	}
	l.last = l.q.After
	for _, space := range spaces {
		from := ""
		switch {
		case space < afterSpace:
			continue
		case space == afterSpace:
			from = afterKey + "\x00"
		}
		if err := l.receiptsOf(space, from); err != nil || l.next != "" {
			return err
		}
	}
	return nil
}

func (l *reservations) receiptsOf(space, from string) error {
	var bad error
	err := l.tx.Scan(space, from, func(key string, record []byte) bool {
		if !l.look() {
			return false
		}
		l.last = space + "\x00" + key
		if len(record) == 0 || record[0] != receiptVersion {
			return true
		}
		r, err := parseReceipt(record, space, key)
		k, err2 := parseReceiptKey(space, key)
		if err = errors.Join(err, err2); err != nil || r.Hold == nil {
			bad = l.pass(err)
			return bad == nil
		}
		v, _ := quota.ReservationOf(k, r, l.now)
		if l.wants(v.Bucket, v.Made) && (l.q.Phase == quota.PhaseUsed || l.q.Phase == v.Phase) {
			l.found = append(l.found, v)
		}
		return true
	})
	if err == nil {
		err = bad
	}
	return err
}

// Oldest returns when the oldest open reservation was made, of the 20,000 that expire first; zero if none is open.
func (s *Store) Oldest(ctx context.Context) (oldest time.Time, err error) {
	err = s.view(ctx, func(st *state) error {
		oldest, err = st.oldest()
		return err
	})
	return oldest, err
}

// oldest returns when the oldest open reservation was made, among the first ones to expire; zero if none is open.
func (s *state) oldest() (time.Time, error) {
	var oldest time.Time
	looked := 0
	err := s.tx.Scan(spaceExpiries, "", func(key string, record []byte) bool {
		x, err := parseExpiry(key, record)
		if err == nil && (oldest.IsZero() || x.made.Before(oldest)) {
			oldest = x.made
		}
		looked++
		return looked < looksMax
	})
	return oldest, err
}
