package systemtest_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A reply is what a granted call said.
type reply struct {
	replayed bool
	expiry   time.Time // of a reservation that was made or extended
}

// do makes the call that a request belongs to.
func (c *client) do(ctx context.Context, request proto.Message, o ...grpc.CallOption) (reply, error) {
	switch request := request.(type) {
	case *quotadv1.AcquireRequest:
		r, err := c.Acquire(ctx, request, o...)
		return reply{r.GetReplayed(), r.GetExpireTime().AsTime()}, err
	case *quotadv1.ExtendRequest:
		r, err := c.Extend(ctx, request, o...)
		return reply{r.GetReplayed(), r.GetExpireTime().AsTime()}, err
	case *quotadv1.SettleRequest:
		r, err := c.Settle(ctx, request, o...)
		return reply{replayed: r.GetReplayed()}, err
	case *quotadv1.ReleaseRequest:
		r, err := c.Release(ctx, request, o...)
		return reply{replayed: r.GetReplayed()}, err
	}
	return reply{}, fmt.Errorf("no call takes a %T", request)
}

// holdBuckets are what is reserved in, and how the buckets differ. Each counts calls and tokens without an end.
func holdBuckets(low int64) map[string]*quotadv1.Bucket {
	return map[string]*quotadv1.Bucket{
		"hold":        {},
		"hold/charge": {},
		"hold/free":   {OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_RELEASE},
		"hold/busy":   {MaxInFlight: 6},
		"hold/low":    {Limits: []*quotadv1.Limit{{Max: low}}},                                                // settled with no more than was held
		"hold/over":   {Limits: []*quotadv1.Limit{{Max: low}}, OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_RELEASE}, // settled with more, too
	}
}

// A picture is what a daemon shows of its reservations and counts at one time.
type picture struct {
	used, held, limit amounts
	inFlight, most    map[string]int64
	open              map[string]*quotadv1.Reservation
	from, to          time.Time // between which it was taken
}

// A holder kills a daemon again and again while clients reserve, settle, release and extend, and holds what comes back against
// what they were told.
type holder struct {
	*site
	*deals
	chance *rand.Rand
	low    int64     // the limit of hold/low and hold/over, which is to run out on the way
	killed time.Time // when the daemon before was
	opened int       // reservations that were open when they were looked at, all pictures together
	slept  int       // reservations that expired while no daemon ran
}

func newHolder(t *testing.T, low int64) *holder {
	t.Helper()
	return &holder{site: newSite(t), deals: newDeals(), chance: seeded(t), low: low}
}

func (h *holder) declare(c *client) {
	h.t.Helper()
	for name, b := range holdBuckets(h.low) {
		b.Name = name
		if b.Limits == nil {
			b.Limits = []*quotadv1.Limit{{Max: 1e12}}
		}
		b.Limits[0].Unit, b.Limits[0].Window = "calls", quotadv1.Window_WINDOW_EVER
		b.Limits = append(b.Limits, &quotadv1.Limit{Unit: "tokens", Window: quotadv1.Window_WINDOW_EVER, Max: 1e12})
		if _, err := c.SetBucket(h.t.Context(), &quotadv1.SetBucketRequest{Bucket: b}); err != nil {
			h.t.Fatalf("declaring %s: %v", name, err)
		}
	}
}

// brief is a time to hold that may end while clients go on, while no daemon runs, or soon after one has started.
func brief(r *rand.Rand) *durationpb.Duration {
	if r.IntN(2) == 0 {
		return durationpb.New(time.Hour)
	}
	return durationpb.New(time.Duration(1+r.IntN(250)) * time.Millisecond)
}

