package server

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/config"
)

// shake accepts one connection and returns what it shows. The connection is closed then.
func shake(l net.Listener, c *Certificates) (*shown, error) {
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	secure, info, err := newHandshake(c).ServerHandshake(conn)
	if err != nil {
		return nil, err
	}
	// In TLS 1.3 a client learns by its first read that it was let in.
	if _, err := secure.Write([]byte{1}); err != nil {
		return nil, err
	}
	return info.(*shown), nil
}

// meet lets a client of TLS come to a server, and returns what it shows, and what either of them says was wrong.
func meet(t *testing.T, c *Certificates, client *tls.Config) (*shown, error) {
	t.Helper()
	l := listenLocal(t)
	failed := make(chan error, 1)
	go func() {
		conn, err := tls.Dial("tcp", l.Addr().String(), client)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			defer conn.Close()
		}
		failed <- err
	}()
	s, err := shake(l, c)
	return s, errors.Join(err, <-failed)
}

func TestIdentitiesOfCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	f := newFiles(t)
	f.write(ca.server(), ca)
	certs := f.load()
	const chat, jobs = "spiffe://acme.example/chat", "spiffe://acme.example/jobs"
	for name, c := range map[string]struct {
		uris, names []string
		want        []auth.Identity
	}{
		"nothing":              {},
		"a SPIFFE ID":          {uris: []string{chat}, want: []auth.Identity{chat}},
		"names":                {names: []string{"Chat.Acme.example", "b.example"}, want: []auth.Identity{"dns:chat.acme.example", "dns:b.example"}},
		"both":                 {uris: []string{chat}, names: []string{"a.example"}, want: []auth.Identity{chat, "dns:a.example"}},
		"two SPIFFE IDs":       {uris: []string{chat, jobs}},
		"one and another URI":  {uris: []string{chat, "https://acme.example/"}, names: []string{"a.example"}, want: []auth.Identity{"dns:a.example"}},
		"another URI":          {uris: []string{"https://acme.example/chat"}},
		"a URI like a user":    {uris: []string{"uid:0"}},
		"a URI like a token":   {uris: []string{"token:ci"}},
		"a trust domain alone": {uris: []string{"spiffe://acme.example"}},
		"with a query":         {uris: []string{chat + "?admin"}},
		"with a port":          {uris: []string{"spiffe://acme.example:1/chat"}},
		"with a user":          {uris: []string{"spiffe://root@acme.example/chat"}},
		"escaped":              {uris: []string{"spiffe://acme.example/a%2Fb"}},
		"with dots":            {uris: []string{"spiffe://acme.example/chat/../jobs"}},
		"for many hosts":       {names: []string{"*.acme.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.client(c.uris, c.names).tls}, NextProtos: []string{alpn}}
			s, err := meet(t, certs, client)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(s.ids, c.want) || !s.private || s.SecurityLevel != credentials.PrivacyAndIntegrity {
				t.Errorf("shows %q (private: %v, %v), want %q", s.ids, s.private, s.SecurityLevel, c.want)
			}
		})
	}
}

