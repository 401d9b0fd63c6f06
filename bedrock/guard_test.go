package bedrock_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"

	"github.com/quotad/quotad/bedrock"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// TestOperations walks the methods of the SDK's client: each is either in the matrix above, or known to be free. An operation that a
// newer SDK brings fails here until somebody has decided; it is guarded in the meantime, as TestUnknownOperation shows.
func TestOperations(t *testing.T) {
	t.Parallel()
	var paid []string
	for _, op := range operations() {
		paid = append(paid, op.name)
	}
	free := []string{bedrocktest.CountTokens, bedrocktest.GetAsyncInvoke, bedrocktest.ListAsyncInvokes}
	client := reflect.TypeFor[*bedrockruntime.Client]()
	seen := 0
	for m := range client.Methods() {
		if m.Name == "Options" {
			continue
		}
		seen++
		if slices.Contains(paid, m.Name) == slices.Contains(free, m.Name) {
			t.Errorf("%s: is it paid? Give it a line in operations() of this test and in bedrocktest, or in free()", m.Name)
		}
	}
	if want := len(paid) + len(free); seen != want {
		t.Errorf("the SDK has %d operations, and these tests know %d", seen, want)
	}
}

// TestFree passes what costs nothing, though nothing is left.
func TestFree(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, []string{"0 calls/day"})
	_, err := r.sdk.CountTokens(t.Context(), &bedrockruntime.CountTokensInput{
		ModelId: aws.String(model),
		Input:   &types.CountTokensInputMemberInvokeModel{Value: types.InvokeModelTokensRequest{Body: []byte(claudeBody)}},
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := r.sdk.ListAsyncInvokes(t.Context(), &bedrockruntime.ListAsyncInvokesInput{}); err != nil {
		t.Error(err)
	}
	if n := len(r.aws.Requests()); n != 2 {
		t.Errorf("%d requests arrived", n)
	}
}

// TestInvalidInput never reserves: the SDK's own validation comes first.
func TestInvalidInput(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	if _, err := r.sdk.Converse(t.Context(), &bedrockruntime.ConverseInput{}); err == nil {
		t.Error("no error")
	}
	if s := r.q.Stats(); s.Granted != 0 || len(r.records) != 0 {
		t.Errorf("reserved: %+v", s)
	}
}

// TestUnsent is a call that fails before anything of it is sent: it costs nothing, whatever the policy.
func TestUnsent(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*aws.Config){
		"refused connection": func(c *aws.Config) { c.BaseEndpoint = aws.String("http://127.0.0.1:1") },
		"no credentials": func(c *aws.Config) {
			c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{}, errors.New("none today")
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, false, plenty)
			cfg := r.aws.Config()
			spoil(&cfg)
			c := newSDK(cfg, bedrock.Guard(r.q, r.options(nil)...))
			if _, err := c.Converse(t.Context(), converseInput()); err == nil {
				t.Error("no error")
			}
			if rec := r.record(); rec.Outcome != bedrock.OutcomeReleased || len(r.aws.Requests()) != 0 {
				t.Errorf("recorded %+v", rec)
			}
		})
	}
}

// TestBrokenThenFine is sent twice, and billed twice, as the first answer was lost: both are charged, as one call.
func TestBrokenThenFine(t *testing.T) {
	t.Parallel()
	for _, op := range operations() {
		if op.h2 || !op.model {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, false, plenty)
			usage := bedrocktest.Usage{Input: 31, Output: 25}
			r.aws.Script(bedrocktest.Answer{Hangup: true, Usage: usage}, bedrocktest.Answer{Usage: usage})
			if err := op.do(t.Context(), r.sdk); err != nil {
				t.Fatal(err)
			}
			rec := r.record()
			if rec.Attempts != 2 || rec.Outcome != bedrock.OutcomeSettled {
				t.Errorf("recorded %+v", rec)
			}
			same(t, r, op, rec)
		})
	}
}

// TestBrokenReleases charges nothing for what was sent and lost, if told so.
func TestBrokenReleases(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty, bedrock.OnBroken(bedrock.BrokenReleases))
	r.aws.Script(bedrocktest.Answer{Hangup: true})
	if _, err := r.sdk.Converse(t.Context(), converseInput()); err == nil {
		t.Error("no error")
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomeReleased || r.quota.Used(bucket, bedrock.Calls) != 0 {
		t.Errorf("recorded %+v", rec)
	}
}

// TestConfig guards a whole aws.Config, and a client of it that has a guard of its own by that alone.
func TestConfig(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	r.quota.Declare("other", "10 calls/day")
	cfg := r.aws.Config()
	before := len(cfg.APIOptions)
	guarded := cfg
	bedrock.GuardConfig(&guarded, r.q, bedrock.Bucket("other"))
	if len(cfg.APIOptions) != before {
		t.Error("the copy's options were changed, too")
	}
	if _, err := newSDK(guarded).Converse(t.Context(), converseInput()); err != nil {
		t.Fatal(err)
	}
	if _, err := newSDK(guarded, bedrock.Guard(r.q, r.options(nil)...)).Converse(t.Context(), converseInput()); err != nil {
		t.Fatal(err)
	}
	r.record()
	if a, b := r.quota.Used("other", bedrock.Calls), r.quota.Used(bucket, bedrock.Calls); a != 1 || b != 1 {
		t.Errorf("charged %d to the config's bucket and %d to the client's", a, b)
	}
}

