package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

func reserving(bucket, id string, hold time.Duration, charges ...quota.Charge) quota.Acquire {
	op := quota.Acquire{Principal: "test", Bucket: quota.Bucket(bucket), RequestID: id, Charges: charges, Reserve: true, Hold: hold}
	if ps := op.Validate(); ps != nil {
		panic(fmt.Sprint(ps))
	}
	return op
}

// settling settles a reservation: what is not named settles as held, and an amount of 0 is none.
func settling(id string, charges ...quota.Charge) quota.Settle {
	op := quota.Settle{Principal: "test", RequestID: id, Charges: charges}
	if ps := op.Validate(); ps != nil {
		panic(fmt.Sprint(ps))
	}
	return op
}

func releasing(id string) quota.Release { return quota.Release{Principal: "test", RequestID: id} }

func extending(id, extension string, hold time.Duration, charges ...quota.Charge) quota.Extend {
	op := quota.Extend{Principal: "test", RequestID: id, ExtendID: extension, Hold: hold, Charges: charges}
	if ps := op.Validate(); ps != nil {
		panic(fmt.Sprint(ps))
	}
	return op
}

// onExpiry declares a bucket of ten calls a day.
func onExpiry(name string, what quota.OnExpiry) quota.SetBucket {
	return quota.SetBucket{Name: name, Settings: quota.Settings{
		Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 10}}, OnExpiry: what,
	}}
}

// ended counts what a store expires, as it tells whoever listens.
type ended struct{ charged, released, largest atomic.Int64 }

func (n *ended) onBatch(b store.Batch) {
	sum := int64(0)
	for _, t := range b.Outcomes {
		n.charged.Add(int64(t.Charged))
		n.released.Add(int64(t.Released))
		sum += int64(t.Charged + t.Released)
	}
	n.largest.Store(max(n.largest.Load(), sum))
}

// inForce returns what is used and held of a bucket today as the records have it: nothing is expired by looking.
func inForce(t *testing.T, e store.Engine, day, bucket string) (used, held int64) {
	t.Helper()
	err := e.View(t.Context(), func(tx store.Tx) error {
		space, key := "used/"+day, bucket+"\x00calls"
		record, err := tx.Get(space, key)
		if err != nil || record == nil {
			return err
		}
		a, err := store.ParseAccountRecord(record, space, key)
		used, held = a.Used, a.Held
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return used, held
}

// soundEngine verifies a ledger whose store is idle.
func soundEngine(t *testing.T, e store.Engine) store.Report {
	t.Helper()
	r, err := store.Verify(t.Context(), e)
	if err != nil || len(r.Faults) > 0 {
		t.Errorf("verify: %v, %v", r.Faults, err)
	}
	return r
}

// testEngines runs a test on memory and on a file, each with a bubble of its own.
func testEngines(t *testing.T, test func(*testing.T, store.Engine)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, memengine.New()) })
	})
	t.Run("bolt", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data")
		synctest.Test(t, func(t *testing.T) {
			e := openBolt(t, dir)
			test(t, e)
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	})
}

