package store_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// A damaged record keeps one reservation from expiring, as nobody can say what it holds. The others expire, the problem shows, and
// denials are still answered: what is due and cannot be decided is not waited for.
func TestDamagedReservation(t *testing.T) {
	for name, c := range map[string]struct {
		spoil   func(spoiler)
		problem string // what the status shows
		refused bool   // whether the damaged bucket's own count cannot be read
		expires bool   // whether the reservation expires all the same
	}{
		"a receipt":        {func(s spoiler) { s.flip(receiptsOfFirstDay, "test\x00bad") }, `"test\x00bad" in receipts/2000-01-01 fails its checksum`, false, false},
		"no receipt":       {func(s spoiler) { s.remove(receiptsOfFirstDay, "test\x00bad") }, `the reservation "bad" of "test" is to expire at 2000-01-01T01:00:00Z, and no such one is open`, false, false},
		"a count":          {func(s spoiler) { s.flip("used/"+firstDay, "bad\x00calls") }, `"bad\x00calls" in used/2000-01-01 fails its checksum`, true, false},
		"number in flight": {func(s spoiler) { s.flip("inflight", "bad") }, `"bad" in inflight fails its checksum`, false, false},
		"another phase": {
			func(s spoiler) { s.receipt("bad", func(r *quota.Receipt) { r.Phase = quota.PhaseReleased }) },
			`the reservation "bad" of "test" is to expire`, false, false,
		},
		"another expiry": {
			func(s spoiler) { s.receipt("bad", func(r *quota.Receipt) { r.Hold.Expiry = bubbleAt(9 * time.Hour) }) },
			`the reservation "bad" of "test" is to expire`, false, false,
		},
		"the key of an expiry": {func(s spoiler) { s.remove("expiries", s.expiryKey("bad")); s.put("expiries", "\x00", []byte{1}) }, "is too short", false, false},
		"the expiry's record":  {func(s spoiler) { s.flip("expiries", s.expiryKey("bad")) }, "", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := memengine.New()
				s := open(t, noClose{e}, store.Options{Defaults: fifty})
				defer func() { closeStore(t, s) }()
				for _, b := range []string{"good", "bad"} {
					do(t, s, onExpiry(b, quota.ExpiryRelease), quota.Done)
				}
				for b, ids := range map[string][]string{"good": {"good-1", "good-2"}, "bad": {"bad"}} {
					for _, id := range ids {
						do(t, s, reserving(b, id, time.Hour, quota.Charge{Amount: 5}), quota.Done)
					}
				}
				if err := e.Update(t.Context(), func(tx store.Tx) error { c.spoil(spoiler{t, tx}); return nil }); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if used, held := inForce(t, e, firstDay, "good"); used != 0 || held != 0 {
					t.Errorf("good: %d used, %d held", used, held)
				}
				for range 2 {
					damageIsBounded(t, s, c.refused, c.expires)
					st := s.Status(t.Context())
					if shown := strings.Join(st.Problems, "\n"); st.CorruptSeen != (c.problem != "") || !strings.Contains(shown, c.problem) {
						t.Errorf("the status shows %q, want %q", shown, c.problem)
					}
					closeStore(t, s)
					time.Sleep(time.Minute)
					s = open(t, noClose{e}, store.Options{Defaults: fifty})
					synctest.Wait()
				}
				time.Sleep(6 * 24 * time.Hour)
				if in, all := receiptSpacesOf(t, e, "bad"); c.problem != "" && name != "no receipt" && name != "the key of an expiry" && !slices.Equal(in, []string{receiptsOfFirstDay}) {
					t.Errorf("the receipt of what is still open has left: it is in %v of %v", in, all)
				}
				if _, all := receiptSpacesOf(t, e, "good-1"); slices.Contains(all, "receipts/2000-01-02") {
					t.Errorf("nothing leaves any more: %v", all)
				}
			})
		})
	}
}

