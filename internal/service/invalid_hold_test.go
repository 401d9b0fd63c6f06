package service_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store/memengine"
)

// wrongHolds are holds that nothing may have.
var wrongHolds = map[string]*durationpb.Duration{
	"negative":      durationpb.New(-time.Second),
	"too short":     durationpb.New(time.Millisecond - 1),
	"too long":      durationpb.New(24*time.Hour + 1),
	"of centuries":  {Seconds: 300_000_000_000},
	"out of range":  {Seconds: 1 << 62},
	"of two signs":  {Seconds: 1, Nanos: -1},
	"of many nanos": {Nanos: 1_000_000_000},
}

func invalidHolds(ctx context.Context, r *rig) map[string]invalidCase {
	acquire := func(req *quotadv1.AcquireRequest) func() error {
		return func() error { _, err := r.Acquire(ctx, req); return err }
	}
	cases := map[string]invalidCase{
		"hold without an id":   {acquire(&quotadv1.AcquireRequest{Bucket: "a", Hold: durationpb.New(time.Second)}), []string{"request_id"}},
		"hold 0 without an id": {acquire(&quotadv1.AcquireRequest{Bucket: "a", Hold: durationpb.New(0)}), []string{"request_id"}},
		"hold, all wrong": {acquire(&quotadv1.AcquireRequest{
			Bucket: "..", Hold: durationpb.New(-1), Charges: []*quotadv1.Charge{charge("", "", 0), charge("//", "!", -1)},
		}), []string{"bucket", "charges[0].amount", "charges[1].amount", "charges[1].bucket", "charges[1].unit", "hold", "request_id"}},
		"hold, a check, all wrong": {func() error {
			_, err := r.Check(ctx, &quotadv1.CheckRequest{Bucket: "..", Hold: durationpb.New(-1), Charges: []*quotadv1.Charge{charge("", "", quota.AmountMax+1)}})
			return err
		}, []string{"bucket", "charges[0].amount", "hold"}},
	}
	for name, hold := range wrongHolds {
		cases["hold "+name] = invalidCase{acquire(&quotadv1.AcquireRequest{Bucket: "a", RequestId: "id", Hold: hold}), []string{"hold"}}
		cases["hold, a check, "+name] = invalidCase{func() error {
			_, err := r.Check(ctx, &quotadv1.CheckRequest{Bucket: "a", Hold: hold})
			return err
		}, []string{"hold"}}
		cases["hold, an extension, "+name] = invalidCase{func() error {
			_, err := r.Extend(ctx, &quotadv1.ExtendRequest{RequestId: "id", Hold: hold})
			return err
		}, []string{"hold"}}
		cases["hold, a bucket, "+name] = invalidCase{func() error {
			_, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: "a", Hold: hold}})
			return err
		}, []string{holdField(hold)}}
	}
	return cases
}

// holdField is where a bucket's hold is found wrong: a duration that is none at once, others with the rest of what is declared.
func holdField(hold *durationpb.Duration) string {
	if hold.CheckValid() != nil {
		return "bucket.hold"
	}
	return "bucket"
}

func invalidSettlements(ctx context.Context, r *rig) map[string]invalidCase {
	settle := func(id string, charges ...*quotadv1.Charge) func() error {
		return func() error { return r.settle(ctx, id, charges...) }
	}
	long := strings.Repeat("x", quota.RequestIDBytesMax+1)
	capped := func(c *quotadv1.Charge) *quotadv1.Charge {
		c.Ceiling = new(int64(1))
		return c
	}
	return map[string]invalidCase{
		"settle nothing":      {settle(""), []string{"request_id"}},
		"settle a long id":    {settle(long), []string{"request_id"}},
		"settle an odd id":    {settle("a b"), []string{"request_id"}},
		"settle too much":     {settle("id", charge("", "", quota.AmountMax+1)), []string{"charges[0].amount"}},
		"settle a negative":   {settle("id", charge("", "", -1)), []string{"charges[0].amount"}},
		"settle too many":     {settle("id", make([]*quotadv1.Charge, 33)...), []string{"charges"}},
		"settle far too many": {settle("", make([]*quotadv1.Charge, 1000)...), []string{"charges", "request_id"}},
		"settle a ceiling":    {settle("id", capped(charge("", "", 1))), []string{"charges[0].ceiling"}},
		"settle a window":     {settle("id", &quotadv1.Charge{CeilingWindow: quotadv1.Window_WINDOW_DAY}), []string{"charges[0].ceiling"}},
		"settle, all wrong": {settle("\n", charge("a//b", "", -1), capped(charge("", "No", 1)), &quotadv1.Charge{CeilingWindow: 99}), []string{
			"charges[0].amount", "charges[0].bucket", "charges[1].ceiling", "charges[1].unit", "charges[2].ceiling_window", "request_id",
		}},
		"release nothing":   {func() error { return r.release(ctx, "") }, []string{"request_id"}},
		"release a long id": {func() error { return r.release(ctx, long) }, []string{"request_id"}},
		"release an odd id": {func() error { return r.release(ctx, "\x7f") }, []string{"request_id"}},
	}
}

