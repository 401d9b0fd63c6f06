package quota_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// Charges that share a parent have an entry each of its counts; what is bounded is the counts.
func TestCountsMaxOfReservations(t *testing.T) {
	t.Parallel()
	declared := make(map[string]quota.Settings)
	for n := range quota.SegmentsMax {
		declared["*"+strings.Repeat("/*", n)] = quota.Settings{Limits: limits("50/minute, 50/hour, 50/day, 50/week, 50/month, 50/year, 50/ever")}
	}
	op := reserve("a/b/c/d/e/f/g/0", "1", 1)
	for i := 1; i < 29; i++ { // 7 counts of each, and 49 of their 7 parents
		op.Charges = append(op.Charges, quota.Charge{Bucket: quota.Bucket("a/b/c/d/e/f/g/" + strings.Repeat("x", i)), Amount: 1})
	}
	s := newState(t, quota.Defaults{}, declared)
	const touch = "charges: would make the reservation touch %s counts, over all buckets, parents and windows; at most 256 in one"
	x := extend("1", "x", 0, 1)
	x.Charges[0].Unit = "tokens"
	tokens := quota.Settle{Principal: "p", RequestID: "1", Charges: []quota.Charge{{Unit: "tokens", Amount: 1}}}
	play(
		t, s,
		step{0, op, "done, until 12:15:00", ""},
		step{0, extend("1", "", time.Hour, 0), "done, until 13:00:00", ""},
		step{0, extend("1", "w", 0, 1), "done, until 13:00:00", ""},
		step{0, x, "invalid, " + strings.Replace(touch, "%s", "260", 1), ""},
		step{0, tokens, "invalid, " + strings.Replace(touch, "%s", "260", 1), ""},
		step{0, settle("1", 3), "done", ""},
	)
	if n := len(s.accounts); n != 252 {
		t.Errorf("%d counts, want 252", n)
	}
}

// wideEntries is how many parts the receipt of wide has: each of its charges has a count of its own, and 49 of 7 parents.
const wideEntries = quota.ChargesMax * 50

// deep declares that everything has as many parents as can be, and each of them every window.
func deep() map[string]quota.Settings {
	declared := make(map[string]quota.Settings)
	for n := range quota.SegmentsMax - 1 {
		declared["*"+strings.Repeat("/*", n)] = quota.Settings{Limits: limits("900/minute, 900/hour, 900/day, 900/week, 900/month, 900/year, 900/ever")}
	}
	declared["*"+strings.Repeat("/*", quota.SegmentsMax-1)] = quota.Settings{}
	return declared
}

// wide is as large as a reservation gets in one request.
func wide(id string) quota.Acquire {
	op := reserve("a/b/c/d/e/f/g/0", id, 1)
	for i := 1; i < quota.ChargesMax; i++ {
		op.Charges = append(op.Charges, quota.Charge{Bucket: quota.Bucket(fmt.Sprint("a/b/c/d/e/f/g/", i)), Amount: 1})
	}
	return op
}

// However often it is extended, what is kept of a reservation is bounded.
func TestEntriesMax(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, deep())
	more := func(id string, n int) quota.Extend {
		op := quota.Extend{Principal: "p", RequestID: "1", ExtendID: id, Hold: time.Hour}
		for i := range n {
			op.Charges = append(op.Charges, quota.Charge{Bucket: quota.Bucket(fmt.Sprint("a/b/c/d/e/f/g/", i)), Amount: 1})
		}
		return op
	}
	const nine = wideEntries + 9*50 // 2050
	play(
		t, s,
		step{0, wide("1"), until, ""},
		step{0, more("same", 32), "done, until 13:00:00", ""}, // is added up
		step{
			time.Minute, more("nine", 9), // in counts of another minute
			fmt.Sprintf("invalid, charges: would make the reservation keep %d parts; at most %d: settle it, and acquire anew", nine, quota.EntriesMax), "",
		},
		step{time.Minute, more("eight", 8), "done, until 13:01:00", ""},
		step{time.Minute, more("again", 8), "done, until 13:01:00", ""},
		step{2 * time.Minute, more("one", 1), "invalid, charges: would make the reservation keep 2050 parts; at most 2048: settle it, and acquire anew", ""},
		step{2 * time.Minute, quota.Settle{Principal: "p", RequestID: "1"}, "done", ""},
	)
	if n := len(s.receipts[quota.ReceiptKey{Principal: "p", RequestID: "1"}].Entries); n != 2000 {
		t.Errorf("%d parts, want 2000", n)
	}
}

// The sum of what a reservation holds of a unit, over all windows, stays what a count may reach.
func TestCountMaxOfExtensions(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "4_000_000_000_000_000_000"}))
	s.apply(t, noon, held(reserve("a", "1", 3), 24*time.Hour))
	key := quota.ReceiptKey{Principal: "p", RequestID: "1"}
	r := s.receipts[key]
	r.Hold.Charges[0].Amount, r.Entries[0].Amount = quota.CountMax-2, quota.CountMax-2
	s.receipts[key] = r
	k := quota.AccountKey{Bucket: "a", Unit: quota.Calls, Span: window.Day, Label: "2026-11-22"}
	a := s.accounts[k]
	a.Held = quota.CountMax - 2
	s.accounts[k] = a
	play(
		t, s,
		step{13 * time.Hour, extend("1", "x", 0, 3), "invalid, charges: would make the reservation hold more than 4000000000000000000 calls of a", ""},
		step{13 * time.Hour, extend("1", "x", 0, 2), "done, until 12:00:00", ""},
		step{13 * time.Hour, extend("1", "y", 0, 1), "invalid, charges: would make the reservation hold more than 4000000000000000000 calls of a", ""},
	)
}
