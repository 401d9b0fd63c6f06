package store_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// slow is an engine on which deciding takes a second for each transaction, and what the engine does itself three.
type slow struct {
	store.Engine
	on *atomic.Bool
}

func (s slow) Update(ctx context.Context, fn func(store.Tx) error) error {
	if !s.on.Load() {
		return s.Engine.Update(ctx, fn)
	}
	time.Sleep(time.Second)
	return s.Engine.Update(ctx, func(tx store.Tx) error {
		defer time.Sleep(2 * time.Second)
		return fn(slowTx{tx, new(sync.Once)})
	})
}

// slowTx takes a second to read something first.
type slowTx struct {
	store.Tx
	first *sync.Once
}

func (s slowTx) Get(space, key string) ([]byte, error) {
	s.first.Do(func() { time.Sleep(time.Second) })
	return s.Tx.Get(space, key)
}

// What each stage took is told apart: an op waits from being asked for to the begin of its own batch, and deciding is without what the
// engine does before and after.
func TestStages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type stage struct {
			Ops                 int
			Took, Deciding      time.Duration
			First, Last         time.Duration // how long these waited
			Wrote, OutcomesDone bool
		}
		var got []stage
		var on atomic.Bool
		s := open(t, slow{memengine.New(), &on}, store.Options{Defaults: fifty, OnBatch: func(b store.Batch) {
			if on.Load() && len(b.Outcomes) > 0 {
				first, last := b.Outcomes[0], b.Outcomes[len(b.Outcomes)-1]
				got = append(got, stage{b.Ops, b.Took, b.Deciding, first.Waited, last.Waited, b.Wrote, last.Outcome == quota.Done})
			}
		}})
		synctest.Wait() // the keeper has looked
		on.Store(true)
		var calls sync.WaitGroup
		call := func() { calls.Go(func() { do(t, s, acquire("a", ""), quota.Done) }) }
		call() // begins at once
		synctest.Wait()
		time.Sleep(time.Second)
		call() // after 1 s, and waits for the other 3
		synctest.Wait()
		time.Sleep(2 * time.Second)
		call() // after 3 s, and waits for 1
		calls.Wait()
		on.Store(false)
		want := []stage{
			{1, 4 * time.Second, time.Second, 0, 0, true, true},
			{2, 4 * time.Second, time.Second, 3 * time.Second, time.Second, true, true},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		closeStore(t, s)
	})
}

// What was refused because too many were waiting is counted, and nothing else is.
func TestOverloadedIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var on atomic.Bool
		s := open(t, slow{memengine.New(), &on}, store.Options{Defaults: fifty})
		synctest.Wait() // the keeper has looked
		on.Store(true)
		var calls sync.WaitGroup
		for range 1 + store.QueueMax { // the first is being written
			calls.Go(func() {
				if _, err := s.Apply(t.Context(), acquire("a", "")); err != nil {
					t.Error(err)
				}
			})
			if s.Status(t.Context()).Queue == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		for range 3 {
			if _, err := s.Apply(t.Context(), acquire("a", "")); !errors.Is(err, store.ErrOverloaded) {
				t.Errorf("%v, want ErrOverloaded", err)
			}
		}
		if n := s.Status(t.Context()).Overloaded; n != 3 {
			t.Errorf("%d are counted, want 3", n)
		}
		calls.Wait()
		on.Store(false)
		closeStore(t, s)
	})
}

// How far the machine's clock is from the ledger's time is told both ways, and the trail's length with it.
func TestClockAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var shift dial
		began := time.Now()
		s := open(t, memengine.New(), store.Options{
			Now:    func() time.Time { return time.Now().Add(shift.get()) },
			Uptime: func() time.Duration { return time.Since(began) },
		})
		for _, c := range []struct {
			shift, ahead time.Duration
			held         bool
		}{{0, 0, false}, {2 * time.Hour, 2 * time.Hour, true}, {0, 0, false}, {-time.Hour, -time.Hour, false}} {
			shift.set(c.shift)
			if st := s.Status(t.Context()); st.ClockAhead != c.ahead || st.ClockHeld != c.held {
				t.Errorf("shifted by %s: %s ahead, held %v", c.shift, st.ClockAhead, st.ClockHeld)
			}
		}
		shift.set(0)
		before := s.Status(t.Context()).Audited
		do(t, s, quota.SetBucket{Name: "a"}, quota.Done)
		if n := s.Status(t.Context()).Audited - before; n != 1 {
			t.Errorf("%d audit records are counted of one change", n)
		}
		closeStore(t, s)
	})
}
