package store_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/window"
)

var update = flag.Bool("update", false, "write the fixture of the current layout anew")

// fixtureDefaults is what the fixtures were written under.
var fixtureDefaults = quota.Defaults{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 50}}, Zone: "Europe/Berlin", UndeclaredLive: 7}

// released says what the fixtures of released layouts are, by their SHA-256: they are never written again.
var released = map[int64]string{
	1: "21fe808fc6ce1ad6c1efb7c43d441706b01519d35e54f43c3b203b9058a1517c",
	2: "36af24c0529583e51926bde7dcf872f5b98d3b55627485a389ea0f3858035cf9",
}

// writeFixture makes a ledger with something of everything in it. It runs in a bubble, where it is always 2000-01-01.
func writeFixture(t *testing.T, dir string) {
	t.Helper()
	s := open(t, openBolt(t, dir), store.Options{Defaults: fixtureDefaults})
	var limits []quota.Limit
	for _, span := range window.Spans() {
		limits = append(limits, quota.Limit{Unit: "tokens", Span: span, Max: 1000})
	}
	do(t, s, quota.SetBucket{Principal: "test", Name: "acme", Reason: "a fixture", Settings: quota.Settings{
		Limits: limits, Zone: "Asia/Kolkata", OnExpiry: quota.ExpiryRelease, Description: "all windows",
	}}, quota.Done)
	do(t, s, quota.ApplySet{Source: quota.SourceFile, Buckets: map[string]quota.Settings{"file/*": {}}}, quota.Done)
	do(t, s, acquire("acme/alice", "receipt-1", quota.Charge{Unit: "tokens", Amount: 30}, quota.Charge{Amount: 2}), quota.Done)
	do(t, s, acquire("undeclared", "receipt-2"), quota.Done)
	do(t, s, quota.SetOverride{Bucket: "undeclared", Limit: quota.AtMost(2)}, quota.Done)
	do(t, s, acquire("file/one", ""), quota.Done)
	do(t, s, quota.Reset{Bucket: "file/one"}, quota.Done)
	do(t, s, acquire("file/one", "receipt-3", quota.Charge{Amount: 4}), quota.Done)
	writeReservations(t, s)
	writeEvents(t, s)
	closeStore(t, s)
}

// writeEvents adds what layout 3 added besides the hashes of audit records: an event, and a count that says that it was told.
func writeEvents(t *testing.T, s *store.Store) {
	t.Helper()
	do(t, s, quota.SetBucket{Principal: "test", Name: "told", Settings: quota.Settings{
		Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 10}}, Thresholds: quota.Thresholds{50, 100},
	}}, quota.Done)
	do(t, s, acquire("told", "", quota.Charge{Amount: 6}), quota.Done)
}

// eventsStand checks what writeEvents wrote: the event is there, and is not told again.
func eventsStand(t *testing.T, s *store.Store) {
	t.Helper()
	do(t, s, acquire("told", ""), quota.Done)
	events, err := s.Events(t.Context(), 0, 10)
	if err != nil || len(events) != 1 || events[0].Balance.Bucket != "told" || events[0].Percent != 50 || events[0].Balance.Used != 6 {
		t.Errorf("the events: %+v, %v", events, err)
	}
	do(t, s, acquire("told", "", quota.Charge{Amount: 3}), quota.Done)
	if events, err = s.Events(t.Context(), 0, 10); err != nil || len(events) != 2 || events[1].Percent != 100 {
		t.Errorf("the events after that: %+v, %v", events, err)
	}
}

// fixtureSettings is declared of the reservations' buckets.
var fixtureSettings = map[string]quota.Settings{
	"res": {
		Limits: []quota.Limit{
			{Unit: quota.Calls, Span: window.Day, Max: 100},
			{Unit: quota.Calls, Span: window.Minute, Max: 50},
			{Unit: "input_tokens", Span: window.Day, Max: 10_000},
			{Unit: "usd_micros", Span: window.Month, Max: 1_000_000},
		},
		MaxHold: 50, MaxInFlight: 20, Hold: 2 * time.Hour,
		Estimates: []quota.Estimate{{Unit: "input_tokens", Amount: 500}, {Unit: "usd_micros", Amount: 70}},
	},
	"free": {Limits: fifty.Limits, OnExpiry: quota.ExpiryRelease, Zone: "America/Havana"},
}

