package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

const (
	keepEvery   = 15 * time.Minute // how often the store looks for what is due to leave
	fullSilence = time.Minute      // how long nothing more is said of a want of room that comes and goes
	retryEvery  = 5 * time.Second  // how often a full store tries whether there is room again
	shortLife   = 48 * time.Hour   // how long counts of minutes and hours stay after their date

	// dropPiece is how many keys leave in one transaction at most: about a millisecond's work.
	dropPiece = 1024

	// A date ends last twelve hours behind UTC; another day of grace costs nothing and asks nothing of the zone.
	dateSlack = 36 * time.Hour
)

// keep tidies until ctx ends: what is due leaves, one space a transaction, through the writer like any other change.
func (s *Store) keep(ctx context.Context) {
	tidy := time.NewTicker(keepEvery)
	defer tidy.Stop()
	expiry := time.NewTimer(0) // what was due while nobody looked comes first
	defer expiry.Stop()
	var retry <-chan time.Time // nil while there is room
	for begun := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			if wait, some := s.wait(); some && begun { // else what is due at the start is still to come, and all else with it
				expiry.Reset(wait)
			}
		case <-expiry.C:
			s.keepExpiring(ctx, expiry)
			if !begun {
				s.drop(ctx)
			}
			begun = true
		case <-tidy.C:
			s.drop(ctx)
		case <-s.filled:
			retry = time.After(retryEvery)
		case <-retry:
			if retry = nil; s.retry(ctx) != nil {
				retry = time.After(retryEvery)
			}
		}
	}
}

// keepExpiring expires what is due and sets the timer to the next.
func (s *Store) keepExpiring(ctx context.Context, timer *time.Timer) {
	err := s.expire(ctx)
	wait, some := s.wait()
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, ErrClosed)):
	case err != nil:
		if !errors.Is(err, ErrFull) { // which has been told of
			s.log.Error("expiring reservations", "error", err)
		}
		timer.Reset(retryEvery)
	case some:
		timer.Reset(wait)
	}
}

// drop lets every space go that is due.
func (s *Store) drop(ctx context.Context) {
	due, err := s.due(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("looking for what is due to leave", "error", err)
		}
		return
	}
	s.lag.Store(int64(len(due)))
	for _, space := range due {
		gone, err := s.letGo(ctx, space)
		if errors.Is(err, ErrCorrupt) { // it stays, and has been told of; the others have nothing to do with it
			continue
		}
		if err != nil {
			if !errors.Is(err, context.Canceled) && !errors.Is(err, ErrClosed) {
				s.log.Error("letting old counts go", "space", space, "error", err)
			}
			return
		}
		if !gone {
			continue
		}
		s.lag.Add(-1)
		s.log.Info("old counts have left", "space", space)
	}
}

// letGo takes an expired space away, a piece a transaction: dropping a million counts at once was measured to hold up the writer
// for 40 ms. The last piece goes in one stroke, with the space. Nobody misses the pieces meanwhile: the time of all of them is over.
func (s *Store) letGo(ctx context.Context, space string) (gone bool, err error) {
	for left := true; left; {
		_, err := s.do(ctx, request{tidy: func(st *state) error {
			left, gone = false, false
			if !expired(space, s.clock.settled(), s.o.Retain) { // the clock may stand earlier than when we looked
				return nil
			}
			held, err := st.holds(space)
			if err != nil || held {
				return err
			}
			left, err = st.takeAway(space)
			gone = !left
			return err
		}})
		if err != nil {
			return false, err
		}
	}
	return gone, nil
}

// holds tells whether a space has the receipt of a reservation that is open. One expires at most HoldMax after its receipt was last
// written, and when it has been expired its receipt has moved to today's space; so that this is so only if it is due.
func (s *state) holds(space string) (bool, error) {
	if !strings.HasPrefix(space, receiptsAt) {
		return false, nil
	}
	w, err := window.Day.Parse(space[len(receiptsAt):], time.UTC)
	if err != nil {
		return false, err
	}
	last := w.End.Add(quota.HoldMax)
	due, err := s.Due(last, 1)
	if err != nil || len(due) > 0 {
		return len(due) > 0, err
	}
	// Those with a damaged record are left. They are open until somebody has looked at them, and their receipts tell of what.
	held := false
	var bad error
	err = s.tx.Scan(spaceExpiries, "", func(key string, _ []byte) bool {
		at, k, err := parseExpiryKey(key)
		if err == nil {
			var receipt []byte
			receipt, bad = s.tx.Get(space, receiptKey(k))
			held = receipt != nil
		}
		return bad == nil && !held && !at.After(last)
	})
	if err == nil {
		err = bad
	}
	return held, err
}

// takeAway deletes the first keys of a space, or the whole of it if there are no more. With audit records the base of their chain
// moves.
func (s *state) takeAway(space string) (left bool, err error) {
	keys := make([]string, 0, dropPiece)
	err = s.tx.Scan(space, "", func(key string, _ []byte) bool {
		if left = len(keys) == dropPiece; !left {
			keys = append(keys, key)
		}
		return !left
	})
	if err != nil {
		return false, fmt.Errorf("looking through %s: %w", space, err)
	}
	if strings.HasPrefix(space, auditAt) {
		if err := s.leaveTrail(space, keys); err != nil {
			return false, err
		}
	}
	s.writes++
	if !left {
		if err := s.tx.Drop(space); err != nil {
			return false, fmt.Errorf("dropping %s: %w", space, err)
		}
		return false, nil
	}
	for _, key := range keys {
		if err := s.tx.Delete(space, key); err != nil {
			return false, fmt.Errorf("deleting from %s: %w", space, err)
		}
	}
	return true, nil
}

// due returns the spaces whose time is over.
func (s *Store) due(ctx context.Context) ([]string, error) {
	var due []string
	now := s.clock.settled()
	err := s.engine.View(ctx, func(tx Tx) error {
		return tx.Spaces("", func(space string) bool {
			if expired(space, now, s.o.Retain) {
				due = append(due, space)
			}
			return true
		})
	})
	return due, err
}

// retry finds out whether a full engine has room again, so that health does not wait for somebody's acquire.
func (s *Store) retry(ctx context.Context) error {
	_, err := s.do(ctx, request{tidy: func(st *state) error {
		return st.putNumber(spaceMeta, keyClock, st.now.UnixNano())
	}})
	return err
}

// expired tells whether all that a space holds is older than it has to be kept.
func expired(space string, now time.Time, retain time.Duration) bool {
	kind, label, _ := strings.Cut(space, "/")
	ended := func(span window.Span, life time.Duration) bool {
		w, err := span.Parse(label, time.UTC)
		return err == nil && now.After(w.End.Add(life))
	}
	switch kind + "/" {
	case receiptsAt:
		return ended(window.Day, 24*time.Hour) // the receipts of a date's last instant live a day
	case namesAt:
		return ended(window.Day, dateSlack)
	case auditAt:
		return ended(window.Day, retain)
	case eventsAt:
		return ended(window.Day, eventLife)
	}
	span, ok := spanOf(space)
	switch {
	case !ok || span == window.Ever:
		return false
	case short(span):
		return ended(window.Day, shortLife)
	}
	return ended(span, retain+dateSlack)
}
