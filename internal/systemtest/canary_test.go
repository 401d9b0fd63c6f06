package systemtest_test

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
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
)

// aviary has a secret of each kind that a daemon is given or shown, and everything that comes out of it, by where.
type aviary struct {
	dir     string
	secrets map[string]string // by what each is
	seen    map[string]string // by where it came out
}

func newAviary(t *testing.T) *aviary {
	t.Helper()
	a := &aviary{dir: t.TempDir(), secrets: map[string]string{}, seen: map[string]string{}}
	for _, name := range []string{"token", "admin's token", "unknown token"} {
		token, err := auth.NewToken(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		a.secrets[name] = token.Reveal()
	}
	for _, name := range []string{"environment", "webhook key", "webhook path", "webhook query", "password", "cookie", "baggage", "collector's header"} {
		a.secrets[name] = rand.Text() + rand.Text()
	}
	return a
}

// leaks returns which secrets came out, and where: whole, or a part of them that would be worth having.
func (a *aviary) leaks() (found []string) {
	for where, text := range a.seen {
		for what, secret := range a.secrets {
			if bare := strings.TrimPrefix(secret, "quotad_"); strings.Contains(text, bare) || strings.Contains(text, bare[:20]) || strings.Contains(text, bare[len(bare)-20:]) {
				found = append(found, what+" in "+where)
			}
		}
	}
	slices.Sort(found)
	return found
}

func (a *aviary) path(name string) string { return filepath.Join(a.dir, name) }

func (a *aviary) write(t *testing.T, name, content string) string {
	t.Helper()
	if err := os.WriteFile(a.path(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return a.path(name)
}

// certificate writes a certificate of loopback with its key, whose longest line is a secret, and returns whom to trust.
func (a *aviary) certificate(t *testing.T) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	is := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "quotad"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, is, is, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	a.secrets["TLS key"] = strings.Split(text, "\n")[2] // the first line begins as with every such key
	a.write(t, "key.pem", text)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(a.write2(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))))
	return pool
}

func (a *aviary) write2(t *testing.T, name, content string) string {
	t.Helper()
	a.write(t, name, content)
	return content
}

// files writes what the daemon is given, but for the certificate, and returns the flags for it.
func (a *aviary) files(t *testing.T, collector string) []string {
	t.Helper()
	hash := func(name string) string {
		s, err := auth.ParseSecret(a.secrets[name])
		if err != nil {
			t.Fatal(err)
		}
		return s.Hash().String()
	}
	tokens := fmt.Sprintf("tokens:\n  app: {sha256: %s, created: 2026-01-01T00:00:00Z}\n  root: {sha256: %s, created: 2026-01-01T00:00:00Z}\n", hash("token"), hash("admin's token"))
	policy := "principals:\n  app:\n    is: [\"token:app\"]\n    may: {acquire: [app/**], inspect: [app/**]}\n" +
		"  root:\n    is: [\"token:root\"]\n    may: {acquire: [\"**\"], settle: [\"**\"], inspect: [\"**\"], admin: [\"**\"]}\n"
	return []string{
		"--data", a.path("data"), "--create", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--addr-file", a.path("addresses"),
		"--tls-cert", a.path("cert.pem"), "--tls-key", a.path("key.pem"),
		"--tokens", a.write(t, "tokens.yaml", tokens), "--policy", a.write(t, "policy.yaml", policy),
		"--webhook", "http://127.0.0.1:9/" + a.secrets["webhook path"] + "?k=" + a.secrets["webhook query"],
		"--webhook-key", a.write(t, "webhook.key", a.secrets["webhook key"]),
		"--otlp-endpoint", collector, "--log-level", "debug",
	}
}

// command is the daemon with secrets in its environment, for it and for what it is made of.
func (a *aviary) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Getenv(built), args...)
	c.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "QUOTAD_") }),
		"DATABASE_PASSWORD="+a.secrets["environment"], "GOTRACEBACK=all",
		"OTEL_EXPORTER_OTLP_HEADERS=x-api-key="+a.secrets["collector's header"])
	return c
}

// spans is a collector that keeps what it is sent.
type spans struct {
	collectorpb.UnimplementedTraceServiceServer

	mu   sync.Mutex
	text strings.Builder
}

