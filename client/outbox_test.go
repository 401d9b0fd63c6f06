package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ending is how a reservation ended in the eyes of a quotad: settled with so many calls, or released.
type ending struct {
	released bool
	calls    int64
}

// fakeQuotad grants everything and notes down how it ends. It is a connection of its own.
type fakeQuotad struct {
	// fail, if it is set, has a call fail, before or after it has had its effect.
	fail func(ctx context.Context, id string) (before, after error)

	mu    sync.Mutex
	tries map[string]int      // settlements and releases, by id
	ended map[string][]ending // those that had an effect; more than one is one too many
	twice bool                // the control: what is sent again has its effect again
}

func newFake() *fakeQuotad {
	return &fakeQuotad{tries: make(map[string]int), ended: make(map[string][]ending)}
}

func (f *fakeQuotad) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams")
}

func (f *fakeQuotad) Invoke(ctx context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	var id string
	var e ending
	switch args := args.(type) {
	case *quotadv1.SettleRequest:
		id, e = args.GetRequestId(), ending{calls: args.GetCharges()[0].GetAmount()}
	case *quotadv1.ReleaseRequest:
		id, e = args.GetRequestId(), ending{released: true}
	default:
		return nil
	}
	var before, after error
	if f.fail != nil {
		before, after = f.fail(ctx, id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries[id]++
	if before != nil {
		return before
	}
	if f.twice || len(f.ended[id]) == 0 {
		f.ended[id] = append(f.ended[id], e)
	}
	return after
}

func (f *fakeQuotad) tried(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tries[id]
}

var errAway = status.Error(codes.Unavailable, "away")

// losses are what OnLost was told.
type losses struct {
	mu   sync.Mutex
	lost []client.Lost
}

func (l *losses) option() client.Option {
	return client.WithOnLost(func(lost client.Lost) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lost = append(l.lost, lost)
	})
}

func (l *losses) all() []client.Lost {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]client.Lost(nil), l.lost...)
}

func newClient(t *testing.T, f *fakeQuotad, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(f, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func reserve(t *testing.T, c *client.Client, id string) *client.Reservation {
	t.Helper()
	r, err := c.Reserve(t.Context(), "b", client.WithRequestID(id))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func settleSoon(t *testing.T, c *client.Client, id string) {
	t.Helper()
	if err := reserve(t, c, id).SettleSoon(client.Charge{Amount: 1}); err != nil {
		t.Fatal(err)
	}
}

// TestWhatCannotBeDecidedHoldsNobodyUp has far more notes that quotad does not decide than are delivered at once.
func TestWhatCannotBeDecidedHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lost losses
		f := newFake()
		f.fail = func(_ context.Context, id string) (before, after error) {
			if strings.HasPrefix(id, "poison") {
				return status.Error(codes.PermissionDenied, "not you"), nil
			}
			return nil, nil
		}
		c := newClient(t, f, lost.option())
		for i := range 1000 {
			settleSoon(t, c, fmt.Sprint("poison-", i))
		}
		time.Sleep(time.Minute)
		if n := f.tried("poison-0"); n < 2 || n > 120 {
			t.Errorf("tried %d times in a minute", n)
		}
		for i := range 1000 {
			settleSoon(t, c, fmt.Sprint("good-", i))
		}
		time.Sleep(2 * client.BackoffMax)
		if s := c.Stats(); s.Delivered != 1000 || s.Pending != 1000 || s.Lost != 0 {
			t.Errorf("%+v; want 1000 delivered, 1000 pending", s)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if n := len(lost.all()); n != 1000 {
			t.Errorf("OnLost was told of %d; want 1000", n)
		}
	})
}

// TestSettleTriesAtOnce however much is waiting, and does not wait longer than for one try.
func TestSettleTriesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.fail = func(ctx context.Context, _ string) (before, after error) {
			<-ctx.Done() // it hangs
			return status.FromContextError(ctx.Err()).Err(), nil
		}
		c := newClient(t, f, (&losses{}).option())
		for i := range 1000 {
			settleSoon(t, c, fmt.Sprint(i))
		}
		synctest.Wait()
		r := reserve(t, c, "now")
		began := time.Now()
		err := r.Settle(t.Context(), client.Charge{Amount: 1})
		if p, ok := errors.AsType[*client.PendingError](err); !ok || p.Journaled || time.Since(began) != client.TimeoutDefault {
			t.Errorf("%v after %v; want a PendingError after %v", err, time.Since(began), client.TimeoutDefault)
		}
		if err := r.Settle(t.Context()); !errors.Is(err, client.ErrEnded) {
			t.Errorf("settled again: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // as that of a request whose caller has gone
		if err := reserve(t, c, "gone").Release(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("after its caller has gone: %v", err)
		}
		if s := c.Stats(); s.Pending != 1002 {
			t.Errorf("%+v; want 1002 pending", s)
		}
	})
}

