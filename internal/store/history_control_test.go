package store_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// The controls: the checker finds fault with ledgers that are wrong. Not every history shows what is wrong with one, so that they are
// played until one does.
func TestLinearizableControls(t *testing.T) {
	const most = 400
	for name, c := range map[string]struct {
		broken
		deaths int
	}{
		"check then act":                    {broken: broken{wrap: checkThenAct, unlimited: true}},
		"takes a repeated acquire again":    {broken: broken{wrap: again[quota.Acquire]}},
		"takes a repeated settlement again": {broken: broken{wrap: again[quota.Settle]}},
		"frees too early":                   {broken: broken{wrap: tooEarly}},
		"frees too late":                    {broken: broken{tamper: tooLate}},
		"never frees":                       {broken: broken{tamper: neverExpires}},
		"settles into today":                {broken: broken{wrap: intoToday}},
		"believes the clock at a start":     {broken: broken{accepts: true}, deaths: 3},
		"forgets at a start":                {broken: broken{stale: true}, deaths: 3},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range most {
				seed := rand.Uint64()
				var history []porcupine.Operation
				synctest.Test(t, func(t *testing.T) { history = play(t, seed, memoryDisk(), c.deaths, c.broken) })
				if got := checkHistory(history); got == porcupine.Illegal {
					t.Logf("caught in history %d, of seed %d", n+1, seed)
					return
				}
			}
			t.Errorf("not caught in %d histories", most)
		})
	}
}

// racy is the origin's way: it looks in one step and charges in another. The limits are its own.
type racy struct{ *store.Store }

func checkThenAct(s *store.Store) ledger { return racy{s} }

func (r racy) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	a, ok := op.(quota.Acquire)
	if !ok {
		return r.Store.Apply(ctx, op)
	}
	d := quota.Decision{Outcome: quota.Denied}
	most := quota.AtMost(childLimit).Lower(a.Charges[0].Ceiling)
	for _, name := range []quota.Bucket{a.Bucket, a.Bucket.Parent()} {
		v, err := r.Bucket(ctx, string(name))
		if err != nil {
			return quota.Decision{}, err
		}
		for _, b := range v.Balances {
			if b.Window.Contains(r.Now()) && b.Used+b.Held+a.Charges[0].Amount > most.Max {
				d.Violations = append(d.Violations, quota.Violation{Balance: b, Ceiling: most.Max < childLimit})
			}
		}
		most = quota.AtMost(appLimit)
	}
	if d.Time = r.Now(); d.Violations != nil {
		return d, nil
	}
	time.Sleep(time.Millisecond)
	a.Charges = []quota.Charge{{Amount: a.Charges[0].Amount}}
	a.Validate()
	return r.Store.Apply(ctx, a)
}

// again does once more what it was asked for a second time, though it answers as if it knew it again.
func again[Op quota.Op](s *store.Store) ledger { return repeats[Op]{s} }

type repeats[Op quota.Op] struct{ *store.Store }

func (r repeats[Op]) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	d, err := r.Store.Apply(ctx, op)
	if _, ok := op.(Op); !ok || err != nil || !d.Replayed {
		return d, err
	}
	more := quota.Acquire{Bucket: d.Balances[0].Bucket}
	if ps := more.Validate(); ps == nil {
		_, _ = r.Store.Apply(context.WithoutCancel(ctx), more) // what is not granted is not counted twice
	}
	return d, nil
}

// hasty ends a hold before its time, and shows it as if it did not.
type hasty struct{ *store.Store }

const haste = 4 * time.Millisecond

func tooEarly(s *store.Store) ledger { return hasty{s} }

func (h hasty) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	switch x := op.(type) {
	case quota.Acquire:
		if x.Reserve {
			x.Hold -= haste
		}
		mustBeValid(x.Validate())
		op = x
	case quota.Extend:
		if x.Hold > 0 {
			x.Hold -= haste
		}
		mustBeValid(x.Validate())
		op = x
	}
	d, err := h.Store.Apply(ctx, op)
	if !d.Expiry.IsZero() {
		d.Expiry = d.Expiry.Add(haste)
	}
	if d.Reservation != nil {
		d.Reservation.Expiry = d.Reservation.Expiry.Add(haste)
	}
	return d, err
}

