// Package quota decides: it knows the rules of counting, and nothing of disks, clocks or wires. The same ops on the same state
// at the same times give the same answers.
package quota

import (
	"fmt"
	"time"
)

// Apply decides op at now and makes its change. A refusal is an outcome, not an error. An error means that the state failed:
// if nothing had been written yet (the state can tell) only this op is lost, else nothing of the transaction may be kept.
func Apply(s State, now time.Time, op Op) (Decision, error) {
	d, err := apply(s, now, op)
	d.Time = now
	return d, err
}

func apply(s State, now time.Time, op Op) (Decision, error) {
	switch op := op.(type) {
	case Acquire:
		return acquire(s, now, op)
	case Settle:
		return settle(s, now, op)
	case Release:
		return release(s, now, op)
	case Extend:
		return extend(s, now, op)
	case Expire:
		return expire(s, now, op)
	case SetBucket:
		return setBucket(s, now, op)
	case DeleteBucket:
		return deleteBucket(s, now, op)
	case ApplySet:
		return applySet(s, now, op)
	case SetOverride:
		return setOverride(s, now, op)
	case Reset:
		return reset(s, now, op)
	case Configure:
		return configure(s, now, op)
	case Exhaust:
		return exhaust(s, now, op)
	case Adopt:
		return adopt(s, now, op)
	case Note:
		return Decision{Outcome: Done}, s.Audit(AuditRecord{
			Time: now, Principal: op.Principal, Action: op.Action, Before: op.Before, After: op.After, Reason: op.Reason,
		})
	default:
		panic(fmt.Sprintf("quota: unknown op %T", op))
	}
}
