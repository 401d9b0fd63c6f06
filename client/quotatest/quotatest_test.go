package quotatest_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counts checks used, held and open of calls.
func counts(t *testing.T, q *quotatest.Server, bucket string, used, held int64, open int) {
	t.Helper()
	if u, h, o := q.Used(bucket, ""), q.Held(bucket, "calls"), q.Open(); u != used || h != held || o != open {
		t.Errorf("%s: %d used, %d held, %d open; want %d, %d, %d", bucket, u, h, o, used, held, open)
	}
}

func TestDay(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("shared", "3")
	c := q.Client()
	if want := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC); !q.Now().Equal(want) {
		t.Errorf("begins at %s, want %s", q.Now(), want)
	}
	for range 3 {
		if _, err := c.Acquire(t.Context(), "shared"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Acquire(t.Context(), "shared")
	denied, ok := errors.AsType[*client.DeniedError](err)
	if !ok || !denied.ResetTime.Equal(time.Date(2026, 1, 16, 0, 0, 0, 0, time.UTC)) {
		t.Fatalf("the fourth: %v (%+v)", err, denied)
	}
	counts(t, q, "shared", 3, 0, 0)
	q.Set(denied.ResetTime.Add(-time.Nanosecond))
	if _, err := c.Acquire(t.Context(), "shared"); err == nil {
		t.Error("granted in the last instant of the day")
	}
	q.Advance(time.Nanosecond)
	counts(t, q, "shared", 0, 0, 0)
	if _, err := c.Acquire(t.Context(), "shared"); err != nil {
		t.Errorf("on the next day: %v", err)
	}
	q.Advance(40 * 24 * time.Hour)
	if _, err := c.Acquire(t.Context(), "shared"); err != nil {
		t.Errorf("forty days on: %v", err)
	}
	counts(t, q, "shared", 1, 0, 0)
}

// What is due has expired when Advance returns, at its own time: a reservation belongs to the day that it was made in.
func TestExpiry(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t, quotatest.Start(time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)))
	q.DeclareBucket(&quotadv1.Bucket{
		Name: "back", Limits: []*quotadv1.Limit{{Max: 5, Window: quotadv1.Window_WINDOW_MONTH}, {Max: 5, Unit: "tokens"}},
		OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_RELEASE,
	})
	q.DeclareBucket(&quotadv1.Bucket{Name: "gone", Limits: []*quotadv1.Limit{{Max: 5, Window: quotadv1.Window_WINDOW_EVER}}})
	c := q.Client()
	for _, name := range []string{"back", "gone"} {
		if _, err := c.Reserve(t.Context(), name, client.WithHold(2*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	counts(t, q, "back", 0, 1, 2)
	q.Advance(2*time.Minute - time.Millisecond)
	counts(t, q, "gone", 0, 1, 2)
	q.Advance(time.Millisecond)
	counts(t, q, "back", 0, 0, 0)
	counts(t, q, "gone", 1, 0, 0)
}

// More reservations than one transaction expires.
func TestManyExpire(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("many", "10000/ever")
	c := q.Client()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 70 {
				if _, err := c.Reserve(t.Context(), "many"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	counts(t, q, "many", 0, 560, 560)
	q.Advance(time.Hour)
	counts(t, q, "many", 560, 0, 0)
}

func TestWindowOfUsed(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("both", "10/minute", "50/day", "9 tokens/month", "5 tokens/hour")
	q.Declare("counted")
	c := q.Client()
	for _, name := range []string{"both", "counted"} {
		if _, err := c.Acquire(t.Context(), name, client.Charge{}, client.Charge{Unit: "tokens", Amount: 4}); err != nil {
			t.Fatal(err)
		}
	}
	q.Advance(time.Minute)
	for _, name := range []string{"both", "counted"} {
		if calls, tokens := q.Used(name, "calls"), q.Used(name, "tokens"); calls != 1 || tokens != 4 {
			t.Errorf("%s: %d calls, %d tokens; want 1 of the day and 4 of the hour", name, calls, tokens)
		}
	}
	q.Advance(time.Hour)
	if both, counted := q.Used("both", "tokens"), q.Used("counted", "tokens"); both != 0 || counted != 4 {
		t.Errorf("an hour on: %d, %d; want 0 of the hour, 4 of the day", both, counted)
	}
	if n := q.Used("both", "images"); n != 0 {
		t.Errorf("what was never charged: %d", n)
	}
}

func TestDefaultAndZone(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t, quotatest.Default("1 calls/day"), quotatest.Zone("Europe/Berlin"), quotatest.Start(time.Date(2026, 7, 1, 21, 59, 0, 0, time.UTC)))
	q.DeclareIn("tokyo", "Asia/Tokyo", "1")
	c := q.Client()
	for _, name := range []string{"anybody", "tokyo"} {
		if _, err := c.Acquire(t.Context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	q.Advance(time.Minute) // midnight in Berlin
	counts(t, q, "anybody", 0, 0, 0)
	counts(t, q, "tokyo", 1, 0, 0)

	none := quotatest.New(t)
	if _, err := none.Client().Acquire(t.Context(), "anybody"); status.Code(err) != codes.NotFound {
		t.Errorf("without a default: %v, want NOT_FOUND", err)
	}
}

// A stop and a start lose no count, in memory and in a file, and the first call after it is answered by whoever asks.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, kept := range []string{"memory", "file"} {
		t.Run(kept, func(t *testing.T) {
			t.Parallel()
			var opts []quotatest.Option
			if kept == "file" {
				opts = append(opts, quotatest.WithFile(t.TempDir()))
			}
			q := quotatest.New(t, opts...)
			q.Declare("b", "100/ever")
			c, stub := q.Client(client.WithTries(1, time.Millisecond)), quotadv1.NewQuotaServiceClient(q.Conn())
			granted := int64(0)
			for range 10 {
				q.Restart()
				if _, err := c.Acquire(t.Context(), "b"); err != nil {
					t.Fatalf("after a restart: %v", err)
				}
				q.Restart()
				if _, err := stub.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: "b"}); err != nil {
					t.Fatalf("by a stub, after a restart: %v", err)
				}
				granted += 2
				q.Stop()
				if _, err := c.Acquire(t.Context(), "b"); status.Code(errors.Unwrap(err)) != codes.Unavailable {
					t.Fatalf("while it is stopped: %v", err)
				}
				if _, err := stub.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: "b"}); status.Code(err) != codes.Unavailable {
					t.Fatalf("by a stub, while it is stopped: %v", err)
				}
				q.Advance(time.Hour)
			}
			q.Restart()
			counts(t, q, "b", granted, 0, 0)
		})
	}
}

