package examples_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// The views of the example, and what they answer when they refuse: word for word what the app answered before it had quotad.
const (
	djangoImages  = "/generate-ai-image/"
	djangoPredict = "/predict-aws/"

	djangoImagesDenied  = `429 {"error": "Daily AI limit reached. Try again tomorrow."}`
	djangoPredictDenied = `429 {"error": "Bedrock limit reached"}`
	djangoPredicted     = `200 {"prediction": "`
	djangoDrawn         = `200 {"url": "data:image/png;base64,`
	djangoFailed        = `502 {"error": "The AI service did not answer. Try again."}`
	djangoClosed        = `503 {"error": "AI is not available now. Try again later."}`
)

// djangoPatience is how long anything may take that should take no time.
const djangoPatience = 30 * time.Second

// djangoPython finds a Python that has all that the example needs, or says what was tried.
var djangoPython = sync.OnceValues(func() (string, error) {
	var tried error
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		out, err := exec.Command(python, "-c", "import django, grpc, boto3, gunicorn").CombinedOutput()
		if err == nil {
			return python, nil
		}
		tried = errors.Join(tried, fmt.Errorf("%s: %w %s", python, err, bytes.TrimSpace(out)))
	}
	return "", tried
})

// djangoCommand is a command in the folder of the example, in an environment without anything that is not the test's own. Without a
// Python for it the test is skipped, but not in CI.
func djangoCommand(t *testing.T, quotad, bedrock string, more []string, args ...string) *exec.Cmd {
	t.Helper()
	python, err := djangoPython()
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatalf("examples/setup was to install what examples/django needs: %v", err)
	case err != nil:
		t.Skipf("examples/setup installs what is missing for examples/django: %v", err)
	}
	home := t.TempDir()
	cmd := exec.Command(python, args...)
	cmd.Dir = "django"
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "PYTHONDONTWRITEBYTECODE=1", "AWS_EC2_METADATA_DISABLED=true",
		"QUOTAD_SERVER=" + quotad, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME=" + bedrock, "AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY=nothing",
	}, more...)
	return cmd
}

// A djangoSite is the example as gunicorn serves it.
type djangoSite struct {
	url    string
	client *http.Client
}

// djangoConfig is gunicorn's. A machine that is busy with other tests gets more time than a user would have, and boto3 waits a moment
// between its attempts rather than seconds.
const djangoConfig = `
def post_worker_init(worker):
    from botocore.retries import standard
    standard.ExponentialBackoff.delay_amount = lambda *_: 0.01
    from portfolio import quotad
    quotad.DEADLINE = 10
`

