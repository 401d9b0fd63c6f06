package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// reservationCommands are the commands of the scripts about reservations:
//
//	reserve NAME ID BUCKET CODE [AMOUNT UNIT]...  acquires for as long as the bucket says; what is refused is on stdout
//	settle NAME ID CODE [AMOUNT UNIT]...          settles it with these amounts
//	release NAME ID CODE                          gives it back
//	outlive NAME BUCKET ID                        stops the daemon, and waits until the reservation's time is over
//	stands NAME BUCKET REGEXP                     waits until the bucket is so, in the words of standing
//	reserved NAME BUCKET ID REGEXP                waits until the reservation is so, in the words of reservation
var reservationCommands = map[string]func(*testscript.TestScript, bool, []string){
	"reserve": reserve, "settle": settleCommand, "release": release, "outlive": outlive, "stands": stands, "reserved": reserved,
}

// chargesOf reads AMOUNT UNIT pairs.
func chargesOf(ts *testscript.TestScript, args []string) []*quotadv1.Charge {
	var charges []*quotadv1.Charge
	for ; len(args) > 1; args = args[2:] {
		amount, err := strconv.ParseInt(args[0], 10, 64)
		ts.Check(err)
		charges = append(charges, &quotadv1.Charge{Amount: &amount, Unit: args[1]})
	}
	if len(args) > 0 {
		ts.Fatalf("usage: AMOUNT UNIT pairs; %q is left over", args[0])
	}
	return charges
}

// answered insists on a code, and shows what was said with it.
func answered(ts *testscript.TestScript, err error, code string) {
	if got := status.Code(err).String(); got != code {
		ts.Fatalf("%v, want %s", err, code)
	}
	_, _ = fmt.Fprintln(ts.Stdout(), err)
}

func reserve(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 4, "reserve NAME ID BUCKET CODE [AMOUNT UNIT]...")
	_, err := quotadv1.NewQuotaServiceClient(dial(ts, args[0])).Acquire(context.Background(), &quotadv1.AcquireRequest{
		RequestId: args[1], Bucket: args[2], Charges: chargesOf(ts, args[4:]), Hold: &durationpb.Duration{},
	})
	answered(ts, err, args[3])
}

func settleCommand(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 3, "settle NAME ID CODE [AMOUNT UNIT]...")
	_, err := quotadv1.NewQuotaServiceClient(dial(ts, args[0])).Settle(context.Background(), &quotadv1.SettleRequest{
		RequestId: args[1], Charges: chargesOf(ts, args[3:]),
	})
	answered(ts, err, args[2])
}

func release(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "release NAME ID CODE")
	_, err := quotadv1.NewQuotaServiceClient(dial(ts, args[0])).Release(context.Background(), &quotadv1.ReleaseRequest{RequestId: args[1]})
	answered(ts, err, args[2])
}

func inspect(ts *testscript.TestScript, name string) quotadv1.InspectServiceClient {
	return quotadv1.NewInspectServiceClient(dial(ts, name))
}

// find returns a reservation of a bucket.
func find(ts *testscript.TestScript, client quotadv1.InspectServiceClient, bucket, id string) *quotadv1.Reservation {
	resp, err := client.ListReservations(context.Background(), &quotadv1.ListReservationsRequest{Prefix: bucket})
	ts.Check(err)
	for _, r := range resp.GetReservations() {
		if r.GetRequestId() == id {
			return r
		}
	}
	ts.Fatalf("%s has no reservation %q", bucket, id)
	return nil
}

func outlive(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "outlive NAME BUCKET ID")
	over := find(ts, inspect(ts, args[0]), args[1], args[2]).GetExpireTime().AsTime()
	sendSignal(ts, false, []string{args[0], "TERM"})
	ended(ts, false, []string{args[0], "0"})
	time.Sleep(time.Until(over)) // nobody is there who could tell
}

func stands(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "stands NAME BUCKET REGEXP")
	client, want := inspect(ts, args[0]), regexp.MustCompile(args[2])
	until(ts, args[1], func() (bool, string) {
		resp, err := client.GetBucket(context.Background(), &quotadv1.GetBucketRequest{Name: args[1]})
		ts.Check(err)
		text := standing(resp.GetBucket())
		return want.MatchString(text), text
	})
}

// standing tells of a bucket's counts and reservations, as in "calls 1 used 2 held; output_tokens 0 used 8192 held; 2 in flight".
func standing(b *quotadv1.BucketView) string {
	parts := make([]string, 0, len(b.GetBalances())+1)
	for _, c := range b.GetBalances() {
		parts = append(parts, fmt.Sprintf("%s %d used %d held", c.GetUnit(), c.GetUsed(), c.GetHeld()))
	}
	return strings.Join(append(parts, fmt.Sprintf("%d in flight", b.GetInFlight())), "; ")
}

func reserved(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 4, "reserved NAME BUCKET ID REGEXP")
	p, client, want := processOf(ts, args[0]), inspect(ts, args[0]), regexp.MustCompile(args[3])
	until(ts, args[2], func() (bool, string) {
		text := p.reservation(find(ts, client, args[1], args[2]))
		return want.MatchString(text), text
	})
}

// reservation tells of a reservation, as in "OPEN after 10m0s" or "EXPIRED after 1s, by this daemon": what it is, for how long it
// was to be held, and whether it ended since the daemon was started.
func (p *process) reservation(r *quotadv1.Reservation) string {
	text := fmt.Sprintf("%s after %s", strings.TrimPrefix(r.GetState().String(), "RESERVATION_STATE_"),
		r.GetExpireTime().AsTime().Sub(r.GetCreateTime().AsTime()))
	if r.GetEndTime() != nil && !r.GetEndTime().AsTime().Before(p.started) {
		text += ", by this daemon"
	}
	return text
}
