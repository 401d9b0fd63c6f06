package quota

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/window"
)

func setBucket(s State, now time.Time, op SetBucket) (Decision, error) {
	var ps Problems
	ps.Try("bucket.name", CheckPattern(op.Name))
	ps.Try("bucket", op.Settings.Check())
	checkReason(&ps, op.Reason)
	if ps != nil {
		return Decision{Outcome: Invalid, Problems: ps}, nil
	}
	op.Settings.Source = SourceAPI
	return declare(s, now, op.Name, &op.Settings, AuditRecord{Principal: op.Principal, Action: "set_bucket", Reason: op.Reason})
}

func deleteBucket(s State, now time.Time, op DeleteBucket) (Decision, error) {
	var ps Problems
	ps.Try("name", CheckPattern(op.Name))
	checkReason(&ps, op.Reason)
	if ps != nil {
		return Decision{Outcome: Invalid, Problems: ps}, nil
	}
	return declare(s, now, op.Name, nil, AuditRecord{Principal: op.Principal, Action: "delete_bucket", Reason: op.Reason})
}

// declare makes one declaration of the API; one that holds already leaves no trace.
func declare(s State, now time.Time, name string, after *Settings, audit AuditRecord) (Decision, error) {
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	before, declared := book.Settings(name)
	if declared && before.Source == SourceFile {
		return Decision{Outcome: DeclaredInFile, Detail: name}, nil
	}
	if !declared && after != nil && len(book.settings) >= DeclaredMax {
		var ps Problems
		ps.Add("bucket.name", "%d buckets are declared already, the most there may be; use a pattern for the like of %s", DeclaredMax, name)
		return Decision{Outcome: Invalid, Problems: ps}, nil
	}
	change := Change{Name: name, After: after}
	if declared {
		change.Before = &before
	}
	d := Decision{Outcome: Done, Changes: []Change{change}}
	if sameSettings(change.Before, change.After) {
		return d, nil
	}
	return d, keepChange(s, now, change, audit)
}

// applySet is all or nothing: what is wrong anywhere leaves everything as it was.
func applySet(s State, now time.Time, op ApplySet) (Decision, error) {
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	changes, refusal := diffSet(book, op)
	if refusal.Outcome != 0 {
		return refusal, nil
	}
	d := Decision{Outcome: Done, Changes: changes}
	if op.ValidateOnly {
		return d, nil
	}
	for _, c := range changes {
		audit := AuditRecord{Principal: op.Principal, Action: "apply", Reason: op.Reason}
		if err := keepChange(s, now, c, audit); err != nil {
			return Decision{}, err
		}
	}
	return d, nil
}

// adopt leaves no trace where the file declared nothing.
func adopt(s State, now time.Time, op Adopt) (Decision, error) {
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	d := Decision{Outcome: Done}
	for _, name := range book.Names() {
		before, _ := book.Settings(name)
		if before.Source != SourceFile {
			continue
		}
		after := before
		after.Source = SourceAPI
		c := Change{Name: name, Before: &before, After: &after}
		if err := keepChange(s, now, c, AuditRecord{Principal: op.Principal, Action: "adopt"}); err != nil {
			return Decision{}, err
		}
		d.Changes = append(d.Changes, c)
	}
	return d, nil
}

