package quota

import "time"

// Bounds on everything a caller can send or a file can declare, in one place. Changing one changes the contract.
const (
	// NameBytesMax is the longest bucket name or pattern, in bytes.
	NameBytesMax = 200
	// SegmentsMax is the deepest path: a bucket and its parents.
	SegmentsMax = 8
	// UnitBytesMax is the longest name of a unit, in bytes.
	UnitBytesMax = 64
	// RequestIDBytesMax is the longest request id, in bytes. A UUID has 36.
	RequestIDBytesMax = 128
	// ChargesMax is how many charges one request may make.
	ChargesMax = 32
	// CountsMax is how many counts one request may touch, over its charges, their parents and windows: all of them are read and
	// written by one writer, while every other request waits.
	CountsMax = 256
	// EntriesMax is how many parts the receipt of a reservation may have: one for each charge and count that it touches, those of its
	// extensions included. The largest acquire stays below it.
	EntriesMax = 2048
	// UnitsMax is how many units a bucket may have counts of on one day before a unit that it does not limit is refused there.
	// It bounds what a client can do that puts something of its own into the unit, such as an id.
	UnitsMax = 64
	// AmountMax is the most that one charge may take: a billion dollars in millionths.
	AmountMax int64 = 1e15
	// CountMax is the most that a limit may be, and the most that any count may reach through an acquire.
	CountMax int64 = 4e18
	// LimitsMax is how many limits one bucket may have.
	LimitsMax = 32
	// DeclaredMax is how many buckets and patterns may be declared.
	DeclaredMax = 10_000
	// NoteBytesMax is the longest description or reason, in bytes.
	NoteBytesMax = 500
	// OverrideAheadMax is how far ahead the window of an override may begin.
	OverrideAheadMax = 400 * 24 * time.Hour
	// ReceiptLife is how long a receipt lives at least after it was last written, and so for how long a request may be sent again,
	// and a reservation be settled after it has expired.
	ReceiptLife = 24 * time.Hour
	// HoldMin is the shortest time for which a reservation can be held: the ledger's time is kept to it.
	HoldMin = time.Millisecond
	// HoldMax is how far ahead a reservation may expire. It is no more than ReceiptLife, so that the receipt of an open one is
	// always there.
	HoldMax = 24 * time.Hour
	// HoldDefault is how long a reservation is held where neither its caller nor its bucket says.
	HoldDefault = 15 * time.Minute
	// InFlightMax is the most that max_in_flight may be.
	InFlightMax int64 = 1e9
	// EstimatesMax is how many estimates one bucket may have. They are charges of an acquire that names none.
	EstimatesMax = ChargesMax
	// UsedMax is the most that a count is said to have used. Only settlements can pass CountMax, which are recorded and not
	// refused; what is beyond is cut off, so that no sum overflows.
	UsedMax int64 = 5e18
)

// Relations that the arithmetic depends on: sums of one request, added to any count, stay within int64.
const (
	_ = uint64(CountMax - AmountMax*ChargesMax)             // one request fits below the largest count
	_ = uint64(1<<63 - 1 - CountMax - ChargesMax*AmountMax) // and above it without overflow
	_ = uint(UnitsMax - LimitsMax)                          // the units that a bucket limits never use up all there may be
	_ = uint(CountsMax - ChargesMax*SegmentsMax)            // the largest request fits where each bucket counts it in one window
	_ = uint(EntriesMax - ChargesMax*SegmentsMax*7)         // seven windows
	_ = uint64(1<<63 - 1 - UsedMax - CountMax)              // used and held, both at their most, do not overflow
	_ = uint64(UsedMax - CountMax)
	_ = uint64(ReceiptLife - HoldMax)
)
