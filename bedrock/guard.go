package bedrock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/quotad/quotad/client"
)

// The operations that need to be told apart. Every other one of the service is guarded like them, one call each: an operation that a
// newer SDK brings is paid until it is known to be free.
const (
	opConverseStream = "ConverseStream"
	opInvokeStream   = "InvokeModelWithResponseStream"
	opBidirectional  = "InvokeModelWithBidirectionalStream"
)

// free tells which operations cost nothing, by Bedrock's price list: they pass unguarded.
func free(operation string) bool {
	switch operation {
	case "CountTokens", "GetAsyncInvoke", "ListAsyncInvokes":
		return true
	}
	return false
}

// The names of the guard's middleware in the SDK's stack, and of the one of the SDK's that it has to stand inside of.
const (
	reserveID     = "QuotadReserve"
	tapID         = "QuotadTap"
	eventStreamID = "OperationEventStreamDeserializer"
)

// Guard returns an option for bedrockruntime.New and NewFromConfig: no paid operation of the client is sent without a reservation
// by q, and each is settled with what it really used, or released. A client that is guarded by its aws.Config too is guarded by
// this alone. A call whose own options have thrown the guard out of APIOptions is refused. Middleware that changes a call's input is to
// be added before the guard, which reserves for the input that it sees.
func Guard(q *client.Client, opts ...Option) func(*bedrockruntime.Options) {
	g := mustGuard(q, opts)
	return func(o *bedrockruntime.Options) {
		o.APIOptions = append(o.APIOptions, g.attach)
		o.Interceptors.AddBeforeTransmit(watchman{})
	}
}

// GuardConfig guards every bedrockruntime client that is made of cfg from now on. Clients of other services pass it by.
func GuardConfig(cfg *aws.Config, q *client.Client, opts ...Option) {
	cfg.APIOptions = append(slices.Clone(cfg.APIOptions), mustGuard(q, opts).attach)
	cfg.Interceptors = cfg.Interceptors.Copy()
	cfg.Interceptors.AddBeforeTransmit(watchman{})
}

// guard is what all calls of a client share.
type guard struct {
	q     *client.Client
	fault error // an option's: every call is refused with it

	bucket      func(context.Context, Call) (string, error)
	perModel    bool
	units       []string // nil: all
	prices      *Prices  // nil: no money
	maxTokens   int64    // 0: the bucket's estimate
	counter     *bedrockruntime.Client
	hold        time.Duration // 0: the bucket's
	broken      BrokenPolicy
	slice       int64 // 0: hold it all
	whenEmpty   EmptyPolicy
	settleFirst bool
	observe     func(Record)
	now         func() time.Time

	mu      sync.Mutex
	unknown map[string]bool // models without a price that were reported
}

func newGuard(q *client.Client, opts []Option) (*guard, error) {
	g := &guard{q: q, observe: func(Record) {}, now: time.Now, unknown: make(map[string]bool)}
	g.bucket = func(context.Context, Call) (string, error) { return BucketDefault, nil }
	var faults []error
	for _, set := range opts {
		faults = append(faults, set(g))
	}
	if g.slice > 0 && !g.slices() {
		faults = append(faults, fmt.Errorf("Slices: none of the units that are charged grows with a stream; want %s, %s or %s among them", OutputTokens, Tokens, USDMicros))
	}
	if g.prices == nil && (slices.Contains(g.units, Tokens) || slices.Contains(g.units, USDMicros)) {
		faults = append(faults, fmt.Errorf("Units: %s and %s need WithPrices", Tokens, USDMicros))
	}
	return g, errors.Join(faults...)
}

// mustGuard keeps a fault for the calls: an option of the SDK has no place for an error, and a guard that is not understood must not let
// anything through.
func mustGuard(q *client.Client, opts []Option) *guard {
	g, err := newGuard(q, opts)
	if q == nil {
		err = errors.Join(err, errors.New("Guard: the client is nil"))
	}
	g.fault = err
	return g
}

