package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A crowd on a line that loses requests and answers: what was granted is charged, once.
func TestLostAnswersChargeOnce(t *testing.T) {
	t.Parallel()
	if err := crowd(t, false); err != nil {
		t.Error(err)
	}
}

// A client that made a new id for each try would charge for each, and the test would see it.
func TestLostAnswersControl(t *testing.T) {
	t.Parallel()
	if crowd(t, true) == nil {
		t.Error("a new id for each try passes the test")
	}
}

func crowd(t *testing.T, newIDs bool) error {
	t.Helper()
	const callers, calls = 64, 6
	lose := func(share float64) error {
		if rand.Float64() < share {
			return status.Error(codes.Unavailable, "lost")
		}
		return nil
	}
	l := &line{
		before: func(_ context.Context, _ string, req any) error {
			if a, ok := req.(*quotadv1.AcquireRequest); ok && newIDs {
				a.RequestId = uuid.NewString()
			}
			return lose(.1)
		},
		after: func(context.Context, string) error { return lose(.3) },
	}
	q, c := on(t, []string{"350/ever"}, l.option(), client.WithTries(20, time.Millisecond))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range calls {
				_, err := c.Acquire(t.Context(), "b")
				if _, denied := errors.AsType[*client.DeniedError](err); err != nil && !denied {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	mustFlush(t, c)
	s := c.Stats()
	if used := q.Used("b", ""); used != s.Granted || used != 350 || s.Granted+s.Denied != callers*calls {
		return fmt.Errorf("%d used, of 350; %+v", used, s)
	}
	return nil
}

// Each try has a deadline of its own, the waits between them double up to a bound, and each is shortened by chance.
func TestTries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &line{before: func(ctx context.Context, _ string, _ any) error {
			<-ctx.Done() // a quotad that does not answer
			return status.FromContextError(ctx.Err()).Err()
		}}
		q := quotatest.New(t)
		q.Declare("b")
		c := q.Client(l.option(), client.WithTimeout(200*time.Millisecond), client.WithTries(8, 50*time.Millisecond))
		const rounds, tries = 20, 8
		for range rounds {
			_, err := c.Acquire(t.Context(), "b")
			if u, ok := errors.AsType[*client.UnreachableError](err); !ok || u.Tries != tries || status.Code(u.Err) != codes.DeadlineExceeded {
				t.Fatalf("%+v", err)
			}
		}
		sent := l.sent("Acquire")
		if len(sent) != rounds*tries {
			t.Fatalf("%d sendings, want %d", len(sent), rounds*tries)
		}
		for try := 1; try < tries; try++ {
			distinct := make(map[time.Duration]bool)
			most := min(50*time.Millisecond<<(try-1), client.BackoffMax)
			for round := range rounds {
				s, before := sent[round*tries+try], sent[round*tries+try-1]
				waited := s.at.Sub(before.at) - 200*time.Millisecond
				if waited < most/2 || waited > most || s.left != 200*time.Millisecond || s.id != before.id {
					t.Errorf("try %d: waited %s, want %s to %s; had %s left; id %s, then %s", try+1, waited, most/2, most, s.left, before.id, s.id)
				}
				distinct[waited] = true
			}
			if len(distinct) < rounds/2 {
				t.Errorf("try %d: only %d different waits in %d", try+1, len(distinct), rounds)
			}
		}
	})
}

// The context of the call bounds all tries together, and a wait between two of them as well.
func TestContextBoundsTries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &line{before: func(context.Context, string, any) error { return status.Error(codes.Unavailable, "") }}
		q := quotatest.New(t)
		q.Declare("b")
		c := q.Client(l.option(), client.WithTries(20, time.Second), client.WithFailOpen(client.FailOpen{PerMinute: 5}))
		ctx, cancel := context.WithTimeout(t.Context(), 1700*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := c.Acquire(ctx, "b")
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 1700*time.Millisecond {
			t.Errorf("%v after %s", err, took)
		}
		for _, s := range l.sent("Acquire") {
			if s.left > 1700*time.Millisecond-s.at.Sub(began) {
				t.Errorf("a try after %s had %s left", s.at.Sub(began), s.left)
			}
		}
	})
}

// The defaults are what is documented.
func TestDefaultTries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &line{before: func(context.Context, string, any) error { return status.Error(codes.Unavailable, "") }}
		q := quotatest.New(t)
		q.Declare("b")
		c := q.Client(l.option())
		if _, err := c.Acquire(t.Context(), "b"); err == nil {
			t.Error("granted")
		}
		if sent := l.sent("Acquire"); len(sent) != client.TriesDefault || sent[0].left != client.TimeoutDefault {
			t.Errorf("%d tries, the first with %s", len(sent), sent[0].left)
		}
	})
}

// Only what leaves it open what was decided is sent again.
func TestCodes(t *testing.T) {
	t.Parallel()
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		again := code == codes.Unavailable || code == codes.DeadlineExceeded
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			l := &line{before: func(context.Context, string, any) error { return status.Error(code, "no") }}
			_, c := on(t, nil, l.option(), client.WithTries(3, time.Millisecond))
			_, err := c.Acquire(t.Context(), "b")
			want := 1
			if again {
				want = 3
			}
			_, unreachable := errors.AsType[*client.UnreachableError](err)
			if n := len(l.sent("Acquire")); n != want || unreachable != (again || code == codes.Internal) || status.Code(err) != code {
				t.Errorf("sent %d times, want %d: %v (unreachable: %v)", n, want, err, unreachable)
			}
		})
	}
}

// A quotad that comes back between two tries answers the call that it missed.
func TestComesBack(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"acquire", "reserve", "check"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			away := make(chan struct{})
			var once sync.Once
			l := &line{}
			q, c := on(t, []string{"5"}, client.WithTries(20, time.Millisecond), l.option())
			l.before = func(context.Context, string, any) error {
				if len(l.sent("Acquire"))+len(l.sent("Check")) == 2 {
					once.Do(func() { close(away) })
				}
				return nil
			}
			q.Stop()
			ended := make(chan error, 1)
			go func() {
				var err error
				switch op {
				case "acquire":
					_, err = c.Acquire(t.Context(), "b")
				case "reserve":
					_, err = c.Reserve(t.Context(), "b")
				case "check":
					_, err = c.Check(t.Context(), "b")
				}
				ended <- err
			}()
			<-away
			q.Restart()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
