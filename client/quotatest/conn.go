package quotatest

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// target has no name to look up: the dialer knows where to go.
	target = "passthrough:///quotatest"
	// noticeMax is how long Stop waits for a client to see that its connection has ended. It takes microseconds.
	noticeMax = 10 * time.Second
)

func inProcess() credentials.TransportCredentials { return insecure.NewCredentials() }

// dialOptions make a connection to whichever run there is. Each call waits until it stands, as long as there is one; gRPC itself
// would fail calls for a while after a Restart, and a test would have to try again.
func (s *Server) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(inProcess()),
		grpc.WithContextDialer(s.dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1.6, MaxDelay: 10 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			s.connect(ctx, cc)
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s.connect(ctx, cc)
			return open(ctx, desc, cc, method, opts...)
		}),
	}
}

func (s *Server) dial(ctx context.Context, _ string) (net.Conn, error) {
	r := s.running()
	if r == nil {
		return nil, errors.New("this quotad is stopped")
	}
	return r.pipe.DialContext(ctx)
}

// connect waits until a connection stands; or quotad is stopped, or ctx ends, which the call then says itself.
func (s *Server) connect(ctx context.Context, cc *grpc.ClientConn) {
	s.conns.LoadOrStore(cc, nil)
	for {
		r, state := s.running(), cc.GetState()
		if r == nil || state == connectivity.Ready || state == connectivity.Shutdown {
			return
		}
		cc.Connect()
		if waitForChange(ctx, r.live, cc, state); ctx.Err() != nil {
			return
		}
	}
}

// waitForChange waits until a connection leaves a state, or one of two contexts ends.
func waitForChange(ctx, also context.Context, cc *grpc.ClientConn, state connectivity.State) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(also, cancel)()
	cc.WaitForStateChange(ctx, state)
}

// forget waits until every client has seen that its connection has ended. A call that was made before that would go to the run that
// is over, and fail although the next one runs.
func (s *Server) forget() {
	ctx, cancel := context.WithTimeout(s.context(), noticeMax)
	defer cancel()
	s.conns.Range(func(key, _ any) bool {
		cc := key.(*grpc.ClientConn)
		for cc.GetState() == connectivity.Ready && cc.WaitForStateChange(ctx, connectivity.Ready) {
		}
		if cc.GetState() == connectivity.Shutdown {
			s.conns.Delete(key)
		}
		return true
	})
}
