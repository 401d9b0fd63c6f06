package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/client"
)

// minutes is a clock for FailOpen.
type minutes struct {
	mu sync.Mutex
	at time.Time
}

func (m *minutes) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

func (m *minutes) move(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = m.at.Add(d)
}

// nobody is a connection on which nobody answers.
type nobody struct{}

func (nobody) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return status.Error(codes.Unavailable, "nobody")
}

func (nobody) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unavailable, "nobody")
}

// Without another option no call is let through while quotad is away, whichever way it is asked for.
func TestFailClosed(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]client.Option{
		"by default": nil,
		"by name":    {client.WithFailOpen(client.FailOpen{PerMinute: 5}), client.FailClosed()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, c := on(t, nil, append(opts, client.WithTries(2, time.Millisecond))...)
			r, err := c.Reserve(t.Context(), "b")
			if err != nil {
				t.Fatal(err)
			}
			q.Stop()
			for op, call := range map[string]func() error{
				"acquire": func() error { _, err := c.Acquire(t.Context(), "b"); return err },
				"reserve": func() error { _, err := c.Reserve(t.Context(), "b"); return err },
				"check":   func() error { _, err := c.Check(t.Context(), "b"); return err },
				"extend":  func() error { return r.Extend(t.Context(), time.Minute) },
			} {
				err := call()
				u, ok := errors.AsType[*client.UnreachableError](err)
				if !ok || u.Op != op || u.Bucket != "b" || u.Tries != 2 || status.Code(u.Err) != codes.Unavailable {
					t.Errorf("%s: %+v", op, err)
				}
			}
			if s := c.Stats(); s.Local != 0 || s.Unreachable != 2 || s.Granted != 1 {
				t.Errorf("%+v", s)
			}
			q.Restart()
			mustFlush(t, c)
			wantUsed(t, q, 0, 1)
		})
	}
}

// So many of a bucket are let through in a minute, whoever asks at once; the callback is told of each, and when quotad is back they are
// booked.
func TestFailOpen(t *testing.T) {
	t.Parallel()
	clock := &minutes{at: time.Date(2026, 1, 15, 12, 0, 30, 0, time.UTC)}
	var told atomic.Int64
	q, c := on(t, []string{"100/ever"}, client.WithTries(1, time.Millisecond), client.WithClock(clock.now),
		client.WithFailOpen(client.FailOpen{PerMinute: 10, OnGrant: func(bucket string, err error) {
			told.Add(1)
			if bucket != "b" && bucket != "other" || status.Code(err) != codes.Unavailable {
				t.Errorf("told of %s, %v", bucket, err)
			}
		}}))
	q.Declare("other")
	q.Stop()
	through := func(bucket string) int64 {
		var n atomic.Int64
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				if i%2 == 0 {
					if g, err := c.Acquire(t.Context(), bucket); err == nil && g.Local && g.RequestID != "" && g.Balances == nil {
						n.Add(1)
					}
					return
				}
				r, err := c.Reserve(t.Context(), bucket)
				if err == nil && r.Local() && r.ExpireTime().IsZero() && r.Extend(t.Context(), time.Minute) == nil && r.SettleSoon() == nil {
					n.Add(1)
				}
			})
		}
		all.Wait()
		return n.Load()
	}
	for i, step := range []struct {
		on   time.Duration
		want int64
	}{{0, 10}, {29 * time.Second, 0}, {time.Second, 10}, {-5 * time.Minute, 0}, {5 * time.Minute, 0}, {time.Minute, 10}} {
		clock.move(step.on)
		if n := through("b"); n != step.want {
			t.Errorf("step %d: %d let through, want %d", i, n, step.want)
		}
	}
	if n := through("other"); n != 10 {
		t.Errorf("of another bucket %d, want 10", n)
	}
	if s := c.Stats(); s.Local != 40 || told.Load() != 40 || s.Unreachable != 7*40-40 {
		t.Errorf("told of %d; %+v", told.Load(), s)
	}
	q.Restart()
	mustFlush(t, c)
	wantUsed(t, q, 30, 0)
	if n := q.Used("other", ""); n != 10 {
		t.Errorf("other: %d booked, want 10", n)
	}
}

