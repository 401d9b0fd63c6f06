package store_test

import (
	"math"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// The places of a history are two children of one parent. All are limited by the day; what the first child's reservations hold is
// used when they expire, what the second's hold is given back.
const (
	charging = iota
	givingBack
	app
	places
)

var placeNames = [places]quota.Bucket{"app/charging", "app/giving-back", "app"}

const (
	childLimit, appLimit       = 30, 48
	childInFlight, appInFlight = 7, 11
	shareMax                   = 15 // percent of its limit that one reservation may hold in the second child
	shareOfLimit               = 5  // that is so many
)

// modelPhase is how far a request has come.
type modelPhase uint8

const (
	isUnseen modelPhase = iota
	isPlain             // used at once
	isHeld
	isSettled
	isReleased
	isExpired
)

// modelRequest is what the model remembers of one request.
type modelRequest struct {
	phase    modelPhase
	hold     bool       // it is, or was, a reservation
	late     bool       // it was settled or released when it had expired
	swept    bool       // its expiry has been carried out, though the time of it has come back
	child    int8       // the place
	first    int8       // what was acquired at first: another amount under the same id is another request
	settled  int8       // what it was settled with
	took     [2]int8    // on the first day and on the second, extensions included
	forgot   [2][2]bool // of what it used on a day: whether a reset has forgotten it in the child and in "app"
	extended [2]content
	expiry   time.Duration
}

// content is what an extension asks for; the zero value is none.
type content struct {
	amount int8
	hold   int16 // in milliseconds
}

// modelCount is one count.
type modelCount struct{ used, held int64 }

// modelState is a quota as a child would keep it: what time it is, a note for each bucket and day, and how far each request has
// come; written apart from the code under test. It is small and can be compared, as the checker tries a great many orders and
// remembers the states that it has seen. Its times are those of the ledger, from midnight on.
type modelState struct {
	run      int           // which start of the daemon it is
	now      time.Duration // never goes back but for a start
	day      int           // the newest on which anything was decided; never goes back
	swept    time.Duration // all expiries until then have surely been carried out
	counts   [2][places]modelCount
	requests [historyClients * historyRequests]modelRequest
}

func newModelState() modelState {
	return modelState{now: math.MinInt64, swept: math.MinInt64}
}

func dayOf(at time.Duration) int {
	if at < 0 {
		return 0
	}
	return 1
}

// step tells whether an answer may follow, and what then is. What nobody was told of may have happened until the next start.
func (m modelState) step(in asked, out answered) (bool, modelState) {
	switch {
	case out.unknown && in.run < m.run:
		return true, m
	case in.verb == toLook:
		ok := m.look(in, out)
		return ok, m
	case in.run != m.run || out.at < m.now:
		return false, m
	}
	m.advance(out.at)
	want, r := m.decide(in)
	if want.outcome == quota.Denied || in.verb == toReset { // what depends on the holds that are over waits until they are
		m.swept = m.now
	}
	if want.outcome == quota.Denied || want.outcome == quota.Done && !want.replayed {
		m.day = dayOf(m.now)
	}
	ok := out.unknown || m.agree(want, r, out)
	return ok, m
}

// advance lets the time pass: first of all, what is over expires.
func (m *modelState) advance(at time.Duration) {
	m.now = at
	for i := range m.requests {
		if r := &m.requests[i]; r.phase == isHeld && r.expiry <= at {
			r.phase = isExpired
			m.each(r, func(c *modelCount, day, _ int) {
				c.held -= int64(r.took[day])
				if r.child == charging {
					c.used += int64(r.took[day])
				}
			})
		}
	}
}

// each calls fn for every count that a request has taken from; of is 0 for that of its child and 1 for that of "app".
func (m *modelState) each(r *modelRequest, fn func(c *modelCount, day, of int)) {
	for day, took := range r.took {
		if took > 0 {
			fn(&m.counts[day][r.child], day, 0)
			fn(&m.counts[day][app], day, 1)
		}
	}
}

// decide makes the change that is asked for, if that can be, and returns what is to be answered. r is the request whose counts are to
// be shown; nil if none are.
func (m *modelState) decide(in asked) (want answered, r *modelRequest) {
	if in.verb == toReset {
		return m.reset(in.place), nil
	}
	r = &m.requests[in.n]
	switch {
	case in.stranger:
		return answered{outcome: quota.UnknownReservation}, nil
	case in.verb == toAcquire:
		want = m.acquire(r, in)
	case r.phase == isUnseen:
		want.outcome = quota.UnknownReservation
	case in.verb == toRelease:
		want = m.release(r)
	case !r.hold && r.phase == isReleased:
		want.outcome = quota.AlreadyReleased
	case !r.hold:
		want.outcome = quota.NotReservation
	case in.verb == toSettle:
		want = m.settle(r, in)
	case in.verb == toExtend:
		want = m.extend(r, in)
	}
	switch want.outcome {
	case quota.Done:
		return want, r
	case quota.AlreadySettled, quota.AlreadyReleased, quota.AlreadyExpired:
		want.stands = r.listed()
	}
	return want, nil
}

// listed is how a reservation is shown; the zero value if it is none.
func (r *modelRequest) listed() modelListing {
	if !r.hold {
		return modelListing{}
	}
	return modelListing{phase: r.phase, expiry: r.expiry, held: int64(r.took[0]) + int64(r.took[1]), settled: int64(r.settled)}
}

func replayed(r *modelRequest) answered {
	want := answered{outcome: quota.Done, replayed: true, expiry: r.expiry, late: r.late}
	if r.hold {
		want.phase = r.phase
	}
	return want
}

// repeated is replayed, unless what was granted has been given back.
func (m *modelState) repeated(r *modelRequest) answered {
	switch {
	case r.phase == isReleased:
		return answered{outcome: quota.AlreadyReleased}
	case r.phase == isExpired && r.child == givingBack:
		return answered{outcome: quota.AlreadyExpired}
	}
	return replayed(r)
}

func (m *modelState) acquire(r *modelRequest, in asked) answered {
	switch {
	case r.phase != isUnseen && int64(r.first) != in.amount:
		return answered{outcome: quota.IDReused}
	case r.phase != isUnseen:
		return m.repeated(r)
	}
	fresh := modelRequest{phase: isPlain, hold: in.hold > 0, child: int8(in.place), first: int8(in.amount)}
	if refused := m.refuse(&fresh, in); refused != nil {
		return answered{outcome: quota.Denied, refused: refused}
	}
	want := answered{outcome: quota.Done}
	if fresh.hold {
		fresh.phase, fresh.expiry = isHeld, m.now+in.hold
		want.phase, want.expiry = fresh.phase, fresh.expiry
	}
	*r = fresh
	m.take(r, in.amount)
	return want
}

func (m *modelState) take(r *modelRequest, amount int64) {
	today := dayOf(m.now)
	r.took[today] += int8(amount)
	for _, place := range []int8{r.child, app} {
		if c := &m.counts[today][place]; r.hold {
			c.held += amount
		} else {
			c.used += amount
		}
	}
}

// refuse returns every bound that is in the way; nil if none is.
func (m *modelState) refuse(r *modelRequest, in asked) (refused []refusal) {
	today := &m.counts[dayOf(m.now)]
	against := func(place int, why bound) {
		refused = append(refused, refusal{place, why, today[place]})
	}
	child := int(r.child)
	full := func(place int, most int64) bool { return today[place].used+today[place].held+in.amount > most }
	switch {
	case r.hold && child == givingBack && int64(r.took[dayOf(m.now)])+in.amount > shareOfLimit:
		against(child, byShare)
	case in.ceiling > 0 && full(child, in.ceiling):
		against(child, byCeiling)
	case full(child, childLimit):
		against(child, byLimit)
	}
	if full(app, appLimit) {
		against(app, byLimit)
	}
	if !r.hold || r.phase == isHeld {
		return refused
	}
	open := [places]int64{}
	for i := range m.requests {
		if m.requests[i].phase == isHeld {
			open[m.requests[i].child]++
			open[app]++
		}
	}
	for _, b := range []struct {
		place int
		most  int64
	}{{child, childInFlight}, {app, appInFlight}} {
		if open[b.place] >= b.most {
			refused = append(refused, refusal{b.place, byInFlight, modelCount{held: open[b.place]}})
		}
	}
	return refused
}

// settle lets the first day's part be used first; what is beyond all is used on the last day.
func (m *modelState) settle(r *modelRequest, in asked) answered {
	first, all := int64(r.took[0]), int64(r.took[0])+int64(r.took[1])
	if in.named {
		all = in.amount
	}
	switch {
	case r.phase == isSettled && int64(r.settled) == all:
		return replayed(r)
	case r.phase == isSettled:
		return answered{outcome: quota.AlreadySettled}
	case r.phase == isReleased:
		return answered{outcome: quota.AlreadyReleased}
	}
	if r.took[1] == 0 {
		first = all
	}
	first = min(first, all)
	m.end(r, isSettled, [2]int64{first, all - first})
	r.settled = int8(all)
	return answered{outcome: quota.Done, late: r.late}
}

func (m *modelState) release(r *modelRequest) answered {
	switch r.phase {
	case isSettled:
		return answered{outcome: quota.AlreadySettled}
	case isReleased:
		return replayed(r)
	case isUnseen, isPlain, isHeld, isExpired:
	}
	m.end(r, isReleased, [2]int64{})
	return answered{outcome: quota.Done, late: r.late}
}

// end makes what was used of a request on each day all that counts of it. What a reset has forgotten is not given back.
func (m *modelState) end(r *modelRequest, phase modelPhase, used [2]int64) {
	m.each(r, func(c *modelCount, day, of int) {
		more := used[day]
		switch took := int64(r.took[day]); {
		case r.phase == isHeld:
			c.held -= took
		case r.phase == isPlain, r.child == charging:
			more -= took
		}
		if r.forgot[day][of] {
			more = max(0, more)
		}
		c.used += more
	})
	r.phase, r.late = phase, r.phase == isExpired
}

func (m *modelState) extend(r *modelRequest, in asked) answered {
	asks := content{int8(in.amount), int16(in.hold.Milliseconds())}
	if in.extension > 0 {
		switch r.extended[in.extension-1] {
		case content{}:
		case asks:
			return m.repeated(r)
		default:
			return answered{outcome: quota.IDReused}
		}
	}
	switch r.phase {
	case isSettled:
		return answered{outcome: quota.AlreadySettled}
	case isReleased:
		return answered{outcome: quota.AlreadyReleased}
	case isExpired:
		return answered{outcome: quota.AlreadyExpired}
	case isUnseen, isPlain, isHeld:
	}
	if in.amount > 0 {
		if refused := m.refuse(r, in); refused != nil {
			return answered{outcome: quota.Denied, refused: refused}
		}
		m.take(r, in.amount)
	}
	if in.hold > 0 {
		r.expiry = max(r.expiry, m.now+in.hold)
	}
	if in.extension > 0 {
		r.extended[in.extension-1] = asks
	}
	return answered{outcome: quota.Done, expiry: r.expiry, phase: r.phase}
}

// reset forgets what is used of one place today; what is held stays.
func (m *modelState) reset(place int) answered {
	today := dayOf(m.now)
	c := &m.counts[today][place]
	want := answered{outcome: quota.Done}
	if c.used > 0 {
		want.counts = []shown{{today, place, *c}}
	}
	c.used = 0
	for i := range m.requests {
		r := &m.requests[i]
		if r.took[today] == 0 || r.phase != isPlain && (r.phase != isExpired || r.child != charging) {
			continue
		}
		switch place {
		case int(r.child):
			r.forgot[today][0] = true
		case app:
			r.forgot[today][1] = true
		}
	}
	return want
}

// agree tells whether an answer is what it should be. Decisions are exact; but the counts that a granted one shows may have holds in
// them whose time is over, as long as nothing depended on them.
func (m *modelState) agree(want answered, r *modelRequest, got answered) bool {
	if want.outcome != got.outcome || want.phase != got.phase || want.replayed != got.replayed || want.late != got.late || want.expiry != got.expiry ||
		want.stands != got.stands || !slices.Equal(want.refused, got.refused) {
		return false
	}
	if r == nil {
		return slices.Equal(want.counts, got.counts)
	}
	i := 0
	ok := true
	m.each(r, func(_ *modelCount, day, of int) {
		place := app
		if of == 0 {
			place = int(r.child)
		}
		ok = ok && i < len(got.counts) && got.counts[i].day == day && got.counts[i].place == place
		i++
	})
	return ok && i == len(got.counts) && m.shows(got.counts)
}

// shows tells whether counts are as they should be, but for expiries that have not been carried out: those after some time, all of
// them.
func (m *modelState) shows(counts []shown) bool {
	if m.showsWithout(counts, math.MaxInt64) {
		return true
	}
	for i := range m.requests {
		if r := &m.requests[i]; m.unswept(r, m.swept) && m.showsWithout(counts, r.expiry-1) {
			return true
		}
	}
	return false
}

// unswept tells whether a request has expired, and perhaps that has not been carried out until then.
func (m *modelState) unswept(r *modelRequest, until time.Duration) bool {
	return r.phase == isExpired && !r.swept && r.expiry > max(until, m.swept)
}

func (m *modelState) showsWithout(counts []shown, until time.Duration) bool {
	for _, got := range counts {
		want := m.counts[got.day][got.place]
		for i := range m.requests {
			r := &m.requests[i]
			if !m.unswept(r, until) || got.place != app && got.place != int(r.child) {
				continue
			}
			want.held += int64(r.took[got.day])
			if r.child == charging {
				want.used -= int64(r.took[got.day])
			}
		}
		if want != got.modelCount {
			return false
		}
	}
	return true
}

// look compares all that there is with a listing, which is made while nobody else calls: after a start, and at the end. A start may
// find the clock behind what the ledger had, if not on another day; then time goes back, and a hold that was over goes on, unless
// its end has been carried out.
func (m *modelState) look(in asked, out answered) bool {
	if in.run < m.run || in.run > m.run+1 || dayOf(out.at) < m.day || in.run == m.run && out.at < m.now {
		return false
	}
	if in.run > m.run { // until it died the ledger may have carried expiries out that nobody was told of
		m.advance(max(m.now, out.died))
	}
	m.run = in.run
	m.swept = min(m.swept, out.at)
	for i := range m.requests {
		r := &m.requests[i]
		if r.phase != isExpired || r.expiry <= out.at || r.swept {
			continue
		}
		if out.listed[i].phase == isExpired {
			r.swept = true
			continue
		}
		if r.forgot != [2][2]bool{} { // a reset comes after all that was over
			return false
		}
		r.phase = isHeld
		m.each(r, func(c *modelCount, day, _ int) {
			c.held += int64(r.took[day])
			if r.child == charging {
				c.used -= int64(r.took[day])
			}
		})
	}
	m.advance(out.at)
	for i := range m.requests {
		if out.listed[i] != m.requests[i].listed() {
			return false
		}
	}
	for day := range m.counts {
		for place, c := range m.counts[day] {
			if c != (modelCount{}) && !slices.ContainsFunc(out.counts, func(s shown) bool { return s.day == day && s.place == place }) {
				return false
			}
		}
	}
	return m.shows(out.counts)
}
