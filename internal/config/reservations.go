package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/strictyaml"
)

// parseShare reads a share in percent, such as "25%". A bare number is refused: 25 might be taken for 25 calls, and 0.25 for a
// quarter.
func parseShare(s string) (int, error) {
	const right = "want 1% to 100%, such as 25%"
	digits, percent := strings.CutSuffix(s, "%")
	n, err := quota.ParseNumber(digits, 100)
	switch {
	case err == nil && (n < 1 || n > 100):
		return 0, fmt.Errorf("%q is out of range; %s, or leave it out for the whole", s, right)
	case err == nil && !percent:
		return 0, fmt.Errorf("%q has no percent sign; want %d%%", s, n)
	case err != nil:
		return 0, fmt.Errorf("%q is not a whole number of percent; %s", s, right)
	}
	return int(n), nil
}

// parseInFlight reads how many reservations may be open at a time.
func parseInFlight(s string) (int64, error) {
	n, err := quota.ParseNumber(s, quota.InFlightMax)
	if err != nil || n < 1 || n > quota.InFlightMax {
		return 0, fmt.Errorf("%q is not a whole number from 1 to %d; leave it out for any number", s, quota.InFlightMax)
	}
	return n, nil
}

// parseHold reads how long a reservation is held.
func parseHold(s string) (time.Duration, error) {
	d, err := ParseDuration(s)
	if err != nil {
		return 0, err
	}
	if d < quota.HoldMin || d > quota.HoldMax {
		return 0, fmt.Errorf("%q is out of range; want %s to %s, or leave it out for %s", s,
			FormatDuration(quota.HoldMin), FormatDuration(quota.HoldMax), FormatDuration(quota.HoldDefault))
	}
	return d, nil
}

// estimates reads a list of estimates, and where each stands.
func (f file) estimates(e strictyaml.Entry) (estimates []quota.Estimate, at []strictyaml.Place) {
	for i, n := range f.List(e) {
		if i == quota.EstimatesMax {
			f.Fault(n.At, "this is estimate %d; a bucket may have at most %d", i+1, quota.EstimatesMax)
			break
		}
		text, ok := f.Scalar(e, n)
		if !ok {
			continue
		}
		estimate, err := quota.ParseEstimate(text)
		if err != nil {
			f.Fault(n.At, "%v", err)
			continue
		}
		same := func(other quota.Estimate) bool { return other.Unit == estimate.Unit }
		if j := slices.IndexFunc(estimates, same); j >= 0 {
			f.Fault(n.At, "%s is estimated already, at %d; keep one", estimate.Unit, estimates[j].Amount)
			continue
		}
		estimates, at = append(estimates, estimate), append(at, n.At)
	}
	return estimates, at
}

// checkEstimates refuses each estimate with which nothing could ever be granted. That is known only once the bucket's limits and
// max_hold have been read too.
func (f file) checkEstimates(s quota.Settings, at []strictyaml.Place) {
	s = quota.Settings{Limits: s.Limits, MaxHold: s.MaxHold, Estimates: s.Estimates} // the rest has been checked where it stands
	if s.Check() == nil {
		return
	}
	for i, e := range s.Estimates {
		alone := s
		alone.Estimates = []quota.Estimate{e}
		if err := alone.Check(); err != nil {
			f.Fault(at[i], "%v", err)
		}
	}
}

// formatReservations writes what is declared about a bucket's reservations.
func formatReservations(s *strings.Builder, b quota.Settings) {
	if b.OnExpiry == quota.ExpiryRelease {
		s.WriteString("    on_expiry: release\n")
	}
	if b.MaxHold != 0 {
		fmt.Fprintf(s, "    max_hold: %d%%\n", b.MaxHold)
	}
	if b.MaxInFlight != 0 {
		fmt.Fprintf(s, "    max_in_flight: %d\n", b.MaxInFlight)
	}
	if b.Hold != 0 {
		fmt.Fprintf(s, "    hold: %s\n", FormatDuration(b.Hold))
	}
	if len(b.Estimates) > 0 {
		s.WriteString("    estimates:\n")
	}
	for _, e := range b.Estimates {
		fmt.Fprintf(s, "      - %s\n", e)
	}
}
