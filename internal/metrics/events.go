package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// exhaustedAt is the threshold, in percent, from which on an event says that a limit is used up.
const exhaustedAt = 100

// events is what is measured of what is told.
type events struct {
	told      map[bool]prometheus.Counter // by whether it was exhausted; not changed after it is made
	delivered map[bool]prometheus.Counter // by whether it was taken; neither is this
	lost      prometheus.Counter
	waiting   atomic.Pointer[func() int64]
	pending   *prometheus.Desc
}

// newEvents returns the measures of events, registered.
func newEvents(r prometheus.Registerer) *events {
	e := &events{
		told: make(map[bool]prometheus.Counter), delivered: make(map[bool]prometheus.Counter),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "quotad_events_lost_total",
			Help: "Events that had left, or whose record was damaged, before a consumer of them was told.",
		}),
		pending: prometheus.NewDesc("quotad_events_pending",
			"Events that the webhook has not taken yet. Absent without a webhook.", nil, nil),
	}
	told := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_events_total",
		Help: "Thresholds crossed and logged: warning below 100 percent of a limit, exhausted from there on.",
	}, []string{"kind"})
	e.told[false], e.told[true] = told.WithLabelValues("warning"), told.WithLabelValues("exhausted")
	delivered := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_event_deliveries_total",
		Help: "Tries to deliver an event to the webhook, by whether it took it (ok) or not (failed).",
	}, []string{"result"})
	e.delivered[true], e.delivered[false] = delivered.WithLabelValues("ok"), delivered.WithLabelValues("failed")
	r.MustRegister(told, delivered, e.lost, e)
	return e
}

// Describe names the metrics; it is part of prometheus.Collector.
func (e *events) Describe(out chan<- *prometheus.Desc) { out <- e.pending }

// Collect reads what is known now; it is part of prometheus.Collector.
func (e *events) Collect(out chan<- prometheus.Metric) {
	if waiting := e.waiting.Load(); waiting != nil {
		out <- prometheus.MustNewConstMetric(e.pending, prometheus.GaugeValue, float64((*waiting)()))
	}
}

// EventTold counts an event of a threshold, in percent, that was logged.
func (m *Metrics) EventTold(percent int) { m.events.told[percent >= exhaustedAt].Inc() }

// EventDelivered counts a try to deliver an event, and whether it was taken.
func (m *Metrics) EventDelivered(ok bool) { m.events.delivered[ok].Inc() }

// EventsLost counts events that a consumer was never told of.
func (m *Metrics) EventsLost(n int64) { m.events.lost.Add(float64(n)) }

// SetEventsPending says where to ask, at each scrape, how many events the webhook has not taken yet.
func (m *Metrics) SetEventsPending(pending func() int64) { m.events.waiting.Store(&pending) }
