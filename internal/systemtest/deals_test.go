package systemtest_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A line is what is counted: a unit of a bucket.
type line struct{ bucket, unit string }

// amounts are how many of each. Lines with none are left out.
type amounts map[line]int64

func (a amounts) add(l line, n int64) {
	if a[l] += n; a[l] == 0 {
		delete(a, l)
	}
}

// addAll adds what was charged to buckets, to them and to their parents.
func (a amounts) addAll(charged amounts) {
	for l, n := range charged {
		for _, bucket := range lineage(l.bucket) {
			a.add(line{bucket, l.unit}, n)
		}
	}
}

func amountsOf(charges []*quotadv1.Charge) amounts {
	a := make(amounts)
	for _, c := range charges {
		a.add(line{c.GetBucket(), c.GetUnit()}, c.GetAmount())
	}
	return a
}

// A stage is how far a deal has come, as far as its client was told.
type stage string

const (
	asked    stage = "asked"    // nothing was granted, or not yet
	spent    stage = "spent"    // an acquire without hold was granted
	held     stage = "held"     // one with hold was, and is held until it expires
	settled  stage = "settled"  // what was held was replaced by what was used
	released stage = "released" // all of it was given back
)

// A deal is one acquire and what its client did with it since, by the answers that the client got.
type deal struct {
	id, bucket string
	acquire    *quotadv1.AcquireRequest
	pending    proto.Message // what was sent last, and has not been answered; nil if all is answered
	last       proto.Message // the settle or release that ended it
	stage      stage
	taken      amounts   // by the acquire and the extensions that were granted
	used       amounts   // what it was settled with
	over       amounts   // what the settlement may have added above a limit, parents included
	expiry     time.Time // of a reservation
	frees      bool      // whether its expiry gives back what is held, rather than charge it
	extended   int       // extensions asked for
	left       bool      // nobody will end it
}

// at returns what the deal has in the counts at a time, parents left out.
func (d *deal) at(t time.Time) (used, holds amounts) {
	switch {
	case d.stage == spent:
		return d.taken, nil
	case d.stage == settled:
		return d.used, nil
	case d.stage == held && d.expiry.After(t):
		return nil, d.taken
	case d.stage == held && !d.frees:
		return d.taken, nil
	}
	return nil, nil
}

// final tells whether nothing can change any more what the deal has in the counts.
func (d *deal) final(t time.Time) bool {
	switch {
	case d.pending != nil:
		return false
	case d.stage == held:
		return d.left && !d.expiry.After(t)
	case d.stage == spent:
		return d.left
	}
	return true
}

// deals are all that the clients of a ledger know, against which it is held.
type deals struct {
	findings
	mu    sync.Mutex
	all   map[string]*deal
	live  []*deal // those that are not final, or were not when they were last looked at
	idle  []*deal // those that somebody may go on with
	past  amounts // what the others have in the counts, parents included
	over  amounts // what settlements may have added above limits
	ended []*deal // the others
	told  map[string]int
}

func newDeals() *deals {
	return &deals{all: make(map[string]*deal), past: make(amounts), over: make(amounts), told: make(map[string]int)}
}

// begin notes that an acquire is about to be sent.
func (ds *deals) begin(request *quotadv1.AcquireRequest, frees bool) *deal {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	request.RequestId = fmt.Sprintf("deal-%08d", len(ds.all))
	d := &deal{id: request.GetRequestId(), bucket: request.GetBucket(), acquire: request, pending: request, stage: asked, frees: frees}
	ds.all[d.id] = d
	ds.live = append(ds.live, d)
	return d
}

// take returns a deal to go on with, which is the caller's own until it is put back; nil if one is to be begun. The more there
// are the sooner it takes one, so that some forty are always under way.
func (ds *deals) take(r *rand.Rand) *deal {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	n := len(ds.idle)
	if r.IntN(64) >= n {
		return nil
	}
	i := r.IntN(n)
	d := ds.idle[i]
	ds.idle[i] = ds.idle[n-1]
	ds.idle = ds.idle[:n-1]
	return d
}

// put gives a deal back.
func (ds *deals) put(d *deal) {
	if d.pending == nil && !d.left && (d.stage == held || d.stage == spent) {
		ds.mu.Lock()
		ds.idle = append(ds.idle, d)
		ds.mu.Unlock()
	}
}

