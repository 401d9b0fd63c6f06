package quota_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// checker applies ops to the code and to the model, and says where they part, or where the code breaks a promise.
type checker struct {
	state *mapState
	seen  quota.State // state, or a broken view of it
	apply func(quota.State, time.Time, quota.Op) (quota.Decision, error)
	check func(quota.Reader, time.Time, quota.Acquire) (quota.Decision, error)
	model *model
	now   time.Time
	done  []event

	phases map[quota.ReceiptKey]quota.Phase // of every acquire with an id, as it was last seen
}

// event is something that happened, to be shown if it ends badly.
type event struct {
	at      time.Time
	what    any
	outcome quota.Outcome
}

func newChecker(now time.Time, defaults quota.Defaults, declared map[string]quota.Settings) (*checker, error) {
	state, err := makeState(defaults, declared)
	if err != nil {
		return nil, err
	}
	return &checker{
		state: state, seen: state, apply: quota.Apply, check: quota.Check, model: newModel(defaults, declared), now: now,
		phases: make(map[quota.ReceiptKey]quota.Phase),
	}, nil
}

// do applies an op to both, and returns what is wrong. Where it depends on reservations that are due, it expires them and applies
// the op again, as a store does.
func (c *checker) do(op quota.Op) error {
	for {
		d, err := c.once(op)
		if err != nil || d.Outcome != quota.Behind {
			return err
		}
		for more := true; more; {
			d, err := c.once(quota.Expire{Max: 1 + len(c.done)%3})
			if err != nil {
				return err
			}
			more = d.More
		}
	}
}

// validated returns an op as it may be applied.
func validated(op quota.Op) (quota.Op, quota.Problems) {
	var ps quota.Problems
	switch o := op.(type) {
	case quota.Acquire:
		o.Charges = slices.Clone(o.Charges)
		ps, op = o.Validate(), o
	case quota.Settle:
		o.Charges = slices.Clone(o.Charges)
		ps, op = o.Validate(), o
	case quota.Extend:
		o.Charges = slices.Clone(o.Charges)
		ps = o.Validate()
		op = o
	case quota.Release:
		ps = o.Validate()
	}
	return op, ps
}

// once applies an op to both once. The model has it as the caller said it, the code as Validate left it.
func (c *checker) once(said quota.Op) (got quota.Decision, err error) {
	op, ps := validated(said)
	if ps != nil {
		return got, fmt.Errorf("%+v does not pass Validate: %v", said, ps)
	}
	if a, ok := op.(quota.Acquire); ok && len(c.done)%3 == 0 { // every third one, to save time
		if err := c.checkAgrees(a, said.(quota.Acquire)); err != nil {
			return got, fmt.Errorf("Check of %+v: %w", a, err)
		}
	}
	writes, audits, events, told := c.state.writes, len(c.state.audits), len(c.state.events), len(c.model.events)
	c.state.written = c.state.written[:0]
	if got, err = c.apply(c.seen, c.now, op); err != nil {
		return got, err
	}
	c.done = append(c.done, event{c.now, said, got.Outcome})
	if !got.Time.Equal(c.now) {
		return got, fmt.Errorf("decided at %v, want %v", got.Time, c.now)
	}
	want := c.model.apply(c.now, said)
	if err := c.sameAnswer(got, want); err != nil {
		return got, err
	}
	if wrote := c.state.writes - writes; (got.Outcome != quota.Done || got.Replayed) && wrote != 0 {
		return got, fmt.Errorf("%v, replayed %v: made %d writes, want none", got.Outcome, got.Replayed, wrote)
	}
	if n := len(c.state.audits) - audits; n != want.audits {
		return got, fmt.Errorf("%d audit records, want %d", n, want.audits)
	}
	if err := sameEvents(c.state.events[events:], c.model.events[told:]); err != nil {
		return got, err
	}
	if err := c.sameWrites(want.changed); err != nil {
		return got, err
	}
	if err := c.sameReservations(op); err != nil {
		return got, err
	}
	return got, c.promises(op, got, want.wish)
}

