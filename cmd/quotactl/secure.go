package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/status"
)

// secureFlags say how the connection is secured, and who is at this end of it. A token is never a flag's value: those are seen by
// everybody who lists processes.
type secureFlags struct {
	tls                       bool
	ca, cert, key, serverName string
	tokenFile                 string
}

// secureNames are the flags for which a file is completed.
var secureNames = []string{"tls-ca", "tls-cert", "tls-key", "token-file"}

func (s *secureFlags) register(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.BoolVar(&s.tls, "tls", false, "speak TLS, and trust whom the system trusts")
	flags.StringVar(&s.ca, "tls-ca", "", "speak TLS, and trust who is in `FILE`, PEM (default $QUOTAD_TLS_CA)")
	flags.StringVar(&s.cert, "tls-cert", "", "the client's own certificate, `FILE`, PEM (default $QUOTAD_TLS_CERT)")
	flags.StringVar(&s.key, "tls-key", "", "its key, `FILE`, PEM (default $QUOTAD_TLS_KEY)")
	flags.StringVar(&s.serverName, "tls-server-name", "", "the `NAME` that quotad's certificate is for (default that of --server)")
	flags.StringVar(&s.tokenFile, "token-file", "", "the `FILE` with the token to show (default $QUOTAD_TOKEN_FILE, else the token in $QUOTAD_TOKEN)")
	for _, name := range secureNames {
		if err := root.MarkPersistentFlagFilename(name); err != nil {
			panic("main: a flag that was just made is missing: " + err.Error())
		}
	}
	for _, name := range []string{"tls", "tls-server-name"} {
		if err := root.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions); err != nil {
			panic("main: a flag that was just made is missing: " + err.Error())
		}
	}
}

// wrongly is a connection that cannot be made as it was asked for, with what to do about it.
func wrongly(hint, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), hint: hint}
}

// security returns what the connection to a server is secured with, and who this end says that it is.
func (a *app) security() ([]grpc.DialOption, error) {
	s := a.secure
	flagged := s.tls || s.ca != "" || s.cert != "" || s.key != "" || s.serverName != ""
	s.ca = cmp.Or(s.ca, a.getenv("QUOTAD_TLS_CA"))
	s.cert, s.key = cmp.Or(s.cert, a.getenv("QUOTAD_TLS_CERT")), cmp.Or(s.key, a.getenv("QUOTAD_TLS_KEY"))
	token := a.tokenSource()
	socket := strings.HasPrefix(a.server, "unix:")
	var creds credentials.TransportCredentials
	switch {
	case socket && flagged: // what the environment says is for other servers
		return nil, wrongly("leave --tls and its like out, or give --server host:port", "server %q is a unix socket, on which there is no TLS", a.server)
	case socket && token != nil:
		creds = local.NewCredentials() // which tells a socket, that is private, from TCP
	case socket:
		creds = insecure.NewCredentials()
	case flagged || s.ca != "" || s.cert != "" || s.key != "":
		config, err := s.config()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(config)
	case !onThisMachine(a.server):
		return nil, wrongly("--tls-ca FILE names who signed quotad's certificate, --tls trusts whom the system trusts",
			"server %q is not on this machine, and would be spoken to in the clear", a.server)
	case token != nil:
		return nil, wrongly("--tls-ca FILE speaks TLS; --server unix:///path is private without it",
			"a token to server %q would be sent in the clear", a.server)
	default:
		creds = insecure.NewCredentials()
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(creds)}
	if token != nil {
		if _, err := token(); err != nil {
			return nil, wrongly("--token-file, QUOTAD_TOKEN_FILE or QUOTAD_TOKEN has what quotactl token create printed", "%w", err)
		}
		opts = append(opts, grpc.WithPerRPCCredentials(bearer{token}))
	}
	return opts, nil
}

// config reads the files that TLS is spoken with.
func (s secureFlags) config() (*tls.Config, error) {
	const hint = "want PEM files: --tls-ca of the authority, --tls-cert and --tls-key of this client, these two together or not at all"
	c := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: s.serverName}
	if (s.cert == "") != (s.key == "") {
		return nil, wrongly(hint, "of --tls-cert and --tls-key one is given without the other")
	}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, wrongly(hint, "--tls-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, wrongly(hint, "--tls-ca: %s has no certificate", s.ca)
		}
	}
	if s.cert != "" {
		own, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, wrongly(hint, "--tls-cert and --tls-key: %w", err)
		}
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}

// onThisMachine tells whether an address does not leave it.
func onThisMachine(server string) bool {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		host = server
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// tokenBytesMax is how much of a token's file is read: many times as much as a token has.
const tokenBytesMax = 4096

// tokenSource returns what gives the token to show; nil if there is none. A file is read for each call, as a watch may outlive a token.
func (a *app) tokenSource() func() (string, error) {
	if path := cmp.Or(a.secure.tokenFile, a.getenv("QUOTAD_TOKEN_FILE")); path != "" {
		return func() (string, error) {
			token, err := readToken(path)
			if err != nil {
				return "", fmt.Errorf("the token file: %w", err)
			}
			return token, nil
		}
	}
	if token := a.getenv("QUOTAD_TOKEN"); token != "" {
		return func() (string, error) {
			token, err := checkToken(token)
			if err != nil {
				return "", fmt.Errorf("QUOTAD_TOKEN: %w", err)
			}
			return token, nil
		}
	}
	return nil
}

func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // nothing was written to it
	text, err := io.ReadAll(io.LimitReader(f, tokenBytesMax+1))
	if err != nil {
		return "", err
	}
	token, err := checkToken(string(text))
	if err != nil {
		return "", fmt.Errorf("%s %w", path, err)
	}
	return token, nil
}

// checkToken returns a token without the white space around it. The error says what is wrong with it, and shows none of it: gRPC's own
// would.
func checkToken(text string) (string, error) {
	token := strings.TrimSpace(text)
	switch {
	case token == "":
		return "", errors.New("is empty; want a token")
	case len(text) > tokenBytesMax, strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("has something else than a token, of printable ASCII without spaces")
	}
	return token, nil
}

// bearer shows a token with each call, on connections that nobody else can read.
type bearer struct{ token func() (string, error) }

// GetRequestMetadata is part of credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := b.token()
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity is part of credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return true }
