package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// fullFile is a ledger in the smallest file there may be, which reservations have filled.
type fullFile struct {
	t   *testing.T
	e   store.Engine
	s   *store.Store
	n   ended
	log logged
	rng *rand.Rand
	ids []string
}

// logged is what a store has logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) lines() int { return strings.Count(l.String(), "\n") }

// fillFile reserves a million for an hour, again and again, until there is no room. It needs a bubble.
func fillFile(t *testing.T, dir string, what quota.OnExpiry, from time.Duration) *fullFile {
	t.Helper()
	if os.Getenv("QUOTAD_LONG") == "" {
		t.Skip("where the last pages go depends on the disk: the long tier plays it (QUOTAD_LONG=1)")
	}
	e, err := boltengine.Open(dir, boltengine.Options{Create: true, MaxSize: boltengine.MinMaxSize})
	if err != nil {
		t.Fatal(err)
	}
	f := &fullFile{t: t, e: e, rng: rand.New(rand.NewPCG(1, 2))}
	f.s = open(t, noClose{e}, store.Options{OnBatch: f.n.onBatch, Log: slog.New(slog.NewTextHandler(&f.log, nil))})
	most := []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 1e12}}
	do(t, f.s, quota.SetBucket{Name: "a", Settings: quota.Settings{OnExpiry: what, Limits: most}}, quota.Done)
	do(t, f.s, nothing("full"), quota.Done)
	time.Sleep(from)
	for _, crowd := range []int{128, 16} { // at last the room is taken in small pieces
		for full := 0; full < 16; {
			full += f.reserve(crowd)
		}
	}
	if len(f.ids) < 1000 {
		t.Fatalf("only %d fitted in", len(f.ids))
	}
	return f
}

// reserve sends so many reservations at once, and returns for how many there was no room.
func (f *fullFile) reserve(crowd int) (full int) {
	f.t.Helper()
	ids, errs := make([]string, crowd), make([]error, crowd)
	var callers sync.WaitGroup
	for i := range ids {
		ids[i] = fmt.Sprintf("%016x%016x", f.rng.Uint64(), f.rng.Uint64())
		op := reserving("a", ids[i], time.Hour, quota.Charge{Amount: 1_000_000})
		callers.Go(func() { _, errs[i] = f.s.Apply(f.t.Context(), op) })
	}
	callers.Wait()
	time.Sleep(time.Millisecond) // they expire one after the other, as reservations do
	for i, err := range errs {
		switch {
		case err == nil:
			f.ids = append(f.ids, ids[i])
		case errors.Is(err, store.ErrFull):
			full++
		default:
			f.t.Fatal(err)
		}
	}
	return full
}

// close looks through the whole ledger.
func (f *fullFile) close() {
	f.t.Helper()
	closeStore(f.t, f.s)
	soundEngine(f.t, f.e)
	if err := f.e.Close(); err != nil {
		f.t.Error(err)
	}
}

// all has 64 callers end all the reservations, in no order, and returns those for which there was no room.
func (f *fullFile) all(op func(id string) quota.Op) (refused []string) {
	f.t.Helper()
	f.rng.Shuffle(len(f.ids), func(i, j int) { f.ids[i], f.ids[j] = f.ids[j], f.ids[i] })
	work := make(chan string, len(f.ids))
	for _, id := range f.ids {
		work <- id
	}
	close(work)
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for id := range work {
				d, err := f.s.Apply(f.t.Context(), op(id))
				switch {
				case errors.Is(err, store.ErrFull):
					mu.Lock()
					refused = append(refused, id)
					mu.Unlock()
				case err != nil || d.Outcome != quota.Done || d.Replayed:
					f.t.Errorf("%s: %v, %v", id, d.Outcome, err)
				}
			}
		})
	}
	callers.Wait()
	return refused
}

