package main

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
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// securedBar is the least share of a plain daemon's rate that one with everything on has, at 256 in flight.
const securedBar = 0.85

// scrapeEvery and changeEvery are how often a secured daemon's metrics are read, and something of it is changed and so audited, while
// it is measured: each more often than in any deployment.
const (
	scrapeEvery = time.Second
	changeEvery = 100 * time.Millisecond
)

// runSecured compares a daemon that has mTLS, a policy, metrics that are scraped, changes that are audited and events that are told
// with a plain one, side by side, a load at a time.
func runSecured(ctx context.Context, o suiteOptions, stdout, stderr io.Writer) (err error) {
	began, before := time.Now(), loadAverage()
	s := &suite{suiteOptions: o, progress: stderr}
	if s.dir, err = realDisk(o.dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if s.quotad == "" {
		fmt.Fprintln(stderr, "building quotad")
		if s.quotad, err = build(ctx, s.dir); err != nil {
			return err
		}
	}
	plain, _, err := startQuotadBy(ctx, s.quotad, filepath.Join(s.dir, "plain"), "", "--admin-listen", "off", "--thresholds", "off")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.stop()) }()
	secured, admin, err := s.startSecured(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, secured.stop()) }()
	if err := errors.Join(declare(ctx, plain.addr), declareBy(ctx, secured.addr, secured.files)); err != nil {
		return err
	}
	found, err := s.compareSecured(ctx, plain, secured, admin)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s Medians of %d rounds of %.1f s, one connection, with receipts.\n\n", facts(ctx, s.dir, before, began, time.Since(began)), s.rounds, s.duration.Seconds())
	fmt.Fprintln(stdout, "| in flight | buckets | secured/s | plain/s | ratio | bar | | p50 | p99 | plain p50 | plain p99 |")
	fmt.Fprintln(stdout, "|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|")
	for _, c := range securedCells() {
		r := found[c]
		bar, verdict := "", ""
		if c.inFlight == 256 {
			bar, verdict = fmt.Sprintf("%.2f", securedBar), word(r.ratio() >= securedBar)
		}
		fmt.Fprintf(stdout, "| %d | %d | %.0f | %.0f | %.2f | %s | %s | %.0f | %.0f | %.0f | %.0f |\n", c.inFlight, c.keys, over(r.ours, rate), over(r.echo, rate),
			r.ratio(), bar, verdict, over(r.ours, p50), over(r.ours, p99), over(r.echo, p50), over(r.echo, p99))
	}
	return nil
}

func securedCells() []cell {
	return []cell{
		{inFlight: 256, keys: 1, ids: true},
		{inFlight: 256, keys: manyKeys, ids: true},
		{inFlight: 64, keys: 1, ids: true},
		{inFlight: 1, keys: 1, ids: true},
	}
}

// compareSecured measures every cell of both daemons in every round; which comes first changes from round to round. Of a comparison,
// echo is the plain one.
func (s *suite) compareSecured(ctx context.Context, plain, secured *server, admin string) (map[cell]*comparison, error) {
	found := make(map[cell]*comparison)
	for round := range s.rounds {
		for _, c := range securedCells() {
			if found[c] == nil {
				found[c] = new(comparison)
			}
			var got [2]figures
			for i := range 2 {
				which := (i + round) % 2
				l := s.load(c, round)
				l.Target, l.Server = targetAcquire, plain.addr
				quiet := func() error { return nil }
				if which == 1 {
					l.Server, l.TLS = secured.addr, secured.files
					quiet = disturb(ctx, secured, admin)
				}
				var err error
				got[which], err = l.inProcess(ctx)
				if err = errors.Join(err, quiet()); err != nil {
					return nil, err
				}
			}
			found[c].ours, found[c].echo = append(found[c].ours, got[1]), append(found[c].echo, got[0])
			fmt.Fprintf(s.progress, "round %d of %d: %3d in flight, %5d buckets, secured %6.0f/s, plain %6.0f/s, ratio %.2f\n",
				round+1, s.rounds, c.inFlight, c.keys, got[1].RPS, got[0].RPS, got[1].RPS/got[0].RPS)
		}
	}
	return found, nil
}

