package bedrock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/quotad/quotad/bedrock"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// TestReplacedOptions refuses a call whose own options throw the guard out, of every operation that is paid, and lets the free ones pass.
func TestReplacedOptions(t *testing.T) {
	t.Parallel()
	strip := func(o *bedrockruntime.Options) { o.APIOptions = nil }
	for _, byConfig := range []bool{false, true} {
		for _, op := range operations() {
			t.Run(fmt.Sprintf("%s/%v", op.name, byConfig), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, op.h2, plenty)
				cfg := r.aws.Config()
				stripped := newSDK(cfg, bedrock.Guard(r.q, r.options(nil)...), strip)
				if byConfig {
					bedrock.GuardConfig(&cfg, r.q, r.options(nil)...)
					stripped = newSDK(cfg, strip)
				}
				if err := op.do(t.Context(), stripped); err == nil || !op.h2 && !strings.Contains(err.Error(), "the guard is missing") {
					t.Errorf("ended with %v", err)
				}
				if n := len(r.aws.Requests()); n != 0 {
					t.Errorf("%d requests were sent without quota", n)
				}
				if _, err := stripped.ListAsyncInvokes(t.Context(), &bedrockruntime.ListAsyncInvokesInput{}); err != nil {
					t.Errorf("what is free: %v", err)
				}
			})
		}
	}
}

// TestCopiedOptions is a client made of another's options, which is guarded like it.
func TestCopiedOptions(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, []string{"0 calls/day"})
	_, err := bedrockruntime.New(r.sdk.Options()).Converse(t.Context(), converseInput())
	if !errorsAsDenied(err) || len(r.aws.Requests()) != 0 {
		t.Errorf("ended with %v after %d requests", err, len(r.aws.Requests()))
	}
}

// answering is middleware of an app's own in one step of the stack.
func answering(add func(*middleware.Stack) error) func(*bedrockruntime.Options) {
	return func(o *bedrockruntime.Options) { o.APIOptions = append(o.APIOptions, add) }
}

// TestCached is a call that middleware of the app's own answers: nothing was sent, so that nothing is charged.
func TestCached(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	cache := answering(func(s *middleware.Stack) error {
		return s.Finalize.Add(middleware.FinalizeMiddlewareFunc("Cache", func(context.Context, middleware.FinalizeInput, middleware.FinalizeHandler) (
			out middleware.FinalizeOutput, md middleware.Metadata, err error,
		) {
			out.Result = &bedrockruntime.ConverseOutput{}
			return out, md, nil
		}), middleware.Before)
	})
	if _, err := r.sdk.Converse(t.Context(), converseInput(), cache); err != nil {
		t.Fatal(err)
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomeReleased || rec.Attempts != 0 || r.quota.Used(bucket, bedrock.Calls) != 0 {
		t.Errorf("recorded %+v", rec)
	}
}

// TestOpenedInVain is a stream that AWS has begun, and that middleware of the app's own makes an error of: nobody will ever read it, nor
// close it, and the reservation must not stay open.
func TestOpenedInVain(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	var opened *bedrockruntime.ConverseStreamOutput
	spoil := answering(func(s *middleware.Stack) error {
		return s.Finalize.Add(middleware.FinalizeMiddlewareFunc("Spoil", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
			middleware.FinalizeOutput, middleware.Metadata, error,
		) {
			out, md, err := next.HandleFinalize(ctx, in)
			opened, _ = out.Result.(*bedrockruntime.ConverseStreamOutput)
			return out, md, errors.Join(err, errors.New("the log is full"))
		}), middleware.Before)
	})
	if _, err := r.sdk.ConverseStream(t.Context(), streamInput(), spoil); err == nil {
		t.Fatal("no error")
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomeEstimated || rec.Err == nil {
		t.Errorf("recorded %+v", rec)
	}
	_ = opened.GetStream().Close() // the SDK's goroutines
}

// TestUnsentInside is a call that middleware nearer to the network than the guard's refuses: nothing was sent.
func TestUnsentInside(t *testing.T) {
	t.Parallel()
	for _, op := range operations() {
		if op.h2 {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, false, plenty)
			c := newSDK(r.aws.Config(), bedrock.Guard(r.q, r.options(nil)...), answering(func(s *middleware.Stack) error {
				return s.Deserialize.Add(middleware.DeserializeMiddlewareFunc("Brake", func(context.Context, middleware.DeserializeInput, middleware.DeserializeHandler) (
					out middleware.DeserializeOutput, md middleware.Metadata, err error,
				) {
					return out, md, errors.New("not now")
				}), middleware.After)
			}))
			if err := op.do(t.Context(), c); err == nil {
				t.Error("no error")
			}
			if rec := r.record(); rec.Outcome != bedrock.OutcomeReleased || len(r.aws.Requests()) != 0 {
				t.Errorf("recorded %+v", rec)
			}
		})
	}
}

