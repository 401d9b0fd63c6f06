package server

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
)

// flood answers a watch by sending without end, and acquires at once.
type flood struct {
	quotadv1.UnimplementedQuotaServiceServer
	quotadv1.UnimplementedInspectServiceServer
	sent  atomic.Int64   // messages
	ended chan time.Time // when a watch ended
	now   func() time.Time
}

func (*flood) Acquire(context.Context, *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	return &quotadv1.AcquireResponse{}, nil
}

func (f *flood) WatchUsage(_ *quotadv1.WatchUsageRequest, stream grpc.ServerStreamingServer[quotadv1.WatchUsageResponse]) error {
	message := &quotadv1.WatchUsageResponse{Balances: []*quotadv1.Balance{{Bucket: string(make([]byte, 20_000))}}}
	for {
		if err := stream.Send(message); err != nil {
			f.ended <- f.now()
			return err
		}
		f.sent.Add(1)
	}
}

func (f *flood) Register(r grpc.ServiceRegistrar) {
	quotadv1.RegisterQuotaServiceServer(r, f)
	quotadv1.RegisterInspectServiceServer(r, f)
}

func newFlood() *flood { return &flood{ended: make(chan time.Time, 10), now: time.Now} }

// stallStream opens a watch and reads nothing of it.
func stallStream(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	if _, err := quotadv1.NewInspectServiceClient(conn).WatchUsage(t.Context(), &quotadv1.WatchUsageRequest{}); err != nil {
		t.Fatal(err)
	}
}

// stallSocket asks for a watch by hand, lets the server send as much as it likes, and reads nothing at all. It returns what hangs up.
func stallSocket(t *testing.T, l *bufconn.Listener) io.Closer {
	t.Helper()
	conn, err := l.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw := &rawClient{conn: conn, Framer: http2.NewFramer(conn, conn)}
	raw.begin(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	if err := raw.WriteWindowUpdate(0, 1<<30); err != nil {
		t.Fatal(err)
	}
	if err := raw.ask(1, quotadv1.InspectService_WatchUsage_FullMethodName); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestStalled: a client that takes nothing of a stream, or of a whole connection, is let go of after StallMax, and until then holds up
// nobody: not another connection, nor a call on its own.
func TestStalled(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFlood()
			r := newRig(t, nil, f)
			began := time.Now()
			if whole {
				conn := stallSocket(t, r.c.Listeners[0].(*bufconn.Listener))
				defer conn.Close()
			} else {
				bad := r.dial()
				stallStream(t, bad)
				synctest.Wait() // for the server to be stuck
				if _, err := quotadv1.NewQuotaServiceClient(bad).Acquire(t.Context(), &quotadv1.AcquireRequest{}); err != nil {
					t.Errorf("a call beside the stream: %v", err)
				}
				defer bad.Close()
			}
			if err := r.call(t.Context()); err != nil {
				t.Errorf("a call by somebody else: %v", err)
			}
			if took := (<-f.ended).Sub(began); took != StallMax {
				t.Errorf("the watch ended after %v, want %v", took, StallMax)
			}
			if err := r.call(t.Context()); err != nil {
				t.Errorf("a call by somebody else, after it: %v", err)
			}
			synctest.Wait()
			values := counts(t, r.metrics)
			if values["quotad_connections_open"] != 1 || values["quotad_connections_refused_total"] != 1 || values["quotad_streams_open"] != 0 {
				t.Errorf("%v connections and %v streams are open, %v refused; want 1, 0 and 1",
					values["quotad_connections_open"], values["quotad_streams_open"], values["quotad_connections_refused_total"])
			}
		})
	}
}

// TestSlowIsNotStalled: a client that reads slowly keeps its stream.
func TestSlowIsNotStalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlood()
		r := newRig(t, nil, f)
		stream, err := r.inspect.WatchUsage(t.Context(), &quotadv1.WatchUsageRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			time.Sleep(StallMax / 5)
			if _, err := stream.Recv(); err != nil {
				t.Fatalf("a client that reads now and then: %v", err)
			}
		}
	})
}

// TestStalledControl: without the watch on connections the same client holds its stream for as long as it likes.
func TestStalledControl(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f, l := newFlood(), bufconn.Listen(1<<20)
			g := newGuard(nil, Config{Metrics: metrics.New(metrics.Build{}), Methods: auth.Methods(), Now: time.Now}, nil, &loads{})
			g.log = discard()
			patient := grpc.NewServer(grpc.Creds(insecure.NewCredentials()), grpc.StreamInterceptor(g.stream))
			f.Register(patient)
			go func() { _ = patient.Serve(l) }()
			defer patient.Stop()
			var conn io.Closer
			if whole {
				conn = stallSocket(t, l)
			} else {
				bad := dial(t, l)
				stallStream(t, bad)
				conn = bad
			}
			time.Sleep(time.Hour)
			select {
			case <-f.ended:
				t.Error("control: the watch ended by itself")
			default:
			}
			_ = conn.Close()
			<-f.ended
		})
	}
}

// TestConnectionsEnd: no connection is for ever, idle or not, and a client goes on by a new one without a failed call.
func TestConnectionsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlood()
		opened := 0
		r := newRig(t, func(c *Config) { c.Listeners[0] = countingListener{c.Listeners[0], &opened} }, f)
		idle := r.dial()
		idle.Connect()
		for range 100 { // minutes
			if err := r.call(t.Context()); err != nil {
				t.Fatalf("a call: %v", err)
			}
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if values := counts(t, r.metrics); opened < 4 || opened > 6 || values["quotad_connections_open"] > 1 {
			t.Errorf("%d connections were opened in 100 minutes, and %v are open; want an age of 30 minutes, and idle ones gone", opened, values["quotad_connections_open"])
		}
	})
}

type countingListener struct {
	net.Listener
	n *int
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		*l.n++
	}
	return conn, err
}

// A connection that ends after its handshake and before it has spoken HTTP/2 is counted no longer: gRPC closes what was accepted then,
// and not what the handshake has made of it.
func TestConnectionEndsEarly(t *testing.T) {
	t.Parallel()
	m := metrics.New(metrics.Build{})
	near, far := net.Pipe()
	defer far.Close()
	raw := &limitedConn{Conn: near, release: func() {}}
	conn, _, err := impatient{TransportCredentials: newHandshake(nil), metrics: m, log: discard()}.ServerHandshake(raw)
	if open := counts(t, m)["quotad_connections_open"]; err != nil || open != 1 {
		t.Fatalf("%v, %v connections open, want 1", err, open)
	}
	for _, end := range []io.Closer{raw, conn} { // the second changes nothing
		_ = end.Close()
		if open := counts(t, m)["quotad_connections_open"]; open != 0 {
			t.Errorf("%v connections open once it is closed", open)
		}
	}
}

// A handshake that fails is counted, and its connection is not.
func TestHandshakeFails(t *testing.T) {
	t.Parallel()
	m := metrics.New(metrics.Build{})
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	_, _, err := impatient{TransportCredentials: refusing{newHandshake(nil)}, metrics: m, log: discard()}.ServerHandshake(near)
	if values := counts(t, m); err == nil || values["quotad_connections_open"] != 0 || values["quotad_connections_refused_total"] != 1 {
		t.Errorf("%v, %v connections open, %v refused", err, values["quotad_connections_open"], values["quotad_connections_refused_total"])
	}
}

type refusing struct {
	credentials.TransportCredentials
}

func (refusing) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, io.ErrUnexpectedEOF
}
