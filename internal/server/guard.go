package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
	"github.com/quotad/quotad/internal/service"
)

// guard is what every call passes on its way in, in one function rather than in a chain, as it is on the way of every acquire:
// measure, recover, identify, authorise, limit, log.
type guard struct {
	log      *slog.Logger
	table    auth.Table
	gate     *auth.Gate
	metrics  *metrics.Metrics
	now      func() time.Time
	methods  map[string]*metrics.Method // written before the first call, and not after
	stopping <-chan struct{}
	streams  chan struct{} // holds one for each open stream
	watches  chan struct{} // the same for health watches
	loads    *loads        // of each principal
	// strangers is how many calls are open of callers that the policy does not know.
	strangers atomic.Int64
	nothing   shown // what a connection shows that shows nothing
}

const (
	ourPrefix   = "quotad.v1."
	healthWatch = "/grpc.health.v1.Health/Watch"

	bearerHeader   = "authorization"
	bearerScheme   = "bearer "
	bearerBytesMax = 512  // of the header; a token has about fifty
	refusalMax     = 1000 // bytes of a refusal's text: it may have an identity from a certificate in it, and travels as a header
)

// reasonUnauthenticated is the reason in the ErrorInfo of a call of which it is not known who makes it. The other reasons that the guard
// gives are the service's, too.
const reasonUnauthenticated = "UNAUTHENTICATED"

func ours(service string) bool { return strings.HasPrefix(service, ourPrefix) }

// newGuard returns the guard of one server. The loads are those of all servers of a daemon.
func newGuard(log *slog.Logger, c Config, stopping <-chan struct{}, of *loads) *guard {
	g := &guard{
		log: log, table: c.Methods, gate: c.Gate, metrics: c.Metrics, now: c.Now, stopping: stopping, loads: of,
		streams: make(chan struct{}, StreamsMax), watches: make(chan struct{}, HealthWatchesMax),
	}
	if g.gate == nil {
		g.gate = new(auth.Gate)
	}
	return g
}

// measure prepares a measure for each method. Only methods that exist are measured, so callers cannot add to them.
func (g *guard) measure(services map[string]grpc.ServiceInfo) {
	g.methods = make(map[string]*metrics.Method)
	name := func(code uint32) string { return codes.Code(code).String() }
	for service, info := range services {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			g.methods[full] = g.metrics.Method(full, name)
		}
	}
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	began := g.now()
	resp, who, err := g.callUnary(ctx, req, info.FullMethod, handler)
	g.ended(ctx, info.FullMethod, who, began, err)
	return resp, err
}

func (g *guard) callUnary(ctx context.Context, req any, method string, handler grpc.UnaryHandler) (resp any, who *known, err error) {
	defer g.recovered(ctx, method, &err)
	who, err = g.admit(ctx, method)
	if err != nil {
		return nil, who, err
	}
	if !take(&who.load.calls, who.calls) {
		return nil, who, g.refuse(codes.Unavailable, metrics.RefusedInFlight, service.ReasonOverloaded,
			fmt.Sprintf("%s has %d calls under way, as many as it may; nothing was charged", who.caller.Principal, who.calls))
	}
	defer who.load.calls.Add(-1)
	resp, err = handler(auth.WithCaller(ctx, who.caller), req)
	return resp, who, err
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if srv == nil {
		return handler(srv, ss) // of no service that is here: it is told so, whoever it is
	}
	began := g.now()
	who, err := g.callStream(srv, ss, info.FullMethod, handler)
	g.ended(ss.Context(), info.FullMethod, who, began, err)
	return err
}

func (g *guard) callStream(srv any, ss grpc.ServerStream, method string, handler grpc.StreamHandler) (who *known, err error) {
	ctx := ss.Context()
	defer g.recovered(ctx, method, &err)
	who, err = g.admit(ctx, method)
	if err != nil {
		return who, err
	}
	places, own, most := g.streams, &who.load.streams, who.streams
	if method == healthWatch {
		places, own, most = g.watches, &who.load.watches, who.watches
		// A health watch ends with its caller, so it would hold up an orderly stop for ever.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-g.stopping:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	default:
		return who, g.tooMany(fmt.Sprintf("%d streams are open, as many as there may be", cap(places)))
	}
	if !take(own, most) {
		return who, g.tooMany(fmt.Sprintf("%s has %d streams open, as many as it may", who.caller.Principal, most))
	}
	defer own.Add(-1)
	defer g.metrics.StreamOpened()()
	return who, handler(srv, streamOf{ss, auth.WithCaller(ctx, who.caller), g.shownBy(ctx).end})
}

func (g *guard) tooMany(text string) error {
	return g.refuse(codes.Unavailable, metrics.RefusedStreams, service.ReasonOverloaded, text+"; try again when one has ended")
}

// tooManyStrangers refuses a call of somebody whom the policy does not know: for good, unless anybody may make it.
func (g *guard) tooManyStrangers(method string) error {
	const text = "the policy of this daemon does not know who makes the call, and as many such calls are open as may be; nothing was charged"
	if g.table[method].Anybody {
		return g.refuse(codes.Unavailable, metrics.RefusedInFlight, service.ReasonOverloaded, text)
	}
	return g.unauthenticated(text)
}