// TestPanic is an HTTP client that panics, and an app that goes on: the reservation ends, and what may have been sent is charged.
func TestPanic(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	cfg := r.aws.Config()
	cfg.HTTPClient = smithyhttp.ClientDoFunc(func(*http.Request) (*http.Response, error) { panic("on the wire") })
	c := newSDK(cfg, bedrock.Guard(r.q, r.options(nil)...))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = c.Converse(t.Context(), converseInput())
	}()
	if rec := r.record(); rec.Outcome != bedrock.OutcomeEstimated || rec.Err == nil {
		t.Errorf("recorded %+v", rec)
	}
}

// TestProxyLostIt is a status that Bedrock does not have: a proxy between has lost an answer, and the model may have run.
func TestProxyLostIt(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusBadGateway, http.StatusGatewayTimeout} {
		r := newRig(t, false, plenty)
		r.sdk = guardedOnce(r)
		r.aws.Script(bedrocktest.Answer{Status: status})
		if _, err := r.sdk.Converse(t.Context(), converseInput()); err == nil {
			t.Error("no error")
		}
		if rec := r.record(); rec.Outcome != bedrock.OutcomeEstimated {
			t.Errorf("%d: recorded %+v", status, rec)
		}
	}
}

// TestFirstException is a stream whose first event is an exception: a refusal is free, a model that has failed at its work may not be.
func TestFirstException(t *testing.T) {
	t.Parallel()
	for exception, want := range map[string]bedrock.Outcome{
		"throttlingException": bedrock.OutcomeReleased, "validationException": bedrock.OutcomeReleased,
		"serviceUnavailableException": bedrock.OutcomeReleased, "modelStreamErrorException": bedrock.OutcomeEstimated,
		"modelTimeoutException": bedrock.OutcomeEstimated, "internalServerException": bedrock.OutcomeEstimated,
	} {
		for _, name := range []string{bedrocktest.ConverseStream, bedrocktest.InvokeModelWithResponseStream} {
			r := newRig(t, false, plenty)
			r.aws.Script(bedrocktest.Answer{Exception: exception})
			if err := stream(t.Context(), r.sdk, name); err == nil {
				t.Errorf("%s: no error", exception)
			}
			if rec := r.record(); rec.Outcome != want {
				t.Errorf("%s of %s: recorded %+v, want %s", exception, name, rec, want)
			}
		}
	}
}

// TestSlicesEndAtMaxTokens takes no more than the request allows, so that a bucket with enough for it cuts nothing.
func TestSlicesEndAtMaxTokens(t *testing.T) {
	t.Parallel()
	for name, slice := range map[string]int64{"larger": 5000, "even": 500, "odd": 900, "small": 300} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, false, []string{"1000 output_tokens/day"}, bedrock.Slices(slice, bedrock.EmptyCuts))
			r.aws.Script(long) // 1,000 tokens, which its bytes are taken for, too
			in := longInput()
			in.InferenceConfig.MaxTokens = aws.Int32(1000)
			out, err := r.sdk.ConverseStream(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if err := drain(out.GetStream()); err != nil {
				t.Errorf("cut though there was enough: %v", err)
			}
			if rec := r.record(); rec.Outcome != bedrock.OutcomeSettled || r.ledger().OutputTokens != 1000 {
				t.Errorf("counted %+v: recorded %+v", r.ledger(), rec)
			}
		})
	}
}

