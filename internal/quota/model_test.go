package quota_test

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// model is the rules of counting told a second time, apart from the code and from the promises alone: a list of all that was ever
// granted, from which every count is worked out anew whenever it is looked at; loops over everything, sums instead of subtractions.
// It shares the nouns of package quota, and asks package window for windows; it calls nothing that decides.
type model struct {
	defaults quota.Defaults
	declared map[string]quota.Settings
	marks    map[quota.AccountKey]quota.Account // what is kept of a count besides amounts: its window, its limit, its override
	lines    map[quota.AccountKey][]line        // what was granted of each count
	resets   map[quota.AccountKey][]int         // when each count was reset
	grants   map[quota.ReceiptKey]*grant        // what was granted under an id
	live     map[string]map[quota.Bucket]bool   // undeclared names by day
	found    map[quota.Bucket]*quota.Settings   // of declarations, for each name that was looked up; nil is that there is none
	windows  window.Cache
	events   []quota.Event // all that was told, in whatever order within an op
	n        int           // ops so far; what happened when is told by it
}

// answer is what the model says to an op.
type answer struct {
	outcome     quota.Outcome
	replayed    bool
	balances    []quota.Balance
	violations  []quota.Violation
	before      []quota.Balance
	after       []quota.Balance
	changes     []string // names declared otherwise
	changed     []quota.AccountKey
	audits      int
	wish        *wish // of an acquire or an extension: all that it wants
	retryAt     time.Time
	expiry      time.Time
	field       string      // the id that was used before
	reservation *grant      // that a refusal names
	phase       quota.Phase // of an acquire or an extension, as it stands
	ended       quota.Phase // how what was open ended
	late        bool
	overage     []quota.Amount
	charged     int
	released    int
	more        bool
}

func newModel(defaults quota.Defaults, declared map[string]quota.Settings) *model {
	return &model{
		defaults: defaults, declared: maps.Clone(declared),
		marks:  make(map[quota.AccountKey]quota.Account),
		lines:  make(map[quota.AccountKey][]line),
		resets: make(map[quota.AccountKey][]int),
		grants: make(map[quota.ReceiptKey]*grant),
		live:   make(map[string]map[quota.Bucket]bool),
	}
}

// patternMatches goes segment by segment.
func patternMatches(pattern, name string) bool {
	ps, ns := strings.Split(pattern, "/"), strings.Split(name, "/")
	if len(ps) != len(ns) {
		return false
	}
	for i := range ps {
		if ps[i] != "*" && ps[i] != ns[i] {
			return false
		}
	}
	return true
}

// stars is 0 for each plain segment and 1 for each star: the least of them is the most specific pattern.
func stars(pattern string) string {
	var b strings.Builder
	for p := range strings.SplitSeq(pattern, "/") {
		if p == "*" {
			b.WriteByte('1')
		} else {
			b.WriteByte('0')
		}
	}
	return b.String()
}

// declarationFor returns the most specific declaration for a name, the name's own before all. What was found is kept until
// something is declared otherwise, as looking takes most of a history's time.
func (m *model) declarationFor(name quota.Bucket) (quota.Settings, bool) {
	s, ok := m.found[name]
	if !ok {
		if s = m.find(name); m.found == nil {
			m.found = make(map[quota.Bucket]*quota.Settings)
		}
		m.found[name] = s
	}
	if s == nil {
		return quota.Settings{}, false
	}
	return *s, true
}

// find is declarationFor; nil if there is none.
func (m *model) find(name quota.Bucket) *quota.Settings {
	if s, ok := m.declared[string(name)]; ok {
		return &s
	}
	best := ""
	for pattern := range m.declared {
		if patternMatches(pattern, string(name)) && (best == "" || stars(pattern) < stars(best)) {
			best = pattern
		}
	}
	if s, ok := m.declared[best]; ok {
		return &s
	}
	return nil
}

// parents returns the buckets above a name, the nearest first.
func parents(name quota.Bucket) []quota.Bucket {
	var above []quota.Bucket
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' {
			above = append(above, name[:i])
		}
	}
	return above
}

// settingsFor returns what holds for a name, and whether nobody declared it; false if the name is unknown.
func (m *model) settingsFor(name quota.Bucket) (s quota.Settings, undeclared, known bool) {
	if s, ok := m.declarationFor(name); ok {
		return s, false, true
	}
	for _, p := range parents(name) {
		if _, ok := m.declarationFor(p); ok {
			return quota.Settings{}, true, true
		}
	}
	return quota.Settings{Limits: m.defaults.Limits}, true, len(m.defaults.Limits) > 0
}

// inForce is settingsFor, where an unknown name is one that has no limits.
func (m *model) inForce(name quota.Bucket) quota.Settings {
	s, _, known := m.settingsFor(name)
	if !known {
		return quota.Settings{}
	}
	return s
}

func (m *model) zone(s quota.Settings) *time.Location {
	name := s.Zone
	if name == "" {
		name = m.defaults.Zone
	}
	zone, err := window.LoadZone(name)
	if err != nil {
		panic(err)
	}
	return zone
}

func limitIn(s quota.Settings, unit quota.Unit, span window.Span) quota.Cap {
	for _, l := range s.Limits {
		if l.Unit == unit && l.Span == span {
			return quota.AtMost(l.Max)
		}
	}
	return quota.Cap{}
}

// limitAt is limitIn, but on the day of a restored backup, of which a limited unit has nothing left.
func (m *model) limitAt(s quota.Settings, unit quota.Unit, w window.Window) quota.Cap {
	restored := m.defaults.Exhausted
	if w.Span == window.Day && limited(s, unit) && !restored.IsZero() && !restored.Before(w.Start) && restored.Before(w.End) {
		return quota.AtMost(0)
	}
	return limitIn(s, unit, w.Span)
}

// termsFor returns what reservations of a name are made under: its own declaration, or that of the nearest parent which has one.
func (m *model) termsFor(name quota.Bucket) quota.Settings {
	var terms quota.Settings
	for _, b := range append([]quota.Bucket{name}, parents(name)...) {
		if s, ok := m.declarationFor(b); ok {
			terms = s
			break
		}
	}
	if terms.Hold == 0 {
		terms.Hold = 15 * time.Minute
	}
	return terms
}

// countedIn returns the windows that a unit is counted in: those with a limit, and the day.
func countedIn(s quota.Settings, unit quota.Unit) []window.Span {
	var spans []window.Span
	for _, span := range window.Spans() {
		if span == window.Day || limitIn(s, unit, span).Set {
			spans = append(spans, span)
		}
	}
	return spans
}

func limited(s quota.Settings, unit quota.Unit) bool {
	return slices.ContainsFunc(s.Limits, func(l quota.Limit) bool { return l.Unit == unit })
}