func (s *spans) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.WriteString(prototext.Format(r))
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (s *spans) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func collect(t *testing.T) (*spans, string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, c := grpc.NewServer(), &spans{}
	collectorpb.RegisterTraceServiceServer(s, c)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return c, "http://" + l.Addr().String()
}

// addresses waits for those that the daemon listens on.
func (a *aviary) addresses(t *testing.T, said *output) (rpc, admin string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) { // the daemon is another process
		text, _ := os.ReadFile(a.path("addresses"))
		for line := range strings.Lines(string(text)) {
			switch f := strings.Fields(line); {
			case len(f) == 2 && f[0] == "listen":
				rpc = f[1]
			case len(f) == 2 && f[0] == "admin-listen":
				admin = f[1]
			}
		}
		if rpc != "" && admin != "" {
			return rpc, admin
		}
	}
	t.Fatalf("no addresses:\n%s", said)
	return "", ""
}

// keep keeps what a call came to, the details of its status included.
func (a *aviary) keep(t *testing.T, what string, m proto.Message, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
	a.seen[what] += prototext.Format(m) + prototext.Format(status.Convert(err).Proto())
}

// show has calls show the secrets, in their places and in wrong ones.
func (a *aviary) show(t *testing.T, conn *grpc.ClientConn, bucket string) {
	t.Helper()
	ledger, inspect, admin := quotadv1.NewQuotaServiceClient(conn), quotadv1.NewInspectServiceClient(conn), quotadv1.NewAdminServiceClient(conn)
	as := func(pairs ...string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), append(pairs, "cookie", a.secrets["cookie"], "baggage", "k="+a.secrets["baggage"],
			"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")...)
	}
	root := as("authorization", "Bearer "+a.secrets["admin's token"])
	set, err := admin.SetBucket(root, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: bucket}, Reason: "a test"})
	a.keep(t, "SetBucket", set, err, codes.OK)
	app := as("authorization", "Bearer "+a.secrets["token"])
	for _, id := range []string{"", "an-id"} {
		got, err := ledger.Acquire(app, &quotadv1.AcquireRequest{Bucket: "app/a", RequestId: id})
		a.keep(t, "Acquire", got, err, codes.OK)
	}
	got, err := ledger.Acquire(app, &quotadv1.AcquireRequest{Bucket: "not/mine"})
	a.keep(t, "a bucket of others", got, err, codes.PermissionDenied)
	for what, ctx := range map[string]context.Context{
		"an unknown token": as("authorization", "Bearer "+a.secrets["unknown token"]),
		"a password":       as("authorization", "Basic "+a.secrets["password"]),
		"a token, bare":    as("authorization", a.secrets["token"]),
		"two tokens":       as("authorization", "Bearer "+a.secrets["token"], "authorization", "Bearer "+a.secrets["unknown token"]),
		"no token":         as("x-api-key", a.secrets["token"]),
	} {
		got, err := ledger.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "app/a"})
		if c := status.Code(err); c != codes.Unauthenticated && c != codes.PermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
		a.keep(t, what, got, err, status.Code(err))
	}
	who, err := inspect.WhoAmI(app, &quotadv1.WhoAmIRequest{})
	a.keep(t, "WhoAmI", who, err, codes.OK)
	st, err := inspect.GetStatus(root, &quotadv1.GetStatusRequest{})
	a.keep(t, "GetStatus", st, err, codes.OK)
	trail, err := inspect.ListAudit(root, &quotadv1.ListAuditRequest{})
	a.keep(t, "the audit trail", trail, err, codes.OK)
}

// browse asks for the pages of the admin address, with secrets where people put them.
func (a *aviary) browse(t *testing.T, admin string) {
	t.Helper()
	for _, page := range []string{"/metrics", "/readyz", "/healthz", "/" + a.secrets["token"], "/metrics?token=" + a.secrets["token"]} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+page, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+a.secrets["token"])
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		a.seen["a page over HTTP"] += string(body)
	}
}

