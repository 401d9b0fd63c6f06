package store_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/window"
)

var historySeed = flag.Uint64("history.seed", 0, "replay the history with this seed")

// ledger is what a client of a history sees: the store, or something that only looks like it.
type ledger interface {
	Apply(context.Context, quota.Op) (quota.Decision, error)
	Close() error
}

// asked and answered are one call of a history.
type asked struct {
	n, bucket       int   // which of a client's requests, over all clients; which child of "app"
	amount, ceiling int64 // ceiling 0 is none
	reset           bool
}

func (in asked) name() string { return fmt.Sprintf("app/%d", in.bucket) }

type answered struct {
	outcome  quota.Outcome
	replayed bool
	day      string
	used     int64
}

const (
	historyLimit    = 20
	historyClients  = 12
	historyRequests = 10 // of each client
)

// modelState is a quota as a child would keep it: what day it is, a note for each bucket, and which requests were granted. It is
// small and can be compared, as the checker tries a great many orders and remembers the states that it has seen.
type modelState struct {
	day      string
	children [2]int64
	app      int64
	granted  [historyClients * historyRequests]bool
}

// step tells whether an answer may follow, and what then is; written apart from the code under test. The parent "app" is limited
// as its children are.
func (m modelState) step(in asked, out answered) (bool, modelState) {
	if in.reset {
		m.children[in.bucket] = 0
		return true, m
	}
	if m.granted[in.n] {
		return out.outcome == quota.Done && out.replayed, m
	}
	if out.replayed || out.day < m.day {
		return false, m // a replay of nothing, or a day that had ended was opened again
	}
	if out.day != m.day {
		m.day, m.children, m.app = out.day, [2]int64{}, 0
	}
	most := int64(historyLimit)
	if in.ceiling > 0 {
		most = min(most, in.ceiling)
	}
	fits := m.children[in.bucket]+in.amount <= most && m.app+in.amount <= historyLimit
	if fits != (out.outcome == quota.Done) || !fits {
		return fits == (out.outcome == quota.Done), m
	}
	m.children[in.bucket] += in.amount
	m.app += in.amount
	m.granted[in.n] = true
	return out.used == m.children[in.bucket], m
}

func model(firstDay string) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return modelState{day: firstDay} },
		Step: func(st, in, out any) (bool, any) {
			ok, next := st.(modelState).step(in.(asked), out.(answered))
			return ok, next
		},
		Equal: func(a, b any) bool { return a.(modelState) == b.(modelState) },
	}
}

// chaos is an engine on a slow disk, some of whose writes are refused for want of room.
func chaos(e store.Engine, rng *rand.Rand) store.Engine {
	rng = rand.New(rand.NewPCG(rng.Uint64(), 3)) // the writer's own
	return &hooks{
		Engine: e,
		before: func() error {
			if rng.IntN(12) == 0 {
				return fmt.Errorf("%w: by chance", store.ErrFull)
			}
			return nil
		},
		after: func() { time.Sleep(time.Duration(1+rng.IntN(8)) * time.Millisecond) },
	}
}

