package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// refusing is an engine whose commits fail, if told so, after everything was decided and written.
type refusing struct {
	store.Engine
	refuse bool
	spaces []string // that the transaction before wrote to, sorted
}

func (r *refusing) Update(ctx context.Context, fn func(store.Tx) error) error {
	return r.Engine.Update(ctx, func(tx store.Tx) error {
		r.spaces = nil
		if err := fn(noting{tx, r}); err != nil {
			return err
		}
		if r.refuse {
			return store.ErrFull
		}
		return nil
	})
}

// noting notes where a transaction writes.
type noting struct {
	store.Tx
	r *refusing
}

func (n noting) Put(space, key string, record []byte) error {
	n.r.spaces = append(n.r.spaces, space+" "+key)
	return n.Tx.Put(space, key, record)
}

func (n noting) Delete(space, key string) error {
	n.r.spaces = append(n.r.spaces, space+" "+key)
	return n.Tx.Delete(space, key)
}

// auditedOp is an op of an administrator with the records that it must leave. It is asked of a ledger in which before was done.
type auditedOp struct {
	name   string
	before []quota.Op
	op     quota.Op
	writes string // a record that the change consists of, as space and key; "" if the audit record is all there is
	want   []quota.AuditRecord
}

func callsADay(n int64) quota.Settings {
	return quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: n}}}
}

