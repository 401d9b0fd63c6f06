package store_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// trailOf checks the audit trail of a ledger that nobody writes to.
func trailOf(t testing.TB, e store.Engine) store.AuditReport {
	t.Helper()
	r, err := store.VerifyAudit(t.Context(), e, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wholeTrail wants a trail without faults.
func wholeTrail(t testing.TB, e store.Engine) store.AuditReport {
	t.Helper()
	r := trailOf(t, e)
	for _, f := range r.Faults {
		t.Error(f)
	}
	return r
}

// spoil changes a ledger behind the store's back, and returns what takes the change back.
func spoil(t testing.TB, e store.Engine, change func(tx store.Tx)) {
	t.Helper()
	if err := e.Update(t.Context(), func(tx store.Tx) error { change(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, tx store.Tx, space, key string, record []byte) {
	t.Helper()
	if err := tx.Put(space, key, record); err != nil {
		t.Fatal(err)
	}
}

// filed is one record as an engine has it.
type filed struct {
	space, key string
	record     []byte
}

// trailRecords returns all audit records, by their numbers.
func trailRecords(t testing.TB, e store.Engine) []filed {
	t.Helper()
	var records []filed
	err := e.View(t.Context(), func(tx store.Tx) error {
		var spaces []string
		err := tx.Spaces("audit/", func(space string) bool {
			if strings.HasPrefix(space, "audit/") {
				spaces = append(spaces, space)
			}
			return true
		})
		for _, space := range spaces {
			err = tx.Scan(space, "", func(key string, record []byte) bool {
				records = append(records, filed{space, key, slices.Clone(record)})
				return true
			})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func metaRecord(t testing.TB, e store.Engine, key string) (record []byte) {
	t.Helper()
	err := e.View(t.Context(), func(tx store.Tx) error {
		v, err := tx.Get("meta", key)
		record = slices.Clone(v)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// sealedPoint is one end of the chain as the file has it.
func sealedPoint(key string, p quota.AuditPoint) []byte {
	body := binary.BigEndian.AppendUint64([]byte{1}, uint64(p.Sequence))
	return store.Seal(append(body, p.Hash[:]...), "meta", key)
}

// auditJSON is an audit record as the file has it.
type auditJSON struct {
	Time      int64  `json:"time"`
	Principal string `json:"principal"`
	Action    string `json:"action"`
	Bucket    string `json:"bucket,omitempty"`
	Before    string `json:"before,omitempty"`
	After     string `json:"after,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Hash      string `json:"hash,omitempty"`
}

// edited returns a record that was changed, under a right checksum.
func edited(t testing.TB, k filed, edit func(*auditJSON)) []byte {
	t.Helper()
	var r auditJSON
	if err := json.Unmarshal(k.record[1:len(k.record)-4], &r); err != nil {
		t.Fatal(err)
	}
	edit(&r)
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return store.Seal(append([]byte{1}, body...), k.space, k.key)
}

// linked returns the hash that a record must have after another.
func linked(t testing.TB, sequence int64, k filed, previous quota.AuditHash) quota.AuditHash {
	t.Helper()
	var r auditJSON
	if err := json.Unmarshal(k.record[1:len(k.record)-4], &r); err != nil {
		t.Fatal(err)
	}
	return quota.AuditRecord{
		Sequence: sequence, Time: time.UnixMilli(r.Time), Principal: r.Principal, Action: r.Action, Bucket: r.Bucket,
		Before: r.Before, After: r.After, Reason: r.Reason,
	}.Link(previous)
}

// unload returns all that an engine has, and load makes another of it: one of a bubble cannot be used outside.
func unload(t testing.TB, e store.Engine) (records []filed) {
	t.Helper()
	err := e.View(t.Context(), func(tx store.Tx) error {
		return tx.Spaces("", func(space string) bool {
			return tx.Scan(space, "", func(key string, record []byte) bool {
				records = append(records, filed{space, key, slices.Clone(record)})
				return true
			}) == nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func load(t testing.TB, records []filed) store.Engine {
	t.Helper()
	e := memengine.New()
	spoil(t, e, func(tx store.Tx) {
		for _, k := range records {
			put(t, tx, k.space, k.key, k.record)
		}
	})
	return e
}

// agedTrail makes a ledger whose audit records 1 to 3 have left, and which has 4 to 8 on two dates.
func agedTrail(t *testing.T) store.Engine {
	t.Helper()
	var records []filed
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{Defaults: fifty, Retain: 24 * time.Hour})
		note := func(n int) {
			do(t, s, quota.Note{Principal: "alice", Action: "access", Before: "<&>\u2028", After: fmt.Sprint(n), Reason: "because \"so\""}, quota.Done)
		}
		for n := range 3 {
			note(n)
		}
		time.Sleep(36 * time.Hour)
		do(t, s, quota.SetBucket{Principal: "bob", Name: "b", Settings: quota.Settings{Limits: fifty.Limits}}, quota.Done)
		note(5)
		time.Sleep(24*time.Hour + time.Hour)
		for n := 6; n <= 8; n++ {
			note(n)
		}
		closeStore(t, s)
		records = unload(t, e)
	})
	e := load(t, records)
	r := wholeTrail(t, e)
	if r.Records != 5 || r.Chain.Base.Sequence != 3 || r.Chain.Head.Sequence != 8 {
		t.Fatalf("%+v", r)
	}
	return e
}

// Whatever byte of the trail is changed, and whether or not its checksum is made right again, is found, and the record is named.
func TestTrailByteByByte(t *testing.T) {
	e := agedTrail(t)
	records := trailRecords(t, e)
	flip := func(space, key string, record []byte, names ...string) {
		for i := range len(record) {
			for _, bit := range []byte{1, 0x20} {
				bad := slices.Clone(record)
				bad[i] ^= bit
				spoiled := [][]byte{bad}
				if i < len(bad)-4 {
					spoiled = append(spoiled, store.Seal(slices.Clone(bad[:len(bad)-4]), space, key))
				}
				for n, bad := range spoiled {
					spoil(t, e, func(tx store.Tx) { put(t, tx, space, key, bad) })
					r := trailOf(t, e)
					found := slices.ContainsFunc(names, func(name string) bool { return strings.Contains(strings.Join(r.Faults, "\n"), name) })
					if !found || n == 0 && !strings.Contains(strings.Join(r.Faults, "\n"), "fails its checksum") {
						t.Fatalf("byte %d of %s in %s, bit %#x, sealed %v: %q, want one of %q", i, key, space, bit, n == 1, r.Faults, names)
					}
				}
			}
		}
		spoil(t, e, func(tx store.Tx) { put(t, tx, space, key, record) })
		wholeTrail(t, e)
	}
	for i, k := range records {
		flip(k.space, k.key, k.record, fmt.Sprintf("audit record %d ", i+4), k.key)
	}
	flip("meta", "audit", metaRecord(t, e, "audit"), "audit record 8", "after the head", "missing at the end", `"audit" in meta`)
	flip("meta", "audit-base", metaRecord(t, e, "audit-base"), "audit record 4", "before the chain", `"audit-base" in meta`)
}

// trailSpoiler changes the records of a trail behind the store's back.
type trailSpoiler struct {
	t       testing.TB
	tx      store.Tx
	records []filed
}

func (x trailSpoiler) put(space, key string, record []byte) { put(x.t, x.tx, space, key, record) }
func (x trailSpoiler) remove(k filed)                       { remove(x.t, x.tx, k) }

// trailBreaks are the ways to spoil the trail of agedTrail with right checksums, and the first thing that is said then.
var trailBreaks = map[string]struct {
	says  string
	spoil func(trailSpoiler)
}{
	"nothing, the control": {"", func(x trailSpoiler) {}},

	"time":      {"audit record 5 does not match its hash", editOf(func(r *auditJSON) { r.Time++ })},
	"principal": {"audit record 5 does not match its hash", editOf(func(r *auditJSON) { r.Principal = "eve" })},
	"action":    {"audit record 5 does not match its hash", editOf(func(r *auditJSON) { r.Action = "reset" })},
	"bucket":    {"audit record 5 does not match its hash", editOf(func(r *auditJSON) { r.Bucket = "x" })},
	"before":    {"audit record 5 does not match its hash", editOf(func(r *auditJSON) { r.Before = "" })},
	"after":     {"audit record 5 does not match its hash", editOf(func(r *auditJSON) { r.After = "7" })},
	"reason":    {"audit record 5 does not match its hash", editOf(func(r *auditJSON) { r.Reason = "" })},
	"hash":      {"audit record 5 does not match its hash", editOf(func(r *auditJSON) { r.Hash = strings.Repeat("ab", 32) })},
	"no hash":   {"audit record 5 has no hash", editOf(func(r *auditJSON) { r.Hash = "" })},
	"half a hash": {
		`"0000000000000005" in audit/2000-01-02: "abab" is not a hash`, editOf(func(r *auditJSON) { r.Hash = "abab" }),
	},
	"a record and its hash": {"audit record 6 does not match its hash: it was changed, or the hash before it", func(x trailSpoiler) {
		k := x.records[1]
		var before auditJSON
		if err := json.Unmarshal(x.records[0].record[1:len(x.records[0].record)-4], &before); err != nil {
			x.t.Fatal(err)
		}
		previous, err := quota.ParseAuditHash(before.Hash)
		if err != nil {
			x.t.Fatal(err)
		}
		k.record = edited(x.t, k, func(r *auditJSON) { r.Principal = "eve" })
		hash := linked(x.t, 5, k, previous)
		x.put(k.space, k.key, edited(x.t, k, func(r *auditJSON) { r.Hash = hash.String() }))
	}},
	"another spelling": {"audit record 5 is not written as quotad writes it", func(x trailSpoiler) {
		k := x.records[1]
		body := strings.Replace(string(k.record[1:len(k.record)-4]), `"principal"`, `"Principal"`, 1)
		x.put(k.space, k.key, store.Seal(append([]byte{1}, body...), k.space, k.key))
	}},
	"a record less": {"audit record 5 is missing before audit record 6", func(x trailSpoiler) { x.remove(x.records[1]) }},
	"the first less": {
		"audit record 4 is missing before audit record 5", func(x trailSpoiler) { x.remove(x.records[0]) },
	},
	"a date less": {"audit records 4 to 5 are missing before audit record 6", func(x trailSpoiler) {
		if err := x.tx.Drop(x.records[0].space); err != nil {
			x.t.Fatal(err)
		}
	}},
	"the tail less": {"audit records 7 to 8 are missing at the end: the head is 8", func(x trailSpoiler) {
		x.remove(x.records[3])
		x.remove(x.records[4])
	}},
	"all less": {"audit records 4 to 8 are missing at the end", func(x trailSpoiler) {
		for _, k := range x.records {
			x.remove(k)
		}
	}},
	"two swapped": {"audit record 7 does not match its hash", func(x trailSpoiler) {
		a, b := x.records[3], x.records[4]
		a.record, b.record = b.record, a.record
		x.put(a.space, a.key, edited(x.t, a, func(*auditJSON) {}))
		x.put(b.space, b.key, edited(x.t, b, func(*auditJSON) {}))
	}},
	"one inserted at the front": {"audit record 3 is from before the chain, which begins after 3", func(x trailSpoiler) {
		k := x.records[0]
		k.key = fmt.Sprintf("%016x", 3)
		x.put(k.space, k.key, edited(x.t, k, func(*auditJSON) {}))
	}},
	"one added at the end": {"audit record 9 does not match its hash", func(x trailSpoiler) {
		k := x.records[4]
		k.key = fmt.Sprintf("%016x", 9)
		x.put(k.space, k.key, edited(x.t, k, func(*auditJSON) {}))
	}},
	"one at another date": {"audit records 4 to 7 are missing before audit record 8", func(x trailSpoiler) {
		k := x.records[4]
		x.remove(k)
		k.space = "audit/1999-01-01"
		x.put(k.space, k.key, edited(x.t, k, func(*auditJSON) {}))
	}},
	"a key that is none": {"is not the key of an audit record", func(x trailSpoiler) {
		k := x.records[4]
		k.key = "000000000000000A"
		x.put(k.space, k.key, edited(x.t, k, func(*auditJSON) {}))
	}},
	"no base": {"audit records 1 to 3 are missing before audit record 4", func(x trailSpoiler) {
		if err := x.tx.Delete("meta", "audit-base"); err != nil {
			x.t.Fatal(err)
		}
	}},
	"another base": {"audit record 4 does not match its hash", func(x trailSpoiler) {
		x.put("meta", "audit-base", sealedPoint("audit-base", quota.AuditPoint{Sequence: 3}))
	}},
	"a later base": {"audit record 4 is from before the chain, which begins after 4", func(x trailSpoiler) {
		x.put("meta", "audit-base", sealedPoint("audit-base", quota.AuditPoint{Sequence: 4}))
	}},
	"another head": {"the head has another hash than audit record 8", func(x trailSpoiler) {
		x.put("meta", "audit", sealedPoint("audit", quota.AuditPoint{Sequence: 8}))
	}},
	"an earlier head": {"audit record 8 comes after the head, which is 7", func(x trailSpoiler) {
		x.put("meta", "audit", sealedPoint("audit", quota.AuditPoint{Sequence: 7}))
	}},
	"no head": {"audit record 8 comes after the head, which is 0", func(x trailSpoiler) {
		if err := x.tx.Delete("meta", "audit"); err != nil {
			x.t.Fatal(err)
		}
	}},
	"the head of an older layout": {`the end of the audit trail, "audit" in meta, has 8 bytes`, func(x trailSpoiler) {
		x.put("meta", "audit", store.Seal(binary.BigEndian.AppendUint64([]byte{1}, 8), "meta", "audit"))
	}},
}

func remove(t testing.TB, tx store.Tx, k filed) {
	t.Helper()
	if err := tx.Delete(k.space, k.key); err != nil {
		t.Fatal(err)
	}
}

// editOf changes record 5.
func editOf(edit func(*auditJSON)) func(x trailSpoiler) {
	return func(x trailSpoiler) {
		k := x.records[1]
		x.put(k.space, k.key, edited(x.t, k, edit))
	}
}

// Whoever changes the trail in the file and makes the checksums right is found out, by both ways to verify.
func TestTrailBreaks(t *testing.T) {
	for name, c := range trailBreaks {
		t.Run(name, func(t *testing.T) {
			e := agedTrail(t)
			records := trailRecords(t, e)
			spoil(t, e, func(tx store.Tx) { c.spoil(trailSpoiler{t, tx, records}) })
			r := trailOf(t, e)
			all, err := store.Verify(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			for what, faults := range map[string][]string{"verify the trail": r.Faults, "verify": all.Faults} {
				if c.says == "" && len(faults) > 0 || c.says != "" && (len(faults) == 0 || !strings.Contains(faults[0], c.says)) {
					t.Errorf("%s: %q, want %q first", what, faults, c.says)
				}
			}
		})
	}
}

// Whoever can write the file can work the whole chain out anew, or cut its end off with the head. Only a head that was noted
// elsewhere tells, and it does.
func TestTrailRewritten(t *testing.T) {
	for name, rewrite := range map[string]func(tx store.Tx, records []filed, last quota.AuditPoint) quota.AuditPoint{
		"cut off": func(tx store.Tx, records []filed, last quota.AuditPoint) quota.AuditPoint {
			for i, k := range records[:3] {
				last = quota.AuditPoint{Sequence: int64(i) + 4, Hash: linked(t, int64(i)+4, k, last.Hash)}
			}
			remove(t, tx, records[3])
			remove(t, tx, records[4])
			return last
		},
		"worked out anew": func(tx store.Tx, records []filed, last quota.AuditPoint) quota.AuditPoint {
			for i, k := range records {
				k.record = edited(t, k, func(r *auditJSON) { r.Principal = "eve" })
				last = quota.AuditPoint{Sequence: int64(i) + 4, Hash: linked(t, int64(i)+4, k, last.Hash)}
				put(t, tx, k.space, k.key, edited(t, k, func(r *auditJSON) { r.Hash = last.Hash.String() }))
			}
			return last
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := agedTrail(t)
			noted := wholeTrail(t, e).Chain
			if !passes(t, e, noted.Head) || !passes(t, e, noted.Base) {
				t.Error("a trail that nobody changed does not pass its own ends")
			}
			records := trailRecords(t, e)
			spoil(t, e, func(tx store.Tx) {
				put(t, tx, "meta", "audit", sealedPoint("audit", rewrite(tx, records, noted.Base)))
			})
			wholeTrail(t, e)
			if passes(t, e, noted.Head) {
				t.Error("the head of before is still in the chain")
			}
		})
	}
}

// passes tells whether a chain has a place.
func passes(t *testing.T, e store.Engine, noted quota.AuditPoint) bool {
	t.Helper()
	found := false
	if _, err := store.VerifyAudit(t.Context(), e, func(p quota.AuditPoint) { found = found || p == noted }); err != nil {
		t.Fatal(err)
	}
	return found
}

// Old records leave a piece at a time, and after every commit the chain begins where they end.
func TestTrailLeavesWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		bases := make(map[int64]bool)
		s := open(t, noClose{&hooks{Engine: e, after: func() {
			if time.Since(bubbleAt(0)) > 24*time.Hour {
				bases[wholeTrail(t, e).Chain.Base.Sequence] = true
			}
		}}}, store.Options{Defaults: fifty, Retain: 24 * time.Hour})
		for n := range 2500 {
			do(t, s, quota.Note{Principal: "alice", Action: "access", After: fmt.Sprint(n)}, quota.Done)
		}
		time.Sleep(72 * time.Hour)
		synctest.Wait()
		do(t, s, quota.Note{Principal: "alice", Action: "access"}, quota.Done)
		page, err := s.Audit(t.Context(), store.AuditQuery{Max: 10})
		if err != nil || len(page.Records) != 1 || page.Chain.Base.Sequence != 2500 || page.Chain.Head != (quota.AuditPoint{Sequence: 2501, Hash: page.Records[0].Hash}) {
			t.Errorf("%+v, %v", page, err)
		}
		closeStore(t, s)
		if got := slices.Sorted(maps.Keys(bases)); !slices.Equal(got, []int64{1024, 2048, 2500}) {
			t.Errorf("the chain began after %v", got)
		}
	})
}

// A trail that is not whole does not leave, and what else is due does.
func TestBrokenTrailStays(t *testing.T) {
	for name, c := range trailBreaks {
		if strings.Contains(name, "head") || slices.Contains([]string{
			"nothing, the control", "all less", "the tail less", "one at another date", "one inserted at the front", "another spelling",
		}, name) {
			continue // what is wrong is not with those that leave, or they are what they were
		}
		t.Run(name, func(t *testing.T) {
			e := agedTrail(t)
			spoil(t, e, func(tx store.Tx) { c.spoil(trailSpoiler{t, tx, trailRecords(t, e)}) })
			before, records := len(trailRecords(t, e)), unload(t, e)
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(5 * 24 * time.Hour)
				e := load(t, records)
				s := open(t, noClose{e}, store.Options{Defaults: fifty, Retain: 24 * time.Hour})
				do(t, s, acquire("a", "id"), quota.Done)
				time.Sleep(4 * 24 * time.Hour)
				if st := s.Status(t.Context()); !st.CorruptSeen {
					t.Error("nobody says so")
				}
				if counts, _, err := s.Usage(t.Context(), store.UsageQuery{Span: window.Day, Max: 10}); err != nil || len(counts) > 0 {
					t.Errorf("%d counts are still there, %v", len(counts), err)
				}
				closeStore(t, s)
				records = unload(t, e)
			})
			e = load(t, records)
			if after := trailRecords(t, e); before-len(after) > 2 || len(trailOf(t, e).Faults) == 0 { // the first date may be whole
				t.Errorf("of %d records %d are left", before, len(after))
			}
		})
	}
}