// In a file that reservations have filled, all of them can be settled and released, by a crowd, and expire when their time comes; a
// denial is a denial. On the next day too, when there is no room to keep the receipts with those of today.
func TestFullFileEmpties(t *testing.T) {
	const lateInTheEvening = 23*time.Hour + 30*time.Minute
	settle := func(id string) quota.Op { return settling(id, quota.Charge{Amount: 777_777}) }
	release := func(id string) quota.Op { return releasing(id) }
	for name, c := range map[string]struct {
		what quota.OnExpiry
		from time.Duration
		wait time.Duration // before they are ended
		end  func(id string) quota.Op
		used int64
	}{
		"settled the next day":  {quota.ExpiryCharge, lateInTheEvening, 35 * time.Minute, settle, 777_777},
		"released":              {quota.ExpiryCharge, 0, 0, release, 0},
		"released the next day": {quota.ExpiryRelease, lateInTheEvening, 35 * time.Minute, release, 0},
		"given back":            {quota.ExpiryRelease, 0, 61 * time.Minute, nil, 0},
		"given back, next day":  {quota.ExpiryRelease, lateInTheEvening, 61 * time.Minute, nil, 0},
		"charged, and late":     {quota.ExpiryCharge, lateInTheEvening, 61 * time.Minute, settle, 777_777},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			synctest.Test(t, func(t *testing.T) {
				f := fillFile(t, dir, c.what, c.from)
				defer f.close()
				said := f.log.lines()
				time.Sleep(c.wait)
				do(t, f.s, acquire("full", ""), quota.Denied)
				synctest.Wait()
				if c.end != nil {
					if refused := f.all(c.end); len(refused) > 0 {
						t.Errorf("%d of %d were refused for want of room", len(refused), len(f.ids))
					}
				}
				if st := f.s.Status(t.Context()); st.Open != 0 {
					t.Errorf("%d of %d are still open: %v", st.Open, len(f.ids), st.Problems)
				}
				if used, held := inForce(t, f.e, firstDay, "a"); used != c.used*int64(len(f.ids)) || held != 0 {
					t.Errorf("%d used and %d held, of %d", used, held, len(f.ids))
				}
				synctest.Wait()
				if n := f.log.lines() - said; n > 6 {
					t.Errorf("%d lines were logged:\n%s", n, f.log.String())
				}
			})
		})
	}
}

// A settlement that says more than there is room for is refused, and changes nothing: the reservation expires as it would have, which
// makes room, and then it can be settled late.
func TestFullFileSettlesMore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		f := fillFile(t, dir, quota.ExpiryCharge, 0)
		defer f.close()
		more := func(id string) quota.Op {
			return settling(id, quota.Charge{Amount: 1_100_000}, quota.Charge{Unit: "input_tokens", Amount: 123_456},
				quota.Charge{Unit: "output_tokens", Amount: 123_456}, quota.Charge{Unit: "usd_micros", Amount: 123_456})
		}
		refused := f.all(more)
		t.Logf("%d of %d were refused", len(refused), len(f.ids))
		if st := f.s.Status(t.Context()); st.Open != int64(len(refused)) || len(refused) == 0 || len(refused) == len(f.ids) {
			t.Errorf("%d are open, and %d of %d were refused", st.Open, len(refused), len(f.ids))
		}
		time.Sleep(61 * time.Minute)
		synctest.Wait()
		if n := f.n.charged.Load(); n != int64(len(refused)) {
			t.Errorf("%d were charged, want those %d that were refused", n, len(refused))
		}
		f.ids = refused[:min(len(refused), 200)]
		if refused := f.all(more); len(refused) > 0 {
			t.Errorf("late, %d of %d were refused", len(refused), len(f.ids))
		}
	})
}

// What was acquired before a file was full is not granted again in it, and a receipt that stayed where it was is found there.
func TestFullFileRemembers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		f := fillFile(t, dir, quota.ExpiryCharge, 23*time.Hour+30*time.Minute)
		defer f.close()
		time.Sleep(35 * time.Minute)
		last := f.ids[len(f.ids)-1]
		if refused := f.all(func(id string) quota.Op { return settling(id) }); len(refused) > 0 {
			t.Fatalf("%d were refused", len(refused))
		}
		in := func(space string) (n int) {
			err := f.e.View(t.Context(), func(tx store.Tx) error {
				return tx.Scan(space, "", func(string, []byte) bool { n++; return true })
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if stayed, moved := in(receiptsOfFirstDay), in("receipts/2000-01-02"); stayed == 0 || stayed+moved != len(f.ids) {
			t.Errorf("%d receipts stayed and %d moved, of %d", stayed, moved, len(f.ids))
		}
		for _, id := range append(f.ids[:20:20], last) {
			if d := do(t, f.s, settling(id), quota.Done); !d.Replayed {
				t.Errorf("%s was settled twice", id)
			}
			if d := do(t, f.s, reserving("a", id, time.Hour, quota.Charge{Amount: 1_000_000}), quota.Done); !d.Replayed {
				t.Errorf("%s was granted twice", id)
			}
		}
	})
}