// auditedOps is every op that an administrator has. What is left out of a record is the time and the number.
var auditedOps = []auditedOp{
	{
		"a declaration", nil,
		quota.SetBucket{Principal: "alice", Reason: "new", Name: "a", Settings: callsADay(5)},
		"settings a",
		[]quota.AuditRecord{{Principal: "alice", Action: "set_bucket", Bucket: "a", After: "5 calls/day", Reason: "new"}},
	},
	{
		"another declaration",
		[]quota.Op{quota.SetBucket{Name: "a", Settings: callsADay(5)}},
		quota.SetBucket{Principal: "alice", Reason: "more", Name: "a", Settings: quota.Settings{Limits: callsADay(6).Limits, Zone: "Asia/Tokyo"}},
		"settings a",
		[]quota.AuditRecord{{Principal: "alice", Action: "set_bucket", Bucket: "a", Before: "5 calls/day", After: "6 calls/day; zone Asia/Tokyo", Reason: "more"}},
	},
	{
		"the same declaration",
		[]quota.Op{quota.SetBucket{Name: "a", Settings: callsADay(5)}},
		quota.SetBucket{Principal: "alice", Name: "a", Settings: callsADay(5)},
		"", nil,
	},
	{
		"the end of a declaration",
		[]quota.Op{quota.SetBucket{Name: "a", Settings: callsADay(5)}},
		quota.DeleteBucket{Principal: "alice", Reason: "old", Name: "a"},
		"settings a",
		[]quota.AuditRecord{{Principal: "alice", Action: "delete_bucket", Bucket: "a", Before: "5 calls/day", Reason: "old"}},
	},
	{
		"a whole set",
		[]quota.Op{quota.SetBucket{Name: "a", Settings: callsADay(1)}, quota.SetBucket{Name: "b", Settings: callsADay(2)}, quota.SetBucket{Name: "c", Settings: callsADay(3)}},
		quota.ApplySet{Principal: "alice", Reason: "all", Source: quota.SourceAPI, Buckets: map[string]quota.Settings{"b": callsADay(2), "c": callsADay(4), "d": callsADay(5)}},
		"settings d",
		[]quota.AuditRecord{
			{Principal: "alice", Action: "apply", Bucket: "a", Before: "1 calls/day", Reason: "all"},
			{Principal: "alice", Action: "apply", Bucket: "c", Before: "3 calls/day", After: "4 calls/day", Reason: "all"},
			{Principal: "alice", Action: "apply", Bucket: "d", After: "5 calls/day", Reason: "all"},
		},
	},
	{
		"the look at a whole set", nil,
		quota.ApplySet{Principal: "alice", Source: quota.SourceAPI, Buckets: map[string]quota.Settings{"b": callsADay(2)}, ValidateOnly: true},
		"", nil,
	},
	{
		"the buckets file", nil,
		quota.ApplySet{Principal: "quotad", Source: quota.SourceFile, Buckets: map[string]quota.Settings{"f": callsADay(2)}},
		"settings f",
		[]quota.AuditRecord{{Principal: "quotad", Action: "apply", Bucket: "f", After: "2 calls/day; from the buckets file"}},
	},
	{
		"an override",
		[]quota.Op{quota.SetBucket{Name: "a", Settings: callsADay(5)}, acquire("a", "")},
		quota.SetOverride{Principal: "alice", Reason: "today", Bucket: "a", Limit: quota.AtMost(9)},
		"used/2000-01-01 a\x00calls",
		[]quota.AuditRecord{{
			Principal: "alice", Action: "set_override", Bucket: "a", Reason: "today",
			Before: "calls/day 2000-01-01: used 1 of 5", After: "calls/day 2000-01-01: used 1 of 9 (override)",
		}},
	},
	{
		"the end of an override",
		[]quota.Op{quota.SetOverride{Bucket: "a", Limit: quota.AtMost(9)}},
		quota.SetOverride{Principal: "alice", Bucket: "a"},
		"used/2000-01-01 a\x00calls",
		[]quota.AuditRecord{{
			Principal: "alice", Action: "set_override", Bucket: "a",
			Before: "calls/day 2000-01-01: used 0 of 9 (override)", After: "calls/day 2000-01-01: used 0 of 50",
		}},
	},
	{
		"a reset",
		[]quota.Op{acquire("a", "", quota.Charge{Amount: 3}, quota.Charge{Unit: "tokens", Amount: 7})},
		quota.Reset{Principal: "alice", Reason: "a mistake", Bucket: "a"},
		"used/2000-01-01 a\x00tokens",
		[]quota.AuditRecord{{
			Principal: "alice", Action: "reset", Bucket: "a", Reason: "a mistake",
			Before: "calls/day 2000-01-01: used 3 of 50; tokens/day 2000-01-01: used 7", After: "calls/day 2000-01-01: used 0 of 50; tokens/day 2000-01-01: used 0",
		}},
	},
	{"a reset of nothing", nil, quota.Reset{Principal: "alice", Bucket: "a"}, "", nil},
	{
		"the look at a reset",
		[]quota.Op{acquire("a", "")},
		quota.Reset{Principal: "alice", Bucket: "a", ValidateOnly: true},
		"", nil,
	},
	{
		"defaults", nil,
		quota.Configure{Principal: "quotad", Defaults: quota.Defaults{Limits: callsADay(8).Limits, Zone: "Asia/Tokyo", UndeclaredLive: 7}},
		"meta defaults",
		[]quota.AuditRecord{{Principal: "quotad", Action: "configure", Before: fifty.String(), After: quota.Defaults{Limits: callsADay(8).Limits, Zone: "Asia/Tokyo", UndeclaredLive: 7}.String()}},
	},
	{"the same defaults", nil, quota.Configure{Principal: "quotad", Defaults: fifty}, "", nil},
	{
		"the day of a restoration", nil,
		quota.Exhaust{Principal: "alice", Reason: "a disk"},
		"meta defaults",
		[]quota.AuditRecord{{Principal: "alice", Action: "restore", Reason: "a disk", After: "limited units are exhausted until the day ends"}},
	},
	{
		"what a file declared becomes the API's",
		[]quota.Op{quota.ApplySet{Source: quota.SourceFile, Buckets: map[string]quota.Settings{"f": callsADay(2), "g": {}}}},
		quota.Adopt{Principal: "quotad"},
		"settings f",
		[]quota.AuditRecord{
			{Principal: "quotad", Action: "adopt", Bucket: "f", Before: "2 calls/day; from the buckets file", After: "2 calls/day"},
			{Principal: "quotad", Action: "adopt", Bucket: "g", Before: "counted only; from the buckets file", After: "counted only"},
		},
	},
	{
		"a note", nil,
		quota.Note{Principal: "quotad", Action: "access", Before: "2 principals", After: "3 principals", Reason: "read anew"},
		"",
		[]quota.AuditRecord{{Principal: "quotad", Action: "access", Before: "2 principals", After: "3 principals", Reason: "read anew"}},
	},
	{"a refused declaration", nil, quota.SetBucket{Principal: "alice", Name: "not a name"}, "", nil},

	{"an acquire", nil, acquire("a", "id"), "used/2000-01-01 a\x00calls", nil},
	{"a reservation", nil, reserving("a", "id", time.Hour), "used/2000-01-01 a\x00calls", nil},
	{"its settlement", []quota.Op{reserving("a", "id", time.Hour)}, settling("id"), "used/2000-01-01 a\x00calls", nil},
	{"its release", []quota.Op{reserving("a", "id", time.Hour)}, releasing("id"), "used/2000-01-01 a\x00calls", nil},
	{"its extension", []quota.Op{reserving("a", "id", time.Minute)}, extending("id", "", time.Hour), "receipts/2000-01-01 test\x00id", nil},
	{"an expiry", nil, quota.Expire{Max: 1}, "", nil},
}

