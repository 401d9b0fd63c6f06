package bedrocktest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/bedrocktest"
)

// sent is the output of the first n frames.
func sent(events []bedrocktest.Event, n int) int64 {
	var sum int64
	for _, e := range events[:min(n, len(events))] {
		sum += e.Output
	}
	return sum
}

func TestConverseFrames(t *testing.T) {
	t.Parallel()
	_, c := fixture(t, bedrocktest.Answer{Frames: 3}, bedrocktest.Answer{Frames: -1})
	events, err := readConverse(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	var text strings.Builder
	for _, e := range events {
		kind := fmt.Sprintf("%T", e)
		kinds = append(kinds, kind[strings.LastIndex(kind, "Member")+len("Member"):])
		if delta, ok := e.(*types.ConverseStreamOutputMemberContentBlockDelta); ok {
			text.WriteString(delta.Value.Delta.(*types.ContentBlockDeltaMemberText).Value)
		}
	}
	want := []string{"MessageStart", "ContentBlockDelta", "ContentBlockDelta", "ContentBlockDelta", "ContentBlockStop", "MessageStop", "Metadata"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if text.Len() != 3*20 {
		t.Errorf("%d bytes of text, want 60", text.Len())
	}
	if events, err = readConverse(t.Context(), c); err != nil || len(events) != 4 {
		t.Errorf("without text: %d events, %v", len(events), err)
	}
}

// TestCut breaks both streams off after every frame, between frames and inside.
// Over HTTP/1.1 the SDK sees a clean end: what is missing is all there is to tell.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, name := range []string{bedrocktest.ConverseStream, bedrocktest.InvokeModelWithResponseStream} {
		events := bedrocktest.Events(name, bedrocktest.Answer{Usage: full})
		for i := range len(events) + 2 {
			for _, inside := range []bool{false, true} {
				answer := bedrocktest.Answer{Usage: full, CutAfter: i, CutInside: inside, ByteByByte: i == 2}
				if i == 0 {
					answer.CutAfter = -1
				}
				s, c := fixture(t, answer)
				got, err := read(t.Context(), name, c)
				if want := min(i, len(events)); err != nil || got != want {
					t.Errorf("%s cut after %d, inside %v: %d events, want %d, %v", name, i, inside, got, want, err)
				}
				want := full
				want.Output = sent(events, i)
				billed(t, s, 1, want)
				if n := len(s.Requests()); n != 1 {
					t.Errorf("%d requests", n)
				}
			}
		}
		if sent(events, len(events)) != full.Output {
			t.Errorf("%s: all frames have %d tokens", name, sent(events, len(events)))
		}
	}
}

// read counts the events of a stream.
func read(ctx context.Context, name string, c *bedrockruntime.Client) (int, error) {
	if name == bedrocktest.ConverseStream {
		events, err := readConverse(ctx, c)
		return len(events), err
	}
	chunks, err := readChunks(ctx, c)
	return len(chunks), err
}

func TestCutOverHTTP2(t *testing.T) {
	t.Parallel()
	s := bedrocktest.NewH2(t)
	s.Script(bedrocktest.Answer{CutAfter: 2})
	if events, err := readConverse(t.Context(), bedrockruntime.NewFromConfig(s.Config())); err == nil || len(events) != 2 {
		t.Errorf("%d events, %v", len(events), err)
	}
	billed(t, s, 1, bedrocktest.Usage{Input: 11, Output: 1})
}

func TestException(t *testing.T) {
	t.Parallel()
	for exception, code := range map[string]string{
		"throttlingException":         "ThrottlingException",
		"modelStreamErrorException":   "ModelStreamErrorException",
		"internalServerException":     "InternalServerException",
		"serviceUnavailableException": "ServiceUnavailableException",
		"validationException":         "ValidationException",
	} {
		for _, name := range []string{bedrocktest.ConverseStream, bedrocktest.InvokeModelWithResponseStream} {
			for _, after := range []int{0, 4} {
				s, c := fixture(t, bedrocktest.Answer{Exception: exception, CutAfter: after})
				n, err := read(t.Context(), name, c)
				refused(t, err, code)
				if n != after {
					t.Errorf("%s after %d: %d events", exception, after, n)
				}
				billed(t, s, 1, bedrocktest.Usage{Input: 11, Output: sent(bedrocktest.Events(name, bedrocktest.Answer{}), n)})
			}
		}
	}
	_, c := fixture(t, bedrocktest.Answer{Exception: "modelTimeoutException", CutAfter: -1})
	_, err := readChunks(t.Context(), c) // ConverseStream does not have this one
	refused(t, err, "ModelTimeoutException")
}

func TestPace(t *testing.T) {
	t.Parallel()
	var paced []int
	s, c := fixture(t, bedrocktest.Answer{Frames: 2, Pace: func(i int) { paced = append(paced, i) }})
	if _, err := readConverse(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4, 5}, paced); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	billed(t, s, 1, bedrocktest.Usage{Input: 11, Output: 7})
}

