package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// sending is one try of a call as it left the client.
type sending struct {
	method string
	id     string
	at     time.Time
	left   time.Duration // until its deadline
	err    error         // how it ended, faults included
}

// line is the way from a client to a quotad, which may be bad.
type line struct {
	// before may answer a call instead of quotad; nil or a nil error lets it through.
	before func(ctx context.Context, method string, req any) error
	// after may take quotad's answer away.
	after func(ctx context.Context, method string) error

	mu   sync.Mutex
	seen []sending
}

// option puts the line between a client and its quotad.
func (l *line) option() client.Option {
	return client.WithDialOptions(grpc.WithChainUnaryInterceptor(l.call))
}

func (l *line) call(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	s := sending{method: method[len("/quotad.v1.QuotaService/"):], at: time.Now()}
	if named, ok := req.(interface{ GetRequestId() string }); ok {
		s.id = named.GetRequestId()
	}
	if deadline, ok := ctx.Deadline(); ok {
		s.left = time.Until(deadline)
	}
	defer func() {
		s.err = err
		l.mu.Lock()
		defer l.mu.Unlock()
		l.seen = append(l.seen, s)
	}()
	if l.before != nil {
		if err := l.before(ctx, s.method, req); err != nil {
			return err
		}
	}
	if err := invoke(ctx, method, req, reply, cc, opts...); err != nil || l.after == nil {
		return err
	}
	return l.after(ctx, s.method)
}

// sent returns what was sent of a method.
func (l *line) sent(method string) []sending {
	l.mu.Lock()
	defer l.mu.Unlock()
	var of []sending
	for _, s := range l.seen {
		if s.method == method {
			of = append(of, s)
		}
	}
	return of
}

func unavailable(context.Context, string) error { return status.Error(codes.Unavailable, "lost") }

// on runs a quotad with one bucket, and returns it with a client.
func on(t *testing.T, limits []string, opts ...client.Option) (*quotatest.Server, *client.Client) {
	t.Helper()
	q := quotatest.New(t)
	q.Declare("b", limits...)
	return q, q.Client(opts...)
}

