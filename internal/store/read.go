package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// ErrPageToken means that a query's After is not what a page before ended with.
var ErrPageToken = errors.New("store: not a page token of ours")

// view runs fn on a snapshot, at the time by which the ledger counts.
func (s *Store) view(ctx context.Context, fn func(*state) error) error {
	if err := s.broken(); err != nil {
		return err
	}
	return s.engine.View(ctx, func(tx Tx) error {
		return fn(newState(tx, s.now(), new(window.Cache), &s.books))
	})
}

// Check tells what an acquire would be answered now, and changes nothing.
func (s *Store) Check(ctx context.Context, op quota.Acquire) (d quota.Decision, err error) {
	err = s.view(ctx, func(st *state) error {
		d, err = quota.Check(st, st.now, op)
		return err
	})
	return d, err
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
		for _, span := range window.Spans() {
			if short(span) {
				continue // whatever is counted is counted by the day as well
			}
			for _, space := range openSpaces(span, s.now) {
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
	space, key string // the count that was listed last, on this page or the one before
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
	if !k.Bucket.Within(u.q.Prefix) || u.q.Unit != "" && k.Unit != u.q.Unit {
		return true, nil
	}
	if len(u.found) == u.q.Max {
		u.next = u.space + "\x00" + u.key
		return false, nil
	}
	a, err := parseAccountRecord(record, space, key)
	if err != nil {
		return false, err
	}
	u.found = append(u.found, u.balance(k, a))
	u.space, u.key = space, key
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

// Audit returns a page of the audit trail, newest first. next is the Before of the page that follows; 0 at the end.
func (s *Store) Audit(ctx context.Context, q AuditQuery) (records []quota.AuditRecord, next int64, err error) {
	err = s.view(ctx, func(st *state) error {
		var spaces []string
		err := st.tx.Spaces(auditAt, func(space string) bool {
			if !strings.HasPrefix(space, auditAt) {
				return false
			}
			spaces = append(spaces, space)
			return true
		})
		if err != nil {
			return err
		}
		slices.Reverse(spaces)
		for _, space := range spaces {
			found, err := st.audits(space, q)
			if err != nil {
				return err
			}
			records = append(records, found...)
			if len(records) > q.Max {
				records = records[:q.Max]
				next = records[q.Max-1].Sequence
				break
			}
		}
		return nil
	})
	return records, next, err
}

// audits returns what a query asks for of one date's records, newest first.
func (s *state) audits(space string, q AuditQuery) ([]quota.AuditRecord, error) {
	var found []quota.AuditRecord
	var bad error
	err := s.tx.Scan(space, "", func(key string, record []byte) bool {
		var a quota.AuditRecord
		if a, bad = parseAudit(record, space, key); bad != nil {
			return false
		}
		if q.Before > 0 && a.Sequence >= q.Before {
			return false
		}
		if quota.Bucket(a.Bucket).Within(q.Prefix) {
			found = append(found, a)
		}
		return true
	})
	slices.Reverse(found)
	if err == nil {
		err = bad
	}
	return found, err
}

func parseAudit(record []byte, space, key string) (quota.AuditRecord, error) {
	var r auditRecord
	if err := parseJSON(record, space, key, &r); err != nil {
		return quota.AuditRecord{}, err
	}
	var sequence int64
	if n, err := fmt.Sscanf(key, "%016x", &sequence); n != 1 {
		return quota.AuditRecord{}, fmt.Errorf("%w: %q in %s is not the key of an audit record: %w", ErrCorrupt, key, space, err)
	}
	return quota.AuditRecord{
		Sequence: sequence, Time: time.UnixMilli(r.Time).UTC(), Principal: r.Principal, Action: r.Action,
		Bucket: r.Bucket, Before: r.Before, After: r.After, Reason: r.Reason,
	}, nil
}

// Status tells how the store is.
func (s *Store) Status(ctx context.Context) Status {
	st := Status{
		Start: s.start, LedgerTime: s.now(), Queue: s.committer.Len(), Commits: s.Revision(), Retain: s.o.Retain,
		CleanStop: s.cleanStop, RetentionLag: int(s.lag.Load()),
	}
	if e, ok := s.engine.(Sizer); ok {
		st.Bytes, st.Most = e.Size()
	}
	s.mu.Lock()
	p, failure := s.problems, s.failure
	s.mu.Unlock()
	st.Full, st.ClockHeld, st.CorruptSeen = p.full, p.held, p.damaged != ""
	if failure != nil {
		st.Problems = append(st.Problems, failure.Error())
	}
	if p.full {
		st.Problems = append(st.Problems, "there is no room to write: every acquire is refused until there is")
	}
	if p.damaged != "" {
		st.Problems = append(st.Problems, p.damaged)
	}
	if p.clock != "" {
		st.Problems = append(st.Problems, p.clock)
	}
	err := s.view(ctx, func(v *state) error {
		book, err := v.Book()
		if err != nil {
			return err
		}
		st.Defaults, st.Declared = book.Defaults(), len(book.Names())
		zone, err := window.LoadZone(st.Defaults.Zone)
		if err != nil {
			return err
		}
		st.Undeclared, err = v.number(namesAt+window.Day.At(v.now, zone).Label, keyCount)
		return err
	})
	if err != nil && failure == nil {
		st.Problems = append(st.Problems, err.Error())
	}
	return st
}
