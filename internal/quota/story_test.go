package quota_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
)

// noCounts is the tally where everything is 0.
const noCounts = "nothing"

// step is one op of a story, and what is to come of it.
type step struct {
	at     time.Duration // after noon
	op     quota.Op
	want   string // as said tells it
	counts string // as tally tells it; "" is not looked at
}

// reserve holds so many calls of a bucket under an id.
func reserve(b quota.Bucket, id string, n int64) quota.Acquire {
	return quota.Acquire{Principal: "p", Bucket: b, RequestID: id, Reserve: true, Charges: []quota.Charge{{Amount: n}}}
}

// settle says how many calls were used.
func settle(id string, n int64) quota.Settle {
	return quota.Settle{Principal: "p", RequestID: id, Charges: []quota.Charge{{Amount: n}}}
}

func release(id string) quota.Release { return quota.Release{Principal: "p", RequestID: id} }

// extend takes so many calls on top; 0 takes none.
func extend(id, extendID string, hold time.Duration, n int64) quota.Extend {
	op := quota.Extend{Principal: "p", RequestID: id, ExtendID: extendID, Hold: hold}
	if n > 0 {
		op.Charges = []quota.Charge{{Amount: n}}
	}
	return op
}

// as makes an acquire another caller's.
func as(principal string, op quota.Acquire) quota.Acquire {
	op.Principal = principal
	return op
}

// held makes a reservation last.
func held(op quota.Acquire, hold time.Duration) quota.Acquire {
	op.Hold = hold
	return op
}

// outcomeOf tells a decision on a reservation in a line.
func outcomeOf(d quota.Decision) string {
	parts := []string{d.Outcome.String()}
	for what, is := range map[string]bool{"replayed": d.Replayed, "late": d.Late && !d.Replayed, "more": d.More} {
		if is {
			parts = append(parts, what)
		}
	}
	slices.Sort(parts[1:])
	if d.Field != "" {
		parts = append(parts, d.Field)
	}
	if d.Charged+d.Released > 0 {
		parts = append(parts, fmt.Sprintf("%d charged", d.Charged), fmt.Sprintf("%d released", d.Released))
	}
	for _, o := range d.Overage {
		parts = append(parts, fmt.Sprintf("%d %s over", o.Amount, o.Unit))
	}
	if !d.Expiry.IsZero() {
		parts = append(parts, "until "+d.Expiry.UTC().Format("15:04:05.999"))
	}
	for _, v := range d.Violations {
		line := v.String()
		if v.MaxHold {
			line = fmt.Sprintf("%s: one may hold %d %s a %s, %d asked", v.Balance.Bucket, v.Cap, v.Balance.Unit, v.Balance.Window.Span, v.Requested)
		}
		parts = append(parts, line)
		if v.Never {
			parts = append(parts, "never")
		}
	}
	for _, p := range d.Problems {
		parts = append(parts, p.String())
	}
	if r := d.Reservation; r != nil {
		parts = append(parts, r.Phase.String())
		for _, c := range r.Charges {
			parts = append(parts, fmt.Sprintf("%d of %d %s of %s", c.Used, c.Amount, c.Unit, c.Bucket))
		}
	}
	return strings.Join(parts, ", ")
}

// tally tells every count that is not 0 as used+held, sorted, then the reservations in flight.
func (s *mapState) tally() string {
	var counts, flights []string
	for k, a := range s.accounts {
		if a.Used != 0 || a.Held != 0 {
			label := k.Label
			if label != "" {
				label = " " + label
			}
			counts = append(counts, fmt.Sprintf("%s %s/%s%s: %d+%d", k.Bucket, k.Unit, k.Span, label, a.Used, a.Held))
		}
	}
	for b, n := range s.inFlight {
		if n != 0 {
			flights = append(flights, fmt.Sprintf("%s has %d", b, n))
		}
	}
	slices.Sort(counts)
	slices.Sort(flights)
	if len(counts)+len(flights) == 0 {
		return noCounts
	}
	return strings.Join(append(counts, flights...), "; ")
}

// play applies the steps of a story, and holds each to what is to come of it.
func play(t *testing.T, s *mapState, steps ...step) {
	t.Helper()
	for i, step := range steps {
		writes := s.writes
		d := s.apply(t, noon.Add(step.at), step.op)
		if diff := cmp.Diff(step.want, outcomeOf(d)); diff != "" {
			t.Errorf("step %d, %+v:\n%s", i, step.op, diff)
		}
		if wrote := s.writes - writes; (d.Outcome != quota.Done || d.Replayed) && wrote > 0 {
			t.Errorf("step %d, %+v: %v made %d writes, want none", i, step.op, outcomeOf(d), wrote)
		}
		if diff := cmp.Diff(step.counts, s.tally()); step.counts != "" && diff != "" {
			t.Errorf("after step %d, %+v:\n%s", i, step.op, diff)
		}
	}
}
