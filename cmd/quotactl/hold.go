package main

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
)

// length is the value of a flag: a duration, which may be in days.
type length struct{ time.Duration }

func (l *length) Set(s string) (err error) {
	l.Duration, err = config.ParseDuration(s)
	return err
}

func (l *length) String() string { return "" } // no default to be shown: what is left out is not 0
func (l *length) Type() string   { return "DURATION" }

// holdTime is the value of a flag: for how long something is held.
type holdTime struct {
	length
	bucketsOwn bool // whether 0 is allowed, and means the bucket's own
}

func (h *holdTime) Set(s string) error {
	if err := h.length.Set(s); err != nil || h.Duration == 0 && h.bucketsOwn {
		return err
	}
	if h.Duration < quota.HoldMin || h.Duration > quota.HoldMax {
		or := ""
		if h.bucketsOwn {
			or = ", or 0 for the bucket's own"
		}
		return fmt.Errorf("%s is out of range; want %s to %s%s", s,
			config.FormatDuration(quota.HoldMin), config.FormatDuration(quota.HoldMax), or)
	}
	return nil
}

func (h *holdTime) proto() *durationpb.Duration { return durationpb.New(h.Duration) }

// share is the value of a flag: a percentage.
type share int32

func (p *share) Set(s string) error {
	digits, percent := strings.CutSuffix(s, "%")
	n, err := quota.ParseNumber(digits, 100)
	if err != nil || !percent || n < 1 || n > 100 {
		return fmt.Errorf("%q is not a share; want 1%% to 100%%, such as 25%%", s)
	}
	*p = share(n)
	return nil
}

func (p *share) String() string { return "" }
func (p *share) Type() string   { return "PERCENT" }

// until says when something expires, and how long that is from now.
func (a *app) until(at *timestamppb.Timestamp) string {
	left := at.AsTime().Sub(a.now())
	if left <= 0 {
		return stamp(at.AsTime()) + " (now over)"
	}
	return fmt.Sprintf("%s (in %s)", stamp(at.AsTime()), span(left))
}

// standing says how a reservation stands that expires or expired at a time.
func (a *app) standing(s quotadv1.ReservationState, at *timestamppb.Timestamp) string {
	if s == quotadv1.ReservationState_RESERVATION_STATE_OPEN {
		return "it expires at " + a.until(at)
	}
	if s == quotadv1.ReservationState_RESERVATION_STATE_EXPIRED {
		return "it expired at " + stamp(at.AsTime()) + ", and is charged"
	}
	return "it is " + stateOf(s)
}
