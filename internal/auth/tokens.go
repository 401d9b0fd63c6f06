package auth

import (
	"crypto/sha256"
	"time"
)

// tokenHash is all that is kept of a token. The tokens are 256 random bits, so that one pass of SHA-256 keeps them; a look-up by the
// hash tells nothing about the token by how long it takes.
type tokenHash [sha256.Size]byte

// token is one bearer token that is in force.
type token struct {
	identity Identity
	expires  time.Time // zero: never
}

func hashToken(secret string) tokenHash { return sha256.Sum256([]byte(secret)) }
