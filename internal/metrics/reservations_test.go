package metrics

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// values returns what a scrape says about reservations, but for what is 0, without the common parts of the names.
func values(t *testing.T, m *Metrics) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(scrape(t, m)) {
		line = strings.TrimSpace(line)
		for _, name := range []string{"quotad_reservations_", "quotad_overage_", "quotad_replays_"} {
			if strings.HasPrefix(line, name) && !strings.HasSuffix(line, " 0") {
				found = append(found, strings.TrimPrefix(line, "quotad_"))
			}
		}
	}
	return found
}

// ledgerWith returns a ledger with a bucket that charges what expires and one that gives it back, which m is told of.
func ledgerWith(t *testing.T, m *Metrics) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), memengine.New(), store.Options{OnBatch: m.ObserveBatch})
	if err != nil {
		t.Fatal(err)
	}
	m.SetStatus(func() store.Status {
		st := s.Status(t.Context())
		st.Oldest, _ = s.Oldest(t.Context())
		return st
	})
	var limits []quota.Limit
	for _, u := range []quota.Unit{"calls", "tokens", "usd_micros", "pages"} {
		limits = append(limits, quota.Limit{Unit: u, Span: window.Day, Max: 10})
	}
	for name, on := range map[string]quota.OnExpiry{"charge": quota.ExpiryCharge, "free": quota.ExpiryRelease} {
		apply(t, s, quota.SetBucket{Name: name, Settings: quota.Settings{Limits: limits, OnExpiry: on}})
	}
	return s
}

func apply(t *testing.T, s *store.Store, op quota.Op) {
	t.Helper()
	if d, err := s.Apply(t.Context(), op); err != nil || d.Outcome != quota.Done {
		t.Fatalf("%+v: %v, %v", op, d.Outcome, err)
	}
}

func acquire(t *testing.T, s *store.Store, bucket quota.Bucket, id string, hold time.Duration) {
	t.Helper()
	op := quota.Acquire{Principal: "me", Bucket: bucket, RequestID: id, Reserve: hold > 0, Hold: hold}
	if ps := op.Validate(); ps != nil {
		t.Fatal(ps)
	}
	apply(t, s, op)
}

func settle(t *testing.T, s *store.Store, id string, charges ...quota.Charge) {
	t.Helper()
	apply(t, s, quota.Settle{Principal: "me", RequestID: id, Charges: charges})
}

// Each metric of reservations moves by what happens to one, once: by its end, not by what is sent again.
func TestReservations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Build{})
		s := ledgerWith(t, m)
		defer s.Close()
		want := func(what string, lines ...string) {
			t.Helper()
			if diff := cmp.Diff(lines, values(t, m), cmp.Transformer("", func(ls []string) []string { return append([]string{}, ls...) })); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
		}
		want("at first")
		acquire(t, s, "charge", "plain", 0)
		want("of a plain acquire")
		apply(t, s, quota.Release{Principal: "me", RequestID: "plain"})
		want("a plain acquire that is given back is none")

		acquire(t, s, "charge", "settled", time.Hour)
		time.Sleep(time.Minute)
		acquire(t, s, "free", "released", time.Hour)
		want("open", "reservations_oldest_age_seconds 60", "reservations_open 2")
		for range 2 {
			settle(t, s, "settled", quota.Charge{Unit: "calls", Amount: 13}, quota.Charge{Unit: "tokens", Amount: 15}, quota.Charge{Unit: "pages", Amount: 21})
		}
		over := []string{`overage_total{unit="calls"} 3`, `overage_total{unit="other"} 11`, `overage_total{unit="tokens"} 5`}
		want("settled, twice", append(over, "replays_total 1", `reservations_ended_total{how="settled"} 1`, "reservations_open 1")...)
		for range 2 {
			apply(t, s, quota.Release{Principal: "me", RequestID: "released"})
		}
		want("released, twice", append(over, "replays_total 2",
			`reservations_ended_total{how="released"} 1`, `reservations_ended_total{how="settled"} 1`)...)

		for i := range 3 {
			acquire(t, s, "free", fmt.Sprint("free", i), time.Minute)
		}
		acquire(t, s, "free", "charged", 2*time.Minute)
		time.Sleep(time.Minute + time.Second)
		over = append(over, "replays_total 2", `reservations_ended_total{how="expired_released"} 3`,
			`reservations_ended_total{how="released"} 1`, `reservations_ended_total{how="settled"} 1`)
		want("expired by themselves", append(over, "reservations_oldest_age_seconds 61", "reservations_open 1")...)
		for range 2 {
			settle(t, s, "free0")
			apply(t, s, quota.Release{Principal: "me", RequestID: "free1"})
		}
		over[3] = "replays_total 4"
		want("late, twice", append(over, "reservations_late_total 2", "reservations_oldest_age_seconds 61", "reservations_open 1")...)
	})
}