func invalidExtensions(ctx context.Context, r *rig) map[string]invalidCase {
	extend := func(req *quotadv1.ExtendRequest) func() error {
		return func() error { _, err := r.Extend(ctx, req); return err }
	}
	one := []*quotadv1.Charge{{}}
	return map[string]invalidCase{
		"extend nothing":        {extend(&quotadv1.ExtendRequest{}), []string{"hold", "request_id"}},
		"extend by nothing":     {extend(&quotadv1.ExtendRequest{RequestId: "id", ExtendId: "x"}), []string{"hold"}},
		"extend by 0":           {extend(&quotadv1.ExtendRequest{RequestId: "id", Hold: durationpb.New(0)}), []string{"hold"}},
		"extend by 0 and more":  {extend(&quotadv1.ExtendRequest{RequestId: "id", ExtendId: "x", Hold: durationpb.New(0), Charges: one}), []string{"hold"}},
		"extend without its id": {extend(&quotadv1.ExtendRequest{RequestId: "id", Charges: one}), []string{"extend_id"}},
		"extend by too many":    {extend(&quotadv1.ExtendRequest{RequestId: "id", ExtendId: "x", Charges: make([]*quotadv1.Charge, 33)}), []string{"charges"}},
		"extend twice":          {extend(&quotadv1.ExtendRequest{RequestId: "id", ExtendId: "x", Charges: []*quotadv1.Charge{{}, {Unit: "calls"}}}), []string{"charges[1].unit"}},
		"extend, all wrong": {extend(&quotadv1.ExtendRequest{RequestId: " ", ExtendId: "\x00", Hold: durationpb.New(-1), Charges: []*quotadv1.Charge{charge("*", "1", 0)}}), []string{
			"charges[0].amount", "charges[0].bucket", "charges[0].unit", "extend_id", "hold", "request_id",
		}},
	}
}

func invalidListings(ctx context.Context, r *rig) map[string]invalidCase {
	list := func(req *quotadv1.ListReservationsRequest) func() error {
		return func() error { _, err := r.ListReservations(ctx, req); return err }
	}
	return map[string]invalidCase{
		"list reservations, all wrong": {list(&quotadv1.ListReservationsRequest{
			Prefix: "/", State: 9, PageSize: -1, MinAge: durationpb.New(-1),
		}), []string{"min_age", "page_size", "prefix", "state"}},
		"list reservations, a state below": {list(&quotadv1.ListReservationsRequest{State: -1}), []string{"state"}},
		"list reservations, too many":      {list(&quotadv1.ListReservationsRequest{PageSize: 1001}), []string{"page_size"}},
		"list reservations, no duration":   {list(&quotadv1.ListReservationsRequest{MinAge: &durationpb.Duration{Nanos: 1 << 30}}), []string{"min_age"}},
		"watch, no duration": {func() error {
			w, err := r.WatchUsage(ctx, &quotadv1.WatchUsageRequest{Interval: &durationpb.Duration{Seconds: 5, Nanos: -1}})
			if err == nil {
				_, err = w.Recv()
			}
			return err
		}, []string{"interval"}},
	}
}

