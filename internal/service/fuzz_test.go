package service_test

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store/memengine"
)

// Whatever a request says, the answer is yes, a denial, or a refusal that names what is wrong; never a defect.
func FuzzAcquireRequest(f *testing.F) {
	add := func(m *quotadv1.AcquireRequest) {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	add(&quotadv1.AcquireRequest{Bucket: "portfolio"})
	add(&quotadv1.AcquireRequest{Bucket: "a/b", RequestId: "id", Charges: []*quotadv1.Charge{
		{Unit: "tokens", Amount: new(int64(1e15)), Ceiling: new(int64(0)), CeilingWindow: quotadv1.Window_WINDOW_DAY},
		{Bucket: "a", Ceiling: new(int64(9))},
	}})
	add(&quotadv1.AcquireRequest{Bucket: "a", Hold: durationpb.New(-1)})
	add(&quotadv1.AcquireRequest{Bucket: "a", RequestId: "id", Hold: durationpb.New(0), Charges: []*quotadv1.Charge{{Amount: new(int64(51))}}})
	add(&quotadv1.AcquireRequest{Bucket: "a", RequestId: "id", Hold: &durationpb.Duration{Seconds: 1 << 62, Nanos: -1}})
	add(&quotadv1.AcquireRequest{Bucket: "..", RequestId: "\n", Charges: []*quotadv1.Charge{{}, {}, {CeilingWindow: -5}}})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var req quotadv1.AcquireRequest
		if proto.Unmarshal(raw, &req) != nil {
			return
		}
		r := start(t, memengine.New(), fifty)
		defer r.close()
		_, err := r.Acquire(t.Context(), &req)
		switch status.Code(err) {
		case codes.OK, codes.ResourceExhausted, codes.FailedPrecondition:
		case codes.InvalidArgument:
			if len(fields(err)) == 0 {
				t.Errorf("refused without a field: %v", err)
			}
		default:
			t.Errorf("%v: %v", &req, err)
		}
		check, checkErr := r.Check(t.Context(), &quotadv1.CheckRequest{Bucket: req.GetBucket(), Charges: req.GetCharges(), Hold: req.GetHold()})
		acceptable(t, checkErr)
		if checkErr == nil && check.GetAllowed() && err == nil && len(check.GetBalances()) == 0 {
			t.Errorf("allowed, and nothing is counted: %v", check)
		}
	})
}

// acceptable fails the test if an error is not one that a caller can have brought about.
func acceptable(t *testing.T, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.OK, codes.ResourceExhausted, codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists:
	case codes.InvalidArgument:
		if len(fields(err)) == 0 {
			t.Errorf("refused without a field: %v", err)
		}
	default:
		t.Errorf("%v", err)
	}
}

// What is fuzzed of the calls about reservations, by the number that a seed has.
const (
	fuzzSettle = iota
	fuzzRelease
	fuzzExtend
	fuzzList
	fuzzDeclare
	fuzzKinds
)

// call makes the call that raw is a request of; with an id, of that reservation whatever raw says. What is not a request is none.
func (r *rig) call(ctx context.Context, kind uint8, raw []byte, id string) error {
	opts := proto.UnmarshalOptions{DiscardUnknown: true}
	switch kind % fuzzKinds {
	case fuzzSettle:
		req := &quotadv1.SettleRequest{}
		if opts.Unmarshal(raw, req) != nil {
			return nil
		}
		req.RequestId = cmp.Or(id, req.GetRequestId())
		_, err := r.Settle(ctx, req)
		return err
	case fuzzRelease:
		req := &quotadv1.ReleaseRequest{}
		if opts.Unmarshal(raw, req) != nil {
			return nil
		}
		req.RequestId = cmp.Or(id, req.GetRequestId())
		_, err := r.Release(ctx, req)
		return err
	case fuzzExtend:
		req := &quotadv1.ExtendRequest{}
		if opts.Unmarshal(raw, req) != nil {
			return nil
		}
		req.RequestId = cmp.Or(id, req.GetRequestId())
		_, err := r.Extend(ctx, req)
		return err
	case fuzzList:
		req := &quotadv1.ListReservationsRequest{}
		if opts.Unmarshal(raw, req) != nil {
			return nil
		}
		_, err := r.ListReservations(ctx, req)
		return err
	default:
		req := &quotadv1.SetBucketRequest{}
		if opts.Unmarshal(raw, req) != nil {
			return nil
		}
		_, err := r.SetBucket(ctx, req)
		return err
	}
}

