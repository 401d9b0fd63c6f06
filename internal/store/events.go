package store

import "github.com/quotad/quotad/internal/quota"

const (
	eventsAt  = "events/"
	keyEvents = "events" // the id of the last event
)

// eventRecord is the form in which an event is kept.
type eventRecord struct {
	Time int64 `json:"time"` // milliseconds since 1970
}

// Announce keeps an event for whoever is to be told.
func (s *state) Announce(e quota.Event) error {
	n, err := s.number(spaceMeta, keyEvents)
	if err != nil {
		return err
	}
	if err := s.putNumber(spaceMeta, keyEvents, n+1); err != nil {
		return err
	}
	return s.putJSON(eventsAt+dateOf(e.Time), auditKey(n+1), eventRecord{Time: e.Time.UnixMilli()})
}
