package groupcommit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quotad/quotad/internal/groupcommit"
)

// doer is what the stress test needs of a Committer.
type doer interface {
	Do(ctx context.Context, op int) (int, error)
	Close()
}

// errPoisoned fails the batches that hold an op divisible by 97.
var errPoisoned = errors.New("poisoned batch")

// stress has many callers write through what start makes, with contexts that end
// at any moment, a queue that overflows, batches that fail, and a Close in the
// middle. It returns the first op that was not written exactly once although
// Do returned nil, or was written although Do returned an error.
func stress(start func(commit func([]int, []groupcommit.Result[int]) error) doer) error {
	const callers, rounds = 32, 200
	var (
		written [callers * rounds]atomic.Int32
		done    [callers * rounds]error
		ran     [callers * rounds]bool
		begun   atomic.Int64
	)
	c := start(func(ops []int, results []groupcommit.Result[int]) error {
		for i := range rand.IntN(20) { // a write takes a while
			if i%4 == 0 {
				runtime.Gosched()
			}
		}
		for _, op := range ops {
			if op%97 == 0 {
				return errPoisoned
			}
		}
		for i, op := range ops {
			written[op].Add(1)
			results[i].Value = -op
		}
		return nil
	})
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for round := range rounds {
				op := caller*rounds + round
				ctx, cancel := context.WithCancel(context.Background())
				if rand.IntN(2) == 0 {
					go cancel()
				}
				value, err := c.Do(ctx, op)
				cancel()
				if err == nil && value != -op {
					err = fmt.Errorf("got the answer of op %d", -value)
				}
				done[op], ran[op] = err, true
				if begun.Add(1) == callers*rounds*9/10 {
					go c.Close()
				}
			}
		})
	}
	wg.Wait()
	c.Close()
	for op := range written {
		got, want := written[op].Load(), int32(0)
		if done[op] == nil {
			want = 1
		}
		if !ran[op] || got != want {
			return fmt.Errorf("op %d was written %d times, want %d: Do returned %s", op, got, want, fmt.Sprint(done[op]))
		}
		switch err := done[op]; {
		case err == nil, errors.Is(err, errPoisoned), errors.Is(err, context.Canceled),
			errors.Is(err, groupcommit.ErrOverloaded), errors.Is(err, groupcommit.ErrClosed):
		default:
			return fmt.Errorf("op %d: %w", op, err)
		}
	}
	return nil
}

// Each op is written exactly once if Do returned nil, and not at all if not.
func TestStress(t *testing.T) {
	for _, size := range []struct{ batch, queue int }{{1, 1}, {4, 8}, {16, 1024}, {1024, 1024}} {
		t.Run(fmt.Sprintf("batch=%d,queue=%d", size.batch, size.queue), func(t *testing.T) {
			t.Parallel()
			for range 5 {
				err := stress(func(commit func([]int, []groupcommit.Result[int]) error) doer {
					return groupcommit.New(size.batch, size.queue, commit)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// hasty is a committer with the mistake that the stress test is there to find:
// a context that ends wins over a write that has begun.
type hasty struct {
	inner *groupcommit.Committer[int, int]
}

func (h hasty) Do(ctx context.Context, op int) (int, error) {
	type answer struct {
		value int
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := h.inner.Do(context.WithoutCancel(ctx), op)
		answers <- answer{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (h hasty) Close() { h.inner.Close() }

// twice is another: it sends some ops that were written once more, as a retry
// that does not look at the answer would.
type twice struct {
	inner *groupcommit.Committer[int, int]
}

func (d twice) Do(ctx context.Context, op int) (int, error) {
	value, err := d.inner.Do(ctx, op)
	if err == nil && op%13 == 0 {
		return d.inner.Do(ctx, op)
	}
	return value, err
}

func (d twice) Close() { d.inner.Close() }

// The stress test can fail.
func TestStressFindsBrokenCommitters(t *testing.T) {
	const tries = 20 // each finds it nearly always
	for name, wrap := range map[string]func(*groupcommit.Committer[int, int]) doer{
		"hasty": func(c *groupcommit.Committer[int, int]) doer { return hasty{c} },
		"twice": func(c *groupcommit.Committer[int, int]) doer { return twice{c} },
	} {
		t.Run(name, func(t *testing.T) {
			for range tries {
				err := stress(func(commit func([]int, []groupcommit.Result[int]) error) doer {
					return wrap(groupcommit.New(16, 1024, commit))
				})
				if err != nil {
					t.Logf("found: %v", err)
					return
				}
			}
			t.Errorf("not found in %d tries", tries)
		})
	}
}
