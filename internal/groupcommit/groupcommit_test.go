package groupcommit_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/groupcommit"
)

// syncTime is what a write costs on the fake disk. Inside a bubble time is exact.
const syncTime = 4 * time.Millisecond

// disk is a commit function that takes syncTime and remembers what it wrote. An
// op is answered by its tenfold.
type disk struct {
	batches [][]int
	fail    func(op int) error // an op's own outcome; nil means none fails
	broken  error              // fails every batch
}

func (d *disk) commit(ops []int, results []groupcommit.Result[int]) error {
	time.Sleep(syncTime)
	if d.broken != nil {
		return d.broken
	}
	d.batches = append(d.batches, slices.Clone(ops))
	for i, op := range ops {
		results[i].Value = 10 * op
		if d.fail != nil {
			results[i].Err = d.fail(op)
		}
	}
	return nil
}

// expect calls Do and checks the answer. A wanted error means a zero value,
// unless the op was written, which has a value of its own.
func expect(ctx context.Context, t *testing.T, c *groupcommit.Committer[int, int], op, want int, wantErr error) {
	t.Helper()
	if got, err := c.Do(ctx, op); got != want || !errors.Is(err, wantErr) {
		t.Errorf("Do(%d) = %d, %v, want %d, %v", op, got, err, want, wantErr)
	}
}

// A thousand callers: the first pays for itself, all the others share the
// second write.
func TestCrowdSharesOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(1024, 1024, d.commit)
		defer c.Close()
		start := time.Now()
		var wg sync.WaitGroup
		for op := range 1000 {
			wg.Go(func() { expect(t.Context(), t, c, op, 10*op, nil) })
			synctest.Wait() // so that the calls come in order, and the first is being written
		}
		if got := c.Len(); got != 999 {
			t.Errorf("Len = %d while the first write is under way, want 999", got)
		}
		wg.Wait()
		if took := time.Since(start); took != 2*syncTime || len(d.batches) != 2 {
			t.Fatalf("%d writes in %v, want 2 in %v", len(d.batches), took, 2*syncTime)
		}
		// Order within a batch is the order of arrival.
		for i, op := range d.batches[1] {
			if op != i+1 {
				t.Fatalf("op %d of the second batch is %d, want %d", i, op, i+1)
			}
		}
		if got := c.Len(); got != 0 {
			t.Errorf("Len = %d when all is written, want 0", got)
		}
	})
}

// A lone caller is written at once, and pays for one write each time.
func TestLoneCallerNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(8, 8, d.commit)
		defer c.Close()
		for op := range 10 {
			start := time.Now()
			expect(t.Context(), t, c, op, 10*op, nil)
			if took := time.Since(start); took != syncTime {
				t.Errorf("call %d took %v, want %v", op, took, syncTime)
			}
		}
	})
}

// No batch holds more than its bound; the rest comes with the next, in order.
func TestBatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(3, 8, d.commit)
		defer c.Close()
		var wg sync.WaitGroup
		for op := range 8 {
			wg.Go(func() { expect(t.Context(), t, c, op, 10*op, nil) })
			synctest.Wait()
		}
		wg.Wait()
		want := [][]int{{0}, {1, 2, 3}, {4, 5, 6}, {7}}
		if !slices.EqualFunc(d.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", d.batches, want)
		}
	})
}

// A caller that gives up behind a slow write is answered at that moment, is not
// written, and frees its place in the queue.
func TestCancelInQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(8, 3, d.commit)
		defer c.Close()
		var wg sync.WaitGroup
		wg.Go(func() { expect(t.Context(), t, c, 1, 10, nil) })
		synctest.Wait() // 1 is being written
		for _, op := range []int{2, 3, 4} {
			ctx := t.Context()
			if op == 3 { // from the middle of the queue
				timed, cancel := context.WithTimeout(ctx, syncTime/4)
				defer cancel()
				ctx = timed
			}
			wg.Go(func() {
				start := time.Now()
				if op != 3 {
					expect(ctx, t, c, op, 10*op, nil)
					return
				}
				expect(ctx, t, c, op, 0, context.DeadlineExceeded)
				if took := time.Since(start); took != syncTime/4 {
					t.Errorf("answered after %v, want %v", took, syncTime/4)
				}
			})
			synctest.Wait()
		}
		time.Sleep(syncTime / 2)
		if got := c.Len(); got != 2 {
			t.Errorf("Len = %d after one of three gave up, want 2", got)
		}
		wg.Go(func() { expect(t.Context(), t, c, 5, 50, nil) }) // takes the place that is free
		wg.Wait()
		want := [][]int{{1}, {2, 4, 5}}
		if !slices.EqualFunc(d.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", d.batches, want)
		}
	})
}

// A context that ends during the write changes nothing: the op is written, and
// its caller learns so when that is true.
func TestCancelDuringWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(8, 8, d.commit)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), syncTime/2)
		defer cancel()
		start := time.Now()
		expect(ctx, t, c, 1, 10, nil)
		if took := time.Since(start); took != syncTime {
			t.Errorf("answered after %v, want %v", took, syncTime)
		}
	})
}

