package quota_test

import (
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// grant is an acquire that was granted, with all that became of it.
type grant struct {
	id      quota.ReceiptKey // the zero value if it has none
	op      quota.Acquire    // as it was said
	n       int              // when it was granted, among the ops
	made    time.Time
	takes   []take
	keys    []quota.AccountKey // the counts it touches, each once, in the order in which they were met
	buckets []quota.Bucket     // the buckets it charges, each once

	reserve  bool
	onExpiry quota.OnExpiry
	expiry   time.Time
	extends  map[string]quota.Extend // its extensions by id, as they were said

	expired, settled, released int // when it was, among the ops; 0 if it was not
	late                       bool
	ended                      time.Time
	actual                     map[spot]int64 // what it was settled with
}

// spot is what is charged: a unit of a bucket.
type spot struct {
	bucket quota.Bucket
	unit   quota.Unit
}

// take is one charge of an acquire or of an extension; its amount is 0 if only the settlement named it.
type take struct {
	spot
	amount, used int64
}

// line is a take as one count sees it.
type line struct {
	grant *grant
	take  int
}

func (l line) of() take { return l.grant.takes[l.take] }

// open tells whether a reservation has not ended.
func (g *grant) open() bool { return g.reserve && g.expired+g.settled+g.released == 0 }

// phase returns how far it has come; one whose time is over has expired, whether anybody has seen to that or not.
func (g *grant) phase(now time.Time) quota.Phase {
	switch {
	case g.settled > 0:
		return quota.PhaseSettled
	case g.released > 0:
		return quota.PhaseReleased
	case !g.reserve:
		return quota.PhaseUsed
	case g.expired > 0 || !now.Before(g.expiry):
		return quota.PhaseExpired
	}
	return quota.PhaseOpen
}

// held returns what a line holds of its count.
func (l line) held() int64 {
	if l.grant.open() {
		return l.of().amount
	}
	return 0
}

// used returns what a line has in its count's used: what came of it in the end, and a reset forgets it for good.
func (m *model) used(key quota.AccountKey, l line) int64 {
	g, t := l.grant, l.of()
	resetAfter := func(n int) bool { return slices.ContainsFunc(m.resets[key], func(r int) bool { return r > n }) }
	charged := g.expired > 0 && g.onExpiry == quota.ExpiryCharge
	switch {
	case g.released > 0 || g.open():
		return 0
	case g.settled > 0 && resetAfter(g.settled):
		return 0
	case g.settled > 0 && charged && resetAfter(g.expired): // what the expiry had charged is forgotten, and is not given back
		return max(0, t.used-t.amount)
	case g.settled > 0:
		return t.used
	case charged && !resetAfter(g.expired):
		return t.amount
	case !g.reserve && !resetAfter(g.n):
		return t.amount
	}
	return 0
}

// account works a count out from everything that was granted.
func (m *model) account(key quota.AccountKey) quota.Account {
	a := m.marks[key]
	a.Resets = uint32(len(m.resets[key]))
	a.Told = m.told(key)
	for _, l := range m.lines[key] {
		used := m.used(key, l)
		a.Used += used
		a.Held += l.held()
		if l.grant.id.RequestID != "" {
			a.Receipted += used
		}
	}
	return a
}

// accounts works several counts out.
func (m *model) accounts(keys []quota.AccountKey) []quota.Account {
	all := make([]quota.Account, len(keys))
	for i, key := range keys {
		all[i] = m.account(key)
	}
	return all
}

// mark notes what is kept of a count besides its amounts.
func (m *model) mark(a ask) {
	mark := m.marks[a.key]
	mark.Limit, mark.Start, mark.End = a.declared, earliest(mark.Start, a.win.Start), a.win.End
	m.marks[a.key] = mark
}

// add notes that a grant takes something of some counts.
func (m *model) add(g *grant, t take, keys []quota.AccountKey) {
	for _, key := range keys {
		m.lines[key] = append(m.lines[key], line{g, len(g.takes)})
		if !slices.Contains(g.keys, key) {
			g.keys = append(g.keys, key)
		}
		if !slices.Contains(g.buckets, key.Bucket) {
			g.buckets = append(g.buckets, key.Bucket)
		}
	}
	g.takes = append(g.takes, t)
}

// openOn returns how many reservations are open on a bucket.
func (m *model) openOn(b quota.Bucket) int64 {
	var n int64
	for _, g := range m.grants {
		if g.open() && slices.Contains(g.buckets, b) {
			n++
		}
	}
	return n
}

// due returns the open reservations whose time is over, the first to expire first.
func (m *model) due(now time.Time) []*grant {
	var due []*grant
	for _, g := range m.grants {
		if g.open() && !now.Before(g.expiry) {
			due = append(due, g)
		}
	}
	slices.SortFunc(due, func(a, b *grant) int {
		switch {
		case !a.expiry.Equal(b.expiry):
			return a.expiry.Compare(b.expiry)
		case a.id.Principal != b.id.Principal:
			return compareTexts(a.id.Principal, b.id.Principal)
		}
		return compareTexts(a.id.RequestID, b.id.RequestID)
	})
	return due
}

func compareTexts(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// earliest returns the start of a count whose window was b and is c: a change of zone never moves it later.
func earliest(b, c time.Time) time.Time {
	if b.IsZero() || b.After(c) {
		return c
	}
	return b
}