func invalidTerms(ctx context.Context, r *rig) map[string]invalidCase {
	cases := map[string]invalidCase{}
	for name, b := range map[string]*quotadv1.Bucket{
		"share 101":         {MaxHoldPercent: 101},
		"share -1":          {MaxHoldPercent: -1},
		"in flight -1":      {MaxInFlight: -1},
		"in flight":         {MaxInFlight: 1e9 + 1},
		"estimate 0":        {Estimates: []*quotadv1.Estimate{{}}},
		"estimate too much": {Estimates: []*quotadv1.Estimate{{Amount: quota.AmountMax + 1}}},
		"estimate twice":    {Estimates: []*quotadv1.Estimate{{Amount: 1}, {Unit: "calls", Amount: 2}}},
		"estimate of what":  {Estimates: []*quotadv1.Estimate{{Unit: "Calls", Amount: 1}}},
		"estimate above":    {Estimates: []*quotadv1.Estimate{{Amount: 6}}, Limits: []*quotadv1.Limit{{Max: 10}}, MaxHoldPercent: 50},
		"estimates":         {Estimates: make([]*quotadv1.Estimate, 33)},
	} {
		b.Name = "a"
		cases["set "+name] = invalidCase{func() error {
			_, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: b})
			return err
		}, []string{"bucket"}}
		cases["apply "+name] = invalidCase{func() error {
			_, err := r.Apply(ctx, &quotadv1.ApplyRequest{Buckets: []*quotadv1.Bucket{b}})
			return err
		}, []string{`buckets["a"]`}}
	}
	cases["set hold 0"] = invalidCase{func() error {
		_, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: "a", Hold: durationpb.New(0)}})
		return err
	}, []string{"bucket.hold"}}
	cases["apply, all wrong"] = invalidCase{func() error {
		b := &quotadv1.Bucket{Name: "a", Hold: durationpb.New(0), OnExpiry: 7, Limits: []*quotadv1.Limit{{Window: -1}}}
		_, err := r.Apply(ctx, &quotadv1.ApplyRequest{Buckets: []*quotadv1.Bucket{{Name: "b"}, b}})
		return err
	}, []string{"buckets[1].hold", "buckets[1].limits[0].window", "buckets[1].on_expiry"}}
	return cases
}

// What contradicts a reservation that there is, is found only by looking at it; it is refused all the same, and changes nothing.
func TestInvalidForThisReservation(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	r.declare(t, app())
	r.hold(t, ctx, "app", "id", time.Hour, charge("", "", 1), charge("", "tokens", 9))
	before := r.usage(t, "app")
	extend := func(charges ...*quotadv1.Charge) error {
		_, err := r.Extend(ctx, &quotadv1.ExtendRequest{RequestId: "id", ExtendId: "x", Charges: charges})
		return err
	}
	monthly := charge("", "", 1)
	monthly.Ceiling, monthly.CeilingWindow = new(int64(5)), quotadv1.Window_WINDOW_MONTH
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"a unit twice":            {r.settle(ctx, "id", charge("", "tokens", 1), charge("app", "tokens", 2)), []string{"charges[1].unit"}},
		"a unit twice, unnamed":   {r.settle(ctx, "id", nil, charge("app", "calls", 2)), []string{"charges[1].unit"}},
		"not charged":             {r.settle(ctx, "id", charge("other", "", 1)), []string{"charges[0].bucket"}},
		"a child was not charged": {r.settle(ctx, "id", charge("app/below", "", 1)), []string{"charges[0].bucket"}},
		"all at once":             {r.settle(ctx, "id", charge("x", "", 1), charge("", "", 1), charge("app", "", 1), charge("y", "", 1)), []string{"charges[0].bucket", "charges[2].unit", "charges[3].bucket"}},
		"extended twice":          {extend(charge("", "", 1), charge("app", "calls", 1)), []string{"charges[1].unit"}},
		"extended, its ceiling":   {extend(monthly), []string{"charges[0].ceiling_window"}},
	} {
		if diff := cmp.Diff(c.want, fields(c.err)); diff != "" || reason(c.err) != service.ReasonInvalid {
			t.Errorf("%s: %v %s", name, c.err, diff)
		}
	}
	if diff := cmp.Diff(fmt.Sprint(lines(before)), fmt.Sprint(lines(r.usage(t, "app")))); diff != "" {
		t.Error(diff)
	}
	if err := r.settle(ctx, "id", nil, &quotadv1.Charge{Unit: "tokens"}, charge("", "usd_micros", 0)); err != nil {
		t.Errorf("amounts that are left out settle as held: %v", err)
	}
	if err := r.settle(ctx, "id"); err != nil {
		t.Errorf("settled as held, again: %v", err)
	}
}

// A field is named for one fault once, with what would be right.
func TestOneFaultIsOne(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	for want, req := range map[string]*quotadv1.ExtendRequest{
		"is 0; want 1ms to 24h0m0s, or leave it out to keep the expiry": {RequestId: "id", Hold: durationpb.New(0)},
		"is not a duration: ": {RequestId: "id", Hold: &durationpb.Duration{Seconds: 1 << 62}},
		"is -1ns; want 1ms to 24h0m0s, or leave it out to keep the expiry":                {RequestId: "id", Hold: durationpb.New(-1)},
		"is left out, and so are charges; want one of them, or nothing would be extended": {RequestId: "id"},
	} {
		_, err := r.Extend(t.Context(), req)
		bad, _ := detail[*errdetails.BadRequest](err)
		if len(bad.GetFieldViolations()) != 1 || !strings.HasPrefix(bad.GetFieldViolations()[0].GetDescription(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
