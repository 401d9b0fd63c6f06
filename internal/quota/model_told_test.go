package quota_test

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// told returns the highest threshold that a count's events tell of.
func (m *model) told(key quota.AccountKey) int {
	most := 0
	for _, e := range m.events {
		if countOf(e) == key {
			most = max(most, e.Percent)
		}
	}
	return most
}

func countOf(e quota.Event) quota.AccountKey {
	b := e.Balance
	return quota.AccountKey{Bucket: b.Bucket, Unit: b.Unit, Span: b.Window.Span, Label: b.Window.Label}
}

// tell tells of what the counts that were changed have come to: of every share of the limit that the used part has reached, unless
// that one or a higher one was told of before.
func (m *model) tell(now time.Time, changed []quota.AccountKey, as func(time.Time, quota.AccountKey) quota.Balance) {
	for _, key := range changed {
		thresholds := m.inForce(key.Bucket).Thresholds
		if thresholds == nil {
			thresholds = m.defaults.Thresholds
		}
		b, told := as(now, key), m.told(key)
		if !b.Limit.Set || b.Limit.Max == 0 {
			continue
		}
		used := new(big.Rat).SetFrac(big.NewInt(b.Used), big.NewInt(b.Limit.Max))
		for _, percent := range thresholds {
			if percent > told && used.Cmp(big.NewRat(int64(percent), 100)) >= 0 {
				m.events = append(m.events, quota.Event{Time: now, Percent: percent, Balance: b})
			}
		}
	}
}

// charged is a count as it has just been charged, by the limit that its charge was granted by. Where a zone was changed on the day of
// a restored backup that one may be another than a later look has: the count's window is then that of both zones, and the day of the
// restoring may lie in the one and not in the other.
func (m *model) charged(_ time.Time, key quota.AccountKey) quota.Balance {
	mark := m.marks[key]
	w := window.Window{Span: key.Span, Label: key.Label, Start: mark.Start, End: mark.End}
	return m.balance(key, w, mark.Limit)
}

// sameEvents compares what one op told of. The order of its counts is nobody's promise; that of the thresholds of one count is.
func sameEvents(got, want []quota.Event) error {
	if len(got)+len(want) == 0 {
		return nil
	}
	sorted := func(events []quota.Event) []quota.Event {
		events = slices.Clone(events)
		for i := range events {
			events[i].ID = 0
		}
		slices.SortStableFunc(events, func(a, b quota.Event) int {
			return cmp.Compare(fmt.Sprint(countOf(a)), fmt.Sprint(countOf(b)))
		})
		return events
	}
	same := func(a, b quota.Event) bool {
		at := func(w window.Window) window.Window { w.Start, w.End = w.Start.UTC(), w.End.UTC(); return w }
		a.Balance.Window, b.Balance.Window = at(a.Balance.Window), at(b.Balance.Window)
		return a == b
	}
	if got, want := sorted(got), sorted(want); !slices.EqualFunc(got, want, same) {
		return fmt.Errorf("told of\n%+v, want\n%+v", got, want)
	}
	return nil
}
