package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// authority signs certificates for one test.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	a := authority{dir: t.TempDir()}
	a.key, a.cert = a.sign(t, name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// path is the PEM file of a certificate, or with .key of its key.
func (a authority) path(name string) string { return filepath.Join(a.dir, name) }

// sign writes a certificate and its key, signed by the authority, or by itself if that has none yet.
func (a authority) sign(t *testing.T, name string, c *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
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
	for file, block := range map[string]*pem.Block{name: {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, made
}

// mirror answers WhoAmI with the certificate and the token that it was shown.
type mirror struct {
	quotadv1.UnimplementedInspectServiceServer
}

func (mirror) WhoAmI(ctx context.Context, _ *quotadv1.WhoAmIRequest) (*quotadv1.WhoAmIResponse, error) {
	resp := &quotadv1.WhoAmIResponse{}
	from, _ := peer.FromContext(ctx)
	if on, ok := from.AuthInfo.(credentials.TLSInfo); ok {
		for _, c := range on.State.PeerCertificates {
			resp.Identities = append(resp.Identities, "dns:"+c.Subject.CommonName)
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	switch shown := md.Get("authorization"); {
	case len(shown) == 1 && shown[0] == "Bearer quotad_secret":
		resp.Principal = "ci"
	case len(shown) > 0:
		return nil, status.Error(codes.Unauthenticated, "the token is unknown, revoked or expired")
	}
	return resp, nil
}

// startMirror serves TLS for quotad.test, and asks for a certificate of the authority.
func startMirror(t *testing.T, a authority) string {
	t.Helper()
	a.sign(t, "server", &x509.Certificate{DNSNames: []string{"quotad.test"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	pair, err := tls.LoadX509KeyPair(a.path("server"), a.path("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven,
	})))
	quotadv1.RegisterInspectServiceServer(server, mirror{})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// with runs quotactl with an environment.
func with(t *testing.T, environment map[string]string, args ...string) (out, errs string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, env{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, now: time.Now,
		getenv: func(name string) string { return environment[name] }, isTerminal: func(int) bool { return false },
	})
	return stdout.String(), stderr.String(), code
}

// TLS is spoken as the flags and the environment say, and what does not fit is said with what to do about it.
func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t, "ca"), newAuthority(t, "ca")
	ours.sign(t, "app.test", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	server := startMirror(t, ours)
	const secret = "quotad_secret"
	for file, text := range map[string]string{"token": secret + "\n", "wrong": "quotad_wrong"} {
		if err := os.WriteFile(ours.path(file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	named := []string{"--tls-ca", ours.path("ca"), "--tls-server-name", "quotad.test"}
	for _, c := range []struct {
		what        string
		flags       []string
		environment map[string]string
		code        int
		says        []string
	}{
		{what: "the authority alone", flags: named, says: []string{"shows      -"}},
		{what: "a certificate", flags: append([]string{"--tls-cert", ours.path("app.test"), "--tls-key", ours.path("app.test.key")}, named...), says: []string{"dns:app.test"}},
		{what: "a token", flags: append([]string{"--token-file", ours.path("token")}, named...), says: []string{"principal  ci"}},
		{what: "a token in the environment", flags: named, environment: map[string]string{"QUOTAD_TOKEN": secret}, says: []string{"principal  ci"}},
		{what: "all in the environment", flags: []string{"--tls-server-name", "quotad.test"}, says: []string{"dns:app.test", "principal  ci"}, environment: map[string]string{
			"QUOTAD_TLS_CA": ours.path("ca"), "QUOTAD_TLS_CERT": ours.path("app.test"), "QUOTAD_TLS_KEY": ours.path("app.test.key"), "QUOTAD_TOKEN_FILE": ours.path("token"),
		}},
		{what: "a wrong token", flags: append([]string{"--token-file", ours.path("wrong")}, named...), code: exitError, says: []string{"unknown, revoked or expired", "--token-file FILE"}},
		{what: "another authority", flags: []string{"--tls-ca", theirs.path("ca"), "--tls-server-name", "quotad.test"}, code: exitError, says: []string{"unknown authority", "--tls-ca names who signed"}},
		{what: "the system's authorities", flags: []string{"--tls", "--tls-server-name", "quotad.test"}, code: exitError, says: []string{"unknown authority", "--tls-ca names who signed"}},
		{what: "another name", flags: []string{"--tls-ca", ours.path("ca")}, code: exitError, says: []string{"127.0.0.1", "--tls-server-name"}},
		{what: "in the clear", code: exitError, says: []string{"does quotad speak TLS there?"}},
		{what: "a token in the clear", flags: []string{"--token-file", ours.path("token")}, code: exitUsage, says: []string{"would be sent in the clear"}},
	} {
		args := append([]string{"auth", "whoami", "--server", server, "--timeout", "2s"}, c.flags...)
		out, errs, code := with(t, c.environment, args...)
		for _, text := range c.says {
			if !strings.Contains(out+errs, text) {
				t.Errorf("%s: %q is not in\n%s%s", c.what, text, out, errs)
			}
		}
		if code != c.code || strings.Contains(out+errs, secret) || strings.Contains(out+errs, "quotad_wrong") {
			t.Errorf("%s: exit %d\n%s%s", c.what, code, out, errs)
		}
	}
}
