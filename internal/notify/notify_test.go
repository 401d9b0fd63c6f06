package notify_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/metrics"
	"github.com/quotad/quotad/internal/notify"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

const secret = "correct-horse-battery-staple"

// noClose is an engine that outlives its store.
type noClose struct{ store.Engine }

func (noClose) Close() error { return nil }

func open(t *testing.T, e store.Engine) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), noClose{e}, store.Options{Defaults: quota.Defaults{
		Limits:         []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 10}},
		UndeclaredLive: 1000, Thresholds: quota.Thresholds{80, 100},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// take charges so many calls.
func take(t *testing.T, s *store.Store, bucket string, n int64) {
	t.Helper()
	op := quota.Acquire{Bucket: quota.Bucket(bucket), Charges: []quota.Charge{{Amount: n}}}
	if ps := op.Validate(); ps != nil {
		t.Fatal(ps)
	}
	if d, err := s.Apply(t.Context(), op); err != nil || d.Outcome != quota.Done {
		t.Fatal(d, err)
	}
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func logTo(l *lines) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// begin runs a notifier until stop is called.
func begin(t *testing.T, c notify.Config) (stop func()) {
	t.Helper()
	n, err := notify.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

// answering is a receiver inside a bubble, where real sockets cannot be.
type answering func(*http.Request) (*http.Response, error)

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func answer(code int) (*http.Response, error) {
	return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader("")), Header: http.Header{}}, nil
}

