package store_test

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// telling is fifty calls a day for everybody, with an event at 80 and at 100 percent.
var telling = quota.Defaults{Limits: fifty.Limits, UndeclaredLive: 1000, Thresholds: quota.Thresholds{80, 100}}

func allEvents(t *testing.T, s *store.Store, after int64) []quota.Event {
	t.Helper()
	var all []quota.Event
	for {
		page, err := s.Events(t.Context(), after, 3) // several pages
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = page[len(page)-1].ID
	}
}

func eventKey(e quota.Event) quota.AccountKey { return keyOf(e.Balance) }

func keyOf(b quota.Balance) quota.AccountKey {
	return quota.AccountKey{Bucket: b.Bucket, Unit: b.Unit, Span: b.Window.Span, Label: b.Window.Label}
}

// What is announced is there once the answer is, in order, through restarts; a consumer goes on where it was.
func TestEvents(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, openBolt(t, dir), store.Options{Defaults: telling})
	if id, begun, err := s.EventCursor(t.Context(), store.ConsumerLog); id != 0 || begun || err != nil {
		t.Errorf("the cursor before the beginning: %d, %v, %v", id, begun, err)
	}
	if err := s.AdvanceEvents(t.Context(), store.ConsumerLog, 0); err != nil {
		t.Error(err)
	}
	news := s.Announced()
	do(t, s, acquire("a", "", quota.Charge{Amount: 39}), quota.Done)
	select {
	case <-news:
		t.Error("there is news of nothing")
	default:
	}
	do(t, s, acquire("a", "", quota.Charge{Amount: 1}), quota.Done)
	<-news
	d := do(t, s, acquire("a", "", quota.Charge{Amount: 10}), quota.Done)
	events := allEvents(t, s, 0)
	if len(events) != 2 || s.LastEvent() != 2 {
		t.Fatalf("%d events, the last is %d: %+v", len(events), s.LastEvent(), events)
	}
	got, want := events[1], d.Balances[0]
	if !got.Time.Equal(d.Time.Truncate(time.Millisecond)) || got.ID != 2 || got.Percent != 100 || keyOf(got.Balance) != keyOf(want) ||
		got.Balance.Used != 50 || got.Balance.Limit != want.Limit || !got.Balance.Window.End.Equal(want.Window.End) ||
		!got.Balance.Window.Start.Equal(want.Window.Start) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, c := range []struct {
		consumer string
		id       int64
		ok       bool
	}{{"log", 1, true}, {"log", 0, true}, {"log", 3, false}, {"log", -1, false}, {"pager", 1, false}, {"webhook", 2, true}} {
		if err := s.AdvanceEvents(t.Context(), c.consumer, c.id); (err == nil) != c.ok {
			t.Errorf("%s is done with %d: %v", c.consumer, c.id, err)
		}
	}
	if _, _, err := s.EventCursor(t.Context(), "pager"); !errors.Is(err, store.ErrConsumer) {
		t.Errorf("an unknown consumer: %v", err)
	}
	if r := verified(t, s, dir); r.Events != 2 {
		t.Errorf("verify read %d events", r.Events)
	}
	s = open(t, openBolt(t, dir), store.Options{Defaults: telling})
	if id, begun, err := s.EventCursor(t.Context(), store.ConsumerLog); id != 1 || !begun || err != nil {
		t.Errorf("the cursor after a restart: %d, %v, %v", id, begun, err)
	}
	if rest := allEvents(t, s, 1); len(rest) != 1 || rest[0] != got {
		t.Errorf("after the first: %+v", rest)
	}
	do(t, s, acquire("b", "", quota.Charge{Amount: 50}), quota.Done)
	if all := allEvents(t, s, 0); len(all) != 4 || all[2].ID != 3 || all[3].Balance.Bucket != "b" {
		t.Errorf("after a restart: %+v", all)
	}
	closeStore(t, s)
}