// disturb scrapes and changes a daemon until the function that it returns is called, which says what went wrong.
func disturb(ctx context.Context, s *server, admin string) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	every := func(d time.Duration, do func() error) {
		wg.Go(func() {
			tick := time.NewTicker(d)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					if err := do(); err != nil && ctx.Err() == nil {
						errs <- err
						return
					}
				}
			}
		})
	}
	every(scrapeEvery, func() error { return scrape(ctx, admin) })
	conn, err := connectBy(ctx, s.addr, s.files)
	if err != nil {
		errs <- err
	} else {
		n := int64(0)
		client := quotadv1.NewAdminServiceClient(conn)
		every(changeEvery, func() error {
			n++
			_, err := client.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{
				Name: "changed", Limits: []*quotadv1.Limit{{Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, Max: 1000 + n%2}},
			}})
			return err
		})
	}
	return func() error {
		cancel()
		wg.Wait()
		if conn != nil {
			_ = conn.Close()
		}
		select {
		case err := <-errs:
			return fmt.Errorf("while the secured daemon was measured: %w", err)
		default:
			return nil
		}
	}
}

func scrape(ctx context.Context, admin string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// securedPolicy lets one client do everything by way of a pattern, as a shared daemon's would, and not as one that trusts everybody.
const securedPolicy = `principals:
  bench:
    is: ["spiffe://bench.example/load"]
    may:
      acquire: ["**"]
      settle: ["**"]
      inspect: ["**"]
      admin: ["**"]
`

// startSecured starts a daemon with everything on, and says where its metrics are.
func (s *suite) startSecured(ctx context.Context) (*server, string, error) {
	files := filepath.Join(s.dir, "tls")
	if err := makeCertificates(files); err != nil {
		return nil, "", err
	}
	policy := filepath.Join(files, "policy.yaml")
	if err := os.WriteFile(policy, []byte(securedPolicy), 0o600); err != nil {
		return nil, "", fmt.Errorf("writing the policy: %w", err)
	}
	admin, err := freeAddress(ctx)
	if err != nil {
		return nil, "", err
	}
	in := func(name string) string { return filepath.Join(files, name) }
	server, _, err := startQuotadBy(ctx, s.quotad, filepath.Join(s.dir, "secured"), files, "--admin-listen", admin, "--policy", policy,
		"--tls-cert", in("server.pem"), "--tls-key", in("server-key.pem"), "--tls-client-ca", in("ca.pem"))
	return server, admin, err
}

// makeCertificates makes a CA, and a server's and a client's certificate of it, as files of a new directory.
func makeCertificates(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "quotabench"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caKey, err := writeCertificate(dir, "ca", ca, ca, nil)
	if err != nil {
		return err
	}
	leaf := func(serial int64, use x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use},
		}
	}
	server := leaf(2, x509.ExtKeyUsageServerAuth)
	server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	if _, err := writeCertificate(dir, "server", server, ca, caKey); err != nil {
		return err
	}
	client := leaf(3, x509.ExtKeyUsageClientAuth)
	client.URIs = []*url.URL{{Scheme: "spiffe", Host: "bench.example", Path: "/load"}}
	_, err = writeCertificate(dir, "client", client, ca, caKey)
	return err
}

// writeCertificate signs a certificate with the key of its issuer, or with its own if that is nil, and writes both.
func writeCertificate(dir, name string, cert, issuer *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, issuer, key.Public(), by)
	if err != nil {
		return nil, fmt.Errorf("making the certificate %s: %w", name, err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing the key of %s: %w", name, err)
	}
	write := func(file, kind string, bytes []byte) error {
		return os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600)
	}
	return key, errors.Join(write(name+".pem", "CERTIFICATE", der), write(name+"-key.pem", "PRIVATE KEY", secret))
}

// clientCredentials speaks mTLS with the files of a directory.
func clientCredentials(dir string) (credentials.TransportCredentials, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem"))
	if err != nil {
		return nil, fmt.Errorf("reading the client's certificate: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("reading the CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate", filepath.Join(dir, "ca.pem"))
	}
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots}), nil
}
