package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
	"github.com/quotad/quotad/internal/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake answers two methods of the contract as a test wants, and the rest with UNIMPLEMENTED.
type fake struct {
	quotadv1.UnimplementedQuotaServiceServer
	quotadv1.UnimplementedInspectServiceServer
	acquire func(context.Context) (*quotadv1.AcquireResponse, error)
	watch   func(context.Context) error
}

func (f *fake) Acquire(ctx context.Context, _ *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	return f.acquire(ctx)
}

func (f *fake) WatchUsage(_ *quotadv1.WatchUsageRequest, stream grpc.ServerStreamingServer[quotadv1.WatchUsageResponse]) error {
	return f.watch(stream.Context())
}

// rig is a server in memory, a client of it, and what the test may turn.
type rig struct {
	*Server
	fake    *fake
	conn    *grpc.ClientConn
	metrics *metrics.Metrics
	log     *logbook
	stop    func()                                    // asks the server to stop
	dial    func(...grpc.DialOption) *grpc.ClientConn // one more connection
	done    chan error                                // what Run returned
	quota   quotadv1.QuotaServiceClient
	inspect quotadv1.InspectServiceClient
	probe   healthpb.HealthClient

	hostile *rawClient       // of a besieged server
	watcher *grpc.ClientConn // of one, for stalled watches
	flood   *flood           // of one, what the watches get

	mu    sync.Mutex
	state Health
}

func (r *rig) set(h Health) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = h
}

// logbook keeps what is logged.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newRig starts a server. It has the fake services unless others are given.
func newRig(t *testing.T, change func(*Config), services ...interface{ Register(grpc.ServiceRegistrar) }) *rig {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	r := &rig{fake: &fake{}, metrics: metrics.New(metrics.Build{}), log: &logbook{}, done: make(chan error, 1)}
	r.fake.acquire = func(context.Context) (*quotadv1.AcquireResponse, error) { return &quotadv1.AcquireResponse{}, nil }
	ready := make(chan struct{})
	c := Config{
		Listeners: []net.Listener{listener}, Metrics: r.metrics, Methods: auth.Methods(), Drain: 10 * time.Second, Now: time.Now,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Health: func(context.Context) Health {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.state
		},
		Ready: func() { close(ready) },
	}
	if change != nil {
		change(&c)
	}
	r.Server = New(c)
	for _, some := range services {
		some.Register(r)
	}
	if services == nil {
		quotadv1.RegisterQuotaServiceServer(r, r.fake)
		quotadv1.RegisterInspectServiceServer(r, r.fake)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() { r.done <- r.Run(ctx) }()
	<-ready
	r.dial = func(options ...grpc.DialOption) *grpc.ClientConn { return dial(t, c.Listeners[0], options...) }
	conn := r.dial()
	r.conn, r.quota, r.inspect, r.probe = conn, quotadv1.NewQuotaServiceClient(conn), quotadv1.NewInspectServiceClient(conn), healthpb.NewHealthClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-r.done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// dial connects to a listener, in memory or not.
func dial(t *testing.T, l net.Listener, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if counted, ok := l.(countingListener); ok {
				l = counted.Listener
			}
			if memory, ok := l.(*bufconn.Listener); ok {
				return memory.DialContext(ctx)
			}
			var d net.Dialer
			return d.DialContext(ctx, l.Addr().Network(), l.Addr().String())
		}))
	conn, err := grpc.NewClient("passthrough:///memory", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // closing it twice does nothing
	return conn
}

func (r *rig) call(ctx context.Context) error {
	_, err := r.quota.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "b"})
	return err
}