const dearTable = `version: 1
unknown: deny
models:
  - {match: ["anthropic.*", "*prompt-router*"], unit: nano-usd/1M, input: 0, output: 10_000_000_000, call: 1_000_000}
  - {match: ["cheap.*"], unit: nano-usd/1M, input: 0, output: 1_000_000_000, call: 1_000_000}
`

// dear is a table with a price of every call, of two models, and of none besides.
func dear(t *testing.T) *bedrock.Prices {
	t.Helper()
	p, err := bedrock.ParsePrices("dear.yaml", []byte(dearTable))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSlicesOfMoney holds a stream's money slice by slice, where tokens are not counted at all.
func TestSlicesOfMoney(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, []string{"5000 usd_micros/day"}, bedrock.Slices(100, bedrock.EmptyCuts), bedrock.Units(bedrock.USDMicros), bedrock.WithPrices(dear(t)))
	r.aws.Script(long) // 10 a token, 1,000 a call: 11,000 and the input
	err := stream(t.Context(), r.sdk, bedrocktest.ConverseStream)
	if d, ok := errors.AsType[*bedrock.DeniedError](err); !ok || d.Unit != bedrock.USDMicros {
		t.Fatalf("the stream ended with %v", err)
	}
	rec := r.record()
	if used := r.quota.Used(bucket, bedrock.USDMicros); rec.Outcome != bedrock.OutcomePartial || used < 3000 || used > 5100 {
		t.Errorf("%d were counted: recorded %+v", used, rec)
	}
}

// TestSlicesOfNothing is refused: nothing that is charged grows with a stream.
func TestSlicesOfNothing(t *testing.T) {
	t.Parallel()
	sliced := bedrock.Slices(1, bedrock.EmptyCuts)
	if err := bedrock.Validate(sliced, bedrock.Units(bedrock.Calls, bedrock.InputTokens)); err == nil {
		t.Error("no error")
	}
	for _, units := range []bedrock.Option{bedrock.Units(bedrock.OutputTokens), bedrock.Units(bedrock.Tokens), bedrock.Units(bedrock.USDMicros)} {
		if err := bedrock.Validate(units, sliced, bedrock.WithPrices(dear(t))); err != nil {
			t.Error(err)
		}
	}
}

// TestRouted pays what the model costs that a prompt router chose, streamed or not, and what the router does where the table does not
// know that model.
func TestRouted(t *testing.T) {
	t.Parallel()
	const router = "arn:aws:bedrock:us-east-1:1:default-prompt-router/x"
	calls := map[string]func(context.Context, *sdkClient) error{
		"Converse": func(ctx context.Context, c *sdkClient) error {
			in := converseInput()
			in.ModelId = aws.String(router)
			_, err := c.Converse(ctx, in)
			return err
		},
		"ConverseStream": func(ctx context.Context, c *sdkClient) error {
			in := streamInput()
			in.ModelId = aws.String(router)
			out, err := c.ConverseStream(ctx, in)
			if err != nil {
				return err
			}
			return drain(out.GetStream())
		},
	}
	for name, call := range calls {
		for chosen, want := range map[string]int64{"cheap.model-v1:0": 1000 + 27, "new.model-v1:0": 1000 + 270, "": 1000 + 270} {
			t.Run(name+"/"+chosen, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, false, plenty, bedrock.WithPrices(dear(t)))
				r.aws.Script(bedrocktest.Answer{InvokedModel: chosen, Usage: bedrocktest.Usage{Input: 31, Output: 27}})
				if err := call(t.Context(), r.sdk); err != nil {
					t.Fatal(err)
				}
				rec := r.record()
				if got := r.quota.Used(bucket, bedrock.USDMicros); got != want || rec.Cost.Micros() != want {
					t.Errorf("%d were charged, %d recorded, want %d", got, rec.Cost.Micros(), want)
				}
			})
		}
	}
}

