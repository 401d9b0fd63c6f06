package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

var fifty = quota.Defaults{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 50}}, UndeclaredLive: 100}

// hooks is an engine with something to see or to go wrong.
type hooks struct {
	store.Engine
	before func() error               // an error stands for a write that failed
	after  func()                     // once it is durable
	tx     func(tx store.Tx) store.Tx // sees what is written
}

func (h *hooks) Update(ctx context.Context, fn func(store.Tx) error) error {
	if h.before != nil {
		if err := h.before(); err != nil {
			return err
		}
	}
	err := h.Engine.Update(ctx, func(tx store.Tx) error {
		if h.tx != nil {
			tx = h.tx(tx)
		}
		return fn(tx)
	})
	if err == nil && h.after != nil {
		h.after()
	}
	return err
}

// counting counts what a transaction writes.
type counting struct {
	store.Tx
	n *atomic.Int64
}

func (c counting) Put(space, key string, v []byte) error {
	c.n.Add(1)
	return c.Tx.Put(space, key, v)
}

func (c counting) Delete(space, key string) error {
	c.n.Add(1)
	return c.Tx.Delete(space, key)
}

func (c counting) Drop(space string) error {
	c.n.Add(1)
	return c.Tx.Drop(space)
}

func open(t *testing.T, e store.Engine, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), e, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openBolt(t testing.TB, dir string) store.Engine {
	t.Helper()
	e, err := boltengine.Open(dir, boltengine.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func closeStore(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// verified closes a store's file and reads all of it again.
func verified(t *testing.T, s *store.Store, dir string) store.Report {
	t.Helper()
	closeStore(t, s)
	e := openBolt(t, dir)
	defer e.Close()
	r, err := store.Verify(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Faults {
		t.Errorf("verify: %s", f)
	}
	return r
}

func acquire(bucket, id string, charges ...quota.Charge) quota.Acquire {
	op := quota.Acquire{Principal: "test", Bucket: quota.Bucket(bucket), RequestID: id, Charges: charges}
	if ps := op.Validate(); ps != nil {
		panic(fmt.Sprint(ps))
	}
	return op
}

func do(t *testing.T, s *store.Store, op quota.Op, want quota.Outcome) quota.Decision {
	t.Helper()
	d, err := s.Apply(t.Context(), op)
	if err != nil {
		t.Fatalf("%+v: %v", op, err)
	}
	if d.Outcome != want {
		t.Fatalf("%+v: %v, want %v (%v %v)", op, d.Outcome, want, d.Problems, d.Violations)
	}
	return d
}

func used(t *testing.T, s *store.Store, bucket string) int64 {
	t.Helper()
	v, err := s.Bucket(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range v.Balances {
		if b.Window.Span == window.Day {
			return b.Used
		}
	}
	return 0
}

// What was acknowledged is there after a restart, is charged once, and is remembered under its id.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for run := range 3 {
		s := open(t, openBolt(t, dir), store.Options{Defaults: fifty})
		for i := range 10 {
			d := do(t, s, acquire("portfolio", fmt.Sprintf("id-%d", i)), quota.Done)
			if d.Replayed != (run > 0) {
				t.Errorf("run %d: id-%d replayed: %v", run, i, d.Replayed)
			}
			if got := d.Balances[0].Used; run > 0 && got != 10 {
				t.Errorf("run %d: a replay shows %d used, want the current 10", run, got)
			}
		}
		do(t, s, acquire("portfolio", "id-3", quota.Charge{Amount: 2}), quota.IDReused)
		if got := used(t, s, "portfolio"); got != 10 {
			t.Errorf("run %d: used %d, want 10", run, got)
		}
		st := s.Status(t.Context())
		if !st.CleanStop || len(st.Problems) > 0 {
			t.Errorf("run %d: clean %v, problems %v", run, st.CleanStop, st.Problems)
		}
		r := verified(t, s, dir)
		if r.Receipts != 10 || r.Recounted != 1 || !r.Clean || r.Boots != int64(run+1) {
			t.Errorf("run %d: %+v", run, r)
		}
	}
}

// A denial, a refusal and a replay write nothing at all: not a byte, not a sync.
func TestRefusalsWriteNothing(t *testing.T) {
	var writes atomic.Int64
	e := &hooks{Engine: memengine.New(), tx: func(tx store.Tx) store.Tx { return counting{tx, &writes} }}
	s := open(t, e, store.Options{Defaults: fifty})
	defer closeStore(t, s)
	do(t, s, acquire("a", "first", quota.Charge{Amount: 50}), quota.Done)
	revision := s.Revision()
	writes.Store(0)
	do(t, s, acquire("a", "second"), quota.Denied)
	do(t, s, acquire("a", "first", quota.Charge{Amount: 50}), quota.Done)
	do(t, s, acquire("a", "first"), quota.IDReused)
	do(t, s, quota.SetBucket{Name: "a/../b"}, quota.Invalid)
	if writes.Load() != 0 || s.Revision() != revision {
		t.Errorf("%d writes, %d commits", writes.Load(), s.Revision()-revision)
	}
	do(t, s, acquire("b", ""), quota.Done)
	if writes.Load() == 0 {
		t.Error("the control, an acquire that is granted, wrote nothing")
	}
}

// An id is remembered for at least 24 hours, whenever on a day it was first sent, and over a restart in between.
func TestReceiptsLive(t *testing.T) {
	for _, hour := range []time.Duration{0, 12 * time.Hour, 24*time.Hour - time.Second} {
		t.Run(hour.String(), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(hour)
				s := open(t, openBolt(t, dir), store.Options{Defaults: fifty})
				do(t, s, acquire("a", "once"), quota.Done)
				time.Sleep(23 * time.Hour)
				closeStore(t, s)
				s = open(t, openBolt(t, dir), store.Options{Defaults: fifty})
				time.Sleep(time.Hour)
				d := do(t, s, acquire("a", "once"), quota.Done)
				if !d.Replayed || len(d.Balances) != 1 || d.Balances[0].Used != 1 {
					t.Errorf("after 24 hours: %+v", d)
				}
				time.Sleep(26 * time.Hour)
				if d := do(t, s, acquire("a", "once"), quota.Done); d.Replayed {
					t.Error("the control, after 50 hours, is still remembered")
				}
				closeStore(t, s)
			})
		})
	}
}

