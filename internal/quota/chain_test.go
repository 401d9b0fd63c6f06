package quota_test

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
)

// The hashes that docs/format.md tells how to work out, worked out by another program: Python's hashlib and struct.
func TestLinkVector(t *testing.T) {
	t.Parallel()
	first := quota.AuditRecord{
		Sequence: 1, Time: time.UnixMilli(1795305600123), Principal: "alice", Action: "set_bucket", Bucket: "acme/*",
		After: "50 calls/day", Reason: "a first limit",
	}
	second := quota.AuditRecord{Sequence: 2, Time: time.UnixMilli(-5), Principal: "quotad", Action: "configure", Before: "Grüße → 東京"}
	one := first.Link(quota.AuditHash{})
	if want := "21bb31b2b0e35039e8531febdf5e8861b13a8d8f8e5c5b7fe134be4bf8b026da"; one.String() != want {
		t.Errorf("the first: %s, want %s", one, want)
	}
	if got, want := second.Link(one).String(), "30098370bf5b6d1c79c9da08a55bc5e078b13df3aa07a454e1f930eb7c4be956"; got != want {
		t.Errorf("the second: %s, want %s", got, want)
	}
	first.Hash, first.Time = one, first.Time.Add(999*time.Microsecond).In(time.FixedZone("east", 3600))
	if first.Link(quota.AuditHash{}) != one {
		t.Error("the hash depends on itself, a zone or less than a millisecond")
	}
}

// auditFields are the ways in which two records may differ.
func auditFields(a *quota.AuditRecord) []*string {
	return []*string{&a.Principal, &a.Action, &a.Bucket, &a.Before, &a.After, &a.Reason}
}

func drawAudit(rt *rapid.T) quota.AuditRecord {
	a := quota.AuditRecord{Sequence: rapid.Int64Range(1, 4).Draw(rt, "sequence"), Time: time.UnixMilli(rapid.Int64Range(-2, 2).Draw(rt, "time"))}
	for _, text := range auditFields(&a) {
		*text = rapid.StringOfN(rapid.SampledFrom([]rune("ab\x00\x01")), 0, 3, -1).Draw(rt, "text")
	}
	return a
}

// Records that differ, or come after others, have other hashes: whatever moves from one field to the next is seen.
func TestLinkTellsApart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		a, b := drawAudit(rt), drawAudit(rt)
		before, other := quota.AuditHash{rapid.Byte().Draw(rt, "before")}, quota.AuditHash{rapid.Byte().Draw(rt, "other")}
		if got, want := a.Link(before) == b.Link(other), a == b && before == other; got != want {
			rt.Fatalf("the same hash: %v\n%+v after %s\n%+v after %s", got, a, before, b, other)
		}
	})
}

// The control of the one above: an encoding without lengths does not tell everything apart.
func TestLinkNeedsLengths(t *testing.T) {
	t.Parallel()
	flat := func(a quota.AuditRecord) string {
		buf := binary.BigEndian.AppendUint64(nil, uint64(a.Sequence))
		for _, text := range auditFields(&a) {
			buf = append(buf, *text...)
		}
		return string(buf)
	}
	seen := make(map[string]quota.AuditRecord)
	confused := false
	for seed := range 500 {
		a := rapid.Custom(drawAudit).Example(seed)
		a.Time = time.UnixMilli(0)
		if b, ok := seen[flat(a)]; ok && a != b {
			confused = true
		}
		seen[flat(a)] = a
	}
	if !confused {
		t.Error("no two records were drawn that only their lengths tell apart")
	}
}

// trailOf makes a trail of n records after base, of which the first bare have no hash.
func trailOf(base quota.AuditPoint, n, bare int) ([]quota.AuditRecord, quota.AuditPoint) {
	var records []quota.AuditRecord
	last := base
	for i := range n {
		r := quota.AuditRecord{
			Sequence: last.Sequence + 1, Time: time.UnixMilli(1_000_000 + int64(i)), Principal: "alice", Action: "set_bucket",
			Bucket: "b", Before: "1 calls/day", After: "2 calls/day", Reason: "why",
		}
		if bare > 0 && i == bare {
			r.Action = quota.ActionMigrate
		}
		last = quota.AuditPoint{Sequence: r.Sequence, Hash: r.Link(last.Hash)}
		if i >= bare {
			r.Hash = last.Hash
		}
		records = append(records, r)
	}
	return records, last
}

