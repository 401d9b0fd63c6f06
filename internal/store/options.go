package store

import (
	"log/slog"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// Options are the parameters of Open. The zero value is ready for use, with no default for undeclared names.
type Options struct {
	Defaults    quota.Defaults       // kept in the ledger, so that it can explain its decisions
	Retain      time.Duration        // how long counts of days and longer windows are kept after they end; 0 means 400 days
	AcceptClock bool                 // take the clock as it is, even if the ledger has seen a later time; audited
	Now         func() time.Time     // the clock of the wall; nil means time.Now
	Uptime      func() time.Duration // a clock that nobody sets; nil means the time since Open
	OnBatch     func(Batch)          // told of every batch after it is durable, by the writer: must be quick; nil means nobody
	Log         *slog.Logger         // nil means nowhere
}

// Bounds on the writer. A queue that is full refuses (ErrOverloaded) rather than making callers wait without end.
const (
	// BatchMax is how many ops share one transaction at most.
	BatchMax = 1024
	// QueueMax is how many ops may wait at most.
	QueueMax = 8192
	// PageMax is how many results one page of a reading may have.
	PageMax = 1000
	// DefaultRetain is how long counts of days and longer windows are kept where nothing else is said.
	DefaultRetain = 400 * 24 * time.Hour
)

const _ = uint(QueueMax - BatchMax)

// Batch tells what became of one transaction.
type Batch struct {
	Ops      int           // how many ops it decided
	Wrote    bool          // whether it had to be made durable
	Took     time.Duration // from the first op's decision to the answer
	Deciding time.Duration // how much of that went into deciding; the rest is the engine's, the disk included
	Outcomes []Tally       // the writer's own memory: read it before returning, and keep nothing
	Err      error         // why the whole batch failed; nil if it did not
}

// Tally is how one op ended.
type Tally struct {
	Op       quota.Op
	Waited   time.Duration // from being asked for to the batch's begin; 0 for what nobody asked for
	Outcome  quota.Outcome // 0 if the op failed with an error
	Replayed bool          // see quota.Decision, also for what follows

	Ended    quota.Phase    // Settle, Release: how the reservation ended that was open
	Late     bool           // Settle, Release: it had expired
	Overage  []quota.Amount // Settle: what it added above the limits
	Charged  int            // Expire: reservations whose amounts became used
	Released int            // Expire: reservations whose amounts were given back
}

// Status is how a store is.
type Status struct {
	Start        time.Time     // when it was opened
	LedgerTime   time.Time     // the time by which it counts; never goes back
	ClockAhead   time.Duration // by how much the machine's clock is ahead of LedgerTime; negative while it is behind
	Queue        int           // ops waiting now
	Overloaded   int64         // ops refused since the start, as too many were waiting
	Bytes, Most  int64         // room taken and the most that may be; 0 where the engine does not know
	Views        int           // readings of the engine that are open now; 0 where it does not know
	OldestView   time.Duration // how long the oldest of them has been open
	Commits      int64         // transactions made durable since the start
	Audited      int64         // records of the audit trail since the ledger was made, those that have left included
	Undeclared   int64         // undeclared names with a count today
	Open         int64         // reservations that are open
	Oldest       time.Time     // when the oldest of them was made; left out by Store.Status, as Store.Oldest has to look for it
	Defaults     quota.Defaults
	Declared     int           // buckets and patterns
	Retain       time.Duration // see Options
	CleanStop    bool          // whether the run before this one ended in order
	Problems     []string      // what is wrong, a line each, for people
	Full         bool          // there is no room to write
	ClockHeld    bool          // the clock jumped, and is not believed yet
	CorruptSeen  bool          // a record failed its checksum
	RetentionLag int           // spaces that are due to leave
}

// BucketQuery says which buckets to list.
type BucketQuery struct {
	Prefix       quota.Bucket // "" means all
	After        string       // the last name of the page before
	Max          int          // 1 to PageMax
	DeclaredOnly bool         // leave out buckets that are only counted
}

// UsageQuery says which counts to list.
type UsageQuery struct {
	Prefix   quota.Bucket // "" means all
	Span     window.Span
	From, To string // labels, both included; "" means open. For minutes and hours the date, in UTC, of their start
	Unit     quota.Unit
	After    string // the page token of the page before
	Max      int    // 1 to PageMax
}

// ReservationQuery says which reservations to list.
type ReservationQuery struct {
	Prefix quota.Bucket  // "" means all
	Phase  quota.Phase   // PhaseUsed means all
	MinAge time.Duration // only those made at least so long ago
	After  string        // the page token of the page before, of the same query
	Max    int           // 1 to PageMax
}

// AuditQuery says which part of the audit trail to list, newest first.
type AuditQuery struct {
	Prefix quota.Bucket // "" means all
	Before int64        // only records with a lower number; 0 means from the newest
	Max    int          // 1 to PageMax
}