// Each event has one line, by its kind, over restarts; what was crossed before anybody listened has none.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, e)
		take(t, s, "before", 10)
		var said lines
		m := metrics.New(metrics.Build{})
		for run := range 3 {
			stop := begin(t, notify.Config{Ledger: s, Log: logTo(&said), Metrics: m})
			take(t, s, fmt.Sprint("warned/", run), 8)
			synctest.Wait()
			stop()
			take(t, s, fmt.Sprint("exhausted/", run), 10) // while nobody is there
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, e)
		}
		stop := begin(t, notify.Config{Ledger: s, Log: logTo(&said), Metrics: m})
		synctest.Wait()
		stop()
		text := said.String()
		if n := strings.Count(text, "\n"); n != 9 || strings.Contains(text, "before") {
			t.Errorf("%d lines, want 9:\n%s", n, text)
		}
		for run := range 3 {
			for _, want := range []string{
				`level=INFO msg="a threshold was crossed" event=%d bucket=warned/%d unit=calls window=day label=2000-01-01 percent=80 used=8 limit=10`,
				`level=WARN msg="a limit is used up" event=%d bucket=exhausted/%d unit=calls window=day label=2000-01-01 percent=100 used=10 limit=10`,
			} {
				id := 3*run + 3
				if strings.Contains(want, "WARN") {
					id += 2
				}
				if line := fmt.Sprintf(want, id, run); strings.Count(text, line) != 1 {
					t.Errorf("want one line %q in\n%s", line, text)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// stubborn is a receiver that fails in one way after the other, until it is told to behave.
type stubborn struct {
	mu    sync.Mutex
	tries []time.Time
	takes bool
	taken map[string]int // by id
}

// RoundTrip is http.RoundTripper's.
func (r *stubborn) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.tries = append(r.tries, time.Now())
	n, takes := len(r.tries), r.takes
	if takes {
		r.taken[req.Header.Get("webhook-id")]++
	}
	r.mu.Unlock()
	switch {
	case takes:
		return answer(http.StatusAccepted)
	case n%3 == 0:
		return nil, errors.New("no route to https://user:canary@example")
	case n%3 == 1: // it never answers
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	return answer(http.StatusInternalServerError)
}

// behave has it take what comes, or not, for so long, and returns how many events it has taken.
func (r *stubborn) behave(is bool, how time.Duration) int {
	r.mu.Lock()
	r.takes = is
	r.mu.Unlock()
	time.Sleep(how)
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.taken)
}

// A receiver that does not take an event is asked again, ever more seldom and in order, until it does or the event has left.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memengine.New())
		var said lines
		hook := &stubborn{taken: make(map[string]int)}
		stop := begin(t, notify.Config{
			Ledger: s, Log: logTo(&said), Webhook: "https://example.invalid/canary", Key: notify.Key(secret), Now: time.Now, HTTP: &http.Client{Transport: hook},
		})
		take(t, s, "a", 10)
		hook.behave(false, 2*time.Hour)
		hook.mu.Lock()
		checkPauses(t, hook.tries)
		hook.mu.Unlock()
		hook.behave(true, 6*time.Minute)
		hook.mu.Lock()
		if len(hook.taken) != 2 {
			t.Errorf("taken %v", hook.taken)
		}
		for id, n := range hook.taken {
			if n != 1 {
				t.Errorf("%s was taken %d times", id, n)
			}
		}
		hook.mu.Unlock()
		take(t, s, "b", 8)
		if n := hook.behave(true, time.Millisecond); n != 3 {
			t.Errorf("a new event after the trouble waits: %d taken", n)
		}
		hook.behave(false, 0)
		take(t, s, "c", 10)
		hook.behave(false, 9*24*time.Hour) // until it has left
		hook.behave(true, 0)
		take(t, s, "d", 8)
		if n := hook.behave(true, 6*time.Minute); n != 4 || !strings.Contains(said.String(), "consumer=webhook events=2 up_to=5") {
			t.Errorf("after a loss: %d taken\n%s", n, said.String())
		}
		stop()
		if strings.Contains(said.String(), "canary") || strings.Contains(said.String(), secret) {
			t.Errorf("the log tells a secret:\n%s", said.String())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// checkPauses holds the tries of two hours against what is promised of the pauses between them. Each third one waited in vain.
func checkPauses(t *testing.T, tries []time.Time) {
	t.Helper()
	for i := range tries[:len(tries)-1] {
		pause := min(time.Second<<min(i, 10), 5*time.Minute)
		least, most := pause/2, pause
		if i%3 == 0 {
			least, most = least+10*time.Second, most+10*time.Second
		}
		if got := tries[i+1].Sub(tries[i]); got < least || got > most {
			t.Errorf("try %d came %v after the one before, want %v to %v", i+2, got, least, most)
		}
	}
	if n := len(tries); n < 28 || n > 60 {
		t.Errorf("%d tries in two hours", n)
	}
}

// verify checks a request as a receiver does, apart from the code that signs.
func verify(r *http.Request, body []byte, key string) error {
	id, at := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want {
		return fmt.Errorf("signature %q, want %q", r.Header.Get("webhook-signature"), want)
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > time.Minute {
		return fmt.Errorf("timestamp %q, %w", at, err)
	}
	return nil
}

// What is sent over a real connection is what was crossed, signed; a redirect is not followed, and a large answer is not read.
func TestWebhook(t *testing.T) {
	t.Parallel()
	s := open(t, memengine.New())
	type request struct {
		head http.Header
		body []byte
		err  error
	}
	got := make(chan request, 10)
	var calls atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") })
	mux.HandleFunc("POST /hook", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if calls.Add(1) == 1 {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return
		}
		got <- request{r.Header, body, errors.Join(err, verify(r, body, secret))}
		w.WriteHeader(http.StatusNoContent)
	})
	receiver := httptest.NewTLSServer(mux)
	defer receiver.Close()
	stop := begin(t, notify.Config{Ledger: s, Webhook: receiver.URL + "/hook", Key: notify.Key(secret), Now: time.Now, HTTP: receiver.Client()})
	take(t, s, "acme/bedrock", 9)
	r := <-got
	if r.err != nil || r.head.Get("Content-Type") != "application/json" {
		t.Errorf("%v, %v", r.err, r.head)
	}
	e, err := s.Events(t.Context(), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	w := e[0].Balance.Window
	day := fmt.Sprintf(`{"type":"threshold.warning","timestamp":%q,"data":{"id":1,"bucket":"acme/bedrock","unit":"calls","window":"day","label":%q,`+
		`"start":%q,"end":%q,"percent":80,"limit":10,"used":9,"held":0,"overridden":false}}`,
		e[0].Time.Format(time.RFC3339Nano), w.Label, w.Start.Format(time.RFC3339), w.End.Format(time.RFC3339))
	if string(r.body) != day {
		t.Errorf("got  %s\nwant %s", r.body, day)
	}
	if want := fmt.Sprintf("evt_1_%d", e[0].Time.UnixMilli()); r.head.Get("webhook-id") != want {
		t.Errorf("id %q, want %q", r.head.Get("webhook-id"), want)
	}
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A receiver whose certificate nobody has signed gets nothing.
func TestCertificateIsVerified(t *testing.T) {
	t.Parallel()
	s := open(t, memengine.New())
	var said lines
	receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was sent") }))
	receiver.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	receiver.StartTLS()
	defer receiver.Close()
	stop := begin(t, notify.Config{Ledger: s, Log: logTo(&said), Webhook: receiver.URL, Key: notify.Key(secret), Now: time.Now})
	take(t, s, "a", 8)
	until(t, func() bool { return strings.Contains(said.String(), "certificate") })
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about")
		}
	}
}

// dying is a ledger whose process ends at the n-th step of its notifier.
type dying struct {
	*store.Store
	die context.CancelFunc

	mu    sync.Mutex
	steps int
}

func (d *dying) step() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.steps--; d.steps <= 0 {
		d.die()
		return context.Canceled
	}
	return nil
}

func (d *dying) AdvanceEvents(ctx context.Context, consumer string, id int64) error {
	if err := d.step(); err != nil {
		return err
	}
	if err := d.Store.AdvanceEvents(ctx, consumer, id); err != nil {
		return err
	}
	return d.step()
}

// eager is a ledger that takes an event for told once it was handed out, whatever became of it: the control.
type eager struct{ notify.Ledger }

func (l eager) Events(ctx context.Context, after int64, most int) ([]quota.Event, error) {
	events, err := l.Ledger.Events(ctx, after, most)
	for _, consumer := range []string{store.ConsumerLog, store.ConsumerWebhook} {
		if err == nil && len(events) > 0 {
			err = l.AdvanceEvents(ctx, consumer, events[len(events)-1].ID)
		}
	}
	return events, err
}

// Wherever the process ends, the receiver has every event at least once in the end, the first time in order.
func TestAtLeastOnce(t *testing.T) {
	t.Parallel()
	for seed := range uint64(25) {
		if err := interrupted(t, seed, false); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
	caught := false
	for seed := range uint64(20) {
		caught = caught || interrupted(t, seed, true) != nil
	}
	if !caught {
		t.Error("control: a cursor that is advanced before the receiver has answered was not noticed")
	}
}

func interrupted(t *testing.T, seed uint64, broken bool) (err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		rng, moods := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1)) // the test's, and the receiver's
		m := metrics.New(metrics.Build{})
		e := memengine.New()
		var order []int64
		seen := make(map[int64]bool)
		var d *dying
		hook := answering(func(r *http.Request) (*http.Response, error) {
			if moods.IntN(3) == 0 {
				return answer(http.StatusServiceUnavailable)
			}
			var p notify.Payload
			if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
				return nil, err
			}
			if id := p.Data.ID; !seen[id] {
				seen[id] = true
				order = append(order, id)
			}
			if err := d.step(); err != nil { // it took it, and the answer was lost with the process
				return nil, err
			}
			return answer(http.StatusOK)
		})
		for run := range 12 {
			s := open(t, e)
			ctx, cancel := context.WithCancel(t.Context())
			d = &dying{Store: s, steps: 1 + rng.IntN(12), die: cancel}
			if run == 0 || run == 11 {
				d.steps = 1_000
			}
			c := notify.Config{Ledger: d, Webhook: "https://example.invalid", Key: notify.Key(secret), Now: time.Now, HTTP: &http.Client{Transport: hook}, Metrics: m}
			if broken {
				c.Ledger = eager{d}
			}
			n, fault := notify.New(c)
			if fault != nil {
				t.Fatal(fault)
			}
			if fault := n.Begin(ctx); fault != nil {
				t.Fatal(fault)
			}
			go n.Run(ctx)
			if run < 11 {
				take(t, s, fmt.Sprint("b", run), int64(8+2*rng.IntN(2)))
			}
			time.Sleep(20 * time.Minute)
			cancel()
			synctest.Wait()
			if fault := s.Close(); fault != nil {
				t.Fatal(fault)
			}
			if run < 11 {
				continue
			}
			if int64(len(order)) != s.LastEvent() {
				err = fmt.Errorf("%d of %d events were delivered", len(order), s.LastEvent())
			}
			for i, id := range order {
				if id != int64(i+1) && err == nil {
					err = fmt.Errorf("event %d came as number %d", id, i+1)
				}
			}
		}
	})
	return err
}

