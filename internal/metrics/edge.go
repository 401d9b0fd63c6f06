package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// CallRefusal is why a call was refused before a service saw it, as the label names it.
type CallRefusal string

// The reasons for which a call is refused at the door.
const (
	RefusedUnauthenticated  CallRefusal = "unauthenticated"   // it shows nothing that is known, or a token that is not good
	RefusedPermissionDenied CallRefusal = "permission_denied" // the policy does not grant it to who calls
	RefusedInFlight         CallRefusal = "in_flight"         // who calls has as many calls under way as they may
	RefusedStreams          CallRefusal = "streams"           // as many streams are open as may be
)

// callRefusals is every one of them, so that each series is there before the first.
func callRefusals() []CallRefusal {
	return []CallRefusal{RefusedUnauthenticated, RefusedPermissionDenied, RefusedInFlight, RefusedStreams}
}

// ConnRefusal is why a connection was refused, as the label names it.
type ConnRefusal string

// The reasons for which a connection is refused.
const (
	RefusedFull      ConnRefusal = "full"      // the listener has as many as it may have
	RefusedPeer      ConnRefusal = "peer"      // one address or user has as many as it may have
	RefusedHandshake ConnRefusal = "handshake" // the handshake failed, or took too long
	RefusedStalled   ConnRefusal = "stalled"   // it was closed, as its client did not take what was sent to it
	refusedOther     ConnRefusal = "other"     // whatever else: the label takes no text from elsewhere
)

func connRefusals() []ConnRefusal {
	return []ConnRefusal{RefusedFull, RefusedPeer, RefusedHandshake, RefusedStalled, refusedOther}
}

// edge is what is measured where calls come in.
type edge struct {
	conns       prometheus.Gauge
	connRefused map[ConnRefusal]prometheus.Counter // not changed after it is made
	callRefused map[CallRefusal]prometheus.Counter // neither is this
	loads       map[bool]prometheus.Counter        // and this
	load        atomic.Pointer[load]
	expires     atomic.Pointer[func() time.Time]

	loadOK, loadTime, expiry *prometheus.Desc
}

// newEdge returns the measures of the edge, registered.
func newEdge(r prometheus.Registerer) *edge {
	e := &edge{
		conns: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "quotad_connections_open",
			Help: "Connections for gRPC that are open now.",
		}),
		connRefused: make(map[ConnRefusal]prometheus.Counter),
		callRefused: make(map[CallRefusal]prometheus.Counter),
		loads:       make(map[bool]prometheus.Counter),
		loadOK: prometheus.NewDesc("quotad_access_last_load_ok",
			"Whether the policy and the tokens were taken when they were last read. Absent without a policy.", nil, nil),
		loadTime: prometheus.NewDesc("quotad_access_last_taken_time_seconds",
			"When a policy was last taken, in seconds since 1970. Absent if none was.", nil, nil),
		expiry: prometheus.NewDesc("quotad_tls_certificate_expiry_time_seconds",
			"When the server's certificate expires, in seconds since 1970. Absent without TLS.", nil, nil),
	}
	conns := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_connections_refused_total",
		Help: "Connections that were closed by quotad because of a bound or a failed handshake, by reason.",
	}, []string{"reason"})
	for _, reason := range connRefusals() {
		e.connRefused[reason] = conns.WithLabelValues(string(reason))
	}
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_calls_refused_total",
		Help: "RPCs that were refused before a service saw them, by reason.",
	}, []string{"reason"})
	for _, reason := range callRefusals() {
		e.callRefused[reason] = calls.WithLabelValues(string(reason))
	}
	loads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_access_loads_total",
		Help: "Readings of the policy and the tokens, by whether they were taken (ok) or refused (bad).",
	}, []string{"result"})
	e.loads[true], e.loads[false] = loads.WithLabelValues("ok"), loads.WithLabelValues("bad")
	r.MustRegister(e.conns, conns, calls, loads, e)
	return e
}

// Describe names the metrics; it is part of prometheus.Collector.
func (e *edge) Describe(out chan<- *prometheus.Desc) {
	out <- e.loadOK
	out <- e.loadTime
	out <- e.expiry
}

// Collect reads what is known now; it is part of prometheus.Collector.
func (e *edge) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	if load := e.load.Load(); load != nil {
		gauge(e.loadOK, number(load.ok))
		if !load.taken.IsZero() {
			gauge(e.loadTime, seconds(load.taken))
		}
	}
	if expires := e.expires.Load(); expires != nil {
		if at := (*expires)(); !at.IsZero() {
			gauge(e.expiry, seconds(at))
		}
	}
}

// ConnectionOpened counts one more open connection, until the function that it returns is called.
func (m *Metrics) ConnectionOpened() (closed func()) {
	m.edge.conns.Inc()
	return m.edge.conns.Dec
}

// ConnectionRefused counts a connection that was refused; a reason that is none of the above is counted as other.
func (m *Metrics) ConnectionRefused(reason ConnRefusal) {
	c, ok := m.edge.connRefused[reason]
	if !ok {
		c = m.edge.connRefused[refusedOther]
	}
	c.Inc()
}

// CallRefused counts a call that was refused before a service saw it, for one of the reasons above.
func (m *Metrics) CallRefused(reason CallRefusal) {
	if c, ok := m.edge.callRefused[reason]; ok {
		c.Inc()
	}
}

// ObserveAccess notes that the policy and the tokens were read at a time, and whether they were taken.
func (m *Metrics) ObserveAccess(at time.Time, ok bool) {
	m.edge.loads[ok].Inc()
	m.edge.load.Store(m.edge.load.Load().next(at, ok))
}

// SetCertificate says where to ask, at each scrape, when the server's certificate expires; the zero time means that there is none.
func (m *Metrics) SetCertificate(expires func() time.Time) { m.edge.expires.Store(&expires) }
