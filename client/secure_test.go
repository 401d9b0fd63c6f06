package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/client"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// authority signs certificates, and keeps its own in the file ca.pem of a directory.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.renew(t)
	return a
}

// renew makes it another authority, in the same file.
func (a *authority) renew(t *testing.T) {
	t.Helper()
	a.cert, a.key = nil, nil
	a.cert, a.key = a.sign(t, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// sign puts a certificate and its key into NAME.pem and NAME.key.
func (a *authority) sign(t *testing.T, name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	a.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

func (a *authority) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(a.file(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// gate is a quotad that looks at who calls and at nothing else.
type gate struct {
	quotadv1.UnimplementedQuotaServiceServer
	mu       sync.Mutex
	token    string // the one that is let through; "" lets everybody
	err      error  // what all are answered, if it is set
	calls    int
	shown    []string // the tokens, as they came
	subjects []string // of certificates
}

func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
	md, _ := metadata.FromIncomingContext(ctx)
	g.shown = md.Get("authorization")
	from, _ := peer.FromContext(ctx)
	if on, ok := from.AuthInfo.(credentials.TLSInfo); ok {
		g.subjects = nil
		for _, c := range on.State.PeerCertificates {
			g.subjects = append(g.subjects, c.Subject.CommonName)
		}
	}
	if g.err == nil && g.token != "" && !slices.Equal(g.shown, []string{"Bearer " + g.token}) {
		return status.Error(codes.Unauthenticated, "the token is unknown, revoked or expired")
	}
	return g.err
}

func (g *gate) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *gate) Acquire(ctx context.Context, _ *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	return &quotadv1.AcquireResponse{}, g.pass(ctx)
}

func (g *gate) Settle(ctx context.Context, _ *quotadv1.SettleRequest) (*quotadv1.SettleResponse, error) {
	return &quotadv1.SettleResponse{}, g.pass(ctx)
}

func (g *gate) Check(ctx context.Context, _ *quotadv1.CheckRequest) (*quotadv1.CheckResponse, error) {
	return &quotadv1.CheckResponse{Allowed: true}, g.pass(ctx)
}

func (g *gate) Extend(ctx context.Context, _ *quotadv1.ExtendRequest) (*quotadv1.ExtendResponse, error) {
	return &quotadv1.ExtendResponse{}, g.pass(ctx)
}

// listen serves a gate and returns where, and what ends it.
func (g *gate) listen(t *testing.T, network, address string, opts ...grpc.ServerOption) (target string, stop func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(opts...)
	quotadv1.RegisterQuotaServiceServer(server, g)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	if target = l.Addr().String(); network == "unix" {
		target = "unix://" + target
	}
	return target, server.Stop
}

// tlsOption serves the certificate server.pem, and wants one of the authority's from clients.
func (a *authority) tlsOption(t *testing.T) grpc.ServerOption {
	t.Helper()
	a.sign(t, "server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	pair, err := tls.LoadX509KeyPair(a.file("server.pem"), a.file("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	return grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven,
	}))
}

func (a *authority) signClient(t *testing.T, name string) {
	t.Helper()
	a.sign(t, name, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

func dial(t *testing.T, target string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.Dial(target, append([]client.Option{client.WithTries(3, time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

const secret = "quotad_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func constant(token string) func() (string, error) {
	return func() (string, error) { return token, nil }
}

// A token goes over TLS and unix sockets, and is read anew for each call.
func TestToken(t *testing.T) {
	t.Parallel()
	a, g := newAuthority(t), &gate{token: secret}
	a.write(t, "token", []byte(secret+"\n"))
	overTLS, _ := g.listen(t, "tcp", "127.0.0.1:0", a.tlsOption(t))
	socket, _ := g.listen(t, "unix", a.file("s"))
	for target, opts := range map[string][]client.Option{
		overTLS: {client.WithTLSFiles(a.file("ca.pem"), "", ""), client.WithTokenFile(a.file("token"))},
		socket:  {client.WithTokenFile(a.file("token"))},
	} {
		c := dial(t, target, opts...)
		if _, err := c.Acquire(t.Context(), "b"); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	c := dial(t, socket, client.WithToken(constant(secret)))
	if _, err := c.Acquire(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	rotated := dial(t, socket, client.WithTokenFile(a.file("token")))
	g.set(func() { g.token = "quotad_new" })
	if _, err := rotated.Acquire(t.Context(), "b"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("an old token: %v", err)
	}
	a.write(t, "token", []byte("quotad_new"))
	if _, err := rotated.Acquire(t.Context(), "b"); err != nil {
		t.Errorf("a new token in the file: %v", err)
	}
}

// No token leaves over TCP in the clear, whoever chose the credentials, and nothing is let through for want of one.
func TestTokenIsNotSentInTheClear(t *testing.T) {
	t.Parallel()
	g := &gate{}
	target, _ := g.listen(t, "tcp", "127.0.0.1:0")
	for what, opts := range map[string][]client.Option{
		"loopback":                {client.WithToken(constant(secret))},
		"in the clear by request": {client.WithTransportCredentials(insecure.NewCredentials()), client.WithToken(constant(secret))},
	} {
		if c, err := client.Dial(target, opts...); err == nil || !strings.Contains(err.Error(), "in the clear") || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, %v", what, c, err)
		}
	}
	// Credentials that are not called insecure, and are.
	c := dial(t, target, client.WithTransportCredentials(local.NewCredentials()), client.WithToken(constant(secret)), client.WithFailOpen(client.FailOpen{PerMinute: 9}))
	_, err := c.Acquire(t.Context(), "b")
	refused, ok := errors.AsType[*client.AccessError](err)
	if !ok || !refused.Unknown || status.Code(err) != codes.Unauthenticated || strings.Contains(err.Error(), secret) {
		t.Errorf("%v", err)
	}
	g.set(func() {
		if g.calls != 0 || c.Stats().Local != 0 {
			t.Errorf("%d calls arrived, %+v", g.calls, c.Stats())
		}
	})
}

// What is no token is said before or at the call, and never shown. gRPC itself would show a header that it cannot send.
func TestTokenIsNeverShown(t *testing.T) {
	t.Parallel()
	a, g := newAuthority(t), &gate{token: "quotad_other"}
	socket, _ := g.listen(t, "unix", a.file("s"))
	for what, token := range map[string]string{
		"wrong": secret, "with a space": "quotad_secret secret", "with a line break": "quotad_secret\nx", "not ASCII": "quotad_secreté", "empty": "", "long": "quotad_secret" + strings.Repeat("x", 5000),
	} {
		c := dial(t, socket, client.WithToken(constant(token)), client.WithFailOpen(client.FailOpen{PerMinute: 9}))
		_, err := c.Acquire(t.Context(), "b")
		if _, ok := errors.AsType[*client.AccessError](err); !ok || status.Code(err) != codes.Unauthenticated || token != "" && strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "quotad_secret") {
			t.Errorf("%s: %v", what, err)
		}
		a.write(t, "token", []byte(token))
		fromFile, err := client.Dial(socket, client.WithTokenFile(a.file("token")))
		if (err == nil) != (what == "wrong") || err != nil && strings.Contains(err.Error(), "quotad_secret") {
			t.Errorf("a file, %s: %v", what, err)
		}
		if err == nil {
			_ = fromFile.Close()
		}
	}
	c := dial(t, socket, client.WithToken(func() (string, error) { return secret, errors.New("the vault is shut") }))
	if _, err := c.Acquire(t.Context(), "b"); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "the vault is shut") || strings.Contains(err.Error(), secret) {
		t.Errorf("no token: %v", err)
	}
}

// The files of TLS are read again before each handshake; what is bad leaves what was good.
func TestTLSFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	a, g := newAuthority(t), &gate{}
	a.signClient(t, "one")
	target, stop := g.listen(t, "tcp", "127.0.0.1:0", a.tlsOption(t))
	cert, key := a.file("own.pem"), a.file("own.key")
	take := func(name string) {
		t.Helper()
		for from, to := range map[string]string{".pem": cert, ".key": key} {
			content, err := os.ReadFile(a.file(name + from))
			if err != nil {
				t.Fatal(err)
			}
			a.write(t, filepath.Base(to), content)
		}
	}
	take("one")
	c := dial(t, target, client.WithTLSFiles(a.file("ca.pem"), cert, key), client.WithTries(20, 5*time.Millisecond))
	is := func(want, when string) {
		t.Helper()
		_, err := c.Acquire(t.Context(), "b")
		g.set(func() {
			if err != nil || !slices.Equal(g.subjects, []string{want}) {
				t.Errorf("%s: %v, %q, want %s", when, err, g.subjects, want)
			}
		})
	}
	restart := func() {
		t.Helper()
		stop()
		_, stop = g.listen(t, "tcp", target, a.tlsOption(t))
	}
	is("one", "at first")
	a.signClient(t, "two")
	take("two")
	is("one", "a connection that stands")
	restart()
	is("two", "the next connection")
	a.write(t, "own.key", []byte("not a key"))
	restart()
	is("two", "while the files are bad")
	a.renew(t)
	a.signClient(t, "three")
	take("three")
	restart()
	is("three", "another authority")

	stranger := newAuthority(t)
	other := dial(t, target, client.WithTLSFiles(stranger.file("ca.pem"), "", ""), client.WithFailOpen(client.FailOpen{PerMinute: 9}))
	if _, err := other.Check(t.Context(), "b"); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("control: an authority that did not sign: %v", err)
	}
}

// What is wrong with the options is said by Dial and New, with what would be right.
func TestSecureOptions(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.write(t, "text", []byte("not PEM"))
	ca := a.file("ca.pem")
	for _, c := range []struct {
		target string
		opts   []client.Option
		want   string
	}{
		{"127.0.0.1:1", []client.Option{client.WithTLSFiles(a.file("none"), "", "")}, "no such file"},
		{"127.0.0.1:1", []client.Option{client.WithTLSFiles(a.file("text"), "", "")}, "has no certificate"},
		{"127.0.0.1:1", []client.Option{client.WithTLSFiles(ca, ca, "")}, "belong together"},
		{"127.0.0.1:1", []client.Option{client.WithTLSFiles(ca, ca, ca)}, "certificate " + ca},
		{"127.0.0.1:1", []client.Option{client.WithTLSFiles(ca, "", ""), client.WithTransportCredentials(insecure.NewCredentials())}, "give one"},
		{"unix:///s", []client.Option{client.WithTLSFiles(ca, "", "")}, "no TLS"},
		{"quotad.acme.example:7070", nil, "WithTLSFiles"},
		{"quotad.acme.example:7070", []client.Option{client.WithToken(constant(secret))}, "in the clear"},
		{"127.0.0.1:1", []client.Option{client.WithToken(nil)}, "nil"},
		{"127.0.0.1:1", []client.Option{client.WithTokenFile(a.file("none"))}, "no such file"},
		{"127.0.0.1:1", []client.Option{client.WithTokenFile(a.file("text"))}, "not a token"},
	} {
		if made, err := client.Dial(c.target, c.opts...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, %v; want %q", made, err, c.want)
		}
	}
	for _, o := range []client.Option{client.WithToken(constant(secret)), client.WithTLSFiles(ca, "", "")} {
		if _, err := client.New(nobody{}, o); err == nil || !strings.Contains(err.Error(), "for Dial") {
			t.Errorf("New: %v", err)
		}
	}
}

// A refusal of the policy is an answer: it is sent once, never let through, and says who, what and where. What was spent is kept, and
// told when it may be.
func TestNotAllowedFailsClosed(t *testing.T) {
	t.Parallel()
	denied, err := status.New(codes.PermissionDenied, "the policy does not let chat (uid:5) acquire b, c").WithDetails(&errdetails.ErrorInfo{
		Reason: "PERMISSION_DENIED", Domain: "quotad", Metadata: map[string]string{"principal": "chat (uid:5)", "verb": "acquire", "bucket": "b,c"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, refusal := range []error{denied.Err(), status.Error(codes.PermissionDenied, "nobody may call that"), status.Error(codes.Unauthenticated, "who are you?")} {
		g := &gate{}
		a := newAuthority(t)
		socket, _ := g.listen(t, "unix", a.file("s"))
		c := dial(t, socket, client.WithFailOpen(client.FailOpen{PerMinute: 9}))
		r, err := c.Reserve(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		g.set(func() { g.err, g.calls = refusal, 0 })
		for op, do := range map[string]func() error{
			"acquire": func() error { _, err := c.Acquire(t.Context(), "b"); return err },
			"reserve": func() error { _, err := c.Reserve(t.Context(), "b"); return err },
			"check":   func() error { _, err := c.Check(t.Context(), "b"); return err },
			"extend":  func() error { return r.Extend(t.Context(), time.Minute) },
		} {
			err := do()
			e, ok := errors.AsType[*client.AccessError](err)
			if !ok || e.Op != op || e.Bucket != "b" || e.Unknown != (status.Code(refusal) == codes.Unauthenticated) ||
				status.Code(err) != status.Code(refusal) || e.Temporary() || e.RetryableError() {
				t.Errorf("%s: %#v", op, err)
				continue
			}
			if errors.Is(refusal, denied.Err()) && (e.Principal != "chat (uid:5)" || e.Verb != "acquire" || !slices.Equal(e.Refused, []string{"b", "c"})) {
				t.Errorf("%s: %+v", op, e)
			}
		}
		g.set(func() {
			if s := c.Stats(); g.calls != 4 || s.Local != 0 || s.Unreachable != 0 {
				t.Errorf("%v: %d calls, %+v", refusal, g.calls, s)
			}
		})
		if _, pending := errors.AsType[*client.PendingError](r.Settle(t.Context())); !pending {
			t.Error("a settlement that may not be made now is not kept")
		}
		g.set(func() { g.err = nil })
		if err := c.Flush(t.Context()); err != nil || c.Stats().Lost != 0 || c.Stats().Delivered != 1 {
			t.Errorf("%v, %+v", err, c.Stats())
		}
	}
}
