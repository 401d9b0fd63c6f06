package quota

import (
	"fmt"
	"strconv"
	"strings"
	"time"
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
	Balance Balance   // the count as that transaction left it
}
