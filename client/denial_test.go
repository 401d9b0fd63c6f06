package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

var (
	midnight = time.Date(2026, 1, 16, 0, 0, 0, 0, time.UTC)
	february = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
)

func limit(most int64, w quotadv1.Window, unit string) *quotadv1.Limit {
	return &quotadv1.Limit{Max: most, Window: w, Unit: unit}
}

// denials are ways to be denied, and what is to be said of each.
var denials = map[string]struct {
	bucket *quotadv1.Bucket
	before func(context.Context, *client.Client) error // what is taken first
	opts   []client.Taking
	want   client.DeniedError
	user   string
}{
	"day": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(5, 0, "")}},
		before: func(ctx context.Context, c *client.Client) error {
			_, err := c.Acquire(ctx, "b", client.Charge{Amount: 3})
			return err
		},
		opts: []client.Taking{client.Charge{Amount: 3}},
		want: client.DeniedError{Bucket: "b", Unit: "calls", Window: "day", Limit: 5, Used: 3, Remaining: 2, Requested: 3, ResetTime: midnight, RetryTime: midnight},
		user: "Daily AI limit reached. Try again tomorrow.",
	},
	"held": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(5, quotadv1.Window_WINDOW_MONTH, "")}},
		before: func(ctx context.Context, c *client.Client) error {
			_, err := c.Reserve(ctx, "b", client.Charge{Amount: 4})
			return err
		},
		opts: []client.Taking{client.Charge{Amount: 2}},
		want: client.DeniedError{Bucket: "b", Unit: "calls", Window: "month", Limit: 5, Held: 4, Remaining: 1, Requested: 2, ResetTime: february, RetryTime: february},
		user: "The AI limit for this month is reached.",
	},
	"ceiling": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(50, quotadv1.Window_WINDOW_HOUR, "")}},
		before: func(ctx context.Context, c *client.Client) error {
			_, err := c.Acquire(ctx, "b", client.Charge{Amount: 12})
			return err
		},
		opts: []client.Taking{client.WithCeiling(10)},
		want: client.DeniedError{
			Bucket: "b", Unit: "calls", Window: "hour", Limit: 10, Ceiling: true, Used: 12, Requested: 1,
			ResetTime: time.Date(2026, 1, 15, 13, 0, 0, 0, time.UTC), RetryTime: time.Date(2026, 1, 15, 13, 0, 0, 0, time.UTC),
		},
		user: "The limit for this hour is reached. Try again later.",
	},
	"the longest of several": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(1, 0, ""), limit(1, quotadv1.Window_WINDOW_MONTH, ""), limit(5, 0, "tokens")}},
		before: func(ctx context.Context, c *client.Client) error {
			_, err := c.Acquire(ctx, "b", client.Charge{}, client.Charge{Unit: "tokens", Amount: 4})
			return err
		},
		opts: []client.Taking{client.Charge{}, client.Charge{Unit: "tokens", Amount: 2}},
		want: client.DeniedError{
			Bucket: "b", Unit: "calls", Window: "month", Limit: 1, Used: 1, Requested: 1, ResetTime: february, RetryTime: february,
			Others: []client.Balance{
				{Bucket: "b", Unit: "calls", Window: "day", Start: midnight.AddDate(0, 0, -1), End: midnight, Limited: true, Limit: 1, Used: 1},
				{Bucket: "b", Unit: "tokens", Window: "day", Start: midnight.AddDate(0, 0, -1), End: midnight, Limited: true, Limit: 5, Used: 4, Remaining: 1},
			},
		},
		user: "The AI limit for this month is reached.",
	},
	"more than the limit itself": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(5, 0, ""), limit(3, quotadv1.Window_WINDOW_MINUTE, "tokens")}},
		before: func(ctx context.Context, c *client.Client) error {
			_, err := c.Acquire(ctx, "b", client.Charge{Amount: 5})
			return err
		},
		opts: []client.Taking{client.Charge{}, client.Charge{Unit: "tokens", Amount: 4}},
		want: client.DeniedError{
			Bucket: "b", Unit: "tokens", Window: "minute", Limit: 3, Remaining: 3, Requested: 4, Never: true, ResetTime: time.Date(2026, 1, 15, 12, 1, 0, 0, time.UTC),
			Others: []client.Balance{{Bucket: "b", Unit: "calls", Window: "day", Start: midnight.AddDate(0, 0, -1), End: midnight, Limited: true, Limit: 5, Used: 5}},
		},
		user: "This request is more than the AI limit allows.",
	},
	"prepaid": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(2, quotadv1.Window_WINDOW_EVER, "")}},
		before: func(ctx context.Context, c *client.Client) error {
			_, err := c.Acquire(ctx, "b", client.Charge{Amount: 2})
			return err
		},
		want: client.DeniedError{Bucket: "b", Unit: "calls", Window: "ever", Limit: 2, Used: 2, Requested: 1, Never: true},
		user: "The AI limit is reached.",
	},
	"a limit of 0": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(0, 0, "")}},
		before: func(context.Context, *client.Client) error { return nil },
		want:   client.DeniedError{Bucket: "b", Unit: "calls", Window: "day", Requested: 1, Never: true, ResetTime: midnight},
		user:   "This request is more than the AI limit allows.",
	},
	"more than what was prepaid": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(2, quotadv1.Window_WINDOW_EVER, "")}},
		before: func(context.Context, *client.Client) error { return nil },
		opts:   []client.Taking{client.Charge{Amount: 3}},
		want:   client.DeniedError{Bucket: "b", Unit: "calls", Window: "ever", Limit: 2, Remaining: 2, Requested: 3, Never: true},
		user:   "This request is more than the AI limit allows.",
	},
	"in flight, and a day": {
		bucket: &quotadv1.Bucket{Limits: []*quotadv1.Limit{limit(1, 0, "")}, MaxInFlight: 1},
		before: func(ctx context.Context, c *client.Client) error {
			_, err := c.Reserve(ctx, "b")
			return err
		},
		opts: []client.Taking{client.WithHold(time.Minute)},
		want: client.DeniedError{
			Bucket: "b", Unit: "calls", Window: "day", Limit: 1, Held: 1, Requested: 1, ResetTime: midnight,
			Others: []client.Balance{{Bucket: "b", Unit: "reservations", Window: "ever", Limited: true, Limit: 1, Held: 1}},
		},
		user: "Daily AI limit reached. Try again tomorrow.",
	},
	"in flight": {
		bucket: &quotadv1.Bucket{MaxInFlight: 1},
		before: func(ctx context.Context, c *client.Client) error {
			_, err := c.Reserve(ctx, "b")
			return err
		},
		opts: []client.Taking{client.WithHold(time.Minute)},
		want: client.DeniedError{Bucket: "b", Unit: "reservations", Window: "ever", Limit: 1, Held: 1, Requested: 1},
		user: "The AI limit is reached.",
	},
}