// A context that has ended before Do is not even queued.
func TestCancelledBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(8, 8, d.commit)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		expect(ctx, t, c, 1, 0, context.Canceled)
		c.Close()
		if len(d.batches) != 0 {
			t.Errorf("batches %v, want none", d.batches)
		}
	})
}

// silent is a context that has ended without saying so on Done: what a batch
// sees of a caller that has not come to withdraw yet.
type silent struct {
	context.Context
	ended atomic.Bool
}

func (s *silent) Done() <-chan struct{} { return nil }

func (s *silent) Err() error {
	if s.ended.Load() {
		return context.Canceled
	}
	return nil
}

// A call whose context has ended when its batch begins is left out, and its
// neighbours are written. So is a batch of which nobody is left.
func TestEndedWhenBatchBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(2, 8, d.commit)
		defer c.Close()
		ctx := &silent{Context: t.Context()}
		var wg sync.WaitGroup
		wg.Go(func() { expect(t.Context(), t, c, 1, 10, nil) })
		synctest.Wait()
		for _, op := range []int{2, 3, 4} { // a batch of nobody but these two, then one with a neighbour
			wg.Go(func() { expect(ctx, t, c, op, 0, context.Canceled) })
			synctest.Wait()
		}
		wg.Go(func() { expect(t.Context(), t, c, 5, 50, nil) })
		synctest.Wait()
		ctx.ended.Store(true)
		wg.Wait()
		want := [][]int{{1}, {5}}
		if !slices.EqualFunc(d.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", d.batches, want)
		}
	})
}

// A full queue refuses at once, and takes again as soon as it has room.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(8, 2, d.commit)
		defer c.Close()
		var wg sync.WaitGroup
		for op := 1; op <= 3; op++ {
			wg.Go(func() { expect(t.Context(), t, c, op, 10*op, nil) })
			synctest.Wait()
		}
		start := time.Now()
		expect(t.Context(), t, c, 4, 0, groupcommit.ErrOverloaded)
		if took := time.Since(start); took != 0 {
			t.Errorf("refused after %v, want at once", took)
		}
		wg.Wait()
		expect(t.Context(), t, c, 5, 50, nil)
		want := [][]int{{1}, {2, 3}, {5}}
		if !slices.EqualFunc(d.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", d.batches, want)
		}
	})
}

// Close writes what is queued, in as many batches as it takes, and refuses the
// rest. It may come several times at once.
func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := groupcommit.New(2, 8, d.commit)
		var wg sync.WaitGroup
		for op := range 6 {
			wg.Go(func() { expect(t.Context(), t, c, op, 10*op, nil) })
			synctest.Wait()
		}
		start := time.Now()
		for range 3 {
			wg.Go(func() {
				c.Close()
				if took := time.Since(start); took != 4*syncTime {
					t.Errorf("Close returned after %v, want %v", took, 4*syncTime)
				}
			})
		}
		synctest.Wait()
		expect(t.Context(), t, c, 6, 0, groupcommit.ErrClosed)
		wg.Wait()
		want := [][]int{{0}, {1, 2}, {3, 4}, {5}}
		if !slices.EqualFunc(d.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", d.batches, want)
		}
		c.Close()
		expect(t.Context(), t, c, 7, 0, groupcommit.ErrClosed)
	})
}

// An op's own error is its own: its neighbours succeed.
func TestOneErrorLeavesNeighboursAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		d := disk{fail: func(op int) error {
			if op == 2 {
				return refused
			}
			return nil
		}}
		c := groupcommit.New(8, 8, d.commit)
		defer c.Close()
		var wg sync.WaitGroup
		for op := range 4 {
			wg.Go(func() { expect(t.Context(), t, c, op, 10*op, d.fail(op)) })
			synctest.Wait()
		}
		wg.Wait()
		if len(d.batches) != 2 {
			t.Errorf("%d writes, want 2", len(d.batches))
		}
	})
}

// A batch's error goes to all of it, whatever the results say, and the batches
// before and after are not touched by it.
func TestBatchErrorGoesToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("disk is gone")
		begun := 0
		c := groupcommit.New(8, 8, func(ops []int, results []groupcommit.Result[int]) error {
			time.Sleep(syncTime)
			for i := range results {
				if results[i] != (groupcommit.Result[int]{}) {
					t.Errorf("results[%d] = %v before the write, want zero", i, results[i])
				}
				results[i].Value = 10 * ops[i]
			}
			if begun++; begun == 2 {
				return broken
			}
			return nil
		})
		defer c.Close()
		var wg sync.WaitGroup
		wg.Go(func() { expect(t.Context(), t, c, 1, 10, nil) })
		synctest.Wait()
		for op := 2; op <= 5; op++ {
			wg.Go(func() { expect(t.Context(), t, c, op, 0, broken) })
		}
		wg.Wait()
		expect(t.Context(), t, c, 6, 60, nil)
	})
}

// Bounds that can hold nothing are a mistake of the program.
func TestNewRefusesEmptyBounds(t *testing.T) {
	for _, bounds := range [][2]int{{0, 1}, {1, 0}, {-1, 1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New(%d, %d) did not panic", bounds[0], bounds[1])
				}
			}()
			var d disk
			groupcommit.New(bounds[0], bounds[1], d.commit)
		}()
	}
}
