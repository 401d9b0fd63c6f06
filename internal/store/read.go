package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// looksMax is how many records one page looks at, so that a view is short however little it finds. A page that reaches it ends
// there, perhaps with nothing on it, and says where the next one starts.
const looksMax = 20_000

// ErrPageToken means that a query's After is not what a page before ended with.
var ErrPageToken = errors.New("store: not a page token of ours")

// view runs fn on a snapshot, at the time by which the ledger counts. Reservations that are due by then are expired first, as far
// as one transaction does and if it can, so that nobody reads of them as open.
func (s *Store) view(ctx context.Context, fn func(*state) error) error {
	behind := false
	err := s.snapshot(ctx, func(st *state) error {
		due, err := st.Due(st.now, 1)
		if behind = len(due) > 0; behind || err != nil {
			return err
		}
		return fn(st)
	})
	if !behind {
		return err
	}
	if _, err := s.do(ctx, request{op: quota.Expire{Max: expireMax}}); err != nil {
		s.log.Debug("expiring before a reading", "error", err)
	}
	return s.snapshot(ctx, fn)
}

// snapshot runs fn on a snapshot as it is.
func (s *Store) snapshot(ctx context.Context, fn func(*state) error) error {
	if err := s.broken(); err != nil {
		return err
	}
	return s.engine.View(ctx, func(tx Tx) error {
		st := newState(tx, s.Now(), new(window.Cache), &s.books)
		st.damaged, st.passed = s.damaged, &s.passed
		return fn(st)
	})
}

// Check tells what an acquire would be answered now, and charges nothing. It keeps to the time at which it was asked, so that what
// falls due meanwhile does not put it off.
func (s *Store) Check(ctx context.Context, op quota.Acquire) (d quota.Decision, err error) {
	for now := s.Now(); ; {
		err = s.snapshot(ctx, func(st *state) error {
			st.now = now
			d, err = quota.Check(st, now, op)
			return err
		})
		if err != nil || d.Outcome != quota.Behind {
			return d, err
		}
		if err := s.catchUp(ctx); err != nil {
			return quota.Decision{}, err
		}
	}
}

// Bucket returns a bucket, or a declared pattern, as it stands.
func (s *Store) Bucket(ctx context.Context, name string) (v quota.View, err error) {
	err = s.view(ctx, func(st *state) error {
		v, err = quota.Look(st, st.now, name)
		return err
	})
	return v, err
}

// Buckets returns a page of buckets and patterns by name: those declared, and those with a count in a current window. next is
// the After of the page that follows; "" at the end.
func (s *Store) Buckets(ctx context.Context, q BucketQuery) (views []quota.View, next string, err error) {
	err = s.view(ctx, func(st *state) error {
		names, err := st.names(q)
		if err != nil {
			return err
		}
		if len(names) > q.Max {
			names = names[:q.Max]
			next = names[q.Max-1]
		}
		for _, name := range names {
			v, err := quota.Look(st, st.now, name)
			if err != nil {
				return err
			}
			views = append(views, v)
		}
		return nil
	})
	return views, next, err
}