func mustFlush(t *testing.T, c *client.Client) {
	t.Helper()
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func wantUsed(t *testing.T, q *quotatest.Server, used, held int64) {
	t.Helper()
	if u, h := q.Used("b", ""), q.Held("b", ""); u != used || h != held {
		t.Errorf("%d used, %d held; want %d, %d", u, h, used, held)
	}
}

func TestAcquire(t *testing.T) {
	t.Parallel()
	q, c := on(t, []string{"5", "100 tokens/month"})
	q.Declare("b/child", "3")
	g, err := c.Acquire(t.Context(), "b/child", client.Charge{}, client.Charge{Bucket: "b", Unit: "tokens", Amount: 7})
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)
	want := []client.Balance{
		{Bucket: "b/child", Unit: "calls", Window: "day", Start: day, End: day.AddDate(0, 0, 1), Limited: true, Limit: 3, Used: 1, Remaining: 2},
		{Bucket: "b", Unit: "calls", Window: "day", Start: day, End: day.AddDate(0, 0, 1), Limited: true, Limit: 5, Used: 1, Remaining: 4},
		{Bucket: "b", Unit: "tokens", Window: "month", Start: day.AddDate(0, 0, -14), End: day.AddDate(0, 0, 17), Limited: true, Limit: 100, Used: 7, Remaining: 93},
	}
	if d := cmp.Diff(want, g.Balances); d != "" || g.Replayed || g.Local {
		t.Errorf("%+v (-want +got):\n%s", g, d)
	}
	if got := g.Balances[0].String(); got != "calls of b/child per day: 1 of 3 used, 0 held" {
		t.Error(got)
	}
	if err := c.Release(t.Context(), g.RequestID); err != nil {
		t.Error(err)
	}
	wantUsed(t, q, 0, 0)
	if s := c.Stats(); s.Granted != 1 || s.Denied+s.Unreachable+s.Local+s.Pending+s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

// A bucket without limits is counted, and every kind of window has its name.
func TestWindowNames(t *testing.T) {
	t.Parallel()
	_, c := on(t, nil)
	g, err := c.Acquire(t.Context(), "b")
	if err != nil || len(g.Balances) != 1 || g.Balances[0].Limited || g.Balances[0].String() != "calls of b per day: 1 used, 0 held" {
		t.Errorf("%+v, %v", g, err)
	}
	_, c = on(t, []string{"1/minute", "2/hour", "3/day", "4/week", "5/month", "6/year", "7/ever"})
	g, err = c.Acquire(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, b := range g.Balances {
		names = append(names, b.Window)
	}
	if d := cmp.Diff([]string{"minute", "hour", "day", "week", "month", "year", "ever"}, names); d != "" {
		t.Error(d)
	}
	if ever := g.Balances[6]; !ever.Start.IsZero() || !ever.End.IsZero() {
		t.Errorf("%+v has a beginning or an end", ever)
	}
}

// What a charge leaves out is the bucket's estimate, in an acquire without charges and in one that names the unit alone.
func TestEstimates(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.DeclareBucket(&quotadv1.Bucket{Name: "b", Estimates: []*quotadv1.Estimate{{Unit: "tokens", Amount: 400}}})
	c := q.Client()
	for _, step := range []struct {
		opts          []client.Taking
		calls, tokens int64
	}{
		{nil, 1, 400},
		{[]client.Taking{client.Charge{Unit: "tokens"}}, 1, 800},
		{[]client.Taking{client.Charge{Unit: "tokens", Amount: 5}, nil, client.Charge{Amount: 2}}, 3, 805},
	} {
		if _, err := c.Acquire(t.Context(), "b", step.opts...); err != nil {
			t.Fatal(err)
		}
		if calls, tokens := q.Used("b", ""), q.Used("b", "tokens"); calls != step.calls || tokens != step.tokens {
			t.Errorf("after %+v: %d calls, %d tokens; want %d, %d", step.opts, calls, tokens, step.calls, step.tokens)
		}
	}
}

// Ids are UUIDv7, one for each call and the same for its tries, so that a lost answer charges once.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	lost := 0
	l := &line{after: func(ctx context.Context, method string) error {
		if lost++; lost%3 != 0 {
			return unavailable(ctx, method)
		}
		return nil
	}}
	q, c := on(t, nil, l.option(), client.WithTries(4, time.Millisecond))
	distinct := make(map[string]bool)
	for i := range 5 {
		g, err := c.Acquire(t.Context(), "b")
		if err != nil || !g.Replayed {
			t.Fatalf("%+v, %v", g, err)
		}
		id, err := uuid.Parse(g.RequestID)
		if err != nil || id.Version() != 7 || distinct[g.RequestID] {
			t.Errorf("%q: version %d, %v, seen: %v", g.RequestID, id.Version(), err, distinct[g.RequestID])
		}
		distinct[g.RequestID] = true
		for _, s := range l.sent("Acquire")[3*i:] {
			if s.id != g.RequestID {
				t.Errorf("a try of %s went as %q", g.RequestID, s.id)
			}
		}
	}
	wantUsed(t, q, 5, 0)
}

func TestOwnRequestID(t *testing.T) {
	t.Parallel()
	q, c := on(t, []string{"5"})
	for i := range 3 {
		g, err := c.Acquire(t.Context(), "b", client.WithRequestID("mine"))
		if err != nil || g.RequestID != "mine" || g.Replayed != (i > 0) {
			t.Errorf("%+v, %v", g, err)
		}
	}
	if _, err := c.Acquire(t.Context(), "b", client.WithRequestID("mine"), client.Charge{Amount: 2}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("something else under the same id: %v", err)
	}
	if _, err := c.Acquire(t.Context(), "b", client.WithRequestID("not mine")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an id with a space: %v", err)
	}
	wantUsed(t, q, 1, 0)
}

// What quotad decided about a request is passed on with its code and sent once.
func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	l := &line{}
	_, c := on(t, []string{"5"}, l.option(), client.WithFailOpen(client.FailOpen{PerMinute: 100}))
	for i, r := range []struct {
		bucket string
		opts   []client.Taking
		want   codes.Code
	}{
		{"unknown", nil, codes.NotFound},
		{"a b", nil, codes.InvalidArgument},
		{"", nil, codes.InvalidArgument},
		{"b", []client.Taking{client.Charge{Amount: -1}}, codes.InvalidArgument},
		{"b", []client.Taking{client.Charge{}, client.Charge{Unit: client.Calls}}, codes.InvalidArgument},
		{"b", []client.Taking{client.WithCeiling(-1)}, codes.InvalidArgument},
	} {
		_, err := c.Acquire(t.Context(), r.bucket, r.opts...)
		if status.Code(err) != r.want || len(l.sent("Acquire")) != i+1 {
			t.Errorf("%q %+v: %v, %d sendings; want %v in one", r.bucket, r.opts, err, len(l.sent("Acquire"))-i, r.want)
		}
	}
	if _, err := c.Acquire(t.Context(), "b", client.WithHold(time.Second)); err == nil || len(l.sent("Acquire")) != 6 {
		t.Errorf("with a hold: %v", err)
	}
	if s := c.Stats(); s.Local+s.Granted+s.Unreachable+s.Pending != 0 {
		t.Errorf("%+v", s)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	q, c := on(t, []string{"2"})
	for used := range 3 {
		v, err := c.Check(t.Context(), "b")
		if err != nil || v.Allowed != (used < 2) || (v.Denial == nil) != v.Allowed {
			t.Errorf("with %d used: %+v, %v", used, v, err)
		}
		if v.Allowed {
			if len(v.Balances) != 1 || v.Balances[0].Used != int64(used) {
				t.Errorf("with %d used: %+v", used, v.Balances)
			}
			_, err = c.Acquire(t.Context(), "b")
		} else if v.Denial.Limit != 2 || v.Denial.Used != 2 || v.Denial.Remaining != 0 || status.Code(v.Denial) != codes.ResourceExhausted {
			t.Errorf("%+v", v.Denial)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if v, err := c.Check(t.Context(), "b", client.WithHold(time.Minute), client.Charge{Amount: 9}); err != nil || v.Allowed {
		t.Errorf("%+v, %v", v, err)
	}
	wantUsed(t, q, 2, 0)
	if _, err := c.Check(t.Context(), "unknown"); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

// Who gives up gets the context's reason. What was charged without their knowing is given back; under an id of their own it is theirs
// to find out.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	reason := errors.New("the user has left")
	for name, act := range map[string]struct {
		do   func(context.Context, *client.Client) error
		used int64
	}{
		"acquire": {func(ctx context.Context, c *client.Client) error { _, err := c.Acquire(ctx, "b"); return err }, 0},
		"reserve": {func(ctx context.Context, c *client.Client) error { _, err := c.Reserve(ctx, "b"); return err }, 0},
		"own id": {func(ctx context.Context, c *client.Client) error {
			_, err := c.Acquire(ctx, "b", client.WithRequestID("x"))
			return err
		}, 1},
		"check": {func(ctx context.Context, c *client.Client) error { _, err := c.Check(ctx, "b"); return err }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			l := &line{after: func(try context.Context, method string) error {
				if method == "Release" {
					return nil
				}
				cancel(reason) // granted, and the answer is still under way
				<-try.Done()
				return status.FromContextError(try.Err()).Err()
			}}
			q, c := on(t, []string{"5"}, l.option(), client.WithFailOpen(client.FailOpen{PerMinute: 5}))
			if err := act.do(ctx, c); !errors.Is(err, reason) {
				t.Errorf("%v, want the reason", err)
			}
			mustFlush(t, c)
			wantUsed(t, q, act.used, 0)
			if s := c.Stats(); s.Local != 0 || s.Lost != 0 || len(l.sent("Acquire")) > 1 {
				t.Errorf("%+v after %d sendings", s, len(l.sent("Acquire")))
			}
		})
	}
}

// A context that ended before is not sent, and nothing is to be given back.
func TestGivenUpBefore(t *testing.T) {
	t.Parallel()
	l := &line{}
	_, c := on(t, []string{"5"}, l.option())
	for _, ctx := range []func() (context.Context, context.CancelFunc, error){
		func() (context.Context, context.CancelFunc, error) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, cancel, context.Canceled
		},
		func() (context.Context, context.CancelFunc, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 0)
			return ctx, cancel, context.DeadlineExceeded
		},
	} {
		ctx, cancel, want := ctx()
		if _, err := c.Acquire(ctx, "b"); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		cancel()
	}
	mustFlush(t, c)
	if s := c.Stats(); s.Delivered != 0 || len(l.sent("Release")) != 0 {
		t.Errorf("%+v, %d releases", s, len(l.sent("Release")))
	}
}

