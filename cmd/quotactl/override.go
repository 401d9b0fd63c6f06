package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) overrideCommand() *cobra.Command {
	req := &quotadv1.SetOverrideRequest{}
	var clear bool
	var span string
	cmd := &cobra.Command{
		Use:   "override BUCKET N [flags]",
		Short: "give a bucket another limit in one window",
		Long: `Gives BUCKET the limit N in one window alone: "100, but only today". The count goes on, and the next window has the declared
limit again. With --clear in place of N an override is taken away.`,
		Example: `  quotactl override portfolio 100
  quotactl override portfolio 0 --on 2026-12-24 --reason holiday
  quotactl override portfolio --clear`,
		Args:              operands("BUCKET", "[N]"),
		ValidArgsFunction: a.completeBucket,
	}
	cmd.Flags().BoolVar(&clear, "clear", false, "take the override away")
	cmd.Flags().StringVar(&req.Unit, "unit", "calls", "the `UNIT` that is limited")
	cmd.Flags().StringVar(&span, "window", "day", "the kind of `WINDOW`")
	cmd.Flags().StringVar(&req.Label, "on", "", "the window, by its `LABEL` such as 2026-12-24 (default the current one)")
	a.reasonFlag(cmd, &req.Reason)
	a.completeWindow(cmd, "window")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Bucket = args[0]
		if clear == (len(args) == 2) {
			return usagef(cmd, "want either a limit N or --clear")
		}
		if len(args) == 2 {
			n, err := parseAmount(args[1])
			if err != nil {
				return usagef(cmd, "limit: %w", err)
			}
			req.Limit = &n
		}
		var err error
		if req.Window, err = parseWindow(span); err != nil {
			return usagef(cmd, "--window: %w", err)
		}
		ctx, cancel := a.within(cmd.Context())
		defer cancel()
		resp, err := a.admin().SetOverride(ctx, req)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) {
			before, after := resp.GetBefore(), resp.GetAfter()
			fmt.Fprintf(w, "%s, %s of %s %s: %s -> %s\n", after.GetBucket(), after.GetUnit(), spanOf(after.GetWindow()), labelOf(after),
				limitWords(before), limitWords(after))
		})
	}
	return cmd
}

// limitWords says what the limit of a count is and where it comes from, and how much of it is used.
func limitWords(b *quotadv1.Balance) string {
	s := "no limit"
	if b.Limit != nil {
		s = fmt.Sprintf("limit %d", b.GetLimit())
	}
	if b.GetOverridden() {
		s += " (override)"
	}
	s += fmt.Sprintf(", %d used", b.GetUsed())
	if b.GetHeld() > 0 {
		s += fmt.Sprintf(", %d held", b.GetHeld())
	}
	return s
}