// A client that dies leaves a reservation that nobody settles. Until its time is over nothing happens to it; then it is decided as
// its bucket says, exactly then, and the store sees to it by itself.
func TestClientDies(t *testing.T) {
	for name, c := range map[string]struct {
		hold  time.Duration
		wait  time.Duration
		what  quota.OnExpiry
		used  int64
		quiet bool // whether nobody asks for anything at the time
	}{
		"charged":                       {time.Hour, time.Hour, quota.ExpiryCharge, 10, false},
		"charged, nobody asks":          {time.Hour, time.Hour, quota.ExpiryCharge, 10, true},
		"released":                      {time.Hour, time.Hour, quota.ExpiryRelease, 0, false},
		"released, nobody asks":         {time.Hour, time.Hour, quota.ExpiryRelease, 0, true},
		"the bucket's hold":             {0, quota.HoldDefault, quota.ExpiryRelease, 0, false},
		"a millisecond":                 {time.Millisecond, time.Millisecond, quota.ExpiryRelease, 0, false},
		"the longest, nobody asks":      {quota.HoldMax, quota.HoldMax, quota.ExpiryCharge, 10, true},
		"a time that is no whole milli": {1500 * time.Microsecond, time.Millisecond, quota.ExpiryRelease, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			testEngines(t, func(t *testing.T, e store.Engine) {
				t.Helper()
				var n ended
				wantUsed := c.used
				s := open(t, noClose{e}, store.Options{Defaults: fifty, OnBatch: n.onBatch})
				defer closeStore(t, s)
				do(t, s, onExpiry("a", c.what), quota.Done)
				synctest.Wait() // the keeper has looked, and found nothing to wait for
				d := do(t, s, reserving("a", "id", c.hold, quota.Charge{Amount: 10}), quota.Done)
				if want := time.Now().Add(c.wait); !d.Expiry.Equal(want) {
					t.Fatalf("it expires at %v, want %v", d.Expiry, want)
				}
				time.Sleep(c.wait - time.Nanosecond)
				do(t, s, acquire("a", ""), quota.Denied)
				if used, held := inForce(t, e, firstDay, "a"); used != 0 || held != 10 || n.charged.Load()+n.released.Load() != 0 {
					t.Fatalf("before its time: %d used, %d held", used, held)
				}
				time.Sleep(time.Nanosecond)
				if c.quiet {
					synctest.Wait()
				} else {
					want := quota.Denied
					if c.used == 0 {
						want = quota.Done
					}
					if d, err := s.Check(t.Context(), acquire("a", "")); err != nil || d.Outcome != want {
						t.Errorf("a check at its time: %v, %v", d.Outcome, err)
					}
					do(t, s, acquire("a", "", quota.Charge{Amount: 10}), want)
					wantUsed = 10
				}
				if used, held := inForce(t, e, firstDay, "a"); used != wantUsed || held != 0 {
					t.Errorf("at its time: %d used, %d held", used, held)
				}
				if got, want := [2]int64{n.charged.Load(), n.released.Load()}, [2]int64{1 - int64(c.what), int64(c.what)}; got != want {
					t.Errorf("charged and released: %v, want %v", got, want)
				}
				if r := soundEngine(t, e); r.Open != 0 {
					t.Errorf("%d are open", r.Open)
				}
			})
		})
	}
}

// What is asked first of a ledger that nobody kept while reservations expired is answered as if somebody had.
func TestDownOverExpiry(t *testing.T) {
	for name, c := range map[string]struct {
		what  quota.OnExpiry
		first func(*testing.T, *store.Store)
	}{
		"an acquire that fits": {quota.ExpiryRelease, func(t *testing.T, s *store.Store) {
			t.Helper()
			do(t, s, acquire("a", "", quota.Charge{Amount: 10}), quota.Done)
		}},
		"an acquire that does not fit": {quota.ExpiryCharge, func(t *testing.T, s *store.Store) {
			t.Helper()
			if d := do(t, s, acquire("a", ""), quota.Denied); d.Violations[0].Balance.Used != 10 || d.Violations[0].Balance.Held != 0 {
				t.Errorf("denied by %v", d.Violations)
			}
		}},
		"a check": {quota.ExpiryRelease, func(t *testing.T, s *store.Store) {
			t.Helper()
			if d, err := s.Check(t.Context(), acquire("a", "", quota.Charge{Amount: 10})); err != nil || d.Outcome != quota.Done {
				t.Errorf("%v %v, %v", d.Outcome, d.Violations, err)
			}
		}},
		"a reading": {quota.ExpiryCharge, func(t *testing.T, s *store.Store) {
			t.Helper()
			if got := used(t, s, "a"); got != 10 {
				t.Errorf("%d used", got)
			}
		}},
		"a reset": {quota.ExpiryCharge, func(t *testing.T, s *store.Store) {
			t.Helper()
			do(t, s, quota.Reset{Bucket: "a"}, quota.Done)
			do(t, s, acquire("a", "", quota.Charge{Amount: 10}), quota.Done)
		}},
		"a settlement": {quota.ExpiryRelease, func(t *testing.T, s *store.Store) {
			t.Helper()
			if d := do(t, s, settling("id", quota.Charge{Amount: 4}), quota.Done); !d.Late || d.Balances[0].Used != 4 || d.Balances[0].Held != 0 {
				t.Errorf("%+v", d)
			}
		}},
		"an extension": {quota.ExpiryCharge, func(t *testing.T, s *store.Store) {
			t.Helper()
			do(t, s, extending("id", "", time.Hour), quota.AlreadyExpired)
		}},
		"nothing": {quota.ExpiryCharge, func(*testing.T, *store.Store) { synctest.Wait() }},
	} {
		t.Run(name, func(t *testing.T) {
			testEngines(t, func(t *testing.T, e store.Engine) {
				t.Helper()
				s := open(t, noClose{e}, store.Options{Defaults: fifty})
				do(t, s, onExpiry("a", c.what), quota.Done)
				do(t, s, reserving("a", "id", time.Hour, quota.Charge{Amount: 10}), quota.Done)
				closeStore(t, s)
				time.Sleep(3 * time.Hour)
				s = open(t, noClose{e}, store.Options{Defaults: fifty})
				c.first(t, s)
				synctest.Wait()
				if r := soundEngine(t, e); r.Open != 0 {
					t.Errorf("%d are open", r.Open)
				}
				closeStore(t, s)
			})
		})
	}
}

