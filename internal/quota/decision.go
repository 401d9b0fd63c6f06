package quota

import (
	"fmt"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// Outcome says what an op did. The zero value is not an outcome.
type Outcome uint8

// What an op may have done. Only Done changed the ledger.
const (
	Done           Outcome = iota + 1
	Denied                 // a limit or a ceiling refused; Decision.Violations says which
	Invalid                // the request contradicts what is declared; Decision.Problems says how
	IDReused               // the request id was used before for something else
	UnknownBucket          // nobody declared the bucket, and the default is off
	TooManyNames           // the bound on live undeclared names is reached, or that on the units of a bucket
	DeclaredInFile         // the buckets file declares it, and it has to be changed there

	UnknownReservation // the caller has no acquire under that id, or its receipt has left
	NotReservation     // the acquire was a plain one: there is nothing to settle or to extend
	AlreadySettled     // it was settled before, with other amounts than these; Decision.Reservation says which
	AlreadyReleased    // it was given back before, so that it can be neither settled, extended nor acquired again under its id
	AlreadyExpired     // its time was over before it was to be extended; or it is acquired again after what it held was given back

	NotAllowed // Extend.May refuses a bucket that the reservation charges; Decision.Refused says which

	// Behind means that nothing was decided: reservations are due to expire, and what is asked depends on them. Apply Expire until
	// there are no more, and ask again. A store does that by itself.
	Behind
)

// String returns the outcome's name, as metrics and logs have it.
func (o Outcome) String() string {
	names := [...]string{
		"", "done", "denied", "invalid", "id_reused", "unknown_bucket", "too_many_names", "declared_in_file",
		"unknown_reservation", "not_reservation", "already_settled", "already_released", "already_expired", "not_allowed", "behind",
	}
	if o == 0 || int(o) >= len(names) {
		return fmt.Sprintf("outcome(%d)", uint8(o))
	}
	return names[o]
}

// Outcomes returns every outcome.
func Outcomes() []Outcome {
	return []Outcome{
		Done, Denied, Invalid, IDReused, UnknownBucket, TooManyNames, DeclaredInFile,
		UnknownReservation, NotReservation, AlreadySettled, AlreadyReleased, AlreadyExpired, NotAllowed, Behind,
	}
}

// Decision is the answer to an op.
type Decision struct {
	Outcome    Outcome
	Time       time.Time   // when it was decided, by the ledger's clock
	Replayed   bool        // the request had been granted before, under the same id
	Balances   []Balance   // Acquire, Settle, Release, Extend: the counts charged, as they stand now
	Violations []Violation // Denied: every limit that refused
	RetryAt    time.Time   // Denied: when this very request could pass if nothing else were taken; zero if never, or not soon
	Problems   Problems    // Invalid
	Field      string      // IDReused: the id that was used before, "request_id" or "extend_id"
	Detail     string      // a refusal's bucket, bucket and unit, or id, for people
	Refused    []Bucket    // NotAllowed: each once

	Expiry      time.Time    // Acquire, Extend: when the reservation expires; zero for a plain acquire
	Phase       Phase        // Acquire, Extend: how it stands; a replay may find it ended
	Reservation *Reservation // AlreadySettled, AlreadyReleased, AlreadyExpired: how it stands
	Ended       Phase        // Settle, Release: how the reservation ended that was open; PhaseUsed if none did
	Late        bool         // Settle, Release: the reservation had expired
	Overage     []Amount     // Settle: what it added above the limits, by unit; where several limits are passed, the most
	Charged     int          // Expire: reservations whose amounts became used
	Released    int          // Expire: reservations whose amounts were given back
	Work        int          // Expire: parts of receipts that were worked off
	More        bool         // Expire: whether more are due

	Before, After []Balance // Reset, SetOverride: the counts changed
	Changes       []Change  // SetBucket, DeleteBucket, ApplySet, Adopt: what is declared otherwise now
}

// Amount is so many of a unit.
type Amount struct {
	Unit   Unit
	Amount int64
}

// Change is one difference between two declared sets; nil is not declared.
type Change struct {
	Name          string
	Before, After *Settings
}

// Balance is the state of one count.
type Balance struct {
	Bucket     Bucket
	Unit       Unit
	Window     window.Window
	Limit      Cap // in force, an override included
	Used, Held int64
	Overridden bool // whether the limit comes from an override of this one window
}

// Remaining returns what may still be taken, never below 0; no bound where there is no limit.
func (b Balance) Remaining() Cap {
	if !b.Limit.Set {
		return Cap{}
	}
	return AtMost(max(0, b.Limit.Max-b.Used-b.Held))
}

// Overage returns the part of used that lies above the limit.
func (b Balance) Overage() int64 {
	if !b.Limit.Set {
		return 0
	}
	return max(0, b.Used-b.Limit.Max)
}

// Violation is one count that refused.
type Violation struct {
	Balance   Balance // as it stood, unchanged
	Requested int64   // what the request asked of this count
	Cap       int64   // the bound that refused: the limit, or the caller's ceiling where that is lower
	Ceiling   bool    // whether it was the ceiling
	Restored  bool    // whether a backup was restored today, and the limit is 0 until the day ends
	Never     bool    // whether no wait can help: the count never resets and is used up, or it is too much for every window looked at
	MaxHold   bool    // whether it was the share that one reservation may hold
	InFlight  bool    // whether it was the number of open reservations; the unit of Balance is then Reservations
}

// Reservations is what open reservations are counted in where a bucket has too many of them. It is a word for people: a unit of
// that name which somebody counts is another thing.
const Reservations = Unit("reservations")

// String says what refused and how much is left, such as "portfolio: 50 of 50 calls used this day, 1 asked".
func (v Violation) String() string {
	b := v.Balance
	var s strings.Builder
	switch {
	case v.InFlight:
		return fmt.Sprintf("%s: %d of %d reservations in flight", b.Bucket, b.Held, v.Cap)
	case v.MaxHold:
		return fmt.Sprintf("%s: one reservation may hold %d %s%s, %d asked", b.Bucket, v.Cap, b.Unit, thisWindow(b.Window), v.Requested)
	}
	fmt.Fprintf(&s, "%s: %d of %d %s used", b.Bucket, b.Used, v.Cap, b.Unit)
	if b.Held > 0 {
		fmt.Fprintf(&s, " and %d held", b.Held)
	}
	s.WriteString(thisWindow(b.Window))
	if v.Ceiling {
		s.WriteString(" (the caller's own ceiling)")
	}
	if v.Restored {
		s.WriteString(" (exhausted until the day ends: a backup was restored)")
	}
	fmt.Fprintf(&s, ", %d asked", v.Requested)
	return s.String()
}

func thisWindow(w window.Window) string {
	if w.Span == window.Ever {
		return ""
	}
	return " this " + w.Span.String()
}

// retryAt returns when the last of the windows ends that refused. Zero if one of them never does.
func retryAt(violations []Violation) time.Time {
	var at time.Time
	for _, v := range violations {
		if v.Balance.Window.Span == window.Ever {
			return time.Time{}
		}
		if v.Balance.Window.End.After(at) {
			at = v.Balance.Window.End
		}
	}
	return at
}