// TestFaultyOptions refuse every call, and say why.
func TestFaultyOptions(t *testing.T) {
	t.Parallel()
	for want, opt := range map[string]bedrock.Option{
		"Bucket: the bucket's name has 0 bytes": bedrock.Bucket(""), "a segment \"..\"": bedrock.Bucket("a/../b"),
		"BucketBy: the function is nil": bedrock.BucketBy(nil), "BucketFromMetadata": bedrock.BucketFromMetadata("a b", "user"),
		`Units: "words" is not one of`: bedrock.Units("words"), "Units: none": bedrock.Units(), "need WithPrices": bedrock.Units(bedrock.USDMicros),
		"WithPrices": bedrock.WithPrices(nil), "MaxTokens: 0": bedrock.MaxTokens(0), "CountTokens": bedrock.CountTokens(nil),
		"Hold: 25h0m0s": bedrock.Hold(25 * time.Hour), "OnBroken": bedrock.OnBroken(7), "Slices: 0": bedrock.Slices(0, bedrock.EmptyCuts),
		"no policy 9": bedrock.Slices(1, 9), "Observe": bedrock.Observe(nil), "WithClock": bedrock.WithClock(nil),
	} {
		if err := bedrock.Validate(opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q in it", err, want)
		}
		r := newRig(t, false, plenty)
		c := newSDK(r.aws.Config(), bedrock.Guard(r.q, opt))
		if _, err := c.Converse(t.Context(), converseInput()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a call: %v; want %q in it", err, want)
		}
		if n := len(r.aws.Requests()); n != 0 {
			t.Errorf("%s: %d requests were sent", want, n)
		}
	}
	if err := bedrock.Validate(bedrock.PerModel(), bedrock.SettleFirst()); err != nil {
		t.Error(err)
	}
}

// TestBuckets chooses them by everything there is.
func TestBuckets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opts []bedrock.Option
		user string
		want string // "": refused
	}{
		"fixed":         {[]bedrock.Option{bedrock.Bucket("app/x")}, "alice", "app/x"},
		"per model":     {[]bedrock.Option{bedrock.Bucket("app/x"), bedrock.PerModel()}, "alice", "app/x/" + model},
		"by model":      {[]bedrock.Option{bedrock.BucketFromModel("app")}, "alice", "app/" + model},
		"by user":       {[]bedrock.Option{bedrock.BucketFromMetadata("app", "user")}, "alice@example.com", "app/alice@example.com"},
		"climbing user": {[]bedrock.Option{bedrock.BucketFromMetadata("app", "user")}, "../other", "app/..=2Fother"},
		"dots":          {[]bedrock.Option{bedrock.BucketFromMetadata("app", "user")}, "..", "app/=2E=2E"},
		"quoted user":   {[]bedrock.Option{bedrock.BucketFromMetadata("app", "user")}, "a=2Fb ü", "app/a=3D2Fb=20=C3=BC"},
		"no user":       {[]bedrock.Option{bedrock.BucketFromMetadata("app", "user")}, "", ""},
		"long user":     {[]bedrock.Option{bedrock.BucketFromMetadata("app", "user")}, strings.Repeat("x", 250), ""},
		"function": {[]bedrock.Option{bedrock.BucketBy(func(_ context.Context, c bedrock.Call) (string, error) {
			return "app/" + c.Operation, nil
		})}, "alice", "app/Converse"},
		"refusing": {[]bedrock.Option{bedrock.BucketBy(func(context.Context, bedrock.Call) (string, error) {
			return "", errors.New("not on Sundays")
		})}, "alice", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, false, plenty, c.opts...)
			in := converseInput()
			in.RequestMetadata = map[string]string{"user": c.user}
			_, err := r.sdk.Converse(t.Context(), in)
			if c.want == "" {
				if err == nil || len(r.aws.Requests()) != 0 {
					t.Errorf("%v, and %d requests were sent", err, len(r.aws.Requests()))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if rec := r.record(); rec.Bucket != c.want {
				t.Errorf("charged %s, want %s", rec.Bucket, c.want)
			}
			if n := r.quota.Used("app", bedrock.Calls); n != 1 {
				t.Errorf("the shared bucket has %d calls", n)
			}
		})
	}
}

// TestUnits charges nothing but what is named.
func TestUnits(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty, bedrock.Units(bedrock.Calls))
	if _, err := r.sdk.Converse(t.Context(), converseInput()); err != nil {
		t.Fatal(err)
	}
	r.record()
	if got := r.ledger(); got != (bedrock.Usage{}) || r.quota.Used(bucket, bedrock.Calls) != 1 {
		t.Errorf("counted %+v", got)
	}
}

// TestSettleFirst has settled when the call returns.
func TestSettleFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty, bedrock.SettleFirst())
	if _, err := r.sdk.Converse(t.Context(), converseInput()); err != nil {
		t.Fatal(err)
	}
	if n := r.q.Stats().Pending; n != 0 {
		t.Errorf("%d settlements are pending", n)
	}
	same(t, r, operation{name: bedrocktest.Converse, model: true}, r.record())
}

// TestCountTokens holds what Bedrock has counted; where it cannot, what the size says.
func TestCountTokens(t *testing.T) {
	t.Parallel()
	for _, status := range []int{0, 400} {
		r := newRig(t, false, plenty)
		c := newSDK(r.aws.Config(), bedrock.Guard(r.q, r.options([]bedrock.Option{bedrock.CountTokens(r.sdk)})...))
		r.aws.ScriptFor(bedrocktest.CountTokens, bedrocktest.Answer{Status: status, Usage: bedrocktest.Usage{Input: 4321}})
		if _, err := c.Converse(t.Context(), converseInput()); err != nil {
			t.Fatal(err)
		}
		if n := r.record().Call.Estimate.InputTokens; (n == 4321) != (status == 0) || n < 10 {
			t.Errorf("%d: estimated %d input tokens", status, n)
		}
	}
}
