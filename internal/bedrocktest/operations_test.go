package bedrocktest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/bedrocktest"
)

// An ARN has what a path must escape: colons and a slash.
const model = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-x-v1:0"

// calls has a plain call of each operation. The streams are read to their end.
func calls() map[string]func(context.Context, *bedrockruntime.Client) error {
	return map[string]func(context.Context, *bedrockruntime.Client) error{
		bedrocktest.ApplyGuardrail: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.ApplyGuardrail(ctx, guardrailInput())
			return err
		},
		bedrocktest.Converse: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.Converse(ctx, converseInput())
			return err
		},
		bedrocktest.ConverseStream: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := readConverse(ctx, c)
			return err
		},
		bedrocktest.CountTokens: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.CountTokens(ctx, countInput())
			return err
		},
		bedrocktest.GetAsyncInvoke: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.GetAsyncInvoke(ctx, &bedrockruntime.GetAsyncInvokeInput{InvocationArn: aws.String("arn:aws:bedrock:us-east-1:123456789012:async-invoke/000000000001")})
			return err
		},
		bedrocktest.InvokeGuardrailChecks: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.InvokeGuardrailChecks(ctx, checksInput())
			return err
		},
		bedrocktest.InvokeModel: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.InvokeModel(ctx, invokeInput())
			return err
		},
		bedrocktest.InvokeModelWithBidirectionalStream: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := talk(ctx, c, "hello")
			return err
		},
		bedrocktest.InvokeModelWithResponseStream: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := readChunks(ctx, c)
			return err
		},
		bedrocktest.ListAsyncInvokes: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.ListAsyncInvokes(ctx, &bedrockruntime.ListAsyncInvokesInput{})
			return err
		},
		bedrocktest.StartAsyncInvoke: func(ctx context.Context, c *bedrockruntime.Client) error {
			_, err := c.StartAsyncInvoke(ctx, asyncInput())
			return err
		},
	}
}

func messages() []types.Message {
	return []types.Message{{Role: types.ConversationRoleUser, Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: "hello"}}}}
}

func converseInput() *bedrockruntime.ConverseInput {
	return &bedrockruntime.ConverseInput{ModelId: aws.String(model), Messages: messages()}
}

func countInput() *bedrockruntime.CountTokensInput {
	return &bedrockruntime.CountTokensInput{ModelId: aws.String(model), Input: &types.CountTokensInputMemberConverse{Value: types.ConverseTokensRequest{Messages: messages()}}}
}

func invokeInput() *bedrockruntime.InvokeModelInput {
	return &bedrockruntime.InvokeModelInput{ModelId: aws.String(model), Body: []byte(`{"max_tokens":9}`)}
}

func guardrailInput() *bedrockruntime.ApplyGuardrailInput {
	return &bedrockruntime.ApplyGuardrailInput{
		GuardrailIdentifier: aws.String("g/1"), GuardrailVersion: aws.String("1"), Source: types.GuardrailContentSourceInput,
		Content: []types.GuardrailContentBlock{&types.GuardrailContentBlockMemberText{Value: types.GuardrailTextBlock{Text: aws.String("hello")}}},
	}
}

func checksInput() *bedrockruntime.InvokeGuardrailChecksInput {
	return &bedrockruntime.InvokeGuardrailChecksInput{Checks: &types.GuardrailChecksConfig{}, Messages: []types.GuardrailChecksMessage{}}
}

func asyncInput() *bedrockruntime.StartAsyncInvokeInput {
	return &bedrockruntime.StartAsyncInvokeInput{
		ModelId: aws.String(model), ModelInput: document.NewLazyDocument(map[string]any{"text": "hello"}),
		OutputDataConfig: &types.AsyncInvokeOutputDataConfigMemberS3OutputDataConfig{
			Value: types.AsyncInvokeS3OutputDataConfig{S3Uri: aws.String("s3://bucket/key")},
		},
	}
}

// readConverse reads a ConverseStream to its end.
func readConverse(ctx context.Context, c *bedrockruntime.Client) ([]types.ConverseStreamOutput, error) {
	out, err := c.ConverseStream(ctx, &bedrockruntime.ConverseStreamInput{ModelId: aws.String(model), Messages: messages()})
	if err != nil {
		return nil, err
	}
	var events []types.ConverseStreamOutput
	for event := range out.GetStream().Events() {
		events = append(events, event)
	}
	return events, closed(out.GetStream())
}

// closed closes a stream and has its error.
func closed(stream interface {
	Close() error
	Err() error
},
) error {
	stream.Close()
	return stream.Err()
}

// readChunks reads an InvokeModelWithResponseStream to its end.
func readChunks(ctx context.Context, c *bedrockruntime.Client) ([]string, error) {
	out, err := c.InvokeModelWithResponseStream(ctx, &bedrockruntime.InvokeModelWithResponseStreamInput{ModelId: aws.String(model), Body: []byte(`{}`)})
	if err != nil {
		return nil, err
	}
	var chunks []string
	for event := range out.GetStream().Events() {
		chunks = append(chunks, string(event.(*types.ResponseStreamMemberChunk).Value.Bytes))
	}
	return chunks, closed(out.GetStream())
}