// What came due while it was stopped has expired when it runs again; and the file goes on in another Server, at no earlier a time.
func TestExpiryWhileStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var at time.Time
	t.Run("first", func(t *testing.T) {
		q := quotatest.New(t, quotatest.WithFile(dir))
		q.Declare("b", "5/ever")
		if _, err := q.Client().Reserve(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		q.Stop()
		q.Advance(15 * time.Minute)
		q.Restart()
		counts(t, q, "b", 1, 0, 0)
		at = q.Now()
	})
	q := quotatest.New(t, quotatest.WithFile(dir))
	counts(t, q, "b", 1, 0, 0)
	if q.Now().Before(at) {
		t.Errorf("the second begins at %s, the first ended at %s", q.Now(), at)
	}
	q.Advance(24 * time.Hour)
	if _, err := q.Client().Acquire(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

// Callers in a crowd while it stops and starts: each call ends, and no grant is counted twice or lost.
func TestRestartInACrowd(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("b")
	c := q.Client(client.WithTries(20, time.Millisecond))
	stopping := make(chan struct{})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for {
				select {
				case <-stopping:
					return
				default:
				}
				if _, err := c.Acquire(t.Context(), "b"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 8 {
		q.Stop()
		runtime.Gosched()
		q.Restart()
	}
	close(stopping)
	all.Wait()
	if err := c.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if used, granted := q.Used("b", ""), c.Stats().Granted; used != granted {
		t.Errorf("%d used, %d granted", used, granted)
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("b", "5")
	address := q.Listen()
	if again := q.Listen(); again != address {
		t.Errorf("Listen gave %s, then %s", address, again)
	}
	ask := func() error {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = quotadv1.NewQuotaServiceClient(conn).Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: "b"})
		return err
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
	q.Stop()
	if err := ask(); status.Code(err) != codes.Unavailable {
		t.Errorf("while it is stopped: %v", err)
	}
	q.Restart()
	if err := ask(); err != nil {
		t.Error(err)
	}
	if again := q.Listen(); again != address {
		t.Errorf("after a restart it listens on %s, before on %s", again, address)
	}
	counts(t, q, "b", 2, 0, 0)
}

func TestRealTime(t *testing.T) {
	t.Parallel()
	before := time.Now()
	q := quotatest.New(t, quotatest.RealTime())
	if now := q.Now(); now.Before(before.Add(-time.Second)) || now.After(time.Now().Add(time.Second)) {
		t.Errorf("counts by %s, it is %s", now, before)
	}
	q.Stop()
	_ = q.Now() // also then
}

// In a bubble of synctest: a clock that is set, and the bubble's own.
func TestInBubble(t *testing.T) {
	t.Parallel()
	t.Run("set", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			q := quotatest.New(t, quotatest.WithFile(t.TempDir()))
			q.Declare("b", "1/minute")
			c := q.Client()
			if _, err := c.Acquire(t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
			if _, err := c.Acquire(t.Context(), "b"); err == nil {
				t.Error("the bubble's time moved the clock")
			}
			q.Advance(24 * time.Hour)
			if _, err := c.Acquire(t.Context(), "b"); err != nil {
				t.Error(err)
			}
			q.Stop()
			began := time.Now()
			if _, err := c.Acquire(t.Context(), "b"); err == nil || time.Since(began) > time.Second {
				t.Errorf("while it is stopped: %v after %s", err, time.Since(began))
			}
		})
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			q := quotatest.New(t, quotatest.RealTime())
			q.DeclareBucket(&quotadv1.Bucket{Name: "b", Limits: []*quotadv1.Limit{{Max: 1, Window: quotadv1.Window_WINDOW_EVER}}, Hold: durationpb.New(time.Minute), OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_RELEASE})
			c := q.Client()
			if _, err := c.Reserve(t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if _, err := c.Reserve(t.Context(), "b"); err != nil {
				t.Errorf("after the first has expired: %v", err)
			}
			counts(t, q, "b", 0, 1, 1)
		})
	})
}

// failing is a test that a call is to end.
type failing struct {
	*testing.T
	said string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestMisuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		opts []quotatest.Option
		do   func(*quotatest.Server)
		want string
	}{
		{do: func(q *quotatest.Server) { q.Set(q.Now().Add(-time.Second)) }, want: "never goes back"},
		{do: func(q *quotatest.Server) { q.Advance(-1) }, want: "never goes back"},
		{opts: []quotatest.Option{quotatest.RealTime()}, do: func(q *quotatest.Server) { q.Advance(1) }, want: "RealTime"},
		{do: func(q *quotatest.Server) { q.Declare("b", "fifty") }, want: `declaring b: limit "fifty"`},
		{do: func(q *quotatest.Server) { q.Declare("a b", "50") }, want: "declaring a b"},
		{do: func(q *quotatest.Server) { q.DeclareIn("b", "Atlantis", "50") }, want: "Atlantis"},
		{do: func(q *quotatest.Server) { q.Used("a b", "") }, want: `Used("a b", "calls")`},
		{do: func(q *quotatest.Server) { q.Stop(); q.Held("b", "") }, want: "this quotad is stopped"},
		{do: func(q *quotatest.Server) { q.Client(client.WithTries(0, 0)) }, want: "WithTries"},
		{opts: []quotatest.Option{quotatest.Default("x")}, want: "Default"},
		{opts: []quotatest.Option{quotatest.Default("5", "6")}, want: "Default"},
		{opts: []quotatest.Option{quotatest.Zone("Atlantis")}, want: "Atlantis"},
		{opts: []quotatest.Option{quotatest.Start(time.Time{})}, want: "Start"},
		{opts: []quotatest.Option{quotatest.WithFile("")}, want: "WithFile"},
		{opts: []quotatest.Option{quotatest.WithFile("/dev/null/x")}, want: "/dev/null/x"},
	} {
		f := &failing{T: t}
		var ending sync.WaitGroup
		ending.Go(func() {
			q := quotatest.New(f, c.opts...)
			if c.do != nil {
				c.do(q)
			}
		})
		ending.Wait()
		if !strings.HasPrefix(f.said, "quotatest: ") || !strings.Contains(f.said, c.want) {
			t.Errorf("said %q, want %q in it", f.said, c.want)
		}
	}
}
