package quota_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// What becomes of a reservation is what its bucket, or the nearest parent that is declared, said when it was made.
func TestExpireAsItWasDeclared(t *testing.T) {
	t.Parallel()
	back := func(s string) quota.Settings {
		return quota.Settings{Limits: limits(s), OnExpiry: quota.ExpiryRelease}
	}
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, map[string]quota.Settings{
		"a": back("5"), "a/own": {Limits: limits("5")}, "b": {Limits: limits("5")}, "c/*": back("5"),
	})
	play(
		t, s,
		step{0, reserve("a/x/y", "1", 1), "done, until 12:15:00", ""}, // as a
		step{0, reserve("a/own", "2", 1), "done, until 12:15:00", ""}, // as itself
		step{0, reserve("a/own/z", "3", 1), "done, until 12:15:00", ""},
		step{0, reserve("b", "4", 1), "done, until 12:15:00", ""},
		step{0, reserve("c/d", "5", 1), "done, until 12:15:00", ""},   // as its pattern
		step{0, reserve("other", "6", 1), "done, until 12:15:00", ""}, // as the default, which charges
		step{0, quota.SetBucket{Name: "b", Settings: back("5")}, "done", ""},
		step{0, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("5")}}, "done", ""},
		step{15*time.Minute - 1, quota.Expire{Max: 9}, "done", ""},
		step{
			15 * time.Minute,
			quota.Expire{Max: 9},
			"done, 4 charged, 2 released",
			today + "2+0; a/own calls/day 2026-11-22: 2+0; a/own/z calls/day 2026-11-22: 1+0; " +
				"b calls/day 2026-11-22: 1+0; other calls/day 2026-11-22: 1+0",
		},
		step{15 * time.Minute, quota.Expire{Max: 9}, "done", ""},
	)
}

// The first to expire goes first, and no more than are asked for.
func TestExpireInTurn(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "99"}))
	for i := range 5 {
		s.apply(t, noon, held(reserve("a", fmt.Sprint(i), int64(1)<<i), time.Duration(5-i)*time.Minute))
	}
	play(
		t, s,
		step{0, quota.Expire{Max: 9}, "done", ""},
		step{4 * time.Minute, quota.Expire{}, "done, more", today + "0+31; a has 5"},
		step{4 * time.Minute, quota.Expire{Max: 1}, "done, more, 1 charged, 0 released", today + "16+15; a has 4"},
		step{4 * time.Minute, quota.Expire{Max: 2}, "done, more, 2 charged, 0 released", today + "28+3; a has 2"},
		step{4 * time.Minute, quota.Expire{Max: 1}, "done, 1 charged, 0 released", today + "30+1; a has 1"},
		step{4 * time.Minute, quota.Expire{Max: 1}, "done", ""},
		step{5 * time.Minute, quota.Expire{Max: 1}, "done, 1 charged, 0 released", today + "31+0"},
	)
}

// Reservations that are large go fewer at a time: what they do is bounded, not how many they are.
func TestExpireBoundsWork(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, deep())
	for i := range 4 {
		s.apply(t, noon, wide(fmt.Sprint(i)))
	}
	d := s.apply(t, noon.Add(time.Hour), quota.Expire{Max: 9})
	if d.Charged != 3 || !d.More || d.Work != 3*wideEntries {
		t.Errorf("%s after work of %d, want 3 charged, more, after %d", outcomeOf(d), d.Work, 3*wideEntries)
	}
	play(t, s, step{time.Hour, quota.Expire{Max: 9}, "done, 1 charged, 0 released", ""})
}

// What depends on a reservation that is due is not decided before it has been expired; what does not is decided at once.
func TestBehind(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, map[string]quota.Settings{
		"a": {Limits: limits("5"), OnExpiry: quota.ExpiryRelease, MaxInFlight: 1}, "b": {Limits: limits("5")},
	})
	plain := quota.Acquire{Principal: "p", Bucket: "b", RequestID: "plain"}
	const full = today + "0+5; b calls/day 2026-11-22: 1+0; a has 1"
	play(
		t, s,
		step{0, plain, "done", ""},
		step{0, reserve("a", "1", 5), "done, until 12:15:00", full},
		step{15*time.Minute - 1, charge("a", 1), "denied, a: 0 of 5 calls used and 5 held this day, 1 asked", full},
		step{15 * time.Minute, charge("a", 1), "behind", full},
		step{15 * time.Minute, reserve("a", "2", 1), "behind", full},
		step{15 * time.Minute, charge("b", 9), "behind", full}, // nobody looks where the due one is
		step{15 * time.Minute, quota.Reset{Bucket: "b"}, "behind", full},
		step{15 * time.Minute, quota.Reset{Bucket: "b", ValidateOnly: true}, "behind", full},
		step{15 * time.Minute, charge("c", 1), "unknown_bucket", full},
		step{15 * time.Minute, plain, "done, replayed", full},
		step{15 * time.Minute, charge("b", 1), "done", today + "0+5; b calls/day 2026-11-22: 2+0; a has 1"},
	)
	check := func(op quota.Acquire) quota.Outcome {
		d, err := quota.Check(s, noon.Add(15*time.Minute), valid(t, op))
		if err != nil {
			t.Fatal(err)
		}
		return d.Outcome
	}
	if got := check(charge("a", 1)); got != quota.Behind {
		t.Errorf("a check: %v, want behind", got)
	}
	if got := check(charge("b", 1)); got != quota.Done {
		t.Errorf("a check that needs nothing: %v, want done", got)
	}
	if d := s.apply(t, noon.Add(15*time.Minute), quota.Reset{Bucket: "b/*"}); d.Outcome != quota.Invalid {
		t.Errorf("a reset of nonsense: %v, want invalid", outcomeOf(d))
	}
	play(
		t, s,
		step{15 * time.Minute, quota.Expire{Max: 1}, "done, 0 charged, 1 released", ""},
		step{15 * time.Minute, reserve("a", "2", 5), "done, until 12:30:00", ""},
		step{15 * time.Minute, quota.Reset{Bucket: "b"}, "done", today + "0+5; a has 1"},
	)
}

// A state that says something is due which is not open is not believed.
func TestExpireWhatIsNotOpen(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*mapState, quota.ReceiptKey){
		"gone": func(s *mapState, k quota.ReceiptKey) { delete(s.receipts, k) },
		"settled": func(s *mapState, k quota.ReceiptKey) {
			r := s.receipts[k]
			r.Phase = quota.PhaseSettled
			s.receipts[k] = r
		},
	} {
		s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5"}))
		s.apply(t, noon, reserve("a", "1", 1))
		spoil(s, quota.ReceiptKey{Principal: "p", RequestID: "1"})
		s.writes = 0
		_, err := quota.Apply(s, noon.Add(time.Hour), quota.Expire{Max: 1})
		if want := `reservation "1" of "p" is due, and is not open`; err == nil || err.Error() != want || s.writes != 0 {
			t.Errorf("%s: %v after %d writes, want %s", name, err, s.writes, want)
		}
	}
}
