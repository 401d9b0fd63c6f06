package notify_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/notify"
)

func verifyAsDocumented(secret []byte, header http.Header, body []byte) bool {
	id, at := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return hmac.Equal([]byte(want), []byte(header.Get("webhook-signature")))
}

// block returns a block of the page for receivers, by its language.
func block(t *testing.T, language string, n int) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(page), "```"+language+"\n")
	if len(parts) < n+2 {
		t.Fatalf("docs/events.md has no block %d of %s", n, language)
	}
	text, _, _ := strings.Cut(parts[n+1], "```")
	return text
}

// The request that is shown to receivers is one that quotad sends: field by field, and signed with the key that is named.
func TestDocumentedRequest(t *testing.T) {
	t.Parallel()
	head, body, _ := strings.Cut(block(t, "http", 0), "\n\n")
	body = strings.TrimSuffix(body, "\n")
	var p notify.Payload
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(p); err != nil || string(again) != body {
		t.Errorf("%v\n got %s\nwant %s", err, again, body)
	}
	key, err := notify.ParseKey([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	if err != nil {
		t.Fatal(err)
	}
	id, at := fmt.Sprintf("evt_%d_%d", p.Data.ID, p.Time.UnixMilli()), strconv.FormatInt(p.Time.Unix(), 10)
	for name, want := range map[string]string{"id": id, "timestamp": at, "signature": key.Sign(id, at, []byte(body))} {
		if line := "webhook-" + name + ": " + want + "\n"; !strings.Contains(head+"\n", line) {
			t.Errorf("want the line %s", line)
		}
	}
}

// The code that is shown to receivers takes what quotad sends, and nothing that was changed or is old.
func TestDocumentedVerification(t *testing.T) {
	t.Parallel()
	self, err := os.ReadFile("docs_test.go")
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.Replace(block(t, "go", 0), "func verify(", "func verifyAsDocumented(", 1)
	if !strings.Contains(string(self), shown) {
		t.Errorf("the code in Go is not that of this test:\n%s", shown)
	}
	const text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	key, err := notify.ParseKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	now, old := strconv.FormatInt(time.Now().Unix(), 10), strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	type sent struct {
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
		Right   bool              `json:"right"`
	}
	request := func(at, body, signed string, right bool) sent {
		return sent{map[string]string{"webhook-id": "evt_1_2", "webhook-timestamp": at, "webhook-signature": key.Sign("evt_1_2", at, []byte(signed))}, body, right}
	}
	requests := []sent{request(now, "{}", "{}", true), request(now, "{} ", "{}", false), request(old, "{}", "{}", false)}
	for i, r := range requests {
		header := http.Header{}
		for name, value := range r.Headers {
			header.Set(name, value)
		}
		if got := verifyAsDocumented(key, header, []byte(r.Body)); got != r.Right {
			t.Errorf("request %d: %v in Go, want %v", i, got, r.Right)
		}
	}
	python, err := exec.LookPath("python3")
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip("there is no python3 here to try the code in Python with")
	}
	input, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), python, "-c", block(t, "python", 0)+`
import json, sys
print([verify(sys.argv[1], r["headers"], r["body"].encode()) == r["right"] for r in json.load(sys.stdin)])
`, text)
	command.Stdin = strings.NewReader(string(input))
	if out, err := command.CombinedOutput(); err != nil || string(out) != "[True, True, True]\n" {
		t.Errorf("in Python: %v, %s", err, out)
	}
}
