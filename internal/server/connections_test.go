package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"
)

// door is a listener with a limit, what it has accepted, and why it has closed others.
type door struct {
	t        *testing.T
	inner    net.Listener
	accepted chan net.Conn
	refused  chan string
}

func newDoor(t *testing.T, l net.Listener, most int) *door {
	t.Helper()
	d := &door{t, l, make(chan net.Conn, 64), make(chan string, 64)}
	limited := limitConnections(l, most, func(reason string) { d.refused <- reason })
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := limited.Accept()
			if err != nil {
				return
			}
			d.accepted <- conn
		}
	})
	t.Cleanup(func() { _ = l.Close(); accepting.Wait() })
	return d
}

// knock connects from an address ("" for any), and returns the server's end, or why it was closed.
func (d *door) knock(from string) (net.Conn, string) {
	d.t.Helper()
	dialer := net.Dialer{}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := dialer.DialContext(d.t.Context(), d.inner.Addr().Network(), d.inner.Addr().String())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	select {
	case in := <-d.accepted:
		d.t.Cleanup(func() { _ = in.Close() })
		return in, ""
	case reason := <-d.refused:
		// Closed at once, and not left to wait.
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			d.t.Errorf("refused, but not closed: %v", err)
		}
		return nil, reason
	case <-time.After(10 * time.Second):
		d.t.Fatal("neither accepted nor refused")
		return nil, ""
	}
}

func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	d := newDoor(t, listenLocal(t), 4)
	expect := func(from, want string) net.Conn {
		t.Helper()
		conn, reason := d.knock(from)
		if reason != want {
			t.Fatalf("from %s: %q, want %q", from, reason, want)
		}
		return conn
	}
	one := expect("127.0.0.1", "")
	expect("127.0.0.1", "")
	expect("127.0.0.1", refusedPeer)
	two := expect("127.0.0.2", "")
	expect("127.0.0.3", "")
	expect("127.0.0.4", refusedFull)
	expect("127.0.0.1", refusedFull)
	for range 3 {
		_ = one.Close() // counts once
	}
	expect("127.0.0.1", "")
	expect("127.0.0.1", refusedFull)
	_ = two.Close()
	expect("127.0.0.1", refusedPeer)
	expect("127.0.0.5", "")
	expect("127.0.0.5", refusedFull)
}

func TestConnectionLimitsOfUsers(t *testing.T) {
	t.Parallel()
	socket, err := Listen(t.Context(), socketAt(filepath.Join(t.TempDir(), "q.sock")), ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(t, socket, 4)
	for i, want := range []string{"", "", refusedPeer} {
		if _, reason := d.knock(""); reason != want {
			t.Errorf("connection %d of a user: %q, want %q", i, reason, want)
		}
	}
}

// In memory all come from the one process, and there is no limit but that of the listener.
func TestConnectionLimitsInMemory(t *testing.T) {
	t.Parallel()
	memory := bufconn.Listen(1024)
	d := newDoor(t, memory, 3)
	for i := range 4 {
		conn, err := memory.DialContext(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		select {
		case <-d.accepted:
			if i == 3 {
				t.Error("there is no limit")
			}
		case reason := <-d.refused:
			if i < 3 || reason != refusedFull {
				t.Errorf("connection %d: %s", i, reason)
			}
		}
	}
}

// TestConnectionCounts has crowds come and go: nothing is left over, and never were there more than allowed.
func TestConnectionCounts(t *testing.T) {
	t.Parallel()
	l := limitConnections(listenLocal(t), 8, nil).(*limitedListener)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			if l.open > 8 || l.open < 1 || len(l.peers) > l.open {
				t.Errorf("%d are open, of %v", l.open, l.peers)
			}
			l.mu.Unlock()
			serving.Go(func() {
				_, _ = io.Copy(io.Discard, conn)
				serving.Go(func() { _ = conn.Close() })
				_ = conn.Close()
			})
		}
	})
	var calling sync.WaitGroup
	for range 16 {
		calling.Go(func() {
			var d net.Dialer
			for range 20 {
				conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.Close()
			}
		})
	}
	calling.Wait()
	within10s(t, "all are gone", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.open == 0 && len(l.peers) == 0
	})
	_ = l.Close()
	serving.Wait()
}

func TestPeerNetworks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::1%eth0", true},
		{"fe80::1%eth0", "fe80::2%eth0", false},
	} {
		a, b := tcpKey(netip.MustParseAddr(c.a)), tcpKey(netip.MustParseAddr(c.b))
		if (a == b) != c.same || a == (peerKey{}) {
			t.Errorf("%s is %v, %s is %v", c.a, a, c.b, b)
		}
	}
}

// TestSilentConnections: connections that say nothing are closed when the time for a handshake is over, with TLS and without. Until then
// they keep nobody out but their own peer.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	f := newFiles(t)
	f.write(ca.server(), ca)
	secure := credentials.NewTLS(&tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.client(nil, nil).tls}})
	for name, c := range map[string]struct {
		certs *Certificates
		creds credentials.TransportCredentials
	}{"TLS": {f.load(), secure}, "in the clear": {nil, insecure.NewCredentials()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused := make(chan string, 1000)
			inner := listenLocal(t)
			address := serveHealth(t, limitConnections(inner, 8, func(reason string) { refused <- reason }), c.certs, 2*time.Second)
			var d net.Dialer
			silent := make([]net.Conn, 4)
			for i := range silent {
				conn, err := d.DialContext(t.Context(), "tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				silent[i] = conn
			}
			call := func(from string) error {
				conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(c.creds),
					grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) {
						d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
						return d.DialContext(ctx, "tcp", to)
					}))
				if err != nil {
					return err
				}
				defer conn.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
				return err
			}
			if err := call("127.0.0.1"); err == nil {
				t.Error("one peer has more than half of the connections")
			}
			if reason := <-refused; reason != refusedPeer {
				t.Errorf("refused: %s", reason)
			}
			if err := call("127.0.0.2"); err != nil {
				t.Errorf("another peer is kept out: %v", err)
			}
			for _, conn := range silent {
				_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				// Without TLS the server says its settings first.
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("a silent connection is kept")
				}
			}
			within10s(t, "the peer of the silent ones comes in", func() bool { return call("127.0.0.1") == nil })
		})
	}
}
