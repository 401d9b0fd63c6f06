package quota_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// apply answers an op as the model sees it.
func (m *model) apply(now time.Time, op quota.Op) answer {
	m.n++
	ans := m.answer(now, op)
	switch op.(type) {
	case quota.Acquire, quota.Extend:
		m.tell(now, ans.changed, m.charged)
	default:
		m.tell(now, ans.changed, m.standing)
	}
	return ans
}

func (m *model) answer(now time.Time, op quota.Op) answer {
	switch op := op.(type) {
	case quota.Acquire:
		return m.acquire(now, op)
	case quota.Settle:
		return m.settle(now, op)
	case quota.Release:
		return m.release(now, op)
	case quota.Extend:
		return m.extend(now, op)
	case quota.Expire:
		return m.expire(now, op)
	case quota.SetBucket:
		s := op.Settings
		s.Source = quota.SourceAPI
		return m.declare(op.Name, &s)
	case quota.DeleteBucket:
		return m.declare(op.Name, nil)
	case quota.ApplySet:
		return m.applySet(op)
	case quota.SetOverride:
		return m.override(now, op)
	case quota.Reset:
		return m.reset(now, op)
	case quota.Configure:
		return m.configure(op)
	case quota.Adopt:
		return m.adopt()
	case quota.Exhaust:
		m.defaults.Exhausted = now
		return answer{outcome: quota.Done, audits: 1}
	default:
		panic(fmt.Sprintf("the model does not know %T", op))
	}
}

// sameDeclaration compares declarations, where nil is none and the order of limits and estimates is nothing.
func sameDeclaration(a, b *quota.Settings) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	sorted := func(s *quota.Settings) []string {
		var lines []string
		for _, l := range s.Limits {
			lines = append(lines, fmt.Sprint("limit", l.Unit, l.Span, l.Max))
		}
		for _, e := range s.Estimates {
			lines = append(lines, fmt.Sprint("estimate", e.Unit, e.Amount))
		}
		slices.Sort(lines)
		return lines
	}
	rest := func(s quota.Settings) string {
		return fmt.Sprint(s.Zone, s.OnExpiry, s.Source, s.MaxHold, s.MaxInFlight, s.Hold, s.Thresholds == nil, s.Thresholds) + s.Description
	}
	return slices.Equal(sorted(a), sorted(b)) && rest(*a) == rest(*b)
}

func (m *model) declare(name string, after *quota.Settings) answer {
	var before *quota.Settings
	if s, ok := m.declared[name]; ok {
		before = &s
	}
	if before != nil && before.Source == quota.SourceFile {
		return answer{outcome: quota.DeclaredInFile}
	}
	if sameDeclaration(before, after) {
		return answer{outcome: quota.Done, changes: []string{name}}
	}
	m.put(name, after)
	return answer{outcome: quota.Done, changes: []string{name}, audits: 1}
}

func (m *model) put(name string, s *quota.Settings) {
	m.found = nil
	if s == nil {
		delete(m.declared, name)
	} else {
		m.declared[name] = *s
	}
}

func (m *model) applySet(op quota.ApplySet) answer {
	after := make(map[string]*quota.Settings) // what is to change
	for name, s := range op.Buckets {
		before, ok := m.declared[name]
		if ok && before.Source == quota.SourceFile && op.Source == quota.SourceAPI {
			return answer{outcome: quota.DeclaredInFile}
		}
		s.Source = op.Source
		if !ok || !sameDeclaration(&before, &s) {
			after[name] = &s
		}
	}
	for name, s := range m.declared {
		if _, stays := op.Buckets[name]; !stays && s.Source == op.Source {
			after[name] = nil
		}
	}
	ans := answer{outcome: quota.Done}
	for name, s := range after {
		ans.changes = append(ans.changes, name)
		if !op.ValidateOnly {
			m.put(name, s)
			ans.audits++
		}
	}
	slices.Sort(ans.changes)
	return ans
}

func (m *model) adopt() answer {
	ans := answer{outcome: quota.Done}
	for name, s := range m.declared {
		if s.Source == quota.SourceFile {
			s.Source = quota.SourceAPI
			m.found, m.declared[name] = nil, s
			ans.changes = append(ans.changes, name)
			ans.audits++
		}
	}
	slices.Sort(ans.changes)
	return ans
}

func (m *model) configure(op quota.Configure) answer {
	d, old := op.Defaults, m.defaults
	same := d.UndeclaredLive == old.UndeclaredLive && slices.Equal(d.Limits, old.Limits) && slices.Equal(d.Thresholds, old.Thresholds) &&
		(d.Zone == old.Zone || d.Zone == "" && old.Zone == "UTC" || d.Zone == "UTC" && old.Zone == "")
	if same {
		return answer{outcome: quota.Done}
	}
	d.Exhausted = old.Exhausted
	m.defaults = d
	return answer{outcome: quota.Done, audits: 1}
}

func (m *model) override(now time.Time, op quota.SetOverride) answer {
	s, _, known := m.settingsFor(op.Bucket)
	if !known {
		return answer{outcome: quota.UnknownBucket}
	}
	unit, span := op.Unit, op.Span
	if unit == "" {
		unit = quota.Calls
	}
	if span == 0 {
		span = window.Day
	}
	if !slices.Contains(countedIn(s, unit), span) {
		return answer{outcome: quota.Invalid}
	}
	w := m.windows.At(span, now, m.zone(s))
	if op.Label != "" {
		var err error
		w, err = span.Parse(op.Label, m.zone(s))
		if err != nil || span != window.Ever && (!now.Before(w.End) || w.Start.Sub(now) > 400*24*time.Hour) {
			return answer{outcome: quota.Invalid}
		}
	}
	key := quota.AccountKey{Bucket: op.Bucket, Unit: unit, Span: span, Label: w.Label}
	declared := m.limitAt(s, unit, w)
	ans := answer{outcome: quota.Done, before: []quota.Balance{m.balance(key, w, declared)}}
	if mark := m.marks[key]; mark.Override != op.Limit {
		mark.Override, mark.Limit, mark.Start, mark.End = op.Limit, declared, earliest(mark.Start, w.Start), w.End
		m.marks[key] = mark
		ans.changed, ans.audits = []quota.AccountKey{key}, 1
	}
	ans.after = []quota.Balance{m.balance(key, w, declared)}
	return ans
}

func (m *model) reset(now time.Time, op quota.Reset) answer {
	if len(m.due(now)) > 0 { // what they hold may be used
		return answer{outcome: quota.Behind}
	}
	ans := answer{outcome: quota.Done}
	zone := m.zone(m.inForce(op.Bucket))
	var keys []quota.AccountKey
	for key := range m.marks {
		meant := key.Bucket == op.Bucket && (op.Unit == "" || op.Unit == key.Unit) && (op.Span == 0 || op.Span == key.Span)
		if meant && m.account(key).Used > 0 && key.Label == m.windows.At(key.Span, now, zone).Label {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		ans.before = append(ans.before, m.standing(now, key))
		had := m.resets[key]
		m.resets[key] = append(had, m.n)
		ans.after = append(ans.after, m.standing(now, key))
		if op.ValidateOnly {
			m.resets[key] = had
			continue
		}
		ans.changed, ans.audits = append(ans.changed, key), 1
	}
	return ans
}
