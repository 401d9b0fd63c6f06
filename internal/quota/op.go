package quota

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// Op is one change to the ledger. The set is closed: the ops of this package are all there are.
type Op interface{ isOp() }

// Acquire takes all of its charges or none of them. Validate must have passed before it is applied.
type Acquire struct {
	Principal string // who calls; scopes RequestID. It has no NUL
	Bucket    Bucket
	Charges   []Charge      // none means one call from Bucket, and what its estimates say of other units
	RequestID string        // "" means that it cannot be recognised when it is sent again
	Reserve   bool          // hold the amounts rather than use them; needs a RequestID
	Hold      time.Duration // of a reservation, HoldMin to HoldMax; 0 means the bucket's
	bare      bool          // no charges were named
	sum       Fingerprint
}

// Settle replaces what a reservation holds by what was really used, in the windows that admitted it.
type Settle struct {
	Principal, RequestID string
	Charges              []Charge // Amount is 0 to AmountMax; what is not named settles as held
}

// Release gives a reservation back, or undoes a plain acquire.
type Release struct{ Principal, RequestID string }

// Extend keeps a reservation longer, and takes more for it. Validate must have passed before it is applied.
type Extend struct {
	Principal, RequestID string
	ExtendID             string        // "" means that it cannot be recognised when it is sent again; needed with Charges
	Hold                 time.Duration // from now, HoldMin to HoldMax; 0 keeps the expiry, as does one that is earlier
	Charges              []Charge
	// May tells whether the caller may still take from a bucket. It is asked for each that the reservation charges by name, of which
	// the request itself need not name any; nil means that all are allowed. Its answers do not change while the op is applied.
	May func(Bucket) bool
	sum Fingerprint
}

// Expire ends reservations that nobody settled in time, the first to expire first.
type Expire struct {
	Max int // at most so many; with 0 it only tells whether there are any
}

// Charge is one amount to take.
type Charge struct {
	Bucket      Bucket      // "" means the request's
	Unit        Unit        // "" means Calls
	Amount      int64       // 1 to AmountMax; 1 with Default
	Default     bool        // no amount was named: the bucket's estimate for the unit, or 1. Of a Settle: as much as is held
	Ceiling     Cap         // the caller's own lower bound on the count
	CeilingSpan window.Span // the window that the ceiling binds; 0 means each that is limited, or the day if none is
}

// SetBucket declares a bucket or a pattern, by the API.
type SetBucket struct {
	Principal, Reason string // who changes it, and why, for the audit trail; Reason has at most NoteBytesMax bytes
	Name              string
	Settings          Settings
}

// DeleteBucket takes a declaration of the API away. Counts stay.
type DeleteBucket struct {
	Principal, Reason string
	Name              string
}

// ApplySet makes Buckets all that is declared by Source. What another source declares is left alone, and wins if it is the
// file. With ValidateOnly it only tells the difference.
type ApplySet struct {
	Principal, Reason string
	Source            Source
	Buckets           map[string]Settings
	ValidateOnly      bool
}

// SetOverride gives one bucket another limit in one window.
type SetOverride struct {
	Principal, Reason string
	Bucket            Bucket
	Unit              Unit        // "" means Calls
	Span              window.Span // 0 means the day
	Label             string      // "" means the current window
	Limit             Cap         // none takes an override away
}

// Reset sets used to zero in the current windows of one bucket. What reservations hold stays held.
type Reset struct {
	Principal, Reason string
	Bucket            Bucket
	Unit              Unit        // "" means all
	Span              window.Span // 0 means all
	ValidateOnly      bool
}

// Configure sets what holds where nothing is declared. Setting what is set already changes nothing.
type Configure struct {
	Principal string
	Defaults  Defaults
}

// Exhaust ends the day for every limited unit: what was spent today is not known. An override opens a bucket again.
type Exhaust struct{ Principal, Reason string }

// Adopt makes all that the buckets file declared the API's own, for a ledger that is kept without such a file from now on: else
// nobody could change it any more.
type Adopt struct{ Principal string }

