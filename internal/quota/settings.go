package quota

import (
	"fmt"
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
	return nil
}

// Equal tells whether two settings declare the same, wherever they came from. The order of limits does not matter.
func (s Settings) Equal(t Settings) bool {
	if s.Zone != t.Zone || s.OnExpiry != t.OnExpiry || s.Description != t.Description || len(s.Limits) != len(t.Limits) {
		return false
	}
	for _, l := range s.Limits {
		found := false
		for _, m := range t.Limits {
			found = found || l == m
		}
		if !found {
			return false
		}
	}
	return true
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
	return nil
}

// String returns the defaults in a line, for the audit trail.
func (d Defaults) String() string {
	zone := d.Zone
	if zone == "" {
		zone = "UTC"
	}
	return fmt.Sprintf("%s; zone %s; at most %d undeclared names", FormatLimits(d.Limits), zone, d.UndeclaredLive)
}
