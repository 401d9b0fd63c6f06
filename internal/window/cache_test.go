package window_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/window"
)

// A Cache answers what At does, whatever it has been asked before.
func TestCacheEqualsAt(t *testing.T) {
	t.Parallel()
	var zones []*time.Location
	for _, name := range difficult {
		zones = append(zones, loadZone(t, name))
	}
	zones = append(zones, nil, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		var c window.Cache
		now := instants().Draw(t, "start")
		for range 100 {
			// Time mostly goes on a little, as it does for a daemon, and jumps at times.
			if rapid.IntRange(0, 9).Draw(t, "jump") == 9 {
				now = instants().Draw(t, "to")
			} else {
				now = now.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(10*time.Hour)).Draw(t, "step")))
			}
			s := rapid.SampledFrom(window.Spans()).Draw(t, "span")
			zone := rapid.SampledFrom(zones).Draw(t, "zone")
			if got, want := c.At(s, now, zone), s.At(now, zone); got != want {
				t.Fatalf("%v of %v in %v: the cache says %v, want %v", s, now, zone, got, want)
			}
		}
	})
}

// So it does when it has seen more zones than it remembers, also ones that
// share a name.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	var c window.Cache
	now := time.Date(2026, 11, 22, 16, 5, 0, 0, time.UTC)
	for i := range 10_000 {
		zone := time.FixedZone("same name", i)
		for range 2 {
			if got, want := c.At(window.Day, now, zone), window.Day.At(now, zone); got != want {
				t.Fatalf("offset %d: the cache says %v, want %v", i, got, want)
			}
		}
	}
	if n := window.CacheLen(&c); n > 4096 {
		t.Errorf("the cache remembers %d, want 4096 at most", n)
	}
}

// Around the end of a window both neighbours are remembered.
func TestCacheDoesNotAllocate(t *testing.T) {
	var c window.Cache
	zone := loadZone(t, "America/Havana")
	end := window.Day.At(time.Date(2026, 11, 22, 16, 5, 0, 0, time.UTC), zone).End
	for _, s := range window.Spans() {
		c.At(s, end.Add(-1), zone)
		c.At(s, end, zone)
		if n := testing.AllocsPerRun(100, func() {
			c.At(s, end.Add(-1), zone)
			c.At(s, end, zone)
		}); n != 0 {
			t.Errorf("%v: %v allocations, want none", s, n)
		}
	}
}

func BenchmarkAt(b *testing.B) {
	zone, now := loadZone(b, "Europe/Berlin"), time.Date(2026, 11, 22, 16, 5, 0, 0, time.UTC)
	for _, s := range window.Spans() {
		b.Run(fmt.Sprint(s), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.At(now, zone)
			}
		})
	}
}

func BenchmarkCacheAt(b *testing.B) {
	zone, now := loadZone(b, "Europe/Berlin"), time.Date(2026, 11, 22, 16, 5, 0, 0, time.UTC)
	var c window.Cache
	b.ReportAllocs()
	for b.Loop() {
		c.At(window.Day, now, zone)
	}
}
