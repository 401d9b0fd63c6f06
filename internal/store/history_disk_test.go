package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// memoryDisk is a disk in memory.
func memoryDisk() func() store.Engine {
	e := memengine.New()
	return func() store.Engine { return keepOpen{e} }
}

// copied returns a copy of what an engine keeps.
func copied(t *testing.T, from store.Engine) store.Engine {
	t.Helper()
	to := memengine.New()
	err := from.View(t.Context(), func(old store.Tx) error {
		return to.Update(t.Context(), func(tx store.Tx) error {
			return old.Spaces("", func(space string) bool {
				return old.Scan(space, "", func(key string, v []byte) bool { return tx.Put(space, key, v) == nil }) == nil
			})
		})
	})
	if err != nil {
		t.Error(err)
	}
	return to
}

// keepOpen is an engine whose bytes outlive it.
type keepOpen struct{ store.Engine }

func (keepOpen) Close() error { return nil }

// rough is the engine of a daemon: slow, full now and then, and it may die in the middle of a write.
type rough struct {
	store.Engine
	w      *world
	tamper func(store.Tx) store.Tx

	mu     sync.Mutex // guards what follows
	rng    *rand.Rand
	store  *store.Store
	parts  int           // how many writes after that may belong to the same batch
	fullAt time.Time     // when there was no room last, by the ledger's time
	left   int           // how many writes there are to the last; 0 or less means any number
	dead   bool          // that was the last
	stamp  int64         // when it died
	at     time.Duration // the same by the ledger's time
	copied store.Engine
}

const staleBy = 4 // how many writes old a stale copy is

// mortal lets the daemon die some time from now on, or not.
func (r *rough) mortal(s *store.Store, yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.store = s; yes {
		r.left = 2*staleBy + r.rng.IntN(30)
	}
}

func (r *rough) died() (stamp int64, at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stamp, r.at
}

// fate says what becomes of the next write: whether it is kept, how long it takes, and what is said of it.
func (r *rough) fate() (keep bool, pause time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause = time.Duration(1+r.rng.IntN(8)) * time.Millisecond
	switch {
	case r.dead:
		return false, 0, store.ErrUnknown
	case r.parts > 0 && r.store.Now().Equal(r.fullAt): // the parts of a batch for which there was no room are decided at one time
		pause = 0
		r.parts--
	}
	switch {
	case r.w.calm.Load(), r.w.over.Load():
		return true, pause, nil
	case r.left == staleBy && r.w.broken.stale:
		r.copied = copied(r.w.t, r.Engine)
	}
	if r.left--; r.left == 0 {
		r.dead, r.stamp, r.at = true, r.w.stamps.Add(1), r.w.instant(r.store.Now())
		return r.rng.IntN(2) == 0, pause, fmt.Errorf("%w: died", store.ErrUnknown)
	}
	if r.rng.IntN(12) == 0 {
		if r.store != nil {
			r.fullAt, r.parts = r.store.Now(), 2*historyClients
		}
		return false, 0, fmt.Errorf("%w: by chance", store.ErrFull)
	}
	return true, pause, nil
}

func (r *rough) Update(ctx context.Context, fn func(store.Tx) error) error {
	keep, pause, fate := r.fate()
	if !keep {
		return fate
	}
	err := r.Engine.Update(ctx, r.seen(fn))
	if err == nil {
		idle(pause)
	}
	return errors.Join(err, fate)
}

func (r *rough) View(ctx context.Context, fn func(store.Tx) error) error {
	return r.Engine.View(ctx, r.seen(fn))
}

// seen is fn, as far as it sees the engine.
func (r *rough) seen(fn func(store.Tx) error) func(store.Tx) error {
	if r.tamper == nil {
		return fn
	}
	return func(tx store.Tx) error { return fn(r.tamper(tx)) }
}
