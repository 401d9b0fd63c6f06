package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The middle of a duration's cell is within one part in 64 of it, and cells rise with durations.
func TestCells(t *testing.T) {
	t.Parallel()
	last := -1
	for v := int64(0); v <= longest; v += 1 + v/100 {
		c := cellOf(time.Duration(v))
		if c < last || c >= cellCount {
			t.Fatalf("cellOf(%d) = %d after %d, of %d", v, c, last, cellCount)
		}
		last = c
		if off := int64(middle(c)) - v; off > v/64 || -off > v/64 {
			t.Fatalf("middle(cellOf(%d)) = %d", v, middle(c))
		}
	}
	for _, d := range []time.Duration{-1, 0, longest, longest + 1, 1<<63 - 1} {
		if c := cellOf(d); c < 0 || c >= cellCount {
			t.Errorf("cellOf(%d) = %d, of %d", d, c, cellCount)
		}
	}
	if cellOf(longest) != cellCount-1 {
		t.Errorf("the longest duration is in cell %d of %d", cellOf(longest), cellCount)
	}
}

// Quantiles agree with those of the sorted samples, also when the samples were spread over two histograms.
func TestQuantiles(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var h, other histogram
	samples := make([]time.Duration, 100_000)
	for i := range samples {
		samples[i] = time.Duration(r.ExpFloat64() * float64(300*time.Microsecond))
		if i%2 == 0 {
			h.record(samples[i])
		} else {
			other.record(samples[i])
		}
	}
	h.add(&other)
	slices.Sort(samples)
	for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
		want := samples[max(0, int(q*float64(len(samples)))-1)]
		if got := h.quantile(q); got-want > want/60 || want-got > want/60 {
			t.Errorf("quantile(%g) = %v, want %v", q, got, want)
		}
	}
	if got := new(histogram).quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}
