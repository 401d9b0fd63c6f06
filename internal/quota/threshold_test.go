package quota_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
)

func TestParseThresholds(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"80%, 100%": "80%, 100%", "80%,100%": "80%, 100%", " 1% ": "1%", "off": "off", "1000%": "1000%",
		"": "!", "80": "!", "80%,": "!", "100%, 80%": "!", "80%, 80%": "!", "0%": "!", "1001%": "!", "-1%": "!", "50.5%": "!", "off, 80%": "!",
		"1%,2%,3%,4%,5%,6%,7%,8%": "1%, 2%, 3%, 4%, 5%, 6%, 7%, 8%", "1%,2%,3%,4%,5%,6%,7%,8%,9%": "!",
	} {
		got, err := quota.ParseThresholds(text)
		if want == "!" {
			if err == nil {
				t.Errorf("%q is read as %s, want an error", text, got)
			}
			continue
		}
		if err != nil || got.String() != want || got == nil {
			t.Errorf("%q is read as %v, %v; want %s", text, got, err, want)
		}
	}
}

// told returns what the events from number n on tell of, a word each.
func (s *mapState) told(n int) string {
	var words []string
	for _, e := range s.events[n:] {
		b := e.Balance
		words = append(words, fmt.Sprintf("%s/%s/%s:%d%%:%d/%d", b.Bucket, b.Unit, b.Window.Span, e.Percent, b.Used, b.Limit.Max))
	}
	return strings.Join(words, " ")
}

// telling is one op of a story, and what it tells of.
type telling struct {
	after time.Duration // since the step before
	op    quota.Op
	want  string
}

func spending(n int64) quota.Acquire {
	return quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: n}}}
}

func tellAll(t *testing.T, s *mapState, steps []telling) {
	t.Helper()
	now := noon
	for i, st := range steps {
		now = now.Add(st.after)
		n := len(s.events)
		if d := s.apply(t, now, st.op); d.Outcome != quota.Done {
			t.Fatalf("step %d, %+v: %v", i, st.op, d)
		}
		if got := s.told(n); got != st.want {
			t.Errorf("step %d, %+v tells of %q, want %q", i, st.op, got, st.want)
		}
	}
}

// What was told in a window is not told again there, whatever becomes of the count or of the limit; in the next window it is.
func TestToldOnce(t *testing.T) {
	t.Parallel()
	at := func(max int64) quota.SetOverride { return quota.SetOverride{Bucket: "a", Limit: quota.AtMost(max)} }
	state := newState(t, quota.Defaults{Thresholds: quota.Thresholds{80, 100}}, declare(map[string]string{"a": "10"}))
	tellAll(t, state, []telling{
		{0, spending(7), ""},
		{0, spending(1), "a/calls/day:80%:8/10"},
		{0, spending(1), ""},
		{0, quota.Reset{Bucket: "a"}, ""},
		{0, spending(8), ""},
		{0, at(20), ""},
		{0, spending(11), ""},
		{0, spending(1), "a/calls/day:100%:20/20"},
		{0, at(10), ""},
		{0, quota.Reset{Bucket: "a"}, ""},
		{0, spending(10), ""},
		{24 * time.Hour, spending(10), "a/calls/day:80%:10/10 a/calls/day:100%:10/10"},
	})
}

// A limit that is lowered is noticed at once by the override itself, and by the next charge where it is declared.
func TestToldOfLoweredLimits(t *testing.T) {
	t.Parallel()
	half := quota.Settings{Limits: limits("5")}
	state := newState(t, quota.Defaults{Thresholds: quota.Thresholds{80, 100}}, declare(map[string]string{"a": "100", "b": "100"}))
	tellAll(t, state, []telling{
		{0, spending(4), ""},
		{0, quota.SetOverride{Bucket: "a", Limit: quota.AtMost(5)}, "a/calls/day:80%:4/5"},
		{0, quota.Acquire{Bucket: "b", Charges: []quota.Charge{{Amount: 3}}}, ""},
		{0, quota.SetBucket{Name: "b", Settings: half}, ""},
		{0, quota.Acquire{Bucket: "b"}, "b/calls/day:80%:4/5"},
		{0, quota.SetOverride{Bucket: "b", Limit: quota.AtMost(0)}, ""}, // of nothing there is no share
		{0, quota.SetOverride{Bucket: "b", Limit: quota.AtMost(1)}, "b/calls/day:100%:4/1"},
	})
}

