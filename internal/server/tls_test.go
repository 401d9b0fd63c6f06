package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

// serveHealth is a gRPC server with the handshake of these certificates, whose health may be asked for. It returns its address.
func serveHealth(t *testing.T, l net.Listener, c *Certificates, handshake time.Duration) string {
	t.Helper()
	s := grpc.NewServer(grpc.Creds(newHandshake(c)), grpc.ConnectionTimeout(handshake))
	healthpb.RegisterHealthServer(s, health.NewServer())
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); serving.Wait() })
	return l.Addr().String()
}

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// ask makes a connection, asks for the health on it, and returns the server's certificate.
func ask(ctx context.Context, address string, c *tls.Config) (*x509.Certificate, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(c)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return askOn(ctx, conn)
}

func askOn(ctx context.Context, conn *grpc.ClientConn) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var p peer.Peer
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&p)); err != nil {
		return nil, err
	}
	return p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0], nil
}

// era is a CA of both sides, and a client's certificate of it.
type era struct {
	*authority
	number int
	client tls.Certificate
}

func newEra(t *testing.T, number int) *era {
	t.Helper()
	a := newAuthority(t, strconv.Itoa(number))
	return &era{a, number, a.client([]string{"spiffe://acme.example/chat"}, nil).tls}
}

func (e *era) config() *tls.Config {
	return &tls.Config{RootCAs: e.pool(), Certificates: []tls.Certificate{e.client}}
}

// caller makes a new connection for each call, in the era that it is told.
type caller struct {
	reached atomic.Pointer[era] // the newest in which a call was answered
	calls   int
}

func (c *caller) call(t *testing.T, address string, e *era) error {
	t.Helper()
	// During a turn the server is one CA ahead of clients, who then trust both.
	config := e.config()
	config.InsecureSkipVerify = true
	got, err := ask(t.Context(), address, config)
	if err != nil {
		return fmt.Errorf("on a new connection: %w", err)
	}
	if by, err := strconv.Atoi(got.Issuer.CommonName); err != nil || by < e.number {
		return fmt.Errorf("in era %d a certificate of era %s is shown", e.number, got.Issuer.CommonName)
	}
	c.calls++
	c.reached.Store(e)
	return nil
}

// TestRotations changes the server's certificate and the CA of both sides again and again while clients call: each on a new connection
// for each call, and one on a single connection that stays. No call fails, and what is shown is the newest.
func TestRotations(t *testing.T) {
	t.Parallel()
	turns := 100
	if os.Getenv("QUOTAD_LONG") != "" {
		turns = 300
	}
	f := newFiles(t)
	before := newEra(t, 0)
	f.write(before.server(), before.authority)
	certs := f.load()
	address := serveHealth(t, listenLocal(t), certs, 20*time.Second)
	var current atomic.Pointer[era]
	current.Store(before)
	lasting, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(before.config())))
	if err != nil {
		t.Fatal(err)
	}
	defer lasting.Close()

	var callers [2]caller
	ctx, stop := context.WithCancel(t.Context())
	var calling sync.WaitGroup
	defer calling.Wait()
	defer stop()
	again := func(call func() error) {
		for {
			if err := call(); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Millisecond): // leaves the processor to other tests
			}
		}
	}
	if _, err := askOn(t.Context(), lasting); err != nil {
		t.Fatal(err)
	}
	calling.Go(func() { again(func() error { _, err := askOn(t.Context(), lasting); return err }) })
	for i := range callers {
		calling.Go(func() { again(func() error { return callers[i].call(t, address, current.Load()) }) })
	}
	for turn := 1; turn <= turns && !t.Failed(); turn++ {
		now := newEra(t, turn)
		// Clients of the CA of before are still on their way, so that both are taken for one turn.
		f.write(now.server(), now.authority, before.authority)
		if err := certs.Reload(); err != nil {
			t.Fatal(err)
		}
		if got, err := ask(t.Context(), address, now.config()); err != nil || got.CheckSignatureFrom(now.cert) != nil {
			t.Fatalf("turn %d: the new certificate is not shown: %v", turn, err)
		}
		current.Store(now)
		for i := range callers {
			within10s(t, "every caller has come in this era", func() bool { return t.Failed() || callers[i].reached.Load() == now })
		}
		before = now
	}
	stop()
	calling.Wait()
	for i := range callers {
		if callers[i].calls <= turns {
			t.Errorf("only %d calls in %d turns", callers[i].calls, turns)
		}
	}
}

