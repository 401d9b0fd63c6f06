package bedrock_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/quotad/quotad/bedrock"
	"github.com/quotad/quotad/internal/bedrocktest"
)

const table = `
version: 1
unknown: %UNKNOWN%
models:
  - match: ["anthropic.claude-*"]
    unit: nano-usd/1M
    input: 3_000_000_000
    output: 15_000_000_000
    cache_read: 300_000_000
    cache_write: 3_750_000_000
    burndown: {output: 5}
  - match: ["anthropic.claude-*"]
    from: 2026-02-01
    unit: nano-usd/1M
    input: 6_000_000_000
    output: 30_000_000_000
`

func prices(t *testing.T, unknown string) *bedrock.Prices {
	t.Helper()
	p, err := bedrock.ParsePrices("prices.yaml", []byte(strings.Replace(table, "%UNKNOWN%", unknown, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestMoney holds the price of the estimate and settles the price of what was used, by the table in force on the day, and AWS's weighted
// tokens beside it.
func TestMoney(t *testing.T) {
	t.Parallel()
	for at, want := range map[time.Time]struct{ held, used, tokens int64 }{
		// 20 tokens in and 100 out are held: 60 + 1500 micros. 1000 in, 200 out, 100 read and 40 written are
		// 3000 + 3000 + 30 + 150, and 1000 + 5*200 + 40 weighted tokens.
		time.Date(2026, 1, 31, 23, 59, 0, 0, time.UTC): {1560, 6180, 2040},
		// In February: 120 + 3000; 6000 + 6000 + 600 + 240, as cache prices that are left out are that of input; weights 1.
		time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC): {3120, 12840, 1240},
	} {
		r := newRig(t, false, []string{"20_000 usd_micros/day"}, bedrock.WithPrices(prices(t, "deny")), bedrock.WithClock(func() time.Time { return at }))
		held := make(chan int64, 1)
		arrived := make(chan struct{})
		r.aws.Script(bedrocktest.Answer{Delay: arrived, Usage: bedrocktest.Usage{Input: 1000, Output: 200, CacheRead: 100, CacheWrite: 40}})
		done := make(chan error, 1)
		go func() {
			_, err := r.sdk.Converse(t.Context(), converseInput())
			done <- err
		}()
		waitFor(t, func() bool { return len(r.aws.Requests()) == 1 })
		held <- r.quota.Held("app", bedrock.USDMicros)
		close(arrived)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		rec := r.record()
		if n := <-held; n != want.held {
			t.Errorf("%v: %d micros were held, want %d", at, n, want.held)
		}
		if n := r.quota.Used("app", bedrock.USDMicros); n != want.used || rec.Cost.Micros() != n || !rec.Cost.Known {
			t.Errorf("%v: %d micros were used, want %d: %+v", at, n, want.used, rec.Cost)
		}
		if n := r.quota.Used("app", bedrock.Tokens); n != want.tokens {
			t.Errorf("%v: %d weighted tokens were used, want %d", at, n, want.tokens)
		}
	}
}

// TestMoneyDenied is refused by a budget in dollars.
func TestMoneyDenied(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, []string{"1559 usd_micros/day"}, bedrock.WithPrices(prices(t, "deny")), bedrock.WithClock(func() time.Time { return time.Unix(0, 0) }))
	_, err := r.sdk.Converse(t.Context(), converseInput())
	if d, ok := errors.AsType[*bedrock.DeniedError](err); !ok || d.Unit != bedrock.USDMicros || d.Requested != 1560 || len(r.aws.Requests()) != 0 {
		t.Errorf("denied with %v", err)
	}
}

// TestPicture is billed by the call, by a model whose requests name no tokens and whose answers tell none: its price is known
// beforehand, and is what is held and settled.
func TestPicture(t *testing.T) {
	t.Parallel()
	p, err := bedrock.ParsePrices("prices.yaml", []byte("version: 1\nunknown: deny\nmodels: [{match: [amazon.canvas], unit: nano-usd/1M, call: 44_000_000}]"))
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[string]bool{"44_000 usd_micros/day": true, "43_999 usd_micros/day": false} {
		r := newRig(t, false, []string{limit}, bedrock.WithPrices(p))
		r.aws.Script(bedrocktest.Answer{Family: "image", NoUsage: true})
		_, err := r.sdk.InvokeModel(t.Context(), &bedrockruntime.InvokeModelInput{ModelId: aws.String("amazon.canvas"), Body: []byte(`{"taskType":"TEXT_IMAGE"}`)})
		if (err == nil) != want {
			t.Fatalf("%s: %v", limit, err)
		}
		rec := r.record()
		if n := r.quota.Used("app", bedrock.USDMicros); want && (n != 44_000 || rec.Cost.Micros() != n) {
			t.Errorf("%d micros were charged, %+v recorded", n, rec.Cost)
		}
	}
}

// TestUnknownModel is not called, or loudly at the fallback's price, as the table says.
func TestUnknownModel(t *testing.T) {
	t.Parallel()
	in := converseInput()
	in.ModelId = aws.String("acme.novel-v1:0")

	r := newRig(t, false, plenty, bedrock.WithPrices(prices(t, "deny")))
	_, err := r.sdk.Converse(t.Context(), in)
	if u, ok := errors.AsType[*bedrock.UnknownModelError](err); !ok || u.Model != "acme.novel-v1:0" || len(r.aws.Requests()) != 0 {
		t.Errorf("refused with %v", err)
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomeRefused {
		t.Errorf("recorded %+v", rec)
	}

	r = newRig(t, false, plenty, bedrock.WithPrices(prices(t, "{unit: nano-usd/1M, input: 1_000_000_000, output: 1_000_000_000}")))
	if _, err := r.sdk.Converse(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if rec := r.record(); rec.Cost.Known || r.quota.Used("app", bedrock.USDMicros) != 18 {
		t.Errorf("%d micros were charged: %+v", r.quota.Used("app", bedrock.USDMicros), rec.Cost)
	}
}

// TestUnknownOperation is one that a newer SDK may bring: it is guarded until it is known to be free. Another service's operation of
// the same name passes.
func TestUnknownOperation(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, []string{"1 calls/day"})
	var cfg aws.Config
	bedrock.GuardConfig(&cfg, r.q, r.options(nil)...)
	call := func(service string) (sent bool, err error) {
		stack := middleware.NewStack("Dream", smithyhttp.NewStackRequest)
		for _, attach := range cfg.APIOptions {
			if err := attach(stack); err != nil {
				t.Fatal(err)
			}
		}
		meta := &awsmiddleware.RegisterServiceMetadata{ServiceID: service, OperationName: "Dream"}
		if err := stack.Initialize.Add(meta, middleware.Before); err != nil {
			t.Fatal(err)
		}
		h := middleware.DecorateHandler(middleware.HandlerFunc(func(context.Context, any) (any, middleware.Metadata, error) {
			sent = true
			return &smithyhttp.Response{}, middleware.Metadata{}, nil
		}), stack)
		_, _, err = h.Handle(t.Context(), &struct{}{})
		return sent, err
	}
	if sent, err := call(bedrockruntime.ServiceID); !sent || err != nil {
		t.Errorf("the first: %v, sent: %v", err, sent)
	}
	if rec := r.record(); rec.Call.Operation != "Dream" || r.quota.Used(bucket, bedrock.Calls) != 1 {
		t.Errorf("recorded %+v", rec)
	}
	if sent, err := call(bedrockruntime.ServiceID); sent || !errorsAsDenied(err) {
		t.Errorf("the second: %v, sent: %v", err, sent)
	}
	if sent, err := call("S3"); !sent || err != nil {
		t.Errorf("another service's: %v, sent: %v", err, sent)
	}
}
