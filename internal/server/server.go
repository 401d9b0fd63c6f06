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
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
)

// Bounds on what callers may make the daemon hold. gRPC's own defaults are open.
const (
	// ConnectionsMax is how many connections one listener has at a time, and half of it for any one peer; more are closed at once.
	ConnectionsMax = 1024
	// CallsMax is how many calls one connection has open at a time; more wait at the client.
	CallsMax = 256
	// StreamsMax is how many streaming calls one server has open at a time; more are refused with UNAVAILABLE. Each has a goroutine,
	// and a watch reads the ledger again and again.
	StreamsMax = 64
	// HealthWatchesMax is how many health watches one server has open at a time. They cost nothing while the health stays.
	HealthWatchesMax = 1024
	// MessageBytesMax is the largest message either way where inspection and administration are answered. The whole declared set of
	// 10,000 buckets, as Apply takes it and ListBuckets pages it, has to fit.
	MessageBytesMax = 4 << 20
	// RequestBytesMax is the largest request where they are not. An Acquire has a few hundred bytes, and 32 charges with the longest
	// names not 20,000.
	RequestBytesMax = 64 << 10
	// HeaderBytesMax is the most metadata that a call may bring.
	HeaderBytesMax = 16 << 10

	handshakeTimeout = 5 * time.Second
	idleTimeout      = 15 * time.Minute
	// What a connection shows is looked at when it begins: a certificate or a group that was taken away counts no longer than its
	// connection. So none is for ever, and those on unix sockets are not either. gRPC adds a tenth more or less by chance, so that
	// many do not come again at once, and clients go on by a new one without being told.
	connectionAge   = 30 * time.Minute
	connectionGrace = 30 * time.Second // for the calls that are under way on it
	pingMinTime     = 10 * time.Second
	pollInterval    = time.Second
	streamWorkers   = 256

	// Probes ask one thing, and are few.
	probeConnectionsMax = 64
	probeCallsMax       = 16
	probeBytesMax       = 4 << 10
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

// Server is gRPC servers with all that stands around them. It is a grpc.ServiceRegistrar.
type Server struct {
	c        Config
	log      *slog.Logger
	apps     *grpc.Server // for Listeners
	control  *grpc.Server // for Control; nil if there are none
	probe    *grpc.Server // for Probe; nil if there is none
	guards   map[*grpc.Server]*guard
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
	s := &Server{c: c, log: c.Log, stopping: make(chan struct{}), hard: make(chan struct{}), guards: make(map[*grpc.Server]*guard)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.c.Health == nil {
		s.c.Health = func(context.Context) Health { return Health{} }
	}
	s.health = health.NewServer()
	all := &loads{} // those of a principal on all servers together
	if len(c.Control) == 0 {
		s.apps = s.newGRPC(all, grpc.MaxRecvMsgSize(MessageBytesMax))
	} else {
		s.control = s.newGRPC(all, grpc.MaxRecvMsgSize(MessageBytesMax))
		s.apps = s.newGRPC(all, grpc.MaxRecvMsgSize(RequestBytesMax), grpc.UnknownServiceHandler(s.elsewhere))
	}
	for _, g := range s.servers() {
		reflection.Register(g) // v1 and v1alpha; each lists what it has itself
	}
	if c.Probe != nil {
		// Its loads are its own, so that whoever can reach it alone cannot fill those of others.
		s.probe = s.newGRPC(&loads{}, grpc.Creds(s.credentials(nil)), grpc.MaxRecvMsgSize(probeBytesMax), grpc.MaxConcurrentStreams(probeCallsMax))
	}
	if c.Admin != nil {
		s.admin = s.newAdmin()
	}
	return s
}

// newGRPC returns a gRPC server with a guard of its own and the bounds that hold for all; options may say otherwise.
func (s *Server) newGRPC(of *loads, options ...grpc.ServerOption) *grpc.Server {
	guard := newGuard(s.log, s.c, s.stopping, of)
	common := []grpc.ServerOption{
		grpc.Creds(s.credentials(s.c.TLS)),
		grpc.InTapHandle(guard.arrives),
		grpc.UnaryInterceptor(guard.unary),
		grpc.StreamInterceptor(guard.stream),
		grpc.MaxConcurrentStreams(CallsMax),
		grpc.MaxSendMsgSize(MessageBytesMax),
		grpc.MaxHeaderListSize(HeaderBytesMax),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: idleTimeout, MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: connectionGrace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingMinTime, PermitWithoutStream: true}),
		// Messages are small and the way is short: fixed windows need no measuring of the bandwidth.
		grpc.InitialWindowSize(256 << 10),
		grpc.InitialConnWindowSize(1 << 20),
		// Goroutines that stay have grown their stacks: a new one for each call spends a tenth of its time on that. Calls beyond
		// them get one of their own.
		grpc.NumStreamWorkers(streamWorkers),
	}
	if s.c.Trace != nil {
		common = append(common, grpc.StatsHandler(s.c.Trace))
	}
	g := grpc.NewServer(append(common, options...)...)
	s.guards[g] = guard
	healthpb.RegisterHealthServer(g, s.health)
	return g
}

