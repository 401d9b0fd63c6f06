// Package auth says who is calling, and what they may do.
package auth

import (
	"context"
	"fmt"
	"slices"

	"github.com/quotad/quotad/internal/quota"
)

// Verb is a kind of thing that a policy allows. The zero value is none of them.
type Verb uint8

// What a policy may allow.
const (
	Acquire Verb = iota + 1 // take quota, extend what one has acquired oneself, and ask whether it could be taken
	Settle                  // settle and release what one has acquired oneself
	Inspect                 // look at counts, declarations and one's own reservations
	Admin                   // change what is declared and counted, and look at everybody's reservations
)

// Verbs returns every verb, in the order of their weight.
func Verbs() []Verb { return []Verb{Acquire, Settle, Inspect, Admin} }

var verbNames = [...]string{"", "acquire", "settle", "inspect", "admin"}

// String returns the verb as a policy writes it.
func (v Verb) String() string {
	if v == 0 || int(v) >= len(verbNames) {
		return fmt.Sprintf("verb(%d)", uint8(v))
	}
	return verbNames[v]
}

// ParseVerb reads a verb as String writes it.
func ParseVerb(s string) (Verb, error) {
	if i := slices.Index(verbNames[1:], s); i >= 0 {
		return Verb(i + 1), nil //nolint:gosec // one of four
	}
	return 0, fmt.Errorf("%q is no verb; want acquire, settle, inspect or admin", s)
}

// Principal is who is calling. The zero value is nobody, and may do nothing. Two that are equal are the same, under the same policy.
type Principal struct {
	// Name scopes request ids and is kept in the audit trail. It has no NUL; "" is nobody.
	Name string
	// Shown is the identity that it was recognised by; "" where there is no policy, and for one that showed none.
	Shown Identity

	grants *grants // nil: nothing
}

// grants is what one principal may do. It is not changed once a policy is in force.
type grants struct {
	all      bool
	patterns [Admin + 1][]Pattern
	inFlight int
}

// everything is what Local may do.
var everything = &grants{all: true}

// Local is everybody who reaches a daemon without a policy: on loopback or by a unix socket, as such a daemon listens nowhere else.
func Local() Principal { return Principal{Name: "local", grants: everything} }

// May tells whether p may do a thing with one bucket.
func (p Principal) May(v Verb, b quota.Bucket) bool {
	if p.grants == nil || v == 0 || v > Admin {
		return false
	}
	return p.grants.all || slices.ContainsFunc(p.grants.patterns[v], func(pattern Pattern) bool { return pattern.Matches(b) })
}

// MayDeclared tells whether p may do a thing with all that a declared name stands for: a bucket, or every bucket that a pattern of
// the buckets file matches.
func (p Principal) MayDeclared(v Verb, name string) bool {
	if p.grants == nil || v == 0 || v > Admin {
		return false
	}
	return p.grants.all || slices.ContainsFunc(p.grants.patterns[v], func(pattern Pattern) bool { return pattern.Covers(name) })
}

// MayAll tells whether p may do a thing with every bucket, and so with what belongs to none: the whole set, a backup.
func (p Principal) MayAll(v Verb) bool {
	if p.grants == nil || v == 0 || v > Admin {
		return false
	}
	return p.grants.all || slices.Contains(p.grants.patterns[v], Everything)
}

// MaySome tells whether there is any bucket that p may do a thing with.
func (p Principal) MaySome(v Verb) bool {
	if p.grants == nil || v == 0 || v > Admin {
		return false
	}
	return p.grants.all || len(p.grants.patterns[v]) > 0
}

// InFlightMax is how many calls p may have under way at a time; 0 means what the server allows anybody.
func (p Principal) InFlightMax() int {
	if p.grants == nil {
		return 0
	}
	return p.grants.inFlight
}

// Grants returns the patterns that p may do a thing with, as the policy has them; none for nothing.
func (p Principal) Grants(v Verb) []Pattern {
	switch {
	case p.grants == nil || v == 0 || v > Admin:
		return nil
	case p.grants.all:
		return []Pattern{Everything}
	}
	return slices.Clone(p.grants.patterns[v])
}

type contextKey struct{}

// Caller is who makes one call, and all that the call shows about them.
type Caller struct {
	Principal  Principal
	Identities []Identity // what counts most first; not to be changed
}

// NewContext returns a context that says who is calling, and nothing of what they showed.
func NewContext(ctx context.Context, p Principal) context.Context {
	return WithCaller(ctx, &Caller{Principal: p})
}

// WithCaller returns a context that says who is calling. The caller is not to be changed any more.
func WithCaller(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// CallerOf returns who is calling and what they showed; nil if nothing says.
func CallerOf(ctx context.Context) *Caller {
	c, _ := ctx.Value(contextKey{}).(*Caller)
	return c
}

// FromContext returns who is calling; nobody, and false, if nothing says.
func FromContext(ctx context.Context) (Principal, bool) {
	c := CallerOf(ctx)
	if c == nil {
		return Principal{}, false
	}
	return c.Principal, true
}
