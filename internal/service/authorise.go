package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
)

// everyBucket stands in a refusal for what belongs to no bucket alone.
const everyBucket = string(auth.Everything)

// asked is what a caller has to be allowed for one request: a verb, on every name.
type asked struct {
	verb  auth.Verb
	names []string // buckets, and patterns of declarations; everyBucket for all there are
}

// askedOf tells what an op asks of its caller. It is the only place that says so for changes; an op that is not told apart here is
// refused, so that one that was forgotten is not open to all. Parents that are charged along are not asked for: whoever declared them
// has decided that those below them count.
func askedOf(op quota.Op) (asked, error) {
	switch op := op.(type) {
	case quota.Acquire:
		return asked{auth.Acquire, charged(op.Charges, op.Bucket)}, nil
	case quota.Extend:
		// What the reservation charges already is in the ledger alone, which asks for it by Extend.May.
		return asked{auth.Acquire, charged(op.Charges)}, nil
	case quota.Settle, quota.Release:
		// The id is the caller's own, and the ledger lets it name no bucket that it did not charge then. To ask for more would refuse
		// what was spent already because a policy has changed since.
		return asked{auth.Settle, nil}, nil
	case quota.SetBucket:
		return asked{auth.Admin, []string{op.Name}}, nil
	case quota.DeleteBucket:
		return asked{auth.Admin, []string{op.Name}}, nil
	case quota.SetOverride:
		return asked{auth.Admin, []string{string(op.Bucket)}}, nil
	case quota.Reset:
		return asked{auth.Admin, []string{string(op.Bucket)}}, nil
	case quota.ApplySet:
		return asked{auth.Admin, []string{everyBucket}}, nil
	default:
		return asked{}, fmt.Errorf("a caller cannot make a %T", op)
	}
}

// charged returns the buckets that are named, each once, in their order. A charge of an extension may name none: it is then its
// reservation's own.
func charged(charges []quota.Charge, names ...quota.Bucket) []string {
	for _, c := range charges {
		names = append(names, c.Bucket)
	}
	var out []string
	for _, b := range names {
		if b != "" && !slices.Contains(out, string(b)) {
			out = append(out, string(b))
		}
	}
	return out
}

// texts returns the names of buckets.
func texts(buckets []quota.Bucket) []string {
	names := make([]string, len(buckets))
	for i, b := range buckets {
		names[i] = string(b)
	}
	return names
}

// authorise returns nil if who may do what is asked, else a refusal that names all that is refused.
func authorise(who auth.Principal, a asked) error {
	if !who.MaySome(a.verb) {
		return notAllowed(who, a.verb, a.names)
	}
	var refused []string
	for _, name := range a.names {
		if !may(who, a.verb, name) {
			refused = append(refused, name)
		}
	}
	if len(refused) > 0 {
		return notAllowed(who, a.verb, refused)
	}
	return nil
}

// may tells whether who may do a thing with a bucket, a declared pattern or, as everyBucket, all. What is no name at all is left to
// the ledger to refuse, for who may do it with all of them.
func may(who auth.Principal, v auth.Verb, name string) bool {
	switch {
	case name == everyBucket:
		return who.MayAll(v)
	case who.MayDeclared(v, name):
		return true
	}
	return quota.CheckPattern(name) != nil && who.MayAll(v)
}

// sight is what one caller may look at. Every list is filtered through it, so that nothing of another tenant's bucket is shown. A
// page that is filtered may be short, or empty, and yet not be the last: one request reads at most filteredReads times.
type sight struct {
	s    *Service
	who  auth.Principal
	all  bool // nothing is hidden
	each bool // no reservation is hidden
}

// filteredReads is how often one request reads the ledger for a page of which something may be hidden.
const filteredReads = 20

func (s *Service) sightOf(who auth.Principal) sight {
	return sight{s: s, who: who, all: who.MayAll(auth.Inspect), each: who.MayAll(auth.Admin)}
}

// failure turns an error of the ledger into a status that tells nothing of what is hidden.
func (s sight) failure(ctx context.Context, err error) error {
	if s.all {
		return failure(err)
	}
	told, level := hiddenFailure(err), slog.LevelDebug
	if isDefect(told) { // which nothing else tells of
		level = slog.LevelWarn
	}
	s.s.c.Log.Log(ctx, level, "a call of one who may not see everything failed", "told", told, "error", err)
	return told
}

// bucket tells whether a bucket or a declared pattern may be shown.
func (s sight) bucket(name string) bool {
	return s.all || name != "" && s.who.MayDeclared(auth.Inspect, name)
}

// audit tells whether a record of the audit trail may be shown. One without a bucket concerns everybody.
func (s sight) audit(r quota.AuditRecord) bool { return s.bucket(r.Bucket) }

// reservation returns a reservation as it may be shown; false if not at all. One's own is shown whole; somebody else's to who may
// admin its bucket, without what it charged to buckets that they may not admin.
func (s sight) reservation(r quota.Reservation) (quota.Reservation, bool) {
	switch {
	case s.each, s.who.Name != "" && r.Principal == s.who.Name:
		return r, true
	case !s.who.May(auth.Admin, r.Bucket):
		return quota.Reservation{}, false
	}
	r.Charges = slices.DeleteFunc(slices.Clone(r.Charges), func(c quota.HeldCharge) bool { return !s.who.May(auth.Admin, c.Bucket) })
	return r, true
}

// narrow returns the part of a prefix that may hold anything to be shown; false if none does. It saves reading what is hidden, and
// hides nothing by itself.
func (s sight) narrow(prefix quota.Bucket) (quota.Bucket, bool) {
	if s.all {
		return prefix, true
	}
	var root quota.Bucket
	for i, pattern := range s.who.Grants(auth.Inspect) {
		if own := literal(pattern); i == 0 {
			root = own
		} else {
			root = common(root, own)
		}
	}
	switch {
	case root.Within(prefix):
		return root, true
	case prefix.Within(root):
		return prefix, true
	}
	return "", false
}

// literal returns the bucket that all that a pattern matches is within.
func literal(p auth.Pattern) quota.Bucket {
	b := quota.Bucket(p)
	for b != "" && quota.IsPattern(string(b)) {
		b = b.Parent()
	}
	return b
}

// common returns the lowest bucket that both are within; "" if none is.
func common(a, b quota.Bucket) quota.Bucket {
	for !b.Within(a) {
		a = a.Parent()
	}
	return a
}
