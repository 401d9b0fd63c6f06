package quota_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// look returns a bucket as it stands, its balances as told has them.
func (s *mapState) look(tb testing.TB, now time.Time, name string) (quota.View, []string) {
	tb.Helper()
	v, err := quota.Look(s, now, name)
	if err != nil {
		tb.Fatal(err)
	}
	return v, told(quota.Decision{Balances: v.Balances})[1:]
}

func TestLook(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{Limits: limits("50"), Zone: "Asia/Kolkata", UndeclaredLive: 9}, declare(map[string]string{
		"a": "5/hour, 6/month, 7 tokens", "p/*": "3", "free": "",
	}))
	s.apply(t, noon, quota.Acquire{Bucket: "a/x", Charges: []quota.Charge{{Amount: 2}, {Unit: "usd_micros", Amount: 9}}})
	s.apply(t, noon, quota.SetOverride{Bucket: "p/1", Limit: quota.AtMost(8)})
	s.apply(t, noon, charge("u", 4))
	for _, c := range []struct {
		name, inForce string
		declared      bool
		want          []string
	}{
		{"a", "a", true, []string{ // what is limited and what is counted, by unit and window
			"a calls/hour 2026-11-22T11:30:00Z: 2 of 5", "a calls/month 2026-11: 2 of 6", "a tokens/day 2026-11-22: 0 of 7", "a usd_micros/day 2026-11-22: 9",
		}},
		{"a/x", "", false, []string{"a/x calls/day 2026-11-22: 2", "a/x usd_micros/day 2026-11-22: 9"}},
		{"a/y", "", false, nil},
		{"p/1", "p/*", false, []string{"p/1 calls/day 2026-11-22: 0 of 8"}},
		{"p/2", "p/*", false, []string{"p/2 calls/day 2026-11-22: 0 of 3"}},
		{"p/*", "p/*", true, nil},
		{"q/*", "", false, nil},
		{"u", "default", false, []string{"u calls/day 2026-11-22: 4 of 50"}},
		{"v", "default", false, []string{"v calls/day 2026-11-22: 0 of 50"}},
		{"free", "free", true, nil},
	} {
		v, got := s.look(t, noon, c.name)
		if diff := cmp.Diff(c.want, got, equateNil); diff != "" || v.Name != c.name || v.InForce != c.inForce || (v.Declared != nil) != c.declared || v.Unknown {
			t.Errorf("%s: %+v\n%s", c.name, v, diff)
		}
		if known := c.name != "q/*"; known && v.Settings.Zone != "Asia/Kolkata" {
			t.Errorf("%s is in zone %q", c.name, v.Settings.Zone)
		}
	}
	_, got := s.look(t, noon.AddDate(0, 1, 0), "a")
	want := []string{"a calls/hour 2026-12-22T11:30:00Z: 0 of 5", "a calls/month 2026-12: 0 of 6", "a tokens/day 2026-12-22: 0 of 7"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a month later: %s", diff)
	}
}

// With the default off an unknown name may still have counts, from before.
func TestLookUnknown(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5"}))
	if v, got := s.look(t, noon, "u"); !v.Unknown || v.InForce != "" || len(got) != 0 {
		t.Errorf("nobody knows it: %+v", v)
	}
	s.apply(t, noon, charge("a", 1))
	s.apply(t, noon, quota.DeleteBucket{Name: "a"})
	v, got := s.look(t, noon, "a")
	if diff := cmp.Diff([]string{"a calls/day 2026-11-22: 1"}, got); diff != "" || !v.Unknown || v.Declared != nil {
		t.Errorf("after it was deleted: %+v\n%s", v, diff)
	}
}