// play has some clients race across midnight, with repeats under the same id, resets, short deadlines, and a clock that is set
// back, and returns what each saw.
func play(t *testing.T, rng *rand.Rand, open func(store.Options) ledger) (history []porcupine.Operation, firstDay string) {
	t.Helper()
	var shift dial
	began := time.Now()
	l := open(store.Options{
		Now:    func() time.Time { return time.Now().Add(shift.get()) },
		Uptime: func() time.Duration { return time.Since(began) },
	})
	limits := []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: historyLimit}}
	for _, name := range []string{"app", "app/*"} { // a write that was refused is made again
		for {
			_, err := l.Apply(t.Context(), quota.SetBucket{Name: name, Settings: quota.Settings{Limits: limits}})
			if err == nil {
				break
			}
		}
	}
	midnight := window.Day.At(time.Now(), time.UTC).End
	time.Sleep(time.Until(midnight) - 30*time.Millisecond)
	firstDay = window.Day.At(time.Now(), time.UTC).Label
	var mu sync.Mutex
	var clients sync.WaitGroup
	clients.Go(func() {
		time.Sleep(40 * time.Millisecond)
		shift.set(-60 * time.Millisecond) // back over midnight
	})
	for client := range historyClients {
		rng := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		clients.Go(func() {
			for n := range historyRequests {
				in := asked{n: client*historyRequests + n, bucket: rng.IntN(2), amount: int64(1 + rng.IntN(3))}
				if rng.IntN(4) == 0 {
					in.ceiling = 5
				}
				in.reset = rng.IntN(25) == 0
				for tries := 1 + rng.IntN(2); tries > 0; tries-- { // a client that was answered asks again now and then
					op := call(t, l, client, in, rng)
					mu.Lock()
					history = append(history, op)
					mu.Unlock()
				}
				time.Sleep(time.Duration(rng.IntN(12)) * time.Millisecond)
			}
		})
	}
	clients.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	return history, firstDay
}

// call makes one call of a history.
func call(t *testing.T, l ledger, client int, in asked, rng *rand.Rand) porcupine.Operation {
	t.Helper()
	var op quota.Op = quota.Reset{Bucket: quota.Bucket(in.name())}
	if !in.reset {
		charge := quota.Charge{Amount: in.amount}
		if in.ceiling > 0 {
			charge.Ceiling = quota.AtMost(in.ceiling)
		}
		op = acquire(in.name(), fmt.Sprintf("request-%d", in.n), charge)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rng.IntN(30))*time.Millisecond)
	defer cancel()
	start := time.Now()
	d, err := l.Apply(ctx, op)
	out := answered{outcome: d.Outcome, replayed: d.Replayed, used: -1}
	switch {
	case err == nil && d.Outcome == quota.Done && !in.reset:
		out.day = d.Balances[0].Window.Label
		if !d.Replayed {
			out.used = d.Balances[0].Used
		}
	case err == nil && d.Outcome == quota.Denied:
		out.day = d.Violations[0].Balance.Window.Label
	case errors.Is(err, store.ErrFull), errors.Is(err, context.DeadlineExceeded): // certainly not written
		return porcupine.Operation{}
	case err != nil:
		t.Errorf("%+v: %v", in, err)
	}
	return porcupine.Operation{ClientId: client, Input: in, Output: out, Call: start.UnixNano(), Return: time.Now().UnixNano()}
}

// checkHistory drops what certainly did not happen, and asks whether one order of the rest explains all answers.
func checkHistory(history []porcupine.Operation, firstDay string) porcupine.CheckResult {
	kept := history[:0:0]
	for _, op := range history {
		if op.Input != nil {
			kept = append(kept, op)
		}
	}
	return porcupine.CheckOperationsTimeout(model(firstDay), kept, 20*time.Second)
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

// Clients that race across midnight on a slow disk that is full now and then, with a clock that is set back, see a history
// that one call after the other explains.
func TestLinearizable(t *testing.T) {
	for _, seed := range seeds(t, 25) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				history, firstDay := play(t, rng, func(o store.Options) ledger {
					return openChaos(t, chaos(openBolt(t, dir), rng), o)
				})
				if got := checkHistory(history, firstDay); got != porcupine.Ok {
					t.Errorf("no order explains the history: %v; replay with -history.seed=%d", got, seed)
				}
			})
			e := openBolt(t, dir)
			defer e.Close()
			if r, err := store.Verify(t.Context(), e); err != nil || len(r.Faults) > 0 {
				t.Errorf("%v %v", r.Faults, err)
			}
		})
	}
}

// openChaos opens a store on an engine that may refuse its first write.
func openChaos(t *testing.T, e store.Engine, o store.Options) ledger {
	t.Helper()
	h := e.(*hooks)
	before := h.before
	h.before = nil
	s := open(t, h, o)
	h.before = before
	return stubborn{s, h}
}

