package client_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
)

// A client leaves nothing behind, whether quotad is there when it is closed or not; and while there is nothing to deliver it has no
// goroutine of its own. Not parallel: goroutines of other tests could not be told from its own.
func TestLeavesNothing(t *testing.T) {
	q := quotatest.New(t)
	q.Declare("b")
	address := q.Listen()
	before := goleak.IgnoreCurrent()
	for _, stopped := range []bool{false, true} {
		c, err := client.Dial(address, client.WithTimeout(20*time.Millisecond), client.WithTries(2, time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Reserve(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		if stopped {
			q.Stop()
		}
		if _, err := c.Acquire(t.Context(), "b"); (err != nil) != stopped {
			t.Error(err)
		}
		if err := r.SettleSoon(); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if s := c.Stats(); s.Pending != 0 || (s.Lost > 0) != stopped {
			t.Errorf("%+v", s)
		}
		goleak.VerifyNone(t, before)
		if stopped {
			q.Restart()
		}
	}
	wantUsed(t, q, 2, 1) // the last one's settlement was lost, and its reservation is open
}

func TestIdleHasNoGoroutine(t *testing.T) {
	q := quotatest.New(t)
	q.Declare("b")
	q.Used("b", "") // so that the connection stands
	before := goleak.IgnoreCurrent()
	c, err := client.New(q.Conn())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if err := mustReserve(t, c).SettleSoon(); err != nil {
			t.Fatal(err)
		}
		mustFlush(t, c)
		goleak.VerifyNone(t, before)
	}
}