// A store that finds no room for an hour, though reservations are due all the time, says so once.
func TestFullSaysLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		var log logged
		e := &hooks{Engine: memengine.New(), before: func() error {
			if full.Load() {
				return store.ErrFull
			}
			return nil
		}}
		s := open(t, e, store.Options{Defaults: fifty, Log: slog.New(slog.NewTextHandler(&log, nil))})
		do(t, s, reserving("a", "id", time.Minute), quota.Done)
		synctest.Wait()
		before := log.lines()
		full.Store(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		if said := log.lines() - before; said != 1 || !strings.Contains(log.String(), "no room to write") {
			t.Errorf("it said %d lines:\n%s", said, log.String())
		}
		full.Store(false)
		time.Sleep(time.Minute)
		if st := s.Status(t.Context()); st.Open != 0 || st.Full {
			t.Errorf("with room again: %+v", st)
		}
		closeStore(t, s)
	})
}

// dyingEngine has no room for more than some writes in a transaction, and dies in one of its updates.
type dyingEngine struct {
	store.Engine
	most    int
	on      atomic.Bool
	updates int // since on
	dies    int // the update that fails with its outcome unknown; 0 means none
}

func (e *dyingEngine) Update(ctx context.Context, fn func(store.Tx) error) error {
	if !e.on.Load() {
		return e.Engine.Update(ctx, fn)
	}
	if e.updates++; e.updates == e.dies {
		return fmt.Errorf("%w: for the test", store.ErrUnknown)
	}
	return e.Engine.Update(ctx, func(tx store.Tx) error {
		var writes atomic.Int64
		if err := fn(counting{tx, &writes}); err != nil {
			return err
		}
		if n := int(writes.Load()); n > e.most {
			return fmt.Errorf("%w: %d writes", store.ErrFull, n)
		}
		return nil
	})
}

// crowded sends settlements and acquires to a store with little room in one batch, and returns what became of each.
func crowded(t *testing.T, e *dyingEngine) (s *store.Store, errs []error) {
	t.Helper()
	const crowd = 32
	began := make(chan struct{})
	going := make(chan struct{})
	first := &hooks{Engine: e}
	s = open(t, noClose{first}, store.Options{Defaults: fifty})
	for i := range crowd {
		do(t, s, reserving("a", fmt.Sprint(i), time.Hour), quota.Done)
	}
	synctest.Wait()
	var once sync.Once
	first.before = func() error { once.Do(func() { close(began); <-going }); return nil }
	first.after = func() { e.on.Store(true) }
	errs = make([]error, 2*crowd)
	var callers sync.WaitGroup
	callers.Go(func() { do(t, s, acquire("b", ""), quota.Done) }) // whose transaction lasts until the others wait
	<-began
	for i := range errs {
		var op quota.Op = settling(fmt.Sprint(i % crowd))
		if i >= crowd {
			op = acquire("b", "")
		}
		callers.Go(func() { _, errs[i] = s.Apply(t.Context(), op) })
	}
	synctest.Wait()
	close(going)
	callers.Wait()
	return s, errs
}

// A batch for which there is no room as a whole is written part by part. An engine that dies among the parts leaves nobody with an
// answer: each is told that its outcome is unknown, and none that there was no room.
func TestDiesAmongParts(t *testing.T) {
	parts := 0
	for dies := 0; dies == 0 || dies <= parts; dies++ {
		synctest.Test(t, func(t *testing.T) {
			e := &dyingEngine{Engine: memengine.New(), most: 60, dies: dies}
			s, errs := crowded(t, e)
			defer closeStore(t, s)
			told := make(map[error]int)
			for _, err := range errs {
				switch {
				case errors.Is(err, store.ErrUnknown):
					told[store.ErrUnknown]++
				case errors.Is(err, store.ErrFull):
					told[store.ErrFull]++
				default:
					told[err]++
				}
			}
			if dies == 0 { // the control: every settlement gets through
				parts = e.updates
				if settled := len(errs) / 2; parts < 5 || told[nil] < settled || told[nil]+told[store.ErrFull] != len(errs) {
					t.Errorf("in %d parts: %v", parts, told)
				}
				return
			}
			if e.updates != dies || told[store.ErrUnknown] != len(errs) {
				t.Errorf("died in update %d of %d: %v", dies, e.updates, told)
			}
			select {
			case <-s.Failed():
			default:
				t.Error("the store has not failed")
			}
		})
	}
}
