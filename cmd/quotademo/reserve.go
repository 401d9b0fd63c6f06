package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// What two long calls may spend. Each holds as much as it could cost before it begins; one of them then fails.
const (
	spending   = "spending"
	money      = "usd_micros"
	mostCost   = 30_000
	trueCost   = 11_250
	answeredID = "stream-answered"
	failedID   = "stream-failed"
)

// spent is what became of the two reservations: as the ledger had them after the crash, and when both were over.
type spent struct{ outlived, used, held int64 }

// reserve holds the money of both calls, which go on while the day is played, for as long as the bucket has it.
func reserve(ctx context.Context, conn *grpc.ClientConn, w io.Writer) error {
	view, err := quotadv1.NewInspectServiceClient(conn).GetBucket(ctx, &quotadv1.GetBucketRequest{Name: spending})
	if err != nil {
		return fmt.Errorf("asking how long %s holds: %w", spending, err)
	}
	client := quotadv1.NewQuotaServiceClient(conn)
	for _, id := range []string{answeredID, failedID} {
		_, err := client.Acquire(ctx, &quotadv1.AcquireRequest{
			Bucket: spending, Charges: []*quotadv1.Charge{{Unit: money, Amount: new(int64(mostCost))}},
			RequestId: id, Hold: view.GetBucket().GetHold(),
		})
		if err != nil {
			return fmt.Errorf("reserving for %s: %w", id, err)
		}
	}
	fmt.Fprintf(w, "  two long calls begin, and %d %s are held for each\n", mostCost, money)
	return nil
}

// conclude settles the call that was answered and releases the one that failed.
func (t *day) conclude(ctx context.Context, conn *grpc.ClientConn, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	before, err := balanceOf(ctx, conn, spending, money)
	if err != nil {
		return err
	}
	client := quotadv1.NewQuotaServiceClient(conn)
	_, err = client.Settle(ctx, &quotadv1.SettleRequest{
		RequestId: answeredID, Charges: []*quotadv1.Charge{{Unit: money, Amount: new(int64(trueCost))}},
	}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("settling %s: %w", answeredID, err)
	}
	if _, err := client.Release(ctx, &quotadv1.ReleaseRequest{RequestId: failedID}, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("releasing %s: %w", failedID, err)
	}
	after, err := balanceOf(ctx, conn, spending, money)
	if err != nil {
		return err
	}
	t.spent = spent{outlived: before.GetHeld(), used: after.GetUsed(), held: after.GetHeld()}
	fmt.Fprintf(w, "  one long call cost %d and is settled; the other failed and is released\n", trueCost)
	return nil
}

// promise says whether both reservations outlived the crash and ended as they should.
func (s spent) promise() promise {
	return promise{
		fmt.Sprintf("%d %s were still held after the kill -9; %d are used and %d held since one call was settled and the other released", s.outlived, money, s.used, s.held),
		s == spent{outlived: 2 * mostCost, used: trueCost},
	}
}
