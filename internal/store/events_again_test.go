package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// secondThought is an engine that decides every transaction once for nothing, as an engine may, and refuses as many as it is told for want of
// room, so that batches are decided in parts.
type secondThought struct {
	store.Engine
	mu   sync.Mutex
	full int // how many updates are still to be refused
}

var errForNothing = errors.New("for nothing")

func (a *secondThought) Update(ctx context.Context, fn func(store.Tx) error) error {
	err := a.Engine.Update(ctx, func(tx store.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return errForNothing
	})
	if !errors.Is(err, errForNothing) {
		return err
	}
	a.mu.Lock()
	refuse := a.full > 0
	if refuse {
		a.full--
	}
	a.mu.Unlock()
	if refuse {
		return store.ErrFull
	}
	return a.Engine.Update(ctx, fn)
}

// An op that is decided twice, or refused for want of room and sent again, is told of once, with numbers that leave none out.
func TestDecidedTwiceIsToldOnce(t *testing.T) {
	t.Parallel()
	e := &secondThought{Engine: memengine.New()}
	s := open(t, e, store.Options{Defaults: telling})
	for round := range 10 {
		e.mu.Lock()
		e.full = 5
		e.mu.Unlock()
		bucket := fmt.Sprint("again/", round)
		var all sync.WaitGroup
		for i := range 60 { // ten more than there are
			all.Go(func() {
				op := acquire(bucket, fmt.Sprint(bucket, "/", i))
				for {
					d, err := s.Apply(t.Context(), op)
					if errors.Is(err, store.ErrFull) {
						continue // nothing was charged: once more, under the same id
					}
					if err != nil || d.Outcome != quota.Done && d.Outcome != quota.Denied {
						t.Errorf("%v, %v", d.Outcome, err)
					}
					return
				}
			})
		}
		all.Wait()
		do(t, s, acquire(bucket, fmt.Sprint(bucket, "/late")), quota.Denied)
	}
	events := allEvents(t, s, 0)
	told := make(map[string]int)
	for i, event := range events {
		if event.ID != int64(i+1) {
			t.Errorf("event %d has the id %d", i+1, event.ID)
		}
		told[fmt.Sprintf("%s %d%%: %d", event.Balance.Bucket, event.Percent, event.Balance.Used)]++
	}
	for round := range 10 {
		for _, want := range []string{"80%: 40", "100%: 50"} {
			if n := told[fmt.Sprintf("again/%d %s", round, want)]; n != 1 {
				t.Errorf("again/%d %s was told %d times: %v", round, want, n, told)
			}
		}
	}
	if len(events) != 20 || s.LastEvent() != 20 {
		t.Errorf("%d events, the last is %d; want 20", len(events), s.LastEvent())
	}
	closeStore(t, s)
}
