package quota

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/quotad/quotad/internal/window"
)

// Op is one change to the ledger. The set is closed: the ops of this package are all there are.
type Op interface{ isOp() }

// Acquire takes all of its charges or none of them. Validate must have passed before it is applied.
type Acquire struct {
	Principal string // who calls; scopes RequestID. It has no NUL
	Bucket    Bucket
	Charges   []Charge // none means one call from Bucket
	RequestID string   // "" means that it cannot be recognised when it is sent again
	sum       Fingerprint
}

// Charge is one amount to take.
type Charge struct {
	Bucket      Bucket      // "" means the request's
	Unit        Unit        // "" means Calls
	Amount      int64       // 1 to AmountMax
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
	Action, After     string // what was done, and what came of it; see AuditRecord
}

func (Acquire) isOp()      {}
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
	if len(a.Charges) > ChargesMax {
		ps.Add("charges", "has %d; at most %d in one request", len(a.Charges), ChargesMax)
		return ps
	}
	if len(a.Charges) == 0 {
		a.Charges = []Charge{{Amount: 1}}
	}
	for i := range a.Charges {
		a.validateCharge(i, &ps)
	}
	if ps == nil {
		a.sum = a.fingerprint()
	}
	return ps
}

func (a *Acquire) validateCharge(i int, ps *Problems) {
	c := &a.Charges[i]
	field := func(name string) string { return fmt.Sprintf("charges[%d].%s", i, name) }
	faults := len(*ps)
	if c.Bucket == "" {
		c.Bucket = a.Bucket
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
		ps.Add(field("amount"), "is %d; want 1 to %d, or leave it out for 1", c.Amount, AmountMax)
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
	for j, d := range a.Charges[:i] {
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
	text := func(s string) { buf = append(binary.AppendUvarint(buf, uint64(len(s))), s...) }
	bounded := func(c Cap) {
		if c.Set {
			buf = binary.AppendVarint(append(buf, 1), c.Max)
		} else {
			buf = append(buf, 0)
		}
	}
	buf = append(buf, "acquire/1"...)
	text(string(a.Bucket))
	for _, c := range a.Charges {
		text(string(c.Bucket))
		text(string(c.Unit))
		buf = binary.AppendVarint(buf, c.Amount)
		bounded(c.Ceiling)
		buf = append(buf, byte(c.CeilingSpan))
	}
	sum := sha256.Sum256(buf)
	return Fingerprint(sum[:16])
}