// within10s waits for something to become true.
func within10s(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(100 * time.Microsecond) // looks again and again
	}
}

// keeps tells what has gone wrong after a reload of what is bad: clients of before are still served, by the same certificate.
func keeps(t *testing.T, ca *authority, f files, spoil, reload func(*Certificates) error) (faults []string) {
	t.Helper()
	good := ca.server()
	f.write(good, ca)
	certs := f.load()
	address := serveHealth(t, listenLocal(t), certs, 20*time.Second)
	if err := spoil(certs); err != nil {
		t.Fatal(err)
	}
	if err := reload(certs); err == nil {
		faults = append(faults, "the reload says nothing")
	}
	got, err := ask(t.Context(), address, &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.client(nil, nil).tls}})
	if err != nil {
		faults = append(faults, err.Error())
	} else if !got.Equal(good.tls.Leaf) {
		faults = append(faults, "another certificate is shown")
	}
	if len(certs.Problems(time.Now())) == 0 {
		faults = append(faults, "health does not show it")
	}
	f.write(good, ca)
	if err := certs.Reload(); err != nil || len(certs.Problems(time.Now())) > 0 {
		faults = append(faults, fmt.Sprintf("good files are not taken again: %v, %q", err, certs.Problems(time.Now())))
	}
	return faults
}

func TestReloadKeepsTheLastGood(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ca"), newAuthority(t, "another")
	real := (*Certificates).Reload
	for name, c := range map[string]struct {
		spoil func(f files)
		want  string
	}{
		"the key of another": {func(f files) { f.put(f.Key, ca.server().key) }, "private key does not match public key"},
		"no certificate":     {func(f files) { f.put(f.Cert, []byte("hello")) }, "failed to find any PEM data"},
		"half a certificate": {func(f files) { f.put(f.Cert, ca.server().cert[:200]) }, "failed to find any PEM data"},
		"no CA":              {func(f files) { f.put(f.ClientCA, nil) }, "has no certificate; want at least one"},
		"a CA cut short": {func(f files) {
			f.put(f.ClientCA, []byte("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"))
		}, "certificate 1: "},
		"a key for a CA": {func(f files) { f.put(f.ClientCA, other.server().key) }, "has a PRIVATE KEY; want certificates alone"},
		"no file":        {func(f files) { f.put(f.Cert, nil) }, "reading the certificate"},
		"expired": {func(f files) {
			f.write(ca.issue(x509.Certificate{DNSNames: []string{"q"}, NotAfter: time.Now().Add(-time.Minute)}), other)
		}, "expired at "},
		"of tomorrow": {func(f files) {
			f.write(ca.issue(x509.Certificate{DNSNames: []string{"q"}, NotBefore: time.Now().Add(24 * time.Hour)}), other)
		}, "does not hold before "},
		"a client's": {func(f files) { f.write(ca.client(nil, []string{"q"}), other) }, "want serverAuth"},
		"nameless":   {func(f files) { f.write(ca.issue(x509.Certificate{}), other) }, "no subject alternative name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFiles(t)
			faults := keeps(t, ca, f, func(*Certificates) error { c.spoil(f); return nil }, func(certs *Certificates) error {
				err := real(certs)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %s", err, c.want)
				}
				return err
			})
			if len(faults) > 0 {
				t.Errorf("%q", faults)
			}
		})
	}

	t.Run("control: half is taken", func(t *testing.T) {
		t.Parallel()
		f := newFiles(t)
		faults := keeps(t, ca, f, func(*Certificates) error { f.write(ca.server(), other); return nil }, func(certs *Certificates) error {
			// The certificate and its key as they were, the CA as it is now.
			old := certs.now.Load()
			config := old.config.Clone()
			config.ClientCAs = other.pool()
			certs.now.Store(&generation{config: config, leaf: old.leaf, clientCAs: []*x509.Certificate{other.cert}})
			return nil
		})
		if len(faults) < 3 {
			t.Errorf("found only %q in a reload that sets half", faults)
		}
	})
}

func TestLoadCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	f := newFiles(t)
	f.write(ca.server(), ca)
	if got := f.load().Files(); !slices.Equal(got, []string{f.Cert, f.Key, f.ClientCA}) {
		t.Errorf("watches %q", got)
	}
	alone := f
	alone.ClientCA = ""
	if got := alone.load().Files(); !slices.Equal(got, []string{f.Cert, f.Key}) {
		t.Errorf("watches %q", got)
	}
	f.put(f.Key, ca.server().key)
	if _, err := LoadCertificates(f.CertificateFiles); err == nil || !strings.Contains(err.Error(), "with the key of "+f.Key) {
		t.Errorf("a pair that is none: %v", err)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	from := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for _, c := range []struct {
		life, after time.Duration
		want        string
	}{
		{90 * day, -time.Minute, "does not hold before 2026-01-01T12:00:00Z"},
		{90 * day, 0, ""},
		{90 * day, 83*day - time.Second, ""},
		{90 * day, 83 * day, "expires at 2026-04-01T12:00:00Z, in 168h0m0s"},
		{90 * day, 90*day + time.Second, "expired at 2026-04-01T12:00:00Z"},
		{day, 19 * time.Hour, ""},
		{day, 20 * time.Hour, "expires at 2026-01-02T12:00:00Z, in 4h0m0s"},
	} {
		f := newFiles(t)
		f.ClientCA = ""
		p := ca.issue(x509.Certificate{DNSNames: []string{"q"}, NotBefore: from, NotAfter: from.Add(c.life)})
		f.put(f.Cert, p.cert)
		f.put(f.Key, p.key)
		certs := f.load() // expired or not
		if !certs.Expires().Equal(from.Add(c.life)) {
			t.Errorf("expires at %v", certs.Expires())
		}
		got := certs.Problems(from.Add(c.after))
		if len(got) > 1 || (len(got) == 1) != (c.want != "") || c.want != "" && !strings.HasSuffix(got[0], c.want) {
			t.Errorf("made for %v, after %v: %q, want %q", c.life, c.after, got, c.want)
		}
	}
	old := newAuthority(t, "old")
	old.cert, old.key = old.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, NotBefore: from, NotAfter: from.Add(day)}, nil)
	f := newFiles(t)
	f.write(ca.server(), old)
	if got := f.load().Problems(time.Now()); len(got) != 1 || !strings.Contains(got[0], "no certificate of "+f.ClientCA+" holds") {
		t.Errorf("a CA that has expired: %q", got)
	}
	f.write(ca.server(), old, ca)
	if got := f.load().Problems(time.Now()); len(got) != 0 {
		t.Errorf("one CA of two holds: %q", got)
	}
}

// sessions counts what a server gives to a client to resume with.
type sessions struct {
	tls.ClientSessionCache
	put atomic.Int64
}

func (s *sessions) Put(key string, state *tls.ClientSessionState) {
	if state != nil {
		s.put.Add(1)
	}
	s.ClientSessionCache.Put(key, state)
}

// TestNoResumption: a client that was let in once is verified anew each time, so that a CA that was taken away holds no more.
func TestNoResumption(t *testing.T) {
	t.Parallel()
	ca, later := newAuthority(t, "ca"), newAuthority(t, "later")
	f := newFiles(t)
	f.write(ca.server(), ca)
	certs := f.load()
	talk := func(server *tls.Config, cache *sessions) (resumed bool, err error) {
		l := listenLocal(t)
		served := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = tls.Server(conn, server).Write([]byte{1}) // after the handshake, and what may come with it
				defer conn.Close()
			}
			served <- err
		}()
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
			RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.client(nil, nil).tls}, ClientSessionCache: cache, NextProtos: []string{alpn},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
		if served := <-served; err == nil {
			err = served
		}
		return conn.ConnectionState().DidResume, err
	}
	cache := &sessions{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	for range 2 {
		if resumed, err := talk(certs.Config(), cache); resumed || err != nil || cache.put.Load() > 0 {
			t.Errorf("resumed: %v, %v, with %d tickets", resumed, err, cache.put.Load())
		}
	}
	f.write(ca.server(), later)
	if err := certs.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := talk(certs.Config(), cache); err == nil {
		t.Error("a client of a CA that was taken away was let in")
	}

	f.write(ca.server(), ca)
	lax := f.load().now.Load().config
	lax.SessionTicketsDisabled = false
	var resumed bool
	for range 2 {
		var err error
		if resumed, err = talk(lax, cache); err != nil {
			t.Fatal(err)
		}
	}
	if !resumed {
		t.Error("control: with tickets, the second connection should be resumed")
	}
}
