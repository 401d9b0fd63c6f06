package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// clients has all clients call, and the clock step, until they have had enough.
func (w *world) clients() {
	var all sync.WaitGroup
	all.Go(func() { // between two milliseconds, where nobody else does anything
		rng := rand.New(rand.NewPCG(w.seed, 5))
		idle(time.Duration(rng.IntN(160))*time.Millisecond + 500*time.Microsecond)
		w.shift.set(-time.Duration(20+rng.IntN(150)) * time.Millisecond)
		idle(time.Duration(rng.IntN(120)) * time.Millisecond)
		w.shift.set(-time.Duration(rng.IntN(20)) * time.Millisecond)
	})
	for client := range historyClients {
		rng := rand.New(rand.NewPCG(w.seed, uint64(100+client)))
		all.Go(func() { w.client(client, rng) })
	}
	all.Wait()
}

// client makes requests, and settles, releases and extends them and those of others. Now and then it asks again though it was
// answered, and always where it was told that nobody knows.
func (w *world) client(client int, rng *rand.Rand) {
	own := 0
	for range historySteps {
		in := asked{verb: toAcquire, n: client*historyRequests + own}
		if roll := rng.IntN(100); own > 0 && (own == historyRequests || roll < 60) {
			in = w.follow(rng)
		} else {
			in = w.request(in.n)
			own++
		}
		for tries := 1 + rng.IntN(2); tries > 0; tries-- {
			if w.call(client, in, rng) {
				tries++
			}
		}
		idle(time.Duration(rng.IntN(12)) * time.Millisecond)
	}
}

// request returns the acquire with a number: always the same.
func (w *world) request(n int) asked {
	rng := rand.New(rand.NewPCG(w.seed, uint64(1000+n)))
	in := asked{verb: toAcquire, n: n, place: rng.IntN(2), amount: int64(1 + rng.IntN(3))}
	if rng.IntN(5) == 0 {
		in.ceiling = 12
	}
	if rng.IntN(5) > 0 {
		in.hold = time.Duration(5+rng.IntN(100)) * time.Millisecond
	}
	return in
}

// newest returns the requests that were granted last.
func (w *world) newest() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.granted[max(0, len(w.granted)-2*historyClients):]
}

// follow returns what a client does about a request: most often one that stands.
func (w *world) follow(rng *rand.Rand) asked {
	in := asked{n: rng.IntN(historyClients * historyRequests), stranger: rng.IntN(20) == 0}
	if newest := w.newest(); len(newest) > 0 && rng.IntN(8) > 0 {
		in.n = newest[rng.IntN(len(newest))]
	}
	switch roll := rng.IntN(100); {
	case roll < 10:
		in = w.request(in.n)
		in.amount += int64(rng.IntN(5) / 4)
	case roll < 45:
		in.verb, in.named = toSettle, rng.IntN(3) > 0
		if in.named {
			in.amount = int64(rng.IntN(6))
		}
	case roll < 65:
		in.verb = toRelease
	case roll < 94:
		in.verb, in.extension = toExtend, rng.IntN(3)
		if in.extension > 0 {
			in.amount = int64(rng.IntN(5))
		}
		if in.amount == 0 || rng.IntN(2) == 0 {
			in.hold = time.Duration(5+rng.IntN(4)*20) * time.Millisecond
		}
	default:
		in = asked{verb: toReset, place: rng.IntN(places)}
	}
	return in
}

func (in asked) op() quota.Op {
	who, id := "test", fmt.Sprintf("request-%d", in.n)
	if in.stranger {
		who = "stranger"
	}
	charge := quota.Charge{Amount: in.amount}
	switch in.verb {
	case toAcquire:
		if in.ceiling > 0 {
			charge.Ceiling = quota.AtMost(in.ceiling)
		}
		op := quota.Acquire{
			Principal: who, Bucket: placeNames[in.place], RequestID: id, Charges: []quota.Charge{charge},
			Reserve: in.hold > 0, Hold: in.hold,
		}
		mustBeValid(op.Validate())
		return op
	case toSettle:
		op := quota.Settle{Principal: who, RequestID: id}
		if in.named {
			op.Charges = []quota.Charge{charge}
		}
		mustBeValid(op.Validate())
		return op
	case toRelease:
		return quota.Release{Principal: who, RequestID: id}
	case toExtend:
		op := quota.Extend{Principal: who, RequestID: id, Hold: in.hold}
		if in.extension > 0 {
			op.ExtendID = fmt.Sprintf("more-%d", in.extension)
		}
		if in.amount > 0 {
			op.Charges = []quota.Charge{charge}
		}
		mustBeValid(op.Validate())
		return op
	case toReset:
		return quota.Reset{Bucket: placeNames[in.place]}
	case toLook:
	}
	return nil
}

