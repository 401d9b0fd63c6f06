package bedrock_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/bedrock"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// long is a stream of 200 frames of 20 bytes, which are taken for 5 tokens each: 1,000 in all.
var long = bedrocktest.Answer{Frames: 200, Usage: bedrocktest.Usage{Input: 40, Output: 1000}}

func longInput() *bedrockruntime.ConverseStreamInput {
	in := streamInput()
	in.InferenceConfig.MaxTokens = aws.Int32(2000)
	return in
}

// TestSlices holds a stream's output slice by slice. With enough in the bucket nobody notices.
func TestSlices(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, []string{"1200 output_tokens/day"}, bedrock.Slices(100, bedrock.EmptyCuts))
	held := make(chan int64, 1)
	answer := long
	answer.Pace = func(frame int) {
		if frame == 3 { // the caller has read none of it, so that only the first slice is held
			held <- r.quota.Held(bucket, bedrock.OutputTokens)
		}
	}
	r.aws.Script(answer)
	out, err := r.sdk.ConverseStream(t.Context(), longInput())
	if err != nil {
		t.Fatal(err)
	}
	if n := <-held; n != 100 {
		t.Errorf("%d output tokens are held at first, want 100", n)
	}
	if err := drain(out.GetStream()); err != nil {
		t.Fatal(err)
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomeSettled {
		t.Errorf("recorded %+v", rec)
	}
	if diff := cmp.Diff(r.billed(), r.ledger()); diff != "" {
		t.Errorf("billed (-) and counted (+) differ:\n%s", diff)
	}
}

// TestSlicesCut ends a stream whose bucket has nothing left, about where the limit is.
func TestSlicesCut(t *testing.T) {
	t.Parallel()
	for _, name := range []string{bedrocktest.ConverseStream, bedrocktest.InvokeModelWithResponseStream} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, false, []string{"350 output_tokens/day"}, bedrock.Slices(100, bedrock.EmptyCuts))
			answer := long
			gone := make(chan struct{})
			answer.Pace = func(frame int) {
				if frame == 120 { // far beyond the limit: wait until the connection has been closed
					<-gone
				}
			}
			r.aws.Script(answer)
			err := stream(t.Context(), r.sdk, name)
			close(gone)
			d, ok := errors.AsType[*bedrock.DeniedError](err)
			if !ok || d.Unit != bedrock.OutputTokens || d.Operation != name {
				t.Fatalf("the stream ended with %v", err)
			}
			rec := r.record()
			if n := r.ledger().OutputTokens; rec.Outcome != bedrock.OutcomePartial || n < 295 || n > 350 {
				t.Errorf("%d output tokens were counted: %+v", n, rec)
			}
		})
	}
}

func stream(ctx context.Context, c *bedrockruntime.Client, name string) error {
	if name == bedrocktest.ConverseStream {
		out, err := c.ConverseStream(ctx, longInput())
		if err != nil {
			return err
		}
		return drain(out.GetStream())
	}
	out, err := c.InvokeModelWithResponseStream(ctx, &bedrockruntime.InvokeModelWithResponseStreamInput{
		ModelId: aws.String(model), Body: []byte(`{"max_tokens":2000,"messages":[]}`),
	})
	if err != nil {
		return err
	}
	return drain(out.GetStream())
}

// TestSlicesFinish lets it go on, and counts what went beyond the limit.
func TestSlicesFinish(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, []string{"350 output_tokens/day"}, bedrock.Slices(100, bedrock.EmptyFinishes))
	r.aws.Script(long)
	if err := stream(t.Context(), r.sdk, bedrocktest.ConverseStream); err != nil {
		t.Fatal(err)
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomeSettled || r.ledger().OutputTokens != 1000 {
		t.Errorf("%+v: recorded %+v", r.ledger(), rec)
	}
}

// TestHangUp settles a stream that its caller has closed early with what was seen of it, and the server notices.
func TestHangUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	answer := long
	read := make(chan struct{})
	answer.Pace = func(frame int) {
		if frame == 20 {
			<-read
		}
	}
	r.aws.Script(answer)
	out, err := r.sdk.ConverseStream(t.Context(), longInput())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		<-out.GetStream().Events()
	}
	if err := out.GetStream().Close(); err != nil {
		t.Error(err)
	}
	close(read)
	rec := r.record()
	if n := r.ledger().OutputTokens; rec.Outcome != bedrock.OutcomePartial || n < 40 || n > 100 {
		t.Errorf("%d output tokens were counted: %+v", n, rec)
	}
}

// TestCancelled settles a stream whose context ends while it runs.
func TestCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer := long
	stop := make(chan struct{})
	answer.Pace = func(frame int) {
		if frame == 20 {
			<-stop
		}
	}
	r.aws.Script(answer)
	out, err := r.sdk.ConverseStream(ctx, longInput())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		<-out.GetStream().Events()
	}
	cancel()
	_ = drain(out.GetStream())
	close(stop)
	if rec := r.record(); rec.Outcome != bedrock.OutcomePartial || rec.Err == nil {
		t.Errorf("recorded %+v", rec)
	}
}

// TestTruncatedLooksFine is the SDK's trap that the guard is built around: a stream that is cut between two bytes ends without an
// error, so that only the missing account tells. If this fails, the SDK has been mended, and the guard's docs want changing.
func TestTruncatedLooksFine(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	r.aws.Script(bedrocktest.Answer{CutAfter: 3, CutInside: true})
	if err := stream(t.Context(), r.sdk, bedrocktest.ConverseStream); err != nil {
		t.Errorf("the SDK reports a truncated stream now: %v", err)
	}
	if rec := r.record(); rec.Outcome != bedrock.OutcomePartial || rec.Err == nil {
		t.Errorf("a truncated stream was recorded as %+v", rec)
	}
}

// TestReaderIsTheSDKs shows that the guard reads along without putting a reader of its own into the stream: the SDK's goroutines use
// that field already when the call returns, so that replacing it is a data race.
func TestReaderIsTheSDKs(t *testing.T) {
	t.Parallel()
	r := newRig(t, false, plenty)
	out, err := r.sdk.ConverseStream(t.Context(), longInput())
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%T", out.GetStream().Reader); got != "*bedrockruntime.converseStreamOutputReader" {
		t.Errorf("the stream's reader is a %s", got)
	}
	if err := drain(out.GetStream()); err != nil {
		t.Error(err)
	}
	r.record()
}

// TestBidirectionalDenied returns, where an error of the Initialize step never would: the SDK waits for a first result that only its
// Deserialize step sends.
func TestBidirectionalDenied(t *testing.T) {
	t.Parallel()
	r := newRig(t, true, []string{"0 calls/day"})
	ended := make(chan error, 1)
	go func() { ended <- talk(t.Context(), r.sdk) }()
	select {
	case err := <-ended:
		if !errorsAsDenied(err) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("a denied bidirectional call never returns")
	}
	if n := len(r.aws.Requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}