// TestGuard: what a call passes on its way in, and what is seen of it after.
func TestGuard(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) {
		c.Methods = auth.Methods()
		delete(c.Methods, "/quotad.v1.QuotaService/Release")
	})
	var who auth.Principal
	r.fake.acquire = func(ctx context.Context) (*quotadv1.AcquireResponse, error) {
		who, _ = auth.FromContext(ctx)
		return nil, status.Error(codes.ResourceExhausted, "denied")
	}
	if err := r.call(t.Context()); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a handler's own status became %v", err)
	}
	if who != auth.Local() {
		t.Errorf("the handler was told that %v is calling", who)
	}
	if _, err := r.quota.Release(t.Context(), &quotadv1.ReleaseRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a method that the table does not have answered %v, want PERMISSION_DENIED", err)
	}
	if _, err := r.quota.Settle(t.Context(), &quotadv1.SettleRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that the table has answered %v", err)
	}
	r.fake.acquire = func(context.Context) (*quotadv1.AcquireResponse, error) { panic("its insides") }
	if err := r.call(t.Context()); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "insides") {
		t.Errorf("a panic became %v", err)
	}
	r.fake.acquire = func(context.Context) (*quotadv1.AcquireResponse, error) { return &quotadv1.AcquireResponse{}, nil }
	if err := r.call(t.Context()); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	r.fake.watch = func(context.Context) error { panic("another") }
	stream, err := r.inspect.WatchUsage(t.Context(), &quotadv1.WatchUsageRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Internal {
		t.Errorf("a panic in a stream became %v", err)
	}
	for _, want := range []string{
		`level=ERROR msg="a call panicked" method=/quotad.v1.QuotaService/Acquire panic="its insides" stack=`,
		`level=WARN msg=call method=/quotad.v1.QuotaService/Acquire code=Internal`,
		`level=DEBUG msg=call method=/quotad.v1.QuotaService/Acquire code=OK`,
		`level=DEBUG msg=call method=/quotad.v1.QuotaService/Acquire code=ResourceExhausted`,
		`level=DEBUG msg=call method=/quotad.v1.QuotaService/Release code=PermissionDenied`,
	} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, r.log)
		}
	}
	calls := counts(t, r.metrics)
	for name, want := range map[string]float64{
		"quotad_rpc_duration_seconds /quotad.v1.QuotaService/Acquire OK":                1,
		"quotad_rpc_duration_seconds /quotad.v1.QuotaService/Acquire Internal":          1,
		"quotad_rpc_duration_seconds /quotad.v1.QuotaService/Acquire ResourceExhausted": 1,
		"quotad_rpc_duration_seconds /quotad.v1.QuotaService/Release PermissionDenied":  1,
		"quotad_rpc_duration_seconds /quotad.v1.InspectService/WatchUsage Internal":     1,
		"quotad_rpc_panics_total": 2,
		"quotad_streams_open":     0,
	} {
		if calls[name] != want {
			t.Errorf("%s is %v, want %v", name, calls[name], want)
		}
	}
}

// counts returns the values of counters and gauges, and the counts of histograms, by name and labels.
func counts(t *testing.T, m *metrics.Metrics) map[string]float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			name := f.GetName()
			labels := map[string]string{}
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["method"] != "" {
				name += " " + labels["method"] + " " + labels["code"]
			}
			values[name] += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// TestEveryMethodIsListed walks what the daemon registers: a method that the table does not have would be denied to all.
func TestEveryMethodIsListed(t *testing.T) {
	t.Parallel()
	s := New(Config{Metrics: metrics.New(metrics.Build{}), Methods: auth.Methods(), Now: time.Now})
	t.Cleanup(s.cut) // which was never run
	service.New(service.Config{}).Register(s)
	methods := 0
	for name, info := range s.apps.GetServiceInfo() {
		for _, m := range info.Methods {
			methods++
			full := "/" + name + "/" + m.Name
			if err := auth.Methods().Allow(auth.Local(), full); err != nil {
				t.Error(err)
			}
			if err := auth.Methods().Allow(auth.Principal{}, full); err == nil && ours(name) && m.Name != "WhoAmI" {
				t.Errorf("nobody in particular may call %s", full)
			}
		}
	}
	if methods < 20 {
		t.Errorf("only %d methods are registered", methods)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	_, err := r.quota.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: strings.Repeat("x", MessageBytesMax)}, grpc.MaxCallSendMsgSize(2*MessageBytesMax))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message that is too large: %v", err)
	}
	// Streams above the bound are refused, and there is room again when one ends.
	opened := make(chan struct{}, StreamsMax+1)
	release := make(chan struct{})
	r.fake.watch = func(context.Context) error {
		opened <- struct{}{}
		<-release
		return nil
	}
	open := func() error {
		stream, err := r.inspect.WatchUsage(t.Context(), &quotadv1.WatchUsageRequest{})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	var watching sync.WaitGroup
	for range StreamsMax {
		watching.Go(func() {
			if err := open(); !errors.Is(err, io.EOF) {
				t.Errorf("a stream within the bound: %v", err)
			}
		})
	}
	for range StreamsMax {
		<-opened
	}
	if err := open(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "64 streams are open") {
		t.Errorf("one stream more: %v", err)
	}
	if err := r.call(t.Context()); err != nil {
		t.Errorf("a plain call beside them: %v", err)
	}
	close(release)
	watching.Wait()
	if err := open(); !errors.Is(err, io.EOF) {
		t.Errorf("a stream after the others: %v", err)
	}
}

