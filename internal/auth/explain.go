package auth

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// Explanation is whether somebody may do something, and why.
type Explanation struct {
	// Allowed tells whether.
	Allowed bool
	// Principal is who it was asked of, by their name in the policy; "" if it is nobody there.
	Principal string
	// Reason is what decided, in a line, for people.
	Reason string
}

// Explain tells whether somebody may do a thing with a bucket, with all that a declared pattern stands for, or with everything ("**").
// who is a principal's name in the policy, or an identity; now is when, as a token may have expired by then. It answers from what May, MayDeclared and MayAll answer from. What cannot
// be asked is not allowed, and the reason says what would be right.
func (a *Access) Explain(who string, v Verb, name string, now time.Time) Explanation {
	if a.policy == nil {
		return Explanation{Allowed: true, Principal: Local().Name, Reason: "there is no policy: whoever reaches quotad may do everything"}
	}
	if v == 0 || v > Admin {
		return Explanation{Reason: fmt.Sprintf("%s is no verb; want acquire, settle, inspect or admin", v)}
	}
	if name != string(Everything) {
		if err := quota.CheckPattern(name); err != nil {
			return Explanation{Reason: "bucket " + err.Error()}
		}
	}
	r, why := a.find(who)
	if r == nil {
		return Explanation{Reason: why}
	}
	if id, token := Identity(who).token(); token {
		t, exists := a.tokens[id]
		until := t.Expires.UTC().Format(time.RFC3339)
		switch {
		case !exists:
			return Explanation{Principal: r.name, Reason: fmt.Sprintf("%s is token:%s, but there is no such token: nobody can show it", r.name, id)}
		case t.Expired(now):
			return Explanation{Principal: r.name, Reason: fmt.Sprintf("%s is token:%s, but that token was accepted until %s: nobody can show it any more", r.name, id, until)}
		case !t.Expires.IsZero():
			why = fmt.Sprintf("; token:%s is accepted until %s", id, until)
		}
	}
	p := Principal{Name: r.name, grants: r.grants}
	allowed := p.MayDeclared(v, name)
	if name == string(Everything) {
		allowed = p.MayAll(v)
	}
	return Explanation{Allowed: allowed, Principal: r.name, Reason: p.because(allowed, v, name) + why}
}

// find returns the principal that is meant; else nil and why there is none.
func (a *Access) find(who string) (r *rule, why string) {
	if r := a.policy.byName[who]; r != nil {
		return r, ""
	}
	id := Identity(who)
	if r := a.policy.byIdentity[id]; r != nil {
		return r, ""
	}
	if id.Check() == nil {
		return nil, fmt.Sprintf("%s is no principal of the policy, and may do nothing", who)
	}
	return nil, fmt.Sprintf("%q is no principal of the policy, and no identity such as uid:1000, token:ci, dns:chat.acme.example or spiffe://acme.example/chat", shorten(who))
}

// because says what it was that decided.
func (p Principal) because(allowed bool, v Verb, name string) string {
	patterns := p.grants.patterns[v]
	if allowed {
		i := slices.IndexFunc(patterns, func(pattern Pattern) bool {
			return pattern == Everything || pattern.Covers(name)
		})
		return fmt.Sprintf("%s may %s %s", p.Name, v, patterns[i])
	}
	if len(patterns) == 0 {
		return fmt.Sprintf("%s may %s nothing", p.Name, v)
	}
	const shown = 10
	list := make([]string, 0, shown)
	for _, pattern := range patterns[:min(shown, len(patterns))] {
		list = append(list, string(pattern))
	}
	text := strings.Join(list, ", ")
	if more := len(patterns) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more patterns", more)
	}
	return fmt.Sprintf("%s may %s %s and nothing else", p.Name, v, text)
}
