package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) extendCommand() *cobra.Command {
	var what chargeFlags
	var hold holdTime
	var id string
	cmd := &cobra.Command{
		Use:   "extend ID [CHARGE...] [flags]",
		Short: "keep a reservation longer, and take more for it; exits with 3 if it is denied",
		Long: `Keeps the reservation ID for the time of --hold from now, never for less than before, and takes more for it: a stream that
goes on. It is denied as an acquire is, with exit code 3; the reservation then stands as it was.

A CHARGE is UNIT[=AMOUNT], as in output_tokens=1000, then any of what a --charge of acquire takes. All are taken on top, in the
windows that are current now. It sends a fresh extension id, and while the answer does not come it asks again under the same
id until --timeout, so that it takes them once. With an empty --extend-id it is sent once.`,
		Example: `  quotactl extend order-4711 --hold 10m
  quotactl extend order-4711 output_tokens=1000 --hold 5m
  quotactl extend order-4711 output_tokens=1000 --extend-id part-2`,
		Args:              atLeast("ID"),
		ValidArgsFunction: a.completeReservation,
	}
	cmd.Flags().Var(&hold, "hold", "hold it for a `DURATION` from now (default as long as it is held)")
	what.registerAmounts(cmd, "take `N` more of it (default the bucket's estimate, else 1)", "[,ceiling=N][,window=WINDOW]")
	what.registerCeilings(a, cmd)
	cmd.Flags().StringVar(&id, "extend-id", "auto",
		"the `ID` under which this extension is made once, however often it is sent; auto makes one")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		charges, err := what.build(cmd, args[1:]...)
		if err != nil {
			return err
		}
		req := &quotadv1.ExtendRequest{RequestId: args[0], Charges: charges}
		if cmd.Flags().Changed("hold") {
			req.Hold = hold.proto()
		}
		switch {
		case req.GetHold() == nil && len(charges) == 0:
			return usagef(cmd, "neither --hold nor a charge is given, so that nothing would be extended")
		case len(charges) > 0 && id == "":
			return usagef(cmd, "a charge needs an extension id, so that it is taken once; leave --extend-id out to have one made")
		}
		return a.extend(cmd, req, id)
	}
	return cmd
}

func (a *app) extend(cmd *cobra.Command, req *quotadv1.ExtendRequest, id string) error {
	s := sending{what: "extension", done: "extended", does: "extends"}
	if err := s.own("--extend-id", id); err != nil {
		return err
	}
	req.ExtendId = s.id
	resp, err := send(cmd.Context(), a, s, a.quota().Extend, req)
	if err != nil {
		return a.asDenied(hint(err, extendHints))
	}
	fields := []field{{"request_id", req.GetRequestId()}, {"extend_id", s.id}}
	return a.emitWith(resp, fields, func(w io.Writer) {
		if resp.GetReplayed() {
			fmt.Fprintf(w, "extended before under extension id %s; nothing was changed; %s\n", s.id, a.standing(resp.GetState(), resp.GetExpireTime()))
		} else {
			fmt.Fprintf(w, "extended, id %s, until %s\n", req.GetRequestId(), a.until(resp.GetExpireTime()))
		}
		a.balances(resp.GetBalances()).write(w)
	})
}