// Counts leave when their time is over, and not before; history keeps the limit that held then.
func TestRetention(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, openBolt(t, dir), store.Options{Defaults: fifty, Retain: 10 * 24 * time.Hour})
		settings := quota.Settings{Zone: "Asia/Tokyo"}
		for _, span := range window.Spans() {
			settings.Limits = append(settings.Limits, quota.Limit{Unit: quota.Calls, Span: span, Max: 1000})
		}
		do(t, s, quota.SetBucket{Name: "all", Settings: settings}, quota.Done)
		do(t, s, acquire("all", "id", quota.Charge{Amount: 3}), quota.Done)
		spaces := func(span window.Span) int {
			found, _, err := s.Usage(t.Context(), store.UsageQuery{Span: span, Max: 100})
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range found {
				if b.Used != 3 || b.Limit != quota.AtMost(1000) {
					t.Errorf("%v: %+v", span, b)
				}
			}
			return len(found)
		}
		days := func(n int) { time.Sleep(time.Duration(n) * 24 * time.Hour) }
		for _, step := range []struct {
			wait  int
			there map[window.Span]int
		}{
			{1, map[window.Span]int{window.Minute: 1, window.Hour: 1, window.Day: 1, window.Week: 1, window.Month: 1, window.Year: 1, window.Ever: 1}},
			{3, map[window.Span]int{window.Minute: 0, window.Hour: 0, window.Day: 1, window.Week: 1, window.Month: 1, window.Year: 1, window.Ever: 1}},
			{10, map[window.Span]int{window.Day: 0, window.Month: 1, window.Year: 1, window.Ever: 1}},
			{40, map[window.Span]int{window.Day: 0, window.Week: 0, window.Month: 0, window.Year: 1, window.Ever: 1}},
			{400, map[window.Span]int{window.Year: 0, window.Ever: 1}},
		} {
			days(step.wait)
			synctest.Wait()
			for span, want := range step.there {
				if got := spaces(span); got != want {
					t.Errorf("%v: %d counts of the %v, want %d", time.Now(), got, span, want)
				}
			}
		}
		verified(t, s, dir)
	})
}

