package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// want checks used and held of calls and tokens.
func wantBoth(t *testing.T, q *quotatest.Server, calls, callsHeld, tokens, tokensHeld int64) {
	t.Helper()
	got := [4]int64{q.Used("b", ""), q.Held("b", ""), q.Used("b", "tokens"), q.Held("b", "tokens")}
	if got != [4]int64{calls, callsHeld, tokens, tokensHeld} {
		t.Errorf("calls and tokens, used and held: %v; want %v", got, [4]int64{calls, callsHeld, tokens, tokensHeld})
	}
}

func mustReserve(t *testing.T, c *client.Client, opts ...client.Taking) *client.Reservation {
	t.Helper()
	r, err := c.Reserve(t.Context(), "b", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tokens(n int64) client.Charge { return client.Charge{Unit: "tokens", Amount: n} }

// How a reservation of one call and 100 tokens may end, and what is used then.
func TestEndings(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]struct {
		end           func(context.Context, *client.Reservation) error
		calls, tokens int64
	}{
		"as held":         {func(ctx context.Context, r *client.Reservation) error { return r.Settle(ctx) }, 1, 100},
		"less":            {func(ctx context.Context, r *client.Reservation) error { return r.Settle(ctx, tokens(40)) }, 1, 40},
		"more":            {func(ctx context.Context, r *client.Reservation) error { return r.Settle(ctx, tokens(170)) }, 1, 170},
		"above the limit": {func(ctx context.Context, r *client.Reservation) error { return r.Settle(ctx, tokens(900)) }, 1, 900},
		"nothing": {func(ctx context.Context, r *client.Reservation) error {
			return r.Settle(ctx, tokens(0), client.Charge{})
		}, 0, 0},
		"released":      {func(ctx context.Context, r *client.Reservation) error { return r.Release(ctx) }, 0, 0},
		"soon":          {func(_ context.Context, r *client.Reservation) error { return r.SettleSoon(tokens(3)) }, 1, 3},
		"released soon": {func(_ context.Context, r *client.Reservation) error { r.ReleaseSoon(); return nil }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, c := on(t, []string{"5", "200 tokens/day"})
			r := mustReserve(t, c, client.Charge{}, tokens(100))
			if r.Bucket() != "b" || r.RequestID() == "" || r.Local() || r.Replayed() || !r.ExpireTime().Equal(q.Now().Add(15*time.Minute)) || len(r.Balances()) != 2 {
				t.Errorf("%+v", r)
			}
			wantBoth(t, q, 0, 1, 0, 100)
			if err := e.end(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			mustFlush(t, c)
			wantBoth(t, q, e.calls, 0, e.tokens, 0)
			if q.Open() != 0 {
				t.Errorf("%d are open", q.Open())
			}
			ended(t, r)
			wantBoth(t, q, e.calls, 0, e.tokens, 0)
			if s := c.Stats(); s.Delivered != 1 || s.Lost != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// ended checks that nothing ends a reservation a second time, and that a deferred release does no harm.
func ended(t *testing.T, r *client.Reservation) {
	t.Helper()
	if err := r.Settle(t.Context(), tokens(1)); !errors.Is(err, client.ErrEnded) {
		t.Errorf("settled again: %v", err)
	}
	if err := r.SettleSoon(tokens(1)); !errors.Is(err, client.ErrEnded) {
		t.Errorf("settled again, soon: %v", err)
	}
	if err := r.Extend(t.Context(), time.Hour); !errors.Is(err, client.ErrEnded) {
		t.Errorf("extended after its end: %v", err)
	}
	if err := r.Release(t.Context()); err != nil {
		t.Errorf("released after its end: %v", err)
	}
	r.ReleaseSoon()
}

// Many goroutines may try to end one reservation: one of them does.
func TestOneEnding(t *testing.T) {
	t.Parallel()
	q, c := on(t, nil)
	for round := range 10 {
		r := mustReserve(t, c)
		before := q.Used("b", "")
		var settled atomic.Int64
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				switch i % 3 {
				case 0:
					if r.Settle(t.Context(), client.Charge{Amount: 5}) == nil {
						settled.Add(1)
					}
				case 1:
					if r.Release(t.Context()) != nil {
						t.Error("a release failed")
					}
				case 2:
					_ = r.ExpireTime()
					_ = r.Extend(t.Context(), time.Hour)
				}
			})
		}
		all.Wait()
		mustFlush(t, c)
		if n := settled.Load(); n > 1 || q.Used("b", "")-before != 5*n || q.Held("b", "") != 0 {
			t.Errorf("round %d: %d settled, %d used, %d held", round, n, q.Used("b", "")-before, q.Held("b", ""))
		}
	}
}

func TestExtend(t *testing.T) {
	t.Parallel()
	q, c := on(t, []string{"5", "200 tokens/day"})
	r := mustReserve(t, c, client.Charge{}, tokens(100), client.WithHold(time.Minute))
	began := q.Now()
	expires := func(want time.Time) {
		t.Helper()
		if !r.ExpireTime().Equal(want) {
			t.Errorf("expires at %s, want %s", r.ExpireTime(), want)
		}
	}
	expires(began.Add(time.Minute))
	for _, step := range []struct {
		hold    time.Duration
		charges []client.Charge
		expiry  time.Duration
		held    int64
	}{
		{0, []client.Charge{tokens(50)}, time.Minute, 150},
		{time.Second, nil, time.Minute, 150}, // never earlier
		{time.Hour, []client.Charge{tokens(50)}, time.Hour, 200},
	} {
		if err := r.Extend(t.Context(), step.hold, step.charges...); err != nil {
			t.Fatal(err)
		}
		expires(began.Add(step.expiry))
		wantBoth(t, q, 0, 1, 0, step.held)
	}
	err := r.Extend(t.Context(), 2*time.Hour, tokens(1))
	if denied, ok := errors.AsType[*client.DeniedError](err); !ok || denied.Unit != "tokens" || denied.Held != 200 || c.Stats().Denied != 1 {
		t.Errorf("%+v", err)
	}
	expires(began.Add(time.Hour))
	wantBoth(t, q, 0, 1, 0, 200)
	if err := r.Extend(t.Context(), -time.Second); status.Code(err) != codes.InvalidArgument {
		t.Errorf("by less than nothing: %v", err)
	}
	q.Advance(30 * time.Minute) // it would have expired
	if err := r.Settle(t.Context(), tokens(123)); err != nil {
		t.Error(err)
	}
	wantBoth(t, q, 1, 0, 123, 0)
}

// Answers to an Extend and a Settle are lost: each has its effect once.
func TestLostAnswersOfAReservation(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	l := &line{after: func(ctx context.Context, method string) error {
		if n.Add(1)%3 != 0 {
			return unavailable(ctx, method)
		}
		return nil
	}}
	q, c := on(t, nil, l.option(), client.WithTries(3, time.Millisecond))
	r := mustReserve(t, c, client.Charge{}, tokens(100))
	for range 4 {
		if err := r.Extend(t.Context(), time.Hour, tokens(10)); err != nil {
			t.Fatal(err)
		}
	}
	wantBoth(t, q, 0, 1, 0, 140)
	err := r.Settle(t.Context(), tokens(77))
	if p, ok := errors.AsType[*client.PendingError](err); err != nil && (!ok || p.Journaled || p.RequestID != r.RequestID()) {
		t.Errorf("%+v", err)
	}
	mustFlush(t, c)
	wantBoth(t, q, 1, 0, 77, 0)
}

// Whoever comes after the expiry corrects the count.
func TestLate(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]struct {
		expiry                    quotadv1.OnExpiry
		end                       func(context.Context, *client.Reservation) error
		expired, calls, usedAfter int64
	}{
		"charged, settled with less":       {quotadv1.OnExpiry_ON_EXPIRY_CHARGE, func(ctx context.Context, r *client.Reservation) error { return r.Settle(ctx, tokens(30)) }, 100, 1, 30},
		"charged, released":                {quotadv1.OnExpiry_ON_EXPIRY_CHARGE, func(ctx context.Context, r *client.Reservation) error { return r.Release(ctx) }, 100, 0, 0},
		"given back, settled all the same": {quotadv1.OnExpiry_ON_EXPIRY_RELEASE, func(ctx context.Context, r *client.Reservation) error { return r.Settle(ctx, tokens(30)) }, 0, 1, 30},
		"given back, released":             {quotadv1.OnExpiry_ON_EXPIRY_RELEASE, func(ctx context.Context, r *client.Reservation) error { return r.Release(ctx) }, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := quotatest.New(t)
			q.DeclareBucket(&quotadv1.Bucket{
				Name: "b", OnExpiry: e.expiry,
				Limits: []*quotadv1.Limit{limit(5, quotadv1.Window_WINDOW_EVER, ""), limit(500, quotadv1.Window_WINDOW_EVER, "tokens")},
			})
			c := q.Client(client.WithOnLost(func(l client.Lost) { t.Errorf("lost: %+v", l) }))
			r := mustReserve(t, c, client.Charge{}, tokens(100))
			q.Advance(time.Hour)
			wantBoth(t, q, e.expired/100, 0, e.expired, 0)
			if err := r.Extend(t.Context(), time.Hour); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("extended after its time: %v", err)
			}
			if err := e.end(t.Context(), r); err != nil {
				t.Error(err)
			}
			wantBoth(t, q, e.calls, 0, e.usedAfter, 0)
			ended(t, r)
		})
	}
}

