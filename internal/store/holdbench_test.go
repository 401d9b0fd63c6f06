package store_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/window"
)

// The ledgers that are compared: few and many open reservations.
const heldFew, heldMany = 1_000, 1_000_000

// BenchmarkReservations shows what an acquire that holds, a settlement and an expiry cost, durable on real files and 256 callers at a
// time, while a thousand and while a million other reservations are open; they are to cost about the same. Each round is of 256
// reservations on both ledgers, one after the other, so that a slow moment of the machine meets both, and leaves as many open as there
// were. The figures are medians over the rounds. What is settled may be the newest, the oldest or any; what expires was made in the
// order of its expiry, or in any.
func BenchmarkReservations(b *testing.B) {
	for _, expiries := range []string{"sorted", "random"} {
		b.Run("expiries="+expiries, func(b *testing.B) {
			few := newHeld(b, filepath.Join(b.TempDir(), "few"), heldFew, expiries == "random")
			defer few.close()
			many := newHeld(b, filepath.Join(b.TempDir(), "many"), heldMany, expiries == "random")
			defer many.close()
			for _, name := range []string{"acquire", "settle=newest", "settle=oldest", "settle=random", "expire"} {
				b.Run(name, func(b *testing.B) { benchBoth(b, few, many, name) })
			}
			few.ids, many.ids = nil, nil // they are the benchmark's own, and not to be counted
			b.Run("start=few", few.benchStart)
			b.Run("start=many", many.benchStart)
		})
	}
}

func benchBoth(b *testing.B, few, many *held, name string) {
	var costs [2][]float64
	var ratios []float64
	for b.Loop() {
		var cost [2]float64
		for i, l := range []*held{few, many} {
			l.b = b
			cost[i] = l.round(name)
			costs[i] = append(costs[i], cost[i])
		}
		ratios = append(ratios, cost[1]/cost[0])
	}
	if name == "expire" {
		few.prune()
		many.prune()
	}
	median := func(sample []float64) float64 {
		slices.Sort(sample)
		return sample[len(sample)/2]
	}
	b.ReportMetric(median(costs[0]), "ns/call-of-few")
	b.ReportMetric(median(costs[1]), "ns/call-of-many")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(0, "ns/op")
}

// round is how many reservations one round of a benchmark is about; as many callers ask at once.
const round = 256

// held is a ledger with many open reservations, whose time passes only when it is told to.
type held struct {
	b       *testing.B
	s       *store.Store
	dir     string
	rng     *rand.Rand
	passed  atomic.Int64 // since the ledger began
	n       int
	random  bool
	last    time.Duration // when the newest of those that expire in order does
	ids     []string      // those that are open, in the order in which they were made
	expired atomic.Int64
}

const heldFirst = time.Hour // the first reservation expires then, one a millisecond

func newHeld(b *testing.B, dir string, n int, random bool) *held {
	l := &held{b: b, dir: dir, rng: rand.New(rand.NewPCG(1, 2)), n: n, random: random, last: heldFirst}
	l.open()
	settings := quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: quota.CountMax}}, MaxInFlight: quota.InFlightMax}
	if _, err := l.s.Apply(b.Context(), quota.SetBucket{Name: "bench", Settings: settings}); err != nil {
		b.Fatal(err)
	}
	if _, err := l.s.Apply(b.Context(), quota.SetBucket{Name: "bench/*", Settings: settings}); err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	for left := n; left > 0; {
		more := min(left, 8*store.BatchMax)
		l.acquire(more, store.BatchMax)
		left -= more
	}
	size := l.s.Status(b.Context())
	b.Logf("%d reservations made in %v; the file has %d MB", n, time.Since(began).Round(time.Millisecond), size.Bytes>>20)
	l.pass(heldFirst - time.Millisecond)
	return l
}

func (l *held) open() {
	e := openBolt(l.b, l.dir)
	s, err := store.Open(l.b.Context(), e, store.Options{
		Now:    func() time.Time { return time.Date(2026, 11, 22, 4, 0, 0, int(l.passed.Load()), time.UTC) },
		Uptime: func() time.Duration { return time.Duration(l.passed.Load()) },
		OnBatch: func(batch store.Batch) {
			for _, t := range batch.Outcomes {
				l.expired.Add(int64(t.Charged + t.Released))
			}
		},
	})
	if err != nil {
		l.b.Fatal(err)
	}
	l.s = s
}

func (l *held) close() {
	if err := l.s.Close(); err != nil {
		l.b.Error(err)
	}
}

// pass lets time pass.
func (l *held) pass(d time.Duration) { l.passed.Add(int64(d)) }

