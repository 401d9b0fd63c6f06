package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
)

// termFlags say what holds for the reservations of a bucket.
type termFlags struct {
	maxHold   share
	inFlight  amount
	hold      holdTime
	estimates []string
	told      thresholds
}

func (f *termFlags) register(cmd *cobra.Command) {
	cmd.Flags().Var(&f.maxHold, "max-hold", "the `PERCENT` of each limit that one reservation may hold (default the whole)")
	cmd.Flags().Var(&f.inFlight, "max-in-flight", "at most `N` open reservations at a time (default any number)")
	cmd.Flags().Var(&f.hold, "hold", "the `DURATION` for which one is held where its caller says 0 (default "+config.FormatDuration(quota.HoldDefault)+")")
	cmd.Flags().StringArrayVar(&f.estimates, "estimate", nil, "an `ESTIMATE`, a number and a unit, of what a call needs; may be repeated")
	cmd.Flags().Var(&f.told, "thresholds", "the `SHARES` of each limit at which an event tells of it, such as \"80%, 100%\", or off (default the daemon's)")
}

// set puts into a declaration what the flags say.
func (f *termFlags) set(cmd *cobra.Command, b *quotadv1.Bucket) error {
	b.MaxHoldPercent, b.MaxInFlight = int32(f.maxHold), int64(f.inFlight)
	if n := b.GetMaxInFlight(); cmd.Flags().Changed("max-in-flight") && (n < 1 || n > quota.InFlightMax) {
		return usagef(cmd, "--max-in-flight %d is out of range; want 1 to %d, or leave it out for any number", n, quota.InFlightMax)
	}
	if cmd.Flags().Changed("hold") {
		b.Hold = f.hold.proto()
	}
	var list []quota.Estimate
	for _, text := range f.estimates {
		e, err := quota.ParseEstimate(text)
		if err != nil {
			return usagef(cmd, "%w", err)
		}
		if slices.ContainsFunc(list, func(o quota.Estimate) bool { return o.Unit == e.Unit }) {
			return usagef(cmd, "%s is estimated twice; keep one", e.Unit)
		}
		list = append(list, e)
	}
	b.Estimates, b.Thresholds = estimatesProto(list), thresholdsProto(quota.Thresholds(f.told))
	return nil
}

func estimatesProto(list []quota.Estimate) []*quotadv1.Estimate {
	out := make([]*quotadv1.Estimate, len(list))
	for i, e := range list {
		out[i] = &quotadv1.Estimate{Unit: string(e.Unit), Amount: e.Amount}
	}
	return out
}

// estimatesOf reads estimates from the wire, where the unit may be left out.
func estimatesOf(list []*quotadv1.Estimate) []quota.Estimate {
	var out []quota.Estimate
	for _, e := range list {
		unit := quota.Unit(e.GetUnit())
		if unit == "" {
			unit = quota.Calls
		}
		out = append(out, quota.Estimate{Unit: unit, Amount: e.GetAmount()})
	}
	return out
}

// formatEstimates writes estimates as quotactl set reads them, in a line.
func formatEstimates(list []*quotadv1.Estimate) string {
	parts := make([]string, len(list))
	for i, e := range estimatesOf(list) {
		parts[i] = e.String()
	}
	return strings.Join(parts, ", ")
}

// termFacts says what holds for the reservations of a bucket, as is in force for it. What is the same everywhere unless it is
// declared is left out.
func termFacts(v *quotadv1.BucketView) [][2]string {
	var facts [][2]string
	if d := v.GetHold().AsDuration(); d != 0 && d != quota.HoldDefault {
		facts = append(facts, [2]string{"hold", config.FormatDuration(d)})
	}
	if v.GetOnExpiry() == quotadv1.OnExpiry_ON_EXPIRY_RELEASE {
		facts = append(facts, [2]string{"on expiry", "release"})
	}
	if n := v.GetMaxHoldPercent(); n != 0 {
		facts = append(facts, [2]string{"max hold", fmt.Sprintf("%d%% of a limit", n)})
	}
	if !quota.IsPattern(v.GetName()) {
		facts = append(facts, [2]string{"in flight", inFlightWords(v)})
	} else if n := v.GetMaxInFlight(); n != 0 {
		facts = append(facts, [2]string{"in flight", fmt.Sprintf("at most %d", n)})
	}
	return append(facts, [2]string{"estimates", formatEstimates(v.GetEstimates())})
}

// inFlightWords says how many reservations are open, and how many may be.
func inFlightWords(v *quotadv1.BucketView) string {
	s := fmt.Sprint(v.GetInFlight())
	if most := v.GetMaxInFlight(); most != 0 {
		s += fmt.Sprintf(" of at most %d", most)
	}
	return s
}

// inFlightNote is the same in one word, where there is anything to be said.
func inFlightNote(v *quotadv1.BucketView) string {
	switch n, most := v.GetInFlight(), v.GetMaxInFlight(); {
	case most != 0:
		return fmt.Sprintf("in-flight-%d-of-%d", n, most)
	case n != 0:
		return fmt.Sprintf("in-flight-%d", n)
	}
	return ""
}

// holdProto writes a hold time; none where none is declared.
func holdProto(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
