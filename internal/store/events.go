package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

const (
	eventsAt  = "events/"
	keyEvents = "events"       // the number of the last event
	cursorsAt = "events-told/" // with a consumer's name: the last event that it is done with

	// eventLife is how long an event waits for its consumers after its date.
	eventLife = 7 * 24 * time.Hour
)

// The consumers of events that the ledger keeps a cursor for.
const (
	ConsumerLog     = "log"
	ConsumerWebhook = "webhook"
)

// consumers bounds what may be asked for by name.
var consumers = [...]string{ConsumerLog, ConsumerWebhook}

// ErrConsumer means that there is no consumer of events by that name.
var ErrConsumer = errors.New("store: unknown consumer of events")

// eventRecord is the form in which an event is kept.
type eventRecord struct {
	Time       int64       `json:"time"`    // milliseconds since 1970
	Percent    int         `json:"percent"` // the threshold
	Bucket     string      `json:"bucket"`
	Unit       string      `json:"unit"`
	Span       window.Span `json:"span"`
	Label      string      `json:"label,omitempty"`
	Start      int64       `json:"start,omitempty"` // seconds since 1970, as is End; both are left out for ever
	End        int64       `json:"end,omitempty"`
	Limit      int64       `json:"limit"`
	Used       int64       `json:"used"`
	Held       int64       `json:"held,omitempty"`
	Overridden bool        `json:"overridden,omitempty"`
}

func eventRecordOf(e quota.Event) eventRecord {
	b := e.Balance
	r := eventRecord{
		Time: e.Time.UnixMilli(), Percent: e.Percent, Bucket: string(b.Bucket), Unit: string(b.Unit), Span: b.Window.Span,
		Label: b.Window.Label, Limit: b.Limit.Max, Used: b.Used, Held: b.Held, Overridden: b.Overridden,
	}
	if !b.Window.Start.IsZero() {
		r.Start, r.End = b.Window.Start.Unix(), b.Window.End.Unix()
	}
	return r
}

func parseEvent(record []byte, space, key string) (quota.Event, error) {
	var r eventRecord
	if err := parseJSON(record, space, key, &r); err != nil {
		return quota.Event{}, err
	}
	id, err := auditNumber(space, key)
	if err != nil {
		return quota.Event{}, err
	}
	w := window.Window{Span: r.Span, Label: r.Label}
	if r.End != 0 {
		w.Start, w.End = time.Unix(r.Start, 0).UTC(), time.Unix(r.End, 0).UTC()
	}
	return quota.Event{ID: id, Time: time.UnixMilli(r.Time).UTC(), Percent: r.Percent, Balance: quota.Balance{
		Bucket: quota.Bucket(r.Bucket), Unit: quota.Unit(r.Unit), Window: w, Limit: quota.AtMost(r.Limit), Used: r.Used, Held: r.Held,
		Overridden: r.Overridden,
	}}, nil
}

// outbox is what is known of the events beside what the file keeps of them.
type outbox struct {
	last atomic.Int64 // the number of the last one that is durable

	mu   sync.Mutex
	news chan struct{} // closed when there is another; nil while nobody waits
}

// publish tells whoever waits that events up to last are durable.
func (o *outbox) publish(last int64) {
	o.last.Store(last)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.news != nil {
		close(o.news)
		o.news = nil
	}
}

// Announce keeps an event for whoever is to be told.
func (s *state) Announce(e quota.Event) error {
	if s.announced == 0 {
		n, err := s.number(spaceMeta, keyEvents)
		if err != nil {
			return err
		}
		s.announced = n
	}
	space, err := s.eventSpace(e.Time)
	if err != nil {
		return err
	}
	s.announced++
	if err := s.putNumber(spaceMeta, keyEvents, s.announced); err != nil {
		return err
	}
	return s.putJSON(space, auditKey(s.announced), eventRecordOf(e))
}

// eventSpace returns where an event goes: like audit records, not before the newest, so that the spaces are in the order of the
// numbers.
func (s *state) eventSpace(t time.Time) (string, error) {
	if s.eventsAt == "" {
		spaces, err := s.spacesOf(eventsAt)
		if err != nil {
			return "", err
		}
		if s.eventsAt = eventsAt + dateOf(t); len(spaces) > 0 {
			s.eventsAt = max(s.eventsAt, spaces[len(spaces)-1])
		}
	}
	return s.eventsAt, nil
}

// openEvents finds out which event was the last. What it sees has been made durable by the commit of the start.
func (s *Store) openEvents(ctx context.Context) error {
	err := s.engine.View(ctx, func(tx Tx) error {
		st := state{tx: tx}
		n, err := st.number(spaceMeta, keyEvents)
		s.events.last.Store(n)
		return err
	})
	if err != nil {
		return fmt.Errorf("looking for the last event: %w", err)
	}
	return nil
}

