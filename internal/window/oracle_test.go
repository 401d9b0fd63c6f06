package window_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// start is where a window begins, told without the package: by watching clocks.
type start struct {
	at    time.Time
	label string
}

// watch looks at clocks in zone every minute of the two days before and after a
// change of theirs, and every second around it. It returns the starts of days
// and of hours that it saw.
func watch(change int64, zone *time.Location) (days, hours []start) {
	const reach = 50 * 60 * 60
	var (
		first      = change - reach - change%60
		latest     = 0 // the latest date shown, as 20261122
		seenHour   int64
		seenOffset int
	)
	for sec := first; sec < change+reach; sec++ {
		if nearChange := sec >= change-60 && sec < change+60; !nearChange && sec%60 != 0 {
			continue
		}
		now := time.Unix(sec, 0).In(zone)
		year, month, day := now.Date()
		if date := year*10000 + int(month)*100 + day; date > latest {
			if latest != 0 {
				days = append(days, start{now, now.Format(time.DateOnly)})
			}
			latest = date
		}
		_, offset := now.Zone()
		if hour := (sec + int64(offset)) / 3600; hour != seenHour || offset != seenOffset {
			if sec != first {
				hours = append(hours, start{now, now.UTC().Format(time.RFC3339)})
			}
			seenHour, seenOffset = hour, offset
		}
	}
	return days, hours
}

// compare checks that the windows of s begin at exactly these instants.
func compare(s window.Span, starts []start, zone *time.Location) error {
	for i, want := range starts {
		w := s.At(want.at, zone)
		if !w.Start.Equal(want.at) || w.Label != want.label {
			return fmt.Errorf("%v %q in %v starts at %v, want %q at %v", s, w.Label, zone, w.Start, want.label, want.at)
		}
		if i+1 < len(starts) && !w.End.Equal(starts[i+1].at) {
			return fmt.Errorf("%v %q in %v ends at %v, want %v", s, w.Label, zone, w.End, starts[i+1].at)
		}
	}
	return nil
}

// Days and hours begin when somebody who watches the clocks would say so.
func TestWindowsFollowTheClocks(t *testing.T) {
	t.Parallel()
	for _, name := range difficult {
		zone := loadZone(t, name)
		for i, change := range changes(zone, 1973, 2028) { // since 1973 offsets are of whole minutes
			if i%3 != 0 && !long() {
				continue
			}
			days, hours := watch(change, zone)
			if len(days) < 2 || len(hours) < 90 {
				t.Fatalf("%s: saw only %d days and %d hours", name, len(days), len(hours))
			}
			if err := compare(window.Day, days, zone); err != nil {
				t.Error(err)
			}
			if err := compare(window.Hour, hours, zone); err != nil {
				t.Error(err)
			}
		}
	}
}
