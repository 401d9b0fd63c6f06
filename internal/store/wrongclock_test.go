package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// A daemon that was started with a clock far ahead, and put right with --accept-clock, has lost nothing: counts, receipts and the
// audit trail are those of before, what was granted meanwhile is remembered, and verify is content.
func TestWrongClockLosesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		var shift dial
		began := time.Now()
		o := store.Options{
			Defaults: fifty,
			Now:      func() time.Time { return time.Now().Add(shift.get()) },
			Uptime:   func() time.Duration { return time.Since(began) },
		}
		monthly := quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Month, Max: 5}}}
		s := open(t, openBolt(t, dir), o)
		do(t, s, quota.SetBucket{Name: "monthly", Settings: monthly}, quota.Done)
		do(t, s, acquire("monthly", "before", quota.Charge{Amount: 5}), quota.Done)
		closeStore(t, s)

		shift.set(800 * 24 * time.Hour)
		s = open(t, openBolt(t, dir), o)
		do(t, s, acquire("monthly", "wrong"), quota.Done)
		do(t, s, quota.SetBucket{Name: "other"}, quota.Done)
		time.Sleep(time.Hour) // the keeper looks, and deletes nothing by a time that is a day old at most
		closeStore(t, s)

		shift.set(0)
		o.AcceptClock = true
		s = open(t, openBolt(t, dir), o)
		for _, id := range []string{"before", "wrong"} {
			n := int64(1)
			if id == "before" {
				n = 5
			}
			if d := do(t, s, acquire("monthly", id, quota.Charge{Amount: n}), quota.Done); !d.Replayed {
				t.Errorf("%s was charged again", id)
			}
		}
		do(t, s, acquire("monthly", ""), quota.Denied)
		do(t, s, quota.SetBucket{Name: "third"}, quota.Done)
		var last int64 = 100
		for before := int64(0); ; {
			page, err := s.Audit(t.Context(), store.AuditQuery{Before: before, Max: 2})
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range page.Records {
				if last != 100 && a.Sequence != last-1 {
					t.Errorf("audit record %d after %d", a.Sequence, last)
				}
				last = a.Sequence
			}
			if before = page.Next; before == 0 {
				break
			}
		}
		if last != 1 {
			t.Errorf("the trail ends at %d", last)
		}
		verified(t, s, dir)
	})
}

// The control of the one above: a time that has stood for a day is believed, and then old things leave.
func TestRightClockTidies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, openBolt(t, dir), store.Options{Defaults: fifty})
		do(t, s, acquire("a", "id"), quota.Done)
		closeStore(t, s)
		time.Sleep(800 * 24 * time.Hour)
		s = open(t, openBolt(t, dir), store.Options{Defaults: fifty})
		days := func() int {
			found, _, err := s.Usage(t.Context(), store.UsageQuery{Span: window.Day, Max: 10})
			if err != nil {
				t.Fatal(err)
			}
			return len(found)
		}
		time.Sleep(time.Hour)
		if days() != 1 {
			t.Error("deleted by a time that nobody had confirmed")
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if days() != 0 {
			t.Error("what is two years old is still there after a day")
		}
		verified(t, s, dir)
	})
}