// What is charged at its expiry is told from what is given back, and a later settlement's overage is only what it adds.
func TestExpiredReservations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Build{})
		s := ledgerWith(t, m)
		defer s.Close()
		acquire(t, s, "charge", "a", time.Minute)
		acquire(t, s, "charge", "b", time.Minute)
		acquire(t, s, "free", "c", time.Minute)
		time.Sleep(time.Hour)
		settle(t, s, "a", quota.Charge{Unit: "calls", Amount: 10})
		settle(t, s, "b", quota.Charge{Unit: "calls", Amount: 10})
		want := []string{
			`overage_total{unit="calls"} 10`, `reservations_ended_total{how="expired_charged"} 2`,
			`reservations_ended_total{how="expired_released"} 1`, "reservations_late_total 2",
		}
		if diff := cmp.Diff(want, values(t, m)); diff != "" {
			t.Error(diff)
		}
	})
}

// A unit that a caller has chosen never becomes a label; those that have one are there before the first overage.
func TestOverageUnits(t *testing.T) {
	t.Parallel()
	m := New(Build{})
	tally := store.Tally{Op: quota.Settle{}, Outcome: quota.Done, Ended: quota.PhaseSettled}
	for i := range 100 {
		tally.Overage = append(tally.Overage, quota.Amount{Unit: quota.Unit(fmt.Sprint("unit", i)), Amount: 2})
	}
	tally.Overage = append(tally.Overage, quota.Amount{Unit: "usd_micros", Amount: 7}, quota.Amount{Unit: "other", Amount: 1}, quota.Amount{Unit: "input_tokens", Amount: quota.UsedMax})
	m.ObserveBatch(store.Batch{Ops: 1, Outcomes: []store.Tally{tally}})
	text := scrape(t, m)
	for _, want := range []string{
		`quotad_overage_total{unit="calls"} 0`, `quotad_overage_total{unit="input_tokens"} 5e+18`, `quotad_overage_total{unit="output_tokens"} 0`,
		`quotad_overage_total{unit="tokens"} 0`, `quotad_overage_total{unit="usd_micros"} 7`, `quotad_overage_total{unit="other"} 201`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\nquotad_overage_total{"); n != 6 {
		t.Errorf("%d units are labels", n)
	}
}

// A batch that was not kept ended nothing.
func TestFailedBatchEndsNothing(t *testing.T) {
	t.Parallel()
	m := New(Build{})
	m.ObserveBatch(store.Batch{Ops: 2, Err: errors.New("no room"), Outcomes: []store.Tally{{Op: quota.Settle{}}, {Op: quota.Expire{}}}})
	if found := values(t, m); len(found) > 0 {
		t.Errorf("%q", found)
	}
	if text := scrape(t, m); !strings.Contains(text, `quotad_ops_total{kind="expire",outcome="failed"} 1`) || !strings.Contains(text, `quotad_ops_total{kind="settle",outcome="failed"} 1`) {
		t.Error(text)
	}
}