// serveDjango starts gunicorn with some of its own arguments, and ends it and all its workers with the test. Requests may be sent
// at once: they wait in the queue of the listener until a worker is there.
func serveDjango(t *testing.T, quotad, bedrock string, env []string, args ...string) *djangoSite {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

	folder := t.TempDir()
	said, err := os.Create(filepath.Join(folder, "gunicorn.log"))
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(folder, "gunicorn.conf.py")
	if err := os.WriteFile(config, []byte(djangoConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-m", "gunicorn", "--config", config, "--bind", "fd://3", "--graceful-timeout", "1"}, args...)
	cmd := djangoCommand(t, quotad, bedrock, env, args...)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	site := &djangoSite{url: "http://" + listener.Addr().String(), client: &http.Client{
		Timeout: djangoPatience, Transport: &http.Transport{DisableKeepAlives: true}, // gunicorn closes idle ones when it likes
	}}
	t.Cleanup(func() {
		endGroup(t, cmd)
		text, err := os.ReadFile(said.Name())
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("gunicorn said:\n%s", text)
		}
		if err := said.Close(); err != nil {
			t.Error(err)
		}
	})
	return site
}

// endGroup ends a command and what it has started: in order, and if it takes too long, by force.
func endGroup(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	group := -cmd.Process.Pid
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ends is not what is tested
		close(ended)
	}()
	if err := syscall.Kill(group, syscall.SIGTERM); err != nil {
		t.Errorf("ending gunicorn: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(djangoPatience):
		t.Error("gunicorn does not end")
	}
	_ = syscall.Kill(group, syscall.SIGKILL) // workers that their master has left behind; mostly there is nobody
	<-ended
}

// post sends a prompt and returns the status and the body, such as `429 {"error": "..."}`.
func (s *djangoSite) post(t *testing.T, view string) string {
	t.Helper()
	response, err := s.client.PostForm(s.url+view, url.Values{"prompt": {"a lighthouse"}})
	if err != nil {
		t.Errorf("%s: %v", view, err)
		return err.Error()
	}
	return djangoAnswer(t, response)
}

func djangoAnswer(t *testing.T, response *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	if err := response.Body.Close(); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%d %s", response.StatusCode, body)
}

// crowd sends all at once, and counts how often each answer came. Of an answer that was granted only the beginning counts.
func (s *djangoSite) crowd(t *testing.T, views ...string) map[string]int {
	t.Helper()
	answers := make([]string, len(views))
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i, view := range views {
		all.Go(func() {
			<-begin
			answers[i] = s.post(t, view)
		})
	}
	close(begin)
	all.Wait()
	counts := make(map[string]int)
	for _, answer := range answers {
		for _, start := range []string{djangoPredicted, djangoDrawn} {
			if strings.HasPrefix(answer, start) {
				answer = start
			}
		}
		counts[answer]++
	}
	return counts
}

// djangoQuotad runs a quotad whose clock stands at an instant, with what the example's buckets file declares.
func djangoQuotad(t *testing.T, now time.Time) *quotatest.Server {
	t.Helper()
	text, err := os.ReadFile("django/buckets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Buckets map[string]struct {
			Zone   string
			Limits []string
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(maps.Keys(file.Buckets)); !slices.Equal(got, []string{"portfolio"}) {
		t.Fatalf("buckets.yaml declares %q, want portfolio alone", got)
	}
	settings, err := os.ReadFile("django/website/settings.py")
	if err != nil {
		t.Fatal(err)
	}
	bucket := file.Buckets["portfolio"]
	if zone := regexp.MustCompile(`(?m)^TIME_ZONE = "(.+)"`).FindSubmatch(settings); zone == nil || string(zone[1]) != bucket.Zone {
		t.Fatalf("the bucket's zone is %s, and the project's %q", bucket.Zone, zone)
	}
	q := quotatest.New(t, quotatest.Start(now))
	q.DeclareIn("portfolio", bucket.Zone, bucket.Limits...)
	return q
}

// wantUsed compares quotad's counts of the day with what the fake has billed.
func wantUsed(t *testing.T, q *quotatest.Server, calls int64, used bedrocktest.Usage) {
	t.Helper()
	got := []int64{q.Used("portfolio", "calls"), q.Used("portfolio", "input_tokens"), q.Used("portfolio", "output_tokens")}
	if want := []int64{calls, used.Input, used.Output}; !slices.Equal(got, want) {
		t.Errorf("used calls, input_tokens, output_tokens: %d, want %d", got, want)
	}
}

// TestDjango has hundreds of requests at once go through several workers, over three days of the project's zone.
func TestDjango(t *testing.T) {
	t.Parallel()
	bedrock := bedrocktest.New(t)
	bedrock.ScriptFor(bedrocktest.InvokeModel, bedrocktest.Answer{Family: "image"})
	evening := time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC) // 17:30 in Chicago
	q := djangoQuotad(t, evening)
	site := serveDjango(t, q.Listen(), bedrock.URL(), nil, "--preload", "--workers", "4", "--threads", "8", "website.wsgi")
	images, predictions := slices.Repeat([]string{djangoImages}, 300), slices.Repeat([]string{djangoPredict}, 200)
	today := func(before bedrocktest.Bill) (int64, bedrocktest.Usage) {
		bill := bedrock.Billed()
		return bill.Calls - before.Calls, bedrocktest.Usage{Input: bill.Tokens.Input - before.Tokens.Input, Output: bill.Tokens.Output - before.Tokens.Output}
	}
	step := func(name string, views []string, want map[string]int) {
		t.Helper()
		if diff := cmp.Diff(want, site.crowd(t, views...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}

	step("the first day, images", images, map[string]int{djangoDrawn: 50, djangoImagesDenied: 250})
	step("the first day, predictions", predictions[:9], map[string]int{djangoPredictDenied: 9})
	calls, used := today(bedrocktest.Bill{})
	wantUsed(t, q, 50, used)
	if calls != 50 {
		t.Errorf("the first day has cost %d calls, want 50", calls)
	}
	q.Set(time.Date(2026, 11, 23, 0, 30, 0, 0, time.UTC))
	step("past UTC's midnight", slices.Concat(images[:9], predictions[:9]), map[string]int{djangoImagesDenied: 9, djangoPredictDenied: 9})
	q.Set(time.Date(2026, 11, 23, 5, 59, 59, 0, time.UTC))
	step("a second before midnight", slices.Concat(images[:9], predictions[:9]), map[string]int{djangoImagesDenied: 9, djangoPredictDenied: 9})

	before := bedrock.Billed()
	q.Set(time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC))
	step("the second day, predictions", predictions, map[string]int{djangoPredicted: 10, djangoPredictDenied: 190})
	step("the second day, images", images[:100], map[string]int{djangoDrawn: 40, djangoImagesDenied: 60})
	calls, used = today(before)
	wantUsed(t, q, 50, used)
	if calls != 50 {
		t.Errorf("the second day has cost %d calls, want 50", calls)
	}

	before = bedrock.Billed()
	q.Set(time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC))
	var mixed []string
	for i := range 100 {
		mixed = append(mixed, images[i], predictions[i])
	}
	got := site.crowd(t, mixed...)
	if got[djangoDrawn]+got[djangoPredicted] != 50 || got[djangoPredicted] > 10 || got[djangoImagesDenied]+got[djangoPredictDenied] != 150 {
		t.Errorf("the third day, mixed: %v; want 50 granted in all, of them at most 10 predictions, and all others denied", got)
	}
	calls, used = today(before)
	wantUsed(t, q, 50, used)
	if calls != 50 {
		t.Errorf("the third day has cost %d calls, want 50", calls)
	}
}

// TestDjangoControl sends the same crowd to the app as it was before: count < limit, call, count + 1. It lets too many through,
// so that a guard with a fault would be seen.
func TestDjangoControl(t *testing.T) {
	t.Parallel()
	const app = `
import sqlite3, urllib.request, os
COUNTS = os.environ["HOME"] + "/counts"
with sqlite3.connect(COUNTS) as db:
    db.execute("CREATE TABLE usage (count)")
    db.execute("INSERT INTO usage VALUES (0)")
def application(environ, start_response):
    db = sqlite3.connect(COUNTS, timeout=20)
    try:
        if db.execute("SELECT count FROM usage").fetchone()[0] >= 50:
            start_response("429 Too Many Requests", [("Content-Type", "application/json")])
            return [b'{"error": "Daily AI limit reached. Try again tomorrow."}']
        urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] + "/model/m/invoke", data=b"{}").read()
        with db:
            db.execute("UPDATE usage SET count = count + 1")
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b'{"url": "data:image/png;base64,"}']
    finally:
        db.close()
`
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "before.py"), []byte(app), 0o600); err != nil {
		t.Fatal(err)
	}
	bedrock := bedrocktest.New(t)
	site := serveDjango(t, "", bedrock.URL(), nil, "--preload", "--workers", "4", "--threads", "8", "--pythonpath", folder, "before")
	got := site.crowd(t, slices.Repeat([]string{djangoImages}, 300)...)
	if granted := got[djangoDrawn]; granted <= 50 || int64(granted) != bedrock.Billed().Calls {
		t.Errorf("%v, and %d calls billed; want more than 50 granted, or the crowd proves nothing", got, bedrock.Billed().Calls)
	}
}

