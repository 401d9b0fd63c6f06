package quota_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// trail returns the audit trail, a line for each record.
func (s *mapState) trail() []string {
	var lines []string
	for _, r := range s.audits {
		lines = append(lines, fmt.Sprintf("%d %s %s %s %s: %q -> %q (%s)",
			r.Sequence, r.Time.Format("15:04"), r.Principal, r.Action, r.Bucket, r.Before, r.After, r.Reason))
	}
	return lines
}

// The audit trail of a day of administration. What changes nothing leaves no trace.
func TestAuditTrail(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, nil)
	at := func(minute int, op quota.Op) quota.Decision {
		return s.apply(t, noon.Add(time.Duration(minute)*time.Minute), op)
	}
	fifty := quota.Settings{Limits: limits("50, 1_000 tokens/month"), Zone: "Europe/Berlin", Source: quota.SourceFile}
	at(0, quota.Configure{Principal: "daemon", Defaults: quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}})
	at(0, quota.Configure{Principal: "daemon", Defaults: quota.Defaults{Limits: limits("50"), UndeclaredLive: 9, Zone: "UTC"}})
	at(1, quota.SetBucket{Principal: "ann", Reason: "new", Name: "a", Settings: fifty})
	at(2, quota.SetBucket{Principal: "ann", Name: "a", Settings: fifty})
	at(3, quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: 7}, {Unit: "tokens", Amount: 8}}})
	at(4, quota.SetOverride{Principal: "bob", Reason: "demo day", Bucket: "a", Limit: quota.AtMost(100)})
	at(5, quota.SetOverride{Principal: "bob", Bucket: "a", Limit: quota.AtMost(100)})
	at(6, quota.Reset{Principal: "bob", Bucket: "a", ValidateOnly: true})
	at(7, quota.Reset{Principal: "bob", Reason: "again", Bucket: "a"})
	at(8, quota.Reset{Principal: "bob", Bucket: "a"})
	at(9, quota.SetOverride{Principal: "bob", Bucket: "a"})
	at(10, quota.DeleteBucket{Principal: "ann", Reason: "old", Name: "a"})
	at(11, quota.DeleteBucket{Principal: "ann", Name: "a"})
	at(12, quota.ApplySet{Principal: "file", Source: quota.SourceFile, Buckets: declare(map[string]string{"b/*": "1", "a": ""})})
	at(13, quota.ApplySet{Principal: "file", Source: quota.SourceFile, Buckets: declare(map[string]string{"b/*": "2"})})
	at(14, quota.Exhaust{Principal: "daemon", Reason: "a backup of yesterday"})
	at(15, quota.Note{Principal: "daemon", Action: "accept_clock", Reason: "told to", After: "2026-11-22"})
	want := []string{
		`1 12:00 daemon configure : "off; zone UTC; at most 0 undeclared names" -> "50 calls/day; zone UTC; at most 9 undeclared names" ()`,
		`2 12:01 ann set_bucket a: "" -> "50 calls/day, 1000 tokens/month; zone Europe/Berlin" (new)`,
		`3 12:04 bob set_override a: "calls/day 2026-11-22: used 7 of 50" -> "calls/day 2026-11-22: used 7 of 100 (override)" (demo day)`,
		`4 12:07 bob reset a: "calls/day 2026-11-22: used 7 of 100 (override); tokens/day 2026-11-22: used 8; tokens/month 2026-11: used 8 of 1000" -> ` +
			`"calls/day 2026-11-22: used 0 of 100 (override); tokens/day 2026-11-22: used 0; tokens/month 2026-11: used 0 of 1000" (again)`,
		`5 12:09 bob set_override a: "calls/day 2026-11-22: used 0 of 100 (override)" -> "calls/day 2026-11-22: used 0 of 50" ()`,
		`6 12:10 ann delete_bucket a: "50 calls/day, 1000 tokens/month; zone Europe/Berlin" -> "" (old)`,
		`7 12:12 file apply a: "" -> "counted only; from the buckets file" ()`,
		`8 12:12 file apply b/*: "" -> "1 calls/day; from the buckets file" ()`,
		`9 12:13 file apply a: "counted only; from the buckets file" -> "" ()`,
		`10 12:13 file apply b/*: "1 calls/day; from the buckets file" -> "2 calls/day; from the buckets file" ()`,
		`11 12:14 daemon restore : "" -> "limited units are exhausted until the day ends" (a backup of yesterday)`,
		`12 12:15 daemon accept_clock : "" -> "2026-11-22" (told to)`,
	}
	if diff := cmp.Diff(want, s.trail()); diff != "" {
		t.Error(diff)
	}
}