// tell counts what the clients were told, to see that a load had some of everything.
func (ds *deals) tell(what string) {
	ds.mu.Lock()
	ds.told[what]++
	ds.mu.Unlock()
}

// send sends what is pending of a deal, and notes the answer.
func (ds *deals) send(ctx context.Context, c *client, d *deal, o ...grpc.CallOption) answer {
	begun := time.Now()
	got, err := c.do(ctx, d.pending, o...)
	ended := time.Now()
	a := conclude(err)
	switch {
	case a == granted:
		ds.grant(d, got, begun, ended)
	case a == unlawful && reasonOf(err) == "RESERVATION_EXPIRED" && ds.expired(d, err, ended):
		a = refused
	case a == unlawful:
		ds.faults("lost: %s (%s): an answer that it cannot have: %v", d.id, d.stage, err)
	case a == denied:
		ds.tell("denials")
	}
	if a != perhaps {
		d.pending = nil
	}
	return a
}

// expired notes that what was pending was refused, as the time of the reservation was over; false if that cannot be. Where an expiry
// gives back, it may have been granted before, by an answer that was lost: how the reservation stood is in the refusal.
func (ds *deals) expired(d *deal, err error, ended time.Time) bool {
	r := reservationIn(err)
	want := maps.Clone(d.taken)
	switch request := d.pending.(type) {
	case *quotadv1.AcquireRequest:
		want, d.stage = amountsOf(request.GetCharges()), held
		ds.tell("reservations")
		ds.tell("acquires that had expired when they were sent again")
		if !d.frees || request.GetHold() == nil {
			return false
		}
	case *quotadv1.ExtendRequest:
		ds.tell("extensions that came too late")
		if d.frees && !maps.Equal(amountsOf(r.GetCharges()), want) {
			for l, n := range amountsOf(request.GetCharges()) {
				want.add(l, n)
			}
		}
	default:
		return false
	}
	expiry := r.GetExpireTime().AsTime()
	if expiry.Before(d.expiry) || ended.Before(expiry) {
		ds.faults("%s: is told at %s to have expired at %s, and before that it was to expire at %s", d.id, ended, expiry, d.expiry)
	}
	if !maps.Equal(amountsOf(r.GetCharges()), want) {
		ds.faults("lost: %s is told to have held %v, want %v", d.id, r.GetCharges(), want)
	}
	d.taken, d.expiry = want, expiry
	return true
}

// grant notes that what was pending is done.
func (ds *deals) grant(d *deal, got reply, begun, ended time.Time) {
	if got.replayed {
		ds.tell("answers that had been lost")
	}
	switch request := d.pending.(type) {
	case *quotadv1.AcquireRequest:
		d.taken, d.expiry, d.stage = amountsOf(request.GetCharges()), got.expiry, spent
		if request.GetHold() == nil {
			ds.tell("acquires without hold")
			return
		}
		ds.tell("reservations")
		d.stage = held
		ds.punctual(d, got, request.GetHold(), begun, ended)
	case *quotadv1.ExtendRequest:
		ds.tell("extensions")
		if !got.replayed && begun.After(d.expiry.Add(time.Millisecond)) {
			ds.faults("%s: extended after %s, when it was to expire", d.id, d.expiry)
		}
		for l, n := range amountsOf(request.GetCharges()) {
			d.taken.add(l, n)
		}
		if got.expiry.Before(d.expiry) {
			ds.faults("%s: an extension moved its expiry from %s back to %s", d.id, d.expiry, got.expiry)
		}
		d.expiry = got.expiry
	case *quotadv1.SettleRequest:
		ds.settle(d, request.GetCharges(), ended)
		d.last = request
	case *quotadv1.ReleaseRequest:
		ds.tell("releases")
		d.stage, d.last = released, request
	}
}

// settle notes what a reservation really used: what is not named, as it was held.
func (ds *deals) settle(d *deal, named []*quotadv1.Charge, ended time.Time) {
	ds.tell("settlements")
	late := !ended.Before(d.expiry)
	if late {
		ds.tell("late settlements")
	}
	d.stage, d.used, d.over = settled, make(amounts), make(amounts)
	for l, n := range d.taken {
		d.used.add(l, n)
	}
	for _, c := range named { // 0 is an amount, too
		l := line{c.GetBucket(), c.GetUnit()}
		d.used.add(l, c.GetAmount()-d.used[l])
	}
	for l, n := range d.used {
		switch more := n - d.taken[l]; {
		case late && d.frees: // what it held may be somebody else's by now
			d.over.add(l, n)
		case more > 0:
			d.over.add(l, more)
		}
	}
}