// fresh chooses what a new deal takes.
func (h *holder) fresh(r *rand.Rand) *deal {
	names := []string{"hold/charge", "hold/charge", "hold/free", "hold/free", "hold/busy", "hold/low", "hold/over", "both"}
	bucket := names[r.IntN(len(names))]
	one := func(bucket, unit string, n int64) *quotadv1.Charge {
		return &quotadv1.Charge{Bucket: bucket, Unit: unit, Amount: new(n)}
	}
	var taken []*quotadv1.Charge
	if bucket == "both" { // all or nothing: nothing, once low has run out
		bucket, taken = "hold/charge", append(taken, one("hold/low", "calls", 1))
	}
	taken = append(taken, one(bucket, "calls", 1+r.Int64N(4)))
	if r.IntN(2) == 0 {
		taken = append(taken, one(bucket, "tokens", 1+r.Int64N(1000)))
	}
	request := &quotadv1.AcquireRequest{Bucket: bucket, Charges: taken, Hold: brief(r)}
	if r.IntN(8) == 0 {
		request.Hold = nil
	}
	return h.begin(request, holdBuckets(h.low)[bucket].GetOnExpiry() == quotadv1.OnExpiry_ON_EXPIRY_RELEASE)
}

// next chooses how an old deal goes on; it may be left as it is for good, if its time will come.
func (d *deal) next(r *rand.Rand) {
	switch n := r.IntN(10); {
	case n < 3 && (d.stage == spent || time.Until(d.expiry) < time.Minute):
		d.left = true
	case d.stage == spent || n < 5:
		d.pending = &quotadv1.ReleaseRequest{RequestId: d.id}
	case n < 7 && d.extended < 4:
		d.extended++
		request := &quotadv1.ExtendRequest{RequestId: d.id, ExtendId: fmt.Sprint(d.extended), Hold: brief(r)}
		if r.IntN(2) == 0 {
			request.Charges = []*quotadv1.Charge{{Bucket: d.bucket, Unit: []string{"calls", "tokens"}[r.IntN(2)], Amount: new(1 + r.Int64N(3))}}
		}
		d.pending = request
	default:
		d.pending = &quotadv1.SettleRequest{RequestId: d.id, Charges: d.actual(r)}
	}
}

// actual chooses what was really used: of some less, of hold/over more, and now and then of a unit that was not held.
func (d *deal) actual(r *rand.Rand) []*quotadv1.Charge {
	var used []*quotadv1.Charge
	for l, n := range d.taken {
		most := n
		if l.bucket == "hold/over" {
			most = 2 * n
		}
		if r.IntN(3) > 0 {
			used = append(used, &quotadv1.Charge{Bucket: l.bucket, Unit: l.unit, Amount: new(r.Int64N(most + 1))})
		}
	}
	if tokens := (line{d.bucket, "tokens"}); d.taken[tokens] == 0 && r.IntN(4) == 0 {
		used = append(used, &quotadv1.Charge{Bucket: d.bucket, Unit: tokens.unit, Amount: new(1 + r.Int64N(100))})
	}
	return used
}

// load has clients begin deals and go on with others, those of daemons before too, until their daemon is gone.
func (h *holder) load(d *daemon, after time.Duration) {
	d.killUnder(h.chance, after, func(ctx context.Context, conn *client, r *rand.Rand) bool {
		d := h.take(r)
		if d == nil {
			d = h.fresh(r)
		} else if d.next(r); d.left {
			return true
		}
		if h.send(ctx, conn, d) == perhaps {
			return false
		}
		h.put(d)
		return true
	})
	h.killed = time.Now()
}

// look takes a picture of which all parts are of one time: nothing changes meanwhile, and nothing expires.
func (h *holder) look(ctx context.Context, c *client) *picture {
	h.t.Helper()
	for ctx.Err() == nil {
		p := &picture{from: time.Now()}
		p.counts(ctx, h.t, c)
		p.open = make(map[string]*quotadv1.Reservation)
		for _, r := range c.reservations(ctx, h.t, quotadv1.ReservationState_RESERVATION_STATE_OPEN) {
			p.open[r.GetRequestId()] = r
		}
		again := new(picture)
		again.counts(ctx, h.t, c)
		p.to = time.Now()
		expires := slices.ContainsFunc(h.live, func(d *deal) bool {
			return d.stage == held && d.expiry.After(p.from.Add(-time.Millisecond)) && !d.expiry.After(p.to.Add(time.Millisecond))
		})
		if !expires && maps.Equal(p.used, again.used) && maps.Equal(p.held, again.held) && maps.Equal(p.inFlight, again.inFlight) {
			return p
		}
	}
	h.t.Fatal("the counts do not stand still")
	return nil
}