// attach puts the guard into the stack of one operation. It does not know here whose operation that is, as a whole aws.Config may be
// guarded; reserve looks.
func (g *guard) attach(stack *middleware.Stack) error {
	if free(stack.ID()) {
		return nil
	}
	// After the SDK's own middleware of the step, validation among it, and before those that serialise, retry and send: once for
	// each call of the app.
	r := reserving{g}
	if _, there := stack.Initialize.Get(reserveID); there {
		if _, err := stack.Initialize.Swap(reserveID, r); err != nil {
			return fmt.Errorf("guarding %s: %w", stack.ID(), err)
		}
		return nil
	}
	if err := stack.Initialize.Add(r, middleware.After); err != nil {
		return fmt.Errorf("guarding %s: %w", stack.ID(), err)
	}
	// Inside of what makes an event stream of the response, so that it sees the body first; and once for each attempt.
	if _, streams := stack.Deserialize.Get(eventStreamID); streams {
		return stack.Deserialize.Insert(tapping{}, eventStreamID, middleware.After)
	}
	return stack.Deserialize.Add(tapping{}, middleware.After)
}

// reserving stands in the Initialize step.
type reserving struct{ g *guard }

// ID names the middleware in the stack.
func (reserving) ID() string { return reserveID }

type leaseKey struct{}

// HandleInitialize reserves, has the call made, and ends the reservation.
func (r reserving) HandleInitialize(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
	out middleware.InitializeOutput, md middleware.Metadata, err error,
) {
	if awsmiddleware.GetServiceID(ctx) != bedrockruntime.ServiceID {
		return next.HandleInitialize(ctx, in)
	}
	operation := awsmiddleware.GetOperationName(ctx)
	l, err := r.g.reserve(ctx, operation, in.Parameters)
	if err != nil {
		if operation != opBidirectional {
			return out, md, err
		}
		// The SDK waits for a first result that only the Deserialize step sends: returned here, the error would block the caller for
		// ever. The tap makes a stream of it there.
		l = &lease{refused: err}
	}
	returned := false
	defer func() {
		if !returned && l.refused == nil {
			l.failed(errNoReturn) // a panic of the app's own middleware or HTTP client goes by
		}
	}()
	out, md, err = next.HandleInitialize(middleware.WithStackValue(ctx, leaseKey{}, l), in)
	returned = true
	if l.refused != nil {
		return out, md, err
	}
	switch {
	case l.tapped() && (err == nil || operation == opBidirectional):
		// The tap sees how a stream ends. At v1.63.11 the SDK has an error here for each bidirectional one that has begun well, and
		// keeps it to itself. Of the others nobody gets the stream after an error.
	case err != nil:
		l.failed(err)
	case l.sendings() == 0:
		l.unsent() // middleware of the app's own has answered: a cache, say
	default:
		raw, _ := awsmiddleware.GetRawResponse(md).(*smithyhttp.Response)
		l.answered(out.Result, raw)
	}
	return out, md, err
}

// errNoReturn is why a call has failed out of which nothing came but a panic.
var errNoReturn = errors.New("the call was left by a panic")

func streams(operation string) bool {
	return operation == opConverseStream || operation == opInvokeStream || operation == opBidirectional
}

// tapping stands in the Deserialize step, where each attempt passes.
type tapping struct{}

// ID names the middleware in the stack.
func (tapping) ID() string { return tapID }

