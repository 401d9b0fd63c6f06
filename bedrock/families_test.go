package bedrock_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/bedrock"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// TestTierThatServed pays the price of the tier that has served a call, not of the one that was asked, as far as the table has it.
func TestTierThatServed(t *testing.T) {
	t.Parallel()
	p, err := bedrock.ParsePrices("tiers.yaml", []byte(`version: 1
unknown: deny
models:
  - {match: ["anthropic.*"], tier: default, unit: nano-usd/1M, input: 0, output: 10_000_000_000}
  - {match: ["anthropic.*"], tier: reserved, unit: nano-usd/1M, input: 0, output: 0}
`))
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(context.Context, *sdkClient) error{
		"Converse": func(ctx context.Context, c *sdkClient) error {
			in := converseInput()
			in.ServiceTier = &types.ServiceTier{Type: types.ServiceTierTypeReserved}
			_, err := c.Converse(ctx, in)
			return err
		},
		"ConverseStream": func(ctx context.Context, c *sdkClient) error {
			in := streamInput()
			in.ServiceTier = &types.ServiceTier{Type: types.ServiceTierTypeReserved}
			out, err := c.ConverseStream(ctx, in)
			if err != nil {
				return err
			}
			return drain(out.GetStream())
		},
		"InvokeModel": func(ctx context.Context, c *sdkClient) error {
			_, err := c.InvokeModel(ctx, &bedrockruntime.InvokeModelInput{
				ModelId: aws.String(model), Body: []byte(claudeBody), ServiceTier: types.ServiceTierTypeReserved,
			})
			return err
		},
		"InvokeModelWithResponseStream": func(ctx context.Context, c *sdkClient) error {
			out, err := c.InvokeModelWithResponseStream(ctx, &bedrockruntime.InvokeModelWithResponseStreamInput{
				ModelId: aws.String(model), Body: []byte(claudeBody), ServiceTier: types.ServiceTierTypeReserved,
			})
			if err != nil {
				return err
			}
			return drain(out.GetStream())
		},
	}
	for name, call := range calls {
		for tier, want := range map[string]int64{"": 0, "reserved": 0, "default": 270, "new": 0} {
			r := newRig(t, false, plenty, bedrock.WithPrices(p))
			r.aws.Script(bedrocktest.Answer{Tier: tier, Usage: bedrocktest.Usage{Input: 31, Output: 27}})
			if err := call(t.Context(), r.sdk); err != nil {
				t.Fatal(err)
			}
			r.record()
			if got := r.quota.Used(bucket, bedrock.USDMicros); got != want {
				t.Errorf("%s by %q: %d were charged, want %d", name, tier, got, want)
			}
		}
	}
}

// TestFamilies settles InvokeModel and its stream with what was billed for each family of models, whether the headers or Bedrock's metrics
// tell of it or the body alone, and with the estimate where nothing does.
func TestFamilies(t *testing.T) {
	t.Parallel()
	silent := []string{"mistral7b", "cohere-embed", "image"} // of their bodies
	makesTokens := func(family string) bool { return family != "cohere-embed" && family != "image" }
	for _, family := range bedrocktest.Families() {
		for _, noHeaders := range []bool{false, true} {
			for _, streams := range []bool{false, true} {
				if streams && !makesTokens(family) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%v/%v", family, noHeaders, streams), func(t *testing.T) {
					t.Parallel()
					r := newRig(t, false, plenty)
					usage := bedrocktest.Usage{Input: 31}
					if makesTokens(family) {
						usage.Output = 25
					}
					if family == "claude" || family == "nova" {
						usage.CacheRead, usage.CacheWrite = 1009, 307
					}
					r.aws.Script(bedrocktest.Answer{Family: family, NoHeaders: noHeaders, Usage: usage})
					if err := invoke(t.Context(), r.sdk, streams); err != nil {
						t.Fatal(err)
					}
					rec := r.record()
					switch {
					case noHeaders && slices.Contains(silent, family):
						if got := r.ledger(); rec.Outcome == bedrock.OutcomeSettled || got.InputTokens != rec.Call.Estimate.InputTokens {
							t.Errorf("counted %+v: recorded %+v", got, rec)
						}
					default:
						if diff := cmp.Diff(r.billed(), r.ledger()); diff != "" {
							t.Errorf("billed (-) and counted (+) differ:\n%s%+v", diff, rec)
						}
					}
				})
			}
		}
	}
}

func invoke(ctx context.Context, c *sdkClient, streams bool) error {
	if !streams {
		_, err := c.InvokeModel(ctx, &bedrockruntime.InvokeModelInput{ModelId: aws.String(model), Body: []byte(claudeBody)})
		return err
	}
	out, err := c.InvokeModelWithResponseStream(ctx, &bedrockruntime.InvokeModelWithResponseStreamInput{ModelId: aws.String(model), Body: []byte(claudeBody)})
	if err != nil {
		return err
	}
	return drain(out.GetStream())
}
