package tracing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// flaky is an exporter that fails while it is told to.
type flaky struct {
	fails bool
	got   []trace.ReadOnlySpan
}

func (f *flaky) ExportSpans(_ context.Context, spans []trace.ReadOnlySpan) error {
	if f.fails {
		return errors.New("nobody is there")
	}
	f.got = append(f.got, spans...)
	return nil
}

func (*flaky) Shutdown(context.Context) error { return nil }

// Failures are logged at most every five minutes, with how many spans they cost since, and that it is over is logged once.
func TestSenderLogs(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	var log bytes.Buffer
	to := &flaky{fails: true}
	s := newSender(to, Config{
		Now: func() time.Time { return now },
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})),
	})
	send := func() {
		if err := s.ExportSpans(t.Context(), tracetest.SpanStubs{{Name: "a"}, {Name: "b"}}.Snapshots()); err != nil {
			t.Errorf("%v, which OpenTelemetry would write to standard error", err)
		}
	}
	for range 1000 {
		send()
		now = now.Add(time.Second)
	}
	to.fails = false
	send()
	send()
	const lost = "level=WARN msg=\"traces cannot be sent, and are lost; calls go on\" spans=%d error=\"nobody is there\"\n"
	want := fmt.Sprintf(lost, 2) + strings.Repeat(fmt.Sprintf(lost, 600), 3) + "level=INFO msg=\"traces are sent again\" spans_lost=2000\n"
	if log.String() != want {
		t.Errorf("logged\n%swant\n%s", &log, want)
	}
	if len(to.got) != 4 {
		t.Errorf("%d spans were sent, want 4", len(to.got))
	}
}

// What a status says does not leave; that it was an error does.
func TestSenderHidesTexts(t *testing.T) {
	t.Parallel()
	to := &flaky{}
	s := newSender(to, Config{Now: time.Now})
	stub := tracetest.SpanStub{Name: "a", Status: trace.Status{Code: codes.Error, Description: "acme/alice"}}
	if err := s.ExportSpans(t.Context(), tracetest.SpanStubs{stub}.Snapshots()); err != nil {
		t.Fatal(err)
	}
	if got := to.got[0].Status(); got != (trace.Status{Code: codes.Error}) || to.got[0].Name() != "a" {
		t.Errorf("%+v of %q", got, to.got[0].Name())
	}
}