// More reservations are due than one transaction expires. What depends on them waits for all, and is answered right; what does not
// goes on at once, and so do readings; and no transaction is long.
func TestManyDue(t *testing.T) {
	const many = 5000
	synctest.Test(t, func(t *testing.T) {
		const commit = 10 * time.Millisecond
		e := memengine.New()
		defaults := store.Options{Defaults: quota.Defaults{Limits: fifty.Limits, UndeclaredLive: many}}
		s := open(t, noClose{e}, defaults)
		settings := quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: many}}, OnExpiry: quota.ExpiryRelease, MaxInFlight: many}
		do(t, s, quota.SetBucket{Name: "a", Settings: settings}, quota.Done)
		for i := range many {
			do(t, s, reserving("a", fmt.Sprintf("id-%d", i), time.Hour), quota.Done)
		}
		do(t, s, acquire("a", ""), quota.Denied)
		do(t, s, reserving("a", "one-more", time.Hour), quota.Denied)
		closeStore(t, s)
		time.Sleep(2 * time.Hour)

		var n ended
		defaults.OnBatch = n.onBatch
		s = open(t, noClose{&hooks{Engine: e, after: func() { time.Sleep(commit) }}}, defaults)
		began := time.Now()
		var callers sync.WaitGroup
		took := func(name string, atLeast, atMost time.Duration, call func()) {
			callers.Go(func() {
				call()
				if d := time.Since(began); d < atLeast || d > atMost {
					t.Errorf("%s took %v, want %v to %v", name, d, atLeast, atMost)
				}
			})
		}
		all := (many + store.ExpireMax - 1) / store.ExpireMax * commit
		took("a denial", all, 2*all, func() { do(t, s, acquire("a", "", quota.Charge{Amount: many + 1}), quota.Denied) })
		took("a grant that needs all", all, 2*all, func() { do(t, s, acquire("a", "", quota.Charge{Amount: many}), quota.Done) })
		took("a grant", 0, 4*commit, func() { do(t, s, acquire("other", ""), quota.Done) })
		took("a reading", 0, 6*commit, func() { used(t, s, "other") })
		callers.Wait()
		if n.released.Load() != many || n.charged.Load() != 0 || n.largest.Load() > store.ExpireMax {
			t.Errorf("%d released, %d charged, %d at once", n.released.Load(), n.charged.Load(), n.largest.Load())
		}
		if used, held := inForce(t, e, firstDay, "a"); used != many || held != 0 {
			t.Errorf("%d used, %d held", used, held)
		}
		closeStore(t, s)
		soundEngine(t, e)
	})
}

// The keeper goes on until all that is due has been expired, also when nobody asks.
func TestManyDueNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		var n ended
		s := open(t, noClose{e}, store.Options{Defaults: fifty})
		do(t, s, quota.SetBucket{Name: "a"}, quota.Done)
		for i := range 3*store.ExpireMax + 1 {
			do(t, s, reserving("a", fmt.Sprintf("id-%d", i), time.Hour), quota.Done)
		}
		closeStore(t, s)
		time.Sleep(2 * time.Hour)
		s = open(t, noClose{e}, store.Options{Defaults: fifty, OnBatch: n.onBatch})
		synctest.Wait()
		if r := soundEngine(t, e); r.Open != 0 || n.largest.Load() != store.ExpireMax {
			t.Errorf("%d are still open; %d at once", r.Open, n.largest.Load())
		}
		closeStore(t, s)
	})
}

// A reservation that is made right after a start does not put off what was due by then. Which of the two the keeper hears of first is
// left to chance, so it is tried a few times.
func TestDueAtStartComesFirst(t *testing.T) {
	for range 30 {
		synctest.Test(t, func(t *testing.T) {
			e := memengine.New()
			s := open(t, noClose{e}, store.Options{Defaults: fifty})
			do(t, s, reserving("a", "due", time.Hour), quota.Done)
			closeStore(t, s)
			time.Sleep(2 * time.Hour)
			s = open(t, noClose{e}, store.Options{Defaults: fifty})
			do(t, s, reserving("a", "new", time.Hour), quota.Done)
			synctest.Wait()
			if used, held := inForce(t, e, firstDay, "a"); used != 1 || held != 1 {
				t.Errorf("%d used and %d held, want what was due to be used", used, held)
			}
			closeStore(t, s)
		})
	}
}