// TestRefusedIsObserved has a call that no bucket is found for told like any other.
func TestRefusedIsObserved(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]bedrock.Option{
		"no bucket": bedrock.BucketFromMetadata("app", "nobody"), "faulty": bedrock.MaxTokens(0),
	} {
		r := newRig(t, false, plenty, opt)
		if _, err := r.sdk.Converse(t.Context(), converseInput()); err == nil {
			t.Errorf("%s: no error", name)
		}
		if rec := r.record(); rec.Outcome != bedrock.OutcomeRefused || rec.Err == nil || rec.Call.Model != model {
			t.Errorf("%s: recorded %+v", name, rec)
		}
	}
}

// TestNothingOfTheUnits reserves one call, and nothing else, where an operation uses none of the units that are charged.
func TestNothingOfTheUnits(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, []string{"1 calls/day"}, bedrock.Units(bedrock.OutputTokens))
	for _, op := range operations() {
		if op.name != bedrocktest.ApplyGuardrail {
			continue
		}
		if err := op.do(t.Context(), r.sdk); err != nil {
			t.Fatal(err)
		}
		if r.record(); r.quota.Used(bucket, bedrock.Calls) != 1 || r.ledger() != (bedrock.Usage{}) {
			t.Errorf("counted %d calls and %+v", r.quota.Used(bucket, bedrock.Calls), r.ledger())
		}
		if err := op.do(t.Context(), r.sdk); !errorsAsDenied(err) {
			t.Errorf("the second ended with %v", err)
		}
	}
}

// TestBidirectionalRefusedOnce is a bidirectional call that the app's own function refuses with an error that the SDK would try again:
// it is asked once.
func TestBidirectionalRefusedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, true, plenty, bedrock.BucketBy(func(context.Context, bedrock.Call) (string, error) {
		return "", &net.OpError{Op: "dial", Err: errors.New("no route")}
	}))
	if err := talk(t.Context(), r.sdk); err == nil {
		t.Error("no error")
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomeRefused {
		t.Errorf("recorded %+v", rec)
	}
}

// TestBidirectionalDeniedWhileSending has an app send while it is denied: what it is told is the denial, never that a pipe was closed.
func TestBidirectionalDeniedWhileSending(t *testing.T) {
	t.Parallel()
	r := newRig(t, true, []string{"0 calls/day"})
	for range 100 {
		// At v1.63.11 all streams of one client share a buffer for what they send, which is a data race of the SDK's.
		c := newSDK(r.aws.Config(), bedrock.Guard(r.q, r.options(nil)...))
		if err := talk(t.Context(), c); !errorsAsDenied(err) {
			t.Fatalf("ended with %v", err)
		}
	}
}

// TestAbortedBidirectional breaks a bidirectional stream off at every frame, in each way, and settles what was seen.
func TestAbortedBidirectional(t *testing.T) {
	t.Parallel()
	const frames = 5 // of text, each with a frame of its usage behind it, and one more at either end
	for cut := range 2*frames + 2 {
		for name, answer := range map[string]bedrocktest.Answer{
			"between": {CutAfter: cut + 1}, "inside": {CutAfter: cut, CutInside: true}, "exception": {CutAfter: cut, Exception: "modelStreamErrorException"},
		} {
			answer.Frames, answer.Usage = frames, bedrocktest.Usage{Input: 40, Output: 5 * frames}
			t.Run(fmt.Sprintf("%s/%d", name, cut), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, true, plenty, bedrock.MaxTokens(100))
				r.aws.Script(answer)
				_ = talk(t.Context(), r.sdk) // it may have ended well enough for the SDK
				rec := r.record()
				got, billed := r.ledger(), r.billed()
				switch rec.Outcome {
				case bedrock.OutcomeEstimated:
					if cut > 0 && name != "between" || got.OutputTokens != 100 {
						t.Errorf("counted %+v: recorded %+v", got, rec)
					}
				case bedrock.OutcomePartial:
					if got.OutputTokens < billed.OutputTokens || got.OutputTokens > billed.OutputTokens+5 {
						t.Errorf("billed %d, counted %d output tokens: recorded %+v", billed.OutputTokens, got.OutputTokens, rec)
					}
				default:
					t.Errorf("recorded %+v", rec)
				}
			})
		}
	}
}

