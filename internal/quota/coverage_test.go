package quota_test

import (
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// metIn tells what is notable of a decision.
func metIn(c *checker, op quota.Op, d quota.Decision) map[string]bool {
	kind := nameOf(op)
	met := map[string]bool{kind + " " + d.Outcome.String(): true, kind + " replayed": d.Replayed, kind + " late": d.Late}
	switch op := op.(type) {
	case quota.Acquire:
		met["wait"] = d.Outcome == quota.Denied && !d.RetryAt.IsZero()
		met["never"] = d.Outcome == quota.Denied && d.RetryAt.IsZero()
		met["long wait"] = d.RetryAt.After(c.now.Add(40 * 24 * time.Hour))
		met["many reasons"] = len(d.Violations) > 2
		met["many counts"] = len(d.Balances) > 4
		met["many units"] = strings.Contains(d.Detail, ": unit ")
		r := c.state.receipts[subject(op)]
		met["acquire already_expired while due"] = d.Outcome == quota.AlreadyExpired && r.Phase == quota.PhaseOpen
		met["acquire replayed after it was charged"] = d.Replayed && (r.Phase == quota.PhaseSettled || r.Phase == quota.PhaseExpired)
		met["large amounts"] = d.Outcome == quota.Done && len(op.Charges) > 1 && op.Charges[0].Amount == quota.AmountMax
	case quota.Settle:
		r := c.state.receipts[subject(op)]
		met["overage"] = len(d.Overage) > 0
		met["settled across windows"] = d.Outcome == quota.Done && strings.Count(labelsOf(d), " ") > 1
		met["settled more than held"] = d.Outcome == quota.Done && r.Hold != nil && len(r.Hold.Charges) > 1 && r.Hold.Charges[0].Used > r.Hold.Charges[0].Amount
		met["first settlement told"] = d.Outcome == quota.AlreadySettled && d.Reservation != nil
	case quota.Extend:
		_, before := c.state.receipts[quota.ReceiptKey{Principal: op.Principal, RequestID: op.RequestID, ExtendID: op.ExtendID}]
		met["extended again after a release"] = before && op.ExtendID != "" && d.Outcome == quota.AlreadyReleased
		met["extended again after an expiry"] = before && op.ExtendID != "" && d.Outcome == quota.AlreadyExpired
		met["extend longer"] = d.Outcome == quota.Done && !d.Replayed && len(op.Charges) == 0
	case quota.Expire:
		met["expired and charged"], met["expired and given back"], met["more to expire"] = d.Charged > 0, d.Released > 0, d.More
	}
	return met
}

func nameOf(op quota.Op) string {
	switch op.(type) {
	case quota.Acquire:
		return "acquire"
	case quota.Settle:
		return "settle"
	case quota.Release:
		return "release"
	case quota.Extend:
		return "extend"
	case quota.Expire:
		return "expire"
	case quota.Reset:
		return "reset"
	}
	return "change"
}

// labelsOf returns the labels of the days that a decision shows, each once with a space after it.
func labelsOf(d quota.Decision) string {
	var labels string
	for _, b := range d.Balances {
		if b.Window.Span.String() == "day" && !strings.Contains(labels, b.Window.Label) {
			labels += b.Window.Label + " "
		}
	}
	return labels
}

// metInViolation tells what is notable of why something was denied.
func metInViolation(d quota.Decision, v quota.Violation) map[string]bool {
	return map[string]bool{
		"ceiling": v.Ceiling, "override": v.Balance.Overridden, "held": v.Balance.Held > 0, "restored": v.Restored,
		"max_hold": v.MaxHold, "max_hold never": v.MaxHold && v.Never, "in flight": v.InFlight,
		"a later override grants it": v.Requested > v.Cap && !v.Balance.Overridden && !v.Restored && !d.RetryAt.IsZero(),
		"unlimited":                  !v.Balance.Limit.Set && v.Cap == quota.CountMax,
	}
}

// mustMeet is all that may happen, but for what is too rare and has tests of its own.
const mustMeet = `acquire done, acquire denied, acquire invalid, acquire id_reused, acquire unknown_bucket, acquire too_many_names,
acquire replayed, acquire already_released, acquire already_expired, acquire already_expired while due, acquire replayed after it was charged,
acquire behind, wait, never, long wait, many reasons, many counts, many units, large amounts, ceiling, override, held,
unlimited, restored, a later override grants it, max_hold, max_hold never, in flight, settle done, settle late, settle replayed, settle invalid,
settle unknown_reservation, settle not_reservation, settle already_settled, settle already_released, first settlement told, overage,
settled across windows, settled more than held, release done, release late, release replayed, release unknown_reservation,
release already_settled, extend done, extend longer, extend replayed, extend denied, extend behind, extend invalid, extend id_reused,
extend unknown_reservation, extend not_reservation, extend already_settled, extend already_released,
told by acquire, told by settle, told by expire, told by change, told of a past window, told twice at once,
extend already_expired, extended again after a release, extended again after an expiry, expired and charged, expired and given back, more to expire, reset done, reset behind`

// The histories are worth something only while they meet everything that may happen.
func TestHistoriesMeetEverything(t *testing.T) {
	t.Parallel()
	met := make(map[string]int)
	watch := func(c *checker) {
		c.apply = func(s quota.State, now time.Time, op quota.Op) (quota.Decision, error) {
			events := len(c.state.events)
			d, err := quota.Apply(s, now, op)
			told := c.state.events[events:]
			for i, e := range told {
				met["told by "+nameOf(op)]++
				if e.Balance.Window.Span != window.Ever && !e.Balance.Window.End.After(now) {
					met["told of a past window"]++
				}
				if i > 0 && told[i-1].Balance == e.Balance {
					met["told twice at once"]++
				}
			}
			for what, happened := range metIn(c, op, d) {
				if happened {
					met[what]++
				}
			}
			for _, v := range d.Violations {
				for what, happened := range metInViolation(d, v) {
					if happened {
						met[what]++
					}
				}
			}
			return d, err
		}
	}
	const histories = 800
	for seed := range uint64(histories) {
		if err := history(seeded(seed), watch); err != nil {
			t.Fatalf("history %d: %v", seed, err)
		}
	}
	t.Log(met)
	for what := range strings.SplitSeq(mustMeet, ",") {
		if what = strings.TrimSpace(what); met[what] < 5 {
			t.Errorf("%s was met %d times in %d histories, want 5 at least", what, met[what], histories)
		}
	}
}