func (c *checker) sameAnswer(got quota.Decision, want answer) error {
	var changes []string
	for _, c := range got.Changes {
		changes = append(changes, c.Name)
	}
	switch {
	case got.Outcome != want.outcome:
		return fmt.Errorf("outcome %v (%v, %s), want %v", got.Outcome, got.Problems, got.Detail, want.outcome)
	case got.Field != want.field:
		return fmt.Errorf("the field %q is named, want %q", got.Field, want.field)
	case got.Replayed != want.replayed:
		return fmt.Errorf("replayed %v, want %v", got.Replayed, want.replayed)
	case !slices.Equal(got.Balances, want.balances):
		return fmt.Errorf("balances\n%+v, want\n%+v", got.Balances, want.balances)
	case !got.RetryAt.Equal(want.retryAt):
		return fmt.Errorf("come again at %v, want %v", got.RetryAt, want.retryAt)
	case !slices.Equal(got.Violations, want.violations):
		return fmt.Errorf("violations\n%+v, want\n%+v", got.Violations, want.violations)
	case !got.Expiry.Equal(want.expiry):
		return fmt.Errorf("expires at %v, want %v", got.Expiry, want.expiry)
	case got.Phase != want.phase || got.Ended != want.ended:
		return fmt.Errorf("is %v and ended %v, want %v and %v", got.Phase, got.Ended, want.phase, want.ended)
	case got.Late != want.late:
		return fmt.Errorf("late %v, want %v", got.Late, want.late)
	case !slices.Equal(got.Overage, want.overage):
		return fmt.Errorf("overage %v, want %v", got.Overage, want.overage)
	case got.Charged != want.charged || got.Released != want.released || got.More != want.more:
		return fmt.Errorf("expired %d charged and %d released, more %v; want %d, %d, %v",
			got.Charged, got.Released, got.More, want.charged, want.released, want.more)
	case !sameCounts(got.Before, want.before), !sameCounts(got.After, want.after):
		return fmt.Errorf("before and after\n%+v\n%+v, want\n%+v\n%+v", got.Before, got.After, want.before, want.after)
	case got.Outcome == quota.Done && !slices.Equal(changes, want.changes):
		return fmt.Errorf("changes %v, want %v", changes, want.changes)
	}
	return c.sameReservation(got.Reservation, want.reservation)
}

// sameReservation compares a reservation as a refusal tells of it.
func (c *checker) sameReservation(got *quota.Reservation, want *grant) error {
	if got == nil || want == nil {
		if got != nil || want != nil {
			return fmt.Errorf("reservation %+v, want %+v", got, want)
		}
		return nil
	}
	held, used := make(map[spot]int64), make(map[spot]int64)
	for _, h := range got.Charges {
		held[spot{h.Bucket, h.Unit}] += h.Amount
		used[spot{h.Bucket, h.Unit}] += h.Used
	}
	for _, t := range want.takes {
		held[t.spot] -= t.amount
		used[t.spot] -= t.used
	}
	for at, n := range held {
		if n != 0 || want.settled > 0 && used[at] != 0 {
			return fmt.Errorf("reservation %+v, want %+v", got, want)
		}
	}
	if got.Principal != want.id.Principal || got.RequestID != want.id.RequestID || got.Phase != want.phase(c.now) ||
		got.Bucket != want.op.Bucket || got.OnExpiry != want.onExpiry || got.Late != want.late ||
		!got.Made.Equal(want.made) || !got.Expiry.Equal(want.expiry) || !got.Ended.Equal(want.ended) {
		return fmt.Errorf("reservation %+v, want %+v", got, want)
	}
	return nil
}

// sameCounts compares the counts that a reset names, whose order nobody promises.
func sameCounts(got, want []quota.Balance) bool {
	return len(got) == len(want) && !slices.ContainsFunc(want, func(b quota.Balance) bool { return !slices.Contains(got, b) })
}

// sameWrites checks that the state changed the very counts that the model did, to the same values.
func (c *checker) sameWrites(want []quota.AccountKey) error {
	for _, key := range want {
		if !slices.ContainsFunc(c.state.written, func(w written) bool { return w.key == key }) {
			return fmt.Errorf("%+v was not written", key)
		}
	}
	for _, w := range c.state.written {
		if got, want := c.state.accounts[w.key], c.model.account(w.key); got != want {
			return fmt.Errorf("%+v is\n%+v, want\n%+v", w.key, got, want)
		}
		if !slices.Contains(want, w.key) {
			return fmt.Errorf("%+v was written, and nothing was to change there", w.key)
		}
	}
	return nil
}

// story returns what happened, a line each.
func (c *checker) story() string {
	var b strings.Builder
	for _, e := range c.done {
		fmt.Fprintf(&b, "%s %T%+v: %v\n", e.at.Format(time.RFC3339Nano), e.what, e.what, e.outcome)
	}
	return b.String()
}
