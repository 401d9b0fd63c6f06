package systemtest_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
)

// A crasher kills a daemon again and again under load, and holds what comes back against what its clients were told.
type crasher struct {
	*site
	*notes
	chance *rand.Rand
	before int   // acquires noted before the load of this cycle
	low    int64 // the limit of crash/low, which is to run out on the way

	changes, acknowledged atomic.Int64 // of a declaration, each with another limit: asked for, and answered
}

// declare makes buckets with limits out of reach, one that runs out, and a parent of them all.
func (c *crasher) declare(conn *client) {
	c.t.Helper()
	for _, name := range []string{"crash", "crash/a", "crash/b", "crash/c"} {
		conn.declare(c.t, name, 1e12)
	}
	conn.declare(c.t, "crash/low", c.low)
}

// charges chooses what an acquire takes: one call, several, or of two buckets at once.
func charges(r *rand.Rand) []*quotadv1.Charge {
	one := func(bucket string, n int64) *quotadv1.Charge {
		return &quotadv1.Charge{Bucket: bucket, Amount: new(n)}
	}
	switch r.IntN(8) {
	case 0:
		return []*quotadv1.Charge{one("crash/low", 1)}
	case 1: // all or nothing: nothing, once low has run out
		return []*quotadv1.Charge{one("crash/c", 1+r.Int64N(9)), one("crash/low", 1)}
	case 2, 3, 4:
		return []*quotadv1.Charge{one("crash/b", 1+r.Int64N(1000))}
	default:
		return []*quotadv1.Charge{one("crash/a", 1)}
	}
}

// load has clients acquire until their daemon is gone.
func (c *crasher) load(d *daemon, after time.Duration) {
	c.before = c.len()
	d.killUnder(c.chance, after, func(ctx context.Context, conn *client, r *rand.Rand) bool {
		if r.IntN(32) == 0 && !c.change(ctx, conn) {
			return false
		}
		n := c.begin(charges(r)...)
		_, err := conn.Acquire(ctx, n.request())
		return c.end(n, err) != perhaps
	})
}

// change declares a bucket anew, which the audit trail keeps, and tells whether it was answered.
func (c *crasher) change(ctx context.Context, conn *client) bool {
	_, err := conn.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{
		Name: "changed", Limits: []*quotadv1.Limit{{Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, Max: c.changes.Add(1)}},
	}})
	if err == nil {
		c.acknowledged.Add(1)
	}
	return err == nil
}

// audited holds the audit trail against the changes: each that was acknowledged is there, and none that nobody asked for. That the
// trail is whole is part of what verify looks at.
func (c *crasher) audited(conn *client) {
	c.t.Helper()
	var kept int64
	req := &quotadv1.ListAuditRequest{Prefix: "changed", PageSize: 1000}
	for {
		resp, err := conn.ListAudit(c.t.Context(), req)
		if err != nil {
			c.t.Fatal(err)
		}
		kept += int64(len(resp.GetRecords()))
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if asked, told := c.changes.Load(), c.acknowledged.Load(); kept < told || kept > asked || told == 0 {
		c.faults("the audit trail has %d changes, of %d that were asked for and %d that were acknowledged", kept, asked, told)
	}
}

// killUnder has clients call until their daemon is gone, which happens after the time given, counted from the first answer. A
// call tells whether it was answered; a client whose call was not stops there.
func (d *daemon) killUnder(chance *rand.Rand, after time.Duration, call func(context.Context, *client, *rand.Rand) bool) {
	const workers = 16
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	conns := []*client{d.dial(d.t), d.dial(d.t)}
	answered := make(chan struct{}, workers)
	var wg sync.WaitGroup
	for i := range workers {
		conn, r := conns[i%len(conns)], rand.New(rand.NewPCG(chance.Uint64(), 0))
		wg.Go(func() {
			for first := true; ctx.Err() == nil && call(ctx, conn, r); first = false {
				if first {
					answered <- struct{}{}
				}
			}
		})
	}
	select {
	case <-answered:
	case <-time.After(patience):
		d.t.Errorf("no answer within %v\n%s", patience, d.said)
	}
	// The moment of the kill is what this test is about: it has to be anywhere.
	time.Sleep(after)
	d.kill()
	cancel()
	wg.Wait()
	for _, conn := range conns {
		conn.close()
	}
}

// check asks the daemon that came back. The order matters: sending a lost acquire again would make the count whole.
func (c *crasher) check(d *daemon) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	conn := d.dial(c.t)
	defer conn.close()
	c.learn(ctx, conn, c.before)
	used := conn.used(c.t, "crash")
	c.compare(used)
	if used["crash/low"] > c.low {
		c.faults("crash/low counts %d, above its limit of %d", used["crash/low"], c.low)
	}
	acknowledged := c.with(granted, c.before)
	c.recall(ctx, conn, acknowledged[max(0, len(acknowledged)-50):])
}