// TestReaderLeaves closes a stream in its middle: what comes after is not billed.
func TestReaderLeaves(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(chan struct{})
	s, c := fixture(t, bedrocktest.Answer{Frames: 5000, Usage: bedrocktest.Usage{Input: 1, Output: 5000}, Pace: func(i int) {
		if i == 3 { // the start and two frames of text are out
			cancel()
			<-closed
		}
	}})
	_, err := readConverse(ctx, c)
	close(closed)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	var last int64
	waitFor(t, func() bool { // until the server has noticed, and no more is billed
		now := s.Billed().Tokens.Output
		done := now == last
		last = now
		// Longer than any frame takes.
		time.Sleep(5 * time.Millisecond)
		return done
	})
	if last < 2 || last > 4000 {
		t.Errorf("%d tokens billed of a reader that left after 2 of 5000", last)
	}
}

// TestBidirectional reads Nova Sonic's usage, which counts up.
func TestBidirectional(t *testing.T) {
	t.Parallel()
	s := bedrocktest.NewH2(t)
	s.Script(bedrocktest.Answer{Usage: bedrocktest.Usage{Input: 40, Output: 12}, Frames: 4})
	c := bedrockruntime.NewFromConfig(s.Config())
	heard, err := talk(t.Context(), c, `{"event":{"sessionStart":{}}}`)
	if err != nil {
		t.Fatal(err)
	}
	var totals []int64
	for _, text := range heard {
		var said struct {
			Event struct {
				Usage *struct {
					In  int64 `json:"totalInputTokens"`
					Out int64 `json:"totalOutputTokens"`
				} `json:"usageEvent"`
			} `json:"event"`
		}
		if err := json.Unmarshal([]byte(text), &said); err != nil {
			t.Fatal(err)
		}
		if u := said.Event.Usage; u != nil {
			totals = append(totals, u.In, u.Out)
		}
	}
	if diff := cmp.Diff([]int64{40, 3, 40, 6, 40, 9, 40, 12}, totals); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
	billed(t, s, 1, bedrocktest.Usage{Input: 40, Output: 12})
	got := s.Requests()[0]
	if len(got.Events) != 1 || string(got.Events[0]) != `{"event":{"sessionStart":{}}}` || got.ModelID != model {
		t.Errorf("arrived: %+v", got)
	}

	s.Script(bedrocktest.Answer{NoUsage: true})
	if heard, err = talk(t.Context(), c, "hello"); err != nil || strings.Contains(strings.Join(heard, ""), "usageEvent") {
		t.Errorf("NoUsage: %q, %v", heard, err)
	}
}

func TestBidirectionalBreaks(t *testing.T) {
	t.Parallel()
	s := bedrocktest.NewH2(t)
	c := bedrockruntime.NewFromConfig(s.Config())
	events := bedrocktest.Events(bedrocktest.InvokeModelWithBidirectionalStream, bedrocktest.Answer{})
	for _, answer := range []bedrocktest.Answer{
		{CutAfter: -1},
		{CutAfter: 3},
		{CutAfter: 3, CutInside: true},
		{CutAfter: 4, Exception: "modelStreamErrorException"},
	} {
		before := s.Billed().Tokens.Output
		s.Script(answer)
		heard, err := talk(t.Context(), c, "hello")
		if want := max(answer.CutAfter, 0); err == nil || len(heard) != want {
			t.Errorf("%+v: %d events, %v", answer, len(heard), err)
		}
		if got, want := s.Billed().Tokens.Output-before, sent(events, len(heard)); got != want {
			t.Errorf("%+v: billed %d tokens, want %d", answer, got, want)
		}
	}
	s.Script(bedrocktest.Answer{Garbage: true})
	if heard, err := talk(t.Context(), c, "hello"); err == nil || len(heard) > 0 {
		t.Errorf("garbage: %q, %v", heard, err)
	}
	// Nobody says anything: no model runs. Over HTTP/1.1 there is no stream at all.
	before := s.Billed()
	ctx, cancel := context.WithCancel(t.Context())
	out, err := c.InvokeModelWithBidirectionalStream(ctx, &bedrockruntime.InvokeModelWithBidirectionalStreamInput{ModelId: aws.String(model)})
	if err != nil {
		t.Fatal(err)
	}
	out.GetStream().Close()
	cancel()
	h1 := bedrocktest.New(t)
	_, err = talk(t.Context(), bedrockruntime.NewFromConfig(h1.Config()))
	refused(t, err, "ValidationException")
	if s.Billed() != before {
		t.Errorf("billed %+v, then %+v", before, s.Billed())
	}
	billed(t, h1, 0, bedrocktest.Usage{})
}

// TestBidirectionalHangup shows what the SDK makes of it: nothing, until the
// context ends.
func TestBidirectionalHangup(t *testing.T) {
	t.Parallel()
	s := bedrocktest.NewH2(t)
	s.Script(bedrocktest.Answer{Hangup: true})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for s.Billed().Calls == 0 && t.Context().Err() == nil {
			// There is nothing to wait on but the bill.
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := talk(ctx, bedrockruntime.NewFromConfig(s.Config())); err == nil {
		t.Error("no error")
	}
	billed(t, s, 1, bedrocktest.Usage{Input: 11, Output: 7})
}
