package tracing_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/prototext"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/tracing"
)

// collector is a real one, as far as it goes: it answers OTLP over gRPC, and keeps what it is sent.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer

	mu  sync.Mutex
	got []*tracepb.ResourceSpans
}

func (c *collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, r.GetResourceSpans()...)
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (c *collector) spans() (all []*tracepb.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.got {
		for _, s := range r.GetScopeSpans() {
			all = append(all, s.GetSpans()...)
		}
	}
	return all
}

// text is all that the collector was sent.
func (c *collector) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all strings.Builder
	for _, r := range c.got {
		all.WriteString(prototext.Format(r))
	}
	return all.String()
}

// collect starts a collector on loopback.
func collect(tb testing.TB) (c *collector, endpoint string) {
	tb.Helper()
	c = &collector{}
	s := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(s, c)
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	tb.Cleanup(s.Stop)
	return c, "http://" + l.Addr().String()
}

const secret = "canary-bucket"

// ledger answers some calls.
type ledger struct {
	quotadv1.UnimplementedQuotaServiceServer
}

func (ledger) Acquire(_ context.Context, r *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	if r.GetBucket() != "" {
		return nil, status.Errorf(codes.DataLoss, "the record of %s is damaged", r.GetBucket())
	}
	return &quotadv1.AcquireResponse{}, nil
}

// serve starts a server with a handler, nil for none, and returns a connection to it. end returns when its calls have ended for the
// server, too: a caller has its answer before the handler hears of the end.
func serve(tb testing.TB, h stats.Handler) (conn *grpc.ClientConn, end func()) {
	tb.Helper()
	var o []grpc.ServerOption
	if h != nil {
		o = append(o, grpc.StatsHandler(h))
	}
	s := grpc.NewServer(o...)
	quotadv1.RegisterQuotaServiceServer(s, ledger{})
	healthpb.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	var err error
	l := bufconn.Listen(1 << 20)
	go func() { _ = s.Serve(l) }()
	end = sync.OnceFunc(func() {
		_ = conn.Close()
		s.GracefulStop()
	})
	tb.Cleanup(end)
	conn, err = grpc.NewClient("passthrough:///quotad", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		tb.Fatal(err)
	}
	return conn, end
}

func start(tb testing.TB, c tracing.Config) *tracing.Tracing {
	tb.Helper()
	c.Now = time.Now
	tr, err := tracing.Start(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	return tr
}

func stop(tb testing.TB, tr *tracing.Tracing) error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 20*time.Second)
	defer cancel()
	return tr.Close(ctx)
}

const (
	traceID    = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentID   = "00f067aa0ba902b7"
	recorded   = "00-" + traceID + "-" + parentID + "-01"
	unrecorded = "00-" + traceID + "-" + parentID + "-00"
)

func with(ctx context.Context, traceparent string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent, "baggage", "who="+secret, "authorization", "Bearer "+secret)
}

// Calls with a trace, without one and with one that is not recorded; probes; methods that do not exist; and one that fails with a text
// that names a bucket.
func call(t *testing.T, h stats.Handler) {
	t.Helper()
	conn, end := serve(t, h)
	defer end()
	quota := quotadv1.NewQuotaServiceClient(conn)
	for _, ctx := range []context.Context{with(t.Context(), recorded), t.Context(), with(t.Context(), unrecorded)} {
		if _, err := quota.Acquire(ctx, &quotadv1.AcquireRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx := with(t.Context(), recorded)
	if _, err := quota.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: secret}); status.Code(err) != codes.DataLoss {
		t.Fatal(err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"/quotad.v1.QuotaService/" + secret, "/" + secret + "/Acquire"} {
		if err := conn.Invoke(ctx, method, &quotadv1.AcquireRequest{}, &quotadv1.AcquireResponse{}); status.Code(err) != codes.Unimplemented {
			t.Fatal(err)
		}
	}
}

// The collector gets a span of each call that is to be recorded, as a child of its caller's, and nothing that a caller chose.
func TestSpans(t *testing.T) {
	t.Parallel()
	c, endpoint := collect(t)
	errorHandler, provider := otel.GetErrorHandler(), otel.GetTracerProvider()
	tr := start(t, tracing.Config{Endpoint: endpoint, Version: "v1.2.3"})
	call(t, tr.Handler())
	if err := stop(t, tr); err != nil {
		t.Fatal(err)
	}
	var children, roots int
	for _, s := range c.spans() {
		if s.GetName() != "quotad.v1.QuotaService/Acquire" || s.GetKind() != tracepb.Span_SPAN_KIND_SERVER {
			t.Errorf("a span %q, %s", s.GetName(), s.GetKind())
		}
		switch got := fmt.Sprintf("%x/%x", s.GetTraceId(), s.GetParentSpanId()); {
		case got == traceID+"/"+parentID:
			children++
		case strings.HasSuffix(got, "/"):
			roots++
		default:
			t.Errorf("a span of %s", got)
		}
	}
	if children != 2 || roots != 1 {
		t.Errorf("%d spans of the caller's trace and %d of none, want 2 and 1:\n%s", children, roots, c.text())
	}
	text := c.text()
	for _, want := range []string{"service.name", "quotad", "service.version", "v1.2.3", "rpc.method", "DATA_LOSS", "STATUS_CODE_ERROR"} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing of %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, secret) {
		t.Errorf("what a caller chose was sent:\n%s", text)
	}
	if otel.GetErrorHandler() != errorHandler || otel.GetTracerProvider() != provider {
		t.Error("something global was changed")
	}
}

