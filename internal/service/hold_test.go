package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store/memengine"
)

// A denial by a bound on reservations says so: which it was, whether a wait can help, and what would.
func TestHoldDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		r.declare(t,
			&quotadv1.Bucket{Name: "share", Limits: []*quotadv1.Limit{{Max: 10}}, MaxHoldPercent: 25},
			&quotadv1.Bucket{Name: "crowd", Limits: []*quotadv1.Limit{{Max: 10}}, MaxInFlight: 2},
			&quotadv1.Bucket{Name: "ever", Limits: []*quotadv1.Limit{{Max: 10, Window: quotadv1.Window_WINDOW_EVER}}, MaxHoldPercent: 50},
		)
		r.hold(t, ctx, "share", "three", time.Hour, charge("", "", 3)) // a quarter of ten, rounded up
		r.hold(t, ctx, "crowd", "1", time.Hour)
		r.hold(t, ctx, "crowd/below", "2", 2*time.Hour)
		extend := func(id string, n int64) error {
			_, err := r.Extend(ctx, &quotadv1.ExtendRequest{RequestId: id, ExtendId: "more", Charges: []*quotadv1.Charge{charge("", "", n)}})
			return err
		}
		acquire := func(bucket string, n int64) error {
			_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: bucket, RequestId: "new", Hold: durationpb.New(0), Charges: []*quotadv1.Charge{charge("", "", n)}})
			return err
		}
		for _, c := range []struct {
			what             string
			err              error
			never            bool
			share, crowded   bool
			requested, limit int64
			retry            time.Duration // until a wait can help; 0 if none is known
			text             string
		}{
			{"share", acquire("share", 4), true, true, false, 4, 3, 0, "share: one reservation may hold 3 calls this day, 4 asked; no wait can help"},
			{"share of a child", acquire("share/below", 4), true, true, false, 4, 3, 0, "no wait can help"},
			{"share of what never ends", acquire("ever", 6), true, true, false, 6, 5, 0, "no wait can help"},
			{"share, extended", extend("three", 1), false, true, false, 4, 3, 24 * time.Hour, "resets at 2000-01-02T00:00:00Z"},
			{"crowd", acquire("crowd", 1), false, false, true, 1, 2, 0, "crowd: 2 of 2 reservations in flight; it could pass when one of them has been settled, released or has expired"},
			{"below the crowd", acquire("crowd/below", 1), false, false, true, 1, 2, 0, "crowd: 2 of 2 reservations in flight"},
		} {
			d, _ := detail[*quotadv1.Denial](c.err)
			if reason(c.err) != service.ReasonLimitExceeded || len(d.GetViolations()) != 1 {
				t.Errorf("%s: %v, %v", c.what, c.err, d)
				continue
			}
			v := d.GetViolations()[0]
			if v.GetNever() != c.never || v.GetMaxHold() != c.share || v.GetMaxInFlight() != c.crowded || v.GetRequested() != c.requested || v.GetCap() != c.limit {
				t.Errorf("%s: %v", c.what, v)
			}
			retry, _ := detail[*errdetails.RetryInfo](c.err)
			if (d.GetRetryAt() == nil) != (c.retry == 0) || retry.GetRetryDelay().AsDuration() != c.retry {
				t.Errorf("%s: retry at %v, after %v, want %v", c.what, d.GetRetryAt(), retry.GetRetryDelay(), c.retry)
			}
			if !strings.Contains(d.GetMessage(), c.text) || status.Convert(c.err).Message() != d.GetMessage() {
				t.Errorf("%s: %q, want %q", c.what, d.GetMessage(), c.text)
			}
			if c.crowded && (v.GetBalance().GetUnit() != "reservations" || v.GetBalance().GetHeld() != 2 || v.GetBalance().GetWindow() != quotadv1.Window_WINDOW_EVER) {
				t.Errorf("%s: %v", c.what, v.GetBalance())
			}
		}
	})
}