// TestFlushEndsPauses delivers at once what was to be tried again later.
func TestFlushEndsPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		away := true
		f.fail = func(context.Context, string) (before, after error) {
			if away {
				return errAway, nil
			}
			return nil, nil
		}
		c := newClient(t, f)
		for i := range 200 {
			settleSoon(t, c, fmt.Sprint(i))
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("flushed while quotad is away: %v", err)
		}
		synctest.Wait()
		away = false
		began := time.Now()
		if err := c.Flush(t.Context()); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if s := c.Stats(); s.Delivered != 200 || s.Pending != 0 {
			t.Errorf("%+v; want 200 delivered", s)
		}
	})
}

// TestCloseTellsWhatIsLost once, whether it was waiting, on its way, or came too late.
func TestCloseTellsWhatIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lost losses
		f := newFake()
		f.fail = func(ctx context.Context, id string) (before, after error) {
			if id == "hangs" {
				<-ctx.Done()
			}
			return errAway, nil
		}
		c := newClient(t, f, lost.option(), client.WithTimeout(time.Minute))
		late, later, hangs := reserve(t, c, "late"), reserve(t, c, "later"), reserve(t, c, "hangs")
		settleSoon(t, c, "waits")
		hanging := make(chan error, 1)
		go func() {
			time.Sleep(25 * time.Second) // it is on its way when close gives up
			hanging <- hangs.Settle(t.Context(), client.Charge{Unit: "tokens", Amount: 7})
		}()
		time.Sleep(20 * time.Second)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-hanging; !errors.Is(err, client.ErrClosed) {
			t.Errorf("on its way: %v", err)
		}
		if err := late.Settle(t.Context()); !errors.Is(err, client.ErrClosed) {
			t.Errorf("late: %v", err)
		}
		later.ReleaseSoon()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		told := make(map[string]int)
		for _, l := range lost.all() {
			told[l.RequestID]++
			if !errors.Is(l.Err, client.ErrClosed) {
				t.Errorf("%s: %v", l.RequestID, l.Err)
			}
			if l.RequestID == "hangs" && (len(l.Settled) != 1 || l.Settled[0] != client.Charge{Unit: "tokens", Amount: 7}) {
				t.Errorf("%s: settled %v", l.RequestID, l.Settled)
			}
		}
		if len(told) != 4 || len(lost.all()) != 4 || c.Stats().Lost != 4 || c.Stats().Pending != 0 {
			t.Errorf("told of %v; %+v", told, c.Stats())
		}
	})
}

// TestWhatIsNotTaken is an error of Settle, and told to OnLost.
func TestWhatIsNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var lost losses
		f := newFake()
		f.fail = func(context.Context, string) (before, after error) { return errAway, nil }
		c := newClient(t, f, lost.option())
		if err := reserve(t, c, "broken").Settle(t.Context(), client.Charge{Bucket: "\xff"}); err == nil || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%v; want an error about UTF-8", err)
		}
		for i := range client.PendingMax {
			settleSoon(t, c, fmt.Sprint(i))
		}
		err := reserve(t, c, "one more").Settle(t.Context(), client.Charge{Amount: 1})
		if _, pending := errors.AsType[*client.PendingError](err); err == nil || pending {
			t.Errorf("past the bound: %v", err)
		}
		if s := c.Stats(); s.Lost != 2 || s.Pending != client.PendingMax || len(lost.all()) != 2 {
			t.Errorf("%+v, and OnLost was told of %d", s, len(lost.all()))
		}
	})
}

// TestEndingsUnderStress ends reservations in every way at once, at a quotad that fails before and after it has done what it was
// asked, and compares what came of each.
func TestEndingsUnderStress(t *testing.T) {
	t.Parallel()
	if err := stress(t, newFake()); err != nil {
		t.Error(err)
	}
	control := newFake()
	control.twice = true
	if err := stress(t, control); err == nil {
		t.Error("a quotad that does twice what it is told twice is not found")
	}
}

func sometimes(context.Context, string) (before, after error) {
	switch rand.IntN(8) {
	case 0:
		return errAway, nil
	case 1:
		return nil, status.Error(codes.DeadlineExceeded, "late")
	case 2:
		return nil, status.Error(codes.Internal, "odd")
	}
	return nil, nil
}