// Control: without the filter and the sender that hides texts, the test above finds what a caller chose.
func TestSpansControl(t *testing.T) {
	t.Parallel()
	c, endpoint := collect(t)
	plain, end := plainHandler(t, endpoint)
	call(t, plain)
	end()
	if text := c.text(); !strings.Contains(text, "the record of "+secret) || !strings.Contains(text, "Health/Check") {
		t.Errorf("OpenTelemetry's own handler leaks nothing, so that ours proves nothing:\n%s", text)
	}
}

// What the environment says about OpenTelemetry does not send spans elsewhere, or nowhere.
func TestEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "https://elsewhere.invalid:4317", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://elsewhere.invalid:4317",
		"OTEL_EXPORTER_OTLP_INSECURE": "false", "OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_TRACES_SAMPLER": "always_off",
		"OTEL_BSP_MAX_QUEUE_SIZE": "1", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0", "OTEL_SERVICE_NAME": "other",
		"OTEL_SEMCONV_STABILITY_OPT_IN": "", "OTEL_PROPAGATORS": "b3",
	} {
		t.Setenv(name, value)
	}
	c, endpoint := collect(t)
	tr := start(t, tracing.Config{Endpoint: strings.TrimPrefix(endpoint, "http://")})
	call(t, tr.Handler())
	if err := stop(t, tr); err != nil {
		t.Fatal(err)
	}
	if n := len(c.spans()); n != 3 || strings.Contains(c.text(), `"other"`) {
		t.Errorf("%d spans, want 3 of quotad:\n%s", n, c.text())
	}
}

// Off is no handler at all, and has nothing to close.
func TestOff(t *testing.T) {
	t.Parallel()
	var off *tracing.Tracing
	if h := off.Handler(); h != nil {
		t.Errorf("a handler %v", h)
	}
	if err := stop(t, off); err != nil {
		t.Error(err)
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for endpoint, good := range map[string]bool{
		"http://127.0.0.1:4317": true, "https://collector.example:4317": true, "127.0.0.1:4317": true, "[::1]:4317": true, "http://[::1]:4317": true,
		"": false, "127.0.0.1": false, "http://127.0.0.1": false, "ftp://127.0.0.1:21": false, "http://me:" + secret + "@127.0.0.1:4317": false,
		"http://127.0.0.1:4317/v1/traces": false, "http://127.0.0.1:4317?a": false, ":4317": false, "unix:///run/x": false, "host:": false,
	} {
		tr, err := tracing.Start(t.Context(), tracing.Config{Endpoint: endpoint, Now: time.Now})
		if good != (err == nil) {
			t.Errorf("%q: %v", endpoint, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: the error shows the password: %v", endpoint, err)
		}
		if err == nil {
			if err := stop(t, tr); err != nil {
				t.Errorf("%q: %v", endpoint, err)
			}
		}
	}
}

// A collector that takes connections and answers nothing holds up no call, and Close says that spans were lost.
func TestCollectorIsDown(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it only keeps the port: what connects hears nothing
	tr := start(t, tracing.Config{Endpoint: l.Addr().String()})
	conn, _ := serve(t, tr.Handler())
	quota := quotadv1.NewQuotaServiceClient(conn)
	var slowest []time.Duration
	for range tracing.QueueMax + tracing.BatchMax + 100 { // more than is kept
		began := time.Now()
		if _, err := quota.Acquire(t.Context(), &quotadv1.AcquireRequest{}); err != nil {
			t.Fatal(err)
		}
		slowest = append(slowest, time.Since(began))
	}
	if slices.Sort(slowest); slowest[len(slowest)*99/100] > tracing.SendTimeout/5 {
		t.Errorf("calls took %s with a collector that does not answer", slowest[len(slowest)*99/100])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := tr.Close(ctx); err == nil {
		t.Error("nothing says that spans were lost")
	}
}