func diffSet(book *Book, op ApplySet) ([]Change, Decision) {
	var ps Problems
	checkReason(&ps, op.Reason)
	total := len(op.Buckets)
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(op.Buckets)) {
		after := op.Buckets[name]
		after.Source = op.Source
		ps.Try(fmt.Sprintf("buckets[%q].name", name), CheckPattern(name))
		ps.Try(fmt.Sprintf("buckets[%q]", name), after.Check())
		before, declared := book.Settings(name)
		if declared && before.Source == SourceFile && op.Source != SourceFile {
			return nil, Decision{Outcome: DeclaredInFile, Detail: name}
		}
		c := Change{Name: name, After: &after}
		if declared {
			c.Before = &before
		}
		if !sameSettings(c.Before, c.After) {
			changes = append(changes, c)
		}
	}
	for _, name := range book.Names() {
		before, _ := book.Settings(name)
		_, stays := op.Buckets[name]
		switch {
		case !stays && before.Source == op.Source:
			changes = append(changes, Change{Name: name, Before: &before})
		case !stays:
			total++
		}
	}
	if total > DeclaredMax {
		ps.Add("buckets", "would make %d declared buckets; at most %d", total, DeclaredMax)
	}
	if ps != nil {
		return nil, Decision{Outcome: Invalid, Problems: ps}
	}
	slices.SortFunc(changes, func(a, b Change) int { return compareText(a.Name, b.Name) })
	return changes, Decision{}
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func keepChange(s State, now time.Time, c Change, audit AuditRecord) error {
	audit.Time, audit.Bucket = now, c.Name
	if c.Before != nil {
		audit.Before = c.Before.String()
	}
	if c.After != nil {
		audit.After = c.After.String()
	}
	if err := s.Declare(c.Name, c.After); err != nil {
		return err
	}
	return s.Audit(audit)
}

func sameSettings(a, b *Settings) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b) && a.Source == b.Source
}

func configure(s State, now time.Time, op Configure) (Decision, error) {
	if err := op.Defaults.Check(); err != nil {
		var ps Problems
		ps.Try("defaults", err)
		return Decision{Outcome: Invalid, Problems: ps}, nil
	}
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	op.Defaults.Exhausted = book.Defaults().Exhausted
	before, after := book.Defaults().String(), op.Defaults.String()
	if before == after {
		return Decision{Outcome: Done}, nil
	}
	if err := s.SetDefaults(op.Defaults); err != nil {
		return Decision{}, err
	}
	return Decision{Outcome: Done}, s.Audit(AuditRecord{
		Time: now, Principal: op.Principal, Action: "configure", Before: before, After: after,
	})
}

func exhaust(s State, now time.Time, op Exhaust) (Decision, error) {
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	d := book.Defaults()
	d.Exhausted = now
	if err := s.SetDefaults(d); err != nil {
		return Decision{}, err
	}
	return Decision{Outcome: Done}, s.Audit(AuditRecord{
		Time: now, Principal: op.Principal, Action: "restore", Reason: op.Reason, After: "limited units are exhausted until the day ends",
	})
}

func setOverride(s State, now time.Time, op SetOverride) (Decision, error) {
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	key, w, rules, refusal := planOverride(book, s.Windows(), now, op)
	if refusal.Outcome != 0 {
		return refusal, nil
	}
	a, _, err := s.Account(key)
	if err != nil {
		return Decision{}, err
	}
	declared := book.limit(rules, key.Unit, w)
	d := Decision{Outcome: Done, Before: []Balance{balanceIn(key, w, a, declared)}}
	changed := a.Override != op.Limit
	a.Override, a.Limit = op.Limit, declared
	a.cover(w)
	d.After = []Balance{balanceIn(key, w, a, declared)}
	if !changed {
		return d, nil
	}
	if err := rules.thresholds.announce(s, now, key, &a, declared); err != nil {
		return Decision{}, err
	}
	if err := s.SetAccount(key, a); err != nil {
		return Decision{}, err
	}
	return d, s.Audit(AuditRecord{
		Time: now, Principal: op.Principal, Action: "set_override", Bucket: string(op.Bucket), Reason: op.Reason,
		Before: d.Before[0].line(), After: d.After[0].line(),
	})
}