// counts reads how all buckets stand.
func (p *picture) counts(ctx context.Context, t *testing.T, c *client) {
	t.Helper()
	page, err := c.ListBuckets(ctx, &quotadv1.ListBucketsRequest{Prefix: "hold", PageSize: 1000})
	if err != nil {
		t.Fatalf("listing buckets: %v", err)
	}
	p.used, p.held, p.limit = make(amounts), make(amounts), make(amounts)
	p.inFlight, p.most = make(map[string]int64), make(map[string]int64)
	for _, view := range page.GetBuckets() {
		p.inFlight[view.GetName()] = view.GetInFlight()
		if view.GetMaxInFlight() > 0 {
			p.most[view.GetName()] = view.GetMaxInFlight()
		}
		for _, b := range view.GetBalances() {
			l := line{b.GetBucket(), b.GetUnit()}
			p.used.add(l, b.GetUsed())
			p.held.add(l, b.GetHeld())
			p.limit.add(l, b.GetLimit())
		}
	}
}

// reservations lists all of a state.
func (c *client) reservations(ctx context.Context, t *testing.T, state quotadv1.ReservationState) []*quotadv1.Reservation {
	t.Helper()
	var all []*quotadv1.Reservation
	request := &quotadv1.ListReservationsRequest{Prefix: "hold", State: state, PageSize: 1000}
	for {
		page, err := c.ListReservations(ctx, request)
		if err != nil {
			t.Fatalf("listing reservations: %v", err)
		}
		all = append(all, page.GetReservations()...)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return all
		}
	}
}

// check asks the daemon that came back; with history for what became of every reservation, too. The order matters: what is sent
// again may make whole what was lost.
func (h *holder) check(d *daemon, history bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	conn := d.dial(h.t)
	defer conn.close()
	up := time.Now()
	for _, d := range h.live {
		if d.stage == held && d.expiry.After(h.killed) && d.expiry.Before(up) {
			h.slept++
		}
	}
	h.learn(ctx, conn)
	p := h.look(ctx, conn)
	h.compare(p)
	h.opened += len(p.open)
	if history {
		from := time.Now()
		all := conn.reservations(ctx, h.t, quotadv1.ReservationState_RESERVATION_STATE_UNSPECIFIED)
		h.history(all, from, time.Now())
	}
	h.fold(p.from)
	h.recall(ctx, conn, h.sampleEnded(h.chance, 8))
}

// cycle starts a daemon on what the one before left behind, checks it, loads it and kills it. Some daemons are killed before
// they serve.
func (h *holder) cycle(history bool) {
	if h.chance.IntN(10) == 0 {
		d := h.launch()
		// As in load, the kill has to come at any moment.
		time.Sleep(time.Duration(h.chance.Int64N(int64(40 * time.Millisecond))))
		d.kill()
	}
	d := h.start()
	h.check(d, history)
	h.load(d, time.Duration(h.chance.Int64N(int64(20*time.Millisecond))))
}

// Reservations outlive their daemons: what was settled stays settled, what was released is free, what is held is held until its
// time, and expires then whether or not somebody is there to see it.
func TestHoldCrash(t *testing.T) {
	t.Parallel()
	cycles := portion(200, 50, 1000)
	h := newHolder(t, int64(cycles))
	d := h.start()
	h.declare(d.dial(t))
	d.kill()
	for i := range cycles {
		h.cycle(i%20 == 0)
		if i%20 == 0 {
			h.verify(&h.findings)
		}
		if faults := h.found(); len(faults) > 0 {
			t.Fatalf("cycle %d:\n%s", i+1, strings.Join(faults, "\n"))
		}
	}
	d = h.start()
	h.check(d, true)
	h.recall(t.Context(), d.dial(t), h.sampleEnded(h.chance, 1000))
	d.stop()
	report := h.verify(&h.findings)
	if faults := h.found(); len(faults) > 0 {
		t.Fatal(strings.Join(faults, "\n"))
	}
	if !report.Clean {
		t.Error("the last daemon stopped in order, but its file does not say so")
	}
	for _, what := range []string{
		"reservations", "settlements", "late settlements", "releases", "extensions", "extensions that came too late", "denials",
		"acquires without hold", "answers that had been lost", "expiries that charged", "expiries that gave back",
	} {
		if h.told[what] == 0 {
			t.Errorf("no %s: the load is too small", what)
		}
	}
	if h.slept == 0 {
		t.Error("nothing expired while no daemon ran: the load is too small")
	}
	t.Logf("%d kills: %v; %d open after each; %d expired while no daemon ran; verified %d receipts",
		cycles, h.told, h.opened/(cycles+1), h.slept, report.Receipts)
}