// What is wrong with a change is told by field, all of it at once, and leaves no trace.
func TestInvalidChanges(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 501)
	const name = "; a name is 1 to 200 bytes, up to 8 segments of letters, digits and ._:@=+- parted by /, such as acme/alice"
	for _, c := range []struct {
		op   quota.Op
		want []string
	}{
		{quota.SetBucket{Name: "a//b", Settings: quota.Settings{OnExpiry: 9}, Reason: long}, []string{
			`bucket.name: "a//b": an empty segment` + name, "bucket: on_expiry: 9 is unknown; want charge or release", "reason: has 501 bytes; at most 500",
		}},
		{quota.DeleteBucket{Name: "", Reason: long}, []string{"name: is empty" + name, "reason: has 501 bytes; at most 500"}},
		{quota.ApplySet{Reason: long, Buckets: map[string]quota.Settings{"a/": {}, "b": {OnExpiry: 9}, "c": {}}}, []string{
			"reason: has 501 bytes; at most 500", `buckets["a/"].name: "a/": an empty segment` + name, `buckets["b"]: on_expiry: 9 is unknown; want charge or release`,
		}},
		{quota.Configure{Defaults: quota.Defaults{UndeclaredLive: -1}}, []string{"defaults: undeclared names: -1 is negative; want 0 or more"}},
		{quota.SetOverride{Bucket: "a/*", Unit: "X", Span: 9, Limit: quota.AtMost(-1), Reason: long}, []string{
			`bucket: "a/*": '*' is not allowed` + name,
			`unit: "X"; a unit is 1 to 64 bytes of a-z, 0-9 and _, starting with a letter, such as input_tokens`,
			"window: is 9, which is not a window", "limit: is -1; want 0 to 4000000000000000000, or leave it out to take the override away",
			"reason: has 501 bytes; at most 500",
		}},
		{quota.SetOverride{Bucket: "a", Limit: quota.AtMost(quota.CountMax + 1)}, []string{
			"limit: is 4000000000000000001; want 0 to 4000000000000000000, or leave it out to take the override away",
		}},
		{quota.SetOverride{Bucket: "a", Span: window.Hour}, []string{"window: a does not count calls by the hour; want day or month"}},
		{quota.SetOverride{Bucket: "a", Label: "today"}, []string{`label: label "today" of window day: want the form "2026-11-22"`}},
		{quota.SetOverride{Bucket: "a", Label: "2026-11-21"}, []string{"label: day 2026-11-21 has ended; want 2026-11-22 or a later one"}},
		{quota.SetOverride{Bucket: "a", Label: "2027-12-28"}, []string{
			"label: day 2027-12-28 begins more than 400 days ahead; want 2027-12-27 or an earlier one",
		}},
		{quota.SetOverride{Bucket: "a", Span: window.Month, Label: "2028-01"}, []string{
			"label: month 2028-01 begins more than 400 days ahead; want 2027-12 or an earlier one",
		}},
		{quota.SetOverride{Bucket: "apia", Label: "2011-12-30"}, []string{
			`label: label "2011-12-30" belongs to no day in zone Pacific/Apia: the nearest is "2011-12-31"`,
		}},
		{quota.Reset{Bucket: "", Unit: "X", Span: 9, Reason: long}, []string{
			"bucket: is empty" + name, `unit: "X"; a unit is 1 to 64 bytes of a-z, 0-9 and _, starting with a letter, such as input_tokens`,
			"window: is 9, which is not a window", "reason: has 501 bytes; at most 500",
		}},
	} {
		declared := declare(map[string]string{"a": "5, 5/month"})
		declared["apia"] = quota.Settings{Zone: "Pacific/Apia"}
		s := newState(t, quota.Defaults{}, declared)
		d := s.apply(t, noon, c.op)
		var got []string
		for _, p := range d.Problems {
			got = append(got, p.String())
		}
		if diff := cmp.Diff(c.want, got); diff != "" || d.Outcome != quota.Invalid || s.writes != 0 {
			t.Errorf("%+v: %v after %d writes\n%s", c.op, d.Outcome, s.writes, diff)
		}
	}
}

