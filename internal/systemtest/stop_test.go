package systemtest_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A daemon that is asked to stop under load answers what it took on, refuses the rest, and leaves a file that has every
// answered acquire in it and says that the stop was in order.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	const workers, enough = 32, 500
	c := &crasher{site: newSite(t), notes: new(notes), chance: seeded(t)}
	d := c.start()
	conns := []*client{d.dial(t), d.dial(t)}
	conns[0].declare(t, "crash", 1e12)
	conns[0].declare(t, "crash/stop", 1e12)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var answered atomic.Int64
	plenty := make(chan struct{})
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := c.begin(&quotadv1.Charge{Bucket: "crash/stop", Amount: new(int64(1))})
				_, err := conns[i%len(conns)].Acquire(ctx, n.request())
				if a := c.end(n, err); a == perhaps || a == refused {
					return // the daemon is going, or gone
				}
				if answered.Add(1) == enough {
					close(plenty)
				}
			}
		})
	}
	select {
	case <-plenty:
	case <-time.After(patience):
		t.Fatalf("%d answers within %v\n%s", answered.Load(), patience, d.said)
	}
	d.stop()
	cancel()
	wg.Wait()
	report := c.verify(&c.findings)
	if !report.Clean {
		t.Error("the file does not say that the daemon stopped in order")
	}
	perhapses := len(c.with(perhaps, 0))
	if lo, hi := len(c.with(granted, 0)), len(c.with(granted, 0))+perhapses; report.Receipts < lo || report.Receipts > hi {
		t.Errorf("%d receipts, want %d to %d", report.Receipts, lo, hi)
	}
	d = c.start()
	c.check(d)
	conn := d.dial(t)
	c.recall(t.Context(), conn, c.with(granted, 0))
	if faults := c.found(); len(faults) > 0 {
		t.Fatal(strings.Join(faults, "\n"))
	}
	t.Logf("%d answered, %d perhaps, %d refused", len(c.with(granted, 0)), perhapses, len(c.with(refused, 0)))
}
