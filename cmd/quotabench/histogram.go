package main

import (
	"math"
	"math/bits"
	"time"
)

// A histogram counts durations in cells whose width grows with the duration: exact to the nanosecond below 128 ns, and to one
// part in 64 above. Its size is fixed, so that a load may run for as long as it likes. The zero value is empty.
type histogram struct {
	cells [cellCount]int64
	n     int64
}

const (
	subBits   = 6 // each doubling of the duration has 64 cells
	longest   = 1<<38 - 1
	cellCount = (38-subBits-1)<<subBits + 2<<subBits
)

// record counts one duration; what is longer than four and a half minutes counts as that.
func (h *histogram) record(d time.Duration) {
	h.cells[cellOf(d)]++
	h.n++
}

func cellOf(d time.Duration) int {
	v := int(min(max(d, 0), longest))
	shift := max(0, bits.Len64(uint64(v))-subBits-1)
	return shift<<subBits + v>>shift
}

// middle returns the duration in the middle of a cell: the inverse of cellOf, to within half a cell.
func middle(i int) time.Duration {
	shift := max(0, i>>subBits-1)
	low := int64(i-shift<<subBits) << shift
	return time.Duration(low + (1<<shift)/2)
}

// add adds the counts of other.
func (h *histogram) add(other *histogram) {
	for i, n := range other.cells {
		h.cells[i] += n
	}
	h.n += other.n
}

// quantile returns the duration that a share q of all durations does not exceed; 0 of an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(1, int64(math.Ceil(q*float64(h.n))))
	var seen int64
	for i, n := range h.cells {
		if seen += n; seen >= rank {
			return middle(i)
		}
	}
	return longest
}