// each calls do for each number up to n, from some callers at once.
func (l *held) each(n, callers int, do func(i int) (quota.Decision, error)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if d, err := do(i); err != nil || d.Outcome != quota.Done {
					l.b.Errorf("%v %v %v", d.Outcome, d.Violations, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// acquire makes reservations, of which one expires in each millisecond.
func (l *held) acquire(n, callers int) {
	ops := make([]quota.Acquire, n)
	for i := range ops {
		l.last += time.Millisecond
		at := l.last
		if l.random {
			at = max(heldFirst, time.Duration(l.passed.Load())) + time.Duration(1+l.rng.IntN(l.n))*time.Millisecond
		}
		id := uuid.Must(uuid.NewV7()).String()
		l.ids = append(l.ids, id)
		ops[i] = reserving(fmt.Sprintf("bench/%04d", l.rng.IntN(1000)), id, at-time.Duration(l.passed.Load()), quota.Charge{Amount: 3})
	}
	l.each(n, callers, func(i int) (quota.Decision, error) { return l.s.Apply(l.b.Context(), ops[i]) })
}

// take takes a round's ids from those that are open.
func (l *held) take(which string) []string {
	switch which {
	case "settle=newest":
		taken := slices.Clone(l.ids[len(l.ids)-round:])
		l.ids = l.ids[:len(l.ids)-round]
		return taken
	case "settle=oldest":
		taken := slices.Clone(l.ids[:round])
		l.ids = l.ids[round:]
		return taken
	}
	taken := make([]string, round)
	for i := range taken {
		at := l.rng.IntN(len(l.ids))
		taken[i] = l.ids[at]
		l.ids[at] = l.ids[len(l.ids)-1]
		l.ids = l.ids[:len(l.ids)-1]
	}
	return taken
}

func (l *held) settle(ids []string) {
	l.each(len(ids), round, func(i int) (quota.Decision, error) {
		return l.s.Apply(l.b.Context(), settling(ids[i], quota.Charge{Amount: 2}))
	})
}

// nextDue returns how long it is until a round's reservations are due.
func (l *held) nextDue() time.Duration {
	found, _, err := l.s.Reservations(l.b.Context(), store.ReservationQuery{Phase: quota.PhaseOpen, Max: round})
	if err != nil || len(found) < round {
		l.b.Fatalf("%d are open, %v", len(found), err)
	}
	return found[round-1].Expiry.Sub(l.s.Now())
}

// expire carries out all expiries that are due.
func (l *held) expire() int {
	before := l.expired.Load()
	for more := true; more; {
		d, err := l.s.Apply(l.b.Context(), quota.Expire{Max: store.ExpireMax})
		if err != nil {
			l.b.Fatal(err)
		}
		more = d.More
	}
	return int(l.expired.Load() - before)
}

// prune forgets the ids of what is not open any more.
func (l *held) prune() {
	l.ids = l.ids[:0]
	for after := ""; ; {
		found, next, err := l.s.Reservations(l.b.Context(), store.ReservationQuery{Phase: quota.PhaseOpen, Max: store.PageMax, After: after})
		if err != nil {
			l.b.Fatal(err)
		}
		for _, r := range found {
			l.ids = append(l.ids, r.RequestID)
		}
		if after = next; next == "" {
			break
		}
	}
	slices.Sort(l.ids) // by when they were made
}

// round does one round, and returns what a call took in nanoseconds.
func (l *held) round(name string) float64 {
	var ids []string
	switch name {
	case "acquire":
	case "expire":
		l.pass(l.nextDue())
	default:
		ids = l.take(name)
	}
	n := round
	start := time.Now()
	switch name {
	case "acquire":
		l.acquire(round, round)
	case "expire":
		n = l.expire()
	default:
		l.settle(ids)
	}
	took := time.Since(start)
	if name == "acquire" {
		l.settle(l.take("settle=oldest"))
	} else {
		l.acquire(n, round)
	}
	return float64(took.Nanoseconds()) / float64(n)
}

// benchStart opens the ledger again, and tells what it takes of memory.
func (l *held) benchStart(b *testing.B) {
	l.b = b
	const times = 3 // one takes seconds
	var file, ledger time.Duration
	for range times {
		l.close()
		start := time.Now()
		e := openBolt(b, l.dir)
		file += time.Since(start)
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		l.open()
		ledger += time.Since(start)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
	b.ReportMetric(file.Seconds()*1000/times, "ms/check-of-file")
	b.ReportMetric(ledger.Seconds()*1000/times, "ms/start")
	b.ReportMetric(float64(l.s.Status(b.Context()).Open), "open")
	b.ReportMetric(0, "ns/op")
}
