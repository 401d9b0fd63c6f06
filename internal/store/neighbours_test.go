package store_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// dial is how far a test's clock is off. It may be turned while somebody reads the clock.
type dial struct{ off atomic.Int64 }

func (d *dial) set(off time.Duration) { d.off.Store(int64(off)) }

func (d *dial) get() time.Duration { return time.Duration(d.off.Load()) }

// picky fails a write of one bucket, as an engine might that refuses a key.
type picky struct{ store.Tx }

var errPicky = errors.New("not this one")

func (p picky) Put(space, key string, v []byte) error {
	if strings.HasPrefix(key, "poison\x00") {
		return errPicky
	}
	return p.Tx.Put(space, key, v)
}

// An op that fails after it has begun to write takes nobody with it, though they shared a transaction.
func TestNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &hooks{Engine: memengine.New(), after: func() { time.Sleep(time.Millisecond) }}
		s := open(t, e, store.Options{Defaults: fifty})
		synctest.Wait() // the keeper has looked, and reads no hooks while they are set
		e.tx = func(tx store.Tx) store.Tx { return picky{tx} }
		var callers sync.WaitGroup
		callers.Go(func() { do(t, s, acquire("first", ""), quota.Done) })
		synctest.Wait() // the first is being written; the others share the next transaction
		for range 10 {
			callers.Go(func() { do(t, s, acquire("good", ""), quota.Done) })
			callers.Go(func() {
				if _, err := s.Apply(t.Context(), acquire("poison", "")); !errors.Is(err, errPicky) {
					t.Errorf("poison: %v", err)
				}
			})
		}
		callers.Wait()
		if got := used(t, s, "good"); got != 10 {
			t.Errorf("good: %d, want 10", got)
		}
		closeStore(t, s)
	})
}

// A listing has the buckets of current windows: not yesterday's, but those of the month.
func TestListingIsCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memengine.New(), store.Options{Defaults: fifty})
		defer closeStore(t, s)
		do(t, s, quota.SetBucket{Name: "monthly/*", Settings: quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Month, Max: 9}}}}, quota.Done)
		do(t, s, acquire("monthly/a", ""), quota.Done)
		do(t, s, acquire("daily", ""), quota.Done)
		listed := func() string {
			views, _, err := s.Buckets(t.Context(), store.BucketQuery{Max: 10})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, v := range views {
				names = append(names, v.Name)
			}
			return strings.Join(names, " ")
		}
		if got := listed(); got != "daily monthly/* monthly/a" {
			t.Errorf("today: %s", got)
		}
		time.Sleep(24 * time.Hour)
		if got := listed(); got != "monthly/* monthly/a" {
			t.Errorf("tomorrow: %s", got)
		}
		time.Sleep(31 * 24 * time.Hour)
		if got := listed(); got != "monthly/*" {
			t.Errorf("next month: %s", got)
		}
	})
}