// live has a daemon live through all that shows it secrets, and end with a dump of its goroutines.
func (a *aviary) live(t *testing.T, format, bucket string) {
	t.Helper()
	pool := a.certificate(t)
	collector, endpoint := collect(t)
	flags := append(a.files(t, endpoint), "--log-format", format)
	printed, err := a.command(t, append(flags, "--print-config")...).CombinedOutput()
	if err != nil {
		t.Errorf("--print-config: %v\n%s", err, printed)
	}
	a.seen["--print-config"] = string(printed)

	said := new(output)
	c := a.command(t, flags...)
	c.Stdout, c.Stderr = said, said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	t.Cleanup(func() { _ = c.Process.Kill(); <-ended })
	rpc, admin := a.addresses(t, said)
	conn, err := grpc.NewClient(rpc, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a.show(t, conn, bucket)
	a.browse(t, admin)
	a.write(t, "tokens.yaml", "tokens:\n  app: {sha256: "+a.secrets["token"]+", created: 2026-01-01T00:00:00Z}\n") // a token where its hash should be
	if err := c.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); !strings.Contains(said.String(), "is refused; the one before is in force"); time.Sleep(10 * time.Millisecond) { // as above
		if time.Now().After(end) {
			t.Fatalf("a bad tokens file was not refused:\n%s", said)
		}
	}
	for end := time.Now().Add(patience); !strings.Contains(collector.String(), "QuotaService/Acquire"); time.Sleep(10 * time.Millisecond) { // as above
		if time.Now().After(end) {
			t.Fatalf("no span came:\n%s", said)
		}
	}
	if err := c.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-ended
	if !strings.Contains(said.String(), "goroutine ") || !strings.Contains(said.String(), "Acquire") {
		t.Errorf("no dump of goroutines, or no log of calls:\n%s", said)
	}
	a.seen["the log and the dump, as "+format] = said.String()
	a.seen["the traces"] = collector.String()
	file, err := os.ReadFile(filepath.Join(a.path("data"), "quotad.db"))
	if err != nil {
		t.Fatal(err)
	}
	a.seen["the data file"] = string(file)
}

// refused starts daemons whose settings are wrong in the places of secrets.
func (a *aviary) refused(t *testing.T) {
	t.Helper()
	base := a.files(t, "http://127.0.0.1:9")
	for what, extra := range map[string][]string{
		"a password in a URL":     {"--webhook", "https://me:" + a.secrets["password"] + "@127.0.0.1/" + a.secrets["webhook path"]},
		"a URL with a slip":       {"--webhook", "htps://127.0.0.1/" + a.secrets["webhook path"]},
		"a token in the tokens":   {"--tokens", a.write(t, "bad-tokens.yaml", "tokens:\n  app: {sha256: "+a.secrets["token"]+"}\n")},
		"a token as its own name": {"--tokens", a.write(t, "odd-tokens.yaml", "tokens:\n  "+a.secrets["token"]+": {}\n")},
		"a token in the policy":   {"--policy", a.write(t, "bad-policy.yaml", "principals:\n  app:\n    is: [\"token:"+a.secrets["token"]+"\"]\n    may: {}\n")},
		"a key that is none":      {"--tls-key", a.write(t, "bad-key.pem", "-----BEGIN PRIVATE KEY-----\n"+a.secrets["TLS key"]+"\n-----END PRIVATE KEY-----\n")},
		"a collector's password":  {"--otlp-endpoint", "http://me:" + a.secrets["password"] + "@127.0.0.1:4317"},
	} {
		args := slices.Clone(base)
		if i := slices.Index(args, extra[0]); i >= 0 {
			args = slices.Delete(args, i, i+2)
		}
		out, err := a.command(t, append(args, extra...)...).CombinedOutput()
		if err == nil {
			t.Errorf("%s is taken:\n%s", what, out)
		}
		a.seen["the refusal of "+what] = string(out)
	}
}

// TestCanaries: a secret that the daemon is given or shown comes out nowhere.
func TestCanaries(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			a := newAviary(t)
			a.live(t, format, "app/a")
			if format == "text" {
				a.refused(t)
			}
			for _, leak := range a.leaks() {
				t.Errorf("there is the %s", leak)
			}
			if t.Failed() {
				t.Logf("%q", a.seen)
			}
		})
	}
}

// TestCanariesControl: what looks for the secrets finds one where it does come out. A bucket's name is no secret: one that is named
// by one is in the answers, in the audit trail and in the data file.
func TestCanariesControl(t *testing.T) {
	t.Parallel()
	a := newAviary(t)
	a.live(t, "text", "app/"+a.secrets["password"])
	found := a.leaks()
	for _, where := range []string{"SetBucket", "the audit trail", "the data file"} {
		if !slices.Contains(found, "password in "+where) {
			t.Errorf("found %q, and not the one in %s", found, where)
		}
	}
}