// Note puts a record into the audit trail and changes nothing else.
type Note struct {
	Principal, Reason string
	Action            string // what was done
	Before, After     string // how it stood, and how it stands; see AuditRecord
}

func (Acquire) isOp()      {}
func (Settle) isOp()       {}
func (Release) isOp()      {}
func (Extend) isOp()       {}
func (Expire) isOp()       {}
func (SetBucket) isOp()    {}
func (DeleteBucket) isOp() {}
func (ApplySet) isOp()     {}
func (SetOverride) isOp()  {}
func (Reset) isOp()        {}
func (Configure) isOp()    {}
func (Exhaust) isOp()      {}
func (Adopt) isOp()        {}
func (Note) isOp()         {}

// Problem is one thing that is wrong with a request.
type Problem struct {
	Field string // as the wire contract names it, such as "charges[1].amount"
	Text  string // what was wrong and what would be right
}

// String returns the field and what is wrong with it.
func (p Problem) String() string { return p.Field + ": " + p.Text }

// Problems collects what is wrong with a request, all of it at once.
type Problems []Problem

// Add notes that a field is at fault.
func (ps *Problems) Add(field, format string, args ...any) {
	*ps = append(*ps, Problem{field, fmt.Sprintf(format, args...)})
}

// Try notes err, if it is not nil, as a field's fault.
func (ps *Problems) Try(field string, err error) {
	if err != nil {
		*ps = append(*ps, Problem{field, err.Error()})
	}
}

// Validate fills in what was left out and tells what is wrong; none if the acquire may be applied.
func (a *Acquire) Validate() Problems {
	var ps Problems
	ps.Try("bucket", a.Bucket.Check())
	if a.RequestID != "" {
		ps.Try("request_id", checkRequestID(a.RequestID))
	}
	if a.Reserve && a.RequestID == "" {
		ps.Add("request_id", "is left out; a reservation is settled by it, so that hold needs one")
	}
	if a.Hold != 0 {
		checkHold(&ps, a.Hold, "0 for the bucket's own hold time")
	}
	if len(a.Charges) == 0 {
		a.bare = true
		a.Charges = []Charge{{Amount: 1, Default: true}}
	}
	validateCharges(a.Charges, a.Bucket, &ps)
	if ps == nil {
		a.sum = a.fingerprint()
	}
	return ps
}

func checkHold(ps *Problems, hold time.Duration, or string) {
	if hold < HoldMin || hold > HoldMax {
		ps.Add("hold", "is %s; want %s to %s, or %s", hold, HoldMin, HoldMax, or)
	}
}

// validateCharges fills in what was left out; what one without a bucket is charged to may be known only later.
func validateCharges(charges []Charge, main Bucket, ps *Problems) {
	if len(charges) > ChargesMax {
		ps.Add("charges", "has %d; at most %d in one request", len(charges), ChargesMax)
		return
	}
	for i := range charges {
		validateCharge(charges, i, main, ps)
	}
}

func validateCharge(charges []Charge, i int, main Bucket, ps *Problems) {
	c := &charges[i]
	field := func(name string) string { return fmt.Sprintf("charges[%d].%s", i, name) }
	faults := len(*ps)
	if c.Bucket == "" {
		c.Bucket = main
	} else if err := c.Bucket.Check(); err != nil {
		ps.Try(field("bucket"), err)
	}
	if c.Unit == "" {
		c.Unit = Calls
	} else if err := c.Unit.Check(); err != nil {
		ps.Try(field("unit"), err)
	}
	named := len(*ps) == faults
	if c.Amount < 1 || c.Amount > AmountMax {
		ps.Add(field("amount"), "is %d; want 1 to %d, or leave it out for the bucket's estimate, or 1", c.Amount, AmountMax)
	}
	if c.Ceiling.Set && c.Ceiling.Max < 0 {
		ps.Add(field("ceiling"), "is %d; want 0 or more, or leave it out for none", c.Ceiling.Max)
	}
	if c.CeilingSpan != 0 && !c.CeilingSpan.Valid() {
		ps.Add(field("ceiling_window"), "is %d, which is not a window", c.CeilingSpan)
	}
	if c.CeilingSpan != 0 && !c.Ceiling.Set {
		ps.Add(field("ceiling_window"), "is given without a ceiling; give both or neither")
	}
	for j, d := range charges[:i] {
		if named && d.Bucket == c.Bucket && d.Unit == c.Unit {
			ps.Add(field("unit"), "%s of %s is charged by charges[%d] already; add the amounts up in one charge", c.Unit, c.Bucket, j)
		}
	}
}