func TestTLSRefusals(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ca"), newAuthority(t, "another")
	f := newFiles(t)
	f.write(ca.server(), ca)
	required := f.load()
	f.Optional = true
	optional := f.load()
	f.ClientCA = ""
	unasked := f.load()
	good, stranger := ca.client([]string{"spiffe://acme.example/chat"}, nil), other.client([]string{"spiffe://acme.example/chat"}, nil)
	expired := ca.issue(x509.Certificate{
		DNSNames: []string{"a.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotAfter: time.Now().Add(-time.Minute),
	})
	for name, c := range map[string]struct {
		server *Certificates
		client pair
		change func(*tls.Config)
		want   string // of the error; "" for none
		ids    int
	}{
		"good":                         {server: required, client: good, ids: 1},
		"none":                         {server: required, want: "client didn't provide a certificate"},
		"of another CA":                {server: required, client: stranger, want: "certificate signed by unknown authority"},
		"expired":                      {server: required, client: expired, want: "certificate has expired"},
		"a server's":                   {server: required, client: ca.server(), want: "incompatible key usage"},
		"TLS 1.2":                      {server: required, client: good, change: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, want: "client offered only unsupported versions"},
		"no ALPN":                      {server: required, client: good, change: func(c *tls.Config) { c.NextProtos = nil }, want: "speaks no h2"},
		"HTTP/1.1 by ALPN":             {server: required, client: good, change: func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, want: "speaks no h2"},
		"another protocol":             {server: required, client: good, change: func(c *tls.Config) { c.NextProtos = []string{"smtp"} }, want: "client requested unsupported application protocols"},
		"optional, good":               {server: optional, client: good, ids: 1},
		"optional, none":               {server: optional},
		"optional, of another CA":      {server: optional, client: stranger, want: "certificate signed by unknown authority"},
		"optional, expired":            {server: optional, client: expired, want: "certificate has expired"},
		"not asked for, and not shown": {server: unasked, client: good},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := &tls.Config{RootCAs: ca.pool(), NextProtos: []string{alpn}}
			if c.client.tls.Certificate != nil {
				// Also where the server says that it would not like it.
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.client.tls, nil }
			}
			if c.change != nil {
				c.change(config)
			}
			s, err := meet(t, c.server, config)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want == "" && (len(s.ids) != c.ids || !s.private):
				t.Errorf("shows %q, private: %v", s.ids, s.private)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

// TestHandshakeInTheClear: what a connection shows without TLS, by where it comes from.
func TestHandshakeInTheClear(t *testing.T) {
	t.Parallel()
	see := func(l net.Listener, dial func() (net.Conn, error)) *shown {
		t.Helper()
		defer l.Close()
		dialed := make(chan error, 1)
		go func() {
			conn, err := dial()
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
			dialed <- err
		}()
		s, err := shake(l, nil)
		if err = errors.Join(err, <-dialed); err != nil {
			t.Fatal(err)
		}
		return s
	}
	var d net.Dialer
	tcp := listenLocal(t)
	s := see(tcp, func() (net.Conn, error) { return d.DialContext(t.Context(), "tcp", tcp.Addr().String()) })
	if !slices.Equal(s.ids, []auth.Identity{auth.Loopback}) || s.private || s.SecurityLevel != credentials.NoSecurity {
		t.Errorf("loopback shows %q, private: %v, %v", s.ids, s.private, s.SecurityLevel)
	}
	memory := bufconn.Listen(1024)
	s = see(memory, func() (net.Conn, error) { return memory.DialContext(t.Context()) })
	if !slices.Equal(s.ids, []auth.Identity{auth.Loopback}) || s.private {
		t.Errorf("memory shows %q, private: %v", s.ids, s.private)
	}
	path := filepath.Join(t.TempDir(), "q.sock")
	socket, err := Listen(t.Context(), socketAt(path), ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s = see(limitConnections(socket, 4, nil), func() (net.Conn, error) { return d.DialContext(t.Context(), "unix", path) })
	want := []auth.Identity{auth.Identity(fmt.Sprint("uid:", os.Geteuid())), auth.Identity(fmt.Sprint("gid:", os.Getegid()))}
	if len(s.ids) < 2 || !slices.Equal(s.ids[:2], want) || !s.private || s.SecurityLevel != credentials.PrivacyAndIntegrity {
		t.Errorf("a socket shows %q, private: %v, %v, want %q", s.ids, s.private, s.SecurityLevel, want)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, gid := range groups[:min(len(groups), identitiesMax)] {
		if !slices.Contains(s.ids, auth.Identity(fmt.Sprint("gid:", gid))) {
			t.Errorf("a socket shows %q without gid:%d", s.ids, gid)
		}
	}
}

// kindOf is a connection that says of itself what kind it is of.
type kindOf struct {
	net.Conn
	local, remote net.Addr
}

func (k kindOf) LocalAddr() net.Addr  { return k.local }
func (k kindOf) RemoteAddr() net.Addr { return k.remote }

func TestHandshakeKinds(t *testing.T) {
	t.Parallel()
	h := newHandshake(nil)
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	for ip, want := range map[string]int{"127.0.0.1": 1, "127.9.9.9": 1, "::1": 1, "::ffff:127.0.0.1": 1, "192.0.2.1": 0, "fe80::1": 0, "0.0.0.0": 0, "::": 0} {
		// Whoever reached the port from elsewhere has shown nothing, whatever address they reached.
		_, info, err := h.ServerHandshake(kindOf{local: tcp("127.0.0.1"), remote: tcp(ip)})
		if err != nil || len(info.(*shown).ids) != want {
			t.Errorf("%s: %v, %v", ip, info, err)
		}
	}
	for _, at := range []net.Addr{&net.UDPAddr{}, &net.UnixAddr{Net: "unixpacket"}, &net.UnixAddr{Net: "unix"}} {
		if _, info, err := h.ServerHandshake(kindOf{local: at, remote: at}); err == nil {
			t.Errorf("a %s that cannot be asked shows %v", at.Network(), info)
		}
	}
	if _, _, err := h.ClientHandshake(t.Context(), "", nil); err == nil {
		t.Error("a server's credentials serve a client")
	}
}

// otherUser is a user and a group that own nothing.
const otherUser = 65534

// TestOtherUser has a process of another user connect to sockets: it comes in where the mode and the group let it, and the kernel says who
// it is.
func TestOtherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user: make test-root")
	}
	const theirs = 61_234 // a group
	for _, c := range []struct {
		o    ListenOptions
		open bool
	}{
		{ListenOptions{}, false},
		{ListenOptions{Mode: 0o660}, false},
		{ListenOptions{Group: fmt.Sprint(theirs)}, false},
		{ListenOptions{Mode: 0o660, Group: fmt.Sprint(theirs)}, true},
		{ListenOptions{Mode: 0o666}, true},
	} {
		path := filepath.Join(openDir(t), "q.sock")
		l, err := Listen(t.Context(), socketAt(path), c.o)
		if err != nil {
			t.Fatal(err)
		}
		child := again(t, "^TestDialAsChild$", "SERVER_TEST_DIAL="+path)
		child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser, Groups: []uint32{theirs, theirs + 1}}}
		got := make(chan *shown, 1)
		if c.open {
			go func() {
				s, err := shake(l, nil)
				if err != nil {
					t.Errorf("%+v: %v", c.o, err)
				}
				got <- s
			}()
		}
		out, err := child.CombinedOutput()
		if !c.open {
			if err == nil || !strings.Contains(string(out), "permission denied") {
				t.Errorf("%+v: another user comes in: %v\n%s", c.o, err, out)
			}
		} else if err != nil {
			t.Errorf("%+v: another user does not come in: %v\n%s", c.o, err, out)
			_ = l.Close()
		}
		if c.open {
			want := []auth.Identity{"uid:65534", "gid:65534", "gid:61234", "gid:61235"}
			if s := <-got; s == nil || !slices.Equal(s.ids, want) {
				t.Errorf("%+v: shows %v, want %q", c.o, s, want)
			}
		}
		_ = l.Close()
	}
}

