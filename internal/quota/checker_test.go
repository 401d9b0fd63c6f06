package quota_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
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
	return &checker{state: state, seen: state, apply: quota.Apply, check: quota.Check, model: newModel(defaults, declared), now: now}, nil
}

// do applies an op to both, and returns what is wrong.
func (c *checker) do(op quota.Op) error {
	if a, ok := op.(quota.Acquire); ok {
		if ps := a.Validate(); ps != nil {
			return fmt.Errorf("%+v does not pass Validate: %v", a, ps)
		}
		op = a
		if len(c.done)%2 == 0 { // every other one, to save time
			if err := c.checkAgrees(a); err != nil {
				return fmt.Errorf("Check of %+v: %w", a, err)
			}
		}
	}
	writes, audits := c.state.writes, len(c.state.audits)
	c.state.written = c.state.written[:0]
	got, err := c.apply(c.seen, c.now, op)
	if err != nil {
		return err
	}
	c.done = append(c.done, event{c.now, op, got.Outcome})
	if !got.Time.Equal(c.now) {
		return fmt.Errorf("decided at %v, want %v", got.Time, c.now)
	}
	want := c.model.apply(c.now, op)
	if err := sameAnswer(got, want); err != nil {
		return err
	}
	if wrote := c.state.writes - writes; (got.Outcome != quota.Done || got.Replayed) && wrote != 0 {
		return fmt.Errorf("%v, replayed %v: made %d writes, want none", got.Outcome, got.Replayed, wrote)
	}
	if n := len(c.state.audits) - audits; n != want.audits {
		return fmt.Errorf("%d audit records, want %d", n, want.audits)
	}
	if err := c.sameWrites(want.changed); err != nil {
		return err
	}
	if a, ok := op.(quota.Acquire); ok {
		return c.acquired(a, got, want.asks)
	}
	return nil
}

func sameAnswer(got quota.Decision, want answer) error {
	var changes []string
	for _, c := range got.Changes {
		changes = append(changes, c.Name)
	}
	switch {
	case got.Outcome != want.outcome:
		return fmt.Errorf("outcome %v (%v, %s), want %v", got.Outcome, got.Problems, got.Detail, want.outcome)
	case got.Replayed != want.replayed:
		return fmt.Errorf("replayed %v, want %v", got.Replayed, want.replayed)
	case !slices.Equal(got.Balances, want.balances):
		return fmt.Errorf("balances\n%+v, want\n%+v", got.Balances, want.balances)
	case !got.RetryAt.Equal(want.retryAt):
		return fmt.Errorf("come again at %v, want %v", got.RetryAt, want.retryAt)
	case !slices.Equal(got.Violations, want.violations):
		return fmt.Errorf("violations\n%+v, want\n%+v", got.Violations, want.violations)
	case !sameCounts(got.Before, want.before), !sameCounts(got.After, want.after):
		return fmt.Errorf("before and after\n%+v\n%+v, want\n%+v\n%+v", got.Before, got.After, want.before, want.after)
	case got.Outcome == quota.Done && !slices.Equal(changes, want.changes):
		return fmt.Errorf("changes %v, want %v", changes, want.changes)
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
		if !slices.Contains(c.state.written, key) {
			return fmt.Errorf("%+v was not written", key)
		}
	}
	for _, key := range c.state.written {
		if got, want := c.state.accounts[key], c.model.counts[key]; got != want {
			return fmt.Errorf("%+v is\n%+v, want\n%+v", key, got, want)
		}
	}
	if len(c.state.written) != len(want) {
		return fmt.Errorf("wrote %+v, want %+v", c.state.written, want)
	}
	return nil
}

// checkAgrees holds Check to what the model says the acquire will be answered.
func (c *checker) checkAgrees(op quota.Acquire) error {
	writes := c.state.writes
	got, err := c.check(c.seen, c.now, op)
	if err != nil {
		return err
	}
	want, _ := c.model.verdict(c.now, op)
	want.balances = c.model.balances(want.asks)
	if err := sameAnswer(got, want); err != nil {
		return err
	}
	if c.state.writes != writes || !got.Time.Equal(c.now) {
		return fmt.Errorf("made %d writes, want none; at %v, want %v", c.state.writes-writes, got.Time, c.now)
	}
	return nil
}