// An override may be set as far ahead as is said, in the longest windows too.
func TestOverrideAhead(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5, 5/year, 5/ever"}))
	for _, op := range []quota.SetOverride{{Label: "2027-12-27"}, {Span: window.Year, Label: "2027"}, {Span: window.Ever}} {
		op.Bucket, op.Limit = "a", quota.AtMost(9)
		if d := s.apply(t, noon, op); d.Outcome != quota.Done {
			t.Errorf("%+v: %v", op, told(d))
		}
	}
}

// Without a file all that one declared is the API's, with a record of each.
func TestAdopt(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"api": "1"}))
	file := declare(map[string]string{"a": "2", "b/*": ""})
	s.apply(t, noon, quota.ApplySet{Source: quota.SourceFile, Buckets: file})
	s.audits = nil
	d := s.apply(t, noon, quota.Adopt{Principal: "quotad"})
	want := []string{"done", "a: 2 calls/day; from the buckets file -> 2 calls/day", "b/*: counted only; from the buckets file -> counted only"}
	if diff := cmp.Diff(want, changed(d)); diff != "" {
		t.Error(diff)
	}
	want = []string{
		`1 12:00 quotad adopt a: "2 calls/day; from the buckets file" -> "2 calls/day" ()`,
		`2 12:00 quotad adopt b/*: "counted only; from the buckets file" -> "counted only" ()`,
	}
	if diff := cmp.Diff(want, s.trail()); diff != "" {
		t.Error(diff)
	}
	writes := s.writes
	if d := s.apply(t, noon, quota.Adopt{Principal: "quotad"}); d.Outcome != quota.Done || d.Changes != nil || s.writes != writes {
		t.Errorf("a second time: %v after %d writes", changed(d), s.writes-writes)
	}
	if d := s.apply(t, noon, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("3")}}); d.Outcome != quota.Done {
		t.Errorf("a change by the API: %v", changed(d))
	}
	if d := s.apply(t, noon, quota.ApplySet{Source: quota.SourceFile, Buckets: file}); d.Outcome != quota.Done || len(d.Changes) != 2 {
		t.Errorf("the file again: %v", changed(d))
	}
}

func TestDeclaredMax(t *testing.T) {
	t.Parallel()
	declared := make(map[string]quota.Settings)
	for i := range quota.DeclaredMax {
		declared[fmt.Sprint("b", i)] = quota.Settings{}
	}
	s := newState(t, quota.Defaults{}, declared)
	d := s.apply(t, noon, quota.SetBucket{Name: "c"})
	if want := "[bucket.name: 10000 buckets are declared already, the most there may be; use a pattern for the like of c]"; fmt.Sprint(d.Problems) != want {
		t.Errorf("one more: %v, want %s", d.Problems, want)
	}
	d = s.apply(t, noon, quota.SetBucket{Name: "b1", Settings: quota.Settings{Description: "x"}})
	if d.Outcome != quota.Done {
		t.Errorf("one of them: %v", told(d))
	}
	fromFile := quota.ApplySet{Source: quota.SourceFile, Buckets: map[string]quota.Settings{"c": {}}}
	if d := s.apply(t, noon, fromFile); fmt.Sprint(d.Problems) != "[buckets: would make 10001 declared buckets; at most 10000]" {
		t.Errorf("one more from the file: %v", told(d))
	}
	fromFile.Buckets = map[string]quota.Settings{"b0": {}}
	if d := s.apply(t, noon, fromFile); d.Outcome != quota.Done || len(d.Changes) != 1 {
		t.Errorf("one of them from the file: %v", told(d))
	}
	delete(declared, "b0")
	declared["c"] = quota.Settings{}
	if d := s.apply(t, noon, quota.ApplySet{Buckets: declared}); fmt.Sprint(d.Problems) != "[buckets: would make 10001 declared buckets; at most 10000]" {
		t.Errorf("all, and one of the file: %v", told(d))
	}
}