// TestCallerLeaves closes a stream after each of its events, or its context does: what was seen is settled, and no reservation is left.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	const frames = 5
	for _, cancels := range []bool{false, true} {
		for after := range frames + 5 {
			t.Run(fmt.Sprintf("%v/%d", cancels, after), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, false, plenty)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r.aws.Script(bedrocktest.Answer{Frames: frames, Usage: bedrocktest.Usage{Input: 40, Output: 5 * frames}})
				out, err := r.sdk.ConverseStream(ctx, streamInput())
				if err != nil {
					t.Fatal(err)
				}
				for range after {
					<-out.GetStream().Events()
				}
				if cancels {
					cancel()
				}
				_ = out.GetStream().Close() // which has no error, or the context's
				rec := r.record()
				if got := r.ledger(); rec.Outcome == bedrock.OutcomeReleased || got.InputTokens == 0 ||
					rec.Outcome != bedrock.OutcomeEstimated && got.OutputTokens < int64(5*min(after-1, frames)) {
					t.Errorf("counted %+v: recorded %+v", got, rec)
				}
			})
		}
	}
}

// TestOtherHTTPClient tells nothing of how far it got: what was not even dialled is free, and all else may have been sent.
func TestOtherHTTPClient(t *testing.T) {
	t.Parallel()
	for want, fault := range map[bedrock.Outcome]error{
		bedrock.OutcomeReleased:  &net.OpError{Op: "dial", Err: errors.New("no route")},
		bedrock.OutcomeEstimated: &net.OpError{Op: "read", Err: errors.New("reset")},
	} {
		r := newRig(t, false, plenty)
		cfg := r.aws.Config()
		cfg.HTTPClient = smithyhttp.ClientDoFunc(func(*http.Request) (*http.Response, error) { return nil, fault })
		cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
		c := newSDK(cfg, bedrock.Guard(r.q, r.options(nil)...))
		if _, err := c.Converse(t.Context(), converseInput()); err == nil {
			t.Error("no error")
		}
		if rec := r.record(); rec.Outcome != want {
			t.Errorf("%v: recorded %+v", fault, rec)
		}
	}
}

// TestAdaptive waits for its turn with the reservation held, and gives it back if the caller does not wait.
func TestAdaptive(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	cfg := r.aws.Config()
	waits := make(chan struct{})
	cfg.Retryer = func() aws.Retryer { return waitingRetryer{waits: waits} }
	c := newSDK(cfg, bedrock.Guard(r.q, r.options(nil)...))
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := c.Converse(ctx, converseInput())
		result <- err
	}()
	<-waits
	if n := r.quota.Held(bucket, bedrock.Calls); n != 1 {
		t.Errorf("%d calls are held while it waits", n)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomeReleased || rec.Attempts != 0 || len(r.aws.Requests()) != 0 {
		t.Errorf("recorded %+v", rec)
	}
}

// waitingRetryer has no attempt to give, as one that is adaptive and was throttled.
type waitingRetryer struct {
	aws.NopRetryer
	waits chan struct{}
}

func (r waitingRetryer) GetAttemptToken(ctx context.Context) (func(error) error, error) {
	close(r.waits)
	<-ctx.Done()
	return nil, ctx.Err()
}
