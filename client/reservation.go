package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// Reservation holds amounts until it is settled, released or expired. It is made by Reserve, and is safe for concurrent use.
type Reservation struct {
	c        *Client
	bucket   string
	id       string
	balances []Balance
	replayed bool

	mu     sync.Mutex
	expire time.Time
	local  *note // the acquire that quotad has still to be told of, if FailOpen let it through; nil otherwise
	ended  bool
}

// Reserve holds amounts before a call whose price is known only after it: one call, or the charges that are given, all of them or
// none. Its errors are those of Acquire, and one that wraps ErrEnded for an id of the caller's own whose reservation is over: it is no
// leave to make the call again. Each reservation is to be settled or released; one that is not is decided by its bucket's
// on_expiry when its time is over. A deferred Release does no harm after a Settle.
func (c *Client) Reserve(ctx context.Context, bucket string, opts ...Taking) (*Reservation, error) {
	t := takingOf(opts)
	hold := wireHold(t.hold)
	if hold == nil {
		hold = &durationpb.Duration{} // the bucket's own
	}
	resp, local, err := c.acquire(ctx, "reserve", t, &quotadv1.AcquireRequest{Bucket: bucket, Charges: taken(t.charges), Hold: hold})
	switch {
	case err != nil:
		return nil, err
	case local != nil:
		return &Reservation{c: c, bucket: bucket, id: local.id(), local: local}, nil
	}
	return &Reservation{
		c: c, bucket: bucket, id: resp.id, balances: balancesOf(resp.GetBalances()), replayed: resp.GetReplayed(), expire: instant(resp.GetExpireTime()),
	}, nil
}

func wireHold(d *time.Duration) *durationpb.Duration {
	if d == nil {
		return nil
	}
	return durationpb.New(*d)
}

// RequestID names the reservation to quotad, and to quotactl.
func (r *Reservation) RequestID() string { return r.id }

// Bucket is what it was taken from.
func (r *Reservation) Bucket() string { return r.bucket }

// Balances are the counts that were charged, as they stood when it was made; none for a local one.
func (r *Reservation) Balances() []Balance { return slices.Clone(r.balances) }

// Replayed tells whether the same id had been granted before, so that this call charged nothing.
func (r *Reservation) Replayed() bool { return r.replayed }

// ExpireTime is when it expires; zero for a local one.
func (r *Reservation) ExpireTime() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.expire
}

// Local tells whether quotad gave no answer and FailOpen let the call through.
func (r *Reservation) Local() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.local != nil
}

// Settle replaces what is held by what was really used: a unit that no charge names settles as held, one with an Amount of 0 was not
// used. It is never refused for being more than was held. A *PendingError says that quotad has not been told yet, and will be;
// another error that quotad refused it for good. A reservation is settled once: later calls are ErrEnded. Only after INVALID_ARGUMENT,
// as for a slip in a unit, it stays open to a corrected Settle or a Release.
func (r *Reservation) Settle(ctx context.Context, charges ...Charge) error {
	n, err := r.settlement(charges)
	if err != nil {
		return err
	}
	err = r.c.end(ctx, n)
	if _, pending := errors.AsType[*PendingError](err); !pending && status.Code(err) == codes.InvalidArgument {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended = false
	}
	return err
}

// SettleSoon is Settle without waiting: quotad is told in the background, and Flush or Close wait for it. What was handed over
// stands in the journal, if there is one, before SettleSoon returns, so that it survives the end of the process.
func (r *Reservation) SettleSoon(charges ...Charge) error {
	n, err := r.settlement(charges)
	if err != nil {
		return err
	}
	r.c.outbox.add(n)
	return nil
}

// Release gives back what is held: the call failed before it cost anything. After a Settle or a Release it does nothing. Its errors
// are those of Settle.
func (r *Reservation) Release(ctx context.Context) error {
	n := r.giveBack()
	if n == nil {
		return nil
	}
	return r.c.end(ctx, n)
}

// ReleaseSoon is Release without waiting, as SettleSoon is Settle.
func (r *Reservation) ReleaseSoon() {
	if n := r.giveBack(); n != nil {
		r.c.outbox.add(n)
	}
}

// Extend keeps the reservation for longer, from now, and takes more: a stream that goes on. A hold of 0 keeps its expiry, which is
// never moved to an earlier time. A *DeniedError means that nothing more was taken and the reservation stands as it was. Where quotad
// gives no answer, FailOpen lets it go on, without a cap, and tells OnGrant; the settlement tells what was used.
func (r *Reservation) Extend(ctx context.Context, hold time.Duration, charges ...Charge) error {
	r.mu.Lock()
	ended, local := r.ended, r.local != nil
	r.mu.Unlock()
	switch {
	case ended:
		return fmt.Errorf("extend %s: %w", r.bucket, ErrEnded)
	case r.c.closed.Load():
		return fmt.Errorf("extend %s: %w", r.bucket, ErrClosed)
	case local:
		return nil
	}
	id, err := newID()
	if err != nil {
		return fmt.Errorf("extend %s: %w", r.bucket, err)
	}
	req := &quotadv1.ExtendRequest{RequestId: r.id, Charges: taken(charges), ExtendId: id}
	if hold != 0 {
		req.Hold = durationpb.New(hold)
	}
	resp, a, err := send(ctx, r.c, req, r.c.rpc.Extend)
	if err != nil {
		if denied, ok := deniedBy(err); ok {
			r.c.count.denied.Add(1)
			return denied
		}
		if ctx.Err() == nil && undecided(err) && r.c.open != nil {
			r.c.letThrough(r.bucket, err)
			return nil
		}
		return r.c.failure(ctx, "extend", r.bucket, a, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire = instant(resp.GetExpireTime())
	return nil
}

func (r *Reservation) settlement(charges []Charge) (*note, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil, fmt.Errorf("settle %s: %w", r.bucket, ErrEnded)
	}
	r.ended = true
	n := &note{settle: &quotadv1.SettleRequest{RequestId: r.id, Charges: used(slices.Clone(charges))}}
	if r.local != nil {
		n.acquire, n.made = r.local.acquire, r.local.made
	}
	return n, nil
}

// giveBack returns nil if there is nothing to give back any more.
func (r *Reservation) giveBack() *note {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil
	}
	r.ended = true
	return &note{release: &quotadv1.ReleaseRequest{RequestId: r.id}, perhaps: r.local != nil}
}