// stubborn closes a store whose engine may refuse its last write.
type stubborn struct {
	*store.Store
	h *hooks
}

func (s stubborn) Close() error {
	s.h.before = nil
	return s.Store.Close()
}

// racy is the origin's way: it looks in one step and charges in another.
type racy struct{ *store.Store }

func (r racy) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	a, ok := op.(quota.Acquire)
	if !ok {
		return r.Store.Apply(ctx, op)
	}
	d, err := r.Check(ctx, a)
	if err != nil || d.Outcome != quota.Done {
		return d, err
	}
	time.Sleep(time.Millisecond)
	for i := range a.Charges {
		a.Charges[i].Ceiling = quota.Cap{}
	}
	free := a
	free.Bucket, free.Charges = "free/"+a.Bucket, append([]quota.Charge(nil), a.Charges...)
	for i := range free.Charges {
		free.Charges[i].Bucket = ""
	}
	free.Validate()
	if _, err := r.Store.Apply(ctx, free); err != nil {
		return quota.Decision{}, err
	}
	return d, nil
}

// forgetful does not know an id again.
type forgetful struct{ *store.Store }

func (f forgetful) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	if a, ok := op.(quota.Acquire); ok {
		a.RequestID = ""
		op = a
	}
	return f.Store.Apply(ctx, op)
}

// The controls: the checker finds fault with ledgers that are wrong.
func TestLinearizableControls(t *testing.T) {
	for name, wrap := range map[string]func(*store.Store) ledger{
		"check then act":   func(s *store.Store) ledger { return racy{s} },
		"forgets ids":      func(s *store.Store) ledger { return forgetful{s} },
		"clock of its own": nil,
	} {
		t.Run(name, func(t *testing.T) {
			caught := 0
			for seed := range uint64(10) {
				dir := filepath.Join(t.TempDir(), strconv.FormatUint(seed, 10))
				synctest.Test(t, func(t *testing.T) {
					rng := rand.New(rand.NewPCG(seed, 2))
					history, firstDay := play(t, rng, func(o store.Options) ledger {
						o.Defaults = quota.Defaults{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: quota.CountMax}}, UndeclaredLive: 100}
						if wrap != nil {
							return wrap(open(t, slow(openBolt(t, dir), rng), o))
						}
						return backwards(t, openBolt(t, dir), o)
					})
					if checkHistory(history, firstDay) == porcupine.Illegal {
						caught++
					}
				})
			}
			if caught < 5 {
				t.Errorf("caught in %d of 10 histories", caught)
			}
		})
	}
}

func slow(e store.Engine, rng *rand.Rand) store.Engine {
	rng = rand.New(rand.NewPCG(rng.Uint64(), 3)) // the writer's own
	return &hooks{Engine: e, after: func() { time.Sleep(time.Duration(1+rng.IntN(8)) * time.Millisecond) }}
}

// backwards follows the clock wherever it goes, by pretending before each batch that the ledger has seen no time yet: the day
// that had ended is opened again.
func backwards(t *testing.T, e store.Engine, o store.Options) ledger {
	t.Helper()
	return &reopened{t: t, e: e, o: o, s: open(t, keepOpen{e}, o)}
}

type keepOpen struct{ store.Engine }

func (keepOpen) Close() error { return nil }

type reopened struct {
	t *testing.T
	e store.Engine
	o store.Options
	m sync.Mutex
	s *store.Store
	n int
}

func (r *reopened) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	ctx = context.WithoutCancel(ctx)
	for !r.m.TryLock() {
		time.Sleep(100 * time.Microsecond) // a mutex that is waited for would stop the bubble's time
	}
	defer r.m.Unlock()
	if r.n++; r.n%2 == 0 {
		if err := r.s.Close(); err != nil {
			return quota.Decision{}, err
		}
		o := r.o
		o.AcceptClock = true
		r.s = open(r.t, keepOpen{r.e}, o)
	}
	return r.s.Apply(ctx, op)
}

func (r *reopened) Close() error { return errors.Join(r.s.Close(), r.e.Close()) }
