package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/strictyaml"
)

// thresholds reads a list of shares; an empty one means none, which is something else than leaving it out.
func (f file) thresholds(e strictyaml.Entry) quota.Thresholds {
	t := quota.Thresholds{}
	for i, n := range f.List(e) {
		if i == quota.ThresholdsMax {
			f.Fault(n.At, "this is threshold %d; a bucket may have at most %d", i+1, quota.ThresholdsMax)
			break
		}
		text, ok := f.Scalar(e, n)
		if !ok {
			continue
		}
		one, err := quota.ParseThresholds(text)
		if err != nil || len(one) != 1 {
			f.Fault(n.At, "thresholds: %q is not a share; want a whole number of percent from 1%% to %d%%, such as 80%%, or [] for none", text, quota.ThresholdMax)
			continue
		}
		more := append(slices.Clone(t), one...)
		if err := more.Check(); err != nil {
			f.Fault(n.At, "thresholds: %v", err)
			continue
		}
		t = more
	}
	return t
}

// formatThresholds writes thresholds where there are any, or where there are to be none.
func formatThresholds(s *strings.Builder, t quota.Thresholds) {
	switch {
	case t == nil:
	case len(t) == 0:
		s.WriteString("    thresholds: []\n")
	default:
		fmt.Fprintf(s, "    thresholds: [%s]\n", t)
	}
}
