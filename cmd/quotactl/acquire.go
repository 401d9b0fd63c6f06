package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) acquireCommand() *cobra.Command {
	var what chargeFlags
	hold := holdTime{bucketsOwn: true}
	var id string
	cmd := &cobra.Command{
		Use:   "acquire BUCKET [flags]",
		Short: "take quota before a call; exits with 3 if it is denied",
		Long: `Takes quota from BUCKET and the buckets above it: all that is asked for, or nothing. Without flags it takes one call, and of
other units what the bucket's estimates say.

With --hold the amounts are held and not yet used: settle says later what was really used, release gives all of it back. If
neither comes in time, the bucket's declaration decides what becomes of them.

It exits with 0 if quotad granted, 3 if it denied, and 1 on any other answer or none. It sends a fresh request id, and while the
answer does not come it asks again under the same id until --timeout, so that it charges once. A denial is never asked again.
With an --id that was granted before, it charges nothing more; if what it took has been given back since, that is an error.`,
		Example: `  quotactl acquire portfolio && ./call-bedrock
  quotactl acquire portfolio --ceiling 10
  quotactl acquire acme/alice --charge calls=1 --charge input_tokens=1200
  quotactl acquire acme/alice --charge usd_micros=2500,bucket=acme/bedrock,ceiling=1_000_000,window=day
  quotactl acquire portfolio --id order-4711
  quotactl acquire acme/alice --hold 5m --id order-4711 --charge calls=1 --charge output_tokens`,
		Args:              operands("BUCKET"),
		ValidArgsFunction: a.completeBucket,
	}
	what.register(a, cmd)
	cmd.Flags().Var(&hold, "hold", "hold it for a `DURATION`, until it is settled; 0 is the bucket's own (default used at once)")
	cmd.Flags().StringVar(&id, "id", "auto", "the `ID` under which this is charged once, however often it is sent; auto makes one")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		charges, err := what.build(cmd)
		if err != nil {
			return err
		}
		req := &quotadv1.AcquireRequest{Bucket: args[0], Charges: charges}
		if cmd.Flags().Changed("hold") {
			if id == "" {
				return usagef(cmd, "--hold needs an id to settle by; leave --id out to have one made")
			}
			req.Hold = hold.proto()
		}
		return a.acquire(cmd.Context(), req, id)
	}
	return cmd
}

func (a *app) acquire(ctx context.Context, req *quotadv1.AcquireRequest, id string) error {
	s := sending{what: "request", done: "charged", does: "charges"}
	if req.GetHold() != nil {
		s.done, s.does = "held", "holds"
	}
	if err := s.own("--id", id); err != nil {
		return err
	}
	req.RequestId = s.id
	resp, err := send(ctx, a, s, a.quota().Acquire, req)
	if err != nil {
		return a.asDenied(hint(err, acquireHints))
	}
	return a.emitWith(resp, []field{{"request_id", s.id}}, func(w io.Writer) {
		switch expires := resp.GetExpireTime(); {
		case expires != nil && resp.GetReplayed():
			fmt.Fprintf(w, "held before under id %s; nothing more was held; %s\n", s.id, a.standing(resp.GetState(), expires))
		case expires != nil:
			fmt.Fprintf(w, "held, id %s, until %s\n", s.id, a.until(expires))
			fmt.Fprintf(w, "quotactl settle %[1]s says what was used, quotactl release %[1]s gives it back\n", shellWord(s.id))
		case resp.GetReplayed():
			fmt.Fprintf(w, "granted before under id %s; nothing more was charged\n", s.id)
		case s.id == "":
			fmt.Fprintln(w, "granted, without an id")
		default:
			fmt.Fprintf(w, "granted, id %s\n", s.id)
		}
		a.balances(resp.GetBalances()).write(w)
	})
}