// A denial says all there is to say of it, is sent once, takes nothing, and a check says the same.
func TestDenials(t *testing.T) {
	t.Parallel()
	for name, d := range denials {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &line{}
			q := quotatest.New(t)
			d.bucket.Name = "b"
			q.DeclareBucket(d.bucket)
			c := q.Client(l.option(), client.WithFailOpen(client.FailOpen{PerMinute: 9}))
			if err := d.before(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			used, held, sent := q.Used("b", ""), q.Held("b", ""), len(l.sent("Acquire"))
			_, err := c.Reserve(t.Context(), "b", d.opts...)
			err = fmt.Errorf("drawing: %w", err) // as an application wraps it
			denied, ok := errors.AsType[*client.DeniedError](err)
			if !ok {
				t.Fatal(err)
			}
			ignored := cmp.Options{cmpopts.IgnoreUnexported(client.DeniedError{}), cmpopts.IgnoreFields(client.DeniedError{}, "Message")}
			if d := cmp.Diff(&d.want, denied, ignored); d != "" || denied.Message == "" {
				t.Errorf("%q (-want +got):\n%s", denied.Message, d)
			}
			if got := denied.UserMessage(); got != d.user {
				t.Errorf("an end user is told %q, want %q", got, d.user)
			}
			if status.Code(err) != codes.ResourceExhausted || len(l.sent("Acquire")) != sent+1 {
				t.Errorf("%v, sent %d times", status.Code(err), len(l.sent("Acquire"))-sent)
			}
			notRetried(t, err)
			wantUsed(t, q, used, held)
			opts := append([]client.Taking{client.WithHold(time.Minute)}, d.opts...)
			v, err := c.Check(t.Context(), "b", opts...)
			if err != nil || v.Allowed {
				t.Fatalf("checked: %+v, %v", v, err)
			}
			if d := cmp.Diff(denied, v.Denial, ignored); d != "" || v.Denial.Error() != denied.Error() {
				t.Errorf("checked (-denied +checked):\n%s", d)
			}
			if s := c.Stats(); s.Denied != 1 || s.Local != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// notRetried checks that no layer that asks an error whether to retry it is told to.
func notRetried(t *testing.T, err error) {
	t.Helper()
	if retry.IsErrorRetryables(retry.DefaultRetryables).IsErrorRetryable(err) != aws.FalseTernary {
		t.Errorf("the AWS SDK would retry %v", err)
	}
	if r := retry.NewStandard(); r.IsErrorRetryable(err) {
		t.Errorf("its standard retryer would retry %v", err)
	}
	if n, ok := errors.AsType[net.Error](err); ok && (n.Timeout() || n.Temporary()) { //nolint:staticcheck // layers that ask for Temporary are what it is for
		t.Errorf("%v is temporary", err)
	}
}

func TestUnreachableIsNotRetried(t *testing.T) {
	t.Parallel()
	q, c := on(t, nil, client.WithTries(1, time.Millisecond))
	q.Stop()
	_, err := c.Acquire(t.Context(), "b")
	if err == nil || retry.IsErrorRetryables(retry.DefaultRetryables).IsErrorRetryable(err) != aws.FalseTernary {
		t.Errorf("the AWS SDK would retry %v", err)
	}
	if temporary, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err); !ok || !temporary.Temporary() {
		t.Errorf("%v is not temporary", err)
	}
}

// The status that quotad sent is passed on whole, for whoever reads its details.
func TestDenialStatus(t *testing.T) {
	t.Parallel()
	_, c := on(t, []string{"0"})
	_, err := c.Acquire(t.Context(), "b")
	for _, d := range status.Convert(err).Details() {
		if denial, ok := d.(*quotadv1.Denial); ok && len(denial.GetViolations()) == 1 {
			return
		}
	}
	t.Errorf("%v has no Denial among its details", err)
}

// gRPC says RESOURCE_EXHAUSTED of its own, too: that is no denial, and no reason to let a call through.
func TestOtherExhaustion(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]client.Option{
		"too large":       client.WithDialOptions(grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1))),
		"without details": (&line{before: func(context.Context, string, any) error { return status.Error(codes.ResourceExhausted, "no") }}).option(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, c := on(t, nil, opt, client.WithFailOpen(client.FailOpen{PerMinute: 5}))
			g, err := c.Acquire(t.Context(), "b")
			if _, denied := errors.AsType[*client.DeniedError](err); denied || status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%+v, %v", g, err)
			}
			if s := c.Stats(); s.Denied+s.Local+s.Granted != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestUserMessages(t *testing.T) {
	t.Parallel()
	for window, want := range map[string]string{
		"week": "The AI limit for this week is reached.",
		"year": "The AI limit for this year is reached.",
		"":     "The AI limit is reached.",
	} {
		if got := (&client.DeniedError{Window: window}).UserMessage(); got != want {
			t.Errorf("%q: %q, want %q", window, got, want)
		}
	}
	bare := &client.DeniedError{Bucket: "b", Unit: "calls", Window: "day", Limit: 5, Used: 4, Held: 1}
	if got := bare.Error(); got != "quota denied: calls of b per day: 4 of 5 used, 1 held" {
		t.Error(got)
	}
	if status.Code(bare) != codes.ResourceExhausted {
		t.Error(status.Code(bare))
	}
}

// checked is a connection whose quotad answers every check with one denial.
type checked struct {
	nobody
	denial *quotadv1.Denial
}

func (c checked) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	reply.(*quotadv1.CheckResponse).Denial = c.denial
	return nil
}

// Which of several violations is told does not hang on their order: what a window ends is told before what a settlement may end.
func TestOrderOfViolations(t *testing.T) {
	t.Parallel()
	day := &quotadv1.Violation{Balance: &quotadv1.Balance{Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, End: timestamppb.New(midnight)}}
	inFlight := &quotadv1.Violation{Balance: &quotadv1.Balance{Unit: "reservations", Window: quotadv1.Window_WINDOW_EVER}, MaxInFlight: true}
	for _, violations := range [][]*quotadv1.Violation{{day, inFlight}, {inFlight, day}} {
		c, err := client.New(checked{denial: &quotadv1.Denial{Violations: violations}})
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.Check(t.Context(), "b")
		if err != nil || v.Denial.Unit != "calls" || len(v.Denial.Others) != 1 || v.Denial.Others[0].Unit != "reservations" {
			t.Errorf("%+v, %v", v, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