// damageIsBounded asks a ledger, in which one reservation of 5 in the bucket "bad" cannot expire, for what does not depend on it.
func damageIsBounded(t *testing.T, s *store.Store, refused, expires bool) {
	t.Helper()
	if d, err := s.Check(t.Context(), acquire("other", "")); err != nil || d.Outcome != quota.Done {
		t.Errorf("a check: %v, %v", d.Outcome, err)
	}
	do(t, s, acquire("good", "filler", quota.Charge{Amount: 10}), quota.Done)
	do(t, s, acquire("good", ""), quota.Denied)
	if d, err := s.Check(t.Context(), acquire("good", "")); err != nil || d.Outcome != quota.Denied {
		t.Errorf("a check: %v, %v", d.Outcome, err)
	}
	if got := used(t, s, "good"); got != 10 {
		t.Errorf("a reading: %d used", got)
	}
	do(t, s, quota.Reset{Bucket: "other"}, quota.Done)
	d, err := s.Apply(t.Context(), acquire("bad", "", quota.Charge{Amount: 11}))
	switch {
	case refused && !errors.Is(err, store.ErrCorrupt):
		t.Errorf("the damaged count: %v, %v", d.Outcome, err)
	case !refused && err != nil:
		t.Error(err)
	case !refused && d.Outcome != quota.Denied:
		t.Errorf("bad: %v", d.Outcome)
	case !refused && (d.Violations[0].Balance.Held == 0) != expires:
		t.Errorf("bad: %v", d.Violations)
	}
}

// An index that says something earlier than the receipt is not followed: nothing expires before its time.
func TestExpiryNeverEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{Defaults: fifty})
		defer closeStore(t, s)
		do(t, s, reserving("a", "id", time.Hour), quota.Done)
		err := e.Update(t.Context(), func(tx store.Tx) error {
			sp := spoiler{t, tx}
			r := sp.receiptOf("id")
			sp.remove("expiries", sp.expiryKey("id"))
			sp.expiry(bubbleAt(time.Minute), "id", r.Time, "a")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if _, held := inForce(t, e, firstDay, "a"); held != 1 {
			t.Error("it expired 58 minutes early")
		}
		do(t, s, settling("id"), quota.Done)
	})
}

// A ledger that is full cannot expire anything. It does as soon as there is room, by itself, once.
func TestFullOverExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		e := memengine.New()
		var n ended
		s := open(t, noClose{&hooks{Engine: e, before: func() error {
			if full.Load() {
				return store.ErrFull
			}
			return nil
		}}}, store.Options{Defaults: fifty, OnBatch: n.onBatch})
		defer closeStore(t, s)
		do(t, s, onExpiry("a", quota.ExpiryRelease), quota.Done)
		do(t, s, reserving("a", "id", time.Hour, quota.Charge{Amount: 10}), quota.Done)
		full.Store(true)
		time.Sleep(2 * time.Hour)
		if _, err := s.Apply(t.Context(), acquire("a", "")); !errors.Is(err, store.ErrFull) {
			t.Errorf("what needs the expiry: %v", err)
		}
		used(t, s, "a") // a reading is answered
		full.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if _, held := inForce(t, e, firstDay, "a"); held != 0 || n.released.Load() != 1 || n.charged.Load() != 0 {
			t.Errorf("%d held, %d released, %d charged", held, n.released.Load(), n.charged.Load())
		}
		soundEngine(t, e)
	})
}

