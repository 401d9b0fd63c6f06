package auth

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/quotad/quotad/internal/strictyaml"
)

// PolicyBytesMax is how large a policy file may be.
const PolicyBytesMax = 1 << 20

const (
	principalsMax = 10_000
	identitiesMax = 1_000   // of one principal
	patternsMax   = 1_000   // of one principal, of all verbs together
	inFlightMax   = 100_000 // of one principal
)

// Policy is who is whom, and who may what. It never changes.
type Policy struct {
	byName     map[string]*rule
	byIdentity map[Identity]*rule
}

// rule is one principal of a policy.
type rule struct {
	name   string
	is     []Identity
	grants *grants
}

// principal returns who shows these identities. A token is shown on purpose, so that it speaks for its caller alone: one that the
// policy does not know must not have what belongs to the connection that it came by, which may be that of a proxy.
func (p *Policy) principal(ids []Identity) Principal {
	for _, id := range ids {
		if r := p.byIdentity[id]; r != nil {
			return Principal{Name: r.name, Shown: id, grants: r.grants}
		}
		if _, token := id.token(); token {
			break
		}
	}
	if len(ids) > 0 {
		return Principal{Shown: ids[0]}
	}
	return Principal{}
}

// LoadPolicy reads a policy file. What is wrong in it is an error of type strictyaml.Faults.
func LoadPolicy(path string) (*Policy, error) {
	src, err := readFile(path, PolicyBytesMax)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return ParsePolicy(path, src)
}

// ParsePolicy reads the content of a policy file; name is what errors call it. The error is of type strictyaml.Faults, with all that
// is wrong.
func ParsePolicy(name string, src []byte) (*Policy, error) {
	form := policyForm()
	f, entries := form.open(name, src)
	if len(entries) > principalsMax {
		f.Fault(entries[principalsMax].At, "this is principal %d; at most %d", principalsMax+1, principalsMax)
		entries = entries[:principalsMax]
	}
	r := policyReader{File: f, policy: &Policy{byName: make(map[string]*rule), byIdentity: make(map[Identity]*rule)}}
	for _, e := range entries {
		r.principal(e)
	}
	if err := form.err(f); err != nil {
		return nil, err
	}
	return r.policy, nil
}

func policyForm() form {
	return form{
		key: "principals", bytesMax: PolicyBytesMax,
		empty:  `lets nobody do anything; want "principals:" and who they are, or "principals: {}" if that is meant`,
		secret: regexp.MustCompile(fmt.Sprintf("%s[A-Za-z0-9_-]{%d}", secretPrefix, secretLen-len(secretPrefix))),
		masked: regexp.MustCompile(fmt.Sprintf("[A-Za-z0-9_-]{%d,}", secretLen-len(secretPrefix))), // a token, however it is written
	}
}

// policyReader is a policy while it is read.
type policyReader struct {
	*strictyaml.File
	policy *Policy
}

func (r policyReader) principal(e strictyaml.Entry) {
	if err := checkPrincipalName(e.Key); err != nil {
		r.Fault(e.At, "%v", err)
	}
	p := &rule{name: e.Key, grants: &grants{}}
	r.policy.byName[e.Key] = p
	var is, may bool
	for _, k := range r.Mapping(e.Value, shorten(e.Key)) {
		switch k.Key {
		case "is":
			is = true
			r.identities(p, k)
		case "may":
			may = true
			r.grants(p, k)
		case "in_flight":
			r.inFlight(p, k)
		default:
			r.Fault(k.At, "unknown key %q%s", shorten(k.Key), strictyaml.Instead(k.Key, []string{"is", "may", "in_flight"}, strconv.Quote))
		}
	}
	if e.Value.Kind != strictyaml.Mapping {
		return // which is a fault already
	}
	if !is {
		r.Fault(e.At, `%s is nobody; want what it is recognised by, such as is: ["uid:1000", "token:%s"]`, shorten(e.Key), shorten(e.Key))
	}
	if !may {
		r.Fault(e.At, "%s may do nothing; want what it may do, such as may: {acquire: [acme/**]}", shorten(e.Key))
	}
}

func (r policyReader) identities(p *rule, e strictyaml.Entry) {
	items := r.List(e)
	if e.Value.Kind == strictyaml.List && len(items) == 0 {
		r.Fault(e.At, "%s is nobody; want what it is recognised by, such as uid:1000", shorten(p.name))
	}
	for i, n := range items {
		if i == identitiesMax {
			r.Fault(n.At, "this is identity %d; a principal has at most %d", i+1, identitiesMax)
			return
		}
		text, ok := r.Scalar(e, n)
		if !ok {
			continue
		}
		id := Identity(text)
		if err := id.Check(); err != nil {
			r.Fault(n.At, "%v", err)
			continue
		}
		if other := r.policy.byIdentity[id]; other != nil {
			r.Fault(n.At, "%s is %s already; who shows it has to be one principal", id, shorten(other.name))
			continue
		}
		r.policy.byIdentity[id] = p
		p.is = append(p.is, id)
	}
}

func (r policyReader) grants(p *rule, e strictyaml.Entry) {
	verbs := r.Mapping(e.Value, "may")
	if e.Value.Kind == strictyaml.Mapping && len(verbs) == 0 {
		r.Fault(e.At, "%s may do nothing; want what it may do, such as acquire: [acme/**]", shorten(p.name))
	}
	total := 0
	for _, k := range verbs {
		verb, err := ParseVerb(k.Key)
		if err != nil {
			r.Fault(k.At, "unknown verb %q%s", shorten(k.Key), strictyaml.Instead(k.Key, verbNames[1:], strconv.Quote))
		}
		items := r.List(k)
		if k.Value.Kind == strictyaml.List && len(items) == 0 {
			r.Fault(k.At, "%s allows nothing; want buckets such as acme/**, or leave it out", shorten(k.Key))
		}
		for _, n := range items {
			if total++; total > patternsMax {
				r.Fault(n.At, "this is pattern %d; a principal has at most %d: use one such as acme/**", total, patternsMax)
				return
			}
			r.pattern(p, verb, k, n)
		}
	}
}

// pattern reads one pattern of a verb; 0 is one that does not exist.
func (r policyReader) pattern(p *rule, verb Verb, e strictyaml.Entry, n strictyaml.Node) {
	text, ok := r.Scalar(e, n)
	if !ok {
		return
	}
	pattern := Pattern(text)
	if err := pattern.Check(); err != nil {
		r.Fault(n.At, "%v", err)
		return
	}
	if slices.Contains(p.grants.patterns[verb], pattern) {
		r.Fault(n.At, "%s stands in %s already; keep one", pattern, shorten(e.Key))
		return
	}
	p.grants.patterns[verb] = append(p.grants.patterns[verb], pattern)
}

func (r policyReader) inFlight(p *rule, e strictyaml.Entry) {
	text, ok := r.Scalar(e, e.Value)
	if !ok {
		return
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > inFlightMax || strconv.Itoa(n) != text {
		r.Fault(e.Value.At, "in_flight is %q; want how many calls may be under way at a time, 1 to %d", shorten(text), inFlightMax)
		return
	}
	p.grants.inFlight = n
}
