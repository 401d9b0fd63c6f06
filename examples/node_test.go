package examples_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/client/quotatest"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// nodePatience is how long a program that was killed may still hold its output.
const nodePatience = 10 * time.Second

// needNode returns the program node. A machine without it, or without what the example needs from npm, skips the test; CI must have both.
func needNode(t *testing.T) string {
	t.Helper()
	missing := t.Skipf
	if os.Getenv("CI") == "true" {
		missing = t.Fatalf
	}
	node, err := exec.LookPath("node")
	if err != nil {
		missing("there is no node: %v", err)
	}
	for _, dependency := range []string{"@grpc/grpc-js", "@grpc/proto-loader", "@aws-sdk/client-bedrock-runtime"} {
		if _, err := os.Stat(filepath.Join("node/node_modules", dependency)); err != nil {
			missing("what examples/node needs is not installed (examples/setup does it): %v", err)
		}
	}
	return node
}

// nodeCommand is a program of examples/node, with nothing of the machine's around it: neither its credentials nor its proxies.
func nodeCommand(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), needNode(t), args...)
	cmd.Dir = "node"
	cmd.WaitDelay = nodePatience
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_EC2_METADATA_DISABLED=true",
		"AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=secret",
		"NODE_NO_WARNINGS=1", "NODE_TLS_REJECT_UNAUTHORIZED=0", // the certificate of the fake Bedrock is its own
	}, env...)
	return cmd
}

// runNode runs such a program to its end.
func runNode(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := nodeCommand(t, env, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// A nodeDenial is what a QuotaDenied has to say; of other errors only the first two.
type nodeDenial struct {
	Name, Message                string
	Bucket, Unit                 string
	Limit, Used, Held, Remaining int64
	ResetTime, RetryTime         time.Time
	UserMessage                  string
}

// A nodeOutcome is what test/scenario.mjs says of a scenario.
type nodeOutcome struct {
	Texts           int // pieces of text that were read from a stream
	Granted, Denied int
	Error           nodeDenial
	Lost            []string
}

// A nodePlayer is test/scenario.mjs, running: one process for many scenarios, as most of what a short one takes is Node's start.
type nodePlayer struct {
	in   io.Writer
	out  *json.Decoder
	said *bytes.Buffer // read it only once the process has ended
}

func newNodePlayer(t *testing.T) *nodePlayer {
	t.Helper()
	cmd := nodeCommand(t, nil, "test/scenario.mjs")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &nodePlayer{in: in, out: json.NewDecoder(out), said: new(bytes.Buffer)}
	cmd.Stderr = p.said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the context of the test has ended by now, and killed it
		_ = cmd.Wait()
		if p.said.Len() > 0 {
			t.Errorf("test/scenario.mjs said:\n%s", p.said)
		}
	})
	return p
}

// A nodeScenario is what test/scenario.mjs is told.
type nodeScenario struct {
	Scenario string `json:"scenario"`
	Bedrock  string `json:"bedrock"`
	Quotad   string `json:"quotad"`
	Bucket   string `json:"bucket"`
	HTTP1    bool   `json:"http1,omitempty"`
	Timeout  int64  `json:"timeout,omitempty"` // of a request, in ms
}

func (p *nodePlayer) play(t *testing.T, s nodeScenario) nodeOutcome {
	t.Helper()
	var o nodeOutcome
	if err := json.NewEncoder(p.in).Encode(s); err != nil {
		t.Fatal(err)
	}
	if err := p.out.Decode(&o); err != nil {
		t.Fatalf("test/scenario.mjs has no answer to %+v: %v", s, err)
	}
	if len(o.Lost) > 0 {
		t.Errorf("settlements were lost: %q", o.Lost)
	}
	return o
}

// nodeCounts are calls, tokens in, tokens out.
type nodeCounts struct{ Calls, Input, Output int64 }