// What is held is not told of: it may be given back. What it was settled with is, above the limit too; and so is what an expiry
// charged.
func TestToldOfReservations(t *testing.T) {
	t.Parallel()
	reserve := func(id string, n int64) quota.Acquire {
		return quota.Acquire{Bucket: "a", RequestID: id, Reserve: true, Hold: time.Hour, Charges: []quota.Charge{{Amount: n}}}
	}
	state := newState(t, quota.Defaults{Thresholds: quota.Thresholds{80, 100, 150}}, declare(map[string]string{"a": "10"}))
	tellAll(t, state, []telling{
		{0, reserve("1", 9), ""},
		{0, quota.Release{RequestID: "1"}, ""},
		{0, reserve("2", 5), ""},
		{0, reserve("3", 4), ""},
		{0, quota.Settle{RequestID: "2", Charges: []quota.Charge{{Amount: 11}}}, "a/calls/day:80%:11/10 a/calls/day:100%:11/10"},
		{0, quota.Settle{RequestID: "2", Charges: []quota.Charge{{Amount: 11}}}, ""}, // a replay
		{time.Hour, quota.Expire{Max: 1}, "a/calls/day:150%:15/10"},
	})
}

// A reservation that is settled after midnight tells of the day that admitted it.
func TestToldOfYesterday(t *testing.T) {
	t.Parallel()
	state := newState(t, quota.Defaults{Thresholds: quota.Thresholds{100}}, declare(map[string]string{"a": "10"}))
	op := spending(10)
	op.RequestID, op.Reserve, op.Hold = "1", true, 20*time.Hour
	tellAll(t, state, []telling{
		{0, op, ""},
		{13 * time.Hour, quota.Settle{RequestID: "1"}, "a/calls/day:100%:10/10"},
	})
	if label, want := state.events[0].Balance.Window.Label, noon.Format(time.DateOnly); label != want {
		t.Errorf("told of %s, want %s", label, want)
	}
}

// Each count tells for itself, by the thresholds of its own bucket; a bucket may have none.
func TestToldByParents(t *testing.T) {
	t.Parallel()
	declared := declare(map[string]string{"a": "3/minute, 4/day, 8/month", "a/*": "4", "quiet": "2"})
	for name, own := range map[string]quota.Thresholds{"a/*": {50}, "quiet": {}} {
		s := declared[name]
		s.Thresholds = own
		declared[name] = s
	}
	state := newState(t, quota.Defaults{Thresholds: quota.Thresholds{75, 100}, Limits: limits("1"), UndeclaredLive: 5}, declared)
	tellAll(t, state, []telling{
		{0, quota.Acquire{Bucket: "a/b", Charges: []quota.Charge{{Amount: 2}}}, "a/b/calls/day:50%:2/4"},
		{0, quota.Acquire{Bucket: "a/b"}, "a/calls/minute:75%:3/3 a/calls/minute:100%:3/3 a/calls/day:75%:3/4"},
		{time.Minute, quota.Acquire{Bucket: "a/c"}, "a/calls/day:100%:4/4"},
		{0, quota.Acquire{Bucket: "quiet", Charges: []quota.Charge{{Amount: 2}}}, ""},
		{0, quota.Acquire{Bucket: "nobody-declared-me"}, "nobody-declared-me/calls/day:75%:1/1 nobody-declared-me/calls/day:100%:1/1"},
	})
}

