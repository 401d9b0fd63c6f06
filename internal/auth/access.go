package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// ErrUnknownToken means that a token was shown which is not known, was revoked, or has expired.
var ErrUnknownToken = errors.New("auth: the token is unknown, revoked or expired")

// Access is a policy and the tokens that it speaks of: who is whom, and who may what. It never changes; a new one takes its place.
type Access struct {
	policy *Policy // nil: everybody is Local
	tokens Tokens
	byHash map[TokenHash]string // names of tokens
}

// OpenAccess is that of a daemon without a policy: everybody is Local.
func OpenAccess() *Access { return &Access{} }

// NewAccess joins a policy and the tokens that it speaks of. Neither is to be changed any more.
func NewAccess(p *Policy, tokens Tokens) *Access {
	a := &Access{policy: p, tokens: tokens, byHash: make(map[TokenHash]string, len(tokens))}
	for name, t := range tokens {
		a.byHash[t.Hash] = name
	}
	return a
}

// LoadAccess reads a policy file and a tokens file; "" for tokens means that there are none. What is wrong in a file is an error that
// has a strictyaml.Faults in it; all that is wrong in both is said.
func LoadAccess(policyPath, tokensPath string) (*Access, error) {
	policy, err := LoadPolicy(policyPath)
	var tokens Tokens
	if tokensPath != "" {
		var wrong error
		tokens, wrong = LoadTokens(tokensPath)
		err = errors.Join(err, wrong)
	}
	if err != nil {
		return nil, err
	}
	return NewAccess(policy, tokens), nil
}

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
// nobody, with the first that was shown. Who shows a token that the policy does not know is nobody, whatever else is shown.
func (a *Access) Principal(ids []Identity) Principal {
	if a.policy == nil {
		return Local()
	}
	return a.policy.principal(ids)
}

// Token returns the identity that a bearer token stands for. ErrUnknownToken says that it stands for none.
func (a *Access) Token(secret string, now time.Time) (Identity, error) {
	if !isSecret(secret) {
		return "", ErrUnknownToken
	}
	name, known := a.byHash[hashToken(secret)]
	if !known || a.tokens[name].Expired(now) {
		return "", ErrUnknownToken
	}
	return Identity(tokenScheme + name), nil
}

// Principals is how many principals the policy has.
func (a *Access) Principals() int {
	if a.policy == nil {
		return 0
	}
	return len(a.policy.byName)
}

// Tokens is how many tokens there are, with those that have expired.
func (a *Access) Tokens() int { return len(a.tokens) }

// Unused returns what is more likely a slip than meant, a line each, sorted: tokens that no principal has, and tokens that the policy
// speaks of and that do not exist.
func (a *Access) Unused() []string {
	if a.policy == nil {
		return nil
	}
	var lines []string
	for name := range a.tokens {
		if a.policy.byIdentity[Identity(tokenScheme+name)] == nil {
			lines = append(lines, fmt.Sprintf("token %s is no principal's, and opens nothing", name))
		}
	}
	for id, r := range a.policy.byIdentity {
		name, token := id.token()
		if _, exists := a.tokens[name]; token && !exists {
			lines = append(lines, fmt.Sprintf("principal %s is token:%s, and there is no such token", r.name, name))
		}
	}
	slices.Sort(lines)
	return lines
}

// Sum returns the SHA-256, in hex, of what the access means: two have the same if the same callers may do the same. The order of a
// file, its comments, and when a token was made mean nothing.
func (a *Access) Sum() string {
	h := sha256.New()
	say(h, "quotad access 1", fmt.Sprint(a.policy != nil))
	if a.policy != nil {
		for _, name := range slices.Sorted(maps.Keys(a.policy.byName)) {
			r := a.policy.byName[name]
			say(h, "principal", name, fmt.Sprint(r.grants.inFlight))
			for _, id := range slices.Sorted(slices.Values(r.is)) {
				say(h, "is", string(id))
			}
			for _, v := range Verbs() {
				for _, p := range slices.Sorted(slices.Values(r.grants.patterns[v])) {
					say(h, "may", v.String(), string(p))
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.tokens)) {
		t := a.tokens[name]
		say(h, "token", name, t.Hash.String(), t.Expires.UTC().Format(time.RFC3339Nano))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// say adds words to a sum, so that no two lists of words are the same to it.
func say(h hash.Hash, words ...string) {
	fmt.Fprintf(h, "%q\n", words) // which takes everything
}
