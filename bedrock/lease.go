package bedrock

import (
	"cmp"
	"context"
	"io"
	"sync"
	"time"

	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/quotad/quotad/client"
)

// amountMax is the most that quotad takes in one charge, by its contract.
const amountMax int64 = 1e15

// Outcome is how a guarded call ended for its quota.
type Outcome string

// The ways in which a guarded call ends.
const (
	// OutcomeDenied: there was not enough left, and nothing was sent.
	OutcomeDenied Outcome = "denied"
	// OutcomeRefused: it could not be reserved for another reason (quotad unreachable, no price, no bucket), and nothing was sent.
	OutcomeRefused Outcome = "refused"
	// OutcomeSettled: settled with what the answer said it used.
	OutcomeSettled Outcome = "settled"
	// OutcomePartial: a stream ended without saying what it used, and was settled with what was seen of it.
	OutcomePartial Outcome = "partial"
	// OutcomeEstimated: settled as held, as nobody knows what it used.
	OutcomeEstimated Outcome = "estimated"
	// OutcomeReleased: it was refused by AWS or never sent, and costs nothing.
	OutcomeReleased Outcome = "released"
)

// Record is how one call ended.
type Record struct {
	// Call is the call as it was reserved.
	Call Call
	// Bucket is what was charged.
	Bucket string
	// RequestID is its reservation's; "" if there was none.
	RequestID string
	// Local tells whether quotad gave no answer and the client let the call through (fail open).
	Local bool
	// Outcome is how it ended.
	Outcome Outcome
	// Usage is what it was settled with. Of an estimated call it is the estimate.
	Usage Usage
	// Cost is what Usage costs by the table of prices; zero without one.
	Cost Cost
	// Attempts is how often the SDK sent it.
	Attempts int
	// Err is why it failed, or how its stream broke; nil if it did not.
	Err error
}

// lease is the reservation of one call, until the call ends. It ends once, however many goroutines see it end.
type lease struct {
	g       *guard
	ctx     context.Context //nolint:containedctx // a stream outlives the call that opened it
	call    Call
	bucket  string
	at      time.Time // of the call, for the price in force
	refused error     // nothing may be sent; the rest is then unset
	r       *client.Reservation

	mu        sync.Mutex
	attempts  []*attempt
	streaming bool
	tier      string // that the headers of a stream name; "" if they do not
	output    int64  // output tokens held; 0 if that was left to the bucket
	finish    bool   // a stream whose bucket is empty goes on
	once      sync.Once
}

// model tells whether the operation runs a model, and so uses tokens.
func (l *lease) model() bool {
	switch l.call.Operation {
	case "Converse", "InvokeModel", opConverseStream, opInvokeStream, opBidirectional:
		return true
	}
	return false
}

// first lays out what is held before the call is made.
func (l *lease) first() ([]client.Charge, error) {
	e, g := l.call.Estimate, l.g
	l.output = e.MaxTokens
	if l.output == 0 {
		l.output = g.maxTokens
	}
	if g.slice > 0 && streams(l.call.Operation) && (l.output == 0 || l.output > g.slice) {
		l.output = g.slice
	}
	charges := bill{g: g}
	hold := charges.add
	hold(Calls, 1)
	if l.model() {
		hold(InputTokens, e.InputTokens)
		hold(OutputTokens, l.output)
	}
	if e.TextUnits > 0 {
		hold(TextUnits, e.TextUnits)
	}
	if g.prices != nil {
		if err := l.price(&charges); err != nil {
			return nil, err
		}
	}
	if len(charges.of) == 0 { // it would mean one call and the bucket's estimates of all else
		charges.of = []client.Charge{{Unit: Calls, Amount: 1}}
	}
	return charges.of, nil
}

// price adds what the estimate costs. Where nobody says how much output there may be, what output adds to is left to the bucket's
// estimates, as an amount of 0; the price of a picture, say, is known all the same.
func (l *lease) price(charges *bill) error {
	u := l.estimated()
	cost, err := l.cost(l.call.Model, l.call.Tier, u)
	if err != nil {
		return err
	}
	more := cost
	if l.model() && u.OutputTokens == 0 {
		u.OutputTokens = perTokens
		if more, err = l.cost(l.call.Model, l.call.Tier, u); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		unit            string
		n, withMoreText int64
	}{{USDMicros, cost.Micros(), more.Micros()}, {Tokens, cost.Tokens, more.Tokens}} {
		switch {
		case c.n != c.withMoreText:
			charges.add(c.unit, 0)
		case c.n > 0:
			charges.add(c.unit, c.n)
		}
	}
	return nil
}