func (h hasty) Reservations(ctx context.Context, q store.ReservationQuery) ([]quota.Reservation, string, error) {
	found, next, err := h.Store.Reservations(ctx, q)
	for i := range found {
		found[i].Expiry = found[i].Expiry.Add(haste)
	}
	return found, next, err
}

// tooLate finds nothing due until some time after.
func tooLate(w *world) func(store.Tx) store.Tx {
	return func(tx store.Tx) store.Tx {
		return unexpired{tx, func() time.Time { return w.now().Add(-4 * time.Millisecond) }}
	}
}

// neverExpires finds nothing that is due.
func neverExpires(*world) func(store.Tx) store.Tx {
	return func(tx store.Tx) store.Tx { return unexpired{tx, func() time.Time { return time.Time{} }} }
}

type unexpired struct {
	store.Tx
	until func() time.Time // expiries after it are not found
}

func (x unexpired) Scan(space, from string, fn func(string, []byte) bool) error {
	return x.Tx.Scan(space, from, func(key string, v []byte) bool {
		if space == "expiries" && binary.BigEndian.Uint64([]byte(key[:8])) > uint64(max(0, x.until().UnixMilli())) {
			return false
		}
		return fn(key, v)
	})
}

// intoToday counts what a call of yesterday really used today, and answers as if it had not.
func intoToday(s *store.Store) ledger { return settlesToday{s} }

type settlesToday struct{ *store.Store }

func (s settlesToday) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	x, ok := op.(quota.Settle)
	if !ok || len(x.Charges) == 0 || x.Charges[0].Amount == 0 || !s.yesterdays(ctx, x) {
		return s.Store.Apply(ctx, op)
	}
	used := x.Charges[0].Amount
	x.Charges = []quota.Charge{{Unit: quota.Calls}}
	d, err := s.Store.Apply(ctx, x)
	if err != nil || d.Outcome != quota.Done || d.Replayed {
		return d, err
	}
	more := quota.Acquire{Bucket: d.Balances[0].Bucket, Charges: []quota.Charge{{Amount: used}}}
	if ps := more.Validate(); ps == nil {
		_, _ = s.Store.Apply(context.WithoutCancel(ctx), more)
	}
	for i := range d.Balances {
		d.Balances[i].Used += used
	}
	return d, nil
}

func (s settlesToday) yesterdays(ctx context.Context, x quota.Settle) bool {
	found, _, err := s.Reservations(ctx, store.ReservationQuery{Max: store.PageMax})
	return err == nil && slices.ContainsFunc(found, func(r quota.Reservation) bool {
		return r.RequestID == x.RequestID && r.Made.Day() != s.Now().Day()
	})
}

// A start may find the clock a little behind what the ledger had seen. What was reserved in between is listed all the same.
func TestReservationMadeAfterNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shift dial
		o := store.Options{Defaults: fifty, Now: func() time.Time { return time.Now().Add(shift.get()) }}
		disk := memoryDisk()
		s := open(t, disk(), o)
		time.Sleep(10 * time.Second)
		op := quota.Acquire{Bucket: "a", RequestID: "later", Reserve: true, Hold: time.Hour}
		mustBeValid(op.Validate())
		do(t, s, op, quota.Done)
		var killed keepOpen // as it is on the disk: nothing was marked at the end
		killed.Engine = copied(t, disk())
		closeStore(t, s)
		shift.set(-5 * time.Second)
		s = open(t, killed, o)
		defer closeStore(t, s)
		if !s.Now().Before(time.Now()) {
			t.Fatalf("the ledger's time is %v", s.Now())
		}
		for _, phase := range []quota.Phase{quota.PhaseUsed, quota.PhaseOpen} {
			found, _, err := s.Reservations(t.Context(), store.ReservationQuery{Phase: phase, Max: 10})
			if err != nil || len(found) != 1 {
				t.Errorf("%v: %+v, %v", phase, found, err)
			}
		}
	})
}