func (s *Server) credentials(c *Certificates) credentials.TransportCredentials {
	return impatient{TransportCredentials: newHandshake(c), log: s.log, metrics: s.c.Metrics}
}

// servers returns those that have services of ours.
func (s *Server) servers() []*grpc.Server {
	if s.control == nil {
		return []*grpc.Server{s.apps}
	}
	return []*grpc.Server{s.apps, s.control}
}

// RegisterService makes the server answer a service. It is part of grpc.ServiceRegistrar. Where there is a Control, it alone has what is
// not for apps.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if s.control == nil || desc.ServiceName == quotadv1.QuotaService_ServiceDesc.ServiceName {
		s.apps.RegisterService(desc, impl)
	}
	if s.control != nil {
		s.control.RegisterService(desc, impl)
	}
}

// elsewhere answers calls of what apps does not have.
func (s *Server) elsewhere(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.Method(ss.Context())
	name, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	_, here := s.apps.GetServiceInfo()[name]
	_, there := s.control.GetServiceInfo()[name]
	return notHere(name, there && !here)
}

// Stopping is closed when the server begins to stop, for streams that would not end by themselves.
func (s *Server) Stopping() <-chan struct{} { return s.stopping }

// Stop ends all calls at once. Run returns soon after it.
func (s *Server) Stop() { s.hardOnce.Do(func() { close(s.hard) }) }

// Run serves until ctx ends, then stops in order: health says NOT_SERVING, no call is accepted any more, those that run have
// the drain time to end, the rest is cut off, and HTTP ends last. The error is why it stopped if nobody asked it to.
func (s *Server) Run(ctx context.Context) error {
	for server, guard := range s.guards {
		guard.measure(server.GetServiceInfo())
	}
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	s.look(ctx)
	failed := make(chan error, len(s.c.Listeners)+len(s.c.Control)+2)
	var serving sync.WaitGroup
	serve := func(what string, l net.Listener, most int, by interface{ Serve(net.Listener) error }) {
		s.log.Info("listening", "for", what, "address", AddressOf(l))
		serving.Go(func() {
			refused := func(reason string) { s.c.Metrics.ConnectionRefused(metrics.ConnRefusal(reason)) }
			if err := by.Serve(limitConnections(l, most, refused)); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving %s on %s: %w", what, AddressOf(l), err)
			}
		})
	}
	for _, l := range s.c.Listeners {
		serve("grpc", l, ConnectionsMax, s.apps)
	}
	for _, l := range s.c.Control {
		serve("control", l, ConnectionsMax, s.control)
	}
	if s.probe != nil {
		serve("probe", s.c.Probe, probeConnectionsMax, s.probe)
	}
	if s.admin != nil {
		serve("admin", s.c.Admin, adminConnectionsMax, s.admin)
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
		s.each((*grpc.Server).GracefulStop)
		close(drained)
	}()
	patience := time.NewTimer(s.c.Drain)
	defer patience.Stop()
	select {
	case <-drained:
	case <-patience.C:
		s.log.Warn("stopping: calls are still running, and are cut off")
		s.cut()
	case <-s.hard:
		s.log.Warn("stopping: told to stop at once")
		s.cut()
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

// cut ends all calls at once.
func (s *Server) cut() { s.each((*grpc.Server).Stop) }

// each does a thing with all gRPC servers at once, and returns when it is done with all.
func (s *Server) each(do func(*grpc.Server)) {
	var doing sync.WaitGroup
	for g := range s.guards {
		doing.Go(func() { do(g) })
	}
	doing.Wait()
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
	for _, g := range s.servers() {
		for name := range g.GetServiceInfo() {
			if ours(name) {
				s.health.SetServingStatus(name, status)
			}
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