// A djangoRig is the example with a quotad and a Bedrock of its own.
type djangoRig struct {
	*djangoSite

	q       *quotatest.Server
	bedrock *bedrocktest.Server
}

func newDjangoRig(t *testing.T) *djangoRig {
	t.Helper()
	rig := &djangoRig{q: djangoQuotad(t, time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)), bedrock: bedrocktest.New(t)}
	rig.djangoSite = serveDjango(t, rig.q.Listen(), rig.bedrock.URL(), []string{"BEDROCK_READ_TIMEOUT=0.8"}, "--workers", "2", "--threads", "4", "website.wsgi")
	return rig
}

// spends runs what sends requests to the site, and says what it was to cost: so many requests to Bedrock, and calls of the day.
func (r *djangoRig) spends(t *testing.T, requests int, calls int64, send func()) {
	t.Helper()
	sent, used := len(r.bedrock.Requests()), r.q.Used("portfolio", "calls")
	send()
	sent, used = len(r.bedrock.Requests())-sent, r.q.Used("portfolio", "calls")-used
	if held := r.q.Held("portfolio", "calls"); sent != requests || used != calls || held != 0 {
		t.Errorf("Bedrock got %d requests, %d calls were used, and %d are held; want %d, %d and none", sent, used, held, requests, calls)
	}
}

