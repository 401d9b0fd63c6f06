package enginetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quotad/quotad/internal/store"
)

// patience is how long a call may take that should not wait for anything.
const patience = 10 * time.Second

// promptly runs fn, and gives it up if it waits for something.
func promptly(what string, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case err := <-done:
		return err
	case <-timeout.C:
		return fmt.Errorf("%s had not ended after %v", what, patience)
	}
}

func aViewSeesNoRunningUpdate(ctx context.Context, e store.Engine) error {
	before, after := contents{"a": {"k": "1"}}, contents{"a": {"k": "2", "l": "3"}, "b": {"m": "4"}}
	if err := fill(ctx, e, before); err != nil {
		return err
	}
	if err := e.Update(ctx, func(tx store.Tx) error {
		if err := putAll(tx, after); err != nil {
			return err
		}
		return promptly("a view beside an update", func() error { return viewHolds(ctx, e, before) })
	}); err != nil {
		return err
	}
	return viewHolds(ctx, e, after)
}

func aViewStaysAsItWas(ctx context.Context, e store.Engine) error {
	before := contents{"a": {"k": "1"}, "b": {"l": "2"}}
	if err := fill(ctx, e, before); err != nil {
		return err
	}
	if err := e.View(ctx, func(tx store.Tx) error {
		if err := holds(tx, before); err != nil {
			return err
		}
		for i := range 20 {
			if err := promptly("an update beside a view", func() error {
				return e.Update(ctx, func(tx store.Tx) error {
					return errors.Join(tx.Put("a", "k", []byte("new")), tx.Put("a", strconv.Itoa(i), nil), tx.Drop("b"))
				})
			}); err != nil {
				return err
			}
		}
		return holds(tx, before)
	}); err != nil {
		return err
	}
	return e.View(ctx, func(tx store.Tx) error {
		if v, err := tx.Get("a", "k"); err != nil || string(v) != "new" {
			return fmt.Errorf("after the updates Get = %s, %s", short(v), text(err))
		}
		return nil
	})
}

// updatesDoNotOverlap counts in two places at once, in updates that fail now and then, and looks that both agree.
func updatesDoNotOverlap(ctx context.Context, e store.Engine) error {
	const writers, each = 8, 25
	var wg sync.WaitGroup
	errs := make(chan error, 2*writers)
	var running, kept atomic.Int64
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				err := e.Update(ctx, func(tx store.Tx) error {
					if running.Add(1) != 1 {
						return errors.New("two updates ran at once")
					}
					defer running.Add(-1)
					for range 5 { // others get the chance to come in
						runtime.Gosched()
					}
					return countUp(tx, (w+i)%7 == 0)
				})
				switch {
				case err == nil:
					kept.Add(1)
				case !errors.Is(err, errOurs):
					errs <- err
					return
				}
			}
		})
		wg.Go(func() {
			for range each {
				if err := e.View(ctx, func(tx store.Tx) error { _, err := countOf(tx); return err }); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		return err
	}
	return e.View(ctx, func(tx store.Tx) error {
		if n, err := countOf(tx); err != nil || n != kept.Load() {
			return fmt.Errorf("the count is %d, %s, want %d", n, text(err), kept.Load())
		}
		return nil
	})
}

func countUp(tx store.Tx, fail bool) error {
	n, err := countOf(tx)
	if err != nil {
		return err
	}
	v := []byte(strconv.FormatInt(n+1, 10))
	if err := tx.Put("a", "count", v); err != nil {
		return err
	}
	if fail {
		return errOurs
	}
	return tx.Put("b", "count", v)
}

func countOf(tx store.Tx) (int64, error) {
	a, err := tx.Get("a", "count")
	b, err2 := tx.Get("b", "count")
	if err := errors.Join(err, err2); err != nil || a == nil && b == nil {
		return 0, err
	}
	if string(a) != string(b) {
		return 0, fmt.Errorf("a transaction saw half of another: %s and %s", short(a), short(b))
	}
	return strconv.ParseInt(string(a), 10, 64)
}

func closed(ctx context.Context, e store.Engine) error {
	if err := fill(ctx, e, contents{"a": {"k": "1"}}); err != nil {
		return err
	}
	if err := e.Close(); err != nil {
		return err
	}
	ran := false
	fn := func(store.Tx) error { ran = true; return nil }
	if err := e.Update(ctx, fn); !errors.Is(err, store.ErrClosed) {
		return fmt.Errorf("Update after Close returned %s, want ErrClosed", text(err))
	}
	if err := e.View(ctx, fn); !errors.Is(err, store.ErrClosed) {
		return fmt.Errorf("View after Close returned %s, want ErrClosed", text(err))
	}
	if ran {
		return errors.New("a function was run after Close")
	}
	return nil
}

// closeWaits closes while a view and an update run.
func closeWaits(ctx context.Context, e store.Engine) error {
	inside, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 2)
	fn := func(tx store.Tx) error {
		inside <- struct{}{}
		<-release
		return holds(tx, contents{})
	}
	go func() { ended <- e.View(ctx, fn) }()
	go func() { ended <- e.Update(ctx, fn) }()
	<-inside
	<-inside
	shut := make(chan error, 1)
	go func() { shut <- e.Close() }()
	if err := promptly("refusing calls while Close waits", func() error {
		for {
			if err := e.View(ctx, func(store.Tx) error { return nil }); errors.Is(err, store.ErrClosed) {
				return nil
			}
			runtime.Gosched()
		}
	}); err != nil {
		return err
	}
	early := time.NewTimer(20 * time.Millisecond) // a Close that does not wait gets time to show it
	defer early.Stop()
	select {
	case err := <-shut:
		close(release)
		return fmt.Errorf("Close returned while two calls ran: %s", text(err))
	case <-early.C:
	}
	close(release)
	return errors.Join(<-ended, <-ended, promptly("Close", func() error { return <-shut }))
}
