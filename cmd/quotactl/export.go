package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
)

func (a *app) exportCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "export [flags]",
		Short: "print what is declared, in the form that apply reads",
		Long: `Prints what is declared by the API in the form of a buckets file. Applying it again changes nothing. What the daemon's own
buckets file declares is left out, because apply may not change it; --all prints that too.`,
		Example: `  quotactl export > buckets.yaml`,
		Args:    operands(),
	}
	cmd.Flags().BoolVar(&all, "all", false, "with what the daemon's buckets file declares")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		resp, err := a.listBuckets(cmd.Context(), &quotadv1.ListBucketsRequest{DeclaredOnly: true}, true)
		if err != nil {
			return err
		}
		left := 0
		set := &quotadv1.ApplyRequest{}
		buckets := make(map[string]quota.Settings)
		for _, v := range resp.GetBuckets() {
			d := v.GetDeclared()
			if d.GetSource() == quotadv1.Source_SOURCE_FILE && !all {
				left++
				continue
			}
			set.Buckets = append(set.Buckets, d)
			buckets[v.GetName()] = settingsOf(d)
		}
		if left > 0 {
			fmt.Fprintf(a.stderr, "quotactl: left out %s of the daemon's buckets file; --all prints them too\n", count(left, "declaration"))
		}
		return a.emit(set, func(w io.Writer) { fmt.Fprintf(w, "%s", config.FormatBuckets(buckets)) })
	}
	return cmd
}

func settingsOf(b *quotadv1.Bucket) quota.Settings {
	s := quota.Settings{
		Zone: b.GetZone(), Description: b.GetDescription(), MaxHold: int(b.GetMaxHoldPercent()), MaxInFlight: b.GetMaxInFlight(),
		Hold: b.GetHold().AsDuration(), Estimates: estimatesOf(b.GetEstimates()),
		Thresholds: thresholdsOf(b.GetThresholds()),
	}
	for _, l := range b.GetLimits() {
		s.Limits = append(s.Limits, limitOf(l))
	}
	if b.GetOnExpiry() == quotadv1.OnExpiry_ON_EXPIRY_RELEASE {
		s.OnExpiry = quota.ExpiryRelease
	}
	return s
}
