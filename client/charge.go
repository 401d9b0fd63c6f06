package client

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// Calls is the unit that a charge counts where it names none: one call.
const Calls = "calls"

// Charge is one amount to take, or one that was really used. The zero value is one call from the request's own bucket.
type Charge struct {
	// Bucket is what is charged, and its parents with it; "" is the bucket of the request. A request may name a bucket and unit
	// once.
	Bucket string
	// Unit is what is counted: "" is Calls, else 1 to 64 bytes of [a-z0-9_] that begin with a letter.
	Unit string
	// Amount is how many: 1 to 1,000,000,000,000,000. When something is taken, 0 leaves it to the bucket's estimate for the unit, or
	// 1 where it has none; in a settlement 0 means that nothing was used.
	Amount int64
	// Ceiling is a lower cap of the caller's own on the shared count: refused if used plus held would pass it. Nil is none. A
	// settlement with one is refused, as it says what was used.
	Ceiling *int64
}

// Taking is what an Acquire, a Reserve or a Check takes besides its bucket: charges, and what WithCeiling, WithRequestID and
// WithHold return. No charge at all means one call and what the bucket's estimates say of other units.
type Taking interface {
	take(*taking)
}

// taking is what the options of one call add up to.
type taking struct {
	charges []Charge
	id      string
	named   bool // whether the caller gave the id
	hold    *time.Duration
	ceiling *int64
}

func (c Charge) take(t *taking) { t.charges = append(t.charges, c) }

type takingFunc func(*taking)

func (f takingFunc) take(t *taking) { f(t) }

// WithCeiling takes one call, and only if the count stays at or below n: the dearer caller that stops at 10 of the shared 50. For
// other units a Charge has a Ceiling of its own.
func WithCeiling(n int64) Taking {
	return takingFunc(func(t *taking) { t.ceiling = &n })
}

// WithRequestID names the acquire, so that another process can send it again or settle it: 1 to 128 bytes of printable ASCII
// without spaces; ids that sort by time are the cheapest to keep. Without it each call gets a UUIDv7. Whoever gives an id owns the
// question whether it was granted: after an error that leaves it open, the client does not give it back by itself. quotad knows an id
// for at least 24 hours; the same one after that may be charged anew.
func WithRequestID(id string) Taking {
	return takingFunc(func(t *taking) { t.id, t.named = id, true })
}

// WithHold says for how long a reservation is held before it expires: 1 ms to 24 hours. Without it the bucket says, and 15 minutes
// where it does not. It is for Reserve and Check; Acquire refuses it.
func WithHold(d time.Duration) Taking {
	return takingFunc(func(t *taking) { t.hold = &d })
}

func takingOf(opts []Taking) taking {
	var t taking
	for _, o := range opts {
		if o != nil {
			o.take(&t)
		}
	}
	if t.ceiling != nil {
		t.charges = append(t.charges, Charge{Amount: 1, Ceiling: t.ceiling})
	}
	return t
}

// taken returns charges as an acquire, an extension or a check sends them.
func taken(charges []Charge) []*quotadv1.Charge {
	return wireCharges(charges, func(c Charge) bool { return c.Amount != 0 })
}

// used returns charges as a settlement sends them.
func used(charges []Charge) []*quotadv1.Charge {
	return wireCharges(charges, func(Charge) bool { return true })
}

func wireCharges(charges []Charge, named func(Charge) bool) []*quotadv1.Charge {
	if len(charges) == 0 {
		return nil
	}
	wire := make([]*quotadv1.Charge, len(charges))
	for i, c := range charges {
		wire[i] = &quotadv1.Charge{Bucket: c.Bucket, Unit: c.Unit, Ceiling: c.Ceiling}
		if named(c) {
			wire[i].Amount = &charges[i].Amount
		}
	}
	return wire
}

// chargesOf returns charges as they were given to taken or used.
func chargesOf(wire []*quotadv1.Charge) []Charge {
	var charges []Charge
	for _, c := range wire {
		charges = append(charges, Charge{Bucket: c.GetBucket(), Unit: c.GetUnit(), Amount: c.GetAmount(), Ceiling: c.Ceiling})
	}
	return charges
}

// Balance is the state of one count: a bucket's unit in one window.
type Balance struct {
	// Bucket is what is counted.
	Bucket string
	// Unit is in what.
	Unit string
	// Window is its kind: "minute", "hour", "day", "week", "month", "year" or "ever".
	Window string
	// Start is when the window began; zero for one that never ends.
	Start time.Time
	// End is when it ends and the count starts anew; zero for one that never ends.
	End time.Time
	// Limited tells whether there is a limit. Without one Limit and Remaining are 0 and mean nothing.
	Limited bool
	// Limit is the most that may be used and held in the window.
	Limit int64
	// Used is what was spent. It passes Limit only by a settlement, or where the limit was lowered.
	Used int64
	// Held is what open reservations hold.
	Held int64
	// Remaining is Limit - Used - Held, never below 0.
	Remaining int64
}

// String says it for people, such as "calls of portfolio per day: 49 of 50 used, 1 held".
func (b Balance) String() string {
	of := ""
	if b.Limited {
		of = fmt.Sprintf(" of %d", b.Limit)
	}
	return fmt.Sprintf("%s of %s per %s: %d%s used, %d held", b.Unit, b.Bucket, b.Window, b.Used, of, b.Held)
}

func balanceOf(b *quotadv1.Balance) Balance {
	return Balance{
		Bucket: b.GetBucket(), Unit: b.GetUnit(), Window: windowName(b.GetWindow()), Start: instant(b.GetStart()), End: instant(b.GetEnd()),
		Limited: b.Limit != nil, Limit: b.GetLimit(), Used: b.GetUsed(), Held: b.GetHeld(), Remaining: b.GetRemaining(),
	}
}

func balancesOf(bs []*quotadv1.Balance) []Balance {
	all := make([]Balance, len(bs))
	for i, b := range bs {
		all[i] = balanceOf(b)
	}
	return all
}

func instant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func windowName(w quotadv1.Window) string {
	switch w {
	case quotadv1.Window_WINDOW_MINUTE:
		return "minute"
	case quotadv1.Window_WINDOW_HOUR:
		return "hour"
	case quotadv1.Window_WINDOW_DAY:
		return "day"
	case quotadv1.Window_WINDOW_WEEK:
		return "week"
	case quotadv1.Window_WINDOW_MONTH:
		return "month"
	case quotadv1.Window_WINDOW_YEAR:
		return "year"
	case quotadv1.Window_WINDOW_EVER:
		return "ever"
	case quotadv1.Window_WINDOW_UNSPECIFIED:
	}
	return w.String()
}
