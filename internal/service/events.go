package service

import (
	"context"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// watchEventsMax is how many events one message to a watcher has.
const watchEventsMax = 1000

// thresholdsOf reads thresholds, of which none is something else than left out; what they say is checked by their Check.
func thresholdsOf(t *quotadv1.Thresholds) quota.Thresholds {
	if t == nil {
		return nil
	}
	percent := t.GetPercent()
	if len(percent) > quota.ThresholdsMax { // refused by Check, which needs no more than this to see it
		percent = percent[:quota.ThresholdsMax+1]
	}
	out := make(quota.Thresholds, len(percent))
	for i, p := range percent {
		out[i] = int(p)
	}
	return out
}

func thresholds(t quota.Thresholds) *quotadv1.Thresholds {
	if t == nil {
		return nil
	}
	out := &quotadv1.Thresholds{}
	for _, percent := range t {
		out.Percent = append(out.Percent, int32(percent)) //nolint:gosec // at most ThresholdMax
	}
	return out
}

func event(e quota.Event) *quotadv1.ThresholdEvent {
	return &quotadv1.ThresholdEvent{
		Id: e.ID, Time: timestamp(e.Time), Percent: int32(e.Percent), Balance: balance(e.Balance), //nolint:gosec // at most ThresholdMax
	}
}

// told returns the events since the look before that the watcher may see, the newest if they are too many. The first look finds out
// which was the last, and returns none: what was crossed before shows in the counts.
func (w *watcher) told(ctx context.Context, first bool) ([]*quotadv1.ThresholdEvent, error) {
	last := w.s.c.Ledger.LastEvent()
	if first || w.nothing {
		w.event = last
		return nil, nil
	}
	var told []*quotadv1.ThresholdEvent
	for w.event < last {
		events, err := w.s.c.Ledger.Events(ctx, w.event, store.PageMax)
		if err != nil {
			return nil, w.see.failure(ctx, err)
		}
		if len(events) == 0 {
			w.event = last
		}
		for _, e := range events {
			w.event = e.ID
			if b := e.Balance.Bucket; b.Within(w.prefix) && w.see.bucket(string(b)) {
				told = append(told, event(e))
			}
		}
		if more := len(told) - watchEventsMax; more > 0 {
			told = told[more:]
		}
	}
	return told, nil
}