func nodeUsed(q *quotatest.Server, bucket string) nodeCounts {
	return nodeCounts{q.Used(bucket, "calls"), q.Used(bucket, "input_tokens"), q.Used(bucket, "output_tokens")}
}

func nodeBilled(b *bedrocktest.Server) nodeCounts {
	bill := b.Billed()
	return nodeCounts{bill.Calls, bill.Tokens.Input + bill.Tokens.CacheRead + bill.Tokens.CacheWrite, bill.Tokens.Output}
}

// A nodeCase is one guarded call and what becomes of it.
type nodeCase struct {
	name     string
	scenario string // converse if empty
	http1    bool   // rather than HTTP/2, which the SDK uses by itself
	limits   []string
	answers  []bedrocktest.Answer
	bedrock  string // where it is taken to be, if it is not there
	quotad   string // likewise
	timeout  int64  // of a request, in ms

	err   string      // the name of the error; "" for none
	hits  int         // how often Bedrock was asked
	texts int         // pieces of a stream that were read
	used  *nodeCounts // nil: what was billed
}

func nodeCases(t *testing.T) []nodeCase {
	t.Helper()
	type answers = []bedrocktest.Answer
	none := []string{"0 calls/day"}
	held := &nodeCounts{1, 2, 50} // for the prompt of test/scenario.mjs and its bound on the answer
	dead := deadAddress(t)
	guessed := func(bytes int64) *nodeCounts { return &nodeCounts{1, 2, (bytes + 3) / 4} } // of text, at 4 bytes a token
	return []nodeCase{
		{name: "granted", hits: 1},
		{name: "granted-http1", http1: true, hits: 1},
		{name: "cached", answers: answers{{Usage: bedrocktest.Usage{Input: 3, Output: 4, CacheRead: 50, CacheWrite: 60}}}, hits: 1},
		{name: "invoke", scenario: "invoke", hits: 1},
		{name: "invoke-only-headers", scenario: "invoke", answers: answers{{Family: "mistral7b"}}, hits: 1},
		{name: "invoke-no-headers", scenario: "invoke", answers: answers{{NoHeaders: true}}, hits: 1},
		{name: "invoke-no-usage", scenario: "invoke", answers: answers{{NoUsage: true}}, hits: 1, used: held},
		{name: "guardrail", scenario: "guardrail", hits: 1},
		{name: "throttled-twice", answers: answers{{Status: 429}, {Status: 429}, {}}, hits: 3},
		{name: "throttled-for-good", answers: answers{{Status: 429}}, err: "ThrottlingException", hits: 3},
		{name: "failed", answers: answers{{Status: 400}}, err: "ValidationException", hits: 1},
		{name: "garbage", answers: answers{{Garbage: true}}, err: "SyntaxError", hits: 1, used: held},
		{name: "hung-up-then-refused", http1: true, answers: answers{{Hangup: true}, {Status: 400}}, err: "ValidationException", hits: 2, used: held},
		{
			name: "timed-out", answers: answers{{Delay: make(chan struct{})}}, timeout: 100,
			err: "TimeoutError", hits: 3, used: held,
		},
		{name: "never-sent", bedrock: "http://" + dead, err: "Error"},
		{name: "never-sent-http1", http1: true, bedrock: "http://" + dead, err: "Error"},
		{name: "stream", scenario: "stream", hits: 1, texts: 5},
		{name: "stream-http1", scenario: "stream", http1: true, hits: 1, texts: 5},
		{name: "invoke-stream", scenario: "invoke-stream", hits: 1, texts: 5},
		{name: "invoke-stream-nova", scenario: "invoke-stream", answers: answers{{Family: "nova", NoHeaders: true}}, hits: 1},
		{name: "stream-left", scenario: "stream-left", answers: answers{{Pace: block(t, 3)}}, hits: 1, texts: 2, used: guessed(40)},
		{name: "stream-cut", scenario: "stream", answers: answers{{CutAfter: 3}}, err: "Error", hits: 1, texts: 2, used: guessed(40)},
		{
			name: "stream-exception", scenario: "stream", answers: answers{{CutAfter: 3, Exception: "modelStreamErrorException"}},
			err: "ModelStreamErrorException", hits: 1, texts: 2, used: guessed(40),
		},
		// Claude had told its input and one token of output before the text.
		{name: "invoke-stream-cut", scenario: "invoke-stream", answers: answers{{CutAfter: 3}}, err: "Error", hits: 1, texts: 1, used: &nodeCounts{1, 11, 1 + 5}},
		{name: "denied", limits: none, err: "QuotaDenied"},
		{name: "denied-tokens", limits: []string{"49 output_tokens/day"}, err: "QuotaDenied"},
		{name: "denied-stream", scenario: "stream", limits: none, err: "QuotaDenied"},
		{name: "denied-unknown", scenario: "unknown", limits: none, err: "QuotaDenied"},
		{name: "free", scenario: "free", limits: none, hits: 1},
		{name: "quotad-down", quotad: dead, err: "QuotaUnreachable"},
	}
}