// Another process has ended the reservation: the same again is fine, and what differs is refused for good and told.
func TestEndedElsewhere(t *testing.T) {
	t.Parallel()
	var lost losses
	q, c := on(t, nil, lost.option())
	other := q.Client()
	id := client.WithRequestID("shared-id")
	here, again, elsewhere := mustReserve(t, c, id), mustReserve(t, c, id), mustReserve(t, other, id)
	if !again.Replayed() || here.Replayed() {
		t.Errorf("replayed: %v, then %v", here.Replayed(), again.Replayed())
	}
	if err := elsewhere.Settle(t.Context(), client.Charge{Amount: 4}); err != nil {
		t.Fatal(err)
	}
	if err := here.Settle(t.Context(), client.Charge{Amount: 4}); err != nil {
		t.Errorf("the same settlement: %v", err)
	}
	if err := again.Settle(t.Context(), client.Charge{Amount: 5}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("another settlement: %v", err)
	}
	if told := lost.all(); len(told) != 1 || told[0].RequestID != "shared-id" || len(told[0].Settled) != 1 || told[0].Settled[0].Amount != 5 {
		t.Errorf("told of %+v", told)
	}
	if err := c.Release(t.Context(), "never-acquired"); err == nil {
		t.Error("released what was never acquired")
	}
	wantUsed(t, q, 4, 0)
}

