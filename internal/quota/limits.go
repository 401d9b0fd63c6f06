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
	// ReceiptLife is how long a receipt lives at least, and so for how long a request may be sent again.
	ReceiptLife = 24 * time.Hour
)

// Relations that the arithmetic depends on: sums of one request, added to any count, stay within int64.
const (
	_ = uint64(CountMax - AmountMax*ChargesMax)             // one request fits below the largest count
	_ = uint64(1<<63 - 1 - CountMax - ChargesMax*AmountMax) // and above it without overflow
	_ = uint(UnitsMax - LimitsMax)                          // the units that a bucket limits never use up all there may be
	_ = uint(CountsMax - ChargesMax*SegmentsMax)            // the largest request fits where each bucket counts it in one window
)
