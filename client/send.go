package client

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// attempts is how a call went.
type attempts struct {
	tries   int
	perhaps bool // whether any of them may have been carried out unknown to the caller
}

// send makes a call, again and again while that may help: the request carries its id, so that all tries are one. The error is that of
// the last try.
func send[Q proto.Message, A any](ctx context.Context, c *Client, req Q, call func(context.Context, Q, ...grpc.CallOption) (A, error)) (A, attempts, error) {
	var a attempts
	for {
		a.tries++
		answer, sent, err := try(ctx, c.o.timeout, req, call)
		a.perhaps = a.perhaps || (sent || !c.tellsPeers) && !refused(err)
		if err == nil || !worthRetrying(err) || a.tries == c.o.tries || !pause(ctx, wait(c.o.backoff, a.tries)) {
			return answer, a, err
		}
	}
}

// try makes a call once. sent is false only where there was no connection, so that quotad cannot have seen it. A request that cannot
// be written (a string is not UTF-8) is INTERNAL to gRPC, as if quotad were at fault; it is told as what it is.
func try[Q proto.Message, A any](ctx context.Context, timeout time.Duration, req Q, call func(context.Context, Q, ...grpc.CallOption) (A, error)) (answer A, sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var to peer.Peer
	answer, err = call(ctx, req, grpc.Peer(&to))
	if status.Code(err) == codes.Internal {
		if _, bad := proto.Marshal(req); bad != nil {
			return answer, false, status.Error(codes.InvalidArgument, bad.Error())
		}
	}
	return answer, to.Addr != nil, err
}

// wait is how long to wait after a number of tries: from half to the whole of what has doubled since the first.
func wait(first time.Duration, tries int) time.Duration {
	d := first
	for range tries - 1 {
		d = min(2*d, BackoffMax)
	}
	return d - rand.N(d/2+1) //nolint:gosec // spreads callers, and guards nothing
}

// pause waits, and tells whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
