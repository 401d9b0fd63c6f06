package service

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// caller returns who is calling. That nobody is known is the server's fault, not the caller's.
func caller(ctx context.Context) (auth.Principal, error) {
	who, ok := auth.FromContext(ctx)
	if !ok {
		return who, unauthenticated()
	}
	return who, nil
}

// acquireOf reads an acquire; what it says is checked by its Validate.
func acquireOf(bucket string, charges []*quotadv1.Charge, hold *durationpb.Duration) (quota.Acquire, quota.Problems) {
	op := quota.Acquire{Bucket: quota.Bucket(bucket)}
	var ps quota.Problems
	op.Charges, ps = chargesOf(charges)
	if hold != nil {
		op.Reserve, op.Hold = true, duration(&ps, "hold", hold)
	}
	return op, ps
}

// duration reads a duration; one that is outside of what Go can hold is a problem.
func duration(ps *quota.Problems, field string, d *durationpb.Duration) time.Duration {
	if err := d.CheckValid(); err != nil {
		ps.Add(field, "is not a duration: %v", err)
		return 0
	}
	return d.AsDuration()
}

// holdOf reads a hold that is left out rather than 0; what else it says is checked by the Validate of what it belongs to.
func holdOf(ps *quota.Problems, field string, d *durationpb.Duration, otherwise string) time.Duration {
	if d == nil {
		return 0
	}
	faults := len(*ps)
	hold := duration(ps, field, d)
	if hold == 0 && len(*ps) == faults {
		ps.Add(field, "is 0; want %s to %s, or leave it out %s", quota.HoldMin, quota.HoldMax, otherwise)
	}
	return hold
}

// chargesOf reads charges; what they say is checked by the Validate of what they belong to.
func chargesOf(charges []*quotadv1.Charge) ([]quota.Charge, quota.Problems) {
	if len(charges) > quota.ChargesMax { // refused by Validate, which needs no more than this to see it
		charges = charges[:quota.ChargesMax+1]
	}
	var ps quota.Problems
	out := make([]quota.Charge, 0, max(1, len(charges)))
	for i, c := range charges {
		charge := quota.Charge{
			Bucket: quota.Bucket(c.GetBucket()), Unit: quota.Unit(c.GetUnit()), Amount: 1, Default: true,
			CeilingSpan: spanOf(c.GetCeilingWindow()),
		}
		if c != nil && c.Amount != nil {
			charge.Amount, charge.Default = c.GetAmount(), false
		}
		if c != nil && c.Ceiling != nil {
			charge.Ceiling = quota.AtMost(c.GetCeiling())
		}
		checkWindow(&ps, fmt.Sprintf("charges[%d].ceiling_window", i), c.GetCeilingWindow())
		out = append(out, charge)
	}
	return out, ps
}

// spanOf reads a window; the numbers are the same by design. One that does not exist is 0.
func spanOf(w quotadv1.Window) window.Span {
	if w < 0 || w > quotadv1.Window_WINDOW_EVER {
		return 0
	}
	return window.Span(w)
}

func windowOf(s window.Span) quotadv1.Window { return quotadv1.Window(s) }

func checkWindow(ps *quota.Problems, field string, w quotadv1.Window) {
	if _, known := quotadv1.Window_name[int32(w)]; !known {
		ps.Add(field, "is %d, which is not a window", w)
	}
}

// timestamp returns a time for the wire: absent rather than zero.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func bound(c quota.Cap) *int64 {
	if !c.Set {
		return nil
	}
	return &c.Max
}

func balances(bs []quota.Balance) []*quotadv1.Balance {
	out := make([]*quotadv1.Balance, len(bs))
	for i, b := range bs {
		out[i] = balance(b)
	}
	return out
}

func balance(b quota.Balance) *quotadv1.Balance {
	return &quotadv1.Balance{
		Bucket: string(b.Bucket), Unit: string(b.Unit), Window: windowOf(b.Window.Span), WindowLabel: b.Window.Label,
		Start: timestamp(b.Window.Start), End: timestamp(b.Window.End),
		Limit: bound(b.Limit), Used: b.Used, Held: b.Held, Remaining: bound(b.Remaining()),
		Overridden: b.Overridden, Overage: b.Overage(),
	}
}