// A past count shows the limit that held; a current one the limit that holds.
func TestPastAndCurrent(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{}, declare(map[string]string{"a": "5", "gone": "5"}))
	for _, b := range []quota.Bucket{"a", "gone"} {
		s.apply(t, noon, charge(b, 4))
	}
	s.apply(t, noon, quota.SetBucket{Name: "a", Settings: quota.Settings{Limits: limits("9")}})
	s.apply(t, noon, quota.DeleteBucket{Name: "gone"})
	day := window.Day.At(noon, time.UTC)
	for bucket, now := range map[quota.Bucket]quota.Cap{"a": quota.AtMost(9), "gone": {}} {
		key := quota.AccountKey{Bucket: bucket, Unit: "calls", Span: window.Day, Label: day.Label}
		past := quota.Past(key, s.accounts[key])
		want := quota.Balance{Bucket: bucket, Unit: "calls", Window: day, Limit: quota.AtMost(5), Used: 4}
		if past != want {
			t.Errorf("past: %+v, want %+v", past, want)
		}
		current, err := quota.Current(s, key, s.accounts[key])
		want.Limit = now
		if current != want || err != nil {
			t.Errorf("current: %+v, want %+v: %v", current, want, err)
		}
	}
}

// On the day of a restored backup limited units have nothing left, until an override says what they have, or the day ends.
func TestExhaust(t *testing.T) {
	t.Parallel()
	const restored = " (exhausted until the day ends: a backup was restored)"
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, declare(map[string]string{
		"day": "5", "month": "6/month", "ever": "7/ever", "free": "", "parent": "8", "parent/child": "",
	}))
	s.apply(t, noon, charge("day", 2))
	writes := s.writes
	if d := s.apply(t, noon, quota.Exhaust{Principal: "daemon"}); d.Outcome != quota.Done || s.writes != writes+2 {
		t.Fatalf("%v after %d writes", told(d), s.writes-writes)
	}
	for bucket, want := range map[quota.Bucket][]string{
		"day":          {"denied", "day: 2 of 0 calls used this day" + restored + ", 1 asked", "at 2026-11-23T00:00:00Z"},
		"month":        {"denied", "month: 0 of 0 calls used this day" + restored + ", 1 asked", "at 2026-11-23T00:00:00Z"},
		"ever":         {"denied", "ever: 0 of 0 calls used this day" + restored + ", 1 asked", "at 2026-11-23T00:00:00Z"},
		"u":            {"denied", "u: 0 of 0 calls used this day" + restored + ", 1 asked", "at 2026-11-23T00:00:00Z"},
		"parent/child": {"denied", "parent: 0 of 0 calls used this day" + restored + ", 1 asked", "at 2026-11-23T00:00:00Z"},
		"free":         {"done", "free calls/day 2026-11-22: 1"},
	} {
		if diff := cmp.Diff(want, told(s.apply(t, noon.Add(time.Hour), charge(bucket, 1)))); diff != "" {
			t.Errorf("%s: %s", bucket, diff)
		}
	}
	_, got := s.look(t, noon, "month")
	if diff := cmp.Diff([]string{"month calls/day 2026-11-22: 0 of 0", "month calls/month 2026-11: 0 of 6"}, got); diff != "" {
		t.Errorf("it does not show: %s", diff)
	}
	s.apply(t, noon, quota.Configure{Defaults: quota.Defaults{Limits: limits("40"), UndeclaredLive: 9}})
	if d := s.apply(t, noon, charge("u", 1)); d.Outcome != quota.Denied {
		t.Errorf("after another default was set: %v", told(d))
	}
	s.apply(t, noon, quota.SetOverride{Bucket: "day", Limit: quota.AtMost(4)})
	for _, want := range []quota.Outcome{quota.Done, quota.Done, quota.Denied} {
		if d := s.apply(t, noon, charge("day", 1)); d.Outcome != want {
			t.Errorf("with an override of 4: %v, want %v", told(d), want)
		}
	}
	if d := s.apply(t, noon.Add(12*time.Hour), charge("month", 6)); d.Outcome != quota.Done {
		t.Errorf("the day after: %v", told(d))
	}
}
