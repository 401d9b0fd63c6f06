package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// The ways in which a reservation ends, as the label names them.
const (
	waySettled = iota
	wayReleased
	wayCharged
	wayFreed
	ways
)

var wayNames = [ways]string{"settled", "released", "expired_charged", "expired_released"}

// units are those that have a meaning to quotad's own guards. Callers choose others, which a label must not follow.
var units = [...]string{"calls", "input_tokens", "output_tokens", "tokens", "usd_micros"}

const unitOther = "other"

func (m *Metrics) newEnded() prometheus.Collector {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quotad_reservations_ended_total",
		Help: "Reservations that ended, by how: settled, released, or expired and then charged or released.",
	}, []string{"how"})
	for way, name := range wayNames {
		m.ended[way] = vec.WithLabelValues(name)
	}
	return vec
}

// observeReservations counts what a transaction did to reservations.
func (m *Metrics) observeReservations(b store.Batch) {
	var ended [ways]int
	for _, t := range b.Outcomes {
		switch t.Ended {
		case quota.PhaseSettled:
			ended[waySettled]++
		case quota.PhaseReleased:
			ended[wayReleased]++
		case quota.PhaseUsed, quota.PhaseOpen, quota.PhaseExpired:
		}
		ended[wayCharged] += t.Charged
		ended[wayFreed] += t.Released
		if t.Late && !t.Replayed {
			m.late.Inc()
		}
		for _, a := range t.Overage {
			unit := string(a.Unit)
			if !slices.Contains(units[:], unit) {
				unit = unitOther
			}
			m.overage.WithLabelValues(unit).Add(float64(a.Amount))
		}
	}
	for way, n := range ended {
		if n > 0 {
			m.ended[way].Add(float64(n))
		}
	}
}
