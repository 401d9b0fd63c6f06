package systemtest_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

const hookKey = "a-key-for-the-tests-of-events"

// crossing is a threshold of a bucket.
type crossing struct {
	bucket  string
	percent int
}

// receiver is a webhook's other end. It refuses, is silent and hangs up, until it is told to behave.
type receiver struct {
	*httptest.Server
	behaves atomic.Bool

	mu    sync.Mutex
	rng   *rand.Rand
	ids   map[crossing]map[string]bool // of what it took
	tries int
	fault error
}

func newReceiver(t *testing.T, rng *rand.Rand) *receiver {
	t.Helper()
	r := &receiver{rng: rng, ids: make(map[crossing]map[string]bool)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// ServeHTTP is http.Handler's.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the daemon was killed while it sent
	}
	r.mu.Lock()
	r.tries++
	mood := r.rng.IntN(16)
	r.mu.Unlock()
	if r.behaves.Load() {
		mood = 15
	}
	switch mood {
	case 0:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case 1:
		panic(http.ErrAbortHandler) // it hangs up
	case 2: // it is silent, as long as anybody waits: ten seconds
		if !long() {
			w.WriteHeader(http.StatusFound)
			return
		}
		<-req.Context().Done()
		panic(http.ErrAbortHandler)
	case 3: // it takes it, and the answer is lost
		r.take(req.Header, body)
		panic(http.ErrAbortHandler)
	}
	r.take(req.Header, body)
	w.WriteHeader(http.StatusNoContent)
}

// take checks a request and notes what it tells of.
func (r *receiver) take(head http.Header, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := head.Get("webhook-id")
	mac := hmac.New(sha256.New, []byte(hookKey))
	fmt.Fprintf(mac, "%s.%s.%s", id, head.Get("webhook-timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); head.Get("webhook-signature") != want {
		r.fault = fmt.Errorf("%s: the signature is %q, want %q", id, head.Get("webhook-signature"), want)
	}
	var p struct {
		Data struct {
			Bucket  string
			Percent int
		}
	}
	if err := json.Unmarshal(body, &p); err != nil {
		r.fault = fmt.Errorf("%w: %s", err, body)
	}
	c := crossing{p.Data.Bucket, p.Data.Percent}
	if r.ids[c] == nil {
		r.ids[c] = make(map[string]bool)
	}
	r.ids[c][id] = true
}

// missing compares what was taken with what was crossed, of which nobody asked the daemon's events.
func missing(taken map[crossing]map[string]bool, used map[string]int64) error {
	crossed := make(map[crossing]bool)
	for bucket, n := range used {
		for percent, least := range map[int]int64{80: 8, 100: 10} {
			if n >= least {
				crossed[crossing{bucket, percent}] = true
			}
		}
	}
	ids := make(map[string]bool)
	for c, some := range taken {
		if !crossed[c] || len(some) != 1 {
			return fmt.Errorf("%+v was told of as %v, crossed %v", c, some, crossed[c])
		}
		maps.Copy(ids, some)
	}
	if len(ids) != len(crossed) {
		return fmt.Errorf("%d events were delivered, %d thresholds crossed", len(ids), len(crossed))
	}
	return nil
}

// A daemon that is killed again and again, with a receiver that fails in every way, delivers every event in the end; what was crossed
// is known from the counts alone.
func TestEventsSurviveKills(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	hook := newReceiver(t, rand.New(rand.NewPCG(chance.Uint64(), 0)))
	s := newSite(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(hookKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.more = []string{"--webhook", hook.URL + "/secret-path", "--webhook-key", key}
	var bucket atomic.Int64
	var said strings.Builder
	for range portion(3, 2, 60) {
		d := s.start()
		conn := d.dial(t)
		conn.declare(t, "told/*", 10)
		conn.close()
		d.killUnder(chance, time.Duration(20+chance.IntN(300))*time.Millisecond, func(ctx context.Context, c *client, r *rand.Rand) bool {
			name := fmt.Sprintf("told/%05d", bucket.Add(1)/16) // all of them at the same few
			_, err := c.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: name, Charges: []*quotadv1.Charge{{Amount: new(1 + r.Int64N(2))}}})
			return conclude(err) != perhaps
		})
		said.WriteString(d.said.String())
	}
	hook.behaves.Store(true)
	d := s.start()
	conn := d.dial(t)
	used := conn.used(t, "told")
	all := func() error {
		hook.mu.Lock()
		defer hook.mu.Unlock()
		if hook.fault != nil {
			return hook.fault
		}
		return missing(hook.ids, used)
	}
	if err := eventually(3*patience, all); err != nil {
		t.Errorf("%v\n%s", err, d.said)
	}
	conn.close()
	d.stop()
	said.WriteString(d.said.String())
	f := &findings{}
	report := s.verify(f)
	for _, fault := range f.found() {
		t.Error(fault)
	}
	for id := 1; id <= report.Events; id++ {
		if !strings.Contains(said.String(), fmt.Sprintf(`"event":%d,`, id)) {
			t.Errorf("event %d was not logged", id)
		}
	}
	if strings.Contains(said.String(), hookKey) || strings.Contains(said.String(), "secret-path") {
		t.Errorf("the log tells a secret")
	}
	hook.mu.Lock()
	defer hook.mu.Unlock()
	t.Logf("%d events of %d buckets in %d tries", report.Events, len(used), hook.tries)
	notesMissing(t, hook.ids, used)
}

// eventually asks until there is no error any more, or time is over.
func eventually(within time.Duration, ask func() error) error {
	for deadline := time.Now().Add(within); ; {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		// The receiver is of this process, and a pause between two tries ends by the daemon's clock alone.
		time.Sleep(5 * time.Millisecond)
	}
}

// notesMissing is the control of missing: one event that is lost, and one that came twice under other ids.
func notesMissing(t *testing.T, taken map[crossing]map[string]bool, used map[string]int64) {
	t.Helper()
	for c, ids := range taken {
		delete(taken, c)
		lost := missing(taken, used)
		taken[c] = map[string]bool{"another": true, "still another": true}
		if again := missing(taken, used); lost == nil || again == nil {
			t.Errorf("control: without %v: %v, with two others: %v", ids, lost, again)
		}
		taken[c] = ids
		return
	}
	t.Error("control: nothing was taken")
}
