package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// guarded is a whole daemon in this process, with everything that asks who calls: a socket for apps of one uid, TLS for others, and
// a listener of its own for people.
type guarded struct {
	t    *testing.T
	dir  string
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	stop func() int // ends it in order, and returns what it exits with

	mu  sync.Mutex
	log bytes.Buffer
}

func (g *guarded) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.Write(b)
}

func (g *guarded) logged() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.String()
}

func (g *guarded) path(name string) string { return filepath.Join(g.dir, name) }

// write puts a file in its place in one step, as people who care do.
func (g *guarded) write(name, content string) {
	g.t.Helper()
	if err := os.WriteFile(g.path(name+".new"), []byte(content), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(g.path(name+".new"), g.path(name)); err != nil {
		g.t.Fatal(err)
	}
}

// issue writes a certificate of the CA, and its key.
func (g *guarded) issue(name string, cert *x509.Certificate) {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	cert.SerialNumber, cert.NotBefore, cert.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour)
	issuer, by := g.ca, g.key
	if issuer == nil {
		issuer, by = cert, key
		g.key = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, issuer, key.Public(), by)
	if err != nil {
		g.t.Fatal(err)
	}
	if g.ca == nil {
		if g.ca, err = x509.ParseCertificate(der); err != nil {
			g.t.Fatal(err)
		}
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		g.t.Fatal(err)
	}
	g.write(name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	g.write(name+"-key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}

const opsToken = "quotad_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"

func policyFor(uid int) string {
	return fmt.Sprintf(`principals:
  app:
    is: ["uid:%d"]
    may: {acquire: [team/**], settle: [team/**]}
  web:
    is: ["spiffe://example.org/web"]
    may: {acquire: [web], settle: [web], inspect: [web]}
  ops:
    is: ["token:ops"]
    may: {admin: ["**"], inspect: ["**"]}
`, uid)
}

func tokens(secret string) string {
	return fmt.Sprintf("tokens:\n  ops:\n    sha256: %x\n    created: 2026-11-23T00:00:00Z\n", sha256.Sum256([]byte(secret)))
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, dir: t.TempDir()}
	g.issue("ca", &x509.Certificate{Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	g.issue("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	g.issue("web", &x509.Certificate{
		URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/web"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	g.write("policy.yaml", policyFor(os.Getuid()))
	g.write("tokens.yaml", tokens(opsToken))
	g.start()
	return g
}

// start runs the daemon, and returns once it takes calls.
func (g *guarded) start() {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	args := []string{
		"--data", g.path("data"), "--create", "--addr-file", g.path("addr"), "--log-format", "text", "--log-level", "debug",
		"--listen", "unix://" + g.path("q.sock"), "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--probe-listen", "127.0.0.1:0",
		"--admin-listen", "127.0.0.1:0", "--tls-cert", g.path("server.pem"), "--tls-key", g.path("server-key.pem"),
		"--tls-client-ca", g.path("ca.pem"), "--tls-clients", "optional", "--policy", g.path("policy.yaml"), "--tokens", g.path("tokens.yaml"),
	}
	go func() { ended <- run(ctx, args, g, g, func(string) string { return "" }) }()
	var once sync.Once
	code := 0
	g.stop = func() int {
		once.Do(func() { cancel(); code = <-ended })
		return code
	}
	g.t.Cleanup(func() { g.stop() })
	g.until("it is ready", func() bool {
		select {
		case code := <-ended:
			ended <- code
			g.t.Fatalf("it ended with %d:\n%s", code, g.logged())
		default:
		}
		_, err := os.Stat(g.path("addr"))
		return err == nil
	})
}

func (g *guarded) until(what string, done func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) { // nothing tells when a file was read
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: not so within %v:\n%s", what, patience, g.logged())
		}
	}
}

// addresses returns where it listens of a kind.
func (g *guarded) addresses(kind string) (all []string) {
	g.t.Helper()
	text, err := os.ReadFile(g.path("addr"))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if a, ok := strings.CutPrefix(strings.TrimSpace(line), kind+" "); ok {
			all = append(all, a)
		}
	}
	return all
}

func (g *guarded) dial(address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	g.t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// creds are those of a client with the certificate of a name; "" means none.
func (g *guarded) creds(name string) credentials.TransportCredentials {
	g.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(g.ca)
	c := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(g.path(name+".pem"), g.path(name+"-key.pem"))
		if err != nil {
			g.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c)
}

func bearer(ctx context.Context, secret string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+secret)
}

// TestGuardedDaemon: who shows what may do what, on which listener; and what is refused says so.
func TestGuardedDaemon(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	listen, control := g.addresses("listen"), g.addresses("control-listen")[0]
	socket := g.dial(listen[0], insecure.NewCredentials())
	web, bare := g.dial(listen[1], g.creds("web")), g.dial(listen[1], g.creds(""))
	ops := g.dial(control, g.creds(""))
	plain := g.dial(listen[1], insecure.NewCredentials())
	take := func(conn *grpc.ClientConn, bucket string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := quotadv1.NewQuotaServiceClient(conn).Acquire(ctx, &quotadv1.AcquireRequest{Bucket: bucket})
			return err
		}
	}
	list := func(conn *grpc.ClientConn) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := quotadv1.NewInspectServiceClient(conn).ListBuckets(ctx, &quotadv1.ListBucketsRequest{})
			return err
		}
	}
	token := func(secret string, call func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error { return call(bearer(ctx, secret)) }
	}
	for what, test := range map[string]struct {
		call func(context.Context) error
		want string
	}{
		"the app's own bucket":           {take(socket, "team/a"), "OK"},
		"the app, another's bucket":      {take(socket, "web"), "PermissionDenied"},
		"the app, above its buckets":     {take(socket, "team"), "PermissionDenied"},
		"the app, nearly its bucket":     {take(socket, "team-evil/a"), "PermissionDenied"},
		"the app looks, on its socket":   {list(socket), "Unimplemented"},
		"the web's own bucket":           {take(web, "web"), "OK"},
		"the web, another's bucket":      {take(web, "team/a"), "PermissionDenied"},
		"nobody over TLS":                {take(bare, "web"), "Unauthenticated"},
		"nobody at all":                  {take(plain, "web"), "Unavailable"},
		"a token over TLS":               {token(opsToken, list(ops)), "OK"},
		"a token that is wrong":          {token(opsToken+"x", list(ops)), "Unauthenticated"},
		"no token":                       {list(ops), "Unauthenticated"},
		"a token may not acquire":        {token(opsToken, take(ops, "web")), "PermissionDenied"},
		"a wrong token never falls back": {token(opsToken+"x", take(socket, "team/a")), "Unauthenticated"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := test.call(ctx)
		cancel()
		if got := status.Code(err).String(); got != test.want {
			t.Errorf("%s: %v, want %s", what, err, test.want)
		}
	}
	probe, err := healthpb.NewHealthClient(g.dial(g.addresses("probe-listen")[0], insecure.NewCredentials())).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || probe.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("a probe in the clear: %v, %v", probe, err)
	}
	if code := g.stop(); code != exitOK {
		t.Errorf("it exits with %d", code)
	}
	if log := g.logged(); strings.Contains(log, opsToken) {
		t.Errorf("the token is in the log:\n%s", log)
	}
}

