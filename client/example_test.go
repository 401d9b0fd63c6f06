package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
)

// One call of a day's budget that is shared: ask, and call only after a yes.
func ExampleClient_Acquire() {
	target, end := exampleQuotad("portfolio", "50 calls/day")
	defer end()
	ctx := context.Background()

	quota, err := client.Dial(target) // "" for $QUOTAD_SERVER or 127.0.0.1:7070
	if err != nil {
		fmt.Println(err)
		return
	}
	defer quota.Close()

	grant, err := quota.Acquire(ctx, "portfolio")
	if err != nil {
		fmt.Println("not called:", err)
		return
	}
	fmt.Println(grant.Balances[0])
	// Output: calls of portfolio per day: 1 of 50 used, 0 held
}

// A call whose price is known only after it: hold what it may cost, then tell what it did cost. Where it fails before that, the
// deferred Release gives everything back.
func ExampleClient_Reserve() {
	target, end := exampleQuotad("chat", "100_000 tokens/day")
	defer end()
	ctx := context.Background()
	quota, err := client.Dial(target)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer quota.Close()
	callModel := func() (tokens int64, err error) { return 1_234, nil }

	call := func() error {
		r, err := quota.Reserve(ctx, "chat", client.Charge{}, client.Charge{Unit: "tokens", Amount: 4_000})
		if err != nil {
			return err
		}
		defer r.Release(ctx) //nolint:errcheck // what is not delivered is kept, and sent again
		tokens, err := callModel()
		if err != nil {
			return err
		}
		return r.Settle(ctx, client.Charge{Unit: "tokens", Amount: tokens})
	}
	if err := call(); err != nil {
		fmt.Println(err)
	}
	v, err := quota.Check(ctx, "chat", client.Charge{Unit: "tokens", Amount: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(v.Balances[0])
	// Output: tokens of chat per day: 1234 of 100000 used, 0 held
}

// A denial is told from everything else that may go wrong, and has what an end user, a header and a log need.
func ExampleDeniedError() {
	target, end := exampleQuotad("portfolio", "1 calls/day")
	defer end()
	quota, err := client.Dial(target)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer quota.Close()

	_, err = quota.Acquire(context.Background(), "portfolio")
	if err == nil { // the one call of this day is taken; here is the next
		_, err = quota.Acquire(context.Background(), "portfolio")
	}
	denied, isDenied := errors.AsType[*client.DeniedError](err)
	unreachable, isUnreachable := errors.AsType[*client.UnreachableError](err)
	switch {
	case isDenied: // 429 Too Many Requests
		fmt.Println(denied.UserMessage())
		fmt.Printf("%d of %d %s used, anew at %s\n", denied.Used, denied.Limit, denied.Unit, denied.ResetTime.Format(time.RFC3339))
	case isUnreachable: // 503 Service Unavailable
		fmt.Println(unreachable.Err)
	case err != nil: // 500: a slip in the bucket's name, say
		fmt.Println(err)
	}
	// Output:
	// Daily AI limit reached. Try again tomorrow.
	// 1 of 1 calls used, anew at 2026-01-16T00:00:00Z
}

// An application that would rather overspend a little than stand still: while quotad is away, each process lets five calls of a
// bucket through in a minute.
func ExampleWithFailOpen() {
	quota, err := client.Dial("unix:///nonexistent/quotad.sock",
		client.WithTimeout(50*time.Millisecond), client.WithTries(2, time.Millisecond),
		client.WithFailOpen(client.FailOpen{
			PerMinute: 5,
			OnGrant:   func(bucket string, _ error) { fmt.Println("quotad is away, let through:", bucket) },
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer quota.Close()
	grant, err := quota.Acquire(context.Background(), "portfolio")
	fmt.Println(err == nil && grant.Local, quota.Stats().Local)
	// Output:
	// quotad is away, let through: portfolio
	// true 1
}

// exampleQuotad runs a quotad with one bucket.
func exampleQuotad(bucket, limit string) (target string, end func()) {
	t := &exampleTest{}
	q := quotatest.New(t)
	q.Declare(bucket, limit)
	return q.Listen(), t.end
}

// exampleTest stands for the *testing.T of a test, which an example does not get.
type exampleTest struct {
	testing.TB
	cleanups []func()
}

func (*exampleTest) Helper()                   {}
func (*exampleTest) Errorf(f string, a ...any) { fmt.Printf(f+"\n", a...) }
func (*exampleTest) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (*exampleTest) Context() context.Context  { return context.Background() }
func (e *exampleTest) Cleanup(f func())        { e.cleanups = append(e.cleanups, f) }

func (e *exampleTest) end() {
	for _, f := range slices.Backward(e.cleanups) {
		f()
	}
}