// estimated is what the call is taken to use.
func (l *lease) estimated() Usage {
	e := l.call.Estimate
	l.mu.Lock()
	defer l.mu.Unlock()
	return Usage{InputTokens: e.InputTokens, OutputTokens: l.output, TextUnits: e.TextUnits, Images: e.Images, Source: SourceEstimate}
}

// bill collects the charges of a call, in the units that its guard charges.
type bill struct {
	g  *guard
	of []client.Charge
}

func (b *bill) add(unit string, amount int64) {
	if b.g.charges(unit) {
		b.of = append(b.of, client.Charge{Unit: unit, Amount: min(amount, amountMax)})
	}
}

func (l *lease) cost(model, tier string, u Usage) (Cost, error) {
	if l.g.prices == nil {
		return Cost{}, nil
	}
	c, err := l.g.prices.Cost(model, tier, l.at, u)
	if err == nil && !c.Known {
		l.g.reportUnknown(model, tier)
	}
	return c, err
}

// answered ends the lease of a call that is not a stream and has come back.
func (l *lease) answered(result any, raw *smithyhttp.Response) {
	u, said := usageOfOutput(result, headerOf(raw))
	if !said {
		l.end(func() Record { return l.asHeld(nil) })
		return
	}
	// An attempt before this one that was sent and broke is taken to have used what this one did: it was the same request.
	if l.g.broken == BrokenSettles {
		u = times(u, 1+l.ran(1))
	}
	l.end(func() Record { return l.settle(OutcomeSettled, servedBy(result), u, nil) })
}

// failed ends the lease of a call that has come to nothing.
func (l *lease) failed(err error) {
	l.end(func() Record {
		if l.ran(0) == 0 || l.g.broken == BrokenReleases {
			return l.release(err)
		}
		return l.asHeld(err)
	})
}

// tap wraps the body of a stream that has begun.
func (l *lease) tap(body io.ReadCloser, tier string) io.ReadCloser {
	hooks := tapHooks{end: l.ended}
	if l.g.slice > 0 && !l.r.Local() {
		hooks.progress = l.progress
	}
	kind := streamConverse
	switch l.call.Operation {
	case opInvokeStream:
		kind = streamInvoke
	case opBidirectional:
		kind = streamBidi
	}
	l.mu.Lock()
	l.streaming, l.tier = true, tier
	l.mu.Unlock()
	return newTap(body, kind, hooks)
}

// tapped tells whether a stream has begun.
func (l *lease) tapped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streaming
}

// progress takes another slice when what is held has passed. Its error cuts the stream.
func (l *lease) progress(output int64) error {
	for !l.finish {
		held := l.estimated()
		more := l.g.slice
		if most := l.call.Estimate.MaxTokens; most > 0 {
			more = min(more, most-held.OutputTokens) // the model stops there
		}
		if output < held.OutputTokens || more <= 0 {
			return nil
		}
		charges, err := l.more(held, more)
		if err == nil && len(charges) > 0 {
			err = l.r.Extend(l.ctx, l.g.hold, charges...)
		}
		switch {
		case err == nil:
			l.mu.Lock()
			l.output += more
			l.mu.Unlock()
		case l.g.whenEmpty == EmptyFinishes:
			l.finish = true
		default:
			return l.denied(err)
		}
	}
	return nil
}

// more is what so many more output tokens cost than what is held.
func (l *lease) more(held Usage, tokens int64) ([]client.Charge, error) {
	charges := bill{g: l.g}
	charges.add(OutputTokens, tokens)
	before, err := l.cost(l.call.Model, l.call.Tier, held)
	if err != nil {
		return nil, err
	}
	held.OutputTokens += tokens
	after, err := l.cost(l.call.Model, l.call.Tier, held)
	if err != nil {
		return nil, err
	}
	if n := after.Micros() - before.Micros(); n > 0 {
		charges.add(USDMicros, n)
	}
	if n := after.Tokens - before.Tokens; n > 0 {
		charges.add(Tokens, n)
	}
	return charges.of, nil
}

// refused tells whether an exception that is the first event of a stream says that the model was never asked. The others tell of a model
// that has failed at its work.
func refused(exception string) bool {
	switch exception {
	case "throttlingException", "validationException", "serviceUnavailableException":
		return true
	}
	return false
}

