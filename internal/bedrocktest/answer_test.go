package bedrocktest_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/bedrocktest"
)

// full has every count of a model, none twice.
var full = bedrocktest.Usage{Input: 101, Output: 23, CacheRead: 1009, CacheWrite: 307, CacheWrite1h: 41}

// fixture is a server with a script, and a client of it.
func fixture(t *testing.T, answers ...bedrocktest.Answer) (*bedrocktest.Server, *bedrockruntime.Client) {
	t.Helper()
	s := bedrocktest.New(t)
	s.Script(answers...)
	return s, bedrockruntime.NewFromConfig(s.Config())
}

func billed(t *testing.T, s *bedrocktest.Server, calls int64, used bedrocktest.Usage) {
	t.Helper()
	if diff := cmp.Diff(bedrocktest.Bill{Calls: calls, Tokens: used}, s.Billed()); diff != "" {
		t.Errorf("bill (-want +got):\n%s", diff)
	}
}

// usage is what the SDK made of the answer.
func usage(u *types.TokenUsage) bedrocktest.Usage {
	if u == nil {
		return bedrocktest.Usage{}
	}
	got := bedrocktest.Usage{
		Input: int64(aws.ToInt32(u.InputTokens)), Output: int64(aws.ToInt32(u.OutputTokens)),
		CacheRead: int64(aws.ToInt32(u.CacheReadInputTokens)), CacheWrite: int64(aws.ToInt32(u.CacheWriteInputTokens)),
	}
	for _, detail := range u.CacheDetails {
		if detail.Ttl == types.CacheTTLOneHour {
			got.CacheWrite1h = int64(aws.ToInt32(detail.InputTokens))
		}
	}
	return got
}

func TestConverseUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		answer       bedrocktest.Answer
		says, billed bedrocktest.Usage
	}{
		{bedrocktest.Answer{}, bedrocktest.Usage{Input: 11, Output: 7}, bedrocktest.Usage{Input: 11, Output: 7}},
		{bedrocktest.Answer{Usage: full}, full, full},
		{bedrocktest.Answer{Usage: full, NoUsage: true}, bedrocktest.Usage{}, full},
		{
			bedrocktest.Answer{Usage: bedrocktest.Usage{CacheWrite1h: 5}},
			bedrocktest.Usage{CacheWrite: 5, CacheWrite1h: 5},
			bedrocktest.Usage{CacheWrite: 5, CacheWrite1h: 5},
		},
	} {
		s, c := fixture(t, test.answer)
		out, err := c.Converse(t.Context(), converseInput())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.says, usage(out.Usage)); diff != "" {
			t.Errorf("Converse says (-want +got):\n%s", diff)
		}
		billed(t, s, 1, test.billed)

		s, c = fixture(t, test.answer)
		events, err := readConverse(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		var said *types.TokenUsage
		if last, ok := events[len(events)-1].(*types.ConverseStreamOutputMemberMetadata); ok {
			said = last.Value.Usage
		}
		if diff := cmp.Diff(test.says, usage(said)); diff != "" || (said == nil) != test.answer.NoUsage {
			t.Errorf("ConverseStream says (-want +got):\n%s", diff)
		}
		billed(t, s, 1, test.billed)
	}
}

