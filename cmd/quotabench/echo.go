package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// The echo service is what a unary call costs when nobody decides anything: it takes the same message as Acquire and answers
// one of the same size, over the same gRPC.
const (
	echoService = "quotad.bench.EchoService"
	echoMethod  = "/" + echoService + "/Echo"
)

// echo answers every call with the same response, encoded anew each time as quotad's own is.
type echo struct{ response *quotadv1.AcquireResponse }

func newEcho(now time.Time) *echo {
	day := now.UTC().Truncate(24 * time.Hour)
	return &echo{&quotadv1.AcquireResponse{Balances: []*quotadv1.Balance{{
		Bucket: bucketName(0), Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, WindowLabel: day.Format(time.DateOnly),
		Start: timestamppb.New(day), End: timestamppb.New(day.Add(24 * time.Hour)),
		Limit: proto.Int64(1e18), Used: 100_000, Remaining: proto.Int64(1e18 - 100_000),
	}}}}
}

func (e *echo) register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: echoService,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Echo", Handler: e.handle}},
	}, e)
}

func (e *echo) handle(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	if err := decode(new(quotadv1.AcquireRequest)); err != nil {
		return nil, err
	}
	return e.response, nil
}

// serveEcho serves until ctx ends. It says on w where.
func serveEcho(ctx context.Context, address string, w io.Writer) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", address, err)
	}
	server := grpc.NewServer()
	newEcho(time.Now()).register(server)
	defer context.AfterFunc(ctx, server.Stop)()
	fmt.Fprintln(w, listener.Addr())
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving the echo: %w", err)
	}
	return nil
}