// verify reads the file of a dead daemon: checksums, and counts against receipts.
func (s *site) verify(f *findings) store.Report {
	s.t.Helper()
	engine, err := boltengine.Open(s.dir, boltengine.Options{ReadOnly: true})
	if err != nil {
		s.t.Fatalf("opening the file of the dead: %v", err)
	}
	report, err := store.Verify(s.t.Context(), engine)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := engine.Close(); err != nil {
		s.t.Fatal(err)
	}
	for _, fault := range report.Faults {
		f.faults("verify: %s", fault)
	}
	return report
}

// cycle starts a daemon on what the one before left behind, checks it, loads it and kills it. Some daemons are killed before
// they serve.
func (c *crasher) cycle() {
	if c.chance.IntN(10) == 0 {
		d := c.launch()
		// As in load, the kill has to come at any moment.
		time.Sleep(time.Duration(c.chance.Int64N(int64(40 * time.Millisecond))))
		d.kill()
	}
	d := c.start()
	c.check(d)
	c.load(d, time.Duration(c.chance.Int64N(int64(50*time.Millisecond))))
}

// No acknowledged acquire is lost and none invented, however often the daemon dies.
func TestCrash(t *testing.T) {
	t.Parallel()
	cycles := portion(100, 20, 1000)
	c := &crasher{site: newSite(t), notes: new(notes), chance: seeded(t), low: int64(cycles)}
	d := c.start()
	conn := d.dial(t)
	c.declare(conn)
	conn.close()
	d.kill() // an acknowledged declaration lasts, too
	for i := range cycles {
		c.cycle()
		if i%10 == 0 {
			c.verify(&c.findings)
		}
		if faults := c.found(); len(faults) > 0 {
			t.Fatalf("cycle %d:\n%s", i+1, strings.Join(faults, "\n"))
		}
	}
	d = c.start()
	c.check(d)
	conn = d.dial(t)
	c.recall(t.Context(), conn, sample(c.chance, c.with(granted, 0), portion(10_000, 1000, 1_000_000)))
	low := conn.used(t, "crash")["crash/low"]
	c.audited(conn)
	d.stop()
	report := c.verify(&c.findings)
	if faults := c.found(); len(faults) > 0 {
		t.Fatal(strings.Join(faults, "\n"))
	}
	if !report.Clean {
		t.Error("the last daemon stopped in order, but its file does not say so")
	}
	if low != c.low {
		t.Errorf("crash/low counts %d of %d: the load is too small to reach a limit", low, c.low)
	}
	t.Logf("%d kills, %d acquires: %d acknowledged, %d denied; verified %d receipts",
		cycles, c.len(), len(c.with(granted, 0)), len(c.with(denied, 0)), report.Receipts)
}

// Control: a daemon that answers before the commit loses what it acknowledged, and is caught.
func TestCrashCatchesHastyAnswers(t *testing.T) {
	t.Parallel()
	c := &crasher{site: newSite(t), notes: new(notes), chance: seeded(t), low: 20}
	c.hasty = true
	d := c.start()
	c.declare(d.dial(t))
	d.stop() // its declarations at least are to last
	for range 20 {
		c.cycle()
		if slices.ContainsFunc(c.found(), func(fault string) bool { return strings.HasPrefix(fault, "lost") }) {
			return
		}
	}
	t.Errorf("20 kills of a daemon that answers before its commit, and no loss was seen: %q", c.found())
}

// sample returns at most n of all.
func sample(r *rand.Rand, all []*note, n int) []*note {
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(n, len(all))]
}
