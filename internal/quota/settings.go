package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// OnExpiry says what becomes of a reservation that nobody settles in time. Its numbers are stored; they never change.
type OnExpiry uint8

// What may become of one.
const (
	ExpiryCharge  OnExpiry = 0 // held becomes used: the money may be gone; the default
	ExpiryRelease OnExpiry = 1 // held is given back
)

// Source says where a declaration came from. Its numbers are stored; they never change.
type Source uint8

// Where it may come from.
const (
	SourceAPI  Source = 0 // SetBucket or Apply
	SourceFile Source = 1 // the daemon's buckets file
)

// Settings is what is declared about a bucket, or about all that a pattern matches. The zero value declares it without limits:
// it is counted only.
type Settings struct {
	Limits      []Limit
	Zone        string // IANA name; "" means the daemon's
	OnExpiry    OnExpiry
	Description string // for people; at most NoteBytesMax bytes
	Source      Source

	MaxHold     int           // the share of each limit that one reservation may hold, in percent, 1 to 100; 0 means the whole
	MaxInFlight int64         // how many reservations may be open at a time, on the bucket and below it; 0 means any number
	Hold        time.Duration // of a reservation whose caller leaves it to the bucket; 0 means HoldDefault
	Estimates   []Estimate    // what a call is taken to need where its caller does not say
	Thresholds  Thresholds    // at which shares of each limit an Event tells; nil means the defaults', none nothing
}

// Estimate is what a call is taken to need of a unit where its caller does not say.
type Estimate struct {
	Unit   Unit
	Amount int64 // 1 to AmountMax
}

// String returns the estimate as ParseEstimate reads it, such as "4096 output_tokens".
func (e Estimate) String() string { return fmt.Sprintf("%d %s", e.Amount, e.Unit) }

// Check tells what is wrong with the estimate; nil if nothing is.
func (e Estimate) Check() error {
	if err := e.Unit.Check(); err != nil {
		return fmt.Errorf("unit %w", err)
	}
	if e.Amount < 1 || e.Amount > AmountMax {
		return fmt.Errorf("%s is estimated at %d; want 1 to %d", e.Unit, e.Amount, AmountMax)
	}
	return nil
}

// ParseEstimate reads an estimate such as "4096 output_tokens". The unit may be left out for calls. The number may have "_"
// between digits.
func ParseEstimate(s string) (Estimate, error) {
	const right = `; want a number and a unit, such as "4096 output_tokens"`
	if strings.Contains(s, "/") { // who writes a limit would be told that its unit is bad
		return Estimate{}, fmt.Errorf("estimate %q: has a window, and is of one call%s", s, right)
	}
	number, unit, _ := strings.Cut(strings.TrimSpace(s), " ")
	e := Estimate{Unit: Unit(strings.TrimSpace(unit))}
	var err error
	if e.Amount, err = ParseNumber(number, AmountMax); err != nil {
		return Estimate{}, fmt.Errorf("estimate %q: %w%s", s, err, right)
	}
	if e.Unit == "" {
		e.Unit = Calls
	}
	if err := e.Check(); err != nil {
		return Estimate{}, fmt.Errorf("estimate %q: %w", s, err)
	}
	return e, nil
}

// Check tells what is wrong with the settings; nil if nothing is.
func (s Settings) Check() error {
	if err := CheckLimits(s.Limits); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	if _, err := window.LoadZone(s.Zone); err != nil {
		return fmt.Errorf("zone: %w", err)
	}
	if s.OnExpiry > ExpiryRelease {
		return fmt.Errorf("on_expiry: %d is unknown; want charge or release", s.OnExpiry)
	}
	if len(s.Description) > NoteBytesMax {
		return fmt.Errorf("description: has %d bytes; at most %d", len(s.Description), NoteBytesMax)
	}
	if s.MaxHold < 0 || s.MaxHold > 100 {
		return fmt.Errorf("max_hold: is %d percent; want 1 to 100, or leave it out for the whole", s.MaxHold)
	}
	if s.MaxInFlight < 0 || s.MaxInFlight > InFlightMax {
		return fmt.Errorf("max_in_flight: is %d; want 1 to %d, or leave it out for any number", s.MaxInFlight, InFlightMax)
	}
	if s.Hold != 0 && (s.Hold < HoldMin || s.Hold > HoldMax) {
		return fmt.Errorf("hold: is %s; want %s to %s, or leave it out for %s", s.Hold, HoldMin, HoldMax, HoldDefault)
	}
	if err := s.Thresholds.Check(); err != nil {
		return fmt.Errorf("thresholds: %w", err)
	}
	return s.checkEstimates()
}