// TestAccessIsReadAgain: a policy and tokens are taken whole while calls go on, what is bad is not, and the audit trail has each once.
func TestAccessIsReadAgain(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	socket := quotadv1.NewQuotaServiceClient(g.dial(g.addresses("listen")[0], insecure.NewCredentials()))
	take := func(bucket string) string {
		_, err := socket.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: bucket})
		return status.Code(err).String()
	}
	if got := take("team/a"); got != "OK" {
		t.Fatalf("at first: %s", got)
	}
	g.write("policy.yaml", "principals: {app: {is: [uid:x], may: {acquire: [team/**]}}}\n")
	g.until("a bad policy is refused", func() bool { return strings.Contains(g.logged(), "policy is refused; the one before is in force") })
	if got := take("team/a"); got != "OK" {
		t.Errorf("under a bad policy: %s", got)
	}
	g.write("policy.yaml", strings.Replace(policyFor(os.Getuid()), "acquire: [team/**]", "acquire: [other]", 1))
	g.until("the new policy is in force", func() bool { return take("team/a") == "PermissionDenied" })
	if got := take("other"); got != "OK" {
		t.Errorf("under the new policy: %s", got)
	}
	ops := quotadv1.NewInspectServiceClient(g.dial(g.addresses("control-listen")[0], g.creds("")))
	audit, err := ops.ListAudit(bearer(t.Context(), opsToken), &quotadv1.ListAuditRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var changes []*quotadv1.AuditRecord
	for _, r := range audit.GetRecords() {
		if r.GetAction() == "access" {
			changes = append(changes, r)
		}
	}
	if len(changes) != 2 || changes[0].GetBefore() != changes[1].GetAfter() || changes[0].GetAfter() == changes[1].GetAfter() {
		t.Errorf("the audit trail has %v, want the first policy and the second", changes)
	}
	g.write("tokens.yaml", tokens("quotad_BBECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"))
	g.until("the token is revoked", func() bool {
		_, err := ops.ListAudit(bearer(t.Context(), opsToken), &quotadv1.ListAuditRequest{})
		return status.Code(err).String() == "Unauthenticated"
	})
	g.stop()
	g.start()
	again := quotadv1.NewInspectServiceClient(g.dial(g.addresses("control-listen")[0], g.creds("")))
	ctx := bearer(t.Context(), "quotad_BBECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
	audit, err = again.ListAudit(ctx, &quotadv1.ListAuditRequest{})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, r := range audit.GetRecords() {
		if r.GetAction() == "access" {
			seen++
		}
	}
	if seen != 3 {
		t.Errorf("after a restart with the same policy there are %d notes of it, want the 3 from before", seen)
	}
}
