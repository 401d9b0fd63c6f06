package store_test

import (
	"context"
	"fmt"
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

// ticking counts transactions, once it is told to.
type ticking struct {
	store.Engine
	on      atomic.Bool
	updates atomic.Int64
}

func (e *ticking) Update(ctx context.Context, fn func(store.Tx) error) error {
	err := e.Engine.Update(ctx, fn)
	if e.on.Load() {
		e.updates.Add(1)
	}
	return err
}

// nothing is a bucket of which nothing may be used.
func nothing(name string) quota.SetBucket {
	limits := []quota.Limit{{Unit: quota.Calls, Span: window.Day}}
	return quota.SetBucket{Name: name, Settings: quota.Settings{Limits: limits}}
}

// TestNotPutOff: others that fall due all the time do not put an answer off. What is due by the time of a transaction is expired in
// that transaction.
func TestNotPutOff(t *testing.T) {
	const holds = 300
	e := &ticking{Engine: memengine.New()}
	began := time.Now()
	now := func() time.Time { return began.Add(time.Duration(e.updates.Load()) * time.Minute) } // so that one falls due with each
	var n ended
	s := open(t, e, store.Options{Now: now, Uptime: func() time.Duration { return now().Sub(began) }, OnBatch: n.onBatch})
	defer func() { _ = s.Close() }()
	do(t, s, nothing("full"), quota.Done)
	do(t, s, quota.SetBucket{Name: "other"}, quota.Done)
	for i := range holds {
		do(t, s, reserving("other", fmt.Sprint(i), time.Minute*time.Duration(i+2)), quota.Done)
	}
	e.updates.Store(5)
	e.on.Store(true)
	do(t, s, acquire("full", ""), quota.Denied)
	do(t, s, quota.Reset{Principal: "test", Bucket: "other"}, quota.Done)
	op := acquire("full", "")
	if d, err := s.Check(t.Context(), op); err != nil || d.Outcome != quota.Denied {
		t.Errorf("Check: %v %v", d.Outcome, err)
	}
	if took := e.updates.Load() - 5; took > 30 {
		t.Errorf("three answers took %d transactions: they were put off", took)
	}
	if n.charged.Load() == 0 {
		t.Error("nobody was told of what was expired")
	}
}

// cramped is an engine that has room for few writes in one transaction, once it is told to, as a file has that is nearly full.
type cramped struct {
	store.Engine
	on atomic.Bool
}

const crampedWrites = 40

type crampedTx struct {
	store.Tx
	left int
}

func (e *cramped) Update(ctx context.Context, fn func(store.Tx) error) error {
	if !e.on.Load() {
		return e.Engine.Update(ctx, fn)
	}
	return e.Engine.Update(ctx, func(tx store.Tx) error { return fn(&crampedTx{tx, crampedWrites}) })
}

func (x *crampedTx) Put(space, key string, value []byte) error {
	if x.left--; x.left < 0 {
		return fmt.Errorf("%w: %d writes are too many", store.ErrFull, crampedWrites)
	}
	return x.Tx.Put(space, key, value)
}

// TestLittleRoom: where there is no room for much at once, expiries are carried out a few at a time, a denial is a denial, and what
// ends reservations gets through although it came in a crowd.
func TestLittleRoom(t *testing.T) {
	const holds = 400
	synctest.Test(t, func(t *testing.T) {
		e := &cramped{Engine: memengine.New()}
		s := open(t, e, store.Options{})
		defer func() { _ = s.Close() }()
		do(t, s, nothing("full"), quota.Done)
		do(t, s, quota.SetBucket{Name: "a"}, quota.Done)
		for i := range holds {
			do(t, s, reserving("a", fmt.Sprint("short", i), time.Hour), quota.Done)
			do(t, s, reserving("a", fmt.Sprint("long", i), 9*time.Hour), quota.Done)
		}
		e.on.Store(true)
		time.Sleep(2 * time.Hour)
		do(t, s, acquire("full", ""), quota.Denied)
		time.Sleep(time.Minute)
		if st := s.Status(t.Context()); st.Open != holds {
			t.Errorf("%d are open, want %d; problems: %v", st.Open, holds, st.Problems)
		}
		var all sync.WaitGroup
		for i := range holds {
			all.Go(func() {
				var op quota.Op = settling(fmt.Sprint("long", i))
				if i%2 == 0 {
					op = releasing(fmt.Sprint("long", i))
				}
				if d, err := s.Apply(t.Context(), op); err != nil || d.Outcome != quota.Done {
					t.Errorf("%d: %v %v", i, d.Outcome, err)
				}
			})
		}
		all.Wait()
		if st := s.Status(t.Context()); st.Open != 0 {
			t.Errorf("%d are open, want none", st.Open)
		}
	})
}

// TestNoCountBelowZero: where a clock was ahead, a count may leave before what it was charged for is settled, and come back when the
// clock was set right. What is given back then is no more than is there.
func TestNoCountBelowZero(t *testing.T) {
	for _, last := range []quota.Op{settling("1", quota.Charge{Unit: quota.Calls}), releasing("1")} {
		t.Run(fmt.Sprintf("%T", last), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { countComesBack(t, last) }) })
	}
}

func countComesBack(t *testing.T, last quota.Op) {
	t.Helper()
	e := memengine.New()
	start := func(ahead time.Duration, accept bool) *store.Store {
		return open(t, noClose{e}, store.Options{AcceptClock: accept, Now: func() time.Time { return time.Now().Add(ahead) }})
	}
	until := func(day, hour int) { time.Sleep(time.Until(time.Date(2000, 1, day, hour, 0, 0, 0, time.UTC))) }
	ten := []quota.Limit{{Unit: quota.Calls, Span: window.Minute, Max: 10}}
	s := start(9*24*time.Hour, false)
	do(t, s, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: ten}}, quota.Done)
	until(1, 10) // Jan 10 by the wrong clock
	do(t, s, reserving("a", "1", 24*time.Hour, quota.Charge{Amount: 10}), quota.Done)
	until(2, 9)
	do(t, s, extending("1", "", 24*time.Hour), quota.Done)
	until(4, 1) // Jan 13: the minute has left
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(0, true)
	until(10, 10)
	do(t, s, acquire("a", ""), quota.Done)
	do(t, s, last, quota.Done)
	v, err := s.Bucket(t.Context(), "a")
	if err != nil || len(v.Balances) != 1 || v.Balances[0].Used < 0 || v.Balances[0].Used > 1 || v.Balances[0].Held != 0 {
		t.Errorf("%+v %v", v.Balances, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