// However many cross a threshold at a time, one event tells of it.
func TestOneOfACrowdIsTold(t *testing.T) {
	t.Parallel()
	s := open(t, memengine.New(), store.Options{Defaults: telling})
	for round := range 20 {
		bucket := fmt.Sprint("crowd/", round)
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				if _, err := s.Apply(t.Context(), acquire(bucket, "")); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		told := make(map[int]int)
		for _, e := range allEvents(t, s, 0) {
			if e.Balance.Bucket == quota.Bucket(bucket) {
				told[e.Percent]++
				if e.Balance.Used != map[int]int64{80: 40, 100: 50}[e.Percent] {
					t.Errorf("%s: %+v", bucket, e)
				}
			}
		}
		if !maps.Equal(told, map[int]int{80: 1, 100: 1}) {
			t.Errorf("%s: told %v", bucket, told)
		}
	}
	closeStore(t, s)
}

// The next day begins anew, and what was told a week ago leaves.
func TestEventsByDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{Defaults: telling})
		first := time.Now()
		for day := range 12 {
			time.Sleep(time.Until(first.Add(time.Duration(day)*24*time.Hour + 23*time.Hour + 59*time.Minute)))
			do(t, s, acquire("a", "", quota.Charge{Amount: 45}), quota.Done)
			time.Sleep(59 * time.Second)
			do(t, s, acquire("a", "", quota.Charge{Amount: 5}), quota.Done)
			do(t, s, reserving("b", fmt.Sprint(day), time.Minute, quota.Charge{Amount: 50}), quota.Done) // it expires tomorrow
			if got, want := s.LastEvent(), int64(4*day+2); got != want {
				t.Fatalf("day %d: %d events, want %d", day, got, want)
			}
			time.Sleep(2 * time.Minute)
			do(t, s, quota.Expire{}, quota.Done)
			all := allEvents(t, s, 4*int64(day))
			if len(all) != 4 {
				t.Fatalf("day %d: %+v", day, all)
			}
			for _, e := range all {
				if want := first.AddDate(0, 0, day).Format(time.DateOnly); e.Balance.Window.Label != want {
					t.Errorf("day %d: told of %s, want %s", day, e.Balance.Window.Label, want)
				}
			}
		}
		time.Sleep(24 * time.Hour)
		kept := allEvents(t, s, 0)
		// It is the 14th. Seven whole days after its date a date leaves, so that the 6th is the first that is kept.
		if got := kept[0].Time.Format(time.DateOnly); got != "2000-01-06" || kept[len(kept)-1].ID != s.LastEvent() {
			t.Errorf("kept from %s on: %+v", got, kept[0])
		}
		for i, e := range kept {
			if e.ID != kept[0].ID+int64(i) {
				t.Errorf("event %d follows %d", e.ID, kept[max(0, i-1)].ID)
			}
		}
		closeStore(t, s)
		soundEngine(t, e)
	})
}