// The share is exact, and nothing overflows, up to the largest of limits, counts and thresholds.
func TestShareIsExact(t *testing.T) {
	t.Parallel()
	large := func(n int64) quota.SetOverride { return quota.SetOverride{Bucket: "a", Limit: quota.AtMost(n)} }
	for _, c := range []struct {
		limit   int64
		percent int
		least   int64 // that is used when it is told
	}{
		{3, 50, 2},
		{3, 1, 1},
		{100, 1, 1},
		{101, 1, 2},
		{10, 150, 15},
		{1, 1000, 10},
		{7, 100, 7},
		{quota.CountMax, 100, quota.CountMax},
		{quota.CountMax, 125, quota.UsedMax},
		{quota.CountMax, 1000, 0},
		{quota.CountMax - 1, 99, 3_960_000_000_000_000_000},
	} {
		for _, used := range []int64{c.least - 1, c.least, min(c.least+1, quota.UsedMax)} {
			state := newState(t, quota.Defaults{Thresholds: quota.Thresholds{c.percent}}, declare(map[string]string{"a": "off"}))
			first := state.apply(t, noon, quota.Acquire{Bucket: "a"}).Balances[0]
			if c.least == 0 {
				used = quota.UsedMax
			}
			key := quota.AccountKey{Bucket: "a", Unit: quota.Calls, Span: first.Window.Span, Label: first.Window.Label}
			state.accounts[key] = quota.Account{Used: used, Start: first.Window.Start, End: first.Window.End}
			state.apply(t, noon, large(c.limit))
			if got, want := len(state.events) == 1, c.least > 0 && used >= c.least; got != want {
				t.Errorf("%d of %d is %d%%: told %v, want %v", used, c.limit, c.percent, got, want)
			}
		}
	}
}

// A promise, apart from the model: no threshold of a count is ever told twice, and what is told is true.
func TestNeverToldTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, err := newWorld(drawn(t))
		if err != nil {
			t.Fatal(err)
		}
		for range 30 {
			if err := w.step(); err != nil {
				t.Fatal(err)
			}
		}
		if err := toldTwice(w.state.events); err != nil {
			t.Fatalf("%s%v", w.story(), err)
		}
	})
	e := quota.Event{Percent: 80, Balance: quota.Balance{Bucket: "a", Used: 8, Limit: quota.AtMost(10)}}
	late := e
	late.Percent = 70
	early := e
	early.Percent = 81
	for _, events := range [][]quota.Event{{e, e}, {e, late}, {early}} {
		if toldTwice(events) == nil {
			t.Errorf("control: nothing is said of %+v", events)
		}
	}
}

func toldTwice(events []quota.Event) error {
	highest := make(map[quota.AccountKey]int)
	for _, e := range events {
		k := countOf(e)
		if e.Percent <= highest[k] {
			return fmt.Errorf("%+v: %d%% is told after %d%%", k, e.Percent, highest[k])
		}
		highest[k] = e.Percent
		b := e.Balance
		if share := float64(b.Used) / float64(b.Limit.Max) * 100; share < float64(e.Percent)*(1-1e-9) {
			return fmt.Errorf("%+v: %d%% is told at %f%%", k, e.Percent, share)
		}
	}
	return nil
}

// A count that has nothing new to tell costs no memory.
func TestNothingToTellIsFree(t *testing.T) {
	quiet := func(thresholds quota.Thresholds) float64 {
		state := newState(t, quota.Defaults{Thresholds: thresholds}, declare(map[string]string{"a": "1_000_000_000"}))
		op := valid(t, quota.Acquire{Bucket: "a"})
		return testing.AllocsPerRun(1000, func() {
			state.written = slices.Delete(state.written, 0, len(state.written))
			if _, err := quota.Apply(state, noon, op); err != nil {
				t.Fatal(err)
			}
		})
	}
	if with, without := quiet(quota.Thresholds{80, 100}), quiet(nil); with > without {
		t.Errorf("an acquire with thresholds makes %v allocations, without %v", with, without)
	}
}
