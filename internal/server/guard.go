package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
)

// guard is what every call passes on its way in, in one function rather than in a chain, as it is on the way of every acquire:
// measure, recover, log, identify, authorise.
type guard struct {
	log      *slog.Logger
	table    auth.Table
	metrics  *metrics.Metrics
	now      func() time.Time
	methods  map[string]*metrics.Method // written before the first call, and not after
	stopping <-chan struct{}
	streams  chan struct{} // holds one for each open stream
	watches  chan struct{} // the same for health watches
}

const (
	ourPrefix   = "quotad.v1."
	healthWatch = "/grpc.health.v1.Health/Watch"
)

func ours(service string) bool { return strings.HasPrefix(service, ourPrefix) }

func newGuard(log *slog.Logger, c Config, stopping <-chan struct{}) *guard {
	return &guard{
		log: log, table: c.Methods, metrics: c.Metrics, now: c.Now, stopping: stopping,
		streams: make(chan struct{}, StreamsMax), watches: make(chan struct{}, HealthWatchesMax),
	}
}

// measure prepares a measure for each method. Only methods that exist reach the guard, so callers cannot add to them.
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
	resp, err := g.callUnary(ctx, req, info.FullMethod, handler)
	g.ended(ctx, info.FullMethod, began, err)
	return resp, err
}

func (g *guard) callUnary(ctx context.Context, req any, method string, handler grpc.UnaryHandler) (resp any, err error) {
	defer g.recovered(ctx, method, &err)
	ctx, err = g.admit(ctx, method)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	began := g.now()
	err := g.callStream(srv, ss, info.FullMethod, handler)
	g.ended(ss.Context(), info.FullMethod, began, err)
	return err
}

func (g *guard) callStream(srv any, ss grpc.ServerStream, method string, handler grpc.StreamHandler) (err error) {
	ctx := ss.Context()
	defer g.recovered(ctx, method, &err)
	ctx, err = g.admit(ctx, method)
	if err != nil {
		return err
	}
	places := g.streams
	if method == healthWatch {
		places = g.watches
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
		return status.Errorf(codes.Unavailable, "%d streams are open, as many as there may be; try again when one has ended", cap(places))
	}
	defer g.metrics.StreamOpened()()
	return handler(srv, streamOf{ss, ctx})
}

// streamOf is a stream whose context says who is calling.
type streamOf struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream's context is asked for by this method
}

// Context is part of grpc.ServerStream.
func (s streamOf) Context() context.Context { return s.ctx }

// admit finds out who is calling, and whether they may.
func (g *guard) admit(ctx context.Context, method string) (context.Context, error) {
	// The listeners are on loopback and unix sockets alone, so whoever calls is on this machine.
	caller := auth.Local()
	if err := g.table.Allow(caller, method); err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	return auth.NewContext(ctx, caller), nil
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

// ended measures and logs a call that has ended.
func (g *guard) ended(ctx context.Context, method string, began time.Time, err error) {
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
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	}
	g.log.LogAttrs(ctx, level, "call", attrs...)
}