// An event with a damaged record is left out, and its neighbours are told; so is a fault of the outbox found.
func TestDamagedEvent(t *testing.T) {
	t.Parallel()
	e := memengine.New()
	s := open(t, noClose{e}, store.Options{Defaults: telling})
	do(t, s, acquire("a", "", quota.Charge{Amount: 50}), quota.Done)
	do(t, s, acquire("b", "", quota.Charge{Amount: 50}), quota.Done)
	space := "events/" + s.Now().UTC().Format(time.DateOnly)
	spoil(t, e, func(tx store.Tx) { put(t, tx, space, fmt.Sprintf("%016x", 2), []byte("not an event")) })
	var ids []int64
	for _, e := range allEvents(t, s, 0) {
		ids = append(ids, e.ID)
	}
	if !slices.Equal(ids, []int64{1, 3, 4}) || !s.Status(t.Context()).CorruptSeen {
		t.Errorf("events %v, damage is seen: %v", ids, s.Status(t.Context()).CorruptSeen)
	}
	closeStore(t, s)
	faults := func() string {
		r, err := store.Verify(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(r.Faults, "\n")
	}
	if got := faults(); !strings.Contains(got, "fails its checksum") || !strings.Contains(got, "event 1 is followed by 3") ||
		!strings.Contains(got, "a calls day") {
		t.Errorf("verify: %s", got)
	}
}

// untold is a ledger that does not keep what was told.
func untold(tx store.Tx) store.Tx { return untoldTx{tx} }

type untoldTx struct{ store.Tx }

func (f untoldTx) Put(space, key string, v []byte) error {
	if strings.HasPrefix(space, "used") {
		a, err := store.ParseAccountRecord(v, space, key)
		if err != nil {
			return err
		}
		a.Told = 0
		v = store.Seal(store.AppendAccount(nil, a), space, key)
	}
	return f.Tx.Put(space, key, v)
}

// afterwards is a ledger that announces in a transaction of its own, which the process does not live to make.
func afterwards(tx store.Tx) store.Tx { return afterwardsTx{tx} }

type afterwardsTx struct{ store.Tx }

func (a afterwardsTx) Put(space, key string, v []byte) error {
	if strings.HasPrefix(space, "events/") {
		return nil
	}
	return a.Tx.Put(space, key, v)
}

// Whatever is done in whatever order, each threshold of each count is told once, with the change that crossed it. The oracle looks
// at the counts from outside.
func TestToldOnceWhatever(t *testing.T) {
	t.Parallel()
	n := uint64(40)
	if os.Getenv("QUOTAD_LONG") != "" {
		n = 4_000
	}
	for seed := range n {
		synctest.Test(t, func(t *testing.T) {
			if err := tellTale(t, seed, nil); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
	for name, broken := range map[string]func(store.Tx) store.Tx{"told is not kept": untold, "announced after the commit": afterwards} {
		caught := false
		for seed := uint64(0); seed < 20 && !caught; seed++ {
			synctest.Test(t, func(t *testing.T) { caught = tellTale(t, seed, broken) != nil })
		}
		if !caught {
			t.Errorf("control: %s, and nothing was noticed", name)
		}
	}
}

// teller is a ledger that is watched from outside.
type teller struct {
	t      *testing.T
	engine store.Engine
	s      *store.Store
	rng    *rand.Rand
	ids    int
	open   []string
	seen   map[quota.AccountKey]quota.Balance
	told   map[quota.AccountKey]int // the highest

	got, want []string // a line for each event
}

var tellerSettings = map[string]quota.Settings{
	"a": {
		Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Minute, Max: 6}, {Unit: quota.Calls, Span: window.Day, Max: 10}},
	},
	"a/b": {Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 7}}, Thresholds: quota.Thresholds{30, 100, 150}},
	"c": {
		Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 5}, {Unit: quota.Calls, Span: window.Month, Max: 60}},
	},
	"d": {Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 2}}, Thresholds: quota.Thresholds{}},
	"e": {Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Ever, Max: 20}}, OnExpiry: quota.ExpiryRelease},
}

var tellerNames = []string{"a", "a/b", "a/c", "c", "d", "e", "undeclared"}

func tellTale(t *testing.T, seed uint64, broken func(store.Tx) store.Tx) error {
	t.Helper()
	w := &teller{
		t: t, engine: &hooks{Engine: noClose{memengine.New()}, tx: broken}, rng: rand.New(rand.NewPCG(seed, 1)),
		seen: make(map[quota.AccountKey]quota.Balance), told: make(map[quota.AccountKey]int),
	}
	o := store.Options{Defaults: quota.Defaults{Limits: fifty.Limits, UndeclaredLive: 10, Thresholds: quota.Thresholds{50, 80, 100}}}
	w.s = open(t, w.engine, o)
	defer func() { closeStore(t, w.s) }()
	for name, settings := range tellerSettings {
		do(t, w.s, quota.SetBucket{Name: name, Settings: settings}, quota.Done)
	}
	for range 80 {
		if w.rng.IntN(20) == 0 {
			closeStore(t, w.s)
			w.s = open(t, w.engine, o)
		}
		if err := w.step(); err != nil {
			return err
		}
	}
	return nil
}

