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
	ids     []auth.Identity       // what counts most first
	private bool                  // over TLS or a unix socket, so that a bearer token may be sent
	known   atomic.Pointer[known] // by ids; written by the guard
	token   atomic.Pointer[known] // by the bearer token that came last; written by the guard
	end     func()                // closes the connection; set with the handshake, and not changed after
}

// known is who a connection was found to be, and under which access: that one alone, as a new policy may say otherwise.
type known struct {
	access  *auth.Access
	caller  *auth.Caller
	load    *load // of all who are the same principal
	calls   int64 // how many may be under way at a time
	streams int64 // how many streams may be open at a time
	watches int64 // how many health watches
}

// AuthType is part of credentials.AuthInfo.
func (*shown) AuthType() string { return "quotad" }