// HandleDeserialize watches one attempt, and taps the body of a stream.
func (tapping) HandleDeserialize(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (
	out middleware.DeserializeOutput, md middleware.Metadata, err error,
) {
	l, _ := middleware.GetStackValue(ctx, leaseKey{}).(*lease)
	if l == nil {
		return next.HandleDeserialize(ctx, in)
	}
	if l.refused != nil {
		return l.refuse(in.Request), md, nil // nothing is sent
	}
	a, traced := l.attempt(ctx)
	out, md, err = next.HandleDeserialize(traced, in)
	l.attempted(a, out.RawResponse, err)
	if resp, ok := out.RawResponse.(*smithyhttp.Response); ok && err == nil && streams(l.call.Operation) && resp.StatusCode/100 == 2 {
		resp.Body = l.tap(resp.Body, resp.Header.Get(headerTier))
	}
	return out, md, err
}

// watchman stands before each sending, and lets no paid one pass that has no lease: a call's own options may have replaced APIOptions,
// and the guard with them. It is no part of those.
type watchman struct{}

var errUnguarded = errors.New("the guard is missing from this call's APIOptions: append to them, and do not replace them")

// BeforeTransmit refuses what is not guarded.
func (watchman) BeforeTransmit(ctx context.Context, _ *smithyhttp.InterceptorContext) error {
	if awsmiddleware.GetServiceID(ctx) != bedrockruntime.ServiceID || free(awsmiddleware.GetOperationName(ctx)) {
		return nil
	}
	if l, _ := middleware.GetStackValue(ctx, leaseKey{}).(*lease); l == nil {
		return errUnguarded
	}
	return nil
}

// reserve takes what a call is estimated to need. Its error means that the call must not be sent.
func (g *guard) reserve(ctx context.Context, operation string, params any) (*lease, error) {
	call := Call{Operation: operation, Input: params}
	call.Model, call.Metadata, call.Tier, call.Estimate = estimateOf(params)
	l := &lease{g: g, ctx: context.WithoutCancel(ctx), call: call, at: g.now()}
	refused := func(doing string, err error) (*lease, error) {
		g.observe(l.record(OutcomeRefused, err))
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if g.fault != nil {
		return refused("the guard's options", g.fault)
	}
	if n, ok := g.counted(ctx, params); ok {
		l.call.Estimate.InputTokens = n
	}
	var err error
	if l.bucket, err = g.bucketOf(ctx, l.call); err != nil {
		return refused("choosing the bucket of "+operation, err)
	}
	charges, err := l.first()
	if err != nil {
		return refused("pricing "+operation, err)
	}
	takings := make([]client.Taking, 0, len(charges)+1)
	for _, c := range charges {
		takings = append(takings, c)
	}
	if g.hold > 0 {
		takings = append(takings, client.WithHold(g.hold))
	}
	l.r, err = g.q.Reserve(ctx, l.bucket, takings...)
	if err == nil {
		return l, nil
	}
	if denied, ok := errors.AsType[*client.DeniedError](err); ok {
		err = &DeniedError{DeniedError: denied, Operation: operation, Model: call.Model}
		g.observe(l.record(OutcomeDenied, err))
		return nil, err
	}
	return refused("reserving quota for "+operation, err)
}

func (g *guard) bucketOf(ctx context.Context, call Call) (string, error) {
	bucket, err := g.bucket(ctx, call)
	if err != nil {
		return "", err
	}
	if g.perModel && call.Model != "" {
		bucket += "/" + Segment(call.Model)
	}
	return bucket, checkBucket(bucket)
}

// charges tells whether a unit is charged.
func (g *guard) charges(unit string) bool { return g.units == nil || slices.Contains(g.units, unit) }

// slices tells whether something is charged that a stream uses more of as it goes on.
func (g *guard) slices() bool {
	return g.charges(OutputTokens) || g.prices != nil && (g.charges(Tokens) || g.charges(USDMicros))
}

// unknownModelsMax bounds how many models without a price are remembered to have been reported.
const unknownModelsMax = 1000

// reportUnknown says in the log, once for each, that a model is charged by another price than its own.
func (g *guard) reportUnknown(model, tier string) {
	g.mu.Lock()
	said := g.unknown[model] || len(g.unknown) >= unknownModelsMax
	if !said {
		g.unknown[model] = true
	}
	g.mu.Unlock()
	if !said {
		slog.Warn("quotad guard: no price for this model; that of the table's fallback is charged, or of what was asked where Bedrock chose another", "model", model, "tier", tier)
	}
}