// planOverride finds the count that an override is for, or why there is none.
func planOverride(book *Book, windows *window.Cache, now time.Time, op SetOverride) (AccountKey, window.Window, *Rules, Decision) {
	refuse := func(d Decision) (AccountKey, window.Window, *Rules, Decision) {
		return AccountKey{}, window.Window{}, nil, d
	}
	var ps Problems
	ps.Try("bucket", op.Bucket.Check())
	unit, span := op.Unit, op.Span
	if unit == "" {
		unit = Calls
	}
	ps.Try("unit", unit.Check())
	if span == 0 {
		span = window.Day
	}
	if !span.Valid() {
		ps.Add("window", "is %d, which is not a window", span)
	}
	if op.Limit.Set && (op.Limit.Max < 0 || op.Limit.Max > CountMax) {
		ps.Add("limit", "is %d; want 0 to %d, or leave it out to take the override away", op.Limit.Max, CountMax)
	}
	checkReason(&ps, op.Reason)
	if ps != nil {
		return refuse(Decision{Outcome: Invalid, Problems: ps})
	}
	rules := book.Rules(op.Bucket)
	if rules == nil {
		return refuse(Decision{Outcome: UnknownBucket, Detail: string(op.Bucket)})
	}
	if !rules.counts(unit, span) {
		ps.Add("window", "%s does not count %s by the %s; want %s", op.Bucket, unit, span, spansOf(rules.caps(unit)))
		return refuse(Decision{Outcome: Invalid, Problems: ps})
	}
	w := windows.At(span, now, rules.zone)
	if op.Label != "" {
		var err error
		if w, err = span.Parse(op.Label, rules.zone); err != nil {
			ps.Try("label", err)
		} else if span != window.Ever && !w.End.After(now) {
			ps.Add("label", "%s %s has ended; want %s or a later one", span, op.Label, windows.At(span, now, rules.zone).Label)
		} else if latest := now.Add(OverrideAheadMax); w.Start.After(latest) {
			ps.Add("label", "%s %s begins more than %d days ahead; want %s or an earlier one", span, op.Label,
				OverrideAheadMax/(24*time.Hour), windows.At(span, latest, rules.zone).Label)
		}
		if ps != nil {
			return refuse(Decision{Outcome: Invalid, Problems: ps})
		}
	}
	return AccountKey{Bucket: op.Bucket, Unit: unit, Span: span, Label: w.Label}, w, rules, Decision{}
}

// reset forgets what was used in the current windows. It counts the resets, so that nothing from before it can free anything
// that was acquired after it.
func reset(s State, now time.Time, op Reset) (Decision, error) {
	var ps Problems
	ps.Try("bucket", op.Bucket.Check())
	if op.Unit != "" {
		ps.Try("unit", op.Unit.Check())
	}
	if op.Span != 0 && !op.Span.Valid() {
		ps.Add("window", "is %d, which is not a window", op.Span)
	}
	checkReason(&ps, op.Reason)
	if ps != nil {
		return Decision{Outcome: Invalid, Problems: ps}, nil
	}
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	due, err := s.Due(now, 1)
	if err != nil {
		return Decision{}, err
	}
	if len(due) > 0 { // what it was charged by its expiry is forgotten with the rest
		return Decision{Outcome: Behind}, nil
	}
	keys, err := currentKeys(s, now, op.Bucket)
	if err != nil {
		return Decision{}, err
	}
	d := Decision{Outcome: Done}
	after := make(map[AccountKey]Account)
	for _, k := range keys {
		if op.Unit != "" && k.Unit != op.Unit || op.Span != 0 && k.Span != op.Span {
			continue
		}
		a, _, err := s.Account(k)
		if err != nil {
			return Decision{}, err
		}
		if a.Used == 0 {
			continue
		}
		d.Before = append(d.Before, standing(book, now, k, a))
		a.Used, a.Receipted = 0, 0
		a.Resets++
		d.After = append(d.After, standing(book, now, k, a))
		after[k] = a
	}
	if op.ValidateOnly || len(after) == 0 {
		return d, nil
	}
	for _, k := range keys {
		if a, changed := after[k]; changed {
			if err := s.SetAccount(k, a); err != nil {
				return Decision{}, err
			}
		}
	}
	return d, s.Audit(AuditRecord{
		Time: now, Principal: op.Principal, Action: "reset", Bucket: string(op.Bucket), Reason: op.Reason,
		Before: lines(d.Before), After: lines(d.After),
	})
}

func checkReason(ps *Problems, reason string) {
	if len(reason) > NoteBytesMax {
		ps.Add("reason", "has %d bytes; at most %d", len(reason), NoteBytesMax)
	}
}