// step lets time pass or does something, and looks at what came of it.
func (w *teller) step() error {
	switch w.rng.IntN(8) {
	case 0:
		time.Sleep(time.Duration(w.rng.IntN(30)) * time.Second)
	case 1:
		if w.rng.IntN(4) > 0 {
			break
		}
		for range 22 { // until nothing is held any more, which might be charged to a limit of which it is not known any more
			time.Sleep(30 * time.Second)
			if err := w.look(); err != nil {
				return err
			}
		}
		time.Sleep(time.Duration(w.rng.IntN(40)) * time.Hour)
	}
	if err := w.look(); err != nil { // what has expired meanwhile
		return err
	}
	op := w.op()
	if _, err := w.s.Apply(w.t.Context(), op); err != nil {
		return fmt.Errorf("%+v: %w", op, err)
	}
	if err := w.look(); err != nil {
		return fmt.Errorf("%+v: %w", op, err)
	}
	return nil
}

func (w *teller) op() quota.Op {
	name := tellerNames[w.rng.IntN(len(tellerNames))]
	amount := quota.Charge{Amount: 1 + w.rng.Int64N(4)}
	switch n := w.rng.IntN(16); {
	case n < 5:
		return acquire(name, "", amount)
	case n < 9:
		w.ids++
		w.open = append(w.open, fmt.Sprint(w.ids))
		return reserving(name, fmt.Sprint(w.ids), []time.Duration{time.Minute, 10 * time.Minute}[w.rng.IntN(2)], amount)
	case n < 12 && len(w.open) > 0:
		return settling(w.open[w.rng.IntN(len(w.open))], quota.Charge{Amount: w.rng.Int64N(14)})
	case n < 13 && len(w.open) > 0:
		return releasing(w.open[w.rng.IntN(len(w.open))])
	case n < 14:
		return quota.Reset{Bucket: quota.Bucket(name)}
	case n < 15:
		limits := []quota.Cap{quota.AtMost(0), quota.AtMost(3), quota.AtMost(8), quota.AtMost(20), {}}
		return quota.SetOverride{Bucket: quota.Bucket(name), Limit: limits[w.rng.IntN(len(limits))]}
	}
	c := tellerSettings["c"]
	c.Limits = slices.Clone(c.Limits)
	c.Limits[0].Max = []int64{5, 12, 3}[w.rng.IntN(3)]
	return quota.SetBucket{Name: "c", Settings: c}
}

// look works out what must have been told since it looked last, and compares.
func (w *teller) look() error {
	for _, span := range window.Spans() {
		counts, _, err := w.s.Usage(w.t.Context(), store.UsageQuery{Span: span, Max: 1000})
		if err != nil {
			return err
		}
		for _, b := range counts {
			k := keyOf(b)
			was := w.seen[k]
			w.seen[k] = b
			if was.Used != b.Used || was.Held != b.Held || was.Overridden != b.Overridden || b.Overridden && was.Limit != b.Limit {
				w.tell(k, b)
			}
		}
	}
	for _, e := range allEvents(w.t, w.s, int64(len(w.got))) {
		if w.got = append(w.got, fmt.Sprint(eventKey(e), e.Percent)); e.ID != int64(len(w.got)) {
			return fmt.Errorf("event %d is number %d", e.ID, len(w.got))
		}
	}
	slices.Sort(w.want) // the order of the counts of one change is nobody's promise
	if got := slices.Sorted(slices.Values(w.got)); !slices.Equal(got, w.want) || w.s.LastEvent() != int64(len(got)) {
		return fmt.Errorf("told of %v, want %v", got, w.want)
	}
	return nil
}

func (w *teller) tell(k quota.AccountKey, b quota.Balance) {
	thresholds := quota.Thresholds{50, 80, 100}
	if own := tellerSettings[string(k.Bucket)].Thresholds; own != nil {
		thresholds = own
	}
	if !b.Limit.Set || b.Limit.Max == 0 {
		return
	}
	for _, percent := range thresholds {
		if percent > w.told[k] && big.NewRat(b.Used, b.Limit.Max).Cmp(big.NewRat(int64(percent), 100)) >= 0 {
			w.told[k] = percent
			w.want = append(w.want, fmt.Sprint(k, percent))
		}
	}
}
