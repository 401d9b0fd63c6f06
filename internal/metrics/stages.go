package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// stages is where the time of a change goes, one after the other: it waits for the writer, is decided, and is made durable.
type stages struct {
	wait           *waits
	decide, commit prometheus.Histogram
}

func newStages() stages {
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	return stages{
		wait: newWaits(),
		// One op takes some microseconds, and there are up to 1,024.
		decide: histogram("quotad_decide_duration_seconds",
			"How long the ops of one transaction took to be decided, all together; without what the disk takes.",
			.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1),
		// From a cache that does not wait for the medium to a disk that hangs.
		commit: histogram("quotad_commit_duration_seconds",
			"How long a transaction took to be made durable once it was decided: the disk's part.",
			.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5),
	}
}

// observe measures one transaction.
func (s stages) observe(b store.Batch) {
	s.wait.observe(b.Outcomes)
	s.decide.Observe(b.Deciding.Seconds())
	if b.Wrote {
		s.commit.Observe((b.Took - b.Deciding).Seconds())
	}
}

// waitBounds returns the upper ends of the buckets of waiting. A caller that writes its own op waits for less than a microsecond; a
// queue that is full, for as long as the disk hangs.
func waitBounds() [15]time.Duration {
	const us, ms = time.Microsecond, time.Millisecond
	return [...]time.Duration{
		10 * us, 100 * us, 250 * us, 500 * us, ms, 2500 * us, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms,
		time.Second, 5 * time.Second,
	}
}

// waits is a histogram to which a whole batch is added at once: it is the only measure that is taken of each op, and adding them one by
// one would cost several times as much.
type waits struct {
	desc   *prometheus.Desc
	bounds [15]time.Duration // not changed

	mu     sync.Mutex // guards what follows
	counts [16]uint64 // of each bucket by itself; the last is of what is above them all
	sum    time.Duration
}

func newWaits() *waits {
	return &waits{bounds: waitBounds(), desc: prometheus.NewDesc("quotad_queue_wait_seconds",
		"How long ops waited for the writer, from being asked for to the begin of their transaction.", nil, nil)}
}

// observe adds a batch. What expires by itself is asked for by nobody, so that its wait would say nothing about callers.
func (w *waits) observe(batch []store.Tally) {
	var counts [len(w.counts)]uint64
	var sum time.Duration
	for i := range batch {
		t := &batch[i]
		if _, expires := t.Op.(quota.Expire); expires {
			continue
		}
		n := 0
		for n < len(w.bounds) && t.Waited > w.bounds[n] {
			n++
		}
		counts[n]++
		sum += t.Waited
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, n := range counts {
		w.counts[i] += n
	}
	w.sum += sum
}

// Describe names the metric; it is part of prometheus.Collector.
func (w *waits) Describe(out chan<- *prometheus.Desc) { out <- w.desc }

// Collect returns it as it is; it is part of prometheus.Collector.
func (w *waits) Collect(out chan<- prometheus.Metric) {
	w.mu.Lock()
	counts, sum := w.counts, w.sum
	w.mu.Unlock()
	buckets := make(map[float64]uint64, len(w.bounds))
	total := uint64(0)
	for i, bound := range w.bounds {
		total += counts[i]
		buckets[bound.Seconds()] = total
	}
	out <- prometheus.MustNewConstHistogram(w.desc, total+counts[len(w.bounds)], sum.Seconds(), buckets)
}
