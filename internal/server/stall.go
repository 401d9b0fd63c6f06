package server

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/quotad/quotad/internal/metrics"
)

// StallMax is how long a client may take nothing of what is sent to it, on a stream or on a connection, before its connection is
// closed. gRPC has no other way: a server that ends a stream waits for the client to read what was sent before, and keeps it in memory.
const StallMax = 30 * time.Second

// impatient is credentials whose connections are closed when their clients take nothing any more. It also counts connections, as each
// that is of use passes here once.
type impatient struct {
	credentials.TransportCredentials
	log     *slog.Logger
	metrics *metrics.Metrics
}

// ServerHandshake is part of credentials.TransportCredentials.
func (i impatient) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	inner, info, err := i.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		i.metrics.ConnectionRefused(metrics.RefusedHandshake)
		return nil, nil, err
	}
	closed := sync.OnceFunc(i.metrics.ConnectionOpened())
	if limited, ok := raw.(*limitedConn); ok {
		limited.closed.Store(&closed) // gRPC closes that one alone if the connection ends before it has spoken HTTP/2
	}
	conn := &watched{Conn: inner, closed: closed}
	end := sync.OnceFunc(func() { // a stream and its connection may be found out at the same time
		i.metrics.ConnectionRefused(metrics.RefusedStalled)
		i.log.Warn("a connection is closed: its client takes nothing of what is sent to it", "from", raw.RemoteAddr().String(), "for", StallMax)
		_ = raw.Close() // under TLS too: a farewell could not be sent
	})
	conn.stalled = time.AfterFunc(StallMax, end)
	conn.stalled.Stop()
	if s, ok := info.(*shown); ok {
		s.end = end
	}
	return conn, info, nil
}

// Clone is part of credentials.TransportCredentials.
func (i impatient) Clone() credentials.TransportCredentials {
	i.TransportCredentials = i.TransportCredentials.Clone()
	return i
}

// watched is a connection on which no write takes longer than StallMax.
type watched struct {
	net.Conn
	stalled *time.Timer
	closed  func() // at the first call; more do nothing
}

// Write is part of net.Conn. gRPC has one goroutine that writes.
func (w *watched) Write(p []byte) (int, error) {
	w.stalled.Reset(StallMax)
	defer w.stalled.Stop()
	return w.Conn.Write(p)
}

// Close is part of net.Conn.
func (w *watched) Close() error {
	w.closed()
	return w.Conn.Close()
}

// streamOf is a stream whose context says who is calling, and which ends with its connection if its client takes nothing.
type streamOf struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream's context is asked for by this method
	end func()          // nil where there is no connection to end
}

// Context is part of grpc.ServerStream.
func (s streamOf) Context() context.Context { return s.ctx }

// SendMsg is part of grpc.ServerStream. It waits while the client has not taken what was sent before, as it must: a backup is larger
// than what may be in memory.
func (s streamOf) SendMsg(m any) error {
	if s.end != nil {
		defer time.AfterFunc(StallMax, s.end).Stop()
	}
	return s.ServerStream.SendMsg(m)
}
