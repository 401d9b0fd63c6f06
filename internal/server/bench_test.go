package server

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
)

// BenchmarkGuard is what every call pays on its way in: it should stay far below the microseconds that gRPC takes.
func BenchmarkGuard(b *testing.B) {
	s := New(Config{Metrics: metrics.New(metrics.Build{}), Methods: auth.Methods(), Now: time.Now})
	defer s.grpc.Stop()
	info := &grpc.UnaryServerInfo{FullMethod: "/quotad.v1.QuotaService/Acquire"}
	s.guard.measure(map[string]grpc.ServiceInfo{"quotad.v1.QuotaService": {Methods: []grpc.MethodInfo{{Name: "Acquire"}}}})
	handler := func(context.Context, any) (any, error) { return nil, nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.guard.unary(b.Context(), nil, info, handler); err != nil {
			b.Fatal(err)
		}
	}
}
