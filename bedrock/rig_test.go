package bedrock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"go.uber.org/goleak"

	"github.com/quotad/quotad/bedrock"
	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	"github.com/quotad/quotad/internal/bedrocktest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(bedrocktest.BidirectionalLeak))
}

const (
	patience = 20 * time.Second
	bucket   = "app/bedrock"
	model    = "anthropic.claude-x-v1:0"
)

// A rig is a guarded client between a real quotad and a Bedrock of ours.
type rig struct {
	t     *testing.T
	quota *quotatest.Server
	q     *client.Client
	aws   *bedrocktest.Server
	sdk   *bedrockruntime.Client

	mu      sync.Mutex
	records []bedrock.Record
	ended   chan struct{} // takes one for each record
}

// newRig declares app/bedrock with calls a day, and guards a client with it. h2 is for bidirectional streams.
func newRig(t *testing.T, h2 bool, limits []string, opts ...bedrock.Option) *rig {
	t.Helper()
	r := &rig{t: t, quota: quotatest.New(t), ended: make(chan struct{}, 10_000)}
	r.quota.Declare("app", limits...)
	r.quota.Declare(bucket)
	r.q = r.quota.Client()
	if r.aws = bedrocktest.New(t); h2 {
		r.aws = bedrocktest.NewH2(t)
	}
	r.sdk = bedrockruntime.NewFromConfig(r.aws.Config(), bedrock.Guard(r.q, r.options(opts)...))
	return r
}

func (r *rig) options(opts []bedrock.Option) []bedrock.Option {
	return append([]bedrock.Option{bedrock.Bucket(bucket), bedrock.Observe(r.note)}, opts...)
}

func (r *rig) note(rec bedrock.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, rec)
	r.ended <- struct{}{}
}

// record waits until one call has ended and quotad knows of it, and wants it to be the only one.
func (r *rig) record() bedrock.Record {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), patience)
	defer cancel()
	select {
	case <-r.ended:
	case <-ctx.Done():
		r.t.Fatal("no call has ended")
	}
	if err := r.q.Flush(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.records) != 1 {
		r.t.Fatalf("%d calls have ended: %+v", len(r.records), r.records)
	}
	rec := r.records[0]
	r.records = nil
	if n := r.quota.Open(); n != 0 {
		r.t.Errorf("%d reservations are open still", n)
	}
	return rec
}

// ledger is what quotad has counted of the units that calls of models use.
func (r *rig) ledger() bedrock.Usage {
	r.t.Helper()
	for _, unit := range []string{bedrock.Calls, bedrock.InputTokens, bedrock.OutputTokens} {
		if n := r.quota.Held(bucket, unit); n != 0 {
			r.t.Errorf("%d %s are held still", n, unit)
		}
		if own, parent := r.quota.Used(bucket, unit), r.quota.Used("app", unit); own != parent {
			r.t.Errorf("%s: %d of the bucket, %d of its parent", unit, own, parent)
		}
	}
	return bedrock.Usage{
		InputTokens: r.quota.Used(bucket, bedrock.InputTokens), OutputTokens: r.quota.Used(bucket, bedrock.OutputTokens),
		CacheReadTokens: r.quota.Used(bucket, bedrock.CacheReadTokens), CacheWriteTokens: r.quota.Used(bucket, bedrock.CacheWriteTokens),
		TextUnits: r.quota.Used(bucket, bedrock.TextUnits),
	}
}

// billed is the fake's bill in the same units.
func (r *rig) billed() bedrock.Usage {
	b := r.aws.Billed().Tokens
	return bedrock.Usage{
		InputTokens: b.Input, OutputTokens: b.Output, CacheReadTokens: b.CacheRead, CacheWriteTokens: b.CacheWrite, TextUnits: b.TextUnits,
	}
}

// An operation is one paid call of the SDK, made and read to its end.
type operation struct {
	name    string
	model   bool // runs a model
	streams bool
	h2      bool
	do      func(context.Context, *bedrockruntime.Client) error
}

const prompt = "What is the capital of France?"

func converseInput() *bedrockruntime.ConverseInput {
	return &bedrockruntime.ConverseInput{
		ModelId:         aws.String(model),
		Messages:        []types.Message{{Role: types.ConversationRoleUser, Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: prompt}}}},
		InferenceConfig: &types.InferenceConfiguration{MaxTokens: aws.Int32(100)},
		RequestMetadata: map[string]string{"user": "alice"},
	}
}