func stress(t *testing.T, f *fakeQuotad) error {
	t.Helper()
	var lost losses
	f.fail = sometimes
	c := newClient(t, f, lost.option(), client.WithTries(1, time.Millisecond), client.WithJournal(filepath.Join(t.TempDir(), "j")))
	const callers, each = 8, 100
	var calling sync.WaitGroup
	for k := range callers {
		calling.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%d-%d", k, i)
				r, err := c.Reserve(t.Context(), "b", client.WithRequestID(id))
				if err != nil {
					t.Error(err)
					return
				}
				switch i % 4 {
				case 0:
					err = r.Settle(t.Context(), client.Charge{Amount: int64(i)})
				case 1:
					err = r.SettleSoon(client.Charge{Amount: int64(i)})
				case 2:
					err = r.Release(t.Context())
				case 3:
					r.ReleaseSoon()
				}
				if p, pending := errors.AsType[*client.PendingError](err); err != nil && (!pending || !p.Journaled) {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	calling.Wait()
	if err := c.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if s := c.Stats(); s.Delivered != callers*each || s.Pending+s.Lost+s.Unjournaled != 0 || len(lost.all()) != 0 {
		t.Errorf("%+v", s)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range callers {
		for i := range each {
			want := ending{calls: int64(i)}
			if i%4 >= 2 {
				want = ending{released: true}
			}
			if got := f.ended[fmt.Sprintf("%d-%d", k, i)]; len(got) != 1 || got[0] != want {
				return fmt.Errorf("%d-%d ended as %v; want %v", k, i, got, want)
			}
		}
	}
	return nil
}

// TestWhatWentThroughIsBooked has calls let through while quotad is away: what of it is settled, given back, and refused.
func TestWhatWentThroughIsBooked(t *testing.T) {
	t.Parallel()
	var lost losses
	q := quotatest.New(t)
	q.Declare("roomy", "1000 calls/day", "1000 tokens/day")
	q.Declare("tight", "1 calls/day")
	path := filepath.Join(t.TempDir(), "journal")
	open := func() *client.Client {
		return q.Client(client.WithFailOpen(client.FailOpen{PerMinute: 100}), client.WithTries(1, time.Millisecond), client.WithJournal(path), lost.option())
	}
	c := open()
	if _, err := c.Acquire(t.Context(), "tight"); err != nil {
		t.Fatal(err)
	}
	q.Stop()
	letThrough(t, c)
	denied, err := c.Reserve(t.Context(), "tight")
	if err == nil {
		err = denied.SettleSoon(client.Charge{Amount: 9})
	}
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.Acquire(t.Context(), "tight")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Release(t.Context(), g.RequestID)
	if err := c.Close(); err != nil { // and all this survives a restart
		t.Fatal(err)
	}
	if n := len(lost.all()); n != 0 {
		t.Errorf("closed with a journal, and %d are lost", n)
	}
	q.Restart()
	c = open()
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tokens, calls, held := q.Used("roomy", "tokens"), q.Used("roomy", ""), q.Held("roomy", "tokens"); tokens != 30 || calls != 10 || held != 0 {
		t.Errorf("%d tokens and %d calls are used, %d tokens held; want 30, 10 and 0", tokens, calls, held)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if s := open().Stats(); s.Pending+s.Delivered != 0 {
		t.Errorf("what was told stands in the journal still: %+v", s)
	}
	// The acquire of tight was denied; that there was nothing to release then is no news.
	if n := q.Used("tight", ""); n != 1 {
		t.Errorf("tight has used %d; want 1", n)
	}
	told := make(map[string]int)
	for _, l := range lost.all() {
		told[l.RequestID]++
		if _, ok := errors.AsType[*client.DeniedError](l.Err); !ok {
			t.Errorf("%s: %v; want a denial", l.RequestID, l.Err)
		}
	}
	if len(told) != 2 || told[denied.RequestID()] != 1 || told[g.RequestID] != 1 {
		t.Errorf("OnLost was told of %v", told)
	}
}

// letThrough makes 20 reservations and 20 acquires, and gives back every other one.
func letThrough(t *testing.T, c *client.Client) {
	t.Helper()
	for i := range 20 {
		r, err := c.Reserve(t.Context(), "roomy", client.Charge{Unit: "tokens", Amount: 50})
		if err != nil || !r.Local() {
			t.Fatal(err)
		}
		g, err := c.Acquire(t.Context(), "roomy")
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			r.ReleaseSoon()
			err := c.Release(t.Context(), g.RequestID)
			if p, ok := errors.AsType[*client.PendingError](err); !ok || !p.Journaled {
				t.Fatalf("releasing what is not booked yet: %v", err)
			}
		} else if err := r.SettleSoon(client.Charge{Unit: "tokens", Amount: 3}); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkSettleSoon is what a caller pays, with quotad away.
func BenchmarkSettleSoon(b *testing.B) {
	f := newFake()
	f.fail = func(context.Context, string) (before, after error) { return errAway, nil }
	for _, journal := range []string{"", filepath.Join(b.TempDir(), "j")} {
		b.Run(fmt.Sprintf("journal=%v", journal != ""), func(b *testing.B) {
			var opts []client.Option
			if journal != "" {
				opts = append(opts, client.WithJournal(journal))
			}
			c, err := client.New(f, opts...)
			if err != nil {
				b.Fatal(err)
			}
			var all []*client.Reservation
			for i := range min(b.N, client.PendingMax) {
				r, err := c.Reserve(b.Context(), "b", client.WithRequestID(fmt.Sprint(i)))
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, r)
			}
			b.ResetTimer()
			for i := range b.N {
				if i < len(all) { // more are not kept
					_ = all[i].SettleSoon(client.Charge{Unit: "tokens", Amount: 1})
				}
			}
			b.StopTimer()
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