// A clock that is set back and then right again is no jump: yesterday does not go on past midnight.
func TestClockBackAndRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shift dial
		began := time.Now()
		s := open(t, memengine.New(), store.Options{
			Defaults: fifty,
			Now:      func() time.Time { return time.Now().Add(shift.get()) },
			Uptime:   func() time.Duration { return time.Since(began) },
		})
		defer closeStore(t, s)
		time.Sleep(24*time.Hour - 10*time.Minute)
		do(t, s, acquire("a", "", quota.Charge{Amount: 50}), quota.Done)
		shift.set(-3 * time.Hour)
		do(t, s, acquire("a", ""), quota.Denied)
		shift.set(0)
		time.Sleep(11 * time.Minute)
		do(t, s, acquire("a", ""), quota.Done)
		shift.set(30 * 24 * time.Hour) // and a reading does not believe what the writer would not
		if now := s.Status(t.Context()).LedgerTime; time.Until(now) > time.Minute {
			t.Errorf("the status shows %v", now)
		}
		if d, err := s.Check(t.Context(), acquire("a", "")); err != nil || d.Balances[0].Used != 1 {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// A sync that fails while the ops of a batch are written one by one ends the store like any other.
func TestFaultWhileSingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		writes := 0
		e := &hooks{Engine: memengine.New(), after: func() { time.Sleep(time.Millisecond) }}
		s := open(t, e, store.Options{Defaults: fifty})
		synctest.Wait() // the keeper has looked, and reads no hooks while they are set
		e.tx = func(tx store.Tx) store.Tx { return picky{tx} }
		var callers sync.WaitGroup
		callers.Go(func() { do(t, s, acquire("first", ""), quota.Done) })
		synctest.Wait()
		e.before = func() error {
			if writes++; writes > 3 {
				return fmt.Errorf("%w: for the test", store.ErrUnknown)
			}
			return nil
		}
		for range 10 {
			callers.Go(func() {
				_, err := s.Apply(t.Context(), acquire("good", ""))
				if err != nil && !errors.Is(err, store.ErrUnknown) {
					t.Error(err)
				}
			})
			callers.Go(func() {
				if _, err := s.Apply(t.Context(), acquire("poison", "")); !errors.Is(err, errPicky) && !errors.Is(err, store.ErrUnknown) {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		select {
		case <-s.Failed():
		default:
			t.Error("the store has not failed")
		}
		closeStore(t, s)
	})
}

// A page looks at a bounded number of records, however little it finds.
func TestReadsAreBounded(t *testing.T) {
	s := open(t, memengine.New(), store.Options{Defaults: quota.Defaults{Limits: fifty.Limits, UndeclaredLive: 100_000}})
	defer closeStore(t, s)
	charges := make([]quota.Charge, 32)
	for i := 0; i < 25_000; i += len(charges) {
		for j := range charges {
			charges[j] = quota.Charge{Bucket: quota.Bucket(fmt.Sprintf("many/%06d", i+j)), Amount: 1}
		}
		do(t, s, acquire("many", "", charges...), quota.Done)
	}
	pages := 0
	for after := ""; ; pages++ {
		found, next, err := s.Usage(t.Context(), store.UsageQuery{Span: window.Day, Unit: "nothing", After: after, Max: 10})
		if err != nil || len(found) > 0 {
			t.Fatal(found, err)
		}
		if after = next; next == "" {
			break
		}
	}
	if pages != 1 {
		t.Errorf("%d pages before the last, want 1", pages)
	}
}

// A bucket whose zone was changed on a day keeps that day's count and its receipts, and verify adds them up right.
func TestVerifyAfterZoneChange(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, openBolt(t, dir), store.Options{Defaults: fifty})
		settings := quota.Settings{Limits: fifty.Limits, Zone: "Asia/Kolkata"}
		do(t, s, quota.SetBucket{Name: "k", Settings: settings}, quota.Done)
		time.Sleep(20 * time.Hour) // the 2nd in Kolkata, the 1st in UTC
		do(t, s, acquire("k", "one"), quota.Done)
		settings.Zone = "UTC"
		do(t, s, quota.SetBucket{Name: "k", Settings: settings}, quota.Done)
		time.Sleep(14 * time.Hour) // the 2nd in both
		if d := do(t, s, acquire("k", "two"), quota.Done); d.Balances[0].Used != 2 {
			t.Errorf("the change of zone opened the day again: %+v", d.Balances)
		}
		time.Sleep(14*time.Hour + 10*time.Minute) // the 3rd; the receipts of the 1st have left
		do(t, s, acquire("k", "three"), quota.Done)
		synctest.Wait()
		time.Sleep(30 * time.Minute)
		verified(t, s, dir)
	})
}
