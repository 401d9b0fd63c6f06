package window_test

import (
	"os"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// long reports whether the tests that take minutes are asked for.
func long() bool { return os.Getenv("QUOTAD_LONG") != "" }

// Walks through every zone of the database hour by hour, over 1985 to 2037.
func TestWalkThroughAllZones(t *testing.T) {
	if !long() {
		t.Skip("takes minutes; QUOTAD_LONG=1 runs it")
	}
	from, to := time.Date(1985, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range zoneNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			zone := loadZone(t, name)
			checkGaps(t, changes(zone, 1850, 2100), zone)
			for _, s := range window.Spans() {
				if s == window.Minute || s == window.Ever {
					continue // an hour's step sees too little of the one and all of the other
				}
				if err := walk(s, from, to, zone); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// walk goes from hour to hour, and checks each new window of s that it meets.
func walk(s window.Span, from, to time.Time, zone *time.Location) error {
	var w window.Window
	for now := from; now.Before(to); now = now.Add(time.Hour) {
		if w.Contains(now) {
			continue
		}
		next := s.At(now, zone)
		// Nearly every step meets a new hour. If it goes on where the last one
		// ended there is nothing more to ask; if clocks changed, there is.
		goesOn := next.Contains(now) && next.Start.Equal(w.End) && next.Label > w.Label
		if s != window.Hour || !goesOn {
			if err := checkTile(at, s, now, zone); err != nil {
				return err
			}
		}
		w = next
	}
	return nil
}