// newAudited makes a ledger in which what comes before an op was done.
func newAudited(t *testing.T, c auditedOp) (*store.Store, *refusing, []quota.AuditRecord) {
	t.Helper()
	e := &refusing{Engine: memengine.New()}
	s := open(t, noClose{e}, store.Options{Defaults: fifty})
	synctest.Wait() // what the keeper does at the start
	for _, op := range c.before {
		do(t, s, op, quota.Done)
	}
	return s, e, trailNow(t, s)
}

// trailNow returns the whole trail, the oldest first.
func trailNow(t *testing.T, s *store.Store) []quota.AuditRecord {
	t.Helper()
	page, err := s.Audit(t.Context(), store.AuditQuery{Max: store.PageMax})
	if err != nil || page.Next != 0 {
		t.Fatal(page.Next, err)
	}
	slices.Reverse(page.Records)
	return page.Records
}

// Every change that an administrator makes leaves its record, one for each bucket that changed, with who, what, before, after and why;
// in the transaction that makes the change.
func TestEveryChangeIsAudited(t *testing.T) {
	for _, c := range auditedOps {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, e, before := newAudited(t, c)
				time.Sleep(1500 * time.Millisecond)
				e.spaces = nil
				if _, err := s.Apply(t.Context(), c.op); err != nil {
					t.Fatal(err)
				}
				wrote := e.spaces
				left := trailNow(t, s)[len(before):]
				if len(left) != len(c.want) {
					t.Fatalf("%d records: %+v", len(left), left)
				}
				for i, want := range c.want {
					want.Sequence, want.Time, want.Hash = int64(len(before)+i)+1, bubbleAt(1500*time.Millisecond), left[i].Hash
					if diff := cmp.Diff(want, left[i]); diff != "" {
						t.Error(diff)
					}
				}
				if c.writes != "" && !slices.Contains(wrote, c.writes) {
					t.Errorf("the transaction did not write %q, but %q", c.writes, wrote)
				}
				audits := 0
				for _, w := range wrote {
					if strings.HasPrefix(w, "audit/") {
						audits++
					}
				}
				if audits != len(c.want) {
					t.Errorf("the transaction of the change wrote %d audit records: %q", audits, wrote)
				}
				closeStore(t, s)
				wholeTrail(t, e)
			})
		})
	}
}

// A commit that fails leaves neither the change nor its record.
func TestFailedChangeLeavesNoRecord(t *testing.T) {
	for _, c := range auditedOps {
		if c.want == nil {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, e, _ := newAudited(t, c)
				before := unload(t, e)
				e.refuse = true
				if _, err := s.Apply(t.Context(), c.op); !errors.Is(err, store.ErrFull) {
					t.Fatal(err)
				}
				if !slices.ContainsFunc(e.spaces, func(w string) bool { return strings.HasPrefix(w, "audit/") }) {
					t.Errorf("the control: the transaction that failed had no audit record: %q", e.spaces)
				}
				if diff := cmp.Diff(before, unload(t, e), cmp.AllowUnexported(filed{})); diff != "" {
					t.Error(diff)
				}
				e.refuse = false
				if _, err := s.Apply(t.Context(), c.op); err != nil { // the number that was not used is used now
					t.Error(err)
				}
				closeStore(t, s)
				wholeTrail(t, e)
			})
		})
	}
}

// The list above has every op that there is.
func TestAuditedOpsAreAll(t *testing.T) {
	source, err := os.ReadFile("../quota/op.go")
	if err != nil {
		t.Fatal(err)
	}
	covered := make(map[string]bool)
	for _, c := range auditedOps {
		name := strings.TrimPrefix(fmt.Sprintf("%T", c.op), "quota.")
		covered[name] = covered[name] || c.want != nil || slices.Contains([]string{"Acquire", "Settle", "Release", "Extend", "Expire"}, name)
	}
	ops := regexp.MustCompile(`(?m)^func \((\w+)\) isOp\(\)`).FindAllStringSubmatch(string(source), -1)
	if len(ops) < 14 {
		t.Fatalf("found %d ops", len(ops))
	}
	for _, op := range ops {
		if !covered[op[1]] {
			t.Errorf("nothing shows what record quota.%s leaves", op[1])
		}
	}
}