func mustBeValid(ps quota.Problems) {
	if ps != nil {
		panic(fmt.Sprint(ps))
	}
}

// await returns the daemon when it is up; false if it does not come up.
func (w *world) await() (daemon, bool) {
	for range 1000 {
		w.mu.Lock()
		d, up := w.daemon, w.up
		w.mu.Unlock()
		if up {
			return d, true
		}
		idle(time.Millisecond)
	}
	return daemon{}, false
}

// call makes one call, and tells whether nobody knows what came of it. What has certainly not happened is no part of the history.
func (w *world) call(client int, in asked, rng *rand.Rand) (unknown bool) {
	to, up := w.await()
	if !up {
		return false
	}
	in.run = to.run
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(3+rng.IntN(40))*time.Millisecond)
	defer cancel()
	called := w.stamps.Add(1)
	d, err := to.ledger.Apply(ctx, in.op())
	op := porcupine.Operation{ClientId: client, Input: in, Call: called, Return: w.stamps.Add(1)}
	switch {
	case err == nil:
		op.Output = w.answer(in, d)
	case errors.Is(err, store.ErrUnknown):
		died, at := to.engine.died()
		if called > died { // it was not in that write
			return false
		}
		op.Output = answered{unknown: true, at: at}
	case errors.Is(err, store.ErrFull), errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return false
	default: // nothing explains that
		w.t.Logf("%+v: %v", in, err)
		op.Output = answered{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = append(w.history, op)
	if in.verb == toAcquire && d.Outcome == quota.Done && !d.Replayed {
		w.granted = append(w.granted, in.n)
	}
	return err != nil
}

// answer is what a decision says.
func (w *world) answer(in asked, d quota.Decision) answered {
	out := answered{
		at: w.instant(d.Time), outcome: d.Outcome, phase: historyPhases[d.Phase],
		replayed: d.Replayed, late: d.Late, expiry: w.instant(d.Expiry),
	}
	balances := d.Balances
	if in.verb == toReset {
		balances = d.Before
	}
	for _, b := range balances {
		out.counts = append(out.counts, w.shown(b))
	}
	for _, v := range d.Violations {
		s := w.shown(v.Balance)
		r := refusal{place: s.place, modelCount: s.modelCount}
		switch {
		case v.InFlight:
			r.why = byInFlight
		case v.MaxHold:
			r.why = byShare
		case v.Ceiling:
			r.why = byCeiling
		}
		out.refused = append(out.refused, r)
	}
	if d.Reservation != nil {
		out.stands = w.listed(*d.Reservation)
	}
	return out
}

func (w *world) instant(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return t.Sub(w.midnight)
}

func (w *world) shown(b quota.Balance) shown {
	s := shown{place: -1, modelCount: modelCount{b.Used, b.Held}}
	for place, name := range placeNames {
		if b.Bucket == name {
			s.place = place
		}
	}
	if !b.Window.Start.Before(w.midnight) {
		s.day = 1
	}
	return s
}

// historyPhases are the model's words for phases; a plain acquire is no reservation.
var historyPhases = [...]modelPhase{
	quota.PhaseUsed: isUnseen, quota.PhaseOpen: isHeld, quota.PhaseSettled: isSettled, quota.PhaseReleased: isReleased,
	quota.PhaseExpired: isExpired,
}

func (w *world) listed(r quota.Reservation) modelListing {
	l := modelListing{phase: historyPhases[r.Phase], expiry: w.instant(r.Expiry)}
	for _, c := range r.Charges {
		l.held += c.Amount
		l.settled += c.Used
	}
	return l
}
