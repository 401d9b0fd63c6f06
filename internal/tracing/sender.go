package tracing

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
)

// sender is an exporter that keeps its failures to itself. OpenTelemetry would hand them to a handler that all of a process shares, and
// that writes each to standard error: here they are counted, and logged at a bounded rate.
type sender struct {
	trace.SpanExporter
	log  *slog.Logger
	now  func() time.Time
	lost atomic.Int64
	why  atomic.Pointer[error]

	// Those that follow are of the one goroutine that exports.
	said   time.Time // when it was last logged; zero if it never was
	unsaid int64     // spans lost since
	down   bool      // the latest batch was lost
}

func newSender(to trace.SpanExporter, c Config) *sender {
	s := &sender{SpanExporter: to, log: c.Log, now: c.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// ExportSpans is trace.SpanExporter's. It always succeeds, as nobody could do anything about it.
func (s *sender) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	bare := make([]trace.ReadOnlySpan, len(spans))
	for i, span := range spans {
		bare[i] = wordless{span}
	}
	err := s.SpanExporter.ExportSpans(ctx, bare)
	if err == nil {
		if s.down {
			s.log.Info("traces are sent again", "spans_lost", s.lost.Load())
		}
		s.down = false
		return nil
	}
	s.down = true
	s.why.Store(&err)
	s.lost.Add(int64(len(spans)))
	s.unsaid += int64(len(spans))
	if now := s.now(); s.said.IsZero() || now.Sub(s.said) >= saidEvery {
		s.log.Warn("traces cannot be sent, and are lost; calls go on", "spans", s.unsaid, "error", err)
		s.said, s.unsaid = now, 0
	}
	return nil
}

// Shutdown is trace.SpanExporter's.
func (s *sender) Shutdown(ctx context.Context) error { return s.SpanExporter.Shutdown(ctx) }

// wordless is a span without the text of its status, which may name a bucket. Its code stays.
type wordless struct{ trace.ReadOnlySpan }

// Status is trace.ReadOnlySpan's.
func (w wordless) Status() trace.Status { return trace.Status{Code: w.ReadOnlySpan.Status().Code} }