// A record that fails its checksum is refused, never guessed, and its neighbours in the batch are not disturbed.
func TestDamagedRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, openBolt(t, dir), store.Options{Defaults: fifty})
	for _, b := range []string{"good", "bad"} {
		do(t, s, acquire(b, ""), quota.Done)
	}
	day := window.Day.At(time.Now(), time.UTC).Label
	closeStore(t, s)
	e := openBolt(t, dir)
	err := e.Update(t.Context(), func(tx store.Tx) error {
		space, key := "used/"+day, "bad\x00calls"
		v, err := tx.Get(space, key)
		if err != nil || v == nil {
			return fmt.Errorf("%q: %v %w", key, v, err)
		}
		v = append([]byte(nil), v...)
		v[2] ^= 1
		return tx.Put(space, key, v)
	})
	if err != nil {
		t.Fatal(err)
	}
	s = open(t, e, store.Options{Defaults: fifty})
	if st := s.Status(t.Context()); !st.CorruptSeen || len(st.Problems) != 1 || !strings.Contains(st.Problems[0], "bad") {
		t.Errorf("the start did not find it: %+v", st)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := s.Apply(t.Context(), acquire("bad", "")); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("the damaged count: %v", err)
			}
		})
		wg.Go(func() { do(t, s, acquire("good", ""), quota.Done) })
	}
	wg.Wait()
	if got := used(t, s, "good"); got != 21 {
		t.Errorf("good: %d, want 21", got)
	}
	closeStore(t, s)
	e = openBolt(t, dir)
	defer e.Close()
	r, err := store.Verify(t.Context(), e)
	if err != nil || len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "bad") {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

// A full disk refuses and nothing more: the store stays up and recovers by itself. A failed sync ends it.
func TestEngineFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fault atomic.Pointer[error]
		set := func(err error) { fault.Store(&err) }
		set(nil)
		e := &hooks{Engine: memengine.New(), before: func() error { return *fault.Load() }}
		s := open(t, e, store.Options{Defaults: fifty})
		set(fmt.Errorf("%w: really", store.ErrFull))
		if _, err := s.Apply(t.Context(), acquire("a", "id")); !errors.Is(err, store.ErrFull) {
			t.Errorf("full: %v", err)
		}
		if st := s.Status(t.Context()); !st.Full || len(st.Problems) == 0 {
			t.Errorf("full, and nobody says so: %+v", st)
		}
		set(nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := s.Status(t.Context()); st.Full {
			t.Error("there is room again, and the store did not find out by itself")
		}
		if d := do(t, s, acquire("a", "id"), quota.Done); d.Replayed {
			t.Error("what was refused for want of room had been kept")
		}
		set(fmt.Errorf("%w: input/output error", store.ErrUnknown))
		if _, err := s.Apply(t.Context(), acquire("a", "id2")); !errors.Is(err, store.ErrUnknown) {
			t.Errorf("failed sync: %v", err)
		}
		set(nil)
		select {
		case <-s.Failed():
		default:
			t.Error("Failed is not closed")
		}
		if _, err := s.Apply(t.Context(), acquire("a", "id3")); !errors.Is(err, store.ErrUnknown) {
			t.Errorf("after a failed sync: %v", err)
		}
		if _, err := s.Bucket(t.Context(), "a"); !errors.Is(err, store.ErrUnknown) {
			t.Errorf("reading after a failed sync: %v", err)
		}
		closeStore(t, s)
		if _, err := s.Apply(t.Context(), acquire("a", "id4")); !errors.Is(err, store.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// A start that cannot be trusted is refused: another program's data, a newer layout.
func TestSchema(t *testing.T) {
	for name, write := range map[string]func(store.Tx) error{
		"foreign": func(tx store.Tx) error { return tx.Put("stuff", "k", []byte("v")) },
		"damaged": func(tx store.Tx) error { return tx.Put("meta", "schema", []byte("garbage")) },
	} {
		e := memengine.New()
		if err := e.Update(t.Context(), write); err != nil {
			t.Fatal(err)
		}
		_, err := store.Open(t.Context(), e, store.Options{})
		if !errors.Is(err, store.ErrSchema) && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The ledger's clock never goes back, over restarts either, and does not follow a jump that the steady clock denies.
func TestClock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		var shift dial
		began := time.Now()
		o := store.Options{
			Defaults: fifty,
			Now:      func() time.Time { return time.Now().Add(shift.get()) },
			Uptime:   func() time.Duration { return time.Since(began) },
		}
		s := open(t, openBolt(t, dir), o)
		day := func() string { return do(t, s, acquire("a", ""), quota.Done).Balances[0].Window.Label }
		first := day()
		shift.set(25 * time.Hour)
		if got := day(); got != first {
			t.Errorf("a jump by a day was believed at once: %s", got)
		}
		if st := s.Status(t.Context()); !st.ClockHeld || len(st.Problems) == 0 {
			t.Errorf("nobody says that the clock is held: %+v", st)
		}
		time.Sleep(9 * time.Minute)
		if got := day(); got != first {
			t.Errorf("after 9 minutes: %s", got)
		}
		time.Sleep(2 * time.Minute)
		second := day()
		if second <= first {
			t.Errorf("after 11 minutes the jump is still not believed: %s", second)
		}
		shift.set(0)
		if got := day(); got != second {
			t.Errorf("the clock was set back, and the day went from %s to %s", second, got)
		}
		if st := s.Status(t.Context()); len(st.Problems) == 0 {
			t.Error("nobody says that the clock is behind the ledger")
		}
		closeStore(t, s)
		s = open(t, openBolt(t, dir), o)
		if got := day(); got != second {
			t.Errorf("after a restart the day went from %s to %s", second, got)
		}
		closeStore(t, s)
		o.AcceptClock = true
		s = open(t, openBolt(t, dir), o)
		if got := day(); got != first {
			t.Errorf("told to accept the clock, it is still %s", got)
		}
		page, err := s.Audit(t.Context(), store.AuditQuery{Max: 10})
		if err != nil || page.Records[0].Action != "accept_clock" {
			t.Errorf("%+v, %v", page, err)
		}
		verified(t, s, dir)
	})
}

// Confirmed time is believed: an idle daemon that wakes after a day is not held back.
func TestIdleDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memengine.New(), store.Options{Defaults: fifty})
		defer closeStore(t, s)
		for range 5 {
			do(t, s, acquire("a", "", quota.Charge{Amount: 50}), quota.Done)
			do(t, s, acquire("a", ""), quota.Denied)
			time.Sleep(24 * time.Hour)
		}
	})
}