// Whatever is asked of reservations, open and ended, is answered or refused, and afterwards all can be read.
func FuzzReservationRequests(f *testing.F) {
	add := func(kind uint8, m proto.Message) {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, raw)
	}
	for kind := range uint8(fuzzKinds) {
		f.Add(kind, []byte(nil))
	}
	nothing := []*quotadv1.Charge{{}, nil, {Bucket: "..", CeilingWindow: -5}}
	add(fuzzSettle, &quotadv1.SettleRequest{RequestId: "open", Charges: []*quotadv1.Charge{
		charge("", "", 0), charge("a/b", "tokens", quota.AmountMax), charge("a", "usd_micros", 1), {Bucket: "a", Unit: "tokens"},
	}})
	add(fuzzSettle, &quotadv1.SettleRequest{RequestId: "\n", Charges: nothing})
	add(fuzzRelease, &quotadv1.ReleaseRequest{RequestId: "plain"})
	add(fuzzExtend, &quotadv1.ExtendRequest{RequestId: "open", ExtendId: "x", Hold: durationpb.New(time.Hour), Charges: []*quotadv1.Charge{
		charge("", "", 48), {Bucket: "c", Unit: "tokens", Ceiling: new(int64(0)), CeilingWindow: quotadv1.Window_WINDOW_DAY},
	}})
	add(fuzzExtend, &quotadv1.ExtendRequest{RequestId: "open", ExtendId: "\n", Hold: durationpb.New(-1), Charges: nothing})
	add(fuzzList, &quotadv1.ListReservationsRequest{Prefix: "a", State: 1, PageSize: 2, PageToken: "-9223372036854775808\x00local\x00id", MinAge: durationpb.New(1)})
	add(fuzzList, &quotadv1.ListReservationsRequest{PageToken: "receipts/\x00"})
	add(fuzzList, &quotadv1.ListReservationsRequest{State: -1, PageSize: -1, MinAge: &durationpb.Duration{Seconds: 1 << 62, Nanos: -1}})
	add(fuzzDeclare, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{
		Name: "a/*", MaxHoldPercent: 1, MaxInFlight: 1, Hold: durationpb.New(1), OnExpiry: 2, Estimates: []*quotadv1.Estimate{{Amount: 1}, nil, {Unit: "tokens", Amount: 1e15}},
	}})
	f.Fuzz(func(t *testing.T, kind uint8, raw []byte) {
		r := start(t, memengine.New(), quota.Defaults{Limits: fifty.Limits, UndeclaredLive: 100})
		defer r.close()
		ctx := t.Context()
		for _, id := range []string{"open", "settled", "released"} {
			r.hold(t, ctx, "a/b", id, time.Minute, charge("", "", 1), charge("a", "tokens", 5))
		}
		_, plain := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a", RequestId: "plain"})
		if err := errors.Join(r.settle(ctx, "settled"), r.release(ctx, "released"), plain); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"", "open", "settled", "released", "plain"} {
			acceptable(t, r.call(ctx, kind, raw, id))
			acceptable(t, r.call(ctx, kind, raw, id)) // sent again
		}
		_, again := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a/b", RequestId: "new", Hold: durationpb.New(0)})
		acceptable(t, again)
		if _, err := r.ListBuckets(ctx, &quotadv1.ListBucketsRequest{}); err != nil {
			t.Errorf("listing the buckets: %v", err)
		}
		if found := r.list(t, &quotadv1.ListReservationsRequest{}); len(found) < 3 {
			t.Errorf("of three reservations %d are left: %v", len(found), found)
		}
		if st, err := r.GetStatus(ctx, &quotadv1.GetStatusRequest{}); err != nil || len(st.GetProblems()) > 0 {
			t.Errorf("%v, %v", st, err)
		}
	})
}