func denial(d quota.Decision) *quotadv1.Denial {
	out := &quotadv1.Denial{RetryAt: timestamp(d.RetryAt), Message: denialText(d)}
	for _, v := range d.Violations {
		out.Violations = append(out.Violations, &quotadv1.Violation{
			Balance: balance(v.Balance), Requested: v.Requested, Cap: v.Cap, Ceiling: v.Ceiling, Never: v.Never,
			MaxHold: v.MaxHold, MaxInFlight: v.InFlight,
		})
	}
	return out
}

func denialText(d quota.Decision) string {
	text := d.Violations[0].String()
	if more := len(d.Violations) - 1; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	limited := func(v quota.Violation) bool { return !v.InFlight }
	switch never := func(v quota.Violation) bool { return v.Never }; {
	case d.RetryAt.IsZero() && slices.ContainsFunc(d.Violations, never):
		return text + "; no wait can help"
	case d.RetryAt.IsZero() && !slices.ContainsFunc(d.Violations, limited):
		return text + "; it could pass when one of them has been settled, released or has expired"
	case d.RetryAt.IsZero():
		return text + "; no time is known at which it could pass"
	}
	return text + "; resets at " + d.RetryAt.Format(time.RFC3339)
}

func limits(ls []quota.Limit) []*quotadv1.Limit {
	out := make([]*quotadv1.Limit, len(ls))
	for i, l := range ls {
		out[i] = &quotadv1.Limit{Unit: string(l.Unit), Window: windowOf(l.Span), Max: l.Max}
	}
	return out
}

// settingsOf reads a declaration; what it says is checked by its Check.
func settingsOf(b *quotadv1.Bucket, field string) (quota.Settings, quota.Problems) {
	var ps quota.Problems
	s := quota.Settings{Zone: b.GetZone(), Description: b.GetDescription()}
	for i, l := range b.GetLimits() {
		checkWindow(&ps, fmt.Sprintf("%s.limits[%d].window", field, i), l.GetWindow())
		limit := quota.Limit{Unit: quota.Unit(l.GetUnit()), Span: spanOf(l.GetWindow()), Max: l.GetMax()}
		if limit.Unit == "" {
			limit.Unit = quota.Calls
		}
		if limit.Span == 0 {
			limit.Span = window.Day
		}
		s.Limits = append(s.Limits, limit)
	}
	s.MaxHold, s.MaxInFlight = int(b.GetMaxHoldPercent()), b.GetMaxInFlight()
	s.Hold = holdOf(&ps, field+".hold", b.GetHold(), "for "+quota.HoldDefault.String())
	for _, e := range b.GetEstimates() {
		estimate := quota.Estimate{Unit: quota.Unit(e.GetUnit()), Amount: e.GetAmount()}
		if estimate.Unit == "" {
			estimate.Unit = quota.Calls
		}
		s.Estimates = append(s.Estimates, estimate)
	}
	s.Thresholds = thresholdsOf(b.GetThresholds())
	switch b.GetOnExpiry() {
	case quotadv1.OnExpiry_ON_EXPIRY_UNSPECIFIED, quotadv1.OnExpiry_ON_EXPIRY_CHARGE:
		s.OnExpiry = quota.ExpiryCharge
	case quotadv1.OnExpiry_ON_EXPIRY_RELEASE:
		s.OnExpiry = quota.ExpiryRelease
	default:
		ps.Add(field+".on_expiry", "is %d, which is unknown; want charge or release", b.GetOnExpiry())
	}
	return s, ps
}

