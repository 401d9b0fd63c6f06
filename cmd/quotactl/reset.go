package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) resetCommand() *cobra.Command {
	req := &quotadv1.ResetUsageRequest{}
	var yes bool
	var span string
	cmd := &cobra.Command{
		Use:   "reset BUCKET [flags]",
		Short: "set what was used to zero in the current windows",
		Long: `Sets what BUCKET used to zero in its current windows, so that its limits can be used again in full. Buckets above and below
it are not touched, and what is held stays held. It shows what would change and asks first; off a terminal it wants --yes.`,
		Example: `  quotactl reset portfolio --reason "load test"
  quotactl reset portfolio --unit calls --window day --yes`,
		Args:              operands("BUCKET"),
		ValidArgsFunction: a.completeBucket,
	}
	cmd.Flags().StringVar(&req.Unit, "unit", "", "only this `UNIT` (default all)")
	cmd.Flags().StringVar(&span, "window", "", "only this kind of `WINDOW` (default all)")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	a.reasonFlag(cmd, &req.Reason)
	a.completeWindow(cmd, "window")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Bucket = args[0]
		var err error
		if req.Window, err = parseWindow(span); err != nil {
			return usagef(cmd, "--window: %w", err)
		}
		if !yes {
			if err := a.mayReset(cmd, req); err != nil {
				return err
			}
		}
		resp, err := a.resetUsage(cmd, req)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) {
			if len(resp.GetBefore()) == 0 {
				fmt.Fprintf(w, "%s: nothing was used, so nothing was reset\n", req.GetBucket())
				return
			}
			a.resetTable(resp).write(w)
		})
	}
	return cmd
}

func (a *app) resetUsage(cmd *cobra.Command, req *quotadv1.ResetUsageRequest) (*quotadv1.ResetUsageResponse, error) {
	ctx, cancel := a.within(cmd.Context())
	defer cancel()
	return a.admin().ResetUsage(ctx, req)
}

// errNotAsked is what happens where a person says no.
var errNotAsked = errors.New("nothing was changed")

// mayReset shows what a reset would change and asks for leave. Off a terminal there is nobody to ask.
func (a *app) mayReset(cmd *cobra.Command, req *quotadv1.ResetUsageRequest) error {
	req.ValidateOnly = true
	would, err := a.resetUsage(cmd, req)
	req.ValidateOnly = false
	if err != nil || len(would.GetBefore()) == 0 {
		return err
	}
	a.resetTable(would).write(a.stderr)
	if !a.isTerminal(0) {
		return &usageError{
			cmd: cmd, err: errors.New("nobody is there to be asked, so nothing was changed"),
			hint: "--yes resets without asking",
		}
	}
	fmt.Fprintf(a.stderr, "reset %s? [y/N] ", count(len(would.GetBefore()), "count"))
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errNotAsked
}

func (a *app) resetTable(resp *quotadv1.ResetUsageResponse) *table {
	t := a.newTable("BUCKET", "UNIT", "WINDOW", "LABEL", "USED", "", "AFTER", "HELD", "LIMIT")
	for i, b := range resp.GetBefore() {
		after := resp.GetAfter()[i]
		t.add(words(b.GetBucket()), words(b.GetUnit()), words(spanOf(b.GetWindow()).String()), words(b.GetWindowLabel()),
			number(b.GetUsed()), words("->"), number(after.GetUsed()), number(after.GetHeld()), numberOrDash(after.Limit))
	}
	return t
}
