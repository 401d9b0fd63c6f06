package store_test

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/window"
)

var update = flag.Bool("update", false, "write the fixture of the current layout anew")

// fixtureDefaults is what the fixtures were written under.
var fixtureDefaults = quota.Defaults{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 50}}, Zone: "Europe/Berlin", UndeclaredLive: 7}

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
	closeStore(t, s)
}

// A file of every layout that was ever released opens, is sound, and says what it said then.
func TestFixtures(t *testing.T) {
	if *update {
		dir := filepath.Join(t.TempDir(), "data")
		synctest.Test(t, func(t *testing.T) { writeFixture(t, dir) })
		pack(t, filepath.Join(dir, "quotad.db"), filepath.Join("testdata", "layout-1.db.gz"))
	}
	files, err := filepath.Glob(filepath.Join("testdata", "layout-*.db.gz"))
	if err != nil || len(files) != store.Schema {
		t.Fatalf("%d fixtures for %d layouts: %v", len(files), store.Schema, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			unpack(t, file, dir)
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Hour)
				s := open(t, openBolt(t, dir), store.Options{Defaults: fixtureDefaults})
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
				trail, _, err := s.Audit(t.Context(), store.AuditQuery{Max: 10})
				if err != nil || len(trail) != 4 || !strings.Contains(trail[3].After, "Asia/Kolkata") {
					t.Errorf("the audit trail: %+v, %v", trail, err)
				}
				verified(t, s, dir)
			})
		})
	}
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

func unpack(t *testing.T, from, dir string) {
	t.Helper()
	f, err := os.Open(from)
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