// punctual holds the expiry of a new reservation against the time at which it was made.
func (ds *deals) punctual(d *deal, got reply, hold *durationpb.Duration, begun, ended time.Time) {
	first, last := begun.Add(hold.AsDuration()-time.Millisecond), ended.Add(hold.AsDuration())
	if !got.replayed && (got.expiry.Before(first) || got.expiry.After(last)) {
		ds.faults("%s: held for %s from between %s and %s, and is to expire at %s", d.id, hold.AsDuration(), begun, ended, got.expiry)
	}
}

// learn sends again what was not answered, until each has its one true answer. Nothing else may be running.
func (ds *deals) learn(ctx context.Context, c *client) {
	var pending []*deal
	for _, d := range ds.live {
		if d.pending != nil {
			pending = append(pending, d)
		}
	}
	each(pending, func(d *deal) {
		for ds.send(ctx, c, d, grpc.WaitForReady(true)) == perhaps && ctx.Err() == nil {
		}
		ds.put(d)
	})
}

// compare holds what a ledger shows against what its clients know.
func (ds *deals) compare(p *picture) {
	used, holds, open := maps.Clone(ds.past), make(amounts), make(map[string]int64)
	for _, d := range ds.live {
		u, h := d.at(p.from)
		used.addAll(u)
		holds.addAll(h)
		for bucket := range bucketsOf(h) {
			open[bucket]++
		}
		if r := p.open[d.id]; h != nil && r == nil {
			ds.faults("lost: %s is held until %s, and not listed as open", d.id, d.expiry)
		} else if h != nil && !maps.Equal(amountsOf(r.GetCharges()), h) {
			ds.faults("lost: %s holds %v, and is listed with %v", d.id, h, r.GetCharges())
		}
	}
	for id := range p.open {
		switch d := ds.all[id]; {
		case d == nil:
			ds.faults("invented: %s is listed as open", id)
		case d.stage != held:
			ds.faults("lost: %s is %s, and listed as open", id, d.stage)
		case !d.expiry.After(p.from):
			ds.faults("%s expired at %s, and is listed as open at %s", id, d.expiry, p.from)
		}
	}
	ds.differ("used", p.used, used)
	ds.differ("held", p.held, holds)
	for bucket, n := range p.inFlight {
		if n != open[bucket] {
			ds.faults("%s: %d reservations in flight, want %d", bucket, n, open[bucket])
		}
	}
	ds.bounded(p)
	ds.listed(p)
}

// differ tells which counts are not as they should be.
func (ds *deals) differ(what string, got, want amounts) {
	for l := range want {
		if got[l] < want[l] {
			ds.faults("lost: %d %s of %s are %s, want %d", got[l], l.unit, l.bucket, what, want[l])
		}
	}
	for l := range got {
		if got[l] > want[l] {
			ds.faults("invented: %d %s of %s are %s, want %d", got[l], l.unit, l.bucket, what, want[l])
		}
	}
}

// bounded tells which counts are above their limit by more than settlements may have brought them there.
func (ds *deals) bounded(p *picture) {
	over := maps.Clone(ds.over)
	for _, d := range ds.live {
		over.addAll(d.over)
	}
	for l, limit := range p.limit {
		if n := p.used[l] + p.held[l]; n > limit+over[l] {
			ds.faults("%d %s of %s are used and held, above the limit of %d and overage of at most %d", n, l.unit, l.bucket, limit, over[l])
		}
	}
	for bucket, most := range p.most {
		if p.inFlight[bucket] > most {
			ds.faults("%s: %d reservations in flight, above its limit of %d", bucket, p.inFlight[bucket], most)
		}
	}
}

// listed holds what a ledger says is held against the reservations that it lists as open. This one needs no model.
func (ds *deals) listed(p *picture) {
	holds := make(amounts)
	for _, r := range p.open {
		holds.addAll(amountsOf(r.GetCharges()))
	}
	ds.differ("held by open reservations", holds, p.held)
}