// What is in flight makes room when it ends, also by itself; a plain acquire needs none.
func TestInFlightMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		r.declare(t, &quotadv1.Bucket{Name: "crowd", Limits: []*quotadv1.Limit{{Max: 10}}, MaxInFlight: 2})
		r.hold(t, ctx, "crowd", "1", time.Hour)
		r.hold(t, ctx, "crowd/below", "2", 2*time.Hour)
		// Where a limit refuses as well, ending a reservation need not be enough.
		_, both := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "crowd", RequestId: "new", Hold: durationpb.New(0), Charges: []*quotadv1.Charge{charge("", "", 9)}})
		if d, _ := detail[*quotadv1.Denial](both); len(d.GetViolations()) != 2 || !strings.HasSuffix(d.GetMessage(), ", and 1 more; no time is known at which it could pass") {
			t.Errorf("both: %v", both)
		}
		if _, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "crowd"}); err != nil {
			t.Errorf("a plain acquire is not in flight: %v", err)
		}
		if err := r.settle(ctx, "1"); err != nil {
			t.Fatal(err)
		}
		r.hold(t, ctx, "crowd", "3", time.Hour, charge("", "", 1))
		time.Sleep(2 * time.Hour) // by which "2" and "3" have expired, if nobody looks or not
		r.hold(t, ctx, "crowd", "4", time.Hour, charge("", "", 1))
		r.hold(t, ctx, "crowd", "5", time.Hour, charge("", "", 1))
	})
}

// A check of a hold is held against the bounds of a hold, charges nothing and leaves no id.
func TestCheckOfAHold(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	r.declare(t, &quotadv1.Bucket{
		Name: "app", Limits: []*quotadv1.Limit{{Max: 10}, {Unit: "tokens", Max: 100}}, MaxHoldPercent: 50, MaxInFlight: 1,
		Estimates: []*quotadv1.Estimate{{Unit: "tokens", Amount: 40}},
	})
	check := func(hold *durationpb.Duration, charges ...*quotadv1.Charge) *quotadv1.CheckResponse {
		t.Helper()
		resp, err := r.Check(ctx, &quotadv1.CheckRequest{Bucket: "app", Hold: hold, Charges: charges})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	six := charge("", "", 6)
	if resp := check(nil, six); !resp.GetAllowed() || resp.GetDenial() != nil {
		t.Errorf("plain: %v", resp)
	}
	if resp := check(durationpb.New(0), six); resp.GetAllowed() || !resp.GetDenial().GetViolations()[0].GetMaxHold() {
		t.Errorf("of a hold: %v", resp)
	}
	if resp := check(durationpb.New(time.Hour)); !resp.GetAllowed() || len(resp.GetBalances()) != 2 {
		t.Errorf("of what is estimated: %v", resp)
	}
	r.hold(t, ctx, "app", "check", time.Minute) // the id is free
	if resp := check(durationpb.New(time.Hour)); resp.GetAllowed() || !resp.GetDenial().GetViolations()[0].GetMaxInFlight() {
		t.Errorf("in a crowd: %v", resp)
	}
	today := time.Now().UTC().Format(time.DateOnly)
	wantLines(t, "after the checks", r.usage(t, "app"), "app calls 0+1/10 "+today, "app tokens 0+40/100 "+today)
}

// What is declared of reservations is shown where it holds: as declared, and in force, on the bucket and on those below it.
func TestTermsAreShown(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	full := &quotadv1.Bucket{
		Name: "app", Limits: []*quotadv1.Limit{{Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, Max: 10}}, MaxHoldPercent: 50, MaxInFlight: 7,
		Hold: durationpb.New(90 * time.Second), OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_RELEASE, Source: quotadv1.Source_SOURCE_API,
		Estimates: []*quotadv1.Estimate{{Amount: 2}, {Unit: "tokens", Amount: 40}},
	}
	set, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: full})
	if err != nil {
		t.Fatal(err)
	}
	full.Estimates[0].Unit = "calls" // as it is when it is left out
	if diff := cmp.Diff(full.String(), set.GetBucket().String()); diff != "" {
		t.Error(diff)
	}
	r.hold(t, ctx, "app/below", "id", 0)
	shown := func(name string) *quotadv1.BucketView {
		resp, err := r.GetBucket(ctx, &quotadv1.GetBucketRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetBucket()
	}
	views := []*quotadv1.BucketView{shown("app"), shown("app/below")}
	listed, err := r.ListBuckets(ctx, &quotadv1.ListBucketsRequest{})
	if err != nil || len(listed.GetBuckets()) != 2 {
		t.Fatal(listed, err)
	}
	for i, v := range append(views, listed.GetBuckets()...) {
		own := i%2 == 0 // bounds are each bucket's own
		if v.GetInFlight() != 1 || (v.GetMaxInFlight() == 7) != own || (v.GetMaxHoldPercent() == 50) != own {
			t.Errorf("%v", v)
		}
		if v.GetHold().AsDuration() != 90*time.Second || v.GetOnExpiry() != full.GetOnExpiry() || len(v.GetEstimates()) != 2 || v.GetEstimates()[1].GetAmount() != 40 {
			t.Errorf("%v", v)
		}
	}
	free := shown("free")
	if free.GetHold().AsDuration() != quota.HoldDefault || free.GetOnExpiry() != quotadv1.OnExpiry_ON_EXPIRY_CHARGE || free.GetMaxHoldPercent() != 0 || free.GetMaxInFlight() != 0 {
		t.Errorf("%v", free)
	}
	st, err := r.GetStatus(ctx, &quotadv1.GetStatusRequest{})
	if err != nil || st.GetOpenReservations() != 1 {
		t.Errorf("%v, %v", st, err)
	}
	if err := r.release(ctx, "id"); err != nil || shown("app").GetInFlight() != 0 {
		t.Errorf("after the release: %v, %v", shown("app"), err)
	}
}

