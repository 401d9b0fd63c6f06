package service_test

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/service"
)

// Who may acquire from a bucket no more does not extend what is open on it either, though the request names no bucket; that was charged
// when they might, and is settled all the same.
func TestExtendAsksAnew(t *testing.T) {
	t.Parallel()
	less := maps.Clone(tenants)
	less["taker"] = map[string][]string{"acquire": {"acme/a"}, "settle": {"acme/a"}}
	changed := less.access(t)
	var revoked atomic.Bool
	d := open(t, tenants, meddle(func(who auth.Principal, _ string, _ any) auth.Principal {
		if revoked.Load() {
			return changed.Principal([]auth.Identity{who.Shown})
		}
		return who
	}))
	ctx := as(t.Context(), "taker")
	for id, charges := range map[string][]*quotadv1.Charge{"mine": nil, "both": {{}, {Bucket: "other/x"}}} {
		if _, err := d.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "acme/a", RequestId: id, Charges: charges, Hold: durationpb.New(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "other/x", RequestId: "its", Hold: durationpb.New(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	extend := func(id, extension string) error {
		_, err := d.Extend(ctx, &quotadv1.ExtendRequest{RequestId: id, ExtendId: extension, Hold: durationpb.New(2 * time.Hour), Charges: []*quotadv1.Charge{{}}})
		return err
	}
	for _, id := range []string{"mine", "both", "its"} {
		if err := extend(id, "before"); err != nil {
			t.Fatalf("%s, while it is allowed: %v", id, err)
		}
	}
	revoked.Store(true)
	if err := extend("mine", "x"); err != nil {
		t.Errorf("of what is still allowed: %v", err)
	}
	for _, id := range []string{"both", "its"} {
		for _, extension := range []string{"x", "before"} {
			err := extend(id, extension)
			info, _ := detail[*errdetails.ErrorInfo](err)
			if status.Code(err) != codes.PermissionDenied || reason(err) != service.ReasonPermissionDenied || info.GetMetadata()["bucket"] != "other/x" {
				t.Errorf("%s, extended by %q: %v, %v", id, extension, err, info)
			}
		}
		if _, err := d.Settle(ctx, &quotadv1.SettleRequest{RequestId: id}); err != nil {
			t.Errorf("%s, settled: %v", id, err)
		}
	}
}

// Whoever may acquire is told how the parents stand that are charged along, granted or denied, though they may not inspect them; of its
// siblings they are told nothing.
func TestParentsAreTold(t *testing.T) {
	t.Parallel()
	d := open(t, tenants)
	root, taker := as(t.Context(), "root"), as(t.Context(), "taker")
	limit := []*quotadv1.Limit{{Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, Max: 5}}
	if _, err := d.SetBucket(root, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: "acme", Limits: limit}}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Acquire(root, &quotadv1.AcquireRequest{Bucket: "acme/b", Charges: []*quotadv1.Charge{{Amount: new(int64(3))}}}); err != nil {
		t.Fatal(err)
	}
	names := func(balances []*quotadv1.Balance) (all string) {
		for _, b := range balances {
			all += fmt.Sprintf("%s %d; ", b.GetBucket(), b.GetUsed())
		}
		return all
	}
	granted, err := d.Acquire(taker, &quotadv1.AcquireRequest{Bucket: "acme/a"})
	if got := names(granted.GetBalances()); err != nil || got != "acme/a 1; acme 4; " {
		t.Errorf("granted: %s, %v", got, err)
	}
	_, err = d.Acquire(taker, &quotadv1.AcquireRequest{Bucket: "acme/a", Charges: []*quotadv1.Charge{{Amount: new(int64(2))}}})
	denial, _ := detail[*quotadv1.Denial](err)
	if v := denial.GetViolations(); len(v) != 1 || v[0].GetBalance().GetBucket() != "acme" || v[0].GetBalance().GetUsed() != 4 {
		t.Errorf("denied: %v", err)
	}
	if _, err := d.GetBucket(taker, &quotadv1.GetBucketRequest{Name: "acme"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("looking at it: %v", err)
	}
}
