// Package metrics has every metric that quotad exports. No label holds a bucket's name, or anything else that callers choose,
// so that what a scrape costs does not depend on them.
package metrics

import (
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// Metrics is all that the daemon measures, in a registry of its own. Its methods may be called by many at once.
type Metrics struct {
	registry *prometheus.Registry

	rpcs    *prometheus.HistogramVec
	open    prometheus.Gauge
	panics  prometheus.Counter
	ops     [kinds][outcomes]prometheus.Counter
	replays prometheus.Counter
	ended   [ways]prometheus.Counter
	late    prometheus.Counter
	overage *prometheus.CounterVec
	batch   prometheus.Histogram
	stages  stages
	failed  prometheus.Counter
	loads   *prometheus.CounterVec
	ledger  *ledger
	edge    *edge
	events  *events
}

// Build says what is running. Where Version or Commit is empty, "unknown" is shown.
type Build struct{ Version, Commit string }

// New returns the metrics of a daemon that has done nothing yet. Ledger and ObserveLoad complete them.
func New(b Build) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), ledger: newLedger()}
	m.rpcs = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "quotad_rpc_duration_seconds",
		Help: "How long RPCs took, by method and status code. A denial is ResourceExhausted.",
		// From a denial on a quiet machine to a disk that hangs.
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	}, []string{"method", "code"})
	m.open = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "quotad_streams_open",
		Help: "Streaming RPCs that are open now.",
	})
	m.panics = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "quotad_rpc_panics_total",
		Help: "RPCs that ended in a panic. Each is a defect of quotad, and in the log.",
	})
	m.replays = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "quotad_replays_total",
		Help: "Acquires, settlements, releases and extensions that had been made before under the same id, and changed nothing.",
	})
	m.late = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "quotad_reservations_late_total",
		Help: "Reservations that were settled or released after they had expired.",
	})
	m.overage = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_overage_total",
		Help: "What settlements added above the limits, by unit; units that quotad has no name for are other.",
	}, []string{"unit"})
	m.batch = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "quotad_batch_ops",
		Help:    "How many ops shared one transaction.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 11), // to store.BatchMax
	})
	m.stages = newStages()
	m.failed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "quotad_commit_failures_total",
		Help: "Transactions that were not kept, or perhaps not: no room, or a disk that failed.",
	})
	m.loads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_buckets_file_loads_total",
		Help: "Readings of the buckets file, by whether it was taken (ok) or refused (bad).",
	}, []string{"result"})
	m.registry.MustRegister(
		m.rpcs, m.open, m.panics, m.replays, m.batch, m.stages.wait, m.stages.decide, m.stages.commit, m.failed, m.loads, m.ledger, m.newOps(), m.newEnded(),
		m.late, m.overage, buildInfo(b),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.edge = newEdge(m.registry)
	m.events = newEvents(m.registry)
	for _, result := range []string{"ok", "bad"} {
		m.loads.WithLabelValues(result) // present before the first, so that a rate can be told from nothing
	}
	for _, unit := range append(units[:], unitOther) {
		m.overage.WithLabelValues(unit)
	}
	return m
}

func buildInfo(b Build) prometheus.Collector {
	known := func(s string) string {
		if s == "" {
			return "unknown"
		}
		return s
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "quotad_build_info",
		Help:        "What is running; always 1.",
		ConstLabels: prometheus.Labels{"version": known(b.Version), "commit": known(b.Commit), "goversion": runtime.Version()},
	})
	info.Set(1)
	return info
}

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4})
}

// Gatherer returns the metrics as they are, for tests.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// ObserveBatch counts what became of one transaction. It is made for store.Options.OnBatch, and keeps nothing of b.
func (m *Metrics) ObserveBatch(b store.Batch) {
	var counts [kinds][outcomes]int
	replays := 0
	for _, t := range b.Outcomes {
		outcome := int(t.Outcome)
		if b.Err != nil || outcome >= outcomes {
			outcome = 0
		}
		counts[kindOf(t.Op)][outcome]++
		if t.Replayed {
			replays++
		}
	}
	for kind := range counts {
		for outcome, n := range counts[kind] {
			if n > 0 {
				m.ops[kind][outcome].Add(float64(n))
			}
		}
	}
	if replays > 0 {
		m.replays.Add(float64(replays))
	}
	m.observeReservations(b)
	m.batch.Observe(float64(b.Ops))
	m.stages.observe(b)
	if b.Err != nil {
		m.failed.Inc()
	}
}

// Method is the measure of one RPC method.
type Method struct {
	rpcs   *prometheus.HistogramVec
	name   string
	codes  func(code uint32) string
	byCode [codes]atomic.Pointer[prometheus.Observer]
}

// codes is how many status codes gRPC has; what is above is counted as the one named Unknown.
const (
	codes       = 17
	codeUnknown = 2
)

// Method returns the measure of a method, to be asked for once per method and kept; codeName gives the codes their names.
func (m *Metrics) Method(name string, codeName func(code uint32) string) *Method {
	return &Method{rpcs: m.rpcs, name: name, codes: codeName}
}

// Observe counts one RPC that ended with a status code. A series comes into being with its first RPC: most methods never end
// with most codes, and each series costs every scrape.
func (m *Method) Observe(code uint32, took time.Duration) {
	if code >= codes {
		code = codeUnknown
	}
	o := m.byCode[code].Load()
	if o == nil {
		observer := m.rpcs.WithLabelValues(m.name, m.codes(code)) // the same one for all who ask
		o = &observer
		m.byCode[code].Store(o)
	}
	(*o).Observe(took.Seconds())
}

// StreamOpened counts one more open stream, until the function that it returns is called.
func (m *Metrics) StreamOpened() (closed func()) {
	m.open.Inc()
	return m.open.Dec
}

// Panicked counts an RPC that ended in a panic.
func (m *Metrics) Panicked() { m.panics.Inc() }

// ObserveLoad notes that the buckets file was read at a time, and whether it was taken.
func (m *Metrics) ObserveLoad(at time.Time, ok bool) {
	result := "bad"
	if ok {
		result = "ok"
	}
	m.loads.WithLabelValues(result).Inc()
	m.ledger.loaded(at, ok)
}

// SetStatus says where to ask for the state of the ledger, at each scrape.
func (m *Metrics) SetStatus(status func() store.Status) { m.ledger.ask.Store(&status) }

// newOps makes a counter for every kind of op and outcome beforehand, so that counting one is an addition.
func (m *Metrics) newOps() prometheus.Collector {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_ops_total",
		Help: "Changes asked of the ledger, by kind and by what became of them; failed is an error and not a refusal.",
	}, []string{"kind", "outcome"})
	for kind := range m.ops {
		m.ops[kind][0] = vec.WithLabelValues(kindNames[kind], "failed")
		for _, outcome := range quota.Outcomes() {
			m.ops[kind][outcome] = vec.WithLabelValues(kindNames[kind], outcome.String())
		}
	}
	return vec
}
