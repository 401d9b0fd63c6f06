package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quotad/quotad/internal/store"
)

// Problem is the kind of a problem, as the label names it.
type Problem string

// The problems that have a metric. Each is 0 or 1.
const (
	ProblemFull      Problem = "full"             // there is no room to write: acquires are refused
	ProblemClockHeld Problem = "clock_held"       // the clock jumped, and is not believed yet
	ProblemCorrupt   Problem = "corrupt"          // a record failed its checksum: its bucket is refused
	ProblemBuckets   Problem = "buckets_file_bad" // the buckets file was refused: the one before holds
)

// ledger reads the store's state once for each scrape, so that all that one scrape shows is of one moment.
type ledger struct {
	ask  atomic.Pointer[func() store.Status]
	load atomic.Pointer[load]

	queue, bytes, most, undeclared, undeclaredMax *prometheus.Desc
	declared, clock, lag, problem                 *prometheus.Desc
	loadOK, loadTime                              *prometheus.Desc
	open, oldest                                  *prometheus.Desc
	ahead, clean, overloaded, audited             *prometheus.Desc
	views, oldestView                             *prometheus.Desc
}

// load is how the latest reading of a file went.
type load struct {
	ok    bool
	taken time.Time // the latest that was taken; zero if none was
}

func newLedger() *ledger {
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("quotad_"+name, help, labels, nil)
	}
	return &ledger{
		queue:         gauge("queue_ops", "Ops that wait for the writer now."),
		bytes:         gauge("data_file_bytes", "Size of the data file; 0 in memory."),
		most:          gauge("data_file_max_bytes", "Size that the data file may grow to; 0 in memory."),
		undeclared:    gauge("undeclared_names", "Names counted today that nobody declared."),
		undeclaredMax: gauge("undeclared_names_max", "How many such names there may be on one day."),
		declared:      gauge("declared_buckets", "Buckets and patterns that are declared."),
		clock:         gauge("ledger_time_seconds", "The time by which the ledger counts, in seconds since 1970. It never goes back."),
		lag:           gauge("retention_due_spaces", "Groups of old counts that are due to be dropped."),
		problem:       gauge("problem", "1 while there is a problem of this kind, else 0.", "kind"),
		open:          gauge("reservations_open", "Reservations that are open."),
		oldest:        gauge("reservations_oldest_age_seconds", "How long ago the oldest open reservation was made, of the 20,000 that expire first; 0 if none is open."),
		ahead:         gauge("clock_ahead_seconds", "By how much the machine's clock is ahead of the ledger's time; negative while it is behind."),
		clean:         gauge("last_stop_in_order", "Whether the run before this one ended in order, or there was none."),
		overloaded:    gauge("queue_refused_total", "Ops that were refused because too many were waiting."),
		audited:       gauge("audit_records_total", "Records of the audit trail since the ledger was made, those that have left included."),
		views:         gauge("views_open", "Readings of the data file that are open, copies for backups included; 0 in memory."),
		oldestView:    gauge("views_oldest_age_seconds", "How long the oldest reading of the data file has been open. While it is, what is freed in the file cannot be used again."),
		loadOK:        gauge("buckets_file_last_load_ok", "Whether the buckets file was taken when it was last read. Absent without a buckets file."),
		loadTime:      gauge("buckets_file_last_taken_time_seconds", "When a buckets file was last taken, in seconds since 1970. Absent if none was."),
	}
}

func (l *ledger) loaded(at time.Time, ok bool) {
	l.load.Store(l.load.Load().next(at, ok))
}

// next is how things stand after one more reading; nil is before the first.
func (l *load) next(at time.Time, ok bool) *load {
	if ok {
		return &load{ok: true, taken: at}
	}
	next := &load{}
	if l != nil {
		next.taken = l.taken
	}
	return next
}

// Describe names the metrics; it is part of prometheus.Collector.
func (l *ledger) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		l.queue, l.bytes, l.most, l.undeclared, l.undeclaredMax, l.declared, l.clock, l.lag, l.problem, l.loadOK, l.loadTime,
		l.open, l.oldest, l.ahead, l.clean, l.overloaded, l.audited, l.views, l.oldestView,
	} {
		out <- d
	}
}

// Collect reads the state; it is part of prometheus.Collector.
func (l *ledger) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	bad := false
	if load := l.load.Load(); load != nil {
		bad = !load.ok
		gauge(l.loadOK, number(load.ok))
		if !load.taken.IsZero() {
			gauge(l.loadTime, seconds(load.taken))
		}
	}
	ask := l.ask.Load()
	if ask == nil {
		return // the ledger is not open yet
	}
	s := (*ask)()
	gauge(l.queue, float64(s.Queue))
	gauge(l.bytes, float64(s.Bytes))
	gauge(l.most, float64(s.Most))
	gauge(l.undeclared, float64(s.Undeclared))
	gauge(l.undeclaredMax, float64(s.Defaults.UndeclaredLive))
	gauge(l.declared, float64(s.Declared))
	gauge(l.clock, seconds(s.LedgerTime))
	gauge(l.lag, float64(s.RetentionLag))
	gauge(l.ahead, s.ClockAhead.Seconds())
	gauge(l.clean, number(s.CleanStop))
	gauge(l.views, float64(s.Views))
	gauge(l.oldestView, s.OldestView.Seconds())
	counter := func(d *prometheus.Desc, n int64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	counter(l.overloaded, s.Overloaded)
	counter(l.audited, s.Audited)
	gauge(l.open, float64(s.Open))
	age := time.Duration(0)
	if !s.Oldest.IsZero() {
		age = max(0, s.LedgerTime.Sub(s.Oldest))
	}
	gauge(l.oldest, age.Seconds())
	gauge(l.problem, number(s.Full), string(ProblemFull))
	gauge(l.problem, number(s.ClockHeld), string(ProblemClockHeld))
	gauge(l.problem, number(s.CorruptSeen), string(ProblemCorrupt))
	gauge(l.problem, number(bad), string(ProblemBuckets))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
