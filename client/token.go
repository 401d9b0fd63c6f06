package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// tokenBytesMax is how much of a token's file is read: many times as much as a token has.
const tokenBytesMax = 4096

// WithToken sends what token returns with every call, as a bearer token: who quotad takes the client for. It is asked for each call,
// so that a token may be replaced while the client runs; it must be quick, and safe for concurrent use. An error of it is
// UNAUTHENTICATED, and its text is in that of the call. A token goes over TLS and unix sockets alone: Dial refuses one over TCP in the
// clear, even to this machine. It is for Dial; New refuses it, as the connection is not its own.
func WithToken(token func() (string, error)) Option {
	return func(o *options) error {
		if token == nil {
			return errors.New("WithToken: the function is nil")
		}
		o.token = token
		return nil
	}
}

// WithTokenFile is WithToken with the content of a file, without the white space around it. The file is read for each call, so that
// a new token in its place is used at once; Dial looks at it, too, and its error says what is wrong.
func WithTokenFile(path string) Option {
	return func(o *options) error {
		read := func() (string, error) { return readToken(path) }
		if _, err := read(); err != nil {
			return fmt.Errorf("WithTokenFile: %w", err)
		}
		o.token = read
		return nil
	}
}

// readToken returns the token that a file has. No error shows any of it.
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
	token := strings.TrimSpace(string(text))
	if len(text) > tokenBytesMax {
		return "", fmt.Errorf("%s has more than %d bytes; want a token and nothing else", path, tokenBytesMax)
	}
	if err := checkToken(token); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return token, nil
}

// checkToken tells what is wrong with a token before gRPC would say it, with the token in what it says.
func checkToken(token string) error {
	if token == "" {
		return errors.New("the token is empty")
	}
	if len(token) > tokenBytesMax || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("that is not a token; want up to %d bytes of printable ASCII without spaces", tokenBytesMax)
	}
	return nil
}

// bearer sends a token with each call. It looks at the connection by itself: what gRPC would say of one that is not private is
// UNAVAILABLE, at which a client may fail open.
type bearer struct {
	token func() (string, error)
}

// GetRequestMetadata is part of credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	on, _ := credentials.RequestInfoFromContext(ctx)
	if on.AuthInfo == nil || credentials.CheckSecurityLevel(on.AuthInfo, credentials.PrivacyAndIntegrity) != nil {
		return nil, status.Error(codes.Unauthenticated, "a token is not sent in the clear: the connection is neither TLS nor a unix socket")
	}
	token, err := b.token()
	if err == nil {
		err = checkToken(token)
	}
	if err != nil {
		return nil, status.Errorf(codes.Unauthenticated, "there is no token to send: %v", err)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity is part of credentials.PerRPCCredentials. GetRequestMetadata sees to it.
func (bearer) RequireTransportSecurity() bool { return false }