// A key is read from either form, refused without a word of it, and shown to nobody.
func TestKey(t *testing.T) {
	t.Parallel()
	raw := []byte("\x00\x01\n-any-bytes-at-all-may-be-a-key")
	encoded := "whsec_" + base64.StdEncoding.EncodeToString(raw)
	for content, want := range map[string]string{
		encoded: string(raw), encoded + "\n": string(raw), secret: secret, secret + "\r\n": secret,
		"": "!", "short": "!", "whsec_": "!", "whsec_canary!": "!", "whsec_" + base64.StdEncoding.EncodeToString([]byte("canary")): "!",
		"canary is no key as it has spaces": "!", "canary-with-a-\x00-in-it-is-no-text": "!", strings.Repeat("canary", 200): "!",
	} {
		key, err := notify.ParseKey([]byte(content))
		if want == "!" {
			if err == nil || strings.Contains(err.Error(), "canary") {
				t.Errorf("%q: %v", content, err)
			}
			continue
		}
		if err != nil || !bytes.Equal(key, []byte(want)) {
			t.Errorf("%q: %v", content, err)
		}
	}
	key := notify.Key(secret)
	var said lines
	logTo(&said).Info("x", "key", key, "config", notify.Config{Key: key})
	inJSON, err := json.Marshal(struct{ Key notify.Key }{key})
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%s %v %+v %#v %x %q %d %v %+v %#v", key, key, key, key, key, key, key, struct{ K notify.Key }{key}, notify.Config{Key: key}, &notify.Config{Key: key}) +
		said.String() + string(inJSON)
	hexed := fmt.Sprintf("%x", []byte(secret))
	for _, form := range []string{secret, hexed, base64.StdEncoding.EncodeToString([]byte(secret)), "99 111 114"} {
		if strings.Contains(shown, form) {
			t.Errorf("the key is shown as %s: %s", form, shown)
		}
	}
}

// The signature is that of the example in the specification of Standard Webhooks.
func TestSignature(t *testing.T) {
	t.Parallel()
	key, err := notify.ParseKey([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := key.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, c := range []notify.Config{
		{Webhook: "https://example.org/canary", Key: notify.Key("canary")},
		{Webhook: "https://example.org/canary"},
		{Webhook: "https://[canary", Key: notify.Key(secret)},
	} {
		if _, err := notify.New(c); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%+v", err)
		}
	}
}