// A settlement with a ceiling says what was used and asks for a refusal: it is refused for good.
func TestSettleWithCeiling(t *testing.T) {
	t.Parallel()
	var lost losses
	_, c := on(t, nil, lost.option())
	err := mustReserve(t, c).Settle(t.Context(), client.Charge{Amount: 1, Ceiling: new(int64(5))})
	if status.Code(err) != codes.InvalidArgument || len(lost.all()) != 1 {
		t.Errorf("%v; told of %+v", err, lost.all())
	}
}

// While quotad is away, endings wait for it; the charges belong to the client from then on.
func TestPending(t *testing.T) {
	t.Parallel()
	q, c := on(t, []string{"50"})
	settled, released := mustReserve(t, c), mustReserve(t, c)
	q.Stop()
	charges := []client.Charge{{Amount: 6}}
	err := settled.Settle(t.Context(), charges...)
	charges[0].Amount = 9
	if p, ok := errors.AsType[*client.PendingError](err); !ok || p.Journaled || p.RequestID != settled.RequestID() || status.Code(p.Err) != codes.Unavailable {
		t.Errorf("%+v", err)
	}
	if err := released.Release(t.Context()); err == nil {
		t.Error("released while quotad is away")
	}
	if s := c.Stats(); s.Pending != 2 || s.Delivered != 0 {
		t.Errorf("%+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("flushed: %v", err)
	}
	q.Restart()
	mustFlush(t, c)
	wantUsed(t, q, 6, 0)
	if s := c.Stats(); s.Pending != 0 || s.Delivered != 2 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

// A client that was closed takes nothing over and asks for nothing.
func TestClosed(t *testing.T) {
	t.Parallel()
	var lost losses
	q, c := on(t, nil, lost.option())
	open, soon := mustReserve(t, c), mustReserve(t, c)
	if err := mustReserve(t, c).SettleSoon(client.Charge{Amount: 3}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	wantUsed(t, q, 3, 2) // what was handed over before it has been delivered
	soon.ReleaseSoon()
	for op, call := range map[string]func() error{
		"acquire": func() error { _, err := c.Acquire(t.Context(), "b"); return err },
		"reserve": func() error { _, err := c.Reserve(t.Context(), "b"); return err },
		"check":   func() error { _, err := c.Check(t.Context(), "b"); return err },
		"extend":  func() error { return open.Extend(t.Context(), time.Hour) },
		"settle":  func() error { return open.Settle(t.Context()) },
		"release": func() error { return c.Release(t.Context(), "x") },
	} {
		if op == "settle" {
			continue // last, as it ends what extend asks for
		}
		if err := call(); !errors.Is(err, client.ErrClosed) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if err := open.Settle(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("settle: %v", err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if told := lost.all(); len(told) != 3 {
		t.Errorf("told of %+v", told)
	}
}
