package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// alpn is the one protocol that is spoken inside TLS: HTTP/2.
const alpn = "h2"

// expiryNotice is how long before its end a certificate becomes a problem, unless it was made for so short a time that a fifth of
// that is less. It is to be renewed well before.
const expiryNotice = 7 * 24 * time.Hour

// CertificateFiles says where certificates are, each a PEM file. The zero value is no TLS at all.
type CertificateFiles struct {
	Cert, Key string // the server's, with what leads to its CA after it in Cert
	ClientCA  string // whose certificates clients show; "" means that none are asked for
	Optional  bool   // whether a client may come without one; one that is shown has to be good all the same

	// Now is the clock by which certificates hold; nil means the machine's.
	Now func() time.Time
}

// Certificates are what TLS is spoken with. They are read again while calls go on. LoadCertificates makes them; the methods may be
// called by many at once.
type Certificates struct {
	files CertificateFiles
	now   atomic.Pointer[generation]

	mu     sync.Mutex // held by Reload, and for failed
	failed error      // why the newest reading was thrown away; nil if it was not
}

// generation is what was read in one go. It is not changed any more.
type generation struct {
	config    *tls.Config
	leaf      *x509.Certificate
	clientCAs []*x509.Certificate // none if clients are not asked
}

// LoadCertificates reads certificates. Those that have expired, or do not hold yet, are taken: Problems says so, and who comes by a
// unix socket is not kept waiting for them. Everything else that is wrong is an error, which names the file.
func LoadCertificates(f CertificateFiles) (*Certificates, error) {
	if f.Now == nil {
		f.Now = time.Now
	}
	g, err := readCertificates(f)
	if err != nil {
		return nil, err
	}
	c := &Certificates{files: f}
	c.now.Store(g)
	return c, nil
}

// Reload reads the files again, whole or not at all: what is bad, and what does not hold now, leaves what was there before, and
// Problems says so until a later one succeeds. Connections that are open stay as they are.
func (c *Certificates) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, err := readCertificates(c.files)
	if err == nil {
		err = g.holds(c.files, c.files.Now())
	}
	if err == nil {
		c.now.Store(g)
	}
	c.failed = err
	return err
}

// Expires returns when the server's certificate expires.
func (c *Certificates) Expires() time.Time { return c.now.Load().leaf.NotAfter }

// Files returns the files to watch, in the order of CertificateFiles.
func (c *Certificates) Files() []string {
	return slices.DeleteFunc([]string{c.files.Cert, c.files.Key, c.files.ClientCA}, func(path string) bool { return path == "" })
}

// Problems returns what somebody should look at, for health: that the newest files were not taken, that a certificate does not hold, or
// that the server's own expires within 7 days (within the last fifth of its life if it was made for less than five weeks).
func (c *Certificates) Problems(at time.Time) (all []string) {
	c.mu.Lock()
	failed := c.failed
	c.mu.Unlock()
	g := c.now.Load()
	end := g.leaf.NotAfter
	left := end.Sub(at)
	if err := g.holds(c.files, at); err != nil {
		all = append(all, err.Error())
	} else if left <= min(expiryNotice, end.Sub(g.leaf.NotBefore)/5) {
		all = append(all, fmt.Sprintf("the certificate of %s expires at %s, in %s", c.files.Cert, end.UTC().Format(time.RFC3339), left.Round(time.Minute)))
	}
	if failed != nil {
		all = append(all, fmt.Sprintf("the certificates of before stay in force: %v", failed))
	}
	return all
}

// Config returns what the server speaks TLS with. It is asked again for each connection, so that a reload holds from the next one on.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.now.Load().config, nil
		},
	}
}

func readCertificates(f CertificateFiles) (*generation, error) {
	cert, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	key, err := os.ReadFile(f.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate's key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of %s with the key of %s: %w", f.Cert, f.Key, err)
	}
	g := &generation{leaf: pair.Leaf}
	if err := serves(g.leaf); err != nil {
		return nil, fmt.Errorf("reading the certificate of %s: %w", f.Cert, err)
	}
	g.config = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{alpn},
		Time:         f.Now,
		Certificates: []tls.Certificate{pair},
		// A ticket would let a client come back on the word of an earlier handshake. Who comes shows a certificate, and it is verified
		// by the CA of now. Connections last, so that little is saved by resuming them.
		SessionTicketsDisabled: true,
	}
	if f.ClientCA == "" {
		return g, nil
	}
	if g.clientCAs, err = readCAs(f.ClientCA); err != nil {
		return nil, fmt.Errorf("reading the CA of clients: %w", err)
	}
	g.config.ClientCAs = x509.NewCertPool()
	for _, ca := range g.clientCAs {
		g.config.ClientCAs.AddCert(ca)
	}
	g.config.ClientAuth = tls.RequireAndVerifyClientCert
	if f.Optional {
		g.config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return g, nil
}

// serves finds certificates that every client would refuse, whatever it is called by.
func serves(leaf *x509.Certificate) error {
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.URIs) == 0 {
		return errors.New("it has no subject alternative name; want the names and addresses that clients dial")
	}
	if n := len(leaf.ExtKeyUsage) + len(leaf.UnknownExtKeyUsage); n > 0 &&
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return errors.New("its extended key usage does not let it be a server's; want serverAuth")
	}
	return nil
}

// readCAs reads certificates one by one, as a pool would pass over those that it cannot read.
func readCAs(path string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s has a %s; want certificates alone", path, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, len(all)+1, err)
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no certificate; want at least one, in PEM", path)
	}
	return all, nil
}

// holds tells whether the certificates hold at an instant: the server's own, and one at least of the clients' CAs.
func (g *generation) holds(f CertificateFiles, at time.Time) error {
	if err := within(g.leaf, at); err != nil {
		return fmt.Errorf("the certificate of %s %w", f.Cert, err)
	}
	var last error
	for _, ca := range g.clientCAs {
		if last = within(ca, at); last == nil {
			return nil
		}
	}
	if last != nil {
		return fmt.Errorf("no certificate of %s holds, the last of them %w", f.ClientCA, last)
	}
	return nil
}

func within(c *x509.Certificate, at time.Time) error {
	switch {
	case at.Before(c.NotBefore):
		return fmt.Errorf("does not hold before %s", c.NotBefore.UTC().Format(time.RFC3339))
	case at.After(c.NotAfter):
		return fmt.Errorf("expired at %s", c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}
