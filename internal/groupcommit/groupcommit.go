// Package groupcommit lets many callers share one durable write.
//
// While one batch is being written the next one gathers. There is no timer: a
// lone caller never waits for company, and a crowd pays for one write. A caller
// that finds nobody writing and nobody waiting writes its own op, on its own
// goroutine, which spares it two changes of goroutine; whatever gathers in the
// meantime is written by the committer's.
package groupcommit

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

var (
	// ErrClosed means that the op was not taken, because Close had been called.
	ErrClosed = errors.New("groupcommit: closed")
	// ErrOverloaded means that the op was not taken, because the queue was full.
	ErrOverloaded = errors.New("groupcommit: queue is full")
)

// Result is what became of one op. An op's own error never touches the others
// of its batch. The zero value is a success with a zero Value.
type Result[Res any] struct {
	// Value is what the op yields; its zero value if it yields nothing.
	Value Res
	// Err is why the op was refused; nil means that it was written. Do returns
	// it as it is.
	Err error
}

// Committer hands ops to its commit function in batches, in the order in which
// they came. Make one with New and end it with Close; the zero value is not for
// use. Its methods are safe for concurrent use.
type Committer[Op, Res any] struct {
	commit   func(ops []Op, results []Result[Res]) error
	batchMax int
	queueMax int
	calls    sync.Pool     // of *call[Op, Res] that are in nobody's hands
	ended    chan struct{} // closed when the writing goroutine has returned

	mu      sync.Mutex // guards the rest; never held while anything blocks
	arrived sync.Cond  // on mu: nobody writes, and the queue is not empty or closed is set
	closed  bool
	writing bool // somebody is in commit, and no other may be
	queue   queue[Op, Res]

	// The batch of a caller that writes its own; whoever set writing has them.
	ownOp     [1]Op
	ownResult [1]Result[Res]
}

// call is one op on its way. It is its caller's, then the queue's, then the
// batch's until that sends on done, then its caller's again.
type call[Op, Res any] struct {
	ctx    context.Context //nolint:containedctx // it lives as long as the Do that it was given to
	op     Op
	result Result[Res]
	done   chan struct{} // holds one signal: result is set

	queued     bool // guarded by the committer's mu, as are:
	prev, next *call[Op, Res]
}

// New starts a Committer whose batches hold at most batchMax ops, and in which
// at most queueMax wait for their batch; both are at least 1, or New panics.
//
// commit writes a batch: it sets results[i] for ops[i], durably, before it
// returns nil. An error that it returns goes to every op of the batch, whatever
// the results say. It is called for one batch at a time, by whichever goroutine
// writes it. It keeps neither slice, and calls neither Do nor Close. If it panics the process ends:
// nobody could tell what was written.
func New[Op, Res any](batchMax, queueMax int, commit func(ops []Op, results []Result[Res]) error) *Committer[Op, Res] {
	if batchMax < 1 || queueMax < 1 {
		panic(fmt.Sprintf("groupcommit: batches of %d and a queue of %d, want 1 or more", batchMax, queueMax))
	}
	c := &Committer[Op, Res]{
		commit:   commit,
		batchMax: batchMax,
		queueMax: queueMax,
		ended:    make(chan struct{}),
	}
	c.arrived.L = &c.mu
	c.calls.New = func() any { return &call[Op, Res]{done: make(chan struct{}, 1)} }
	go c.run()
	return c
}

// Do has op written with the next batch, and returns what became of it.
//
// A context that ends while op waits for its batch takes it out: Do returns the
// context's error at once, and op is certainly not written. Once its batch has
// begun the context has no effect: Do waits for the outcome and tells the truth.
// ErrOverloaded and ErrClosed come at once, and mean not written.
func (c *Committer[Op, Res]) Do(ctx context.Context, op Op) (Res, error) {
	if err := ctx.Err(); err != nil {
		var none Res
		return none, err
	}
	if c.lead() {
		return c.writeOwn(op)
	}
	k := c.calls.Get().(*call[Op, Res])
	k.ctx, k.op = ctx, op
	if err := c.enqueue(k); err != nil {
		return c.finish(k, Result[Res]{Err: err})
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		if c.withdraw(k) {
			return c.finish(k, Result[Res]{Err: ctx.Err()})
		}
		<-k.done
	}
	return c.finish(k, k.result)
}

// Len returns how many ops wait for their batch now.
func (c *Committer[Op, Res]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.len
}

// Close takes no more ops, writes those that are queued, and returns when the
// last batch has been answered and the writing goroutine has ended. It may be
// called more than once.
func (c *Committer[Op, Res]) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.arrived.Signal()
	<-c.ended
}