func streamInput() *bedrockruntime.ConverseStreamInput {
	in := converseInput()
	return &bedrockruntime.ConverseStreamInput{
		ModelId: in.ModelId, Messages: in.Messages, InferenceConfig: in.InferenceConfig, RequestMetadata: in.RequestMetadata,
	}
}

const claudeBody = `{"anthropic_version":"bedrock-2023-05-31","max_tokens":100,"messages":[{"role":"user","content":"` + prompt + `"}]}`

// operations are all that cost money at the pinned version; TestOperations sees to that.
func operations() []operation {
	return []operation{
		{name: bedrocktest.Converse, model: true, do: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.Converse(ctx, converseInput())
			return err
		}},
		{name: bedrocktest.InvokeModel, model: true, do: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.InvokeModel(ctx, &bedrockruntime.InvokeModelInput{ModelId: aws.String(model), Body: []byte(claudeBody)})
			return err
		}},
		{name: bedrocktest.ConverseStream, model: true, streams: true, do: func(ctx context.Context, c *bedrockruntime.Client) error {
			out, err := c.ConverseStream(ctx, streamInput())
			if err != nil {
				return err
			}
			return drain(out.GetStream())
		}},
		{name: bedrocktest.InvokeModelWithResponseStream, model: true, streams: true, do: func(ctx context.Context, c *bedrockruntime.Client) error {
			out, err := c.InvokeModelWithResponseStream(ctx, &bedrockruntime.InvokeModelWithResponseStreamInput{ModelId: aws.String(model), Body: []byte(claudeBody)})
			if err != nil {
				return err
			}
			return drain(out.GetStream())
		}},
		{name: bedrocktest.InvokeModelWithBidirectionalStream, model: true, streams: true, h2: true, do: talk},
		{name: bedrocktest.StartAsyncInvoke, do: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.StartAsyncInvoke(ctx, &bedrockruntime.StartAsyncInvokeInput{
				ModelId: aws.String(model), ModelInput: document.NewLazyDocument(map[string]any{"prompt": prompt}),
				OutputDataConfig: &types.AsyncInvokeOutputDataConfigMemberS3OutputDataConfig{
					Value: types.AsyncInvokeS3OutputDataConfig{S3Uri: aws.String("s3://bucket/out")},
				},
			})
			return err
		}},
		{name: bedrocktest.ApplyGuardrail, do: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.ApplyGuardrail(ctx, &bedrockruntime.ApplyGuardrailInput{
				GuardrailIdentifier: aws.String("gr-1"), GuardrailVersion: aws.String("1"), Source: types.GuardrailContentSourceInput,
				Content: []types.GuardrailContentBlock{&types.GuardrailContentBlockMemberText{Value: types.GuardrailTextBlock{Text: aws.String(prompt)}}},
			})
			return err
		}},
		{name: bedrocktest.InvokeGuardrailChecks, do: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.InvokeGuardrailChecks(ctx, &bedrockruntime.InvokeGuardrailChecksInput{
				Checks: &types.GuardrailChecksConfig{},
				Messages: []types.GuardrailChecksMessage{{
					Role: types.GuardrailChecksRoleUser, Content: []types.GuardrailChecksContentBlock{&types.GuardrailChecksContentBlockMemberText{Value: prompt}},
				}},
			})
			return err
		}},
	}
}

// eventStream is what the streams of all operations have in common.
type eventStream[E any] interface {
	Events() <-chan E
	Close() error
	Err() error
}

func drain[E any](s eventStream[E]) error {
	for range s.Events() { //nolint:revive // read to the end
	}
	return errors.Join(s.Err(), s.Close())
}

// talk says one thing and reads what comes back.
func talk(ctx context.Context, c *bedrockruntime.Client) error {
	out, err := c.InvokeModelWithBidirectionalStream(ctx, &bedrockruntime.InvokeModelWithBidirectionalStreamInput{ModelId: aws.String("amazon.nova-sonic-v1:0")})
	if err != nil {
		return err
	}
	s := out.GetStream()
	// A refused stream refuses what is sent, too; Err says why.
	_ = s.Send(ctx, &types.InvokeModelWithBidirectionalStreamInputMemberChunk{
		Value: types.BidirectionalInputPayloadPart{Bytes: []byte(`{"event":{"sessionEnd":{}}}`)},
	})
	_ = s.Writer.Close()
	return drain(s)
}

type sdkClient = bedrockruntime.Client

func newSDK(cfg aws.Config, opts ...func(*bedrockruntime.Options)) *sdkClient {
	return bedrockruntime.NewFromConfig(cfg, opts...)
}

// tick is the moment between two looks at something that another goroutine brings about.
func tick() <-chan time.Time { return time.After(time.Millisecond) }
