package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) checkCommand() *cobra.Command {
	var what chargeFlags
	hold := holdTime{bucketsOwn: true}
	cmd := &cobra.Command{
		Use:   "check BUCKET [flags]",
		Short: "tell what acquire would answer, and charge nothing; exits with 3 if it would be denied",
		Long: `Tells what acquire with the same flags would answer now. It charges nothing, so that another caller may be first: guard a call
with acquire, not with check.`,
		Example: `  quotactl check portfolio
  quotactl check acme/alice --unit input_tokens --amount 200000`,
		Args:              operands("BUCKET"),
		ValidArgsFunction: a.completeBucket,
	}
	what.register(a, cmd)
	cmd.Flags().Var(&hold, "hold", "as if it were held for a `DURATION`; 0 is the bucket's own (default used at once)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		charges, err := what.build(cmd)
		if err != nil {
			return err
		}
		req := &quotadv1.CheckRequest{Bucket: args[0], Charges: charges}
		if cmd.Flags().Changed("hold") {
			req.Hold = hold.proto()
		}
		ctx, cancel := a.within(cmd.Context())
		defer cancel()
		resp, err := a.quota().Check(ctx, req)
		if err != nil {
			return err
		}
		err = a.emit(resp, func(w io.Writer) { a.balances(resp.GetBalances()).write(w) })
		if resp.GetAllowed() {
			return err
		}
		return errors.Join(err, &denied{resp.GetDenial()})
	}
	return cmd
}
