package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// deliverAtOnce is how many notes are on their way at a time. They share quotad's syncs.
const deliverAtOnce = 64

// bookWithin is how old what was let through may become before it is booked. It may have been granted at once, unknown to us, and quotad
// keeps the receipt that has it charge once for at least 24 hours; an hour of that is for clocks and a last try.
const bookWithin = 23 * time.Hour

// errTooOld is quotad's last word on what it was not asked any more.
var errTooOld = errors.New("what was let through is not booked: too old: quotad may have forgotten whether it was granted")

// A note is one thing that quotad has to be told: how a reservation ended, or what was let through while quotad was away. All it
// asks for carries ids, so that telling it twice changes nothing.
type note struct {
	acquire *quotadv1.AcquireRequest // sent first, where FailOpen let it through; alone for a plain acquire
	settle  *quotadv1.SettleRequest  // at most one of settle and release
	release *quotadv1.ReleaseRequest
	made    int64 // when the acquire was first sent, in seconds since 1970; 0 is not known, and too old
	perhaps bool  // of a release: it may be that nothing was acquired

	seq uint64 // its number in the journal; 0 if it is not there
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

// books tells whether a note is a plain acquire that has still to be booked, so that a release of it has to wait.
func (n *note) books() bool { return n.settle == nil && n.release == nil }

// unsure tells whether a note gives back what may never have been acquired. While quotad hangs there is one of these for each caller
// that comes, and they must not take the room of what is known to be held.
func (n *note) unsure() bool { return n.release != nil && n.perhaps }

// check finds what can never be sent, as a string is not UTF-8. gRPC calls that INTERNAL, which would be tried for ever.
func (n *note) check() error {
	_, err := proto.Marshal(n.acquire)
	if err == nil {
		_, err = proto.Marshal(n.settle)
	}
	if err == nil {
		_, err = proto.Marshal(n.release)
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}

// outbox delivers notes: on their caller's time, or in the background by workers, which live only while there is something to do. A
// worker that got no decision waits with its note in hand, so that the others go on with the rest.
type outbox struct {
	o       options
	deliver func(context.Context, *note) error
	journal *journal        // nil: in memory alone
	ctx     context.Context //nolint:containedctx // that of the workers, which come and go until close ends it
	stop    context.CancelFunc
	busy    sync.WaitGroup // workers, callers that deliver, and rewritings; none begins after closed
	syncing atomic.Bool    // whether a worker looks after what a power cut would take

	mu      sync.Mutex
	fresh   []*note         // never tried by a worker
	again   []*note         // tried without a decision; they come after the fresh ones, so that they hold nobody up
	kept    int             // all that is not decided: fresh, again, and on its way
	booking map[string]bool // the ids of kept notes that book
	workers int
	empty   chan struct{} // closed when kept becomes 0, or by close; nil while it is 0
	kick    chan struct{} // closed to end the pauses of workers
	closed  bool

	delivered, lost, unjournaled int64
}

// openOutbox begins to deliver what the journal holds.
func openOutbox(o options, deliver func(context.Context, *note) error) (*outbox, error) {
	b := &outbox{o: o, deliver: deliver, booking: make(map[string]bool), kick: make(chan struct{})}
	var notes []*note
	if o.journal != "" {
		var err error
		if b.journal, notes, err = openJournal(o.journal); err != nil {
			return nil, err
		}
	}
	b.ctx, b.stop = context.WithCancel(context.Background()) //nolint:forbidigo // it outlives every call, and ends with close
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range notes {
		b.keep(n)
		b.enqueue(&b.fresh, n)
	}
	return b, nil
}

// add takes a note over for the workers. It waits neither for the network nor for the disk.
func (b *outbox) add(n *note) {
	if _, err := b.accept(n, false); err != nil {
		b.lose(n, err)
	}
}

// now tries a note once, on its caller's time. A PendingError says that this decided nothing, and that the workers have it.
func (b *outbox) now(ctx context.Context, n *note) error {
	mine, err := b.accept(n, true)
	if err != nil {
		b.lose(n, err)
		return err
	}
	if !mine {
		b.mu.Lock()
		defer b.mu.Unlock()
		return &PendingError{RequestID: n.id(), Journaled: n.seq != 0, Err: errors.New("its acquire is not booked yet")}
	}
	defer b.busy.Done()
	trying, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	err = b.deliver(trying, n)
	if b.decide(n, err) {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enqueue(&b.again, n)
	if b.closed && n.seq == 0 {
		return ErrClosed // close tells OnLost
	}
	return &PendingError{RequestID: n.id(), Journaled: n.seq != 0, Err: ofContext(ctx, err)}
}

// accept keeps a note and puts it into the journal. mine tells whether the caller is to deliver it, as it wanted to, and to say Done;
// else the workers have it. After an error it is not kept.
func (b *outbox) accept(n *note, wanted bool) (mine bool, err error) {
	if err := n.check(); err != nil {
		return false, err
	}
	mine = wanted && !b.behind(n)
	n.perhaps = n.perhaps || wanted && !mine // an acquire that is denied in the end leaves nothing to give back
	var seq uint64
	var line []byte
	if b.journal != nil {
		if seq, line, err = b.journal.encode(n); err != nil {
			return false, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return false, ErrClosed
	case b.kept >= PendingMax, n.unsure() && b.kept >= PendingMax/2:
		return false, fmt.Errorf("%d settlements and releases are waiting already", b.kept)
	}
	if b.journal != nil {
		b.write(n, seq, line)
		if n.seq == 0 {
			b.unjournaled++
		}
	}
	b.keep(n)
	if mine {
		b.busy.Add(1)
	} else {
		b.enqueue(&b.fresh, n)
	}
	return mine, nil
}

// write puts a note into the journal. One that cannot be written (a full disk) makes the note no less deliverable; it is then in
// memory alone.
func (b *outbox) write(n *note, seq uint64, line []byte) {
	if b.journal.add(seq, line) == nil {
		n.seq = seq
	}
}

// keep counts a note as not decided. mu is held.
func (b *outbox) keep(n *note) {
	b.kept++
	if b.empty == nil {
		b.empty = make(chan struct{})
	}
	if n.books() {
		b.booking[n.id()] = true
	}
}

// enqueue leaves a note to the workers, of whom there is a new one if there may be. mu is held.
func (b *outbox) enqueue(queue *[]*note, n *note) {
	*queue = append(*queue, n)
	if b.workers < deliverAtOnce && !b.closed {
		b.workers++
		b.busy.Go(b.work)
	}
}

// behind tells whether a note is a release of what has still to be booked. One that overtook it would find nothing to release.
func (b *outbox) behind(n *note) bool {
	if n.release == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.booking[n.id()]
}

// work delivers until nothing is left, or the outbox is closed.
func (b *outbox) work() {
	failures := 0
	for n := b.next(); n != nil; n = b.next() {
		if !b.behind(n) && b.decide(n, b.deliver(b.ctx, n)) {
			failures = 0
			continue
		}
		failures++
		// Quotad is away for a while: what is kept shall survive a power cut, too. One worker at a time has that to do, its rest
		// included, so that there are not sixty syncs in a second.
		syncs := b.journal != nil && b.syncing.CompareAndSwap(false, true)
		if syncs {
			_ = b.journal.sync() // close reports it
		}
		b.rest(wait(b.o.backoff, failures))
		if syncs {
			b.syncing.Store(false)
		}
		b.mu.Lock()
		b.again = append(b.again, n)
		b.mu.Unlock()
	}
}

// next takes a note off the queues. Without one the worker ends.
func (b *outbox) next() *note {
	b.mu.Lock()
	defer b.mu.Unlock()
	queue := &b.fresh
	if len(*queue) == 0 {
		queue = &b.again
	}
	if len(*queue) == 0 || b.ctx.Err() != nil {
		b.workers--
		return nil
	}
	n := (*queue)[0]
	(*queue)[0] = nil // the slice lives on
	*queue = (*queue)[1:]
	return n
}

// rest waits, but not longer than until a kick or the end.
func (b *outbox) rest(d time.Duration) {
	b.mu.Lock()
	kick := b.kick
	b.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-kick:
	case <-b.ctx.Done():
	}
}

// decide books how a try ended, and tells whether that was quotad's last word.
func (b *outbox) decide(n *note, err error) bool {
	if err != nil && !final(err) {
		return false
	}
	if err != nil {
		b.lose(n, err)
	}
	if b.journal != nil && b.journal.done(n.seq) {
		b.busy.Go(func() { _ = b.journal.rewrite() }) // else the old file is as good, only longer
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.delivered++
	}
	if n.books() {
		delete(b.booking, n.id())
	}
	b.kept--
	if b.kept == 0 {
		close(b.empty)
		b.empty = nil
	}
	return true
}

// lose counts and reports a note that will never be delivered.
func (b *outbox) lose(n *note, err error) {
	b.mu.Lock()
	b.lost++
	b.mu.Unlock()
	b.o.onLost(Lost{
		RequestID: n.id(), Bucket: n.acquire.GetBucket(), Acquired: chargesOf(n.acquire.GetCharges()),
		Settled: chargesOf(n.settle.GetCharges()), Err: err,
	})
}

// counts fills in what a client's Stats say of its outbox.
func (b *outbox) counts(s *Stats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Pending, s.Delivered, s.Lost, s.Unjournaled = int64(b.kept), b.delivered, b.lost, b.unjournaled
}

// flush has everything tried that rests, and waits until nothing is kept. Its error is that of ctx, or ErrClosed.
func (b *outbox) flush(ctx context.Context) error {
	b.mu.Lock()
	empty := b.empty
	close(b.kick)
	b.kick = make(chan struct{})
	b.mu.Unlock()
	if empty != nil {
		select {
		case <-empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed && b.kept > 0 {
		return ErrClosed
	}
	return nil
}

// close stops delivering. What is left stays in the journal; what does not stand there is lost.
func (b *outbox) close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
	b.busy.Wait()
	b.mu.Lock()
	var lost []*note
	for _, n := range slices.Concat(b.again, b.fresh) {
		if b.journal != nil && n.seq == 0 {
			// There may be room by now.
			if seq, line, err := b.journal.encode(n); err == nil {
				b.write(n, seq, line)
			}
		}
		if n.seq == 0 {
			lost = append(lost, n)
		}
	}
	b.kept -= len(lost)
	if b.empty != nil {
		close(b.empty)
		b.empty = nil
	}
	b.mu.Unlock()
	for _, n := range lost {
		b.lose(n, ErrClosed)
	}
	if b.journal == nil {
		return nil
	}
	return b.journal.close()
}

// final tells whether an error is quotad's last word on a note, so that sending it again is no use. That it may not be done now, by
// this caller or this version, is not: permissions and versions change.
func final(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.OutOfRange, codes.DataLoss:
		return true
	}
	_, denied := deniedBy(err)
	return denied || errors.Is(err, errTooOld)
}

// end delivers a note and waits for the outcome of its first try.
func (c *Client) end(ctx context.Context, n *note) error {
	op := "release"
	if n.settle != nil {
		op = "settle"
	}
	err := c.outbox.now(ctx, n)
	if _, pending := errors.AsType[*PendingError](err); err == nil || pending {
		return err
	}
	return fmt.Errorf("%s %s: %w", op, n.id(), err)
}

// deliver tells quotad one note, once.
func (c *Client) deliver(ctx context.Context, n *note) error {
	if n.acquire != nil {
		if c.o.now().Sub(time.Unix(n.made, 0)) >= bookWithin {
			return errTooOld
		}
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
