package quota_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// granted returns the acquires of which a receipt is kept and that is so, in the order in which they were asked for.
func (w *world) granted(is func(*grant) bool) []quota.ReceiptKey {
	var ids []quota.ReceiptKey
	for _, id := range w.ids {
		if g := w.model.grants[id]; g != nil && is(g) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// whose returns an acquire to settle, to release or to extend: an open reservation mostly, at times one that may be corrected yet,
// any other one, somebody else's, or none.
func (w *world) whose() (id quota.ReceiptKey, g *grant) {
	n := w.pick(14, "whose")
	ids := w.granted(func(g *grant) bool {
		switch {
		case n < 8:
			return g.open()
		case n < 10:
			return g.expired > 0 && g.settled+g.released == 0
		}
		return true
	})
	if len(ids) == 0 {
		ids = w.ids
	}
	id = oneOf(w.pick, "which", ids)
	if n == 13 {
		id.Principal = "q"
	}
	return id, w.model.grants[id]
}

func (w *world) settle() quota.Settle {
	id, g := w.whose()
	op := quota.Settle{Principal: id.Principal, RequestID: id.RequestID}
	if g == nil || w.pick(3, "as held") == 0 {
		return op
	}
	for _, t := range g.takes {
		twice := slices.ContainsFunc(said(g.op.Bucket, op.Charges), func(c quota.Charge) bool { return c.Bucket == t.bucket && c.Unit == t.unit })
		if n := w.pick(16, "named"); n < 4 && len(op.Charges) > 0 || twice && n < 15 {
			continue
		}
		c := quota.Charge{Bucket: t.bucket, Unit: t.unit}
		if c.Bucket == g.op.Bucket && w.pick(2, "its bucket") == 0 {
			c.Bucket = ""
		}
		switch w.pick(8, "amount") {
		case 0:
			c.Default = true
		case 1:
			c.Amount = 0
		case 2:
			c.Amount = t.amount
		case 3:
			c.Amount = oneOf(w.pick, "large", []int64{quota.AmountMax, quota.AmountMax - 1})
		default:
			c.Amount = max(0, min(quota.AmountMax, t.amount+int64(w.pick(9, "more")-4)))
		}
		op.Charges = append(op.Charges, c)
	}
	switch w.pick(8, "unheld") {
	case 0, 1: // of a bucket that was charged
		op.Charges = append(op.Charges, quota.Charge{
			Bucket: oneOf(w.pick, "of", g.takes).bucket, Unit: oneOf(w.pick, "unit", worldUnits), Amount: int64(w.pick(4, "amount")),
		})
	case 2: // of any
		op.Charges = append(op.Charges, quota.Charge{Bucket: oneOf(w.pick, "of", w.names), Amount: int64(w.pick(4, "amount"))})
	}
	return op
}

func (w *world) release() quota.Release {
	id, _ := w.whose()
	return quota.Release{Principal: id.Principal, RequestID: id.RequestID}
}

func (w *world) extend() quota.Extend {
	id, g := w.whose()
	if open := w.granted((*grant).open); len(open) > 0 && w.pick(3, "open") > 0 {
		id = open[len(open)-1]
		g = w.model.grants[id]
	}
	op := quota.Extend{
		Principal: id.Principal, RequestID: id.RequestID,
		Hold:     oneOf(w.pick, "hold", worldHolds),
		ExtendID: oneOf(w.pick, "extension", []string{"1", "", fmt.Sprint("x", len(w.before)), fmt.Sprint("x", len(w.before))}),
	}
	op.Charges = w.charges(oneOf(w.pick, "charges", []int{1, 0, 1, 1, 2}))
	if g != nil && len(op.Charges) > 0 && w.pick(3, "the same") > 0 {
		c := &op.Charges[0]
		c.Bucket, c.Unit = g.takes[0].bucket, g.takes[0].unit
		if c.Bucket == g.op.Bucket {
			c.Bucket = ""
		}
		if len(op.Charges) > 1 && op.Charges[1].Bucket == c.Bucket && op.Charges[1].Unit == c.Unit {
			op.Charges = op.Charges[:1]
		}
	}
	switch {
	case len(op.Charges) > 0 && op.ExtendID == "":
		op.ExtendID = fmt.Sprint("x", len(w.before))
	case len(op.Charges) == 0 && op.Hold == 0:
		op.Hold = 2 * time.Minute
	}
	return op
}

// over returns the extensions that were granted, and where there are none the acquires, of what has ended or is due to.
func (w *world) over() []quota.Op {
	var acquires, extends []quota.Op
	for _, op := range w.before {
		g := w.model.grants[subject(op)]
		if g == nil || g.open() && w.now.Before(g.expiry) {
			continue
		}
		switch op := op.(type) {
		case quota.Acquire:
			acquires = append(acquires, op)
		case quota.Extend:
			if _, granted := g.extends[op.ExtendID]; granted {
				extends = append(extends, op)
			}
		}
	}
	if len(extends) > 0 {
		return extends
	}
	return acquires
}

// again repeats what a caller asked, under another id or with another content at times.
func (w *world) again() quota.Op {
	how := w.pick(6, "how")
	other := func(charges []quota.Charge) []quota.Charge {
		charges = slices.Clone(charges)
		if how == 1 && len(charges) > 0 {
			charges[0].Amount, charges[0].Default = 4, false
		}
		return charges
	}
	before := w.before
	if over := w.over(); len(over) > 0 && w.pick(3, "over") == 0 {
		before = over
	}
	switch op := oneOf(w.pick, "which", before).(type) {
	case quota.Acquire:
		op.Charges = other(op.Charges)
		switch how {
		case 0:
			op.RequestID = "other"
		case 2:
			op.Principal = "q"
		case 3:
			op.Hold = 2 * time.Minute
		}
		return op
	case quota.Settle:
		op.Charges = other(op.Charges)
		return op
	case quota.Extend:
		op.Charges = other(op.Charges)
		if how == 0 {
			op.Hold = time.Hour
		}
		return op
	default:
		return op
	}
}