// An acquire that nobody knows the outcome of is given back in the end, whether it was granted or not.
func TestUnknownIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]*line{
		"answers lost": {after: func(ctx context.Context, method string) error {
			if method == "Acquire" {
				return unavailable(ctx, method)
			}
			return nil
		}},
		"requests and answers lost": {before: func(_ context.Context, method string, _ any) error {
			if method == "Acquire" {
				return status.Error(codes.Unavailable, "lost")
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, c := on(t, []string{"5"}, l.option(), client.WithTries(2, time.Millisecond), client.WithOnLost(func(lost client.Lost) { t.Errorf("lost: %+v", lost) }))
			_, err := c.Acquire(t.Context(), "b")
			if u, ok := errors.AsType[*client.UnreachableError](err); !ok || u.Tries != 2 || u.Op != "acquire" || u.Bucket != "b" || status.Code(u.Err) != codes.Unavailable {
				t.Errorf("%+v", err)
			}
			if _, err = c.Reserve(t.Context(), "b"); err == nil {
				t.Error("reserved")
			}
			mustFlush(t, c)
			wantUsed(t, q, 0, 0)
			if s := c.Stats(); s.Unreachable != 2 || s.Lost != 0 || s.Pending != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A request that reached quotad and was not decided: the release that follows finds nothing to give back, and that is no loss.
func TestUndecidedIsNoLoss(t *testing.T) {
	t.Parallel()
	sent := 0
	undecided := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, acquire := req.(*quotadv1.AcquireRequest); !acquire {
			return invoke(ctx, method, req, reply, cc, opts...)
		}
		sent++
		// Another call stands for it, so that the peer is known as it is when a quotad dies under a request.
		_, _ = quotadv1.NewQuotaServiceClient(cc).Release(ctx, &quotadv1.ReleaseRequest{RequestId: "another"}, opts...)
		return status.Error(codes.Unavailable, "it died")
	}
	q, c := on(t, nil, client.WithTries(2, time.Millisecond), client.WithDialOptions(grpc.WithChainUnaryInterceptor(undecided)),
		client.WithOnLost(func(lost client.Lost) { t.Errorf("lost: %+v", lost) }))
	if _, err := c.Acquire(t.Context(), "b"); err == nil || sent != 2 {
		t.Errorf("sent %d times: %v", sent, err)
	}
	mustFlush(t, c)
	wantUsed(t, q, 0, 0)
	if s := c.Stats(); s.Delivered != 1 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}