// Control: a daemon on the file as it was before the last answers, as if their commits had been lost, is caught by each way of
// looking at it.
func TestHoldCrashCatchesLostCommits(t *testing.T) {
	t.Parallel()
	h := newHolder(t, 100)
	d := h.start()
	conn := d.dial(t)
	h.declare(conn)
	var old []*deal
	for range 4 {
		old = append(old, h.begin(&quotadv1.AcquireRequest{
			Bucket: "hold/free", Charges: []*quotadv1.Charge{{Bucket: "hold/free", Unit: "calls", Amount: new(int64(3))}},
			Hold: durationpb.New(time.Hour),
		}, true))
		h.send(t.Context(), conn, old[len(old)-1])
	}
	d.stop()
	h.copyFile("quotad.db", "before")
	d = h.start()
	h.check(d, true)
	if faults := h.found(); len(faults) > 0 {
		t.Fatalf("before anything was lost: %q", faults)
	}
	conn = d.dial(t)
	old[0].pending = &quotadv1.SettleRequest{RequestId: old[0].id}
	old[1].pending = &quotadv1.ReleaseRequest{RequestId: old[1].id}
	old[2].pending = &quotadv1.ExtendRequest{RequestId: old[2].id, ExtendId: "1", Charges: []*quotadv1.Charge{{Bucket: "hold/free", Unit: "calls", Amount: new(int64(5))}}}
	added := h.begin(proto.CloneOf(old[0].acquire), true)
	for _, deal := range append(old[:3:3], added) {
		if a := h.send(t.Context(), conn, deal); a != granted {
			t.Fatalf("%s: answer %d", deal.id, a)
		}
	}
	d.kill()
	h.copyFile("before", "quotad.db")
	d = h.start()
	h.check(d, true)
	told := strings.Join(h.found(), "\n")
	for _, want := range []string{
		old[0].id + " is settled, and listed as open",
		old[1].id + " is released, and listed as open",
		old[2].id + " holds map[{hold/free calls}:8], and is listed with",
		added.id + " is held until",
		added.id + " is held, and not listed",
		old[0].id + " is settled, and listed as RESERVATION_STATE_OPEN",
		"lost: 0 calls of hold are used, want 3",
		"lost: 12 calls of hold/free are held, want 14",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("not caught: %q in\n%s", want, told)
		}
	}
}

// Control: clients that believe an answer that they did not get are caught.
func TestHoldCrashCatchesWishes(t *testing.T) {
	t.Parallel()
	h := newHolder(t, 100)
	d := h.start()
	conn := d.dial(t)
	h.declare(conn)
	deal := h.fresh(h.chance)
	h.grant(deal, reply{}, time.Now(), time.Now())
	deal.pending, deal.stage = nil, spent
	h.check(d, false)
	if faults := h.found(); !slices.ContainsFunc(faults, func(fault string) bool { return strings.HasPrefix(fault, "lost: 0 calls of hold") }) {
		t.Errorf("an acquire that was never sent is not missed: %q", faults)
	}
}

// copyFile copies a file of the data directory, whose daemon is gone.
func (h *holder) copyFile(from, to string) {
	h.t.Helper()
	data, err := os.ReadFile(filepath.Join(h.dir, from))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, to), data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}
