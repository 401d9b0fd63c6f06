package service_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store/memengine"
)

const (
	thousand = 1000
	huge     = 100_000
)

// largeName returns the nth name of 200 bytes below "big", which is declared.
func largeName(n int) string {
	name := fmt.Sprintf("big/%02d", n)
	return name + strings.Repeat("x", quota.NameBytesMax-len(name))
}

func largeUnit(n int) string {
	unit := fmt.Sprintf("u%02d", n)
	return unit + strings.Repeat("v", quota.UnitBytesMax-len(unit))
}

// largeCharges returns 32 charges whose names are of the greatest length.
func largeCharges(amount int64) []*quotadv1.Charge {
	charges := make([]*quotadv1.Charge, quota.ChargesMax)
	for i := range charges {
		charges[i] = &quotadv1.Charge{Bucket: largeName(i), Unit: largeUnit(i), Amount: &amount}
	}
	return charges
}

// smallCase is a call whose refusal has much to say, and what it must still say when it arrives.
type smallCase struct {
	call func() error
	code codes.Code
	why  string
}

// A status stays within what the smallest clients take, however much is wrong: it travels as a header. The client of these tests
// takes no more than they do.
func TestStatusStaysSmall(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	for _, name := range []string{"big", "big/*"} {
		if _, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, cases := range []map[string]smallCase{smallCalls(ctx, r), smallReservations(ctx, t, r), smallReads(ctx, r), smallChanges(ctx, r)} {
		for name, c := range cases {
			err := c.call()
			if status.Code(err) != c.code || reason(err) != c.why {
				t.Errorf("%s: %.300v %q", name, err, reason(err))
			}
			if c.code == codes.InvalidArgument && len(fields(err)) == 0 {
				t.Errorf("%s: no field is named", name)
			}
			if d, ok := detail[*quotadv1.Denial](err); ok && (len(d.GetViolations()) == 0 || len(d.GetViolations())+int(d.GetOmitted()) < 2) {
				t.Errorf("%s: %d violations, %d omitted", name, len(d.GetViolations()), d.GetOmitted())
			}
		}
	}
}

func smallCalls(ctx context.Context, r *rig) map[string]smallCase {
	acquire := func(name string, charges []*quotadv1.Charge) func() error {
		return func() error {
			_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: name, Charges: charges})
			return err
		}
	}
	wrong, odd, denied := largeCharges(-1), largeCharges(-1), largeCharges(2)
	for i := range wrong {
		wrong[i].Bucket, wrong[i].Unit = wrong[i].GetBucket()[:198]+"//", "NO"
		odd[i].Bucket, odd[i].Unit = strings.Repeat("\x01", 200), strings.Repeat("\u3042", 21)
		denied[i].Ceiling = new(int64(1))
	}
	return map[string]smallCase{
		"wrong names": {acquire("big", wrong), codes.InvalidArgument, service.ReasonInvalid},
		"odd names":   {acquire(strings.Repeat("\u3042", 66), odd), codes.InvalidArgument, service.ReasonInvalid},
		"twice":       {acquire("big", append(largeCharges(1)[:16], largeCharges(1)[:16]...)), codes.InvalidArgument, service.ReasonInvalid},
		"denied":      {acquire("big", denied), codes.ResourceExhausted, service.ReasonLimitExceeded},
		"an odd id": {func() error {
			_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "big", RequestId: strings.Repeat("%", huge)})
			return err
		}, codes.InvalidArgument, service.ReasonInvalid},
		"no such thing": {func() error {
			_, err := r.Release(ctx, &quotadv1.ReleaseRequest{RequestId: strings.Repeat("%", 127)})
			return err
		}, codes.NotFound, service.ReasonUnknownReservation},
	}
}

func smallReservations(ctx context.Context, t *testing.T, r *rig) map[string]smallCase {
	t.Helper()
	for _, name := range []string{largeName(50), largeName(51)} {
		_, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{
			Name: name, MaxInFlight: 1, MaxHoldPercent: 1, Limits: []*quotadv1.Limit{{Unit: largeUnit(0), Max: 9}, {Unit: largeUnit(1), Max: 9}},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	acquire := func(id, name string, charges []*quotadv1.Charge) error {
		_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: name, RequestId: id, Charges: charges, Hold: durationpb.New(0)})
		return err
	}
	settled, open := strings.Repeat("%", 128), strings.Repeat("\"", 128)
	for id, name := range map[string]string{settled: largeName(0), open: "big"} {
		if err := acquire(id, name, largeCharges(1e15)); err != nil {
			t.Fatal(err)
		}
	}
	settle := func(id string, charges []*quotadv1.Charge) func() error {
		return func() error {
			_, err := r.Settle(ctx, &quotadv1.SettleRequest{RequestId: id, Charges: charges})
			return err
		}
	}
	if err := settle(settled, largeCharges(1e15-1))(); err != nil {
		t.Fatal(err)
	}
	elsewhere := largeCharges(1)
	for i := range elsewhere {
		elsewhere[i].Bucket = largeName(60 + i)
	}
	crowd := []*quotadv1.Charge{{Bucket: largeName(50), Unit: largeUnit(0)}, {Bucket: largeName(51), Unit: largeUnit(1)}}
	if err := acquire("crowd", "big", crowd); err != nil {
		t.Fatal(err)
	}
	for i := range crowd {
		crowd[i].Amount = new(int64(5))
	}
	return map[string]smallCase{
		"settled before":   {settle(settled, largeCharges(1e15)), codes.FailedPrecondition, service.ReasonAlreadySettled},
		"settled, release": {func() error { _, err := r.Release(ctx, &quotadv1.ReleaseRequest{RequestId: settled}); return err }, codes.FailedPrecondition, service.ReasonAlreadySettled},
		"settled, extend": {func() error {
			_, err := r.Extend(ctx, &quotadv1.ExtendRequest{RequestId: settled, Hold: durationpb.New(quota.HoldMin)})
			return err
		}, codes.FailedPrecondition, service.ReasonAlreadySettled},
		"settled elsewhere": {settle(open, elsewhere), codes.InvalidArgument, service.ReasonInvalid},
		"settled twice":     {settle(open, append(largeCharges(1)[:16], largeCharges(1)[:16]...)), codes.InvalidArgument, service.ReasonInvalid},
		"crowded":           {func() error { return acquire("more", "big", crowd) }, codes.ResourceExhausted, service.ReasonLimitExceeded},
	}
}

