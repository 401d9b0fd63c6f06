package auth

import (
	"errors"
	"sync/atomic"
	"time"
)

// ErrUnknownToken means that a token was shown which is not known, was revoked, or has expired.
var ErrUnknownToken = errors.New("auth: the token is unknown, revoked or expired")

// Access is a policy and the tokens that it speaks of: who is whom, and who may what. It never changes; a new one takes its place.
type Access struct {
	policy *policy // nil: everybody is Local
	tokens map[tokenHash]token
}

// OpenAccess is that of a daemon without a policy: everybody is Local.
func OpenAccess() *Access { return &Access{} }

// Policy tells whether there is one. Without it everybody is Local.
func (a *Access) Policy() bool { return a.policy != nil }

// Gate holds the access that is in force, and lets another take its place while calls go on. The zero value lets everybody in as
// Local.
type Gate struct{ now atomic.Pointer[Access] }

// Set makes an access the one in force, whole.
func (g *Gate) Set(a *Access) { g.now.Store(a) }

// Get returns the access that is in force. The same pointer means that nothing has changed.
func (g *Gate) Get() *Access {
	if a := g.now.Load(); a != nil {
		return a
	}
	return open
}

var open = OpenAccess()

// Principal returns who shows these identities, what counts most first: the first of them that the policy knows. If it knows none,
// nobody, with the first that was shown.
func (a *Access) Principal(ids []Identity) Principal {
	if a.policy == nil {
		return Local()
	}
	return a.policy.principal(ids)
}

// Token returns the identity that a bearer token stands for. ErrUnknownToken says that it stands for none.
func (a *Access) Token(secret string, now time.Time) (Identity, error) {
	t, ok := a.tokens[hashToken(secret)]
	if !ok || !t.expires.IsZero() && !now.Before(t.expires) {
		return "", ErrUnknownToken
	}
	return t.identity, nil
}