// ended ends the lease of a stream.
func (l *lease) ended(e streamEnd) {
	l.end(func() Record {
		earlier := int64(0)
		if l.g.broken == BrokenSettles {
			earlier = l.ran(1)
		}
		switch {
		case e.How == endUsage:
			return l.settle(OutcomeSettled, l.by(e), times(e.Usage, 1+earlier), e.Err)
		case e.Seen:
			return l.settle(OutcomePartial, l.by(e), times(e.Usage, 1+earlier), e.Err)
		case earlier == 0 && (refused(e.Exception) || l.g.broken == BrokenReleases):
			return l.release(e.Err) // refused before it began
		}
		return l.asHeld(e.Err)
	})
}

func (l *lease) end(how func() Record) {
	l.once.Do(func() { l.g.observe(how()) })
}

// unsent ends the lease of a call that was answered without being sent.
func (l *lease) unsent() {
	l.end(func() Record { return l.release(nil) })
}

// by is who gave a stream, of which the headers tell at its beginning and an event at its end.
func (l *lease) by(e streamEnd) served {
	by := e.By
	l.mu.Lock()
	defer l.mu.Unlock()
	by.Tier = cmp.Or(by.Tier, l.tier)
	return by
}

// costOf is the cost by who gave the answer; where the table does not know that, by what was asked, which it knew.
func (l *lease) costOf(by served, u Usage) (Cost, error) {
	model, tier := cmp.Or(by.Model, l.call.Model), cmp.Or(by.Tier, l.call.Tier)
	c, err := l.cost(model, tier, u)
	if err == nil || model == l.call.Model && tier == l.call.Tier {
		return c, err
	}
	l.g.reportUnknown(model, tier)
	return l.cost(l.call.Model, l.call.Tier, u)
}

// settle replaces what is held by usage.
func (l *lease) settle(outcome Outcome, by served, u Usage, cause error) Record {
	charges := bill{g: l.g}
	name := charges.add
	priced := u
	if outcome == OutcomePartial && u.InputTokens == 0 {
		priced.InputTokens = l.call.Estimate.InputTokens // and InputTokens settle as held
	} else if l.model() {
		name(InputTokens, u.InputTokens)
	}
	if l.model() {
		name(OutputTokens, u.OutputTokens)
	}
	if u.CacheReadTokens > 0 {
		name(CacheReadTokens, u.CacheReadTokens)
	}
	if n := u.CacheWriteTokens + u.CacheWrite1hTokens; n > 0 {
		name(CacheWriteTokens, n)
	}
	if u.TextUnits > 0 || l.call.Estimate.TextUnits > 0 {
		name(TextUnits, u.TextUnits)
	}
	cost, err := l.costOf(by, priced)
	if err == nil && l.g.prices != nil {
		name(USDMicros, cost.Micros())
		name(Tokens, cost.Tokens)
	} // without a cost they settle as held
	l.tell(charges.of)
	r := l.record(outcome, cause)
	r.Usage, r.Cost = u, cost
	return r
}

// asHeld settles with the estimate: once for each attempt that may have run.
func (l *lease) asHeld(cause error) Record {
	u := l.estimated()
	if n := max(1, l.ran(0)); n > 1 && u.OutputTokens > 0 {
		return l.settle(OutcomeEstimated, served{}, times(u, n), cause)
	}
	l.tell(nil)
	r := l.record(OutcomeEstimated, cause)
	r.Usage = u
	r.Cost, _ = l.cost(l.call.Model, l.call.Tier, u) // it was priced when it was reserved
	return r
}

func (l *lease) release(cause error) Record {
	if l.g.settleFirst {
		_ = l.r.Release(l.ctx) // what is not delivered is kept by the client, and what is lost is told to its OnLost
	} else {
		l.r.ReleaseSoon()
	}
	return l.record(OutcomeReleased, cause)
}

// tell settles. A settlement that cannot be delivered now is kept by the client; one that never can is told to its OnLost. The call has
// been made, so that neither is an error of the app's.
func (l *lease) tell(charges []client.Charge) {
	if l.g.settleFirst {
		_ = l.r.Settle(l.ctx, charges...)
		return
	}
	_ = l.r.SettleSoon(charges...)
}

func (l *lease) record(outcome Outcome, err error) Record {
	r := Record{Call: l.call, Bucket: l.bucket, Outcome: outcome, Err: err}
	if l.r != nil {
		r.RequestID, r.Local = l.r.RequestID(), l.r.Local()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Attempts = len(l.attempts)
	return r
}
