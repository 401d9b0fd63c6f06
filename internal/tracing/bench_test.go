package tracing_test

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/stats"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/tracing"
)

// plainHandler is what OpenTelemetry does where nobody is careful.
func plainHandler(t *testing.T, endpoint string) (h stats.Handler, end func()) {
	t.Helper()
	e, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithEndpointURL(endpoint))
	if err != nil {
		t.Fatal(err)
	}
	p := sdk.NewTracerProvider(sdk.WithBatcher(e))
	return otelgrpc.NewServerHandler(otelgrpc.WithTracerProvider(p)), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkCall is a call through a whole gRPC server that does nothing. Off is the server as it was before there was tracing: no
// handler is given to it, so that nothing is on the way of a call, and nothing is to be measured but noise.
func BenchmarkCall(b *testing.B) {
	_, endpoint := collect(b)
	tr := start(b, tracing.Config{Endpoint: endpoint})
	defer func() { _ = stop(b, tr) }()
	for _, c := range []struct {
		name, traceparent string
		handler           stats.Handler
	}{{"off", recorded, nil}, {"recorded", recorded, tr.Handler()}, {"unrecorded", unrecorded, tr.Handler()}} {
		b.Run(c.name, func(b *testing.B) {
			conn, _ := serve(b, c.handler)
			quota := quotadv1.NewQuotaServiceClient(conn)
			ctx := with(b.Context(), c.traceparent)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := quota.Acquire(ctx, &quotadv1.AcquireRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
