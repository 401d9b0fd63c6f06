package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
)

func (a *app) applyCommand() *cobra.Command {
	var file string
	req := &quotadv1.ApplyRequest{}
	cmd := &cobra.Command{
		Use:   "apply -f FILE [flags]",
		Short: "make a file all that is declared",
		Long: `Makes what FILE declares all that is declared by the API: it adds, changes, and takes away what is not in it, all or nothing.
What the daemon's own buckets file declares is left alone. FILE has the form of that file; - reads standard input.`,
		Example: `  quotactl apply -f buckets.yaml --dry-run
  quotactl export > buckets.yaml`,
		Args: operands(),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the `FILE` to apply; - is standard input")
	cmd.Flags().BoolVarP(&req.ValidateOnly, "dry-run", "n", false, "only show what would change")
	a.reasonFlag(cmd, &req.Reason)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			return usagef(cmd, "-f FILE is missing")
		}
		buckets, err := a.readBuckets(file)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(buckets)) {
			req.Buckets = append(req.Buckets, bucketProto(name, buckets[name]))
		}
		ctx, cancel := a.within(cmd.Context())
		defer cancel()
		resp, err := a.admin().Apply(ctx, req)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) { a.showDiff(w, resp.GetChanges(), req.GetValidateOnly()) })
	}
	return cmd
}

func (a *app) readBuckets(file string) (map[string]quota.Settings, error) {
	var src []byte
	var err error
	if file == "-" {
		file = "standard input"
		src, err = io.ReadAll(io.LimitReader(a.stdin, config.BucketsBytesMax+1))
	} else {
		src, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the buckets: %w", err)
	}
	return config.ParseBuckets(file, src)
}

func bucketProto(name string, s quota.Settings) *quotadv1.Bucket {
	b := &quotadv1.Bucket{
		Name: name, Limits: limitsProto(s.Limits), Zone: s.Zone, Description: s.Description,
		OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_CHARGE, Hold: holdProto(s.Hold), Estimates: estimatesProto(s.Estimates),
		Thresholds:     thresholdsProto(s.Thresholds),
		MaxHoldPercent: int32(s.MaxHold), MaxInFlight: s.MaxInFlight, //nolint:gosec // at most 100
	}
	if s.OnExpiry == quota.ExpiryRelease {
		b.OnExpiry = quotadv1.OnExpiry_ON_EXPIRY_RELEASE
	}
	return b
}

// showDiff prints the differences, and how many there are of each kind.
func (a *app) showDiff(w io.Writer, changes []*quotadv1.BucketChange, dry bool) {
	var added, changed, removed int
	for _, c := range changes {
		a.showChange(w, c)
		switch {
		case c.GetBefore() == nil:
			added++
		case c.GetAfter() == nil:
			removed++
		default:
			changed++
		}
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{added, "added"}, {changed, "changed"}, {removed, "removed"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	summary := cmp.Or(strings.Join(parts, ", "), "no change: all of it is declared already")
	if dry {
		summary += " (dry run: nothing was done)"
	}
	fmt.Fprintln(w, summary)
}