// TestDjangoFailures breaks Bedrock in every way that boto3 tells apart. A call that failed costs nothing, and one of which nobody
// knows costs what was held. What is sent again is still one call. Then what users
// send is broken, and quotad.
func TestDjangoFailures(t *testing.T) {
	t.Parallel()
	rig := newDjangoRig(t)
	const wrong, failed = "500 ", djangoFailed
	refused, never := bedrocktest.Answer{Status: http.StatusBadRequest}, bedrocktest.Answer{Delay: make(chan struct{})}
	for _, c := range []struct {
		name     string
		script   []bedrocktest.Answer
		want     [2]string // how the answers of the two views begin
		requests int       // of each
		cost     int64     // of each, in calls
	}{
		{"fine", []bedrocktest.Answer{{Family: "image"}}, [2]string{djangoDrawn, djangoPredicted}, 1, 1},
		{"throttled twice", []bedrocktest.Answer{{Status: 429}, {Status: 429}, {Family: "image"}}, [2]string{djangoDrawn, djangoPredicted}, 3, 1},
		{"throttled", []bedrocktest.Answer{{Status: 429}}, [2]string{failed, failed}, 3, 0},
		{"out of order", []bedrocktest.Answer{{Status: 500}}, [2]string{failed, failed}, 3, 0},
		{"refused", []bedrocktest.Answer{refused}, [2]string{failed, failed}, 1, 0},
		{"timed out", []bedrocktest.Answer{never}, [2]string{failed, failed}, 3, 1},
		{"timed out, then refused", []bedrocktest.Answer{never, refused}, [2]string{failed, failed}, 2, 1},
		{"hung up", []bedrocktest.Answer{{Hangup: true}}, [2]string{failed, failed}, 3, 1},
		{"garbage", []bedrocktest.Answer{{Garbage: true}}, [2]string{wrong, wrong}, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig.bedrock.ScriptFor(bedrocktest.InvokeModel, c.script...)
			rig.bedrock.ScriptFor(bedrocktest.Converse, c.script...)
			rig.q.Advance(24 * time.Hour)
			rig.spends(t, 2*c.requests, 2*c.cost, func() {
				var both sync.WaitGroup
				for i, view := range []string{djangoImages, djangoPredict} {
					both.Go(func() {
						if got := rig.post(t, view); !strings.HasPrefix(got, c.want[i]) {
							t.Errorf("answered %s, want %s", got, c.want[i])
						}
					})
				}
				both.Wait()
			})
		})
	}
	rig.bedrock.ScriptFor(bedrocktest.InvokeModel, bedrocktest.Answer{Family: "image"})
	rig.bedrock.ScriptFor(bedrocktest.Converse)
	t.Run("no prompt", rig.noPrompt)
	t.Run("without quotad", rig.withoutQuotad)
}

// withoutQuotad takes quotad away: no call is made, until it is back.
func (r *djangoRig) withoutQuotad(t *testing.T) {
	sent := len(r.bedrock.Requests())
	r.q.Stop()
	if diff := cmp.Diff(map[string]int{djangoClosed: 16}, r.crowd(t, slices.Repeat([]string{djangoImages, djangoPredict}, 8)...)); diff != "" {
		t.Errorf("without quotad (-want +got):\n%s", diff)
	}
	if n := len(r.bedrock.Requests()) - sent; n != 0 {
		t.Errorf("Bedrock got %d requests without quotad", n)
	}
	r.q.Restart()
	r.spends(t, 1, 1, func() {
		back := time.Now()
		for r.post(t, djangoImages) == djangoClosed { // a channel connects anew within a second
			if time.Since(back) > djangoPatience {
				t.Fatal("quotad is back, and the app does not see it")
			}
		}
	})
}

