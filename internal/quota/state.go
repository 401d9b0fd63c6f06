package quota

import (
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

// ReceiptKey names a request: its id, scoped to the caller, so that callers cannot see or spoil each other's.
type ReceiptKey struct{ Principal, RequestID string }

// Fingerprint tells a repeated request from another one under the same id.
type Fingerprint [16]byte

// Receipt is what is kept of a request that was granted under an id. Denials leave none.
type Receipt struct {
	Fingerprint Fingerprint
	Time        time.Time // when it was granted, to the millisecond
	Entries     []Entry   // what was charged
}

// Entry is the part of a receipt that concerns one count.
type Entry struct {
	Key    AccountKey // the count
	Amount int64
	Resets uint32 // the account's when it was charged: a reset since then has forgotten the amount
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
}

// State is what Apply may see and change: an engine's transaction, seen as counts and receipts. What Apply writes it may read
// again. Apply reads first and writes last, and where it refuses it does not write at all.
type State interface {
	Reader
	// SetAccount keeps a count.
	SetAccount(AccountKey, Account) error
	// Receipt returns what is kept of a request; false if nothing is.
	Receipt(ReceiptKey) (Receipt, bool, error)
	// SetReceipt keeps what was granted, for at least ReceiptLife from its time.
	SetReceipt(ReceiptKey, Receipt) error
	// AddLiveName notes that an undeclared name is counted on the day with that label.
	AddLiveName(day string, name Bucket) error
	// Declare keeps what is declared under a name; nil takes it away.
	Declare(name string, s *Settings) error
	// SetDefaults keeps what holds where nothing is declared.
	SetDefaults(Defaults) error
	// Audit keeps an administrative change and gives it its number.
	Audit(AuditRecord) error
}