// checkEstimates refuses also an estimate that no acquire could ever be granted with.
func (s Settings) checkEstimates() error {
	if len(s.Estimates) > EstimatesMax {
		return fmt.Errorf("estimates: there are %d; at most %d", len(s.Estimates), EstimatesMax)
	}
	for i, e := range s.Estimates {
		if err := e.Check(); err != nil {
			return fmt.Errorf("estimates: %w", err)
		}
		for _, other := range s.Estimates[:i] {
			if other.Unit == e.Unit {
				return fmt.Errorf("estimates: %s is estimated twice; keep one", e.Unit)
			}
		}
		for _, l := range s.Limits {
			if most := share(AtMost(l.Max), s.MaxHold).Max; l.Unit == e.Unit && l.Max > 0 && e.Amount > most {
				return fmt.Errorf("estimates: %s is more than the limit of %s lets one reservation hold, so that none would be granted; want at most %d", e, l, most)
			}
		}
	}
	return nil
}

// share returns what one reservation may hold of a limit: percent of it, rounded up, so that it is never nothing of something.
func share(limit Cap, percent int) Cap {
	if !limit.Set || percent == 0 {
		return limit
	}
	whole, rest := limit.Max/100, limit.Max%100
	return AtMost(whole*int64(percent) + (rest*int64(percent)+99)/100)
}

// Equal tells whether two settings declare the same, wherever they came from. The order of limits and estimates does not matter.
func (s Settings) Equal(t Settings) bool {
	return s.Zone == t.Zone && s.OnExpiry == t.OnExpiry && s.Description == t.Description &&
		s.MaxHold == t.MaxHold && s.MaxInFlight == t.MaxInFlight && s.Hold == t.Hold &&
		sameSet(s.Limits, t.Limits) && sameSet(s.Estimates, t.Estimates) && s.Thresholds.same(t.Thresholds)
}

// sameSet tells whether two lists have the same elements, in whatever order. None is in a list twice.
func sameSet[T comparable](a, b []T) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(v T) bool { return !slices.Contains(b, v) })
}

// String returns the settings in a line, for the audit trail.
func (s Settings) String() string {
	parts := []string{FormatLimits(s.Limits)}
	if len(s.Limits) == 0 {
		parts[0] = "counted only"
	}
	if s.Zone != "" {
		parts = append(parts, "zone "+s.Zone)
	}
	if s.OnExpiry == ExpiryRelease {
		parts = append(parts, "on expiry release")
	}
	if s.MaxHold != 0 {
		parts = append(parts, fmt.Sprintf("a reservation holds at most %d%%", s.MaxHold))
	}
	if s.MaxInFlight != 0 {
		parts = append(parts, fmt.Sprintf("at most %d reservations in flight", s.MaxInFlight))
	}
	if s.Hold != 0 {
		parts = append(parts, "held for "+s.Hold.String())
	}
	for _, e := range s.Estimates {
		parts = append(parts, fmt.Sprintf("estimate %s", e))
	}
	if s.Thresholds != nil {
		parts = append(parts, fmt.Sprintf("thresholds %s", s.Thresholds))
	}
	if s.Description != "" {
		parts = append(parts, fmt.Sprintf("described as %q", s.Description))
	}
	if s.Source == SourceFile {
		parts = append(parts, "from the buckets file")
	}
	return strings.Join(parts, "; ")
}

// Defaults is what holds where nothing is declared. It is kept in the ledger, so that every decision can be explained from
// the file alone.
type Defaults struct {
	Limits         []Limit // for a name that nobody declared, nor a parent of it; none means that such a name is unknown
	Zone           string  // IANA name, of buckets without one of their own; "" means UTC
	UndeclaredLive int64   // how many undeclared names may have a count on one day; 0 means none

	Thresholds Thresholds // of buckets without their own; nil means none

	// Exhausted is when a backup was restored; zero if none was. On the day of it limited units are not granted: nobody knows
	// what was spent between the backup and the restoring. Configure leaves it as it is.
	Exhausted time.Time
}

// Check tells what is wrong with the defaults; nil if nothing is.
func (d Defaults) Check() error {
	if err := CheckLimits(d.Limits); err != nil {
		return fmt.Errorf("default: %w", err)
	}
	if _, err := window.LoadZone(d.Zone); err != nil {
		return fmt.Errorf("zone: %w", err)
	}
	if d.UndeclaredLive < 0 {
		return fmt.Errorf("undeclared names: %d is negative; want 0 or more", d.UndeclaredLive)
	}
	if err := d.Thresholds.Check(); err != nil {
		return fmt.Errorf("thresholds: %w", err)
	}
	return nil
}

// String returns the defaults in a line, for the audit trail.
func (d Defaults) String() string {
	zone := d.Zone
	if zone == "" {
		zone = "UTC"
	}
	s := fmt.Sprintf("%s; zone %s; at most %d undeclared names", FormatLimits(d.Limits), zone, d.UndeclaredLive)
	if len(d.Thresholds) > 0 {
		s += fmt.Sprintf("; thresholds %s", d.Thresholds)
	}
	return s
}