// deadAddress is one where nobody listens: its port was free a moment ago.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// block holds a stream back before a frame until the test ends.
func block(t *testing.T, at int) func(int) {
	t.Helper()
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	return func(frame int) {
		if frame == at {
			<-ended
		}
	}
}

func TestNode(t *testing.T) {
	t.Parallel()
	p := newNodePlayer(t)
	for _, c := range nodeCases(t) {
		t.Run(c.name, func(t *testing.T) { c.run(t, p) })
	}
	t.Run("denial", p.denial)
	t.Run("many", p.many)
}

// run makes the call, and compares what Bedrock saw and billed with what quotad counted.
func (c nodeCase) run(t *testing.T, p *nodePlayer) {
	t.Helper()
	start := bedrocktest.NewH2
	if c.http1 {
		start = bedrocktest.New
	}
	b := start(t)
	b.Script(c.answers...)
	q := quotatest.New(t)
	if c.limits == nil {
		c.limits = []string{"100 calls/day", "10000 input_tokens/day", "10000 output_tokens/day"}
	}
	q.Declare("app", c.limits...)
	o := p.play(t, nodeScenario{
		Scenario: cmp.Or(c.scenario, "converse"), Bedrock: cmp.Or(c.bedrock, b.URL()), Quotad: cmp.Or(c.quotad, q.Listen()), Bucket: "app",
		HTTP1: c.http1, Timeout: c.timeout,
	})

	if o.Error.Name != c.err {
		t.Errorf("the error is %+v, want %q", o.Error, c.err)
	}
	if o.Texts != c.texts {
		t.Errorf("%d texts were read, want %d", o.Texts, c.texts)
	}
	if hits := len(b.Requests()); hits != c.hits {
		t.Errorf("Bedrock was asked %d times, want %d", hits, c.hits)
	}
	want := nodeBilled(b)
	if c.used != nil {
		want = *c.used
	}
	if diff := gocmp.Diff(want, nodeUsed(q, "app")); diff != "" {
		t.Errorf("used (-want +got):\n%s", diff)
	}
	if open := q.Open(); open != 0 {
		t.Errorf("%d reservations are open", open)
	}
}

// denial looks at all that a denial says.
func (p *nodePlayer) denial(t *testing.T) {
	q := quotatest.New(t)
	q.Declare("app", "1 calls/day", "1000 input_tokens/month")
	s := nodeScenario{Scenario: "converse", Bedrock: bedrocktest.NewH2(t).URL(), Quotad: q.Listen(), Bucket: "app"}
	if o := p.play(t, s); o.Error.Name != "" {
		t.Fatalf("the first call: %+v", o.Error)
	}
	got := p.play(t, s).Error
	midnight := q.Now().Truncate(24*time.Hour).AddDate(0, 0, 1)
	want := nodeDenial{
		Name: "QuotaDenied", Message: got.Message, Bucket: "app", Unit: "calls", Limit: 1, Used: 1,
		ResetTime: midnight, RetryTime: midnight, UserMessage: "Daily AI limit reached. Try again tomorrow.",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("the denial (-want +got):\n%s", diff)
	}
	if !strings.Contains(got.Message, "app") {
		t.Errorf("the message %q does not name the bucket", got.Message)
	}
}