// fingerprint sums up all that makes this acquire this one; the id and the caller are the key of its receipt.
func (a *Acquire) fingerprint() Fingerprint {
	if a.RequestID == "" {
		return Fingerprint{}
	}
	buf := make([]byte, 0, 256)
	if a.Reserve {
		buf = binary.AppendVarint(append(buf, "reserve/1"...), int64(a.Hold))
	} else {
		buf = append(buf, "acquire/1"...)
	}
	return fingerprint(appendText(buf, string(a.Bucket)), a.Charges)
}

func appendText(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// fingerprint sums up what came before and the charges. An amount that was left out counts as 1 here, whatever it is estimated at:
// what a caller said is told apart, not what is declared.
func fingerprint(buf []byte, charges []Charge) Fingerprint {
	bounded := func(c Cap) {
		if c.Set {
			buf = binary.AppendVarint(append(buf, 1), c.Max)
		} else {
			buf = append(buf, 0)
		}
	}
	for _, c := range charges {
		buf = appendText(appendText(buf, string(c.Bucket)), string(c.Unit))
		buf = binary.AppendVarint(buf, c.Amount)
		bounded(c.Ceiling)
		buf = append(buf, byte(c.CeilingSpan))
	}
	sum := sha256.Sum256(buf)
	return Fingerprint(sum[:16])
}

// Validate fills in what was left out and tells what is wrong; none if the extension may be applied.
func (x *Extend) Validate() Problems {
	var ps Problems
	ps.Try("request_id", requireRequestID(x.RequestID))
	if x.ExtendID != "" {
		ps.Try("extend_id", checkRequestID(x.ExtendID))
	} else if len(x.Charges) > 0 {
		ps.Add("extend_id", "is left out; with charges it is needed, so that sending them again takes nothing more")
	}
	if x.Hold != 0 {
		checkHold(&ps, x.Hold, "leave it out to keep the expiry")
	} else if len(x.Charges) == 0 {
		ps.Add("hold", "is left out, and so are charges; want one of them, or nothing would be extended")
	}
	validateCharges(x.Charges, "", &ps)
	if ps == nil {
		x.sum = fingerprint(binary.AppendVarint([]byte("extend/1"), int64(x.Hold)), x.Charges)
	}
	return ps
}

// Validate tells what is wrong; none if the settlement may be applied.
func (s *Settle) Validate() Problems {
	var ps Problems
	ps.Try("request_id", requireRequestID(s.RequestID))
	if len(s.Charges) > ChargesMax {
		ps.Add("charges", "has %d; at most %d in one request", len(s.Charges), ChargesMax)
		return ps
	}
	for i := range s.Charges {
		c := &s.Charges[i]
		field := func(name string) string { return fmt.Sprintf("charges[%d].%s", i, name) }
		if c.Bucket != "" {
			ps.Try(field("bucket"), c.Bucket.Check())
		}
		if c.Unit == "" {
			c.Unit = Calls
		} else {
			ps.Try(field("unit"), c.Unit.Check())
		}
		if !c.Default && (c.Amount < 0 || c.Amount > AmountMax) {
			ps.Add(field("amount"), "is %d; want 0 to %d, or leave it out for what is held", c.Amount, AmountMax)
		}
		if c.Ceiling.Set || c.CeilingSpan != 0 {
			ps.Add(field("ceiling"), "is given; a settlement records what was used, and is never refused for its amount")
		}
	}
	return ps
}

// Validate tells what is wrong; none if the release may be applied.
func (r *Release) Validate() Problems {
	var ps Problems
	ps.Try("request_id", requireRequestID(r.RequestID))
	return ps
}
