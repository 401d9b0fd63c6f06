package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

const (
	// tryMax is how long one delivery may take, its answer included.
	tryMax = 10 * time.Second
	// answerMax is how much of an answer's body is read, in bytes, so that its connection can be used again.
	answerMax = 64 << 10
	// answerHeadMax is how large the head of an answer may be, in bytes.
	answerHeadMax = 16 << 10
)

// Key signs what is sent. It shows itself to nobody: not in a log, not in an error, not in JSON.
type Key []byte

// Bounds on a key, in bytes, and what comes before one in base64.
const (
	keyMin    = 24
	keyMax    = 1024
	keyPrefix = "whsec_"
	redacted  = "[redacted]"
)

// String returns a word that stands for the key.
func (Key) String() string { return redacted }

// GoString is String, for %#v.
func (Key) GoString() string { return redacted }

// Format writes a word that stands for the key, whatever the verb.
func (Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue is String, for a log.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON writes the same word.
func (Key) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// ParseKey reads the content of a key file: whsec_ and base64, or text of printable ASCII characters that is the key itself. Space
// around it is no part of it. An error has nothing of the content.
func ParseKey(content []byte) (Key, error) {
	text := strings.TrimSpace(string(content))
	key := Key(text)
	if encoded, ok := strings.CutPrefix(text, keyPrefix); ok {
		var err error
		if key, err = base64.StdEncoding.Strict().DecodeString(encoded); err != nil {
			return nil, errors.New("what comes after whsec_ is not base64; want whsec_ and the output of openssl rand -base64 32")
		}
	} else if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("it has characters that are not printable ASCII; want whsec_ and base64 for a key of any bytes")
	}
	if len(key) < keyMin || len(key) > keyMax {
		return nil, fmt.Errorf("the key has %d bytes; want %d to %d, such as whsec_ and the output of openssl rand -base64 32", len(key), keyMin, keyMax)
	}
	return key, nil
}

// Sign returns the signature of a message, as its webhook-signature header has it, by the Standard Webhooks specification.
func (k Key) Sign(id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Payload is the body of what is sent, as JSON. docs/events.md is its description for receivers.
type Payload struct {
	Type string    `json:"type"`      // threshold.warning below 100 percent, threshold.exhausted from there on
	Time time.Time `json:"timestamp"` // when it was crossed, to the millisecond
	Data Crossing  `json:"data"`      // what was crossed
}

// Crossing is what a payload tells of: a threshold, and the count as the change that crossed it left it.
type Crossing struct {
	ID         int64      `json:"id"`              // of the event, from 1 on; they rise by 1
	Bucket     string     `json:"bucket"`          // whose count it is
	Unit       string     `json:"unit"`            // what is counted
	Window     string     `json:"window"`          // such as "day"
	Label      string     `json:"label,omitempty"` // of the window; left out for ever, as are start and end
	Start      *time.Time `json:"start,omitempty"` // of the window
	End        *time.Time `json:"end,omitempty"`   // of the window: when the count begins anew
	Percent    int        `json:"percent"`         // the threshold
	Limit      int64      `json:"limit"`           // in force, above 0
	Used       int64      `json:"used"`            // spent; 0 or more
	Held       int64      `json:"held"`            // promised to reservations; 0 or more
	Overridden bool       `json:"overridden"`      // whether the limit is that of this one window
}

// messageID returns what tells an event from every other, of other ledgers too, and from itself when it is sent again.
func messageID(e quota.Event) string { return fmt.Sprintf("evt_%d_%d", e.ID, e.Time.UnixMilli()) }

func payload(e quota.Event) ([]byte, error) {
	b := e.Balance
	p := Payload{Type: "threshold.warning", Time: e.Time.UTC(), Data: Crossing{
		ID: e.ID, Bucket: string(b.Bucket), Unit: string(b.Unit), Window: b.Window.Span.String(), Label: b.Window.Label,
		Percent: e.Percent, Limit: b.Limit.Max, Used: b.Used, Held: b.Held, Overridden: b.Overridden,
	}}
	if e.Percent >= exhausted {
		p.Type = "threshold.exhausted"
	}
	if start, end := b.Window.Start.UTC(), b.Window.End.UTC(); !end.IsZero() {
		p.Data.Start, p.Data.End = &start, &end
	}
	return json.Marshal(p)
}

// webhook sends events to one URL.
type webhook struct {
	c    Config
	url  string
	http *http.Client
}

func newWebhook(c Config, u *url.URL) *webhook {
	h := http.Client{}
	if c.HTTP != nil {
		h = *c.HTTP
	}
	if h.Transport == nil {
		h.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: tryMax, MaxResponseHeaderBytes: answerHeadMax, DisableCompression: true,
		}
	}
	h.Timeout = tryMax
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // what is signed goes nowhere else
	return &webhook{c: c, url: u.String(), http: &h}
}

// deliver tries once to hand an event over. What an error says has nothing of the URL or of the answer.
func (w *webhook) deliver(ctx context.Context, e quota.Event) error {
	err := w.try(ctx, e)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.c.Metrics.EventDelivered(err == nil)
	if err != nil {
		return fmt.Errorf("delivering event %d: %w", e.ID, err)
	}
	return nil
}

func (w *webhook) try(ctx context.Context, e quota.Event) error {
	body, err := payload(e)
	if err != nil {
		return fmt.Errorf("writing it: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL is none that can be sent to")
	}
	id, timestamp := messageID(e), strconv.FormatInt(w.c.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "quotad")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", timestamp)
	req.Header.Set("webhook-signature", w.c.Key.Sign(id, timestamp, body))
	resp, err := w.http.Do(req)
	if err != nil {
		return reason(err)
	}
	defer resp.Body.Close()                                          //nolint:errcheck // it was read as far as it matters
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, answerMax)) // what it says does not matter
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("it was answered %d; want 200 to 299", resp.StatusCode)
	}
	return nil
}

// reason says why there was no answer. The text of an error of net/http is not taken as it is: it has the URL, and may have some of
// what came back.
func reason(err error) error {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("there was no answer within %s", tryMax)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return bad
	}
	return errors.New("the connection broke, or what came back was not an answer of HTTP")
}