// A restored backup gives nothing out until the day has ended, unless somebody opens a bucket on purpose.
func TestMarkRestored(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, openBolt(t, dir), store.Options{Defaults: fifty})
		do(t, s, quota.SetBucket{Name: "monthly", Settings: quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Month, Max: 9}}}}, quota.Done)
		do(t, s, quota.SetOverride{Bucket: "before", Limit: quota.AtMost(9)}, quota.Done)
		closeStore(t, s)
		e := openBolt(t, dir)
		until, err := store.MarkRestored(t.Context(), e, time.Now(), false, "test", "drill")
		if err != nil || time.Until(until) > 24*time.Hour || !until.After(time.Now()) {
			t.Errorf("until %v: %v", until, err)
		}
		s = open(t, e, store.Options{Defaults: fifty})
		for _, b := range []string{"monthly", "anything", "before"} {
			d := do(t, s, acquire(b, ""), quota.Denied)
			if !d.RetryAt.Equal(until) {
				t.Errorf("%s: retry at %v, want %v", b, d.RetryAt, until)
			}
		}
		do(t, s, quota.SetOverride{Bucket: "monthly", Limit: quota.AtMost(1)}, quota.Done)
		do(t, s, acquire("monthly", ""), quota.Done)
		do(t, s, acquire("monthly", ""), quota.Denied)
		time.Sleep(time.Until(until))
		do(t, s, acquire("monthly", ""), quota.Done)
		do(t, s, acquire("anything", ""), quota.Done)
		verified(t, s, dir)
	})
}

