package store_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/window"
)

var historySeed = flag.Uint64("history.seed", 0, "replay the history with this seed")

const (
	historyClients  = 12
	historyRequests = 8  // that each client makes
	historySteps    = 18 // of each client: requests, and what it does about them and others
)

// ledger is what a client of a history sees: the store, or something that only looks like it.
type ledger interface {
	Apply(context.Context, quota.Op) (quota.Decision, error)
	Reservations(context.Context, store.ReservationQuery) ([]quota.Reservation, string, error)
	Usage(context.Context, store.UsageQuery) ([]quota.Balance, string, error)
	Close() error
}

// verb is what a client asks for.
type verb uint8

const (
	toAcquire verb = iota
	toSettle
	toRelease
	toExtend
	toReset
	toLook // no client's: the listing after a start, and at the end
)

// asked is one call of a history.
type asked struct {
	verb      verb
	run       int // which start of the daemon it was sent to
	n         int // which of the clients' requests, over all clients
	place     int // of an acquire and a reset
	amount    int64
	named     bool          // of a settlement: whether amount is given, or what is held is used
	ceiling   int64         // 0 is none
	hold      time.Duration // 0 is none
	extension int           // its number; 0 is one without an id
	stranger  bool          // it is sent by somebody whose request it is not
}

// answered is what came of it. Times are those of the ledger, from midnight on.
type answered struct {
	unknown        bool          // the daemon died over it
	at             time.Duration // when it was decided, or when the write began that nobody knows the outcome of
	outcome        quota.Outcome
	replayed, late bool
	phase          modelPhase // of the reservation that was asked for
	expiry         time.Duration
	counts         []shown // of a reset those before it, else those after
	refused        []refusal
	stands         modelListing   // what it says of a reservation that has ended
	listed         []modelListing // of toLook: each request
	died           time.Duration  // of toLook after a start: when the run before had died
}

// shown is a count as an answer shows it.
type shown struct {
	day, place int
	modelCount
}

// modelListing is a reservation as it is listed.
type modelListing struct {
	phase         modelPhase
	expiry        time.Duration
	held, settled int64
}

// refusal is one bound that refused.
type refusal struct {
	place int
	why   bound
	modelCount
}

type bound uint8

const (
	byLimit bound = iota
	byCeiling
	byShare
	byInFlight
)

// world is where a history happens: clients, a daemon that may die, its disk, and its clock.
type world struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	disk   func() store.Engine // what is on it stays when the engine is closed
	deaths int                 // how often the daemon is still to die
	broken broken

	midnight time.Time
	shift    dial         // how far the daemon's clock is off
	stamps   atomic.Int64 // orders calls and answers, which a clock that stands still cannot
	calm     atomic.Bool  // nothing fails now
	over     atomic.Bool  // nor any more: the clients have had enough
	starts   []int64      // the stamps at which each run could be called

	mu      sync.Mutex // guards what follows
	daemon  daemon
	up      bool
	history []porcupine.Operation
	granted []int // requests, in the order in which they were
}

// daemon is one run of the ledger's process.
type daemon struct {
	run    int
	store  *store.Store
	ledger ledger // what the clients see of it
	engine *rough
}

// broken is what is wrong with the ledger of a control; the zero value is nothing.
type broken struct {
	wrap      func(*store.Store) ledger            // something between the clients and the store
	tamper    func(*world) func(store.Tx) store.Tx // something between the store and its engine
	unlimited bool                                 // nothing is limited
	accepts   bool                                 // every start believes the clock
	stale     bool                                 // the daemon starts again on a copy that is some writes old
}

