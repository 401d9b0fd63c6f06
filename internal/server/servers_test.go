package server

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// listed asks a server by reflection what it has.
func listed(t *testing.T, conn *grpc.ClientConn) (names []string) {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range resp.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the stream ends with %v", err)
	}
	return names
}

// TestControl: with a control listener the others are for apps alone, say so, and take small requests only.
func TestControl(t *testing.T) {
	t.Parallel()
	control, probe := bufconn.Listen(1<<20), bufconn.Listen(1<<16)
	r := newRig(t, func(c *Config) { c.Control, c.Probe = []net.Listener{control}, probe })
	controlled, probed := dial(t, control), dial(t, probe)
	const app, common = "quotad.v1.QuotaService", "grpc.health.v1.Health grpc.reflection.v1.ServerReflection grpc.reflection.v1alpha.ServerReflection"
	if got := strings.Join(listed(t, r.conn), " "); got != common+" "+app {
		t.Errorf("apps may call %s", got)
	}
	if got := strings.Join(listed(t, controlled), " "); got != common+" quotad.v1.InspectService "+app {
		t.Errorf("on the control listener there is %s", got)
	}
	for _, test := range []struct {
		method string
		want   string
	}{
		{quotadv1.InspectService_GetStatus_FullMethodName, "quotad.v1.InspectService is answered on the control listener"},
		{quotadv1.InspectService_WatchUsage_FullMethodName, "quotad.v1.InspectService is answered on the control listener"},
		{"/quotad.v1.QuotaService/Nothing", "there is no such method here"},
		{"/quotad.v1.Nothing/Nothing", "there is no such method here"},
		{"/grpc.health.v1.Health/check", "there is no such method here"},
	} {
		err := r.conn.Invoke(t.Context(), test.method, &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want UNIMPLEMENTED %q", test.method, err, test.want)
		}
	}
	large := &quotadv1.AcquireRequest{Bucket: strings.Repeat("x", RequestBytesMax)}
	if _, err := r.quota.Acquire(t.Context(), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large request by an app: %v", err)
	}
	if _, err := quotadv1.NewQuotaServiceClient(controlled).Acquire(t.Context(), large); err != nil {
		t.Errorf("a large request on the control listener: %v", err)
	}
	for _, conn := range []*grpc.ClientConn{r.conn, controlled, probed} {
		for _, service := range []string{"", "quotad.v1.InspectService"} {
			resp, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("the health of %q: %v, %v", service, resp, err)
			}
		}
	}
	for name := range r.probe0().GetServiceInfo() {
		if name != "grpc.health.v1.Health" {
			t.Errorf("probes may call %s", name)
		}
	}
	if err := probed.Invoke(t.Context(), quotadv1.QuotaService_Acquire_FullMethodName, &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("an acquire by a probe: %v", err)
	}
	huge := &healthpb.HealthCheckRequest{Service: strings.Repeat("x", probeBytesMax)}
	if _, err := healthpb.NewHealthClient(probed).Check(t.Context(), huge); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large request by a probe: %v", err)
	}
}

// probe0 is the server for probes; rig has a field of that name for the health of the first listener.
func (r *rig) probe0() *grpc.Server { return r.Server.probe }

// TestTrace: whoever traces sees the calls of apps and of the control listener.
func TestTrace(t *testing.T) {
	t.Parallel()
	seen := &tracer{calls: make(chan string, 10)}
	control := bufconn.Listen(1 << 20)
	r := newRig(t, func(c *Config) { c.Control, c.Trace = []net.Listener{control}, seen })
	if err := r.call(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := quotadv1.NewQuotaServiceClient(dial(t, control)).Check(t.Context(), &quotadv1.CheckRequest{}); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	if got := []string{<-seen.calls, <-seen.calls}; !slices.Equal(got, []string{quotadv1.QuotaService_Acquire_FullMethodName, quotadv1.QuotaService_Check_FullMethodName}) {
		t.Errorf("the tracer saw %v", got)
	}
}

type tracer struct {
	stats.Handler
	calls chan string
}

func (t *tracer) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	t.calls <- info.FullMethodName
	return ctx
}
func (*tracer) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*tracer) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*tracer) HandleConn(context.Context, stats.ConnStats)                       {}
