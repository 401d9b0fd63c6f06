package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) settleCommand() *cobra.Command {
	var what chargeFlags
	cmd := &cobra.Command{
		Use:   "settle ID [CHARGE...] [flags]",
		Short: "replace what a reservation holds by what was really used",
		Long: `Replaces what the reservation ID holds by what was really used, in the windows that admitted it. A unit that is not named
settles as held; 0 is allowed. It is never refused for being over a limit: what is spent is spent.

A CHARGE is UNIT=AMOUNT, as in output_tokens=812, and with ,bucket=BUCKET that of another bucket than the reservation's. The same
settlement may be made again, and changes nothing; another one is refused. After the reservation has expired it corrects the
count, for a day.`,
		Example: `  quotactl settle order-4711
  quotactl settle order-4711 input_tokens=1188 output_tokens=812
  quotactl settle order-4711 --unit output_tokens --amount 812
  quotactl settle order-4711 usd_micros=2310,bucket=acme/bedrock`,
		Args:              atLeast("ID"),
		ValidArgsFunction: a.completeReservation,
	}
	what.registerAmounts(cmd, "it used `N` of it (default as much as is held)", "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		charges, err := what.build(cmd, args[1:]...)
		if err != nil {
			return err
		}
		req := &quotadv1.SettleRequest{RequestId: args[0], Charges: charges}
		s := sending{id: args[0], what: "request", done: "settled", does: "settles"}
		resp, err := send(cmd.Context(), a, s, a.quota().Settle, req)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) {
			showEnd(w, "settled", s.id, resp)
			a.balances(resp.GetBalances()).write(w)
		})
	}
	return cmd
}

func (a *app) releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release ID [flags]",
		Short: "give a reservation back, or undo an acquire: the call failed",
		Long: `Gives back all that the reservation ID holds, or undoes the acquire with that id while its receipt lives, which is a day: the call
failed before it cost anything. It may be run again, and changes nothing then.`,
		Example: `  quotactl release order-4711
  quotactl release -- -an-id-that-starts-with-a-dash`,
		Args:              operands("ID"),
		ValidArgsFunction: a.completeReservation,
		RunE: func(cmd *cobra.Command, args []string) error {
			s := sending{id: args[0], what: "request", done: "released", does: "releases"}
			resp, err := send(cmd.Context(), a, s, a.quota().Release, &quotadv1.ReleaseRequest{RequestId: s.id})
			if err != nil {
				return err
			}
			return a.emit(resp, func(w io.Writer) {
				showEnd(w, "released", s.id, resp)
				a.balances(resp.GetBalances()).write(w)
			})
		},
	}
}

// ended is an answer of Settle or Release.
type ended interface {
	GetReplayed() bool
	GetLate() bool
}

// showEnd says how a reservation ended, now or before.
func showEnd(w io.Writer, how, id string, resp ended) {
	switch {
	case resp.GetReplayed() && resp.GetLate():
		fmt.Fprintf(w, "%s before, id %s, late: it had expired; nothing was changed\n", how, id)
	case resp.GetReplayed():
		fmt.Fprintf(w, "%s before, id %s; nothing was changed\n", how, id)
	case resp.GetLate():
		fmt.Fprintf(w, "%s late, id %s: it had expired\n", how, id)
	default:
		fmt.Fprintf(w, "%s, id %s\n", how, id)
	}
}
