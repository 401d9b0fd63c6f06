package client_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
)

// What was let through had perhaps been granted. It is booked as long as quotad is sure to know of that, by the same process or by the
// next on its journal, and then given up, as it would be charged twice.
func TestBookingsHaveAnEnd(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]struct {
		after   time.Duration
		another bool // process
		lost    bool
	}{
		"in time":                       {23*time.Hour - time.Second, false, false},
		"too late":                      {23 * time.Hour, false, true},
		"in time, after a restart":      {23*time.Hour - time.Second, true, false},
		"too late, after a restart":     {23 * time.Hour, true, true},
		"a year later, after a restart": {365 * 24 * time.Hour, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { bookedAfter(t, step.after, step.another, step.lost) })
		})
	}
}

// bookedAfter lets through what quotad had granted, and delivers it later.
func bookedAfter(t *testing.T, after time.Duration, another, lostInTheEnd bool) {
	t.Helper()
	var lost losses
	var back atomic.Bool
	l := &line{after: func(context.Context, string) error { return lostIf(!back.Load()) }}
	q := quotatest.New(t)
	q.Declare("b", "5/ever")
	clock := &minutes{at: q.Now()}
	journal := filepath.Join(t.TempDir(), "journal")
	open := func() *client.Client {
		return q.Client(l.option(), lost.option(), client.WithClock(clock.now), client.WithTries(1, time.Millisecond), client.WithTimeout(100*time.Millisecond),
			client.WithFailOpen(client.FailOpen{PerMinute: 5}), client.WithJournal(journal))
	}
	c := open()
	if g, err := c.Acquire(t.Context(), "b"); err != nil || !g.Local {
		t.Fatalf("%+v, %v", g, err)
	}
	if err := mustReserve(t, c, client.Charge{Amount: 2}).SettleSoon(client.Charge{Amount: 3}); err != nil {
		t.Fatal(err)
	}
	if another {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait() // none is on its way
	clock.move(after)
	back.Store(true)
	if another {
		c = open()
	}
	mustFlush(t, c)
	booked(t, q, l, lost.all(), lostInTheEnd)
}

// booked checks what has become of an acquire and of a reservation of two, settled with three, which quotad had granted all the same.
func booked(t *testing.T, q *quotatest.Server, l *line, told []client.Lost, lost bool) {
	t.Helper()
	if !lost {
		wantUsed(t, q, 4, 0)
		if len(told) != 0 {
			t.Errorf("lost: %+v", told)
		}
		return
	}
	wantUsed(t, q, 1, 2) // the reservation is left to its expiry
	for _, s := range l.sent("Acquire") {
		if s.err == nil {
			t.Errorf("%s was sent again", s.id)
		}
	}
	if len(told) != 2 {
		t.Fatalf("told of %+v", told)
	}
	for _, got := range told {
		want := client.Lost{RequestID: got.RequestID, Bucket: "b", Err: got.Err}
		if got.Settled != nil {
			want.Acquired, want.Settled = []client.Charge{{Amount: 2}}, []client.Charge{{Amount: 3}}
		}
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if !strings.Contains(got.Err.Error(), "too old: quotad may have forgotten") {
			t.Errorf("%s: %v", got.RequestID, got.Err)
		}
	}
}

// Who asks again for a reservation that is over is not told to make its call again.
func TestReserveAgain(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(context.Context, *quotatest.Server, *client.Reservation) error{
		"settled": func(ctx context.Context, _ *quotatest.Server, r *client.Reservation) error { return r.Settle(ctx) },
		"expired": func(_ context.Context, q *quotatest.Server, _ *client.Reservation) error {
			q.Advance(time.Hour)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, c := on(t, []string{"5/ever"})
			r := mustReserve(t, c, client.WithRequestID("call-1"))
			if again := mustReserve(t, c, client.WithRequestID("call-1")); !again.Replayed() {
				t.Error("an open one is not replayed")
			}
			if err := end(t.Context(), q, r); err != nil {
				t.Fatal(err)
			}
			_, err := c.Reserve(t.Context(), "b", client.WithRequestID("call-1"))
			if !errors.Is(err, client.ErrEnded) || !strings.Contains(err.Error(), "use a new id for a new call") {
				t.Errorf("%v, want ErrEnded", err)
			}
			if s := c.Stats(); s.Granted != 2 {
				t.Errorf("%+v", s)
			}
			mustFlush(t, c)
			wantUsed(t, q, 1, 0)
		})
	}
}

// A settlement with a slip in it is refused, and the reservation still there to be settled or given back.
func TestSettleWithASlip(t *testing.T) {
	t.Parallel()
	for name, slip := range map[string]client.Charge{"unit": {Unit: "Tokens", Amount: 7}, "UTF-8": {Unit: "\xff", Amount: 7}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, c := on(t, nil)
			settled, released := mustReserve(t, c), mustReserve(t, c)
			for _, r := range []*client.Reservation{settled, released} {
				if err := r.Settle(t.Context(), slip); status.Code(err) != codes.InvalidArgument {
					t.Errorf("%v, want INVALID_ARGUMENT", err)
				}
			}
			wantUsed(t, q, 0, 2)
			if err := settled.Settle(t.Context(), client.Charge{Amount: 3}); err != nil {
				t.Error(err)
			}
			if err := released.Release(t.Context()); err != nil {
				t.Error(err)
			}
			ended(t, settled)
			wantUsed(t, q, 3, 0)
		})
	}
}

// An acquire under way when the client is closed may have been granted: that it is given back stands in the journal, or is done.
func TestCloseKeepsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]bool{"quotad is away": true, "quotad is there": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			granted, over := make(chan struct{}), make(chan error, 1)
			l := &line{after: func(ctx context.Context, method string) error {
				switch {
				case method == "Acquire":
					close(granted)
					<-ctx.Done()
					return status.FromContextError(ctx.Err()).Err()
				case away:
					return unavailable(ctx, method)
				}
				return nil
			}, before: func(ctx context.Context, method string, _ any) error {
				if away && method != "Acquire" {
					return unavailable(ctx, method)
				}
				return nil
			}}
			var lost losses
			journal := client.WithJournal(filepath.Join(t.TempDir(), "journal"))
			q, c := on(t, []string{"5"}, l.option(), journal, lost.option(), client.WithTimeout(time.Second))
			go func() {
				_, err := c.Acquire(t.Context(), "b")
				over <- err
			}()
			<-granted
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if err := <-over; !errors.Is(err, client.ErrClosed) {
				t.Errorf("%v, want ErrClosed", err)
			}
			if away {
				wantUsed(t, q, 1, 0)
			} else {
				wantUsed(t, q, 0, 0)
			}
			mustFlush(t, q.Client(journal))
			wantUsed(t, q, 0, 0)
			if told := lost.all(); len(told) != 0 {
				t.Errorf("lost: %+v", told)
			}
		})
	}
}
