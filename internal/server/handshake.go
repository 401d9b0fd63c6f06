package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"google.golang.org/grpc/credentials"

	"github.com/quotad/quotad/internal/auth"
)

// identitiesMax is how many names of hosts, and how many groups, are looked at of one connection. What is beyond shows nothing.
const identitiesMax = 64

// handshake finds out what a new connection shows. It is the transport credentials of a gRPC server, whose deadline for a handshake
// holds for it, as that is set on the connection.
type handshake struct {
	tls *tls.Config // nil: TCP is in the clear
}

// newHandshake returns the transport credentials of a gRPC server. TCP is TLS if there are certificates, and in the clear if they are nil.
func newHandshake(c *Certificates) credentials.TransportCredentials {
	if c == nil {
		return &handshake{}
	}
	return &handshake{tls: c.Config()}
}

// ServerHandshake is part of credentials.TransportCredentials. A connection that shows nothing passes: the guard says what it lacks, by
// a status that its caller can read.
func (h *handshake) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	switch network := conn.LocalAddr().Network(); network {
	case "unix":
		ids, err := unixIdentities(conn)
		if err != nil {
			return nil, nil, err
		}
		return conn, show(conn, credentials.PrivacyAndIntegrity, ids), nil
	case "tcp":
		if h.tls != nil {
			return h.secure(conn)
		}
		var ids []auth.Identity
		if peer, ok := conn.RemoteAddr().(*net.TCPAddr); ok && peer.IP.IsLoopback() {
			ids = []auth.Identity{auth.Loopback}
		}
		return conn, show(conn, credentials.NoSecurity, ids), nil
	case "bufconn", "pipe":
		// Both ends are in this process.
		return conn, show(conn, credentials.NoSecurity, []auth.Identity{auth.Loopback}), nil
	default:
		return nil, nil, fmt.Errorf("a connection of the kind %q, of which nothing is known", network)
	}
}

func (h *handshake) secure(plain net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Server(plain, h.tls)
	// Bounded by the deadline of plain, which the server has set, and by its close.
	if err := conn.HandshakeContext(context.Background()); err != nil { //nolint:forbidigo // a handshake belongs to no call
		return nil, nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != alpn {
		return nil, nil, fmt.Errorf("the client speaks no %s by ALPN", alpn)
	}
	var ids []auth.Identity
	if len(state.VerifiedChains) > 0 {
		ids = certIdentities(state.VerifiedChains[0][0])
	}
	return conn, show(plain, credentials.PrivacyAndIntegrity, ids), nil
}

func show(conn net.Conn, level credentials.SecurityLevel, ids []auth.Identity) *shown {
	return &shown{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: level},
		ids:            ids,
		private:        level == credentials.PrivacyAndIntegrity,
		end:            func() { _ = conn.Close() }, // whoever reads from it finds that out
	}
}

// unixIdentities asks the kernel who connected: the user and the groups of that moment. The process is not asked for, as its number
// may be another's by now.
func unixIdentities(conn net.Conn) ([]auth.Identity, error) {
	raw, ok := inner(conn).(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a unix socket's connection is a %T, whose peer cannot be asked for", inner(conn))
	}
	peer, err := peerOf(raw)
	if err != nil || peer == nil {
		return nil, err
	}
	ids := []auth.Identity{numbered("uid:", peer.uid), numbered("gid:", peer.gid)}
	for _, gid := range peer.groups {
		if gid != peer.gid {
			ids = append(ids, numbered("gid:", gid))
		}
	}
	return ids, nil
}

func numbered(kind string, n uint32) auth.Identity {
	return auth.Identity(kind + strconv.FormatUint(uint64(n), 10))
}

// unixPeer is who connected to a unix socket, as the kernel wrote it down then.
type unixPeer struct {
	uid, gid uint32
	groups   []uint32 // the supplementary ones, identitiesMax at most
}

// inner returns the connection that others are wrapped around.
func inner(conn net.Conn) net.Conn {
	for {
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = outer.NetConn()
	}
}

// certIdentities returns what a verified certificate shows: its SPIFFE ID, then its DNS names. A certificate has one SPIFFE ID as its
// only URI, or none: of one with more URIs nobody can tell which of them was meant. A name that is not a plain host's, such as one for
// many, is passed over.
func certIdentities(leaf *x509.Certificate) []auth.Identity {
	var ids []auth.Identity
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" {
		if id := leaf.URIs[0].String(); asWritten(leaf, id) {
			ids = wellFormed(ids, id)
		}
	}
	for _, name := range leaf.DNSNames[:min(len(leaf.DNSNames), identitiesMax)] {
		// Letters of other alphabets become those of ASCII in lower case, and so another's name.
		if strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) < 0 {
			ids = wellFormed(ids, "dns:"+strings.ToLower(name))
		}
	}
	return ids
}

// subjectAltName is the extension of a certificate that has its names.
func subjectAltName() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }

// asWritten tells whether a certificate has a URI in just these letters. Parsing takes SPIFFE:// for spiffe://, and an empty fragment
// away: a CA that compares letters has given such a name to somebody else.
func asWritten(leaf *x509.Certificate, uri string) bool {
	name, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	return err == nil && slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(subjectAltName()) && bytes.Contains(e.Value, name)
	})
}

// wellFormed appends an identity if a policy could name it.
func wellFormed(ids []auth.Identity, text string) []auth.Identity {
	if id := auth.Identity(text); id.Check() == nil {
		ids = append(ids, id)
	}
	return ids
}

// ClientHandshake is part of credentials.TransportCredentials. A server does not call it.
func (*handshake) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

// Info is part of credentials.TransportCredentials.
func (*handshake) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: (*shown)(nil).AuthType()}
}

// Clone is part of credentials.TransportCredentials.
func (h *handshake) Clone() credentials.TransportCredentials { return &handshake{tls: h.tls} }

// OverrideServerName is part of credentials.TransportCredentials. It is for clients.
func (*handshake) OverrideServerName(string) error { return nil }
