package quota

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// Book is all that is declared, compiled for look-up. It is never changed once made, so it may be shared.
type Book struct {
	defaults Defaults
	settings map[string]Settings
	exact    map[string]*Rules
	patterns branch
	fallback *Rules // for names nobody declared; nil where the default is off
	counted  *Rules // for undeclared children of declared buckets
}

// Rules is what holds for a bucket.
type Rules struct {
	// Name is the declaration that it comes from: the bucket's own name, a pattern, "default", or "" for a bucket that is only
	// counted.
	Name string
	// Settings are those of the declaration, with the zone in force filled in.
	Settings Settings

	zone       *time.Location
	undeclared bool       // made by a caller rather than by a declaration
	thresholds Thresholds // in force
	units      []unitRules
}

type unitRules struct {
	unit Unit
	caps []spanCap
}

// spanCap is one window in which a unit is counted, and the most it may come to there.
type spanCap struct {
	span window.Span
	cap  Cap
}

// A unit without a limit is counted by day all the same, so that usage can be seen before it is limited.
var countedByDay = []spanCap{{span: window.Day}}

// NewBook compiles declarations. The error names the declaration that is wrong.
func NewBook(defaults Defaults, settings map[string]Settings) (*Book, error) {
	if err := defaults.Check(); err != nil {
		return nil, err
	}
	b := &Book{
		defaults: defaults, settings: settings,
		exact: make(map[string]*Rules, len(settings)),
	}
	for name, s := range settings {
		if err := CheckPattern(name); err != nil {
			return nil, fmt.Errorf("bucket %w", err)
		}
		if err := s.Check(); err != nil {
			return nil, fmt.Errorf("bucket %s: %w", name, err)
		}
		r := compile(name, s, defaults)
		if IsPattern(name) {
			b.patterns.add(name, r)
		} else {
			b.exact[name] = r
		}
	}
	b.counted = compile("", Settings{}, defaults)
	b.counted.undeclared = true
	if len(defaults.Limits) > 0 {
		b.fallback = compile("default", Settings{Limits: defaults.Limits}, defaults)
		b.fallback.undeclared = true
	}
	return b, nil
}

func compile(name string, s Settings, d Defaults) *Rules {
	s.Zone = cmp.Or(s.Zone, d.Zone, "UTC")
	zone, err := window.LoadZone(s.Zone)
	if err != nil {
		panic(fmt.Sprintf("quota: zone %q was checked before: %v", s.Zone, err))
	}
	r := &Rules{Name: name, Settings: s, zone: zone, thresholds: s.Thresholds}
	if s.Thresholds == nil {
		r.thresholds = d.Thresholds
	}
	for _, l := range s.Limits {
		i := slices.IndexFunc(r.units, func(u unitRules) bool { return u.unit == l.Unit })
		if i < 0 {
			i = len(r.units)
			r.units = append(r.units, unitRules{unit: l.Unit})
		}
		r.units[i].caps = append(r.units[i].caps, spanCap{l.Span, AtMost(l.Max)})
	}
	for i := range r.units {
		u := &r.units[i]
		if !slices.ContainsFunc(u.caps, func(c spanCap) bool { return c.span == window.Day }) {
			u.caps = append(u.caps, countedByDay...)
		}
		slices.SortFunc(u.caps, func(a, b spanCap) int { return cmp.Compare(a.span, b.span) })
	}
	return r
}

// branch is a tree of patterns, a level for each segment.
type branch struct {
	literal map[string]*branch
	any     *branch // where the pattern has "*"
	rules   *Rules  // of the pattern that ends here; nil if none does
}

func (b *branch) add(pattern string, r *Rules) {
	segment, rest, more := strings.Cut(pattern, "/")
	next := b.child(segment)
	if !more {
		next.rules = r
		return
	}
	next.add(rest, r)
}

// child returns the branch below for a segment of a pattern, and makes it if there is none.
func (b *branch) child(segment string) *branch {
	if segment == "*" {
		if b.any == nil {
			b.any = &branch{}
		}
		return b.any
	}
	if b.literal == nil {
		b.literal = make(map[string]*branch)
	}
	if b.literal[segment] == nil {
		b.literal[segment] = &branch{}
	}
	return b.literal[segment]
}

// find returns the most specific pattern that matches a name: the one whose leftmost differing segment is not "*". It takes at
// most two to the power of SegmentsMax steps, however many patterns there are.
func (b *branch) find(name string) *Rules {
	segment, rest, more := strings.Cut(name, "/")
	for _, next := range [2]*branch{b.literal[segment], b.any} {
		switch {
		case next == nil:
		case more:
			if r := next.find(rest); r != nil {
				return r
			}
		case next.rules != nil:
			return next.rules
		}
	}
	return nil
}