// play returns what the clients of a history saw.
func play(t *testing.T, seed uint64, disk func() store.Engine, deaths int, b broken) []porcupine.Operation {
	t.Helper()
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), disk: disk, deaths: deaths, broken: b}
	w.midnight = window.Day.At(time.Now(), time.UTC).End
	w.calm.Store(true)
	w.start()
	w.declare()
	time.Sleep(time.Until(w.midnight) - time.Duration(40+w.rng.IntN(80))*time.Millisecond)
	w.open()
	done := make(chan struct{})
	go func() {
		w.clients()
		w.over.Store(true)
		time.Sleep(time.Minute) // whatever was held is over, and that has been carried out
		close(done)
	}()
	for running := true; running; {
		select {
		case <-w.daemon.store.Failed():
			w.restart()
		case <-done:
			running = false
		}
	}
	w.look(w.stamps.Add(1), 0)
	if err := w.daemon.ledger.Close(); err != nil {
		t.Error(err)
	}
	for i, op := range w.history {
		if op.Output.(answered).unknown { // it happened before the next start, or never
			w.history[i].Return = w.starts[op.Input.(asked).run+1]
		}
	}
	return w.history
}

// start starts a daemon, while nothing fails.
func (w *world) start() {
	w.t.Helper()
	run := len(w.starts)
	e := &rough{Engine: w.disk(), w: w, rng: rand.New(rand.NewPCG(w.rng.Uint64(), 3))}
	if w.broken.tamper != nil {
		e.tamper = w.broken.tamper(w)
	}
	began := time.Now()
	s := open(w.t, e, store.Options{
		Now: w.now, Uptime: func() time.Duration { return time.Since(began) }, AcceptClock: w.broken.accepts,
	})
	d := daemon{run: run, store: s, ledger: s, engine: e}
	if w.broken.wrap != nil {
		d.ledger = w.broken.wrap(s)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.daemon = d
}

// open lets the clients in.
func (w *world) open() {
	w.starts = append(w.starts, w.stamps.Add(1))
	w.daemon.engine.mortal(w.daemon.store, w.deaths > 0)
	w.deaths--
	w.calm.Store(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up = true
}

func (w *world) now() time.Time { return time.Now().Add(w.shift.get()) }

func (w *world) declare() {
	w.t.Helper()
	for place, settings := range []quota.Settings{
		charging:   {MaxInFlight: childInFlight},
		givingBack: {MaxInFlight: childInFlight, OnExpiry: quota.ExpiryRelease, MaxHold: shareMax},
		app:        {MaxInFlight: appInFlight},
	} {
		most := int64(childLimit)
		if place == app {
			most = appLimit
		}
		settings.Limits = []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: most}}
		if w.broken.unlimited {
			settings = quota.Settings{OnExpiry: settings.OnExpiry}
		}
		do(w.t, w.daemon.store, quota.SetBucket{Name: string(placeNames[place]), Settings: settings}, quota.Done)
	}
}

// idle lets time go by, which is that of a bubble.
func idle(d time.Duration) { time.Sleep(d) }

// restart is what follows when the daemon has died.
func (w *world) restart() {
	w.t.Helper()
	w.mu.Lock()
	w.up = false
	w.mu.Unlock()
	if err := w.daemon.ledger.Close(); err != nil {
		w.t.Error(err)
	}
	time.Sleep(time.Duration(w.rng.IntN(20)) * time.Millisecond)
	if old := w.daemon.engine.copied; old != nil {
		w.disk = func() store.Engine { return keepOpen{old} }
	}
	called := w.stamps.Add(1)
	_, died := w.daemon.engine.died()
	w.calm.Store(true)
	w.start()
	w.look(called, died)
	w.open()
}

