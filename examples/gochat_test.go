package examples_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// TestGoChat runs examples/go-chat: it answers, charges its user, cuts an answer where the user's budget ends, and sends nothing after.
func TestGoChat(t *testing.T) {
	t.Parallel()
	chat := filepath.Join(t.TempDir(), "go-chat")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", chat, "./go-chat")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	quota, aws := quotatest.New(t), bedrocktest.New(t)
	quota.Declare("chat", "1000 calls/day")
	quota.DeclareBucket(&quotadv1.Bucket{Name: "chat/*", Limits: []*quotadv1.Limit{{Max: 50}, {Unit: "output_tokens", Max: 350}}})
	// The last of a frame's tokens are counted from the text; what the first answer used is 30.
	aws.Script(bedrocktest.Answer{Frames: 6, Usage: bedrocktest.Usage{Input: 10, Output: 30}},
		bedrocktest.Answer{Frames: 400, Usage: bedrocktest.Usage{Input: 10, Output: 2000}})
	command := func(ctx context.Context, user string) *exec.Cmd {
		c := exec.CommandContext(ctx, chat, "--user", user, "--server", quota.Listen())
		c.Env = append(os.Environ(), "AWS_ENDPOINT_URL_BEDROCK_RUNTIME="+aws.URL(), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=y",
			"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull)
		return c
	}
	say := func(user, lines string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c := command(ctx, user)
		c.Stdin = strings.NewReader(lines)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Run(); err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
		return out.String()
	}
	const told = "[Daily AI limit reached. Try again tomorrow.]"
	if out := say("alice", "hello\n"); strings.Contains(out, told) || len(out) < 100 {
		t.Errorf("the first line was answered with %q", out)
	}
	if n := quota.Used("chat/alice", "output_tokens"); n != 30 {
		t.Errorf("the first answer was charged %d output tokens, want 30", n)
	}
	if out := say("alice", "tell me a long story\n"); !strings.Contains(out, told) {
		t.Errorf("a story of 2000 tokens was not cut: %q", out)
	}
	if n := quota.Used("chat/alice", "output_tokens"); n < 290 || n > 355 {
		t.Errorf("after the cut %d output tokens are counted", n)
	}
	if n := quota.Used("chat", "calls"); n != 2 || quota.Open() != 0 {
		t.Errorf("%d calls are counted, %d reservations are open", n, quota.Open())
	}
	quota.DeclareBucket(&quotadv1.Bucket{Name: "chat/bob", Limits: []*quotadv1.Limit{{Max: 0}}})
	before := len(aws.Requests())
	if out := say("bob", "hello\nhello again\n"); strings.Count(out, "[This request is more than the AI limit allows.]") != 2 {
		t.Errorf("a user without a budget was told %q", out)
	}
	if n := len(aws.Requests()) - before; n != 0 {
		t.Errorf("%d requests were sent without quota", n)
	}
	interrupted(t, command)
}

// interrupted has an interrupt end the chat while it waits for a line.
func interrupted(t *testing.T, command func(context.Context, string) *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := command(ctx, "carol")
	typed, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	printed, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(typed, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := printed.Read(make([]byte, 1)); err != nil { // it is up, and has begun to answer
		t.Fatal(err)
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, printed)
	if err := c.Wait(); err != nil {
		t.Errorf("after an interrupt it ended with %v", err)
	}
	_ = typed.Close()
}