// talk sends events over a bidirectional stream, and reads it to its end.
func talk(ctx context.Context, c *bedrockruntime.Client, said ...string) ([]string, error) {
	out, err := c.InvokeModelWithBidirectionalStream(ctx, &bedrockruntime.InvokeModelWithBidirectionalStreamInput{ModelId: aws.String(model)})
	if err != nil {
		return nil, err
	}
	stream := out.GetStream()
	for _, event := range said {
		part := types.BidirectionalInputPayloadPart{Bytes: []byte(event)}
		if stream.Send(ctx, &types.InvokeModelWithBidirectionalStreamInputMemberChunk{Value: part}) != nil {
			break // what is wrong is the stream's error
		}
	}
	var heard []string
	for event := range stream.Events() {
		heard = append(heard, string(event.(*types.InvokeModelWithBidirectionalStreamOutputMemberChunk).Value.Bytes))
	}
	return heard, closed(stream)
}

func silent(ctx context.Context, c *bedrockruntime.Client) error {
	_, err := talk(ctx, c)
	return err
}

// TestOperationsOfTheSDK fails when the SDK has an operation that is not known
// here: then it has to be, and every guard's test that walks Operations tries it.
func TestOperationsOfTheSDK(t *testing.T) {
	t.Parallel()
	var sdk []string
	client := reflect.TypeFor[*bedrockruntime.Client]()
	for method := range client.Methods() {
		// (receiver, context, *XInput, options...) (*XOutput, error)
		if typ := method.Type; typ.NumIn() == 4 && typ.IsVariadic() && typ.In(2).Elem().Name() == method.Name+"Input" {
			sdk = append(sdk, method.Name)
		}
	}
	var known []string
	for _, op := range bedrocktest.Operations() {
		known = append(known, op.Name)
		if calls()[op.Name] == nil {
			t.Errorf("no test calls %s", op.Name)
		}
	}
	if diff := cmp.Diff(sdk, known); diff != "" { // both are in alphabetical order
		t.Errorf("operations (-sdk +bedrocktest):\n%s", diff)
	}
}

// TestEveryOperation calls each once, granted, refused, and thrice throttled.
func TestEveryOperation(t *testing.T) {
	t.Parallel()
	for _, op := range bedrocktest.Operations() {
		t.Run(op.Name, func(t *testing.T) {
			t.Parallel()
			s := bedrocktest.NewH2(t)
			c := bedrockruntime.NewFromConfig(s.Config())
			if op.Name == bedrocktest.GetAsyncInvoke {
				if err := calls()[bedrocktest.StartAsyncInvoke](t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			before, arrived := s.Billed(), len(s.Requests())
			if err := calls()[op.Name](t.Context(), c); err != nil {
				t.Error(err)
			}
			after := s.Billed()
			if paid := after != before; paid != op.Paid {
				t.Errorf("bill went from %+v to %+v, paid is %v", before, after, op.Paid)
			}
			got := s.Requests()[arrived:]
			if len(got) != 1 || got[0].Operation != op.Name || !strings.Contains(got[0].Header.Get("Authorization"), "AKIDEXAMPLE") {
				t.Errorf("arrived: %+v", got)
			}
			call := calls()[op.Name]
			if op.Name == bedrocktest.InvokeModelWithBidirectionalStream {
				call = silent // what is sent while the SDK tries again breaks it
			}
			s.ScriptFor(op.Name, bedrocktest.Answer{Status: 400}, bedrocktest.Answer{Status: 429})
			refused(t, call(t.Context(), c), "ValidationException")
			refused(t, call(t.Context(), c), "ThrottlingException")
			if n := len(s.Requests()) - arrived; n != 1+1+3 {
				t.Errorf("%d requests, want 5: fine, invalid, throttled and tried again twice", n)
			}
			if s.Billed() != after {
				t.Errorf("errors were billed: %+v, then %+v", after, s.Billed())
			}
		})
	}
}

func refused(t *testing.T, err error, code string) {
	t.Helper()
	if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestModelID(t *testing.T) {
	t.Parallel()
	s := bedrocktest.New(t)
	c := bedrockruntime.NewFromConfig(s.Config())
	for _, name := range []string{bedrocktest.Converse, bedrocktest.InvokeModel, bedrocktest.StartAsyncInvoke} {
		if err := calls()[name](t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	for _, r := range s.Requests() {
		if r.ModelID != model || r.Method != http.MethodPost {
			t.Errorf("%s: %s of model %q", r.Operation, r.Method, r.ModelID)
		}
	}
	if got := string(s.Requests()[1].Body); got != `{"max_tokens":9}` {
		t.Errorf("body %s", got)
	}
}

func TestUnknownPath(t *testing.T) {
	t.Parallel()
	s := bedrocktest.New(t)
	for _, path := range []string{"/", "/model//converse", "/model/a/b/converse", "/model/a/converse/", "/model/a/train"} {
		status, code := post(t, s, path)
		if status != http.StatusNotFound || !strings.HasPrefix(code, "UnknownOperationException") {
			t.Errorf("%s: %d %s", path, status, code)
		}
	}
	for _, r := range s.Requests() {
		if r.Operation != "" {
			t.Errorf("%s is %s", r.Path, r.Operation)
		}
	}
	if got := s.Billed(); got != (bedrocktest.Bill{}) {
		t.Errorf("billed %+v", got)
	}
}

// post asks without the SDK, from a client that is not of Config.
func post(t *testing.T, s *bedrocktest.Server, path string) (status int, code string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+path, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header.Get("X-Amzn-Errortype")
}