// writeReservations adds what layout 2 added: reservations of every phase, over several units and with a parent.
func writeReservations(t *testing.T, s *store.Store) {
	t.Helper()
	for name, settings := range fixtureSettings {
		do(t, s, quota.SetBucket{Principal: "test", Name: name, Settings: settings}, quota.Done)
	}
	tokens := func(n int64) []quota.Charge { return []quota.Charge{{Amount: 2}, {Unit: "input_tokens", Amount: n}} }
	for i, id := range []string{"open", "settled", "released", "extended", "extended-settled"} {
		do(t, s, reserving("res/app", id, quota.HoldMax, tokens(int64(100+i))...), quota.Done)
	}
	do(t, s, reserving("res/app", "estimated", 0), quota.Done)
	do(t, s, settling("settled", quota.Charge{Unit: "input_tokens", Amount: 70}, quota.Charge{Unit: "output_tokens", Amount: 9}), quota.Done)
	do(t, s, releasing("released"), quota.Done)
	for _, id := range []string{"extended", "extended-settled"} {
		do(t, s, extending(id, "more", quota.HoldMax, quota.Charge{Unit: "input_tokens", Amount: 11}), quota.Done)
	}
	do(t, s, settling("extended-settled", quota.Charge{Unit: "input_tokens", Amount: 500}), quota.Done)
	do(t, s, acquire("res/app", "plain", tokens(5)...), quota.Done)
	do(t, s, acquire("res/app", "plain-released", tokens(6)...), quota.Done)
	do(t, s, releasing("plain-released"), quota.Done)
	for _, id := range []string{"expired", "late", "late-released"} {
		do(t, s, reserving("res/app", id, time.Minute, tokens(50)...), quota.Done)
		do(t, s, reserving("free", id+"-free", time.Minute), quota.Done)
	}
	time.Sleep(2 * time.Minute)
	do(t, s, settling("late", quota.Charge{Unit: "input_tokens", Amount: 60}), quota.Done)
	do(t, s, settling("late-free"), quota.Done)
	do(t, s, releasing("late-released"), quota.Done)
	do(t, s, releasing("late-released-free"), quota.Done)
}

// A file of every layout that was ever released opens, is sound before and after, keeps all that it had, and says what it said then.
func TestFixtures(t *testing.T) {
	if newest := int64(store.Schema); *update {
		if released[newest] != "" {
			t.Fatalf("layout %d has been released", newest)
		}
		dir := filepath.Join(t.TempDir(), "data")
		synctest.Test(t, func(t *testing.T) { writeFixture(t, dir) })
		pack(t, filepath.Join(dir, "quotad.db"), fixtureFile(newest))
	}
	for layout := int64(1); layout <= store.Schema; layout++ {
		t.Run(fmt.Sprintf("layout-%d", layout), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			unpack(t, layout, dir)
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Hour)
				migrated(t, dir, layout)
				s := open(t, openBolt(t, dir), store.Options{Defaults: fixtureDefaults})
				saysWhatItSaid(t, s)
				if layout >= 2 {
					reservationsStand(t, s)
				}
				if layout >= 3 {
					eventsStand(t, s)
				}
				verified(t, s, dir)
			})
		})
	}
}

// migrated opens a ledger and closes it again, and compares what is in it before and after.
func migrated(t *testing.T, dir string, layout int64) {
	t.Helper()
	e := openBolt(t, dir)
	before := sound(t, e, layout)
	s := open(t, e, store.Options{Defaults: fixtureDefaults})
	page, err := s.Audit(t.Context(), store.AuditQuery{Max: 1})
	trail := page.Records
	if err != nil || (trail[0].Action == "migrate") != (layout < store.Schema) {
		t.Errorf("the newest audit record: %+v, %v", trail, err)
	}
	if want := fmt.Sprintf("layout %d", layout); layout < store.Schema && (trail[0].Before != want || trail[0].After != fmt.Sprintf("layout %d", store.Schema)) {
		t.Errorf("the audit record of the migration: %+v", trail[0])
	}
	closeStore(t, s)
	e = openBolt(t, dir)
	defer e.Close()
	after := sound(t, e, store.Schema)
	for space, keys := range before {
		if space != "meta" && !strings.HasPrefix(space, "audit/") && !maps.Equal(keys, after[space]) {
			t.Errorf("%s has changed: %s", space, cmp.Diff(keys, after[space]))
		}
	}
}

