package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// deliverAtOnce is how many notes are on their way at a time. They share quotad's syncs.
const deliverAtOnce = 64

// A note is one thing that quotad has to be told: how a reservation ended, or what was let through while quotad was away. All it
// asks for carries ids, so that telling it twice changes nothing.
type note struct {
	acquire *quotadv1.AcquireRequest // sent first, where FailOpen let it through; alone for a plain acquire
	settle  *quotadv1.SettleRequest  // at most one of settle and release
	release *quotadv1.ReleaseRequest
	perhaps bool // of a release: it may be that nothing was acquired

	seq   uint64     // its name in the journal; 0 if it is not there
	first chan error // takes the outcome of the first try; nil if nobody waits
}

func (n *note) id() string {
	switch {
	case n.settle != nil:
		return n.settle.GetRequestId()
	case n.release != nil:
		return n.release.GetRequestId()
	}
	return n.acquire.GetRequestId()
}

// outbox delivers notes in the background. Its goroutine lives only while there are some.
type outbox struct {
	o       options
	deliver func(context.Context, *note) error
	journal *journal // nil: in memory alone
	ctx     context.Context //nolint:containedctx // that of the goroutine, which comes and goes until close ends it
	stop    context.CancelFunc

	mu        sync.Mutex
	pending   []*note
	idle      chan struct{} // closed when the goroutine has ended; nil if there is none
	closed    bool
	delivered int64
	lost      int64
}

// openOutbox begins to deliver what the journal holds.
func openOutbox(o options, deliver func(context.Context, *note) error) (*outbox, error) {
	b := &outbox{o: o, deliver: deliver}
	if o.journal != "" {
		j, notes, err := openJournal(o.journal)
		if err != nil {
			return nil, err
		}
		b.journal, b.pending = j, notes
	}
	b.ctx, b.stop = context.WithCancel(context.Background()) //nolint:forbidigo // it outlives every call, and ends with close
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wake()
	return b, nil
}

// add takes a note over. It does not wait for the network.
func (b *outbox) add(n *note) {
	b.mu.Lock()
	var err error
	switch {
	case b.closed:
		err = ErrClosed
	case len(b.pending) >= PendingMax:
		err = fmt.Errorf("%d notes are waiting already", PendingMax)
	default:
		if b.journal != nil {
			// A journal that cannot be written (a full disk) makes the note no less deliverable; it is then in memory alone.
			_ = b.journal.add(n)
		}
		b.pending = append(b.pending, n)
		b.wake()
		b.mu.Unlock()
		return
	}
	b.lost++
	b.mu.Unlock()
	b.lose(n, err)
}

// wake starts the goroutine if there is something to do. mu is held.
func (b *outbox) wake() {
	if b.idle == nil && len(b.pending) > 0 && !b.closed {
		b.idle = make(chan struct{})
		go b.run(b.idle)
	}
}

