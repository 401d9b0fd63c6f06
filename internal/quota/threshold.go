package quota

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// Bounds of thresholds. More than 100 is reached by settlements alone.
const (
	ThresholdMax  = 1000 // percent
	ThresholdsMax = 8    // of one bucket
)

// Thresholds are shares of a limit, in percent, rising, at which an Event tells that so much is used. Of a bucket, nil means the
// daemon's, and none that nothing is told.
type Thresholds []int

// ParseThresholds reads thresholds such as "80%, 100%"; "off" means none.
func ParseThresholds(s string) (Thresholds, error) {
	if s == "off" {
		return Thresholds{}, nil
	}
	t := Thresholds{}
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		digits, percent := strings.CutSuffix(part, "%")
		n, err := ParseNumber(digits, ThresholdMax)
		if err != nil || !percent {
			return nil, fmt.Errorf("%q is not a share; want whole numbers of percent such as 80%%, 100%%, or off", part)
		}
		t = append(t, int(n))
	}
	return t, t.Check()
}

// Check tells what is wrong with the thresholds; nil if nothing is.
func (t Thresholds) Check() error {
	if len(t) > ThresholdsMax {
		return fmt.Errorf("there are %d thresholds; at most %d", len(t), ThresholdsMax)
	}
	for i, percent := range t {
		if percent < 1 || percent > ThresholdMax {
			return fmt.Errorf("a threshold of %d%% is out of range; want 1%% to %d%%", percent, ThresholdMax)
		}
		if i > 0 && percent <= t[i-1] {
			return fmt.Errorf("%d%% comes after %d%%; want each threshold once, rising", percent, t[i-1])
		}
	}
	return nil
}

// same tells whether two thresholds of a bucket say the same. Nil is the daemon's, and not the same as none.
func (t Thresholds) same(u Thresholds) bool { return (t == nil) == (u == nil) && slices.Equal(t, u) }

// String returns the thresholds as ParseThresholds reads them.
func (t Thresholds) String() string {
	if len(t) == 0 {
		return "off"
	}
	parts := make([]string, len(t))
	for i, percent := range t {
		parts[i] = strconv.Itoa(percent) + "%"
	}
	return strings.Join(parts, ", ")
}

// Event says that a count reached a share of its limit. There is at most one for a threshold and a count: an account keeps the
// highest that was told (Account.Told), in the transaction that crossed it.
type Event struct {
	ID      int64     // set by the State; they rise with time
	Time    time.Time // to the millisecond
	Percent int       // the threshold
	Balance Balance   // the count as that change left it, with its window's bounds in UTC
}

// announce tells of every threshold that a count has reached and that nobody was told of, and notes the highest of them in it. It
// goes by what is used: what is held may be given back, and then it would have been told of for nothing. What was told stays told
// in that window, whatever becomes of the count or of its limit. A limit of 0 has no share to be reached.
func (t Thresholds) announce(s State, now time.Time, k AccountKey, a *Account, declared Cap) error {
	if len(t) == 0 || t[len(t)-1] <= a.Told {
		return nil
	}
	limit := a.limit(declared)
	if !limit.Set || limit.Max == 0 {
		return nil
	}
	for _, percent := range t {
		if percent <= a.Told {
			continue
		}
		if !reached(a.Used, limit.Max, percent) {
			break
		}
		a.Told = percent
		w := window.Window{Span: k.Span, Label: k.Label, Start: a.Start.UTC(), End: a.End.UTC()}
		if err := s.Announce(Event{Time: now, Percent: percent, Balance: balanceIn(k, w, *a, declared)}); err != nil {
			return err
		}
	}
	return nil
}

// reached tells whether used is at least that share of a limit. Both products may need more than 64 bits.
func reached(used, limit int64, percent int) bool {
	usedHigh, usedLow := bits.Mul64(uint64(used), 100)                //nolint:gosec // no count is negative
	shareHigh, shareLow := bits.Mul64(uint64(limit), uint64(percent)) //nolint:gosec // nor is a limit or a share
	return usedHigh > shareHigh || usedHigh == shareHigh && usedLow >= shareLow
}

// inForce returns the declared limit by which a count stands at now, as standing has it, and the thresholds of its bucket.
func (b *Book) inForce(now time.Time, k AccountKey, a Account) (Cap, Thresholds) {
	rules := b.Rules(k.Bucket)
	if rules == nil {
		rules = b.counted
	}
	if k.Span != window.Ever && !a.End.After(now) {
		return a.Limit, rules.thresholds
	}
	return b.limit(rules, k.Unit, window.Window{Span: k.Span, Label: k.Label, Start: a.Start, End: a.End}), rules.thresholds
}
