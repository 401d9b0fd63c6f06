package quota

import (
	"fmt"
	"slices"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// AccountKey names one count: a bucket's unit in one window.
type AccountKey struct {
	Bucket Bucket
	Unit   Unit
	Span   window.Span
	Label  string // the window's; see window.Window
}

// Account is what is kept of one count. The zero value is a count of nothing without a limit.
type Account struct {
	Used, Held int64 // spent, and promised to reservations; never negative
	Receipted  int64 // the part of Used whose receipts say so; what quotactl verify recounts
	Limit      Cap   // the declared limit when it was last charged, for history
	Override   Cap   // another limit for this window alone
	Resets     uint32
	Told       int       // the highest threshold that was told of in this window, in percent; 0 if none was
	Start, End time.Time // of the window, to the second; zero for ever
}

// cover notes the window of a count. Its start is the earliest there was: where a bucket's zone is changed the civil date, and so
// the count, may stay the same, and what was charged before the change lies in the bounds of then.
func (a *Account) cover(w window.Window) {
	if a.Start.IsZero() || w.Start.Before(a.Start) {
		a.Start = w.Start
	}
	a.End = w.End
}

// limit returns the limit in force where declared is what is declared.
func (a Account) limit(declared Cap) Cap {
	if a.Override.Set {
		return a.Override
	}
	return declared
}

// ReceiptKey names a request: its id, scoped to the caller, so that callers cannot see or spoil each other's. ExtendID is that of
// an extension of the reservation which RequestID names; "" for an acquire.
type ReceiptKey struct{ Principal, RequestID, ExtendID string }

// Fingerprint tells a repeated request from another one under the same id.
type Fingerprint [16]byte

// Phase says how far an acquire has come. Its numbers are stored; they never change.
type Phase uint8

// How far it may have come.
const (
	PhaseUsed     Phase = 0 // a plain acquire: its amounts were used at once
	PhaseOpen     Phase = 1 // a reservation: its amounts are held
	PhaseSettled  Phase = 2 // what it held was replaced by what was really used
	PhaseReleased Phase = 3 // what it took, plain or held, was given back
	PhaseExpired  Phase = 4 // nobody settled it in time; a late settlement or release may still correct it
)

// String returns the phase's name.
func (p Phase) String() string {
	names := [...]string{"used", "open", "settled", "released", "expired"}
	if int(p) >= len(names) {
		return fmt.Sprintf("phase(%d)", uint8(p))
	}
	return names[p]
}

// Receipt is what is kept of a request that was granted under an id. Denials leave none.
type Receipt struct {
	Fingerprint Fingerprint
	Time        time.Time // when it was granted, to the millisecond
	Entries     []Entry   // what was charged
	Phase       Phase
	Hold        *Hold // what makes it a reservation; nil for a plain acquire, and for an extension
}

// Hold is the part of a reservation's receipt that a plain acquire does not have.
type Hold struct {
	Bucket   Bucket       // the acquire's
	Expiry   time.Time    // to the millisecond; when it expires or expired, or would have
	OnExpiry OnExpiry     // the bucket's, when it was made
	Ended    time.Time    // when it was settled or released, or its expiry carried out; zero while it is open
	Late     bool         // whether it was settled or released after Expiry
	Charges  []HeldCharge // what it holds, in the order in which it was taken; a bucket and unit may be there several times
}

// HeldCharge is what a reservation took of one bucket and unit in one acquire or extension.
type HeldCharge struct {
	Bucket Bucket
	Unit   Unit
	Amount int64 // held; 0 for a unit that only the settlement named
	Used   int64 // what it was settled with; set once it is
}

// Entry is the part of a receipt that concerns one count.
type Entry struct {
	Key    AccountKey // the count
	Amount int64      // what was taken: used by a plain acquire, held by a reservation
	Resets uint32     // the account's when it was last charged: a reset since then has forgotten what was used
	Charge int        // of a reservation: which of Hold.Charges it belongs to
	Used   int64      // of a reservation that is not open: what of it is in the account's used
}

// Held returns what an entry of this receipt holds of its count.
func (r Receipt) Held(e Entry) int64 {
	if r.Phase == PhaseOpen {
		return e.Amount
	}
	return 0
}

// Used returns what an entry of this receipt has in its count's used, but for a reset since then.
func (r Receipt) Used(e Entry) int64 {
	switch r.Phase {
	case PhaseUsed:
		return e.Amount
	case PhaseSettled, PhaseExpired:
		return e.Used
	case PhaseOpen, PhaseReleased:
	}
	return 0
}

// touched returns how many counts the entries are of: charges that share a parent have an entry each of its counts.
func touched(entries []Entry) int {
	keys := make(map[AccountKey]struct{}, len(entries))
	for _, e := range entries {
		keys[e.Key] = struct{}{}
	}
	return len(keys)
}

// InFlight returns the buckets on which this receipt is a reservation in flight: those that it charged, each once; none if it is
// not open.
func (r Receipt) InFlight() []Bucket {
	if r.Phase != PhaseOpen {
		return nil
	}
	return chargedBuckets(r.Entries)
}

func chargedBuckets(entries []Entry) []Bucket {
	buckets := make([]Bucket, 0, 2)
	for _, e := range entries {
		if !slices.Contains(buckets, e.Key.Bucket) {
			buckets = append(buckets, e.Key.Bucket)
		}
	}
	return buckets
}

// Reservation is a reservation as it stands, for people.
type Reservation struct {
	Principal, RequestID string
	Phase                Phase
	Made                 time.Time // to the millisecond
	Hold
}

// ReservationOf returns the reservation that a receipt is of; false if it is of a plain acquire or an extension. One whose time is
// over at now is expired, also where that has not been carried out yet.
func ReservationOf(k ReceiptKey, r Receipt, now time.Time) (Reservation, bool) {
	if r.Hold == nil {
		return Reservation{}, false
	}
	return Reservation{Principal: k.Principal, RequestID: k.RequestID, Phase: r.phaseAt(now), Made: r.Time, Hold: *r.Hold}, true
}

// phaseAt returns how far a reservation has come at now.
func (r Receipt) phaseAt(now time.Time) Phase {
	if r.Phase == PhaseOpen && !r.Hold.Expiry.After(now) {
		return PhaseExpired
	}
	return r.Phase
}

// AuditRecord is one administrative change.
type AuditRecord struct {
	Sequence  int64     // its number, from 1 on; set by the State
	Time      time.Time // to the millisecond
	Principal string    // who made it; "quotad" for the daemon itself
	Action    string    // what was done, such as "set_bucket" or "reset"
	Bucket    string    // the bucket or pattern; "" where it concerns the ledger
	Before    string    // how it stood, in a line; "" if there was nothing
	After     string    // how it stands, in a line; "" if nothing is left
	Reason    string    // the one given
	Hash      AuditHash // of this record and of the one before; set by the State. Zero in a record from before there was a chain
}

// Reader is what a decision may see.
type Reader interface {
	// Book returns what is declared.
	Book() (*Book, error)
	// Account returns a count; the zero value and false if nothing is kept of it.
	Account(AccountKey) (Account, bool, error)
	// Units returns the units that a bucket has a count of in a window, sorted.
	Units(Bucket, window.Window) ([]Unit, error)
	// LiveNames tells whether an undeclared name has been counted on the day with that label, and how many have.
	LiveNames(day string, name Bucket) (known bool, n int64, err error)
	// Windows returns a cache of windows, for the use of this decision alone.
	Windows() *window.Cache
	// InFlight returns how many reservations are open on a bucket.
	InFlight(Bucket) (int64, error)
	// Due returns at most max open reservations whose expiry is not after now, the first to expire first. It leaves out those of
	// which a record is damaged.
	Due(now time.Time, max int) ([]ReceiptKey, error)
}

// State is what Apply may see and change: an engine's transaction, seen as counts and receipts. What Apply writes it may read
// again. Apply reads first and writes last, and where it refuses it does not write at all.
type State interface {
	Reader
	// SetAccount keeps a count.
	SetAccount(AccountKey, Account) error
	// Receipt returns what is kept of a request; false if nothing is.
	Receipt(ReceiptKey) (Receipt, bool, error)
	// SetReceipt keeps what was granted, for at least ReceiptLife from now.
	SetReceipt(ReceiptKey, Receipt) error
	// Schedule notes when a reservation expires, if it is open. before is when it would have expired until now; zero if it is new.
	Schedule(k ReceiptKey, before time.Time, r Receipt) error
	// SetInFlight keeps how many reservations are open on a bucket.
	SetInFlight(Bucket, int64) error
	// AddLiveName notes that an undeclared name is counted on the day with that label.
	AddLiveName(day string, name Bucket) error
	// Declare keeps what is declared under a name; nil takes it away.
	Declare(name string, s *Settings) error
	// SetDefaults keeps what holds where nothing is declared.
	SetDefaults(Defaults) error
	// Audit keeps an administrative change and gives it its number and its hash.
	Audit(AuditRecord) error
	// Announce keeps an event for whoever is to be told, and gives it its id.
	Announce(Event) error
}
