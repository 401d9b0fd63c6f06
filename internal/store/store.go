// Package store makes decisions durable on an engine: one writer, one transaction for everything that is waiting, one answer
// after it is on the disk.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quotad/quotad/internal/groupcommit"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// ErrOverloaded means that too many ops are waiting already. Nothing was written.
var ErrOverloaded = errors.New("store: too many calls are waiting")

// Store is a ledger on an engine. Its methods may be called by many at once.
type Store struct {
	engine    Engine
	o         Options
	log       *slog.Logger
	committer *groupcommit.Committer[request, *quota.Decision]
	books     books
	passed    passed

	clock  *clock
	events outbox

	// The writer's own; nobody else touches them.
	windows window.Cache
	minute  int64 // of the clock as the ledger has it, in minutes since 1970
	tallies []Tally
	// What a batch expired for the sake of its ops, and whether it expires nothing for their sake.
	byTheWay Tally
	waits    bool
	stays    bool          // receipts are not moved to the space of today: that takes room
	deciding time.Duration // how long this batch's transactions have been decided

	revision  atomic.Int64 // rises with every durable commit
	next      atomic.Int64 // when the next reservation expires, in milliseconds since 1970; or never
	lag       atomic.Int64 // spaces due to leave
	overload  atomic.Int64 // ops refused, as too many were waiting
	start     time.Time
	cleanStop bool // of the run before

	mu       sync.Mutex // guards what follows
	problems problems
	failure  error
	fullSaid time.Duration // when it was last said that there is no room, by Uptime; 0 if it never was
	fullTold bool          // it was said, and not yet that there is room again

	failed  chan struct{} // closed with the first ErrUnknown
	filled  chan struct{} // tells the keeper that there is no room
	wake    chan struct{} // tells the keeper that something expires earlier
	stop    context.CancelFunc
	keepers sync.WaitGroup // the goroutine that tidies
}

// problems is what is wrong; each comes and goes by itself, but for damage.
type problems struct {
	full    bool
	damaged string // the first damaged record that was met
}

// request is what the writer is asked: an op, or to tidy.
type request struct {
	op    quota.Op
	tidy  func(*state) error // if not nil, instead of an op
	asked time.Duration      // when it was asked for, by Uptime
}

