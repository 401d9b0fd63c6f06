package server

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
)

// BenchmarkGuard is what every call pays on its way in: it should stay far below the microseconds that gRPC takes.
func BenchmarkGuard(b *testing.B) {
	policy, token := testPolicy(b, "    may: {acquire: [acme/**]}\n")
	for _, bench := range []struct {
		name   string
		access *auth.Access
		token  string
	}{{"open", auth.OpenAccess(), ""}, {"policy", policy, ""}, {"token", policy, token}} {
		b.Run(bench.name, func(b *testing.B) {
			gate := new(auth.Gate)
			gate.Set(bench.access)
			s := New(Config{Metrics: metrics.New(metrics.Build{}), Methods: auth.Methods(), Now: time.Now, Gate: gate})
			defer s.cut()
			g := s.guards[s.apps]
			info := &grpc.UnaryServerInfo{FullMethod: quotadv1.QuotaService_Acquire_FullMethodName}
			g.measure(map[string]grpc.ServiceInfo{"quotad.v1.QuotaService": {Methods: []grpc.MethodInfo{{Name: "Acquire"}}}})
			handler := func(context.Context, any) (any, error) { return nil, nil }
			// As gRPC has it: what the client sends by itself, and the peer.
			md := metadata.Pairs(":authority", "localhost", "content-type", "application/grpc", "user-agent", "grpc-go/1.85.0", "grpc-accept-encoding", "gzip")
			if bench.token != "" {
				md.Set("authorization", "Bearer "+bench.token)
			}
			by := &shown{ids: []auth.Identity{"uid:7", "gid:7"}, private: true}
			ctx := peer.NewContext(metadata.NewIncomingContext(b.Context(), md), &peer.Peer{AuthInfo: by})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.unary(ctx, nil, info, handler); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
