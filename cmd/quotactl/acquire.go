package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) acquireCommand() *cobra.Command {
	var what chargeFlags
	var id string
	cmd := &cobra.Command{
		Use:   "acquire BUCKET [flags]",
		Short: "take quota before a call; exits with 3 if it is denied",
		Long: `Takes quota from BUCKET and the buckets above it: all that is asked for, or nothing. Without flags it takes one call.

It exits with 0 if quotad granted, 3 if it denied, and 1 if nobody knows. It sends a fresh request id, and while the answer
does not come it asks again under the same id until --timeout, so that it charges once. A denial is never asked again.`,
		Example: `  quotactl acquire portfolio && ./call-bedrock
  quotactl acquire portfolio --ceiling 10
  quotactl acquire acme/alice --charge calls=1 --charge input_tokens=1200
  quotactl acquire acme/alice --charge usd_micros=2500,bucket=acme/bedrock,ceiling=1_000_000,window=day
  quotactl acquire portfolio --id order-4711`,
		Args:              operands("BUCKET"),
		ValidArgsFunction: a.completeBucket,
	}
	what.register(a, cmd)
	cmd.Flags().StringVar(&id, "id", "auto", "the `ID` under which this is charged once, however often it is sent; auto makes one")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		charges, err := what.build(cmd)
		if err != nil {
			return err
		}
		return a.acquire(cmd.Context(), &quotadv1.AcquireRequest{Bucket: args[0], Charges: charges}, id)
	}
	return cmd
}

func (a *app) acquire(ctx context.Context, req *quotadv1.AcquireRequest, id string) error {
	req.RequestId = id
	if id == "auto" {
		fresh, err := uuid.NewV7() // sorts by time, which is the cheapest for quotad to keep
		if err != nil {
			return fmt.Errorf("making a request id: %w", err)
		}
		req.RequestId = fresh.String()
	}
	resp, err := a.acquireOnce(ctx, req)
	if denial := denialIn(err); denial != nil {
		return errors.Join(a.emit(&quotadv1.CheckResponse{Denial: denial}, nil), err)
	}
	if unknown, ok := errors.AsType[*perhaps](err); ok {
		unknown.auto = id == "auto"
	}
	if err != nil {
		return err
	}
	return a.emit(resp, func(w io.Writer) {
		if resp.GetReplayed() {
			fmt.Fprintf(w, "granted before under id %s; nothing more was charged\n", req.RequestId)
		} else {
			fmt.Fprintf(w, "granted, id %s\n", req.RequestId)
		}
		a.balances(resp.GetBalances()).write(w)
	})
}

// acquireOnce sends the request until it is answered or the time is up. The id makes all sendings one acquire.
func (a *app) acquireOnce(ctx context.Context, req *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	patience, pause := a.timeout, 50*time.Millisecond
	if req.GetRequestId() != "" {
		patience = max(a.timeout/3, 100*time.Millisecond) // an answer may be lost on its way, so that one try does not get all of the time
	}
	var last error
	lost := false // whether a sending may have been charged without our hearing of it
	for {
		try, done := context.WithTimeout(ctx, patience)
		resp, err := a.quota().Acquire(try, req)
		done()
		code := status.Code(err)
		if err == nil {
			return resp, nil
		}
		lost = lost || outcomeUnknown(err)
		if last == nil || code != codes.DeadlineExceeded {
			last = err // what quotad said says more than that the time was up
		}
		again := code == codes.Unavailable || code == codes.DeadlineExceeded
		if again && req.GetRequestId() != "" && sleep(ctx, pause) == nil {
			pause = min(2*pause, time.Second)
			continue
		}
		if lost && (again || code == codes.Internal || code == codes.Canceled) {
			return nil, &perhaps{err: last, id: req.GetRequestId()}
		}
		return nil, last
	}
}

// perhaps is an acquire without an answer: whether it was charged is not known here, but quotad knows.
type perhaps struct {
	err  error
	id   string
	auto bool // quotactl made the id, so that the next run would make another
}

func (e *perhaps) Error() string { return e.err.Error() }
func (e *perhaps) Unwrap() error { return e.err }

func (e *perhaps) hint() string {
	switch {
	case e.id == "":
		return "whether it was charged is not known, and without a request id there is no way to ask"
	case e.auto:
		return "whether it was charged is not known here: the same command with --id " + e.id + " charges at most once, and tells"
	}
	return "whether it was charged is not known here: the same command may be run again, it charges at most once and tells"
}
