package server

import (
	"errors"
	"time"
)

// CertificateFiles says where certificates are, each a PEM file.
type CertificateFiles struct {
	Cert, Key string // the server's
	ClientCA  string // whose certificates clients show; "" means that none are asked for
	Optional  bool   // whether a client may come without one
}

// Certificates are what TLS is spoken with. They are read again while calls go on.
type Certificates struct{ files CertificateFiles }

// LoadCertificates reads certificates.
func LoadCertificates(f CertificateFiles) (*Certificates, error) {
	return nil, errors.New("not yet")
}

// Reload reads the files again, whole or not at all: what is bad leaves what was good before.
func (c *Certificates) Reload() error { return errors.New("not yet") }

// Expires returns when the server's certificate expires.
func (c *Certificates) Expires() time.Time { return time.Time{} }