// enqueue puts k at the end of the queue, or says why not.
func (c *Committer[Op, Res]) enqueue(k *call[Op, Res]) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	if c.queue.len == c.queueMax {
		c.mu.Unlock()
		return ErrOverloaded
	}
	c.queue.push(k)
	free := !c.writing
	c.mu.Unlock()
	if free { // else whoever writes will look when it is done
		c.arrived.Signal()
	}
	return nil
}

// lead reports whether the caller is to write its own op: it is the only one.
func (c *Committer[Op, Res]) lead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.writing || c.queue.len > 0 {
		return false
	}
	c.writing = true
	return true
}

// writeOwn writes an op alone. The caller leads.
func (c *Committer[Op, Res]) writeOwn(op Op) (Res, error) {
	defer fatal()
	c.ownOp[0] = op
	err := c.commit(c.ownOp[:], c.ownResult[:])
	r := c.ownResult[0]
	if err != nil {
		r.Err = err
	}
	clear(c.ownOp[:]) // so that nothing is kept alive
	clear(c.ownResult[:])
	c.release()
	return r.Value, r.Err
}

// fatal makes a panic of commit end the process, though a caller further up may
// be ready to recover from one. It is to be deferred.
func fatal() {
	if reason := recover(); reason != nil {
		stack := debug.Stack()
		go panic(fmt.Sprintf("groupcommit: writing panicked: %v\n%s", reason, stack))
		select {} // the process ends before this does
	}
}

// release lets the next one write.
func (c *Committer[Op, Res]) release() {
	c.mu.Lock()
	c.writing = false
	waiting := c.queue.len > 0 || c.closed
	c.mu.Unlock()
	if waiting {
		c.arrived.Signal()
	}
}

// withdraw takes k out of the queue, and reports whether it was still there.
// If so nobody but its caller holds k; if not, its batch will signal done.
func (c *Committer[Op, Res]) withdraw(k *call[Op, Res]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !k.queued {
		return false
	}
	c.queue.remove(k)
	return true
}

// finish hands k back for another Do and returns its result. The caller is the
// only one to hold k, and its done is empty.
func (c *Committer[Op, Res]) finish(k *call[Op, Res], r Result[Res]) (Res, error) {
	var none Op
	k.ctx, k.op, k.result = nil, none, Result[Res]{} // so that the pool keeps nothing alive
	c.calls.Put(k)
	return r.Value, r.Err
}

// run writes batches until the committer is closed and its queue is empty.
func (c *Committer[Op, Res]) run() {
	defer close(c.ended)
	b := batch[Op, Res]{
		calls:   make([]*call[Op, Res], 0, c.batchMax),
		ops:     make([]Op, 0, c.batchMax),
		results: make([]Result[Res], c.batchMax),
	}
	for c.gather(&b) {
		b.dropEnded()
		if len(b.ops) > 0 {
			b.answer(c.commit(b.ops, b.results[:len(b.ops)]))
		}
		b.reset()
		c.release()
	}
}

// gather waits until something is queued and nobody writes, and moves as much of it as fits into
// b, which is empty. It reports false once the committer is closed and nothing
// is left to write.
func (c *Committer[Op, Res]) gather(b *batch[Op, Res]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing || c.queue.len == 0 && !c.closed {
		c.arrived.Wait()
	}
	c.writing = true // also at the end: there is nobody left to write
	for len(b.calls) < c.batchMax && c.queue.len > 0 {
		k := c.queue.first
		c.queue.remove(k)
		b.calls = append(b.calls, k)
	}
	return len(b.calls) > 0
}

// batch is what one write carries. The writing goroutine uses one over and over.
type batch[Op, Res any] struct {
	calls    []*call[Op, Res]
	gathered int           // calls before dropEnded
	ops      []Op          // of calls, in order
	results  []Result[Res] // room for a whole batch; all zero between batches
}

// dropEnded answers the calls whose context has ended, and leaves in b those to
// be written.
func (b *batch[Op, Res]) dropEnded() {
	b.gathered = len(b.calls)
	live := b.calls[:0]
	for _, k := range b.calls {
		if err := k.ctx.Err(); err != nil {
			k.result.Err = err
			k.done <- struct{}{}
			continue
		}
		live = append(live, k)
		b.ops = append(b.ops, k.op)
	}
	b.calls = live
}

// answer tells every caller of the batch what became of its op. After its
// signal a call is its caller's again, and not to be touched.
func (b *batch[Op, Res]) answer(err error) {
	for i, k := range b.calls {
		if err != nil {
			k.result.Err = err
		} else {
			k.result = b.results[i]
		}
		k.done <- struct{}{}
	}
}

// reset empties b, so that it keeps nothing alive. It touches only what was
// used, since most batches are far from full.
func (b *batch[Op, Res]) reset() {
	clear(b.calls[:b.gathered])
	clear(b.results[:len(b.ops)])
	clear(b.ops)
	b.calls, b.ops = b.calls[:0], b.ops[:0]
}
