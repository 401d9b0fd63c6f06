package service

import (
	"context"
	"fmt"
	"slices"
	"time"

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
func acquireOf(bucket string, charges []*quotadv1.Charge) (quota.Acquire, quota.Problems) {
	op := quota.Acquire{Bucket: quota.Bucket(bucket)}
	if len(charges) > quota.ChargesMax { // refused by Validate, which needs no more than this to see it
		charges = charges[:quota.ChargesMax+1]
	}
	var ps quota.Problems
	op.Charges = make([]quota.Charge, 0, max(1, len(charges)))
	for i, c := range charges {
		charge := quota.Charge{
			Bucket: quota.Bucket(c.GetBucket()), Unit: quota.Unit(c.GetUnit()), Amount: 1,
			CeilingSpan: spanOf(c.GetCeilingWindow()),
		}
		if c != nil && c.Amount != nil {
			charge.Amount = c.GetAmount()
		}
		if c != nil && c.Ceiling != nil {
			charge.Ceiling = quota.AtMost(c.GetCeiling())
		}
		checkWindow(&ps, fmt.Sprintf("charges[%d].ceiling_window", i), c.GetCeilingWindow())
		op.Charges = append(op.Charges, charge)
	}
	return op, ps
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
		})
	}
	return out
}

func denialText(d quota.Decision) string {
	text := d.Violations[0].String()
	if more := len(d.Violations) - 1; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	switch never := func(v quota.Violation) bool { return v.Never }; {
	case d.RetryAt.IsZero() && slices.ContainsFunc(d.Violations, never):
		return text + "; no wait can help"
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
		OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_CHARGE, Source: quotadv1.Source_SOURCE_API,
	}
	if s.OnExpiry == quota.ExpiryRelease {
		b.OnExpiry = quotadv1.OnExpiry_ON_EXPIRY_RELEASE
	}
	if s.Source == quota.SourceFile {
		b.Source = quotadv1.Source_SOURCE_FILE
	}
	return b
}

func view(v quota.View) *quotadv1.BucketView {
	return &quotadv1.BucketView{
		Name: v.Name, Declared: bucket(v.Name, v.Declared), InForce: v.InForce,
		Limits: limits(v.Settings.Limits), Zone: v.Settings.Zone, Balances: balances(v.Balances),
	}
}
