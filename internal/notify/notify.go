// Package notify tells of the thresholds that were crossed: in the log, and to a webhook.
package notify

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quotad/quotad/internal/metrics"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// pageMax is how many events are read at a time. So many lines of the log, at most, are repeated after a crash.
const pageMax = 64

// A failed try is followed by a pause, longer with each failure in a row.
const (
	firstPause = time.Second
	lastPause  = 5 * time.Minute
)

// Ledger is what is needed of a store.
type Ledger interface {
	// LastEvent returns the id of the newest event; ids rise by 1.
	LastEvent() int64
	// Announced returns a channel that is closed when there is another event.
	Announced() <-chan struct{}
	// Events returns events in the order of their ids, from the one above after on, at most most.
	Events(ctx context.Context, after int64, most int) ([]quota.Event, error)
	// EventCursor returns the id of the last event that a consumer is done with; false if it has not begun.
	EventCursor(ctx context.Context, consumer string) (id int64, begun bool, err error)
	// AdvanceEvents notes durably that a consumer is done with the events up to id.
	AdvanceEvents(ctx context.Context, consumer string, id int64) error
}

// Config is what a Notifier is made of.
type Config struct {
	Ledger  Ledger           // required
	Log     *slog.Logger     // where events are logged, and what goes wrong; nil means nowhere
	Webhook string           // the URL that events are sent to; "" means nowhere. A secret, like what is in its path
	Key     Key              // signs what is sent
	Metrics *metrics.Metrics // nil means that nothing is counted
	Now     func() time.Time // the clock for the times of tries; required with a Webhook
	HTTP    *http.Client     // sends; nil means one of the usual kind. Its Timeout and CheckRedirect are not used
}

// Notifier tells of events, each consumer in the order of the ids.
type Notifier struct {
	c         Config
	consumers []*consumer
}

// consumer is one that is told of every event, from the event after those that it was told of before.
type consumer struct {
	*Notifier
	name string
	tell func(context.Context, quota.Event) error
	each bool         // whether each event is noted as told by itself
	done atomic.Int64 // the last event that it was told of, or that is lost
	kept int64        // the last one that the ledger knows of
}

// New returns a Notifier that has told of nothing yet.
func New(c Config) (*Notifier, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = metrics.New(metrics.Build{})
	}
	n := &Notifier{c: c}
	n.consumers = []*consumer{{Notifier: n, name: store.ConsumerLog, tell: n.log}}
	if c.Webhook == "" {
		return n, nil
	}
	u, err := url.Parse(c.Webhook)
	if err != nil {
		return nil, fmt.Errorf("the webhook is not a URL") //nolint:err113 // the error has the URL, which is a secret
	}
	if len(c.Key) < keyMin {
		return nil, fmt.Errorf("the webhook's key has %d bytes; want at least %d", len(c.Key), keyMin)
	}
	w := newWebhook(c, u)
	hook := &consumer{Notifier: n, name: store.ConsumerWebhook, tell: w.deliver, each: true}
	n.consumers = append(n.consumers, hook)
	c.Metrics.SetEventsPending(func() int64 { return c.Ledger.LastEvent() - hook.done.Load() })
	return n, nil
}

// Begin marks in the ledger that those are there who are to be told: what is announced from then on waits for them. One that was
// there before goes on where it was. Call it before anything is counted.
func (n *Notifier) Begin(ctx context.Context) error {
	for _, c := range n.consumers {
		id, begun, err := n.c.Ledger.EventCursor(ctx, c.name)
		if err == nil && !begun {
			id = n.c.Ledger.LastEvent()
			err = n.c.Ledger.AdvanceEvents(ctx, c.name, id)
		}
		if err != nil {
			return fmt.Errorf("finding out which events %s was told of: %w", c.name, err)
		}
		c.kept = id
		c.done.Store(id)
	}
	return nil
}

// Run tells of events until ctx ends, after Begin. Whatever goes wrong is logged and tried again.
func (n *Notifier) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, c := range n.consumers {
		all.Go(func() { c.run(ctx) })
	}
	all.Wait()
}

// run tells of all that there is, and waits for more.
func (c *consumer) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		news := c.c.Ledger.Announced()
		more, err := c.page(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			pause := jittered(pauseAfter(failures))
			failures++
			c.c.Log.Warn("events are told later", "consumer", c.name, "error", err, "pending", c.c.Ledger.LastEvent()-c.done.Load(),
				"failures", failures, "again_in", pause.Round(time.Millisecond))
			wait(ctx, time.After(pause))
		default:
			if failures = 0; !more {
				wait(ctx, news)
			}
		}
	}
}

// wait waits for one of both.
func wait[T any](ctx context.Context, other <-chan T) {
	select {
	case <-ctx.Done():
	case <-other:
	}
}

// page tells of the next events, and notes how far it has come; more is false if there were none.
func (c *consumer) page(ctx context.Context) (more bool, err error) {
	last := c.c.Ledger.LastEvent()
	events, err := c.c.Ledger.Events(ctx, c.done.Load(), pageMax)
	if err != nil {
		return false, err
	}
	for _, e := range events {
		c.skip(e.ID - 1)
		if err := c.tell(ctx, e); err != nil {
			return false, err
		}
		c.done.Store(e.ID)
		if !c.each {
			continue
		}
		if err := c.keep(ctx); err != nil {
			return false, err
		}
	}
	if len(events) < pageMax { // there are no more, so that what is missing up to last is not to come
		c.skip(last)
	}
	return len(events) > 0, c.keep(ctx)
}

// skip gives up the events up to id that were not there to be told of. As ids rise by 1, none is given up unseen.
func (c *consumer) skip(id int64) {
	lost := id - c.done.Load()
	if lost <= 0 {
		return
	}
	c.c.Metrics.EventsLost(lost)
	c.c.Log.Error("events are lost: they left, or are damaged, before they were told", "consumer", c.name, "events", lost, "up_to", id)
	c.done.Store(id)
}

// keep notes in the ledger how far it has come.
func (c *consumer) keep(ctx context.Context) error {
	done := c.done.Load()
	if done == c.kept {
		return nil
	}
	if err := c.c.Ledger.AdvanceEvents(ctx, c.name, done); err != nil {
		return fmt.Errorf("noting that event %d was told: %w", done, err)
	}
	c.kept = done
	return nil
}

// pauseAfter returns the longest pause after so many failures before this one.
func pauseAfter(failures int) time.Duration {
	if failures > 20 { // further would overflow
		return lastPause
	}
	return min(firstPause<<failures, lastPause)
}

// jittered returns between half of a pause and all of it, so that many daemons do not come at once.
func jittered(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // chance, not a secret
}

// exhausted is the threshold, in percent, from which on a limit is used up.
const exhausted = 100

// log writes an event's line.
func (n *Notifier) log(ctx context.Context, e quota.Event) error {
	level, text := slog.LevelInfo, "a threshold was crossed"
	if e.Percent >= exhausted {
		level, text = slog.LevelWarn, "a limit is used up"
	}
	b := e.Balance
	n.c.Log.Log(ctx, level, text, "event", e.ID, "bucket", string(b.Bucket), "unit", string(b.Unit), "window", b.Window.Span.String(),
		"label", b.Window.Label, "percent", e.Percent, "used", b.Used, "limit", b.Limit.Max, "crossed", e.Time)
	n.c.Metrics.EventTold(e.Percent)
	return nil
}
