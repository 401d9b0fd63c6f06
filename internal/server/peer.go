package server

import (
	"sync/atomic"

	"google.golang.org/grpc/credentials"

	"github.com/quotad/quotad/internal/auth"
)

// shown is what a connection shows about who is at its other end. The handshake makes it, once for a connection; the guard reads it
// with every call.
type shown struct {
	credentials.CommonAuthInfo
	ids     []auth.Identity // what counts most first
	private bool            // over TLS or a unix socket, so that a bearer token may be sent
	known   atomic.Pointer[known]
}

// known is who a connection was found to be, and under which access: that one alone, as a new policy may say otherwise.
type known struct {
	access *auth.Access
	caller *auth.Caller
}

// AuthType is part of credentials.AuthInfo.
func (*shown) AuthType() string { return "quotad" }