// A daemon that was started with a clock far ahead expires what was open. Put right, it settles that late, and what was reserved by
// the wrong time too; nothing is lost, and the ledger is sound.
func TestReservationsUnderWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shift dial
		var n ended
		e := memengine.New()
		o := skewed(&shift, &n)
		s := open(t, noClose{e}, o)
		do(t, s, reserving("a", "before", 24*time.Hour, quota.Charge{Amount: 5}), quota.Done)
		closeStore(t, s)

		shift.set(800 * 24 * time.Hour)
		s = open(t, noClose{e}, o)
		do(t, s, reserving("a", "wrong", time.Hour, quota.Charge{Amount: 3}), quota.Done)
		do(t, s, reserving("a", "wrong-open", time.Hour, quota.Charge{Amount: 2}), quota.Done)
		synctest.Wait()
		if n.charged.Load() != 1 {
			t.Errorf("%d were expired by the wrong clock", n.charged.Load())
		}
		closeStore(t, s)

		shift.set(0)
		o.AcceptClock = true
		s = open(t, noClose{e}, o)
		defer closeStore(t, s)
		if d := do(t, s, settling("before", quota.Charge{Amount: 4}), quota.Done); !d.Late || d.Balances[0].Used != 4 || d.Balances[0].Window.Label != firstDay {
			t.Errorf("settled late: %+v", d)
		}
		if d := do(t, s, settling("wrong", quota.Charge{Amount: 1}), quota.Done); d.Balances[0].Used != 1 || d.Balances[0].Window.Label != "2002-03-11" {
			t.Errorf("settled: %+v", d)
		}
		time.Sleep(3 * 24 * time.Hour)
		if found, _ := allPages(t, s, store.ReservationQuery{Phase: quota.PhaseOpen, Max: 10}); len(found) != 1 || found[0].RequestID != "wrong-open" {
			t.Errorf("open: %v", idsOf(found))
		}
		do(t, s, releasing("wrong-open"), quota.Done)
		soundEngine(t, e)
	})
}

// What is refused, replayed, checked or not due writes nothing: not a byte, not a sync.
func TestReservationRefusalsWriteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writes atomic.Int64
		e := &hooks{Engine: memengine.New(), tx: func(tx store.Tx) store.Tx { return counting{tx, &writes} }}
		s := open(t, e, store.Options{Defaults: fifty})
		defer closeStore(t, s)
		do(t, s, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: fifty.Limits, MaxHold: 50, MaxInFlight: 2}}, quota.Done)
		for _, id := range []string{"open", "settled", "released"} {
			do(t, s, reserving("a", id, time.Hour, quota.Charge{Amount: 5}), quota.Done)
			switch id {
			case "settled":
				do(t, s, settling(id, quota.Charge{Amount: 4}), quota.Done)
			case "released":
				do(t, s, releasing(id), quota.Done)
			}
		}
		do(t, s, acquire("a", "plain"), quota.Done)
		do(t, s, extending("open", "more", time.Hour, quota.Charge{Amount: 1}), quota.Done)
		synctest.Wait()
		revision := s.Revision()
		writes.Store(0)
		do(t, s, reserving("a", "open", time.Hour, quota.Charge{Amount: 5}), quota.Done)
		do(t, s, reserving("a", "open", time.Hour, quota.Charge{Amount: 6}), quota.IDReused)
		do(t, s, reserving("a", "greedy", time.Hour, quota.Charge{Amount: 26}), quota.Denied)
		do(t, s, settling("settled", quota.Charge{Amount: 4}), quota.Done)
		do(t, s, settling("settled", quota.Charge{Amount: 5}), quota.AlreadySettled)
		do(t, s, settling("released"), quota.AlreadyReleased)
		do(t, s, settling("plain"), quota.NotReservation)
		do(t, s, settling("nobody"), quota.UnknownReservation)
		do(t, s, releasing("released"), quota.Done)
		do(t, s, releasing("settled"), quota.AlreadySettled)
		do(t, s, extending("open", "more", time.Hour, quota.Charge{Amount: 1}), quota.Done)
		do(t, s, extending("open", "greedy", time.Hour, quota.Charge{Amount: 40}), quota.Denied)
		do(t, s, quota.Expire{Max: 10}, quota.Done)
		if _, err := s.Check(t.Context(), acquire("a", "")); err != nil {
			t.Error(err)
		}
		allPages(t, s, store.ReservationQuery{Max: 1})
		time.Sleep(30 * time.Minute) // the keeper looks, and nothing is due
		synctest.Wait()
		if writes.Load() != 0 || s.Revision() != revision {
			t.Errorf("%d writes, %d commits", writes.Load(), s.Revision()-revision)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if writes.Load() == 0 {
			t.Error("the control, an expiry, wrote nothing")
		}
	})
}
