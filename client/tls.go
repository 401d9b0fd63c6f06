package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
)

// WithTLSFiles speaks TLS 1.3, with what PEM files hold: ca has the certificates of who may have signed quotad's, "" meaning those
// that the system trusts; cert and key are the client's own, which quotad may ask for, both or neither. The files are read again
// before each handshake, so that new ones in their place hold from the next connection on; while what they hold does not fit together,
// what was good before goes on. Dial's error says what is wrong with them at first. It is for Dial; New refuses it.
func WithTLSFiles(ca, cert, key string) Option {
	return func(o *options) error {
		if (cert == "") != (key == "") {
			return errors.New("WithTLSFiles: a certificate and its key belong together; give both or neither")
		}
		files := tlsFiles{ca: ca, cert: cert, key: key}
		config, err := files.load()
		if err != nil {
			return fmt.Errorf("WithTLSFiles: %w", err)
		}
		o.tls = &reloading{TransportCredentials: credentials.NewTLS(config), last: &lastGood{files: files, config: config}}
		return nil
	}
}

// tlsFiles are PEM files; "" for none.
type tlsFiles struct{ ca, cert, key string }

// load reads the files, all of them or none.
func (f tlsFiles) load() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("reading the certificates of the authority: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate; want PEM", f.ca)
		}
	}
	if f.cert != "" {
		own, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("reading the client's certificate %s and key %s: %w", f.cert, f.key, err)
		}
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}

// lastGood is what the files held when they could last be read.
type lastGood struct {
	files tlsFiles

	mu     sync.Mutex
	config *tls.Config
}

// current reads the files, and returns what was good before if they cannot be.
func (l *lastGood) current() *tls.Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	if config, err := l.files.load(); err == nil {
		l.config = config
	}
	return l.config
}

// reloading makes each handshake with what the files hold then.
type reloading struct {
	credentials.TransportCredentials // the first ones, for all but a handshake
	last                             *lastGood
}

// ClientHandshake is part of credentials.TransportCredentials.
func (r *reloading) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(r.last.current()).ClientHandshake(ctx, authority, conn)
}

// Clone is part of credentials.TransportCredentials. A clone reads the same files.
func (r *reloading) Clone() credentials.TransportCredentials {
	return &reloading{TransportCredentials: r.TransportCredentials.Clone(), last: r.last}
}

// transport returns what the connection to a target is secured with, and says what is wrong with the options about it.
func (o options) transport(target string) (credentials.TransportCredentials, error) {
	socket := isSocket(target)
	switch {
	case o.tls != nil && o.creds != nil:
		return nil, errors.New("dialling quotad: both WithTLSFiles and WithTransportCredentials are given; give one")
	case o.tls != nil && socket:
		return nil, fmt.Errorf("dialling quotad: %s is a unix socket, on which there is no TLS; leave WithTLSFiles out", target)
	case o.tls != nil:
		return o.tls, nil
	case o.creds == nil && !isLocal(target):
		return nil, fmt.Errorf("dialling quotad: %s is not on this machine, and would be spoken to in the clear; give WithTLSFiles or WithTransportCredentials (insecure.NewCredentials() if you mean it)", target)
	}
	clear := o.creds == nil || o.creds.Info().SecurityProtocol == insecure.NewCredentials().Info().SecurityProtocol
	switch {
	case clear && o.token != nil && socket:
		return local.NewCredentials(), nil // which tells a socket, that is private, from TCP
	case clear && o.token != nil:
		return nil, fmt.Errorf("dialling quotad: a token to %s would be sent in the clear; give WithTLSFiles, or a unix socket as the target", target)
	case o.creds == nil:
		return insecure.NewCredentials(), nil
	}
	return o.creds, nil
}