// acquired checks what is promised of an acquire, whatever the model says.
func (c *checker) acquired(op quota.Acquire, d quota.Decision, all []ask) error {
	if d.Outcome == quota.Denied {
		return c.retry(op, d, all)
	}
	if d.Outcome != quota.Done || d.Replayed {
		return nil
	}
	for _, a := range all {
		bounds := append(a.ceilings, quota.CountMax)
		count := c.state.accounts[a.key]
		if count.Override.Set {
			bounds = append(bounds, count.Override.Max)
		} else if a.declared.Set {
			bounds = append(bounds, a.declared.Max)
		}
		if most := slices.Min(bounds); count.Used+count.Held > most {
			return fmt.Errorf("over-admitted: %+v has %d used and %d held of %d", a.key, count.Used, count.Held, most)
		}
	}
	return nil
}

// retry checks that a denied request passes when it was told to come again, and not before.
func (c *checker) retry(op quota.Acquire, d quota.Decision, all []ask) error {
	at := func(t time.Time) quota.Outcome {
		ans, _ := c.model.outcome(t, op)
		return ans.outcome
	}
	hopeless := slices.ContainsFunc(d.Violations, func(v quota.Violation) bool { return v.Never })
	if !d.RetryAt.IsZero() {
		if hopeless {
			return fmt.Errorf("come again at %v, but a violation says never: %+v", d.RetryAt, d.Violations)
		}
		again, err := quota.Check(c.seen, d.RetryAt, op)
		if err != nil {
			return err
		}
		early := at(d.RetryAt.Add(-1))
		if again.Outcome != quota.Done && again.Outcome != quota.TooManyNames || early == quota.Done {
			return fmt.Errorf("come again at %v: it is then %v %+v, and just before %v", d.RetryAt, again.Outcome, again.Violations, early)
		}
	}
	if hopeless {
		return nil // the model has looked ahead
	}
	for _, a := range all {
		if a.key.Span == window.Ever {
			continue
		}
		end := a.win.End
		for range 3 {
			if (d.RetryAt.IsZero() || end.Before(d.RetryAt)) && at(end) == quota.Done {
				return fmt.Errorf("come again at %v, but it passes at %v", d.RetryAt, end)
			}
			end = c.model.windows.At(a.key.Span, end, end.Location()).End
		}
	}
	return nil
}

// whole compares everything that is kept, and recounts the receipts.
func (c *checker) whole() error {
	if len(c.state.accounts) != len(c.model.counts) {
		return fmt.Errorf("%d counts are kept, want %d", len(c.state.accounts), len(c.model.counts))
	}
	for key, want := range c.model.counts {
		if got := c.state.accounts[key]; got != want {
			return fmt.Errorf("%+v is\n%+v, want\n%+v", key, got, want)
		}
	}
	if !reflect.DeepEqual(c.state.live, c.model.live) {
		return fmt.Errorf("live names %v, want %v", c.state.live, c.model.live)
	}
	sums := make(map[quota.AccountKey]int64)
	for _, r := range c.state.receipts {
		for _, e := range r.Entries {
			if e.Resets == c.state.accounts[e.Key].Resets {
				sums[e.Key] += e.Amount
			}
		}
	}
	for key, a := range c.state.accounts {
		if a.Receipted != sums[key] || a.Receipted > a.Used || a.Used < 0 || a.Held < 0 {
			return fmt.Errorf("%+v is %+v, and its receipts come to %d", key, a, sums[key])
		}
	}
	if len(c.state.receipts) != len(c.model.receipts) {
		return fmt.Errorf("%d receipts, want %d", len(c.state.receipts), len(c.model.receipts))
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