// faultsOf checks a trail and returns what is wrong with it.
func faultsOf(base quota.AuditPoint, records []quota.AuditRecord, head quota.AuditPoint) []string {
	chain := quota.NewChain(base)
	var faults []string
	for _, r := range records {
		if err := chain.Add(r); err != nil {
			faults = append(faults, err.Error())
		}
	}
	if err := chain.End(head); err != nil {
		faults = append(faults, err.Error())
	}
	return faults
}

// chained is a trail with its ends, to be spoilt.
type chained struct {
	base    quota.AuditPoint
	records []quota.AuditRecord
	head    quota.AuditPoint
}

// at returns the record with a number.
func (c *chained) at(n int64) *quota.AuditRecord { return &c.records[n-c.base.Sequence-1] }

// remove takes some records out, and counts from the first of what is left.
func (c *chained) remove(from, to int64) {
	i, j := from-c.base.Sequence-1, to-c.base.Sequence
	c.records = append(c.records[:i:i], c.records[j:]...)
}

// breaks are the ways to spoil a trail of the records 4 to 9, of which 4 and 5 have no hash if it is an old one.
var breaks = map[string]struct {
	old   bool
	spoil func(*chained)
	want  []string
}{
	"nothing, the control":     {false, func(*chained) {}, nil},
	"nothing, of an old trail": {true, func(*chained) {}, nil},

	"time":      {false, func(c *chained) { c.at(6).Time = time.UnixMilli(1) }, []string{"audit record 6 does not match its hash: it was changed, or the hash before it"}},
	"principal": {false, func(c *chained) { c.at(6).Principal = "bob" }, []string{"audit record 6 does not match its hash"}},
	"action":    {false, func(c *chained) { c.at(6).Action = "reset" }, []string{"audit record 6 does not match"}},
	"bucket":    {false, func(c *chained) { c.at(6).Bucket = "" }, []string{"audit record 6 does not match"}},
	"before":    {false, func(c *chained) { c.at(6).Before = "9" }, []string{"audit record 6 does not match"}},
	"after":     {false, func(c *chained) { c.at(6).After = "9" }, []string{"audit record 6 does not match"}},
	"reason":    {false, func(c *chained) { c.at(6).Reason += " not" }, []string{"audit record 6 does not match"}},
	"its hash":  {false, func(c *chained) { c.at(6).Hash[31]++ }, []string{"audit record 6 does not match", "audit record 7 does not match"}},
	"its hash with it": {false, func(c *chained) {
		c.at(6).Reason = "another"
		c.at(6).Hash = c.at(6).Link(c.at(5).Hash)
	}, []string{"audit record 7 does not match"}},
	"no hash":          {false, func(c *chained) { c.at(6).Hash = quota.AuditHash{} }, []string{"audit record 6 has no hash, though one before it has"}},
	"no hash at first": {false, func(c *chained) { c.at(4).Hash = quota.AuditHash{} }, []string{"audit record 5 is the first with a hash and no migration"}},
	"no hashes": {false, func(c *chained) {
		for i := range c.records {
			c.records[i].Hash = quota.AuditHash{}
		}
	}, []string{"no audit record from 4 on has a hash"}},
	"a record less":     {false, func(c *chained) { c.remove(6, 6) }, []string{"audit record 6 is missing before audit record 7"}},
	"records less":      {false, func(c *chained) { c.remove(6, 8) }, []string{"audit records 6 to 8 are missing before audit record 9"}},
	"the first less":    {false, func(c *chained) { c.remove(4, 4) }, []string{"audit record 4 is missing before audit record 5"}},
	"the last less":     {false, func(c *chained) { c.remove(9, 9) }, []string{"audit record 9 is missing at the end: the head is 9"}},
	"the last two less": {false, func(c *chained) { c.remove(8, 9) }, []string{"audit records 8 to 9 are missing at the end"}},
	"a record more":     {false, func(c *chained) { c.head = quota.AuditPoint{Sequence: 8, Hash: c.at(8).Hash} }, []string{"audit record 9 comes after the head, which is 8"}},
	"one inserted": {false, func(c *chained) {
		c.records = append(c.records[:3:3], c.records[2:]...)
	}, []string{"audit record 6 comes after 6"}},
	"two swapped": {false, func(c *chained) {
		a, b := c.at(6), c.at(7)
		*a, *b = *b, *a
		a.Sequence, b.Sequence = 6, 7
	}, []string{"audit record 6 does not match", "audit record 7 does not match", "audit record 8 does not match"}},
	"another base":        {false, func(c *chained) { c.base.Hash[0]++ }, []string{"audit record 4 does not match its hash"}},
	"another head":        {false, func(c *chained) { c.head.Hash[0]++ }, []string{"the head has another hash than audit record 9"}},
	"an old one":          {true, func(c *chained) { c.at(5).Reason = "another" }, []string{"audit record 6 does not match its hash: it was changed, or one of those from 4 on, which have no hash"}},
	"an old one less":     {true, func(c *chained) { c.remove(5, 5) }, []string{"audit record 5 is missing before audit record 6"}},
	"old, no hash at all": {true, func(c *chained) { c.at(6).Hash = quota.AuditHash{} }, []string{"audit record 7 is the first with a hash and no migration"}},
}