// names returns at least the first q.Max+1 names of a listing, if there are as many, in order and each once.
func (s *state) names(q BucketQuery) ([]string, error) {
	book, err := s.Book()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range book.Names() {
		if name > q.After && quota.Bucket(name).Within(q.Prefix) {
			names = append(names, name)
		}
	}
	if !q.DeclaredOnly {
		for span, spaces := range s.currentSpaces(book) {
			for _, space := range spaces {
				counted, err := s.counted(book, span, space, q)
				if err != nil {
					return nil, err
				}
				names = append(names, counted...)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// currentSpaces returns where current windows have their counts. Minutes and hours are left out: whatever is counted is counted
// by the day as well.
func (s *state) currentSpaces(book *quota.Book) map[window.Span][]string {
	spaces := make(map[window.Span][]string)
	for _, zone := range book.Zones() {
		for _, span := range window.Spans() {
			space := ""
			if !short(span) {
				space = accountSpace(span, s.windows.At(span, s.now, zone).Label)
			}
			if space != "" && !slices.Contains(spaces[span], space) {
				spaces[span] = append(spaces[span], space)
			}
		}
	}
	return spaces
}

// counted returns the first q.Max+1 buckets for which a space is that of their current window, and which have a count in it.
func (s *state) counted(book *quota.Book, span window.Span, space string, q BucketQuery) ([]string, error) {
	from := string(q.Prefix)
	if q.After > from {
		from = q.After + "\x01" // past all the counts of that bucket
	}
	var names []string
	err := s.tx.Scan(space, from, func(key string, _ []byte) bool {
		name, _, _ := strings.Cut(key, "\x00")
		if !strings.HasPrefix(name, string(q.Prefix)) {
			return false
		}
		fresh := len(names) == 0 || names[len(names)-1] != name
		if fresh && name > q.After && quota.Bucket(name).Within(q.Prefix) {
			if w := s.windows.At(span, s.now, book.Zone(quota.Bucket(name))); accountSpace(span, w.Label) == space {
				names = append(names, name)
			}
		}
		return len(names) <= q.Max
	})
	return names, err
}

// Usage returns a page of counts, the oldest window first, each with the limit that held when it was last charged; those of
// current windows as they stand. next is the After of the page that follows; "" at the end.
func (s *Store) Usage(ctx context.Context, q UsageQuery) (balances []quota.Balance, next string, err error) {
	err = s.view(ctx, func(st *state) error {
		spaces, err := st.usageSpaces(q)
		if err != nil {
			return err
		}
		u := usage{state: st, q: q}
		if q.After != "" {
			var ok bool
			if u.space, u.key, ok = strings.Cut(q.After, "\x00"); !ok {
				return fmt.Errorf("%q: %w", q.After, ErrPageToken)
			}
		}
		for _, space := range spaces {
			if err := u.scan(space); err != nil {
				return err
			}
			if u.next != "" {
				break
			}
		}
		balances, next = u.found, u.next
		return nil
	})
	return balances, next, err
}

// usageSpaces returns the spaces that a query is about, the oldest first.
func (s *state) usageSpaces(q UsageQuery) ([]string, error) {
	prefix := usedAt[q.Span]
	var spaces []string
	err := s.tx.Spaces(prefix, func(space string) bool {
		if !strings.HasPrefix(space, prefix) {
			return false
		}
		label := space[len(prefix):]
		if label >= q.From && (q.To == "" || label <= q.To) {
			spaces = append(spaces, space)
		}
		return true
	})
	return spaces, err
}

// usage is a listing of counts under way.
type usage struct {
	*state
	q          UsageQuery
	space, key string // the count that was looked at last, for this page or the one before
	looked     int
	found      []quota.Balance
	next       string
}

// scan lists the counts of one space, until the page is full.
func (u *usage) scan(space string) error {
	from := string(u.q.Prefix)
	switch {
	case space < u.space:
		return nil
	case space == u.space && u.key >= from:
		from = u.key + "\x00"
	}
	var bad error
	err := u.tx.Scan(space, from, func(key string, record []byte) bool {
		if !strings.HasPrefix(key, string(u.q.Prefix)) {
			return false
		}
		var more bool
		more, bad = u.take(space, key, record)
		return more && bad == nil
	})
	if err == nil {
		err = bad
	}
	return err
}

// take lists one count, if it is asked for; more is false when the page is full.
func (u *usage) take(space, key string, record []byte) (more bool, err error) {
	k, err := parseAccount(u.q.Span, space, key)
	if err != nil {
		return false, err
	}
	skip := !k.Bucket.Within(u.q.Prefix) || u.q.Unit != "" && k.Unit != u.q.Unit
	if u.looked++; u.looked > looksMax || !skip && len(u.found) == u.q.Max {
		u.next = u.space + "\x00" + u.key
		return false, nil
	}
	u.space, u.key = space, key
	if skip {
		return true, nil
	}
	a, err := parseAccountRecord(record, space, key)
	if err != nil {
		return false, err
	}
	u.found = append(u.found, u.balance(k, a))
	return true, nil
}

// balance returns a count with the limit in force, or the one that held then where its window has ended.
func (s *state) balance(k quota.AccountKey, a quota.Account) quota.Balance {
	if a.End.After(s.now) || k.Span == window.Ever {
		if v, err := quota.Current(s, k, a); err == nil {
			return v
		}
	}
	return quota.Past(k, a)
}

// AuditPage is a page of the audit trail.
type AuditPage struct {
	Records []quota.AuditRecord // newest first
	Next    int64               // the Before of the page that follows; 0 at the end
	Chain   quota.AuditChain    // where the chain began and ended when the page was read
}

// Audit returns a page of the audit trail.
func (s *Store) Audit(ctx context.Context, q AuditQuery) (page AuditPage, err error) {
	err = s.view(ctx, func(st *state) error {
		if page.Chain, err = st.auditChain(); err != nil {
			return err
		}
		t := trail{state: st, q: q, before: q.Before}
		if t.before == 0 {
			t.before = page.Chain.Head.Sequence + 1
		}
		spaces, err := st.spacesOf(auditAt)
		if err != nil {
			return err
		}
		slices.Reverse(spaces)
		for _, space := range spaces {
			if more, err := t.read(space); err != nil || !more {
				page.Records, page.Next = t.found, t.before
				return err
			}
		}
		page.Records, page.Next = t.found, 0
		return nil
	})
	return page, err
}

// trail is a listing of audit records under way.
type trail struct {
	*state
	q      AuditQuery
	before int64 // records with a lower number are still to be looked at
	looked int
	found  []quota.AuditRecord
}

// trailPiece is how many records are read at a time. Engines read forward, and the trail is read backward.
const trailPiece = 256

// read lists the records of one date, newest first; more is false when the page is full.
func (t *trail) read(space string) (more bool, err error) {
	first := int64(math.MaxInt64)
	err = t.tx.Scan(space, "", func(key string, _ []byte) bool {
		first, err = auditNumber(space, key)
		return false
	})
	if err != nil {
		return false, err
	}
	for t.before > first {
		piece, err := t.piece(space, max(first, t.before-trailPiece))
		if err != nil {
			return false, err
		}
		for _, a := range slices.Backward(piece) {
			if len(t.found) == t.q.Max || t.looked == looksMax {
				return false, nil
			}
			t.looked++
			t.before = a.Sequence
			if quota.Bucket(a.Bucket).Within(t.q.Prefix) {
				t.found = append(t.found, a)
			}
		}
		t.before = min(t.before, max(first, t.before-trailPiece))
	}
	return true, nil
}

// piece returns the records of a date from a number on that are still to be looked at.
func (t *trail) piece(space string, from int64) ([]quota.AuditRecord, error) {
	var piece []quota.AuditRecord
	var bad error
	err := t.tx.Scan(space, auditKey(from), func(key string, record []byte) bool {
		var a quota.AuditRecord
		if a, bad = parseAudit(record, space, key); bad != nil || a.Sequence >= t.before {
			return false
		}
		piece = append(piece, a)
		return true
	})
	if err == nil {
		err = bad
	}
	return piece, err
}

// Status tells how the store is.
func (s *Store) Status(ctx context.Context) Status {
	st := Status{
		Start: s.start, LedgerTime: s.Now(), Queue: s.committer.Len(), Commits: s.Revision(), Retain: s.o.Retain,
		CleanStop: s.cleanStop, RetentionLag: int(s.lag.Load()), Overloaded: s.overload.Load(), ClockAhead: s.clock.ahead(),
	}
	if e, ok := s.engine.(Sizer); ok {
		st.Bytes, st.Most = e.Size()
	}
	if e, ok := s.engine.(Viewer); ok {
		st.Views, st.OldestView = e.Views()
	}
	s.mu.Lock()
	p, failure := s.problems, s.failure
	s.mu.Unlock()
	st.Full, st.CorruptSeen = p.full, p.damaged != ""
	if failure != nil {
		st.Problems = append(st.Problems, failure.Error())
	}
	if p.full {
		st.Problems = append(st.Problems, "there is no room to write: every acquire is refused until there is")
	}
	if p.damaged != "" {
		st.Problems = append(st.Problems, p.damaged)
	}
	clock, held := s.clock.problem()
	if clock != "" {
		st.Problems = append(st.Problems, clock)
	}
	st.ClockHeld = held
	err := s.view(ctx, func(v *state) error {
		book, err := v.Book()
		if err != nil {
			return err
		}
		st.Defaults, st.Declared = book.Defaults(), book.Len()
		zone, err := window.LoadZone(st.Defaults.Zone)
		if err != nil {
			return err
		}
		if st.Undeclared, err = v.number(namesAt+window.Day.At(v.now, zone).Label, keyCount); err != nil {
			return err
		}
		if st.Open, err = v.number(spaceMeta, keyOpen); err != nil {
			return err
		}
		head, err := v.auditPoint(keyAudit)
		st.Audited = head.Sequence
		return err
	})
	if err != nil && failure == nil {
		st.Problems = append(st.Problems, err.Error())
	}
	return st
}
