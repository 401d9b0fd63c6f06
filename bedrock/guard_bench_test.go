package bedrock_test

import (
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"

	"github.com/quotad/quotad/bedrock"
	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// BenchmarkConverse makes four calls in turn, by one caller: Converse without a guard, one round trip to quotad alone, the two by hand one
// after the other, and Converse with a guard. It reports the median of each, and what the guard adds beyond the first two, and beyond
// what they take by hand: the settlement is told in the background, so that it should be little. Medians of one run on one machine can be
// compared with each other, and with nothing else.
func BenchmarkConverse(b *testing.B) {
	for name, opts := range map[string][]quotatest.Option{
		"memory": {quotatest.RealTime()}, "disk": {quotatest.RealTime(), quotatest.WithFile(b.TempDir())},
	} {
		b.Run(name, func(b *testing.B) {
			quota := quotatest.New(b, opts...)
			quota.Declare("app", "1_000_000_000 calls/day", "1_000_000_000_000 input_tokens/day", "1_000_000_000_000 output_tokens/day")
			q, err := client.Dial(quota.Listen()) // a real socket, as a sidecar has it
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = q.Close() })
			fake := bedrocktest.New(b)
			plain := newSDK(fake.Config())
			guarded := newSDK(fake.Config(), bedrock.Guard(q, bedrock.Bucket("app")))
			in := converseInput()
			reserve := func() (*client.Reservation, error) {
				return q.Reserve(b.Context(), "app", client.Charge{Unit: bedrock.Calls, Amount: 1},
					client.Charge{Unit: bedrock.InputTokens, Amount: 20}, client.Charge{Unit: bedrock.OutputTokens, Amount: 100})
			}
			calls := []func() error{
				func() error { return converse(b, plain, in) },
				func() error {
					r, err := reserve()
					if err == nil {
						r.ReleaseSoon()
					}
					return err
				},
				func() error {
					r, err := reserve()
					if err != nil {
						return err
					}
					if err := converse(b, plain, in); err != nil {
						return err
					}
					return r.SettleSoon(client.Charge{Unit: bedrock.InputTokens, Amount: 11}, client.Charge{Unit: bedrock.OutputTokens, Amount: 7})
				},
				func() error { return converse(b, guarded, in) },
			}
			took := make([][]time.Duration, len(calls))
			for b.Loop() {
				for i, call := range calls {
					began := time.Now()
					if err := call(); err != nil {
						b.Fatal(err)
					}
					took[i] = append(took[i], time.Since(began))
					// What goes on in the background is to be on nobody's account.
					if err := q.Flush(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
			var median [4]float64
			for i := range took {
				slices.Sort(took[i])
				median[i] = float64(took[i][len(took[i])/2].Microseconds())
			}
			b.ReportMetric(median[0], "plain-us")
			b.ReportMetric(median[1], "quotad-us")
			b.ReportMetric(median[2], "by-hand-us")
			b.ReportMetric(median[3], "guarded-us")
			b.ReportMetric(median[3]-median[0]-median[1], "beyond-us")
			b.ReportMetric(median[3]-median[2], "beyond-by-hand-us")
		})
	}
}

func converse(b *testing.B, c *sdkClient, in *bedrockruntime.ConverseInput) error {
	b.Helper()
	out, err := c.Converse(b.Context(), in)
	if err == nil && aws.ToInt32(out.Usage.InputTokens) == 0 {
		b.Fatal("no usage")
	}
	return err
}