// changed returns the changes, a line each.
func changed(d quota.Decision) []string {
	lines := []string{d.Outcome.String()}
	show := func(s *quota.Settings) string {
		if s == nil {
			return "none"
		}
		return s.String()
	}
	for _, c := range d.Changes {
		lines = append(lines, fmt.Sprintf("%s: %s -> %s", c.Name, show(c.Before), show(c.After)))
	}
	if d.Detail != "" {
		lines = append(lines, d.Detail)
	}
	return lines
}

// Two sources declare: the file, which wins, and the API, which must not touch what the file declares.
func TestDeclarationsOfTwoSources(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, nil)
	file := func(only bool, declared map[string]string) quota.ApplySet {
		return quota.ApplySet{Source: quota.SourceFile, Buckets: declare(declared), ValidateOnly: only}
	}
	api := func(only bool, declared map[string]string) quota.ApplySet {
		return quota.ApplySet{Source: quota.SourceAPI, Buckets: declare(declared), ValidateOnly: only}
	}
	const f = "; from the buckets file"
	for i, c := range []struct {
		op   quota.Op
		want []string
	}{
		{quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("1"), Source: quota.SourceFile}}, []string{"done", "a: none -> 1 calls/day"}},
		{quota.SetBucket{Name: "b", Settings: quota.Settings{Limits: limits("2")}}, []string{"done", "b: none -> 2 calls/day"}},
		{file(true, map[string]string{"a": "5", "c": "3"}), []string{"done", "a: 1 calls/day -> 5 calls/day" + f, "c: none -> 3 calls/day" + f}},
		{file(false, map[string]string{"a": "1", "c": "3"}), []string{"done", "a: 1 calls/day -> 1 calls/day" + f, "c: none -> 3 calls/day" + f}}, // taken over
		{file(false, map[string]string{"a": "1", "c": "3"}), []string{"done"}},
		{quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("9")}}, []string{"declared_in_file", "a"}},
		{quota.DeleteBucket{Name: "c"}, []string{"declared_in_file", "c"}},
		{api(false, map[string]string{"c": "3", "d": "4"}), []string{"declared_in_file", "c"}}, // all or nothing
		{api(true, map[string]string{"d": "4"}), []string{"done", "b: 2 calls/day -> none", "d: none -> 4 calls/day"}},
		{api(false, map[string]string{"d": "4"}), []string{"done", "b: 2 calls/day -> none", "d: none -> 4 calls/day"}},
		{api(false, map[string]string{"d": "4"}), []string{"done"}},
		{file(false, map[string]string{"d": "6"}), []string{"done", "a: 1 calls/day" + f + " -> none", "c: 3 calls/day" + f + " -> none", "d: 4 calls/day -> 6 calls/day" + f}},
		{api(false, nil), []string{"done"}}, // nothing is declared by the API any more
		{file(false, nil), []string{"done", "d: 6 calls/day" + f + " -> none"}},
	} {
		before := s.book
		d := s.apply(t, noon, c.op)
		if diff := cmp.Diff(c.want, changed(d)); diff != "" {
			t.Errorf("step %d, %+v: %s", i, c.op, diff)
		}
		if set, ok := c.op.(quota.ApplySet); (d.Outcome != quota.Done || ok && set.ValidateOnly) && s.book != before {
			t.Errorf("step %d changed the book", i)
		}
	}
	if names := s.book.Names(); len(names) != 0 {
		t.Errorf("%v are left", names)
	}
}
