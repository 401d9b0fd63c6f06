package quota

import (
	"fmt"
	"slices"
	"time"
)

// expire ends reservations whose time is over, each as its bucket had it when it was made.
func expire(s State, now time.Time, op Expire) (Decision, error) {
	d := Decision{Outcome: Done}
	var due []ReceiptKey
	if op.Max > 0 {
		var err error
		if due, err = s.Due(now, op.Max); err != nil {
			return Decision{}, err
		}
	}
	for _, id := range due {
		if d.Work >= EntriesMax*2 { // a few that are large take as long as many
			break
		}
		released, entries, err := expireOne(s, now, id)
		if err != nil {
			return Decision{}, err
		}
		d.Work += entries
		if released {
			d.Released++
		} else {
			d.Charged++
		}
	}
	more, err := s.Due(now, 1)
	d.More = len(more) > 0
	return d, err
}

func expireOne(s State, now time.Time, id ReceiptKey) (released bool, entries int, err error) {
	was, seen, err := s.Receipt(id)
	if err != nil {
		return false, 0, err
	}
	if !seen || was.Phase != PhaseOpen {
		return false, 0, fmt.Errorf("reservation %q of %q is due, and is not open", id.RequestID, id.Principal)
	}
	r := was
	r.Hold, r.Entries = was.Hold.clone(), slices.Clone(was.Entries)
	released = r.Hold.OnExpiry == ExpiryRelease
	for i := range r.Entries {
		r.Entries[i].Used = 0
		if !released {
			r.Entries[i].Used = r.Entries[i].Amount
		}
	}
	e := ending{state: s, now: now, id: id, was: was}
	_, err = e.end(r, PhaseExpired)
	return released, len(r.Entries), err
}