// A call that quotad had granted before its answer was lost is let through and booked once.
func TestFailOpenBooksOnce(t *testing.T) {
	t.Parallel()
	var bad atomic.Bool
	bad.Store(true)
	q, c := on(t, []string{"10"}, client.WithTries(1, time.Millisecond), client.WithFailOpen(client.FailOpen{PerMinute: 10}),
		(&line{after: func(ctx context.Context, method string) error {
			if bad.Load() {
				return unavailable(ctx, method)
			}
			return nil
		}}).option())
	for range 3 {
		if g, err := c.Acquire(t.Context(), "b"); err != nil || !g.Local {
			t.Fatalf("%+v, %v", g, err)
		}
	}
	r, err := c.Reserve(t.Context(), "b", client.Charge{Amount: 2})
	if err != nil || !r.Local() {
		t.Fatal(err)
	}
	r.ReleaseSoon()
	bad.Store(false)
	mustFlush(t, c)
	wantUsed(t, q, 3, 0)
}

// A denial is an answer, and what is refused for another reason is one, too.
func TestFailOpenKeepsDenials(t *testing.T) {
	t.Parallel()
	q, c := on(t, []string{"0"}, client.WithFailOpen(client.FailOpen{PerMinute: 10, OnGrant: func(string, error) { t.Error("let through") }}))
	_, err := c.Acquire(t.Context(), "b")
	if _, denied := errors.AsType[*client.DeniedError](err); !denied {
		t.Error(err)
	}
	if _, err := c.Acquire(t.Context(), "unknown"); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	wantUsed(t, q, 0, 0)
}

// What is remembered of buckets is bounded: names beyond that are not let through in that minute.
func TestFailOpenBuckets(t *testing.T) {
	t.Parallel()
	clock := &minutes{at: time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)}
	c, err := client.New(nobody{}, client.WithTries(1, time.Millisecond), client.WithClock(clock.now), client.WithFailOpen(client.FailOpen{PerMinute: 2}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	let := func(from, to int) (n int) {
		for i := from; i < to; i++ {
			if _, err := c.Reserve(t.Context(), fmt.Sprintf("b%d", i)); err == nil {
				n++
			}
		}
		return n
	}
	if n := let(0, client.LocalBucketsMax+5); n != client.LocalBucketsMax {
		t.Errorf("%d buckets in a minute, want %d", n, client.LocalBucketsMax)
	}
	if n := let(0, 5); n != 5 {
		t.Errorf("of known buckets %d, want 5", n)
	}
	clock.move(time.Minute)
	if n := let(client.LocalBucketsMax, client.LocalBucketsMax+5); n != 5 {
		t.Errorf("in the next minute %d, want 5", n)
	}
}

// A stream that quotad had admitted goes on while quotad is away, and its settlement tells what it used.
func TestFailOpenExtends(t *testing.T) {
	t.Parallel()
	told := 0
	q, c := on(t, nil, client.WithTries(1, time.Millisecond), client.WithFailOpen(client.FailOpen{PerMinute: 1, OnGrant: func(bucket string, err error) {
		if told++; bucket != "b" || status.Code(err) != codes.Unavailable {
			t.Errorf("told of %s, %v", bucket, err)
		}
	}}))
	r := mustReserve(t, c)
	q.Stop()
	for range 2 {
		if err := r.Extend(t.Context(), time.Hour, client.Charge{Amount: 5}); err != nil || r.Local() {
			t.Errorf("%v, local: %v", err, r.Local())
		}
	}
	if s := c.Stats(); told != 2 || s.Local != 2 {
		t.Errorf("told of %d; %+v", told, s)
	}
	if err := r.SettleSoon(client.Charge{Amount: 6}); err != nil {
		t.Error(err)
	}
	q.Restart()
	mustFlush(t, c)
	wantUsed(t, q, 6, 0)
}