// sound verifies a ledger of a layout, and returns all its records.
func sound(t *testing.T, e store.Engine, layout int64) map[string]map[string]string {
	t.Helper()
	r, err := store.Verify(t.Context(), e)
	if err != nil || len(r.Faults) > 0 {
		t.Errorf("%v, %v", r.Faults, err)
	}
	records := make(map[string]map[string]string)
	err = e.View(t.Context(), func(tx store.Tx) error {
		if found, err := store.CheckSchema(tx, store.Schema); err != nil || found != layout {
			t.Errorf("layout %d, %v; want %d", found, err, layout)
		}
		return tx.Spaces("", func(space string) bool {
			records[space] = make(map[string]string)
			return tx.Scan(space, "", func(key string, record []byte) bool { records[space][key] = string(record); return true }) == nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// saysWhatItSaid checks what is in the fixtures of all layouts.
func saysWhatItSaid(t *testing.T, s *store.Store) {
	t.Helper()
	d := do(t, s, acquire("acme/alice", "receipt-1", quota.Charge{Unit: "tokens", Amount: 30}, quota.Charge{Amount: 2}), quota.Done)
	if !d.Replayed || len(d.Balances) < 7 {
		t.Errorf("the receipt: %+v", d)
	}
	for bucket, want := range map[string]int64{"undeclared": 1, "file/one": 4} {
		if got := used(t, s, bucket); got != want {
			t.Errorf("%s: %d used, want %d", bucket, got, want)
		}
	}
	do(t, s, acquire("undeclared", ""), quota.Done)
	do(t, s, acquire("undeclared", ""), quota.Denied) // by the override
	if d := do(t, s, releasing("receipt-2"), quota.Done); d.Replayed || d.Balances[0].Used != 1 {
		t.Errorf("the release: %+v", d)
	}
	do(t, s, acquire("undeclared", ""), quota.Done)
	do(t, s, releasing("receipt-1"), quota.Done)
	do(t, s, settling("receipt-3"), quota.NotReservation)
	do(t, s, reserving("file/one", "new", time.Minute), quota.Done)
	var actions []string
	page, err := s.Audit(t.Context(), store.AuditQuery{Max: 20})
	trail := page.Records
	for _, a := range trail {
		actions = append(actions, a.Action)
	}
	n := len(trail)
	if err != nil || n < 4 || trail[n-1].Sequence != 1 || !strings.Contains(trail[n-1].After, "Asia/Kolkata") {
		t.Errorf("the audit trail: %v, %v", actions, err)
	}
}

// reservationsStand checks the reservations of the fixture of layout 2.
func reservationsStand(t *testing.T, s *store.Store) {
	t.Helper()
	phases := map[string]string{
		"open": "open", "extended": "open", "estimated": "open", "settled": "settled", "extended-settled": "settled", "released": "released",
		"expired": "expired", "expired-free": "expired", "late": "settled late", "late-free": "settled late",
		"late-released": "released late", "late-released-free": "released late",
		"new": "open",
	}
	found, next, err := s.Reservations(t.Context(), store.ReservationQuery{Max: 100})
	if err != nil || next != "" {
		t.Fatal(next, err)
	}
	got := make(map[string]string)
	for _, r := range found {
		got[r.RequestID] = r.Phase.String()
		if r.Late {
			got[r.RequestID] += " late"
		}
	}
	if diff := cmp.Diff(phases, got); diff != "" {
		t.Error(diff)
	}
	for name, want := range fixtureSettings {
		if v, err := s.Bucket(t.Context(), name); err != nil || v.Declared == nil || !v.Declared.Equal(want) {
			t.Errorf("%s is declared as %v, want %v, %v", name, v.Declared, want, err)
		}
	}
	balances := func(bucket string) map[quota.Unit][2]int64 {
		counts, _, err := s.Usage(t.Context(), store.UsageQuery{Span: window.Day, Prefix: quota.Bucket(bucket), Max: 100})
		if err != nil {
			t.Fatal(err)
		}
		sums := make(map[quota.Unit][2]int64)
		for _, b := range counts {
			if string(b.Bucket) == bucket {
				sums[b.Unit] = [2]int64{b.Used, b.Held}
			}
		}
		return sums
	}
	want := map[quota.Unit][2]int64{ // settled, extended-settled, plain, expired, late; and open, extended, estimated
		quota.Calls: {2 + 2 + 2 + 2 + 2, 2 + 2 + 1}, "input_tokens": {70 + 500 + 5 + 50 + 60, 100 + 103 + 11 + 500},
		"output_tokens": {9, 0}, "usd_micros": {0, 70},
	}
	for _, bucket := range []string{"res/app", "res"} {
		if diff := cmp.Diff(want, balances(bucket)); diff != "" {
			t.Errorf("%s: %s", bucket, diff)
		}
	}
	endingsStand(t, s)
}

// endingsStand asks once more for what the fixture's reservations were asked, and then for what they were not.
func endingsStand(t *testing.T, s *store.Store) {
	t.Helper()
	for name, op := range map[string]quota.Op{
		"the reservation": reserving("res/app", "open", quota.HoldMax, quota.Charge{Amount: 2}, quota.Charge{Unit: "input_tokens", Amount: 100}),
		"the settlement":  settling("settled", quota.Charge{Unit: "input_tokens", Amount: 70}, quota.Charge{Unit: "output_tokens", Amount: 9}),
		"the release":     releasing("released"),
		"the extension":   extending("extended", "more", quota.HoldMax, quota.Charge{Unit: "input_tokens", Amount: 11}),
		"late":            settling("late", quota.Charge{Unit: "input_tokens", Amount: 60}),
		"a plain one":     releasing("plain-released"),
	} {
		if d := do(t, s, op, quota.Done); !d.Replayed {
			t.Errorf("%s: not replayed", name)
		}
	}
	do(t, s, settling("settled", quota.Charge{Amount: 5}), quota.AlreadySettled)
	do(t, s, settling("released"), quota.AlreadyReleased)
	do(t, s, extending("expired", "", time.Hour), quota.AlreadyExpired)
	if d := do(t, s, settling("expired", quota.Charge{Unit: "input_tokens", Amount: 0}), quota.Done); !d.Late {
		t.Errorf("settled late: %+v", d)
	}
	do(t, s, settling("open"), quota.Done)
	do(t, s, releasing("estimated"), quota.Done)
	do(t, s, releasing("plain"), quota.Done)
	do(t, s, settling("extended"), quota.Done)
	if st := s.Status(t.Context()); st.Open != 1 {
		t.Errorf("%d are open, want the new one", st.Open)
	}
}

// The fixtures of released layouts are what they were.
func TestFixturesStay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "layout-*.db.gz"))
	if err != nil || len(files) != store.Schema {
		t.Errorf("%d fixtures for %d layouts: %v", len(files), store.Schema, err)
	}
	for layout, want := range released {
		packed, err := os.ReadFile(fixtureFile(layout))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(packed)); got != want {
			t.Errorf("layout %d has changed: %s", layout, got)
		}
	}
}

// A ledger of a newer layout is refused, by this quotad and, with the same check, was by the one that knew layout 1; and nothing is
// written to it.
func TestNewerLayout(t *testing.T) {
	refused := func(err error, layout, known int) {
		t.Helper()
		want := fmt.Sprintf("the ledger has layout %d, this quotad knows %d: use the newer quotad that wrote it", layout, known)
		if !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), want) {
			t.Errorf("layout %d, known %d: %v", layout, known, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "data")
	unpack(t, 2, dir)
	e := openBolt(t, dir)
	err := e.View(t.Context(), func(tx store.Tx) error {
		_, err := store.CheckSchema(tx, 1)
		refused(err, 2, 1)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	newer := binary.BigEndian.AppendUint64([]byte{1}, store.Schema+1)
	err = e.Update(t.Context(), func(tx store.Tx) error { return tx.Put("meta", "schema", store.Seal(newer, "meta", "schema")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "quotad.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(t.Context(), openBolt(t, dir), store.Options{})
	refused(err, store.Schema+1, store.Schema)
	e = openBolt(t, dir)
	_, err = store.Verify(t.Context(), e)
	refused(err, store.Schema+1, store.Schema)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "quotad.db"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was written to, %v", err)
	}
}

func fixtureFile(layout int64) string {
	return filepath.Join("testdata", fmt.Sprintf("layout-%d.db.gz", layout))
}

func pack(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func unpack(t *testing.T, layout int64, dir string) {
	t.Helper()
	f, err := os.Open(fixtureFile(layout))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "quotad.db"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What is compiled from memory is what a fresh reading of the ledger gives, whatever was declared before in the same batch.
func TestBookIsFresh(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, openBolt(t, dir), store.Options{Defaults: fifty})
	limit := func(n int64) quota.Settings {
		return quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: n}}}
	}
	for n := range int64(30) {
		switch n % 3 {
		case 0:
			do(t, s, quota.SetBucket{Name: "a", Settings: limit(n)}, quota.Done)
		case 1:
			do(t, s, quota.ApplySet{Buckets: map[string]quota.Settings{"a": limit(n), "b": {}}}, quota.Done)
		case 2:
			do(t, s, quota.DeleteBucket{Name: "a"}, quota.Done)
		}
		before, err := s.Bucket(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if want := n % 3; (before.Declared == nil) != (want == 2) || want != 2 && before.Settings.Limits[0].Max != n {
			t.Fatalf("after change %d: %+v", n, before)
		}
		closeStore(t, s)
		s = open(t, openBolt(t, dir), store.Options{Defaults: fifty})
		after, err := s.Bucket(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if before.InForce != after.InForce || before.Settings.String() != after.Settings.String() {
			t.Fatalf("from memory %+v, from the ledger %+v", before, after)
		}
	}
	verified(t, s, dir)
}