func TestTierAndRouter(t *testing.T) {
	t.Parallel()
	_, c := fixture(t, bedrocktest.Answer{Tier: "priority", InvokedModel: "amazon.nova-lite-v1:0"})
	out, err := c.Converse(t.Context(), converseInput())
	if err != nil {
		t.Fatal(err)
	}
	if out.ServiceTier == nil || out.ServiceTier.Type != types.ServiceTierTypePriority {
		t.Errorf("tier %+v", out.ServiceTier)
	}
	if out.Trace == nil || aws.ToString(out.Trace.PromptRouter.InvokedModelId) != "amazon.nova-lite-v1:0" {
		t.Errorf("trace %+v", out.Trace)
	}
	invoked, err := c.InvokeModel(t.Context(), invokeInput())
	if err != nil || invoked.ServiceTier != types.ServiceTierTypePriority {
		t.Errorf("InvokeModel: tier %+v, %v", invoked, err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status     int
		name, code string
		attempts   int
	}{
		{400, "", "ValidationException", 1},
		{400, "ServiceQuotaExceededException", "ServiceQuotaExceededException", 1},
		{403, "", "AccessDeniedException", 1},
		{404, "", "ResourceNotFoundException", 1},
		{408, "", "ModelTimeoutException", 1},
		{409, "", "ConflictException", 1},
		{424, "", "ModelErrorException", 1},
		{429, "", "ThrottlingException", 3},
		{429, "ModelNotReadyException", "ModelNotReadyException", 1},
		{500, "", "InternalServerException", 3},
		{503, "", "ServiceUnavailableException", 3},
	} {
		s, c := fixture(t, bedrocktest.Answer{Status: test.status, Error: test.name})
		_, err := c.Converse(t.Context(), converseInput())
		refused(t, err, test.code)
		if n := len(s.Requests()); n != test.attempts {
			t.Errorf("%s: %d attempts, want %d", test.code, n, test.attempts)
		}
		billed(t, s, 0, bedrocktest.Usage{})
	}
	s, c := fixture(t, bedrocktest.Answer{Status: 429}, bedrocktest.Answer{Status: 429}, bedrocktest.Answer{})
	if _, err := c.Converse(t.Context(), converseInput()); err != nil {
		t.Error(err)
	}
	billed(t, s, 1, bedrocktest.Usage{Input: 11, Output: 7})
}

func TestScript(t *testing.T) {
	t.Parallel()
	s, c := fixture(t, bedrocktest.Answer{Usage: bedrocktest.Usage{Input: 1}}, bedrocktest.Answer{Usage: bedrocktest.Usage{Input: 2}})
	s.ScriptFor(bedrocktest.CountTokens, bedrocktest.Answer{Usage: bedrocktest.Usage{Input: 70}})
	for _, want := range []int32{1, 2, 2} {
		counted, err := c.CountTokens(t.Context(), countInput())
		if err != nil || aws.ToInt32(counted.InputTokens) != 70 {
			t.Errorf("counted %+v, %v", counted, err)
		}
		out, err := c.Converse(t.Context(), converseInput())
		if err != nil || aws.ToInt32(out.Usage.InputTokens) != want {
			t.Errorf("got %+v, %v, want %d", out, err, want)
		}
	}
	s.ScriptFor(bedrocktest.CountTokens)
	s.Script()
	if counted, err := c.CountTokens(t.Context(), countInput()); err != nil || aws.ToInt32(counted.InputTokens) != 11 {
		t.Errorf("counted %+v, %v", counted, err)
	}
	billed(t, s, 3, bedrocktest.Usage{Input: 5})
}

// errorsOf has what a test would have been failed with.
type errorsOf struct {
	testing.TB
	n *int
}

func (e errorsOf) Errorf(string, ...any) { *e.n++ }

func TestScriptIsChecked(t *testing.T) {
	t.Parallel()
	var n int
	s := bedrocktest.New(errorsOf{t, &n})
	for i, wrong := range []bedrocktest.Answer{
		{Status: 100},
		{Status: 302},
		{Status: 600},
		{Family: "elephant"},
		{CutAfter: -2},
		{Exception: "noException"},
		{Exception: "throttlingException", CutInside: true},
	} {
		if s.Script(bedrocktest.Answer{}, wrong); n != i+1 {
			t.Errorf("%+v was taken", wrong)
			n = i + 1
		}
	}
	before := n
	if s.ScriptFor("Train", bedrocktest.Answer{}); n != before+1 {
		t.Error("a script for Train was taken")
	}
}

func TestGuardrails(t *testing.T) {
	t.Parallel()
	s, c := fixture(t, bedrocktest.Answer{Usage: bedrocktest.Usage{Input: 50, TextUnits: 9}})
	applied, err := c.ApplyGuardrail(t.Context(), guardrailInput())
	if err != nil {
		t.Fatal(err)
	}
	if u := applied.Usage; aws.ToInt32(u.TopicPolicyUnits)+aws.ToInt32(u.ContentPolicyUnits) != 9 || aws.ToInt32(u.SensitiveInformationPolicyFreeUnits) != 9 {
		t.Errorf("usage %+v", u)
	}
	checked, err := c.InvokeGuardrailChecks(t.Context(), checksInput())
	if err != nil {
		t.Fatal(err)
	}
	if u := checked.Usage; aws.ToInt32(u.ContentFilter.TextUnits)+aws.ToInt32(u.PromptAttack.TextUnits) != 9 {
		t.Errorf("usage %+v", u)
	}
	billed(t, s, 2, bedrocktest.Usage{TextUnits: 18})
	s.Script(bedrocktest.Answer{NoUsage: true})
	if applied, err = c.ApplyGuardrail(t.Context(), guardrailInput()); err != nil || applied.Usage != nil {
		t.Errorf("NoUsage: %+v, %v", applied, err)
	}
	if checked, err = c.InvokeGuardrailChecks(t.Context(), checksInput()); err != nil || checked.Usage != nil {
		t.Errorf("NoUsage: %+v, %v", checked, err)
	}
}

func TestAsync(t *testing.T) {
	t.Parallel()
	s, c := fixture(t)
	var arns []string
	for _, token := range []string{"a", "b", "a", "c"} {
		in := asyncInput()
		in.ClientRequestToken = aws.String(token)
		out, err := c.StartAsyncInvoke(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		arns = append(arns, aws.ToString(out.InvocationArn))
	}
	if arns[0] != arns[2] || arns[0] == arns[1] {
		t.Errorf("invocations %q", arns)
	}
	billed(t, s, 3, bedrocktest.Usage{}) // one token came twice
	got, err := c.GetAsyncInvoke(t.Context(), &bedrockruntime.GetAsyncInvokeInput{InvocationArn: &arns[1]})
	if err != nil || aws.ToString(got.ClientRequestToken) != "b" || !strings.HasSuffix(aws.ToString(got.ModelArn), model) {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = c.GetAsyncInvoke(t.Context(), &bedrockruntime.GetAsyncInvokeInput{InvocationArn: aws.String(arns[1] + "9")})
	refused(t, err, "ResourceNotFoundException")
	pages := bedrockruntime.NewListAsyncInvokesPaginator(c, &bedrockruntime.ListAsyncInvokesInput{MaxResults: aws.Int32(2)})
	var sizes []int
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page.AsyncInvokeSummaries))
	}
	if diff := cmp.Diff([]int{2, 1}, sizes); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
}

