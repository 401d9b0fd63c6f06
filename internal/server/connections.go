package server

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
)

// Why a connection was closed at once.
const (
	refusedFull = "full" // the listener has as many as it may have
	refusedPeer = "peer" // this peer has half of them
)

// limitConnections bounds how many connections of a listener are open at a time, and has half of that for any one peer: a user of a unix
// socket, an address over TCP, a network of 64 bits in IPv6. What is beyond is accepted and closed at once, and refused is told why: left
// to wait it would be in front of those who may come in. A nil refused is told nothing.
func limitConnections(l net.Listener, most int, refused func(reason string)) net.Listener {
	if refused == nil {
		refused = func(string) {}
	}
	return &limitedListener{Listener: l, most: most, each: max(most/2, 1), refused: refused, peers: make(map[peerKey]int)}
}

type limitedListener struct {
	net.Listener
	most, each int
	refused    func(reason string)

	mu    sync.Mutex
	open  int
	peers map[peerKey]int // has no zeros, so that it is as small as what is open
}

// peerKey is one peer for the limit. The zero value is none, and has no limit of its own.
type peerKey struct {
	network netip.Prefix // over TCP
	user    uint32       // of a unix socket
	unix    bool
}

// Accept is part of net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer := peerKeyOf(conn)
		if reason := l.take(peer); reason != "" {
			_ = conn.Close() // nothing was sent by it that could be lost
			l.refused(reason)
			continue
		}
		return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { l.give(peer) })}, nil
	}
}

// take counts a connection, or says why it may not be.
func (l *limitedListener) take(peer peerKey) (reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.open >= l.most:
		return refusedFull
	case peer == peerKey{}:
	case l.peers[peer] >= l.each:
		return refusedPeer
	default:
		l.peers[peer]++
	}
	l.open++
	return ""
}

func (l *limitedListener) give(peer peerKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.peers[peer]--; l.peers[peer] <= 0 {
		delete(l.peers, peer)
	}
}

// limitedConn is a connection that is counted until it is closed.
type limitedConn struct {
	net.Conn
	release func()
	closed  atomic.Pointer[func()] // told of the close, too; nil for nobody
}

// Close is part of net.Conn.
func (c *limitedConn) Close() error {
	defer c.release()
	if closed := c.closed.Load(); closed != nil {
		(*closed)()
	}
	return c.Conn.Close()
}

// NetConn returns the connection itself, whose kind says how it is to be asked for its peer.
func (c *limitedConn) NetConn() net.Conn { return c.Conn }

func peerKeyOf(conn net.Conn) peerKey {
	switch at := conn.RemoteAddr().(type) {
	case *net.TCPAddr:
		return tcpKey(at.AddrPort().Addr())
	case *net.UnixAddr:
		raw, ok := conn.(syscall.Conn)
		if !ok {
			return peerKey{}
		}
		// One that has gone again has no user; the handshake will find that out.
		if peer, err := peerOf(raw); err == nil && peer != nil {
			return peerKey{user: peer.uid, unix: true}
		}
	}
	return peerKey{}
}

func tcpKey(ip netip.Addr) peerKey {
	ip = ip.Unmap()
	bits := ip.BitLen()
	// A machine has a whole /64 to itself, but for the addresses of the link, which all machines on it share one of.
	if ip.Is6() && !ip.IsLinkLocalUnicast() {
		bits = 64
	}
	network, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return peerKey{}
	}
	return peerKey{network: network}
}