// Open returns the ledger that the engine keeps, and begins one if it keeps nothing. It commits before it returns: that makes
// durable what a killed predecessor had written but not synced, and proves that the engine can write. The engine is the
// store's from then on, and closed by Close; if Open fails it is closed as well.
func Open(ctx context.Context, e Engine, o Options) (*Store, error) {
	s := &Store{engine: e, o: o, log: o.Log, failed: make(chan struct{}), filled: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	s.next.Store(never)
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	s.start = s.o.Now()
	if s.o.Uptime == nil {
		start := time.Now()
		s.o.Uptime = func() time.Duration { return time.Since(start) }
	}
	if s.o.Retain == 0 {
		s.o.Retain = DefaultRetain
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	err := s.boot(ctx)
	if err == nil {
		err = s.openEvents(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	s.committer = groupcommit.New(BatchMax, QueueMax, s.commit)
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.keepers.Go(func() { s.keep(ctx) })
	return s, nil
}

// Apply makes one change, and returns the decision when it is durable. ErrOverloaded, ErrFull, ErrClosed, ErrCorrupt and the
// end of the context before the writer took the op mean that nothing was written; after ErrUnknown perhaps it was.
//
// What depends on reservations whose time is over is decided after they have been expired: by their time, not by when somebody
// came to look after them.
func (s *Store) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	for {
		d, err := s.do(ctx, request{op: op})
		if err != nil {
			return quota.Decision{}, err
		}
		if d.Outcome != quota.Behind {
			return *d, nil
		}
		if err := s.catchUp(ctx); err != nil {
			return quota.Decision{}, err
		}
	}
}

func (s *Store) do(ctx context.Context, r request) (*quota.Decision, error) {
	r.asked = s.o.Uptime()
	d, err := s.committer.Do(ctx, r)
	switch {
	case errors.Is(err, groupcommit.ErrOverloaded):
		s.overload.Add(1)
		err = ErrOverloaded
	case errors.Is(err, groupcommit.ErrClosed):
		err = ErrClosed
	}
	return d, err
}

// commit decides a batch in one transaction. It reads the clock once. Only the writer calls it.
func (s *Store) commit(ops []request, results []groupcommit.Result[*quota.Decision]) error {
	began := s.o.Uptime()
	now := s.clock.read()
	s.deciding = 0
	s.byTheWay = Tally{Op: quota.Expire{}, Outcome: quota.Done}
	wrote, err := s.write(now, ops, results)
	fault := err
	if err != nil && len(ops) > 1 && !engineFault(err) {
		// One op met something that cannot be, after it had begun to write. Each by itself, so that the others do not suffer for it.
		wrote, fault = s.writeSingly(now, ops, results)
		err = nil
	}
	if errors.Is(err, ErrFull) && (len(ops) > 1 || ending(ops[0].op)) {
		wrote, fault = s.writeParts(now, ops, results)
		if err = nil; errors.Is(fault, ErrUnknown) { // of every part: some may have been kept
			err = fault
		}
	}
	s.note(fault, wrote && fault == nil)
	s.report(ops, results, began, Batch{Ops: len(ops), Wrote: wrote, Took: s.o.Uptime() - began, Deciding: s.deciding, Err: err})
	return err
}

// writeSingly gives each op a transaction of its own, and marks the result of each that failed. fault is why the engine failed, if
// it did: it then goes to all that follow.
func (s *Store) writeSingly(now time.Time, ops []request, results []groupcommit.Result[*quota.Decision]) (wrote bool, fault error) {
	for i := range ops {
		if fault != nil {
			results[i].Err = fault
			continue
		}
		once, err := s.write(now, ops[i:i+1], results[i:i+1])
		wrote = wrote || once
		if err != nil {
			results[i].Err = err
		}
		if engineFault(err) {
			fault = err
		}
	}
	return wrote, fault
}

// engineFault tells an error that any op would have met from one that a certain op met.
func engineFault(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrClosed)
}

// write decides ops in one transaction, and tells whether anything had to be made durable.
func (s *Store) write(now time.Time, ops []request, results []groupcommit.Result[*quota.Decision]) (wrote bool, err error) {
	var st *state
	err = s.broken()
	if err == nil {
		err = s.engine.Update(context.Background(), func(tx Tx) error { //nolint:forbidigo // a batch belongs to no single caller
			began := s.o.Uptime()
			defer func() { s.deciding += s.o.Uptime() - began }()
			st = newState(tx, now, &s.windows, &s.books)
			st.damaged, st.passed, st.waits, st.stays = s.damaged, &s.passed, s.waits, s.stays
			return s.decide(st, ops, results)
		})
	}
	if errors.Is(err, ErrCorrupt) {
		s.damaged(err)
	}
	wrote = err == nil && st.writes > 0
	if wrote {
		s.byTheWay.Charged += st.byTheWay.Charged
		s.byTheWay.Released += st.byTheWay.Released
	}
	if wrote && st.announced > 0 { // before the revision rises: who sees that looks for events
		s.events.publish(st.announced)
	}
	if wrote {
		s.minute = minuteOf(now)
		s.revision.Add(1)
	}
	if wrote && !st.soonest.IsZero() {
		s.expect(st.soonest)
	}
	if wrote && st.changed > 0 {
		s.books.put(st.changed, st.book)
	}
	return wrote, err
}

// decide runs the ops one after the other. An op that meets a damaged record is refused by itself.
func (s *Store) decide(st *state, ops []request, results []groupcommit.Result[*quota.Decision]) error {
	for i, r := range ops {
		results[i] = groupcommit.Result[*quota.Decision]{} // an engine may run this more than once
		before := st.writes
		d, err := st.answer(r)
		if errors.Is(err, ErrCorrupt) && st.writes == before {
			s.damaged(err)
			results[i].Err = err
			continue
		}
		if err != nil {
			return err
		}
		results[i].Value = &d
	}
	if err := st.flush(); err != nil {
		return err
	}
	// The ledger's own clock moves by the minute. No window begins within one, so that a successor whose clock is behind by less
	// opens nothing again.
	if st.writes > 0 && minuteOf(st.now) != s.minute {
		if err := st.putNumber(spaceMeta, keyClock, st.now.UnixNano()); err != nil {
			return err
		}
	}
	if err := st.keepOpen(); err != nil {
		return err
	}
	if st.changed == 0 {
		return nil
	}
	_, err := st.Book() // compiled now, so that no reading has to
	return err
}

// answer runs an op. What it depends on is expired first, in the same transaction and at the same time, as far as that has room:
// else others could fall due, again and again, between the expiry and the next asking.
func (s *state) answer(r request) (quota.Decision, error) {
	for {
		d, err := s.run(r)
		if err != nil || d.Outcome != quota.Behind || s.waits || s.expired >= expireMax {
			return d, err
		}
		x, err := s.run(request{op: quota.Expire{Max: expireMax}})
		if err != nil {
			return quota.Decision{}, err
		}
		s.byTheWay.Charged += x.Charged
		s.byTheWay.Released += x.Released
	}
}

func (s *state) run(r request) (quota.Decision, error) {
	if r.tidy != nil {
		if err := s.flush(); err != nil { // it works on the transaction itself
			return quota.Decision{}, err
		}
		s.counts = counts{}
		return quota.Decision{Outcome: quota.Done}, r.tidy(s)
	}
	x, expires := r.op.(quota.Expire)
	if !expires {
		return quota.Apply(s, s.now, r.op)
	}
	x.Max = min(x.Max, expireMax-s.expired)
	d, err := quota.Apply(s, s.now, x)
	if s.expired += d.Charged + d.Released; d.Work > expireMax*2 {
		s.expired = expireMax // they were large: this is enough for one transaction
	}
	return d, err
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// broken returns why the store takes no more; nil if it does.
func (s *Store) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// note keeps in mind how a commit went.
func (s *Store) note(err error, wrote bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, ErrFull):
		if !s.problems.full && s.sayFull() {
			s.log.Error("no room to write: refusing until there is", "error", err)
		}
		s.problems.full = true
		select {
		case s.filled <- struct{}{}:
		default: // the keeper knows
		}
	case errors.Is(err, ErrUnknown):
		if s.failure == nil {
			s.log.Error("a write failed with its outcome unknown: taking no more", "error", err)
			s.failure = err
			close(s.failed)
		}
	case wrote:
		if s.problems.full && s.fullTold {
			s.log.Info("there is room to write again")
			s.fullTold = false
		}
		s.problems.full = false
	}
}

// sayFull tells whether to say again that there is no room. A ledger that is nearly full goes to and fro with every commit.
func (s *Store) sayFull() bool {
	now := s.o.Uptime()
	if s.fullSaid > 0 && now-s.fullSaid < fullSilence {
		return false
	}
	s.fullSaid, s.fullTold = max(1, now), true
	return true
}

func (s *Store) damaged(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problems.damaged == "" {
		s.problems.damaged = err.Error()
		s.log.Error("a record is damaged: refusing what depends on it", "error", err)
	}
}

// report tells whoever listens what became of a batch that began at a time, by Uptime.
func (s *Store) report(ops []request, results []groupcommit.Result[*quota.Decision], began time.Duration, b Batch) {
	if s.o.OnBatch == nil {
		return
	}
	s.tallies = s.tallies[:0]
	for i, r := range ops {
		if r.op == nil {
			continue
		}
		t := Tally{Op: r.op, Waited: began - r.asked}
		if b.Err == nil && results[i].Err == nil {
			d := results[i].Value
			t.Outcome, t.Replayed, t.Late, t.Overage = d.Outcome, d.Replayed, d.Late, d.Overage
			t.Ended, t.Charged, t.Released = d.Ended, d.Charged, d.Released
		}
		s.tallies = append(s.tallies, t)
	}
	if b.Err == nil && s.byTheWay.Charged+s.byTheWay.Released > 0 {
		s.tallies = append(s.tallies, s.byTheWay)
	}
	b.Outcomes = s.tallies
	s.o.OnBatch(b)
}

// Failed is closed when a write failed with its outcome unknown. The process must then end at once: its successor reads the
// truth.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Revision rises with every commit that changed anything.
func (s *Store) Revision() int64 { return s.revision.Load() }

// Now returns the time by which the ledger counts. It never goes back.
func (s *Store) Now() time.Time { return s.clock.read() }

// Close decides what is waiting, marks the ledger as stopped in order, and closes the engine.
func (s *Store) Close() error {
	s.stop()
	s.keepers.Wait()
	s.committer.Close()
	var err error
	if s.broken() == nil {
		err = s.markStopped()
	}
	return errors.Join(err, s.engine.Close())
}

// Backup writes a consistent copy of the ledger to a new file at path, with mode 0600, and checks its structure.
func (s *Store) Backup(ctx context.Context, path string) error {
	e, ok := s.engine.(Snapshotter)
	if !ok {
		return fmt.Errorf("this ledger lives in memory: there is no file to back up")
	}
	return e.Snapshot(ctx, path)
}
