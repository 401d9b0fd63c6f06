package metrics

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// Waiting is measured for each op that somebody asked for, deciding for each transaction, and committing for each that wrote, without
// the deciding.
func TestStages(t *testing.T) {
	t.Parallel()
	m := New(Build{})
	m.ObserveBatch(store.Batch{Ops: 3, Wrote: true, Took: 9 * time.Second, Deciding: 2 * time.Second, Outcomes: []store.Tally{
		{Op: quota.Acquire{}, Outcome: quota.Done, Waited: 4 * time.Second},
		{Op: quota.Settle{}, Outcome: quota.Done, Waited: 3 * time.Second},
		{Op: quota.Expire{}, Outcome: quota.Done, Waited: time.Hour},
	}})
	m.ObserveBatch(store.Batch{Ops: 1, Took: 3 * time.Second, Deciding: time.Second, Outcomes: []store.Tally{
		{Op: quota.Acquire{}, Outcome: quota.Denied, Waited: time.Second},
	}})
	text := scrape(t, m)
	for _, want := range []string{
		"quotad_queue_wait_seconds_sum 8", "quotad_queue_wait_seconds_count 3", `quotad_queue_wait_seconds_bucket{le="1"} 1`,
		`quotad_queue_wait_seconds_bucket{le="0.5"} 0`, `quotad_queue_wait_seconds_bucket{le="5"} 3`, `quotad_queue_wait_seconds_bucket{le="+Inf"} 3`,
		"quotad_decide_duration_seconds_sum 3", "quotad_decide_duration_seconds_count 2",
		"quotad_commit_duration_seconds_sum 7", "quotad_commit_duration_seconds_count 1",
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// series counts what a scrape has to carry: each counter and gauge, and each bucket of each histogram.
func series(t *testing.T, g prometheus.Gatherer) (n int) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "quotad_") {
			continue // those of Go come and go with the process
		}
		for _, metric := range f.GetMetric() {
			n += 1 + len(metric.GetHistogram().GetBucket())
		}
	}
	return n
}

// flood has as many callers as there are rounds each take from, be denied by, hold, settle and overdraw a bucket of its own, in a unit
// of its own, and tells whoever listens.
func flood(t *testing.T, rounds int, observe func(store.Batch)) {
	t.Helper()
	s, err := store.Open(t.Context(), memengine.New(), store.Options{OnBatch: observe})
	if err != nil {
		t.Fatal(err)
	}
	one := quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 1}}}
	apply(t, s, quota.SetBucket{Name: "*/*", Settings: one})
	for i := range rounds {
		who, bucket, unit := fmt.Sprint("spiffe://d/", i), quota.Bucket(fmt.Sprint("t", i, "/b")), quota.Unit(fmt.Sprint("unit", i))
		for _, op := range []quota.Op{
			&quota.Acquire{Principal: who, Bucket: bucket, RequestID: "a", Reserve: true, Hold: time.Hour},
			&quota.Acquire{Principal: who, Bucket: bucket, RequestID: "b"},
			&quota.Acquire{Principal: who, Bucket: bucket, Charges: []quota.Charge{{Unit: unit, Amount: 1}}},
			quota.Settle{Principal: who, RequestID: "a", Charges: []quota.Charge{{Unit: quota.Calls, Amount: 7}, {Unit: unit, Amount: 5}}},
		} {
			if a, ok := op.(*quota.Acquire); ok {
				if ps := a.Validate(); ps != nil {
					t.Fatal(ps)
				}
				op = *a
			}
			if _, err := s.Apply(t.Context(), op); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCardinality: however many names, callers, units and ids there are, a scrape has as many series as before.
func TestCardinality(t *testing.T) {
	t.Parallel()
	rounds := 2_000
	if os.Getenv("QUOTAD_LONG") != "" {
		rounds = 1_000_000
	}
	synctest.Test(t, func(t *testing.T) {
		m := New(Build{})
		m.SetStatus(func() store.Status { return store.Status{} })
		flood(t, 1, m.ObserveBatch)
		before := series(t, m.Gatherer())
		flood(t, rounds, m.ObserveBatch)
		for i := range rounds {
			m.CallRefused(CallRefusal(fmt.Sprint("caller", i)))
			m.ConnectionRefused(ConnRefusal(fmt.Sprint("peer", i)))
		}
		if after := series(t, m.Gatherer()); after != before {
			t.Errorf("%d series before, %d after %d callers", before, after, rounds)
		}
	})
}

// Control: metrics with a bucket's name in a label are found out, by as many series as there were names.
func TestCardinalityControl(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := New(Build{})
		named := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quotad_control_total", Help: "A mistake."}, []string{"bucket"})
		m.registry.MustRegister(named)
		observe := func(b store.Batch) {
			m.ObserveBatch(b)
			for _, t := range b.Outcomes {
				if a, ok := t.Op.(quota.Acquire); ok {
					named.WithLabelValues(string(a.Bucket)).Inc()
				}
			}
		}
		flood(t, 1, observe)
		before := series(t, m.Gatherer())
		flood(t, 300, observe)
		if n := series(t, m.Gatherer()) - before; n != 299 {
			t.Errorf("%d series more, want 299", n)
		}
	})
}

// BenchmarkStages is what the stages of a full batch cost, and of it what each op pays for its wait.
func BenchmarkStages(b *testing.B) {
	s := newStages()
	batch := store.Batch{Wrote: true, Took: time.Millisecond, Deciding: time.Microsecond}
	for i := range store.BatchMax {
		batch.Outcomes = append(batch.Outcomes, store.Tally{Op: quota.Acquire{}, Waited: time.Duration(i) * time.Microsecond})
	}
	b.ReportAllocs()
	for b.Loop() {
		s.observe(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/store.BatchMax, "ns/op-waited")
}