// fold puts aside what is final, so that the next comparison is not longer than this one.
func (ds *deals) fold(t time.Time) {
	live := ds.live[:0]
	for _, d := range ds.live {
		if !d.final(t) {
			live = append(live, d)
			continue
		}
		used, _ := d.at(t)
		ds.past.addAll(used)
		ds.over.addAll(d.over)
		ds.ended = append(ds.ended, d)
		if d.stage == held && d.frees {
			ds.tell("expiries that gave back")
		} else if d.stage == held {
			ds.tell("expiries that charged")
		}
	}
	clear(ds.live[len(live):])
	ds.live = live
}

// history holds the states that a ledger listed between two times, of reservations long ended too, against those that its clients
// know.
func (ds *deals) history(all []*quotadv1.Reservation, from, to time.Time) {
	seen := make(map[string]bool)
	for _, r := range all {
		d := ds.all[r.GetRequestId()]
		if d == nil || d.acquire.GetHold() == nil {
			ds.faults("invented: %s is listed as a reservation", r.GetRequestId())
			continue
		}
		seen[d.id] = true
		want := map[stage]quotadv1.ReservationState{
			held:     quotadv1.ReservationState_RESERVATION_STATE_OPEN,
			settled:  quotadv1.ReservationState_RESERVATION_STATE_SETTLED,
			released: quotadv1.ReservationState_RESERVATION_STATE_RELEASED,
		}[d.stage]
		if d.stage == held && !d.expiry.After(to) {
			want = quotadv1.ReservationState_RESERVATION_STATE_EXPIRED
		}
		if r.GetState() != want && (d.stage != held || d.expiry.Before(from) || d.expiry.After(to)) {
			ds.faults("lost: %s is %s, and listed as %s", d.id, d.stage, r.GetState())
		}
		if d.stage == settled && !maps.Equal(amountsOf(r.GetSettled()), d.used) {
			ds.faults("lost: %s was settled with %v, and is listed with %v", d.id, d.used, r.GetSettled())
		}
	}
	for id, d := range ds.all {
		if d.acquire.GetHold() != nil && d.stage != asked && !seen[id] {
			ds.faults("lost: %s is %s, and not listed", id, d.stage)
		}
	}
}

// recall sends again what was acknowledged, which must be known and change nothing, and what contradicts it, which must be refused.
func (ds *deals) recall(ctx context.Context, c *client, some []*deal) {
	each(some, func(d *deal) {
		if d.stage == asked {
			ds.refuses(ctx, c, d, "UNKNOWN_RESERVATION")
			return
		}
		again := ""
		switch {
		case d.stage == released:
			again = "ALREADY_RELEASED"
		case d.stage == held && d.frees: // it has expired, or it would not have ended
			again = "RESERVATION_EXPIRED"
		}
		if got, err := c.do(ctx, d.acquire); reasonOf(err) != again || again == "" && (err != nil || !got.replayed) {
			ds.faults("lost: %s is %s, and answered by %v when it is acquired again, want %q", d.id, d.stage, err, again)
		}
		if d.last != nil {
			if got, err := c.do(ctx, d.last); err != nil || !got.replayed {
				ds.faults("lost: %s is %s, and not known when %T is sent again: %v", d.id, d.stage, d.last, err)
			}
		}
		if reason := map[stage]string{
			settled: "ALREADY_SETTLED", released: "ALREADY_RELEASED", spent: "NOT_A_RESERVATION",
		}[d.stage]; reason != "" {
			ds.refuses(ctx, c, d, reason)
		}
	})
}

// refuses wants a settlement that nobody made before to be refused.
func (ds *deals) refuses(ctx context.Context, c *client, d *deal, reason string) {
	bucket := d.acquire.GetCharges()[0].GetBucket()
	_, err := c.Settle(ctx, &quotadv1.SettleRequest{RequestId: d.id, Charges: []*quotadv1.Charge{
		{Bucket: bucket, Unit: "calls", Amount: new(d.used[line{bucket, "calls"}] + 1)},
	}})
	if reasonOf(err) != reason {
		ds.faults("lost: %s is %s, and is answered by %v when it is settled otherwise, want %s", d.id, d.stage, err, reason)
	}
}

// sampleEnded returns some of what is over.
func (ds *deals) sampleEnded(r *rand.Rand, n int) []*deal {
	some := slices.Clone(ds.ended)
	r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some[:min(n, len(some))]
}

// bucketsOf returns the buckets and the parents that amounts were charged to.
func bucketsOf(a amounts) map[string]bool {
	all := make(map[string]bool)
	for l := range a {
		for _, bucket := range lineage(l.bucket) {
			all[bucket] = true
		}
	}
	return all
}
