package store_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/store"
)

// trailMigration is what a trail is before its migration, what becomes of it after that, and what is said then.
type trailMigration struct {
	before, after func(trailSpoiler)
	base          int64
	says          []string
}

// trailMigrations is done to the trails of old layouts.
var trailMigrations = map[string]trailMigration{
	"whole":          {},
	"changed after":  {after: editOf(func(r *auditJSON) { r.Principal = "eve" }), says: []string{"does not match its hash: it was changed, or one of those from 1 on"}},
	"one less after": {after: func(x trailSpoiler) { x.remove(x.records[1]) }, says: []string{"audit record 2 is missing", "does not match its hash"}},
	"the first have left": {
		before: func(x trailSpoiler) { x.remove(x.records[0]); x.remove(x.records[1]) }, base: 2,
	},
	"all have left": {before: func(x trailSpoiler) {
		for _, k := range x.records {
			x.remove(k)
		}
	}, base: -1},
	"damaged before": {
		before: func(x trailSpoiler) {
			x.put(x.records[1].space, x.records[1].key, []byte("damaged"))
		}, base: 2,
		says: []string{"audit record 1 is from before the chain, which begins after 2", "fails its checksum"},
	},
	"one less before": {
		before: func(x trailSpoiler) { x.remove(x.records[1]) }, base: 2,
		says: []string{"audit record 1 is from before the chain, which begins after 2"},
	},
}

// A trail from before there was a chain is covered by the head from the first start on.
func TestMigratedTrail(t *testing.T) {
	fixtures := make(map[int64][]filed)
	for layout := int64(1); layout < 3; layout++ {
		dir := filepath.Join(t.TempDir(), "data")
		unpack(t, layout, dir)
		e := openBolt(t, dir)
		fixtures[layout] = unload(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for layout, fixture := range fixtures {
		for name, c := range trailMigrations {
			t.Run(fmt.Sprintf("layout-%d/%s", layout, name), func(t *testing.T) { c.check(t, fixture) })
		}
	}
}

func (c trailMigration) check(t *testing.T, fixture []filed) {
	t.Helper()
	e := load(t, fixture)
	old := trailRecords(t, e)
	if _, err := store.VerifyAudit(t.Context(), e, nil); err == nil || !strings.Contains(err.Error(), "has no chain; quotad makes one") {
		t.Errorf("a chain of an old layout: %v", err)
	}
	if c.before != nil {
		spoil(t, e, func(tx store.Tx) { c.before(trailSpoiler{t, tx, old}) })
	}
	records := unload(t, e)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		e := load(t, records)
		closeStore(t, open(t, noClose{e}, store.Options{Defaults: fixtureDefaults}))
		records = unload(t, e)
	})
	e = load(t, records)
	if c.after != nil {
		spoil(t, e, func(tx store.Tx) { c.after(trailSpoiler{t, tx, old}) })
	}
	r := trailOf(t, e)
	base := c.base
	if base < 0 {
		base = int64(len(old))
	}
	if r.Chain.Base.Sequence != base || r.Chain.Head.Sequence != int64(len(old))+1 {
		t.Errorf("%+v", r.Chain)
	}
	if len(r.Faults) != len(c.says) {
		t.Fatalf("%q, want %q", r.Faults, c.says)
	}
	for i, want := range c.says {
		if !strings.Contains(r.Faults[i], want) {
			t.Errorf("%q, want %q", r.Faults[i], want)
		}
	}
}

// A backup of an older layout gets its chain when it is restored, and the restoration is in it.
func TestRestoredTrail(t *testing.T) {
	for layout := int64(1); layout < 3; layout++ {
		dir := filepath.Join(t.TempDir(), "data")
		unpack(t, layout, dir)
		e := openBolt(t, dir)
		old := len(trailRecords(t, e))
		if _, err := store.MarkRestored(t.Context(), e, bubbleAt(time.Hour), false, "alice", "not UTF-8: \xff\xfe"); err != nil {
			t.Fatal(err)
		}
		if r := wholeTrail(t, e); r.Records != old+2 {
			t.Errorf("%d records after %d", r.Records, old)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