// TestHealth: probes follow the daemon's health within a second.
func TestHealth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		check := func(want healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			for _, name := range []string{"", "quotad.v1.QuotaService", "quotad.v1.InspectService"} {
				resp, err := r.probe.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
				if err != nil || resp.GetStatus() != want {
					t.Errorf("%q is %v, %v; want %v", name, resp.GetStatus(), err, want)
				}
			}
		}
		check(healthpb.HealthCheckResponse_SERVING)
		time.Sleep(pollInterval / 2) // from here on between two looks
		r.set(Health{Degraded: []string{"a slip in line 59s"}})
		time.Sleep(pollInterval)
		r.set(Health{Degraded: []string{"a slip in line 1m0s"}}) // the same, a second later
		time.Sleep(pollInterval)
		synctest.Wait()
		check(healthpb.HealthCheckResponse_SERVING)
		r.set(Health{Down: []string{"no room"}})
		time.Sleep(pollInterval)
		synctest.Wait()
		check(healthpb.HealthCheckResponse_NOT_SERVING)
		r.set(Health{})
		time.Sleep(pollInterval)
		synctest.Wait()
		check(healthpb.HealthCheckResponse_SERVING)
		want := `level=WARN msg=problem text="a slip in line 59s"
level=WARN msg=problem text="no room"
level=INFO msg="problem is over" text="a slip in line 1m0s"
level=INFO msg="problem is over" text="no room"
`
		var got strings.Builder
		for line := range strings.Lines(r.log.String()) {
			if strings.Contains(line, "problem") {
				_, line, _ = strings.Cut(line, " ")
				got.WriteString(line)
			}
		}
		if got.String() != want {
			t.Errorf("the log says\n%s, want\n%s", &got, want)
		}
	})
}

// TestStop plays the order of a stop: calls that run may end, new ones are refused, watches of the health do not hold it up.
func TestStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		began := make(chan struct{})
		r.fake.acquire = func(context.Context) (*quotadv1.AcquireResponse, error) {
			close(began)
			time.Sleep(3 * time.Second)
			return &quotadv1.AcquireResponse{}, nil
		}
		answered := make(chan error, 1)
		go func() { answered <- r.call(t.Context()) }()
		<-began
		watch, err := r.probe.Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if first, err := watch.Recv(); err != nil || first.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("the watch begins with %v, %v", first, err)
		}
		at := time.Now()
		r.stop()
		<-r.Stopping()
		for err == nil {
			_, err = watch.Recv() // it may or may not say NOT_SERVING before it ends
		}
		if err := <-answered; err != nil {
			t.Errorf("a call that ran was cut off: %v", err)
		}
		err = <-r.done
		r.done <- err
		if took := time.Since(at); err != nil || took < 3*time.Second || took > 4*time.Second {
			t.Errorf("stopping took %v (%v), want the 3 s that the call ran", took, err)
		}
		if err := r.call(t.Context()); status.Code(err) != codes.Unavailable {
			t.Errorf("a call after the stop: %v", err)
		}
		for _, step := range []string{"health says so", "running calls may end", "listeners are closed"} {
			if !strings.Contains(r.log.String(), step) {
				t.Errorf("the log has no step %q", step)
			}
		}
	})
}

// TestStopHasADeadline: a call that does not end is cut off after the drain time, or at once where a second signal asks for it.
func TestStopHasADeadline(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		hard bool
		want time.Duration
	}{{"drain", false, 10 * time.Second}, {"at once", true, 0}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				began := make(chan struct{})
				r.fake.acquire = func(ctx context.Context) (*quotadv1.AcquireResponse, error) {
					close(began)
					<-ctx.Done()
					return nil, ctx.Err()
				}
				answered := make(chan error, 1)
				go func() { answered <- r.call(t.Context()) }()
				<-began
				at := time.Now()
				r.stop()
				if test.hard {
					<-r.Stopping()
					r.Stop()
				}
				err := <-r.done
				r.done <- err
				if took := time.Since(at); err != nil || took != test.want {
					t.Errorf("stopping took %v (%v), want %v", took, err, test.want)
				}
				if err := <-answered; status.Code(err) != codes.Unavailable {
					t.Errorf("the call was answered with %v", err)
				}
			})
		})
	}
}

// TestListenerFails: a server that cannot accept any more ends, and says why.
func TestListenerFails(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	s := New(Config{Listeners: []net.Listener{l}, Metrics: metrics.New(metrics.Build{}), Now: time.Now, Ready: func() { close(ready) }})
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	<-ready
	_ = l.Close()
	if err := <-done; err == nil || !strings.HasPrefix(err.Error(), "serving grpc on 127.0.0.1:") {
		t.Errorf("Run: %v", err)
	}
}