// TestBroken sends answers that are none. The SDK tries again what broke before
// the headers, and each attempt is billed.
func TestBroken(t *testing.T) {
	t.Parallel()
	fine := bedrocktest.Answer{}
	once := bedrocktest.Usage{Input: 11, Output: 7}
	twice := bedrocktest.Usage{Input: 22, Output: 14}
	for _, name := range []string{bedrocktest.Converse, bedrocktest.InvokeModel, bedrocktest.ConverseStream, bedrocktest.InvokeModelWithResponseStream} {
		s, c := fixture(t, bedrocktest.Answer{Hangup: true}, fine)
		if err := calls()[name](t.Context(), c); err != nil {
			t.Errorf("%s: hung up once: %v", name, err)
		}
		billed(t, s, 2, twice)

		s, c = fixture(t, bedrocktest.Answer{Garbage: true})
		err := calls()[name](t.Context(), c)
		if opaque := name == bedrocktest.InvokeModel; (err == nil) != opaque { // the SDK does not look into that body
			t.Errorf("%s: garbage: %v", name, err)
		}
		if n := len(s.Requests()); n != 1 {
			t.Errorf("%s: garbage was asked for %d times", name, n)
		}
		billed(t, s, 1, once)
	}
	s, c := fixture(t, bedrocktest.Answer{Hangup: true})
	if _, err := c.Converse(t.Context(), converseInput()); err == nil {
		t.Error("no error after three hangups")
	}
	billed(t, s, 3, bedrocktest.Usage{Input: 33, Output: 21})
}

func TestDelay(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s, c := fixture(t, bedrocktest.Answer{Delay: release})
	var calls sync.WaitGroup
	calls.Go(func() {
		if _, err := c.Converse(t.Context(), converseInput()); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { return s.Billed().Calls == 1 })
	close(release)
	calls.Wait()

	s.Script(bedrocktest.Answer{Delay: make(chan struct{})})
	ctx, cancel := context.WithCancel(t.Context())
	calls.Go(func() {
		if _, err := c.Converse(ctx, converseInput()); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	})
	waitFor(t, func() bool { return len(s.Requests()) == 2 && s.Billed().Calls == 2 })
	cancel()
	calls.Wait()
	billed(t, s, 2, bedrocktest.Usage{Input: 22, Output: 14}) // the model ran
}

// TestEndOfTest leaves a delayed call behind, which must not keep the server from
// closing.
func TestEndOfTest(t *testing.T) {
	t.Parallel()
	var calls sync.WaitGroup
	t.Run("inner", func(t *testing.T) {
		s, c := fixture(t, bedrocktest.Answer{Delay: make(chan struct{})})
		ctx := context.WithoutCancel(t.Context())
		calls.Go(func() {
			if _, err := c.Converse(ctx, converseInput()); err == nil {
				t.Error("no error from a server that is gone")
			}
		})
		waitFor(t, func() bool { return len(s.Requests()) == 1 })
	})
	calls.Wait()
}

// TestForeignClient reads streams with a client that is not Config's.
func TestForeignClient(t *testing.T) {
	t.Parallel()
	s := bedrocktest.New(t)
	config := s.Config()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	config.HTTPClient = &http.Client{Transport: transport}
	whole(t, bedrockruntime.NewFromConfig(config), 20)
}

// TestQuickClient reads more of them with Config's, which gets them without delay.
// Without plainBody about one in a hundred is cut.
func TestQuickClient(t *testing.T) {
	t.Parallel()
	_, c := fixture(t)
	whole(t, c, 200)
}

func whole(t *testing.T, c *bedrockruntime.Client, n int) {
	t.Helper()
	for i := range n {
		events, err := readConverse(t.Context(), c)
		if err != nil || len(events) != 9 {
			t.Errorf("stream %d: %d events, %v", i, len(events), err)
		}
	}
}

// waitFor polls: what the server has is told by no signal.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for !done() {
		if t.Context().Err() != nil {
			t.Fatal(t.Context().Err())
		}
		// There is nothing to wait on but the server's own lists.
		time.Sleep(time.Millisecond)
	}
}