// run delivers until nothing is left, or the outbox is closed.
func (b *outbox) run(idle chan struct{}) {
	defer close(idle)
	for failures := 0; ; {
		b.mu.Lock()
		batch := slices.Clone(b.pending[:min(len(b.pending), deliverAtOnce)])
		if len(batch) == 0 || b.ctx.Err() != nil {
			b.idle = nil
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		if b.round(batch) {
			failures = 0
			continue
		}
		failures++
		if b.journal != nil {
			_ = b.journal.sync() // quotad is away for a while: what is kept shall survive a power cut, too
		}
		pause(b.ctx, wait(b.o.backoff, failures))
	}
}

// round tries each note of a batch once, and tells whether quotad decided any of them.
func (b *outbox) round(batch []*note) bool {
	errs := make([]error, len(batch))
	var trying sync.WaitGroup
	for i, n := range batch {
		trying.Go(func() { errs[i] = b.deliver(b.ctx, n) })
	}
	trying.Wait()
	left := make(map[*note]bool, len(batch))
	refused := make(map[*note]error)
	b.mu.Lock()
	for i, n := range batch {
		switch {
		case errs[i] == nil:
			b.delivered++
		case final(errs[i]):
			b.lost++
			refused[n] = errs[i]
		default:
			left[n] = true
			continue
		}
		if b.journal != nil {
			b.journal.done(n)
		}
	}
	// What was tried without success goes behind what was not: one that quotad cannot decide holds nobody up.
	rest := slices.Clone(b.pending[len(batch):])
	for _, n := range batch {
		if left[n] {
			rest = append(rest, n)
		}
	}
	b.pending = rest
	b.mu.Unlock()
	for i, n := range batch {
		n.tried(errs[i])
	}
	for n, err := range refused {
		b.lose(n, err)
	}
	return len(left) < len(batch)
}

// tried tells who waits for the note how its first try ended.
func (n *note) tried(err error) {
	if n.first != nil {
		n.first <- err
		n.first = nil
	}
}

// lose reports a note that will never be delivered. A release of what was never acquired is none.
func (b *outbox) lose(n *note, err error) {
	n.tried(err)
	lost := Lost{RequestID: n.id(), Err: err}
	for _, c := range n.settle.GetCharges() {
		lost.Settled = append(lost.Settled, Charge{Bucket: c.GetBucket(), Unit: c.GetUnit(), Amount: c.GetAmount()})
	}
	b.o.onLost(lost)
}

func (b *outbox) counts() (pending, delivered, lost int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.pending)), b.delivered, b.lost
}

// flush waits until nothing is pending.
func (b *outbox) flush(ctx context.Context) error {
	for {
		b.mu.Lock()
		idle := b.idle
		b.mu.Unlock()
		if idle == nil {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// close stops delivering. What is left stays in the journal; without one it is lost.
func (b *outbox) close() error {
	b.mu.Lock()
	b.closed = true
	idle := b.idle
	b.mu.Unlock()
	b.stop()
	if idle != nil {
		<-idle
	}
	b.mu.Lock()
	left := b.pending
	if b.journal != nil {
		defer b.mu.Unlock()
		return b.journal.close()
	}
	b.pending, b.lost = nil, b.lost+int64(len(left))
	b.mu.Unlock()
	for _, n := range left {
		b.lose(n, ErrClosed)
	}
	return nil
}

// final tells whether an error is quotad's last word on a note, so that sending it again is no use. That it may not be done now, by
// this caller or this version, is not: permissions and versions change.
func final(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.OutOfRange, codes.DataLoss:
		return true
	}
	_, denied := deniedBy(err)
	return denied
}

// end delivers a note and waits for the outcome of its first try.
func (c *Client) end(ctx context.Context, n *note) error {
	first := make(chan error, 1)
	n.first = first
	c.outbox.add(n)
	op := "release"
	if n.settle != nil {
		op = "settle"
	}
	var err error
	select {
	case err = <-first:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	switch {
	case err == nil:
		return nil
	case final(err), errors.Is(err, ErrClosed):
		return fmt.Errorf("%s %s: %w", op, n.id(), err)
	}
	return &PendingError{RequestID: n.id(), Journaled: n.seq != 0, Err: err}
}

// deliver tells quotad one note, once.
func (c *Client) deliver(ctx context.Context, n *note) error {
	if n.acquire != nil {
		_, _, err := try(ctx, c.o.timeout, n.acquire, c.rpc.Acquire)
		if denied, ok := deniedBy(err); ok {
			return fmt.Errorf("what was let through is not booked: %w", denied)
		}
		if err != nil && reasonOf(err) != reasonExpired { // an expired one can be settled all the same
			return err
		}
	}
	var err error
	switch {
	case n.settle != nil:
		_, _, err = try(ctx, c.o.timeout, n.settle, c.rpc.Settle)
	case n.release != nil:
		_, _, err = try(ctx, c.o.timeout, n.release, c.rpc.Release)
		if n.perhaps && reasonOf(err) == reasonUnknown {
			return nil
		}
	}
	return err
}