// viewing is an engine on which something happens before each view.
type viewing struct {
	store.Engine
	before func()
}

func (v viewing) View(ctx context.Context, fn func(store.Tx) error) error {
	v.before()
	return v.Engine.View(ctx, fn)
}

// What falls due while the keeper is at work is not taken for damaged, and forgotten.
func TestDueMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		var n ended
		s := open(t, viewing{noClose{e}, func() { time.Sleep(50 * time.Millisecond) }}, store.Options{Defaults: fifty, OnBatch: n.onBatch})
		defer closeStore(t, s)
		do(t, s, reserving("a", "first", time.Minute), quota.Done)
		do(t, s, reserving("a", "second", time.Minute+10*time.Millisecond), quota.Done)
		time.Sleep(2 * time.Minute)
		if n.charged.Load() != 2 {
			t.Errorf("%d of 2 were expired", n.charged.Load())
		}
	})
}

// skewed returns options for a store whose wall clock is off by what the dial says.
func skewed(shift *dial, n *ended) store.Options {
	began := time.Now()
	return store.Options{
		Defaults: fifty, OnBatch: n.onBatch,
		Now:    func() time.Time { return time.Now().Add(shift.get()) },
		Uptime: func() time.Duration { return time.Since(began) },
	}
}

// A clock that steps does not expire anything early as long as it is not believed, nor twice; and one that is set back makes
// expiries late.
func TestExpiryUnderStepsOfTheClock(t *testing.T) {
	type step struct {
		shift time.Duration // of the wall clock, from here on
		wait  time.Duration
		held  int64 // after that
	}
	const m, h = time.Minute, time.Hour
	for name, steps := range map[string][]step{
		"steady":                   {{0, 59 * m, 1}, {0, m, 0}},
		"a small step is taken":    {{0, m, 1}, {m / 2, 58*m + 29*time.Second, 1}, {m / 2, time.Second, 0}},
		"a jump, not believed":     {{2 * h, 9 * m, 1}, {0, 51*m - 1, 1}, {0, 1, 0}},
		"a jump, believed":         {{2 * h, 9 * m, 1}, {2 * h, 2 * m, 0}},
		"jumps to and fro":         {{2 * h, 9 * m, 1}, {0, m, 1}, {3 * h, 9 * m, 1}, {0, m, 1}, {9 * h, 9 * m, 1}, {0, 31*m - 1, 1}, {0, 1, 0}},
		"set back":                 {{0, m, 1}, {-h, 60 * m, 1}, {-h, 59*m - 1, 1}, {-h, 1, 0}},
		"set back and right":       {{0, m, 1}, {-h, 50 * m, 1}, {0, 9*m - 1, 1}, {0, 1, 0}},
		"set back after its time":  {{0, 60 * m, 0}, {-3 * h, 5 * h, 0}, {0, m, 0}},
		"believed, then set right": {{2 * h, 11 * m, 0}, {0, 5 * h, 0}},
		"back, then too far":       {{-h, m, 1}, {h, 9 * m, 1}, {-h, m, 1}, {0, 49*m - 1, 1}, {0, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var shift dial
				var n ended
				e := memengine.New()
				s := open(t, noClose{e}, skewed(&shift, &n))
				defer closeStore(t, s)
				d := do(t, s, reserving("a", "id", time.Hour), quota.Done)
				for i, step := range steps {
					shift.set(step.shift)
					s.Now() // somebody sees it
					time.Sleep(step.wait)
					synctest.Wait()
					_, held := inForce(t, e, firstDay, "a")
					if held != step.held {
						t.Errorf("after step %d, at %v by the ledger: %d held, want %d", i+1, s.Now(), held, step.held)
					}
					if due := !d.Expiry.After(s.Now()); due != (step.held == 0) {
						t.Errorf("after step %d the ledger's time is %v, and it expires at %v", i+1, s.Now(), d.Expiry)
					}
				}
				if n.charged.Load() != 1 || n.released.Load() != 0 {
					t.Errorf("charged %d times, released %d", n.charged.Load(), n.released.Load())
				}
				if d := do(t, s, settling("id", quota.Charge{Amount: 3}), quota.Done); !d.Late || d.Balances[0].Used != 3 {
					t.Errorf("settled late: %+v", d)
				}
				soundEngine(t, e)
			})
		})
	}
}
