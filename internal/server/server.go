// Package server opens the doors: listeners, what every call passes on its way in, health, metrics and probes over HTTP, and an
// orderly end.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
)

// Bounds on what callers may make the daemon hold. gRPC's own defaults are open.
const (
	// ConnectionsMax is how many connections one listener has at a time; more wait to be accepted.
	ConnectionsMax = 1024
	// CallsMax is how many calls one connection has open at a time; more wait at the client.
	CallsMax = 1024
	// StreamsMax is how many streaming calls are open at a time; more are refused with UNAVAILABLE. Each has a goroutine, and
	// a watch reads the ledger again and again.
	StreamsMax = 64
	// HealthWatchesMax is how many health watches are open at a time. They cost nothing while the health stays.
	HealthWatchesMax = 1024
	// MessageBytesMax is the largest message either way. An Acquire has a few hundred bytes; the whole declared set of 10,000
	// buckets, as Apply takes it and ListBuckets pages it, has to fit.
	MessageBytesMax = 4 << 20
	// HeaderBytesMax is the most metadata that a call may bring.
	HeaderBytesMax = 16 << 10

	handshakeTimeout = 5 * time.Second
	idleTimeout      = 15 * time.Minute
	pingMinTime      = 10 * time.Second
	pollInterval     = time.Second
	streamWorkers    = 256
)

// Config is what a Server is made of.
type Config struct {
	Listeners []net.Listener // for gRPC; the server closes them, as it does all of these
	Control   []net.Listener // for gRPC, inspecting and administration included; none means that Listeners answer those too
	Probe     net.Listener   // for gRPC health alone, in the clear; nil means none
	Admin     net.Listener   // for HTTP; nil means none
	// AdminRemote lets requests to Admin name any host; without it they have to name this machine.
	AdminRemote bool
	TLS         *Certificates // for those of Listeners and Control that are TCP; nil means in the clear
	Gate        *auth.Gate    // who is whom and may do what; nil means that everybody is auth.Local
	Trace       stats.Handler // sees every call of gRPC; nil means none
	Log         *slog.Logger  // nil means nowhere
	Metrics     *metrics.Metrics
	Methods     auth.Table                   // who may call what; a method that is not in it is denied
	Health      func(context.Context) Health // asked each second; nil means always well
	Drain       time.Duration                // how long calls may take to end; 0 means not at all
	Now         func() time.Time             // a clock to measure by; required
	Ready       func()                       // told once calls are taken; nil means nobody
}

// Health is how the daemon is, for probes. The zero value is well.
type Health struct {
	Down     []string // why it cannot do its work: NOT_SERVING, and /readyz says 503
	Degraded []string // what somebody should look at while it works: SERVING, and /readyz says 200 and lists them
}

// Server is a gRPC server with all that stands around it. It is a grpc.ServiceRegistrar.
type Server struct {
	c        Config
	log      *slog.Logger
	grpc     *grpc.Server
	guard    *guard
	health   *health.Server
	admin    *http.Server
	stopping chan struct{}
	hard     chan struct{}
	hardOnce sync.Once

	mu    sync.Mutex
	state Health // as it was last asked for
	ready bool   // whether Run has begun and not begun to stop
}

// New returns a server that does not listen yet: services are registered first, then Run is called.
func New(c Config) *Server {
	s := &Server{c: c, log: c.Log, stopping: make(chan struct{}), hard: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.c.Health == nil {
		s.c.Health = func(context.Context) Health { return Health{} }
	}
	s.guard = newGuard(s.log, c, s.stopping)
	s.grpc = grpc.NewServer(
		grpc.UnaryInterceptor(s.guard.unary),
		grpc.StreamInterceptor(s.guard.stream),
		grpc.MaxConcurrentStreams(CallsMax),
		grpc.MaxRecvMsgSize(MessageBytesMax),
		grpc.MaxSendMsgSize(MessageBytesMax),
		grpc.MaxHeaderListSize(HeaderBytesMax),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingMinTime, PermitWithoutStream: true}),
		// Messages are small and the way is short: fixed windows need no measuring of the bandwidth.
		grpc.InitialWindowSize(256<<10),
		grpc.InitialConnWindowSize(1<<20),
		// Goroutines that stay have grown their stacks: a new one for each call spends a tenth of its time on that. Calls beyond
		// them get one of their own.
		grpc.NumStreamWorkers(streamWorkers),
	)
	s.health = health.NewServer()
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc) // v1 and v1alpha
	if c.Admin != nil {
		s.admin = s.newAdmin()
	}
	return s
}

