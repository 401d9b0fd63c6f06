package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) getCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get BUCKET [flags]",
		Short: "show one bucket: what is declared, what is in force, and its counts",
		Long: `Shows one bucket, or a declared pattern: what is declared under that name, what is in force for it and from where, how
many reservations are in flight, and its counts. A name that is neither declared nor counted is shown with what would hold for
it.`,
		Example: `  quotactl get portfolio
  quotactl get 'acme/*' -o yaml`,
		Args:              operands("BUCKET"),
		ValidArgsFunction: a.completeBucket,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.within(cmd.Context())
			defer cancel()
			resp, err := a.inspect().GetBucket(ctx, &quotadv1.GetBucketRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return a.emit(resp, func(w io.Writer) { a.showView(w, resp.GetBucket()) })
		},
	}
}

func (a *app) showView(w io.Writer, v *quotadv1.BucketView) {
	declared := "no"
	if d := v.GetDeclared(); d != nil {
		declared = "by the API"
		if d.GetSource() == quotadv1.Source_SOURCE_FILE {
			declared = "in the buckets file"
		}
	}
	inForce := v.GetInForce()
	switch inForce {
	case "":
		inForce = "nothing: counted only"
	case "default":
		inForce = "the default"
	}
	facts := [][2]string{
		{"bucket", v.GetName()},
		{"declared", declared},
		{"in force", inForce},
		{"limits", formatLimits(v.GetLimits())},
		{"zone", v.GetZone()},
	}
	facts = append(facts, termFacts(v)...)
	if told := v.GetDeclared().GetThresholds(); told != nil {
		facts = append(facts, [2]string{"thresholds", formatThresholds(told)})
	}
	a.showFacts(w, append(facts, [2]string{"about", v.GetDeclared().GetDescription()}))
	if len(v.GetBalances()) > 0 {
		fmt.Fprintln(w)
		a.balances(v.GetBalances()).write(w)
	}
}

// showFacts prints names and values in two columns; what has no value is left out.
func (a *app) showFacts(w io.Writer, facts [][2]string) {
	width := 0
	for _, f := range facts {
		width = max(width, len(f[0]))
	}
	for _, f := range facts {
		if f[1] != "" {
			fmt.Fprintf(w, "%s  %s\n", a.paint(1, bold, fmt.Sprintf("%-*s", width, f[0])), f[1])
		}
	}
}