// LastEvent returns the id of the newest event that is durable, 0 if there never was one. Ids begin at 1 and rise by 1.
func (s *Store) LastEvent() int64 { return s.events.last.Load() }

// Announced returns a channel that is closed when there is another event. Who waits asks for it before looking for events, so as
// to miss none.
func (s *Store) Announced() <-chan struct{} {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	if s.events.news == nil {
		s.events.news = make(chan struct{})
	}
	return s.events.news
}

// Events returns the durable events with an id above after, in the order of their ids, at most most of them, 1 to PageMax. They
// leave 7 days after their date. One whose record is damaged is left out, and the problem is shown.
func (s *Store) Events(ctx context.Context, after int64, most int) ([]quota.Event, error) {
	last := s.LastEvent()
	if after >= last {
		return nil, nil
	}
	var events []quota.Event
	err := s.snapshot(ctx, func(st *state) error {
		spaces, err := st.spacesOf(eventsAt)
		if err != nil {
			return err
		}
		for _, space := range spaces {
			err := st.tx.Scan(space, auditKey(after+1), func(key string, record []byte) bool {
				e, err := parseEvent(record, space, key)
				switch {
				case err != nil:
					st.met(err)
					return true
				case e.ID > last: // visible, and perhaps not durable yet
					return false
				}
				events = append(events, e)
				return len(events) < most
			})
			if err != nil || len(events) == most {
				return err
			}
		}
		return nil
	})
	return events, err
}

// EventCursor returns the id of the last event that a consumer is done with; false if it has not begun.
func (s *Store) EventCursor(ctx context.Context, consumer string) (id int64, begun bool, err error) {
	if !slices.Contains(consumers[:], consumer) {
		return 0, false, fmt.Errorf("%w: %q", ErrConsumer, consumer)
	}
	err = s.snapshot(ctx, func(st *state) error {
		id, begun, err = st.cursor(consumer)
		return err
	})
	return id, begun, err
}

func (s *state) cursor(consumer string) (id int64, begun bool, err error) {
	record, err := s.tx.Get(spaceMeta, cursorsAt+consumer)
	if err != nil || record == nil {
		return 0, false, err
	}
	id, err = s.number(spaceMeta, cursorsAt+consumer)
	return id, true, err
}

// AdvanceEvents notes durably that a consumer is done with the events up to id, LastEvent at most. It never goes back. Errors are
// those of Apply, and ErrConsumer.
func (s *Store) AdvanceEvents(ctx context.Context, consumer string, id int64) error {
	if !slices.Contains(consumers[:], consumer) {
		return fmt.Errorf("%w: %q", ErrConsumer, consumer)
	}
	if last := s.LastEvent(); id < 0 || id > last {
		return fmt.Errorf("%s cannot be done with event %d: the last is %d", consumer, id, last)
	}
	_, err := s.do(ctx, request{tidy: func(st *state) error {
		had, begun, err := st.cursor(consumer)
		if err != nil || begun && had >= id {
			return err
		}
		return st.putNumber(spaceMeta, cursorsAt+consumer, id)
	}})
	return err
}

// eventSpace checks what is kept of the events of one date: that each can be read, and that their numbers go on where those of the
// date before ended. What they tell of is held against the counts, which are read later.
func (v *verifier) eventSpace(space string) error {
	last, err := (&state{tx: v.tx}).number(spaceMeta, keyEvents)
	if err != nil {
		v.r.fault("%v", err)
	}
	return v.tx.Scan(space, "", func(key string, record []byte) bool {
		v.r.Events++
		e, err := parseEvent(record, space, key)
		if err != nil {
			v.r.fault("%v", err)
			return true
		}
		if e.ID > last || v.event != 0 && e.ID != v.event+1 {
			v.r.fault("%s: event %d is followed by %d, and the last is said to be %d", space, v.event, e.ID, last)
		}
		v.event = e.ID
		b := e.Balance
		k := quota.AccountKey{Bucket: b.Bucket, Unit: b.Unit, Span: b.Window.Span, Label: b.Window.Label}
		v.told[k] = max(v.told[k], e.Percent)
		return true
	})
}

// cursors finds a consumer of events that is said to be done with one which there never was.
func (v *verifier) cursors() {
	st := state{tx: v.tx}
	last, err := st.number(spaceMeta, keyEvents)
	for _, consumer := range consumers {
		id, _, bad := st.cursor(consumer)
		if bad != nil {
			v.r.fault("%v", bad)
		}
		if err == nil && id > last {
			v.r.fault("%s: the consumer of events is done with number %d, and the last is %d", consumer, id, last)
		}
	}
}