// Whatever is done to a trail without working all of it out anew is found, and the record is named.
func TestChainFindsChanges(t *testing.T) {
	t.Parallel()
	for name, c := range breaks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bare := 0
			if c.old {
				bare = 2
			}
			trail := chained{base: quota.AuditPoint{Sequence: 3, Hash: quota.AuditHash{7}}}
			trail.records, trail.head = trailOf(trail.base, 6, bare)
			c.spoil(&trail)
			faults := faultsOf(trail.base, trail.records, trail.head)
			if len(faults) != len(c.want) {
				t.Fatalf("%q, want %q", faults, c.want)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(faults[i], want) {
					t.Errorf("%q, want %q", faults[i], want)
				}
			}
		})
	}
}

// A trail that was worked out anew as a whole is whole. Only who has noted a head can tell.
func TestChainRewritten(t *testing.T) {
	t.Parallel()
	records, head := trailOf(quota.AuditPoint{}, 5, 0)
	var rewritten quota.AuditPoint
	for i := range records {
		r := &records[i]
		if r.Sequence == 3 {
			r.Principal = "nobody"
		}
		rewritten = quota.AuditPoint{Sequence: r.Sequence, Hash: r.Link(rewritten.Hash)}
		r.Hash = rewritten.Hash
	}
	if faults := faultsOf(quota.AuditPoint{}, records, rewritten); faults != nil {
		t.Errorf("%q", faults)
	}
	if rewritten == head {
		t.Error("the head is the same")
	}
}

// What comes after a record that cannot be read is not held against it, and all the rest is checked.
func TestChainSkip(t *testing.T) {
	t.Parallel()
	for skipped := int64(1); skipped <= 5; skipped++ {
		records, head := trailOf(quota.AuditPoint{}, 5, 0)
		records[4].Reason = "another"
		chain := quota.NewChain(quota.AuditPoint{})
		var faults []string
		for _, r := range records {
			if r.Sequence == skipped {
				chain.Skip(r.Sequence)
			} else if err := chain.Add(r); err != nil {
				faults = append(faults, err.Error())
			}
		}
		if err := chain.End(head); err != nil {
			faults = append(faults, err.Error())
		}
		want := 1
		if skipped >= 4 { // the changed one itself, or the one before it
			want = 0
		}
		if len(faults) != want {
			t.Errorf("without %d: %q", skipped, faults)
		}
	}
}

func TestAuditPoints(t *testing.T) {
	t.Parallel()
	p := quota.AuditPoint{Sequence: 17, Hash: quota.AuditHash{1, 31: 255}}
	if got, err := quota.ParseAuditPoint(p.String()); err != nil || got != p {
		t.Errorf("%v, %v; want %v", got, err, p)
	}
	hash := p.Hash.String()
	for s, want := range map[string]string{
		"": "the number of a record", hash: "the number of a record", ":" + hash: "the number of a record", "0:" + hash: "the number of a record",
		"-1:" + hash: "the number of a record", "1": "64 hexadecimal digits", "1:" + hash[2:]: "64 hexadecimal digits",
		"1:" + hash + "00": "64 hexadecimal digits", "1:" + strings.Repeat("g", 64): "64 hexadecimal digits",
	} {
		if _, err := quota.ParseAuditPoint(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}

func BenchmarkLink(b *testing.B) {
	records, _ := trailOf(quota.AuditPoint{}, 1, 0)
	for b.Loop() {
		records[0].Hash = records[0].Link(records[0].Hash)
	}
}