// look puts all that the store lists into the history, as it is at one time: a reading may wait for expiries to be carried out. Nobody
// calls meanwhile.
func (w *world) look(called int64, died time.Duration) {
	w.t.Helper()
	var out answered
	for tries := 0; tries < 100 && (tries == 0 || out.at != w.instant(w.daemon.store.Now())); tries++ {
		out = answered{at: w.instant(w.daemon.store.Now()), died: died, listed: make([]modelListing, historyClients*historyRequests)}
		w.list(&out)
	}
	op := porcupine.Operation{ClientId: historyClients, Input: asked{verb: toLook, run: w.daemon.run}, Output: out, Call: called, Return: w.stamps.Add(1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = append(w.history, op)
}

func (w *world) list(out *answered) {
	w.t.Helper()
	found, next, err := w.daemon.ledger.Reservations(w.t.Context(), store.ReservationQuery{Max: store.PageMax})
	if err != nil || next != "" {
		w.t.Errorf("listing reservations: %q, %v", next, err)
	}
	for _, r := range found {
		var n int
		if _, err := fmt.Sscanf(r.RequestID, "request-%d", &n); err != nil || out.listed[n] != (modelListing{}) {
			w.t.Logf("there is a reservation that nobody made, or twice: %+v", r)
			n, r.Phase = 0, quota.PhaseUsed // nothing explains that
		}
		out.listed[n] = w.listed(r)
	}
	balances, _, err := w.daemon.ledger.Usage(w.t.Context(), store.UsageQuery{Span: window.Day, Max: store.PageMax})
	if err != nil {
		w.t.Error(err)
	}
	for _, b := range balances {
		out.counts = append(out.counts, w.shown(b))
	}
}

// checkHistory asks whether one order of the calls explains all answers. It is not called in a bubble, where its time would stand
// still.
func checkHistory(history []porcupine.Operation) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(historyModel(), history, historyTime)
}

const historyTime = 20 * time.Second

func historyModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return newModelState() },
		Step: func(st, in, out any) (bool, any) {
			ok, next := st.(modelState).step(in.(asked), out.(answered))
			return ok, next
		},
		Equal: func(a, b any) bool { return a.(modelState) == b.(modelState) },
	}
}

// unexplained shows the end of the longest order that explains its answers, and some of the calls that cannot follow.
func unexplained(history []porcupine.Operation) string {
	var longest []porcupine.Operation
	_, info := porcupine.CheckOperationsVerbose(historyModel(), history, historyTime)
	for _, order := range info.PartialLinearizationsOperations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	var text strings.Builder
	explained := make(map[int64]bool)
	for i, op := range longest {
		if explained[op.Call] = true; i >= len(longest)-10 {
			fmt.Fprintf(&text, "explained: %d to %d: %+v: %+v\n", op.Call, op.Return, op.Input, op.Output)
		}
	}
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	left := 5
	for _, op := range history {
		if !explained[op.Call] && left > 0 {
			left--
			fmt.Fprintf(&text, "not explained: %d to %d: %+v: %+v\n", op.Call, op.Return, op.Input, op.Output)
		}
	}
	return text.String()
}

func seeds(t *testing.T, n int) []uint64 {
	t.Helper()
	if *historySeed != 0 {
		return []uint64{*historySeed}
	}
	if os.Getenv("QUOTAD_LONG") != "" {
		n *= 100
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = rand.Uint64()
	}
	return out
}

// Clients that race across midnight, on a slow disk that is full now and then, under a daemon whose clock is set back and which
// dies in the middle of writes, see a history that one call after the other explains: what they took, held, settled, released and
// extended, and what expired meanwhile. Most play in memory, which shows the same much sooner.
func TestLinearizable(t *testing.T) {
	for _, seed := range seeds(t, 40) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			var history []porcupine.Operation
			synctest.Test(t, func(t *testing.T) {
				disk := memoryDisk()
				if seed%5 == 0 {
					disk = func() store.Engine { return openBolt(t, dir) }
				}
				sound := func() store.Engine { // whatever died before
					e := disk()
					if r, err := store.Verify(t.Context(), e); err != nil || len(r.Faults) > 0 {
						t.Errorf("%v %v; replay with -history.seed=%d", r.Faults, err, seed)
					}
					return e
				}
				history = play(t, seed, sound, int(seed%4), broken{})
				if err := sound().Close(); err != nil {
					t.Error(err)
				}
			})
			if got := checkHistory(history); got != porcupine.Ok {
				t.Errorf("no order explains the history of %d calls: %v; replay with -history.seed=%d\n%s", len(history), got, seed, unexplained(history))
			}
		})
	}
}
