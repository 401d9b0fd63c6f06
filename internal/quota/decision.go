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
)

// String returns the outcome's name, as metrics and logs have it.
func (o Outcome) String() string {
	names := [...]string{"", "done", "denied", "invalid", "id_reused", "unknown_bucket", "too_many_names", "declared_in_file"}
	if o == 0 || int(o) >= len(names) {
		return fmt.Sprintf("outcome(%d)", uint8(o))
	}
	return names[o]
}

// Outcomes returns every outcome.
func Outcomes() []Outcome {
	return []Outcome{Done, Denied, Invalid, IDReused, UnknownBucket, TooManyNames, DeclaredInFile}
}

// Decision is the answer to an op.
type Decision struct {
	Outcome    Outcome
	Time       time.Time   // when it was decided, by the ledger's clock
	Replayed   bool        // the request had been granted before, under the same id
	Balances   []Balance   // Acquire: the counts charged, as they stand now
	Violations []Violation // Denied: every limit that refused
	RetryAt    time.Time   // Denied: when this very request could pass if nothing else were taken; zero if never, or not soon
	Problems   Problems    // Invalid
	Detail     string      // a refusal's bucket, bucket and unit, or id, for people

	Before, After []Balance // Reset, SetOverride: the counts changed
	Changes       []Change  // SetBucket, DeleteBucket, ApplySet, Adopt: what is declared otherwise now
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
	Never     bool    // whether no wait can help: the count never resets, or it is too much for every window looked at
}

// String says what refused and how much is left, such as "portfolio: 50 of 50 calls used this day, 1 asked".
func (v Violation) String() string {
	b := v.Balance
	var s strings.Builder
	fmt.Fprintf(&s, "%s: %d of %d %s used", b.Bucket, b.Used, v.Cap, b.Unit)
	if b.Held > 0 {
		fmt.Fprintf(&s, " and %d held", b.Held)
	}
	if b.Window.Span != window.Ever {
		fmt.Fprintf(&s, " this %s", b.Window.Span)
	}
	if v.Ceiling {
		s.WriteString(" (the caller's own ceiling)")
	}
	if v.Restored {
		s.WriteString(" (exhausted until the day ends: a backup was restored)")
	}
	fmt.Fprintf(&s, ", %d asked", v.Requested)
	return s.String()
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