// Listings come in pages that fit together, whatever the page's size.
func TestPages(t *testing.T) {
	s := open(t, memengine.New(), store.Options{Defaults: fifty})
	defer closeStore(t, s)
	for i := range 25 {
		do(t, s, acquire(fmt.Sprintf("app/%02d", i), "", quota.Charge{Amount: 1}, quota.Charge{Unit: "tokens", Amount: 7}), quota.Done)
	}
	for i := range 5 {
		do(t, s, quota.SetBucket{Name: fmt.Sprintf("app/%02d", i*10), Reason: "because"}, quota.Done)
	}
	do(t, s, quota.SetBucket{Name: "app-other"}, quota.Done)
	for size := 1; size < 60; size += 7 {
		var names []string
		for after := ""; ; {
			views, next, err := s.Buckets(t.Context(), store.BucketQuery{Prefix: "app", After: after, Max: size})
			if err != nil || len(views) > size {
				t.Fatalf("%d of %d: %v", len(views), size, err)
			}
			for _, v := range views {
				names = append(names, v.Name)
			}
			if after = next; next == "" {
				break
			}
		}
		if len(names) != 27 || names[0] != "app/00" || names[26] != "app/40" {
			t.Errorf("pages of %d: %d buckets: %v", size, len(names), names)
		}
		var counts int
		for after := ""; ; {
			found, next, err := s.Usage(t.Context(), store.UsageQuery{Prefix: "app", Span: window.Day, After: after, Max: size})
			if err != nil || len(found) > size {
				t.Fatalf("%d of %d: %v", len(found), size, err)
			}
			counts += len(found)
			if after = next; next == "" {
				break
			}
		}
		if counts != 50 {
			t.Errorf("pages of %d: %d counts, want 50", size, counts)
		}
		var last int64
		audits := 0
		for before := int64(0); ; {
			page, err := s.Audit(t.Context(), store.AuditQuery{Prefix: "app", Before: before, Max: size})
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range page.Records {
				if last != 0 && a.Sequence >= last {
					t.Errorf("audit record %d after %d", a.Sequence, last)
				}
				last = a.Sequence
				audits++
			}
			if before = page.Next; before == 0 {
				break
			}
		}
		if audits != 5 {
			t.Errorf("pages of %d: %d audit records, want 5", size, audits)
		}
	}
}

// A large space leaves a piece at a time, and acquires are answered in between.
func TestLargeSpaceLeaves(t *testing.T) {
	e := &hooks{Engine: memengine.New()}
	var deletes atomic.Int64
	most := int64(0)
	synctest.Test(t, func(t *testing.T) {
		err := e.Update(t.Context(), func(tx store.Tx) error {
			for i := range 5000 {
				if err := tx.Put("receipts/1999-12-01", fmt.Sprintf("%05d", i), []byte{1}); err != nil {
					return err
				}
			}
			return tx.Put("meta", "schema", schemaRecord(t))
		})
		if err != nil {
			t.Fatal(err)
		}
		e.tx = func(tx store.Tx) store.Tx {
			most = max(most, deletes.Swap(0))
			return counting{tx, &deletes}
		}
		s := open(t, e, store.Options{Defaults: fifty})
		synctest.Wait()
		do(t, s, acquire("a", ""), quota.Done)
		closeStore(t, s)
	})
	if most < 1000 || most > 1100 {
		t.Errorf("the largest transaction deleted %d", most)
	}
}

// schemaRecord returns the record by which a store knows its own.
func schemaRecord(t *testing.T) []byte {
	t.Helper()
	e := memengine.New()
	keep := &hooks{Engine: e}
	closeStore(t, open(t, noClose{keep}, store.Options{}))
	var record []byte
	err := e.View(t.Context(), func(tx store.Tx) error {
		v, err := tx.Get("meta", "schema")
		record = append([]byte(nil), v...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return record
}

type noClose struct{ store.Engine }

func (noClose) Close() error { return nil }