// Defaults returns what holds where nothing is declared.
func (b *Book) Defaults() Defaults { return b.defaults }

// Settings returns what is declared under that very name.
func (b *Book) Settings(name string) (Settings, bool) {
	s, ok := b.settings[name]
	return s, ok
}

// All returns a copy of everything declared, by name.
func (b *Book) All() map[string]Settings { return maps.Clone(b.settings) }

// Len returns how many names and patterns are declared.
func (b *Book) Len() int { return len(b.settings) }

// Zones returns every zone that a bucket's windows may be in, each once.
func (b *Book) Zones() []*time.Location {
	zones := []*time.Location{b.counted.zone}
	for name := range b.settings {
		zone := b.counted.zone
		if s := b.settings[name]; s.Zone != "" {
			var err error
			if zone, err = window.LoadZone(s.Zone); err != nil {
				panic(fmt.Sprintf("quota: zone %q was checked before: %v", s.Zone, err))
			}
		}
		if !slices.Contains(zones, zone) {
			zones = append(zones, zone)
		}
	}
	return zones
}

// Names returns every declared name and pattern, sorted.
func (b *Book) Names() []string { return slices.Sorted(maps.Keys(b.settings)) }

// Rules returns what holds for a bucket when it is charged itself; nil if it is unknown: neither it nor a parent is declared,
// and the default is off. The most specific declaration wins: exact, then a pattern, then the default for a name that has
// neither a declaration nor a declared parent. A child of a declared bucket without a declaration of its own is only counted.
func (b *Book) Rules(bucket Bucket) *Rules {
	if r := b.declared(bucket); r != nil {
		return r
	}
	for p := bucket.Parent(); p != ""; p = p.Parent() {
		if b.declared(p) != nil {
			return b.counted
		}
	}
	return b.fallback
}

// terms returns the settings that reservations of a bucket are made under: its own, or those of the nearest parent that is
// declared. Hold is always set; of the limits, each bucket has its own.
func (b *Book) terms(bucket Bucket) Settings {
	s := b.counted.Settings
	for ; bucket != ""; bucket = bucket.Parent() {
		if r := b.declared(bucket); r != nil {
			s = r.Settings
			break
		}
	}
	if s.Hold == 0 {
		s.Hold = HoldDefault
	}
	return s
}

// Zone returns the zone of a bucket's windows, also where nobody declared it.
func (b *Book) Zone(bucket Bucket) *time.Location {
	if r := b.Rules(bucket); r != nil {
		return r.zone
	}
	return b.counted.zone
}

// declared returns the rules of a bucket that has a declaration of its own or a pattern's; else nil.
func (b *Book) declared(bucket Bucket) *Rules {
	if r := b.exact[string(bucket)]; r != nil {
		return r
	}
	return b.patterns.find(string(bucket))
}

// Zone returns the zone of the bucket's windows.
func (r *Rules) Zone() *time.Location { return r.zone }

// caps returns the windows in which a unit is counted, shortest first; the day is always among them.
func (r *Rules) caps(u Unit) []spanCap {
	for i := range r.units {
		if r.units[i].unit == u {
			return r.units[i].caps
		}
	}
	return countedByDay
}

// cap returns the limit of a unit in a window; none if there is none.
func (r *Rules) cap(u Unit, s window.Span) Cap {
	for _, c := range r.caps(u) {
		if c.span == s {
			return c.cap
		}
	}
	return Cap{}
}

// limit returns the declared limit of a unit in a window; none if there is none. On the day of a restored backup a limited unit
// has nothing left.
func (b *Book) limit(r *Rules, u Unit, w window.Window) Cap {
	c := r.cap(u, w.Span)
	if !b.defaults.Exhausted.IsZero() && w.Span == window.Day && r.limits(u) && w.Contains(b.defaults.Exhausted) {
		return AtMost(0)
	}
	return c
}

// limits tells whether a unit is limited in any window.
func (r *Rules) limits(u Unit) bool {
	caps := r.caps(u)
	return len(caps) > 1 || caps[0].cap.Set
}

// counts tells whether a unit is counted in a window.
func (r *Rules) counts(u Unit, s window.Span) bool {
	return slices.ContainsFunc(r.caps(u), func(c spanCap) bool { return c.span == s })
}
