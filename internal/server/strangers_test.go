package server

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// TestStrangers: calls whose requests never come hold some memory if nobody makes them, and leave those that the policy knows alone.
// The control is a caller that it knows, who is not bounded by this.
func TestStrangers(t *testing.T) {
	t.Parallel()
	p := newPrincipals(t)
	known, idle := p.token("known"), p.token("idle")
	text := "principals:\n  known:\n    is: [token:known]\n    may: {acquire: [a/**]}\n"
	r := newRig(t, func(c *Config) { c.Listeners, c.Gate = []net.Listener{listenUnix(t)}, behind(p.access(text)) })
	begin := func(ctx context.Context, conn *grpc.ClientConn) grpc.ClientStream {
		t.Helper()
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, quotadv1.QuotaService_Acquire_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	for name, of := range map[string]func(context.Context) context.Context{
		"nobody":                         func(ctx context.Context) context.Context { return ctx },
		"a token that is no principal's": func(ctx context.Context) context.Context { return bearing(ctx, idle) },
		"a token that is none":           func(ctx context.Context) context.Context { return bearing(ctx, known[1:]) },
		"known":                          func(ctx context.Context) context.Context { return bearing(ctx, known) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		conn := r.dial()
		for range StrangersMax {
			begin(of(ctx), conn)
		}
		var err error
		if name == "known" {
			err = r.call(of(ctx)) // half a call would wait for ever
		} else {
			err = begin(of(ctx), conn).RecvMsg(&quotadv1.AcquireResponse{})
		}
		want := map[bool]codes.Code{true: codes.OK, false: codes.Unauthenticated}[name == "known"]
		if status.Code(err) != want {
			t.Errorf("%s, one more: %v, want %v", name, err, want)
		}
		_, err = r.probe.Check(ctx, &healthpb.HealthCheckRequest{})
		if want = map[bool]codes.Code{true: codes.OK, false: codes.Unavailable}[name == "known"]; status.Code(err) != want {
			t.Errorf("%s: then nobody asks for the health: %v, want %v", name, err, want)
		}
		if err := r.call(bearing(ctx, known)); err != nil {
			t.Errorf("%s: then one who is known: %v", name, err)
		}
		cancel()
		eventually(t, fmt.Sprintf("%s: what has ended is counted no longer", name), func() bool {
			return r.guards[r.apps].strangers.Load() == 0 && reasonOf(r.call(t.Context())) != ""
		})
	}
}