func smallReads(ctx context.Context, r *rig) map[string]smallCase {
	token, odd := strings.Repeat("\x01", huge), strings.Repeat("\u3042", huge)
	cases := map[string]smallCase{}
	add := func(name string, call func() error) {
		cases[name] = smallCase{call, codes.InvalidArgument, service.ReasonInvalid}
	}
	for what, token := range map[string]string{"token": token, "odd": odd, "receipts": "receipts/" + token, "nul": token + "\x00", "ours": "2026-11-22\x00" + token} {
		if what != "ours" {
			add("buckets "+what, func() error {
				_, err := r.ListBuckets(ctx, &quotadv1.ListBucketsRequest{PageToken: token})
				return err
			})
		}
		for state := range quotadv1.ReservationState_name {
			add(fmt.Sprintf("reservations %s %d", what, state), func() error {
				_, err := r.ListReservations(ctx, &quotadv1.ListReservationsRequest{State: quotadv1.ReservationState(state), PageToken: token})
				return err
			})
		}
		add("audit "+what, func() error { _, err := r.ListAudit(ctx, &quotadv1.ListAuditRequest{PageToken: token}); return err })
	}
	add("usage", func() error { _, err := r.ListUsage(ctx, &quotadv1.ListUsageRequest{PageToken: token}); return err })
	add("usage labels", func() error {
		_, err := r.ListUsage(ctx, &quotadv1.ListUsageRequest{From: "z" + token, To: odd[:9999]})
		return err
	})
	add("get", func() error { _, err := r.GetBucket(ctx, &quotadv1.GetBucketRequest{Name: odd[:198]}); return err })
	return cases
}

func smallChanges(ctx context.Context, r *rig) map[string]smallCase {
	apply := func(n, length int) func() error {
		req := &quotadv1.ApplyRequest{}
		for i := range n {
			req.Buckets = append(req.Buckets, &quotadv1.Bucket{Name: fmt.Sprintf("*%04d", i/2*2) + strings.Repeat("\x01", length)})
		}
		return func() error { _, err := r.Apply(ctx, req); return err }
	}
	once := func(n, length int) func() error {
		req := &quotadv1.ApplyRequest{}
		for i := range n {
			req.Buckets = append(req.Buckets, &quotadv1.Bucket{Name: fmt.Sprintf("*%04d", i) + strings.Repeat("\x01", length)})
		}
		return func() error { _, err := r.Apply(ctx, req); return err }
	}
	bad := func(c func() error) smallCase { return smallCase{c, codes.InvalidArgument, service.ReasonInvalid} }
	return map[string]smallCase{
		"twice, long": bad(apply(2, huge)), "twice, many": bad(apply(thousand, 100)),
		"once, long": bad(once(1, huge)), "once, many": bad(once(thousand, 190)),
		"set": bad(func() error {
			_, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: strings.Repeat("\x01", 200), Zone: strings.Repeat("\u3042", huge)}})
			return err
		}),
		"override": bad(func() error {
			_, err := r.SetOverride(ctx, &quotadv1.SetOverrideRequest{Bucket: "big", Label: strings.Repeat("\x01", huge), Limit: new(int64(1))})
			return err
		}),
	}
}

// As many as there is room for are listed, and how many are not.
func TestStatusLists(t *testing.T) {
	r := start(t, memengine.New(), quota.Defaults{UndeclaredLive: 100, Limits: fifty.Limits})
	defer r.close()
	for _, c := range []struct {
		charges     []*quotadv1.Charge
		most, fewer int // violations that may be listed
	}{
		{shortCharges(), 6, 6},
		{largeCharges(1), 5, 2},
	} {
		for _, charge := range c.charges {
			charge.Ceiling = new(int64(0))
		}
		_, err := r.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: "a", Charges: c.charges})
		d, _ := detail[*quotadv1.Denial](err)
		failures, _ := detail[*errdetails.QuotaFailure](err)
		n := len(d.GetViolations())
		if n < c.fewer || n > c.most || len(failures.GetViolations()) != n || n+int(d.GetOmitted()) != len(c.charges) {
			t.Errorf("%d violations and %d failures are listed, %d omitted: %.200v", n, len(failures.GetViolations()), d.GetOmitted(), err)
		}
	}
	wrong := shortCharges()
	for i := range wrong {
		wrong[i].Amount = new(int64(0))
	}
	_, err := r.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: "a", Charges: wrong})
	bad, _ := detail[*errdetails.BadRequest](err)
	if n := len(bad.GetFieldViolations()); n != 12 || !strings.HasSuffix(bad.GetFieldViolations()[n-1].GetDescription(), " (and 20 more faults, not listed)") {
		t.Errorf("%d faults are listed: %v", n, bad)
	}
}

func shortCharges() []*quotadv1.Charge {
	charges := make([]*quotadv1.Charge, quota.ChargesMax)
	for i := range charges {
		charges[i] = &quotadv1.Charge{Bucket: "b" + strconv.Itoa(i)}
	}
	return charges
}