// noPrompt sends what is no prompt. It costs nothing.
func (r *djangoRig) noPrompt(t *testing.T) {
	const form, text = "application/x-www-form-urlencoded", "application/json"
	for _, c := range []struct{ method, kind, body, want string }{
		{"GET", form, "", "405 "},
		{"POST", form, "prompt=", `400 {"error": "prompt: `},
		{"POST", form, "other=1", `400 {"error": "prompt: `},
		{"POST", form, "prompt=" + strings.Repeat("x", 4001), `400 {"error": "prompt: `},
		{"POST", text, `{"prompt": 1}`, `400 {"error": "prompt: `},
		{"POST", text, `["prompt"]`, `400 {"error": "prompt: `},
		{"POST", text, `{`, `400 {"error": "prompt: `},
		{"POST", text, strings.Repeat("[", 100_000), `400 {"error": "prompt: `},
		{"POST", text, "\xff", `400 {"error": "prompt: `},
		{"POST", text, `{"prompt": "a lighthouse"}`, djangoDrawn},
	} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, r.url+djangoImages, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", c.kind)
		granted := 0
		if c.want == djangoDrawn {
			granted = 1
		}
		r.spends(t, granted, int64(granted), func() {
			response, err := r.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			if got := djangoAnswer(t, response); !strings.HasPrefix(got, c.want) {
				t.Errorf("%s %.40q: %s, want %s", c.method, c.body, got, c.want)
			}
		})
	}
}

// TestDjangoUnits runs the example's own tests.
func TestDjangoUnits(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t, quotatest.Default("50 calls/day"))
	out, err := djangoCommand(t, q.Listen(), "", nil, "manage.py", "test").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("\nOK")) {
		t.Errorf("manage.py test: %v\n%s", err, out)
	}
}

// TestDjangoStubs compares what the Python stubs were made of with what the Go ones were: buf makes both.
func TestDjangoStubs(t *testing.T) {
	t.Parallel()
	const program = `
from quotad.rpc import status_pb2
from quotad.v1 import quota_pb2, types_pb2
for module in quota_pb2, types_pb2, status_pb2:
    print(module.DESCRIPTOR.serialized_pb.hex())
`
	out, err := djangoCommand(t, "", "", nil, "-c", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []*descriptorpb.FileDescriptorProto
	for line := range strings.Lines(string(out)) {
		text, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		file := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(text, file); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	for i, ours := range []protoreflect.FileDescriptor{quotadv1.File_quotad_v1_quota_proto, quotadv1.File_quotad_v1_types_proto} {
		want := protodesc.ToFileDescriptorProto(ours)
		if diff := cmp.Diff(want, files[i], protocmp.Transform(), protocmp.IgnoreFields(&descriptorpb.FieldDescriptorProto{}, "json_name")); diff != "" {
			t.Errorf("the stubs of %s are not what proto/ says; run buf generate in examples/django (-want +got):\n%s", ours.Path(), diff)
		}
	}

	// quotad/rpc has some of Google's messages under another name: on the wire they are the same.
	google := map[string]protoreflect.MessageDescriptor{
		"Status": (&spb.Status{}).ProtoReflect().Descriptor(), "ErrorInfo": (&errdetails.ErrorInfo{}).ProtoReflect().Descriptor(),
		"RetryInfo": (&errdetails.RetryInfo{}).ProtoReflect().Descriptor(),
	}
	messages := files[2].GetMessageType()
	if len(messages) != len(google) {
		t.Errorf("quotad.rpc has %d messages, want %d", len(messages), len(google))
	}
	for _, message := range messages {
		for _, field := range message.GetField() {
			got := fmt.Sprint(field.GetNumber(), field.GetLabel(), field.GetType())
			want := "none"
			if f := google[message.GetName()].Fields().ByName(protoreflect.Name(field.GetName())); f != nil {
				p := protodesc.ToFieldDescriptorProto(f)
				want = fmt.Sprint(p.GetNumber(), p.GetLabel(), p.GetType())
			}
			if got != want {
				t.Errorf("%s.%s is %s, and Google's is %s", message.GetName(), field.GetName(), got, want)
			}
		}
	}
}