// RegisterService makes the server answer a service. It is part of grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
}

// Stopping is closed when the server begins to stop, for streams that would not end by themselves.
func (s *Server) Stopping() <-chan struct{} { return s.stopping }

// Stop ends all calls at once. Run returns soon after it.
func (s *Server) Stop() { s.hardOnce.Do(func() { close(s.hard) }) }

// Run serves until ctx ends, then stops in order: health says NOT_SERVING, no call is accepted any more, those that run have
// the drain time to end, the rest is cut off, and HTTP ends last. The error is why it stopped if nobody asked it to.
func (s *Server) Run(ctx context.Context) error {
	s.guard.measure(s.grpc.GetServiceInfo())
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	s.look(ctx)
	failed := make(chan error, len(s.c.Listeners)+1)
	var serving sync.WaitGroup
	for _, l := range s.c.Listeners {
		s.log.Info("listening", "for", "grpc", "address", AddressOf(l))
		serving.Go(func() {
			if err := s.grpc.Serve(netutil.LimitListener(l, ConnectionsMax)); err != nil {
				failed <- fmt.Errorf("serving grpc on %s: %w", AddressOf(l), err)
			}
		})
	}
	if s.admin != nil {
		s.log.Info("listening", "for", "admin", "address", AddressOf(s.c.Admin))
		serving.Go(func() {
			if err := s.admin.Serve(netutil.LimitListener(s.c.Admin, adminConnectionsMax)); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving http on %s: %w", AddressOf(s.c.Admin), err)
			}
		})
	}
	if s.c.Ready != nil {
		s.c.Ready()
	}
	err := s.watch(ctx, failed)
	s.shutdown(ctx)
	serving.Wait()
	return err
}

// watch asks for the health each second until it is time to stop.
func (s *Server) watch(ctx context.Context, failed <-chan error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.hard:
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
			s.look(ctx)
		}
	}
}

// shutdown stops in order. Each step is logged, so that one that hangs can be told.
func (s *Server) shutdown(ctx context.Context) {
	s.mu.Lock()
	s.ready = false
	s.mu.Unlock()
	s.log.Info("stopping: health says so", "step", "1/3")
	s.health.Shutdown()
	close(s.stopping)
	s.log.Info("stopping: running calls may end", "step", "2/3", "within", s.c.Drain)
	drained := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(drained)
	}()
	patience := time.NewTimer(s.c.Drain)
	defer patience.Stop()
	select {
	case <-drained:
	case <-patience.C:
		s.log.Warn("stopping: calls are still running, and are cut off")
		s.grpc.Stop()
	case <-s.hard:
		s.log.Warn("stopping: told to stop at once")
		s.grpc.Stop()
	}
	<-drained
	s.log.Info("stopping: listeners are closed", "step", "3/3")
	if s.admin == nil {
		return
	}
	// The context that asked for the stop has ended; this one gives a scrape that runs a moment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminDrain)
	defer cancel()
	if err := s.admin.Shutdown(ctx); err != nil {
		_ = s.admin.Close() // cut off what is left; the listener is closed already
	}
}

// look asks for the health, tells probes, and logs what has come and gone.
func (s *Server) look(ctx context.Context) {
	now := s.c.Health(ctx)
	if ctx.Err() != nil {
		return // the answer may be about the context
	}
	s.mu.Lock()
	before := s.state
	s.state = now
	s.mu.Unlock()
	for _, text := range gone(now.all(), before.all()) {
		s.log.Warn("problem", "text", text)
	}
	for _, text := range gone(before.all(), now.all()) {
		s.log.Info("problem is over", "text", text)
	}
	status := healthpb.HealthCheckResponse_SERVING
	if len(now.Down) > 0 {
		status = healthpb.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus("", status)
	for name := range s.grpc.GetServiceInfo() {
		if ours(name) {
			s.health.SetServingStatus(name, status)
		}
	}
}

func (h Health) all() []string {
	return append(append([]string(nil), h.Down...), h.Degraded...)
}

// changing matches what may differ in the text of one problem from second to second: numbers and durations.
var changing = regexp.MustCompile(`[0-9][0-9.hmsµn]*`)

// gone returns the problems that are in from and not in than, whatever their numbers are.
func gone(from, than []string) (rest []string) {
	in := make(map[string]bool, len(than))
	for _, s := range than {
		in[changing.ReplaceAllString(s, "")] = true
	}
	for _, s := range from {
		if !in[changing.ReplaceAllString(s, "")] {
			rest = append(rest, s)
		}
	}
	return rest
}