// many makes 60 calls at once of which 20 may pass.
func (p *nodePlayer) many(t *testing.T) {
	b, q := bedrocktest.NewH2(t), quotatest.New(t)
	q.Declare("app", "20 calls/day")
	o := p.play(t, nodeScenario{Scenario: "many", Bedrock: b.URL(), Quotad: q.Listen(), Bucket: "app"})
	if o.Granted != 20 || o.Denied != 40 || len(b.Requests()) != 20 {
		t.Errorf("%d were granted and %d denied, and Bedrock was asked %d times; want 20, 40, 20", o.Granted, o.Denied, len(b.Requests()))
	}
	if diff := gocmp.Diff(nodeBilled(b), nodeUsed(q, "app")); diff != "" {
		t.Errorf("used, against what was billed (-want +got):\n%s", diff)
	}
}

func TestNodeUnits(t *testing.T) {
	t.Parallel()
	if out, said, code := runNode(t, nil, "--test", "test/guard.test.mjs", "test/quotad.test.mjs"); code != 0 {
		t.Errorf("exit %d\n%s%s", code, out, said)
	}
}

// TestNodeChat does what the README does, with the stand-in for Bedrock that it uses.
func TestNodeChat(t *testing.T) {
	t.Parallel()
	fake := nodeCommand(t, nil, "fake.mjs")
	out, err := fake.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := fake.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = fake.Process.Kill()
		_ = fake.Wait()
	})
	var url string
	if _, err := fmt.Fscanln(out, &url); err != nil {
		t.Fatalf("fake.mjs does not print its address: %v", err)
	}
	noText(t, url)
	q := quotatest.New(t)
	q.Declare("chat", "2 calls/day")
	q.Declare("chat/*", "1 calls/day")
	env := []string{"AWS_ENDPOINT_URL_BEDROCK_RUNTIME=" + url, "QUOTAD_SERVER=" + q.Listen()}

	const answer, denied = "what is a quota \n", "Daily AI limit reached. Try again tomorrow.\n"
	for _, step := range []struct {
		user, out, said string
		code            int
	}{
		{"alice", answer, "", 0},
		{"alice", "", denied, 3},
		{"bob", answer, "", 0},
		{"carol", "", denied, 3}, // of what all share
	} {
		out, said, code := runNode(t, env, "chat.mjs", step.user, "what", "is", "a", "quota")
		if out != step.out || said != step.said || code != step.code {
			t.Errorf("%s: exit %d, %q, %q; want %+v", step.user, code, out, said, step)
		}
	}
	for _, user := range []string{"", "alice/bob", "ålice"} {
		out, said, code := runNode(t, env, "chat.mjs", user, "hello")
		if want := fmt.Sprintf("chat.mjs: %q cannot be a user; want ", user); out != "" || code != 2 || !strings.HasPrefix(said, want) {
			t.Errorf("%q: exit %d, %q, %q; want 2, nothing, %q", user, code, out, said, want)
		}
	}
	if diff := gocmp.Diff(nodeCounts{2, 14, 8}, nodeUsed(q, "chat")); diff != "" {
		t.Errorf("used (-want +got):\n%s", diff)
	}
}

// noText sends the stand-in what is no request for Bedrock. It says so, and goes on.
func noText(t *testing.T, url string) {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	for _, body := range []string{"", "no JSON", "null", `{"messages": []}`} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Client{Transport: transport, Timeout: nodePatience}).Do(request)
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %s, want 400", body, response.Status)
		}
	}
}