func bucket(name string, s *quota.Settings) *quotadv1.Bucket {
	if s == nil {
		return nil
	}
	b := &quotadv1.Bucket{
		Name: name, Limits: limits(s.Limits), Zone: s.Zone, Description: s.Description,
		OnExpiry: onExpiry(s.OnExpiry), Source: quotadv1.Source_SOURCE_API,
		MaxHoldPercent: int32(s.MaxHold), MaxInFlight: s.MaxInFlight, Estimates: estimates(s.Estimates), //nolint:gosec // at most 100
	}
	if s.Hold != 0 {
		b.Hold = durationpb.New(s.Hold)
	}
	b.Thresholds = thresholds(s.Thresholds)
	if s.Source == quota.SourceFile {
		b.Source = quotadv1.Source_SOURCE_FILE
	}
	return b
}

func onExpiry(e quota.OnExpiry) quotadv1.OnExpiry {
	if e == quota.ExpiryRelease {
		return quotadv1.OnExpiry_ON_EXPIRY_RELEASE
	}
	return quotadv1.OnExpiry_ON_EXPIRY_CHARGE
}

func estimates(es []quota.Estimate) []*quotadv1.Estimate {
	out := make([]*quotadv1.Estimate, len(es))
	for i, e := range es {
		out[i] = &quotadv1.Estimate{Unit: string(e.Unit), Amount: e.Amount}
	}
	return out
}

func view(v quota.View) *quotadv1.BucketView {
	s := v.Settings
	return &quotadv1.BucketView{
		Name: v.Name, Declared: bucket(v.Name, v.Declared), InForce: v.InForce,
		Limits: limits(s.Limits), Zone: s.Zone, Balances: balances(v.Balances),
		InFlight: v.InFlight, MaxInFlight: s.MaxInFlight, MaxHoldPercent: int32(s.MaxHold), //nolint:gosec // at most 100
		Hold: durationpb.New(s.Hold), OnExpiry: onExpiry(s.OnExpiry), Estimates: estimates(s.Estimates),
	}
}

// phases are the states of the wire, by phase. A plain acquire has none.
var phases = map[quota.Phase]quotadv1.ReservationState{
	quota.PhaseOpen: quotadv1.ReservationState_RESERVATION_STATE_OPEN, quota.PhaseSettled: quotadv1.ReservationState_RESERVATION_STATE_SETTLED,
	quota.PhaseReleased: quotadv1.ReservationState_RESERVATION_STATE_RELEASED, quota.PhaseExpired: quotadv1.ReservationState_RESERVATION_STATE_EXPIRED,
}

// phaseOf reads a state; every state is PhaseUsed, and so is one that does not exist.
func phaseOf(s quotadv1.ReservationState) quota.Phase {
	for p, state := range phases {
		if state == s {
			return p
		}
	}
	return quota.PhaseUsed
}

func reservation(r quota.Reservation) *quotadv1.Reservation {
	out := &quotadv1.Reservation{
		Bucket: string(r.Bucket), RequestId: r.RequestID, Principal: r.Principal, State: phases[r.Phase],
		CreateTime: timestamp(r.Made), ExpireTime: timestamp(r.Expiry), EndTime: timestamp(r.Ended), Late: r.Late,
		OnExpiry: onExpiry(r.OnExpiry),
	}
	out.Charges = heldCharges(r.Charges, func(c quota.HeldCharge) (int64, bool) { return c.Amount, c.Amount > 0 })
	if r.Phase == quota.PhaseSettled {
		out.Settled = heldCharges(r.Charges, func(c quota.HeldCharge) (int64, bool) { return c.Used, true })
	}
	return out
}

// heldCharges adds up what a reservation took in several pieces, by bucket and unit.
func heldCharges(charges []quota.HeldCharge, of func(quota.HeldCharge) (n int64, shown bool)) []*quotadv1.Charge {
	var out []*quotadv1.Charge
	for _, c := range charges {
		n, shown := of(c)
		if !shown {
			continue
		}
		i := slices.IndexFunc(out, func(o *quotadv1.Charge) bool {
			return o.GetBucket() == string(c.Bucket) && o.GetUnit() == string(c.Unit)
		})
		if i < 0 {
			i = len(out)
			out = append(out, &quotadv1.Charge{Bucket: string(c.Bucket), Unit: string(c.Unit), Amount: new(int64)})
		}
		*out[i].Amount += n
	}
	return out
}
