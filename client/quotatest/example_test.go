package quotatest_test

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

// A limit, the next day, and a quotad that is away.
func Example() {
	t := newStandIn() // a real test has its own: func TestThumbnails(t *testing.T)
	defer t.end()
	q := quotatest.New(t)
	q.Declare("thumbnails", "2 calls/day")
	c := q.Client(client.WithTries(1, time.Millisecond))

	draw := func() {
		_, err := c.Acquire(t.Context(), "thumbnails")
		if denied, ok := errors.AsType[*client.DeniedError](err); ok {
			fmt.Println("denied:", denied.UserMessage())
			return
		}
		fmt.Println("granted:", err == nil)
	}
	draw()
	draw()
	draw()
	fmt.Println("used:", q.Used("thumbnails", "calls"))
	q.Advance(24 * time.Hour)
	draw()
	q.Stop()
	draw()
	q.Restart()
	fmt.Println("used:", q.Used("thumbnails", "calls"))
	// Output:
	// granted: true
	// granted: true
	// denied: Daily AI limit reached. Try again tomorrow.
	// used: 2
	// granted: true
	// granted: false
	// used: 1
}

// standIn stands for the *testing.T of a test, which an example does not get.
type standIn struct {
	testing.TB
	ctx      context.Context
	cleanups []func()
}

func newStandIn() *standIn { return &standIn{ctx: context.Background()} }

func (*standIn) Helper()                    {}
func (*standIn) Errorf(f string, a ...any)  { fmt.Printf(f+"\n", a...) }
func (*standIn) Fatalf(f string, a ...any)  { panic(fmt.Sprintf(f, a...)) }
func (s *standIn) Context() context.Context { return s.ctx }
func (s *standIn) Cleanup(f func())         { s.cleanups = append(s.cleanups, f) }

func (s *standIn) end() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}