// admit finds out who is calling, and whether they may.
func (g *guard) admit(ctx context.Context, method string) (*known, error) {
	who, err := g.identify(ctx)
	if err != nil {
		return nil, err
	}
	p := who.caller.Principal
	if err := g.table.Allow(p, method); err != nil {
		if p.Name == "" && p.Shown == "" {
			return who, g.unauthenticated("the call does not show who makes it; the policy of this daemon knows callers by certificates, tokens or users")
		}
		return who, g.refuse(codes.PermissionDenied, metrics.RefusedPermissionDenied, service.ReasonPermissionDenied, err.Error())
	}
	return who, nil
}

// shownBy returns what the connection of a call shows.
func (g *guard) shownBy(ctx context.Context) *shown {
	if p, ok := peer.FromContext(ctx); ok {
		if s, ok := p.AuthInfo.(*shown); ok {
			return s
		}
	}
	return &g.nothing
}

// identify finds out who is calling: by the token, if there is one, which then decides alone, or by what the connection shows. That is
// found once for each policy. Without a policy everybody is auth.Local, and a token that is sent is not looked at.
func (g *guard) identify(ctx context.Context) (*known, error) {
	access, by := g.gate.Get(), g.shownBy(ctx)
	if access.Policy() {
		if values := metadata.ValueFromIncomingContext(ctx, bearerHeader); len(values) > 0 {
			return g.identifyToken(access, by, values)
		}
	}
	if who := by.known.Load(); who != nil && who.access == access {
		return who, nil
	}
	who := g.loads.know(access, by.ids)
	by.known.Store(who)
	return who, nil
}

// identifyToken looks a bearer token up. It is looked up with each call, as it may have expired since the one before. No text has any
// of it: what is wrong with a header may be that another secret is in it.
func (g *guard) identifyToken(access *auth.Access, by *shown, values []string) (*known, error) {
	if !by.private {
		return nil, g.unauthenticated("a token was sent in the clear and was not looked at: tokens are taken over TLS or unix sockets alone; revoke it")
	}
	if !bears(values) {
		return nil, g.unauthenticated("authorization has to be one value, Bearer and a token")
	}
	id, err := access.Token(values[0][len(bearerScheme):], g.now())
	if err != nil {
		return nil, g.unauthenticated("the token is unknown, revoked or expired")
	}
	if who := by.token.Load(); who != nil && who.access == access && who.caller.Identities[0] == id {
		return who, nil
	}
	who := g.loads.know(access, []auth.Identity{id})
	by.token.Store(who)
	return who, nil
}

// bears tells whether the values of an authorization header are what a token may be in: one, of Bearer and something.
func bears(values []string) bool {
	return len(values) == 1 && len(values[0]) <= bearerBytesMax && len(values[0]) > len(bearerScheme) &&
		strings.EqualFold(values[0][:len(bearerScheme)], bearerScheme)
}

func (g *guard) unauthenticated(text string) error {
	return g.refuse(codes.Unauthenticated, metrics.RefusedUnauthenticated, reasonUnauthenticated, text)
}

// refuse counts a refusal, and returns it as the services give theirs.
func (g *guard) refuse(code codes.Code, why metrics.CallRefusal, reason, text string) error {
	g.metrics.CallRefused(why)
	if len(text) > refusalMax {
		text = strings.ToValidUTF8(text[:refusalMax], "") + " ..."
	}
	s := status.New(code, text)
	detailed, err := s.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: service.Domain})
	if err != nil { // not for these
		return s.Err()
	}
	return detailed.Err()
}

// notHere is the answer to a call of a service or a method that this server does not have.
func notHere(service string, control bool) error {
	if control {
		return status.Errorf(codes.Unimplemented, "%s is answered on the control listener of this daemon (control-listen), and not here", service)
	}
	return status.Error(codes.Unimplemented, "there is no such method here")
}

// recovered turns a panic into a status: a defect in one call must not end the daemon for all. It is to be deferred. A panic in
// the ledger's writer is not of a call, and does end the daemon.
func (g *guard) recovered(ctx context.Context, method string, err *error) {
	reason := recover()
	if reason == nil {
		return
	}
	g.metrics.Panicked()
	g.log.ErrorContext(ctx, "a call panicked", "method", method, "panic", fmt.Sprint(reason), "stack", string(debug.Stack()))
	*err = status.Error(codes.Internal, "a defect in quotad; its log says more. Whether the call was carried out is unknown")
}

// ended measures and logs a call that has ended; who is nil if that was not found out.
func (g *guard) ended(ctx context.Context, method string, who *known, began time.Time, err error) {
	took := g.now().Sub(began)
	code := status.Code(err)
	if m := g.methods[method]; m != nil {
		m.Observe(uint32(code), took)
	}
	level := slog.LevelDebug
	if code == codes.Internal || code == codes.Unknown || code == codes.DataLoss {
		level = slog.LevelWarn
	}
	if !g.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("method", method), slog.String("code", code.String()), slog.Duration("took", took)}
	if who != nil {
		attrs = append(attrs, slog.String("principal", who.caller.Principal.String()))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	}
	g.log.LogAttrs(ctx, level, "call", attrs...)
}