// An extension is denied as an acquire is, with all that belongs to a denial; the reservation stands as it was.
func TestExtendDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		r.declare(t, app())
		r.hold(t, ctx, "app", "id", time.Minute, charge("", "", 8))
		extend := func(trailer *metadata.MD, charges ...*quotadv1.Charge) error {
			_, err := r.Extend(ctx, &quotadv1.ExtendRequest{RequestId: "id", ExtendId: "x", Hold: durationpb.New(time.Hour), Charges: charges}, grpc.Trailer(trailer))
			return err
		}
		var trailer metadata.MD
		err := extend(&trailer, charge("", "tokens", 1), charge("", "", 3))
		d, _ := detail[*quotadv1.Denial](err)
		if reason(err) != service.ReasonLimitExceeded || len(d.GetViolations()) != 1 || d.GetViolations()[0].GetBalance().GetHeld() != 8 || d.GetViolations()[0].GetRequested() != 3 {
			t.Errorf("%v: %v", err, d)
		}
		if retry, _ := detail[*errdetails.RetryInfo](err); retry.GetRetryDelay().AsDuration() != 24*time.Hour || !slices.Equal(trailer.Get("grpc-retry-pushback-ms"), []string{"-1"}) {
			t.Errorf("%v, %v", retry, trailer)
		}
		if err := extend(&trailer, charge("1", "", 1), charge("2", "", 1), charge("3", "", 1)); reason(err) != service.ReasonTooManyBuckets {
			t.Errorf("too many names: %v", err)
		}
		wantLines(t, "after the refusals", r.usage(t, "app"), "app calls 0+8/10 2000-01-01", "app tokens 0+0/1000 2000-01-01")
		if open := r.list(t, &quotadv1.ListReservationsRequest{State: stateOpen}); len(open) != 1 || !open[0].GetExpireTime().AsTime().Equal(time.Now().Add(time.Minute)) {
			t.Errorf("%v", open)
		}
		if err := extend(&trailer, charge("", "", 2)); err != nil {
			t.Errorf("an id whose extension was denied is free: %v", err)
		}
	})
}

// An amount that is left out is what the bucket estimates, and 1 where it does not; what is named counts.
func TestEstimatesByTheWire(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	r.declare(t, &quotadv1.Bucket{Name: "app", Estimates: []*quotadv1.Estimate{{Unit: "tokens", Amount: 40}}})
	for i, charges := range [][]*quotadv1.Charge{nil, {{Unit: "tokens"}}, {{Unit: "pages"}, charge("", "tokens", 1)}} {
		r.hold(t, ctx, "app", fmt.Sprint(i), time.Hour, charges...)
	}
	var held []string
	for _, l := range r.list(t, &quotadv1.ListReservationsRequest{}) {
		held = append(held, amountsOf(l.GetCharges()))
	}
	if want := []string{"app calls 1, app tokens 40", "app tokens 40", "app pages 1, app tokens 1"}; !slices.Equal(held, want) {
		t.Errorf("%q, want %q", held, want)
	}
}

// A bucket that is not declared any more, and has no count today, is shown while reservations are open on it.
func TestUnknownBucketInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), quota.Defaults{})
		defer r.close()
		ctx := t.Context()
		r.declare(t, app())
		time.Sleep(time.Hour)
		r.hold(t, ctx, "app", "id", 24*time.Hour)
		if _, err := r.DeleteBucket(ctx, &quotadv1.DeleteBucketRequest{Name: "app"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(23*time.Hour + time.Minute) // it is another day
		get := func() (*quotadv1.GetBucketResponse, error) {
			return r.GetBucket(ctx, &quotadv1.GetBucketRequest{Name: "app"})
		}
		if resp, err := get(); err != nil || resp.GetBucket().GetInFlight() != 1 {
			t.Errorf("%v, %v", resp, err)
		}
		if err := r.release(ctx, "id"); err != nil {
			t.Fatal(err)
		}
		if resp, err := get(); status.Code(err) != codes.NotFound {
			t.Errorf("%v, %v", resp, err)
		}
	})
}