// TestDialAsChild is run by TestOtherUser, as another user.
func TestDialAsChild(t *testing.T) {
	path := os.Getenv("SERVER_TEST_DIAL")
	if path == "" {
		t.Skip("a part of TestOtherUser")
	}
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// TestManyGroups: a peer of more groups than are looked at still comes in.
func TestManyGroups(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can have groups at will: make test-root")
	}
	path := filepath.Join(openDir(t), "q.sock")
	l, err := Listen(t.Context(), socketAt(path), ListenOptions{Mode: 0o666})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	groups := make([]uint32, 3*identitiesMax)
	for i := range groups {
		groups[i] = 70_000 + uint32(i)
	}
	child := again(t, "^TestDialAsChild$", "SERVER_TEST_DIAL="+path)
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser, Groups: groups}}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	s, err := shake(l, nil)
	if err != nil || len(s.ids) != 2+identitiesMax || s.ids[2] != "gid:70000" {
		t.Errorf("shows %v, %v", s, err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

// FuzzIdentities: whatever a certificate says, what it shows is what a policy could name, and nothing that only the kernel or a token
// can show.
func FuzzIdentities(f *testing.F) {
	f.Add("spiffe://acme.example/chat", "", "chat.acme.example")
	f.Add("spiffe://acme.example/chat", "spiffe://acme.example/jobs", "A.EXAMPLE")
	f.Add("uid:0", "", "*.example")
	f.Add("SPIFFE://acme.example/%61", "", "\u212a.example")
	f.Add("spiffe:uid:0", "", "a..b")
	f.Add("loopback", "", "1.2.3.4")
	f.Add("SPIFFE://acme.example/chat", "", "a.example")
	f.Add("spiffe://acme.example/chat#", "", "a.example")
	f.Fuzz(func(t *testing.T, one, two, name string) {
		leaf := &x509.Certificate{DNSNames: []string{name, "b.example", name}}
		for _, text := range []string{one, two} {
			if text == "" {
				continue
			}
			u, err := url.Parse(text)
			if err != nil {
				return
			}
			leaf.URIs = append(leaf.URIs, u)
			name, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(text)})
			if err != nil {
				t.Fatal(err)
			}
			leaf.Extensions = append(leaf.Extensions, pkix.Extension{Id: subjectAltName(), Value: name})
		}
		spiffe, b := 0, 0
		for i, id := range certIdentities(leaf) {
			if err := id.Check(); err != nil {
				t.Errorf("shows what is no identity: %v", err)
			}
			switch {
			case strings.HasPrefix(string(id), "spiffe://"):
				spiffe++
				if i != 0 || len(leaf.URIs) != 1 || string(id) != one+two {
					t.Errorf("shows %s as number %d, of %d URIs", id, i, len(leaf.URIs))
				}
			case id == "dns:b.example":
				b++
			case string(id) != "dns:"+asciiLower(name):
				t.Errorf("shows %q of the name %q", id, name)
			}
		}
		if one == "spiffe://acme.example/chat" && two == "" && spiffe != 1 {
			t.Error("a SPIFFE ID is not shown")
		}
		if spiffe > 1 || b == 0 {
			t.Errorf("%d SPIFFE IDs, %d times b.example", spiffe, b)
		}
	})
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func socketAt(path string) config.Address { return config.Address{Network: "unix", Addr: path} }
