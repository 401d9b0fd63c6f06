package service_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/store/memengine"
)

// Everything that is wrong with a request is said at once, field by field, and nothing is charged.
func TestInvalid(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	for _, cases := range []map[string]invalidCase{
		invalidCalls(t.Context(), r), invalidReads(t.Context(), r), invalidChanges(t.Context(), r),
		invalidHolds(t.Context(), r), invalidSettlements(t.Context(), r), invalidExtensions(t.Context(), r), invalidListings(t.Context(), r), invalidTerms(t.Context(), r),
	} {
		for name, c := range cases {
			err := c.call()
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
			if diff := cmp.Diff(c.want, fields(err)); diff != "" {
				t.Errorf("%s: %v %s", name, err, diff)
			}
		}
	}
	resp, err := r.ListBuckets(t.Context(), &quotadv1.ListBucketsRequest{})
	if err != nil || len(resp.GetBuckets()) != 0 {
		t.Errorf("something was kept: %v %v", resp, err)
	}
}

// invalidCase is a call, and the fields that are at fault.
type invalidCase struct {
	call func() error
	want []string
}

func invalidCalls(ctx context.Context, r *rig) map[string]invalidCase {
	charges := func(n int) []*quotadv1.Charge { return make([]*quotadv1.Charge, n) }
	return map[string]invalidCase{
		"acquire nothing": {func() error { _, err := r.Acquire(ctx, &quotadv1.AcquireRequest{}); return err }, []string{"bucket"}},
		"acquire all wrong": {func() error {
			_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a//b", RequestId: "a b", Charges: []*quotadv1.Charge{
				{Unit: "Calls", Amount: new(int64(0))},
				{Bucket: "..", Ceiling: new(int64(-1)), CeilingWindow: 99},
				{Bucket: "x", Unit: "calls"},
				{Bucket: "x", CeilingWindow: quotadv1.Window_WINDOW_DAY},
			}})
			return err
		}, []string{
			"bucket", "charges[0].amount", "charges[0].unit", "charges[1].bucket", "charges[1].ceiling", "charges[1].ceiling_window",
			"charges[3].ceiling_window", "charges[3].unit", "request_id",
		}},
		"acquire too many": {func() error {
			_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a", Charges: charges(33)})
			return err
		}, []string{"charges"}},
		"acquire negative": {func() error {
			_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a", Charges: []*quotadv1.Charge{{Amount: new(int64(-1))}}})
			return err
		}, []string{"charges[0].amount"}},
		"ceiling in a window that is not counted": {func() error {
			_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a", Charges: []*quotadv1.Charge{{Ceiling: new(int64(1)), CeilingWindow: quotadv1.Window_WINDOW_MONTH}}})
			return err
		}, []string{"charges[0].ceiling_window"}},
		"check": {func() error {
			_, err := r.Check(ctx, &quotadv1.CheckRequest{Bucket: "*"})
			return err
		}, []string{"bucket"}},
	}
}

func invalidReads(ctx context.Context, r *rig) map[string]invalidCase {
	return map[string]invalidCase{
		"list buckets": {func() error {
			_, err := r.ListBuckets(ctx, &quotadv1.ListBucketsRequest{Prefix: "/", PageSize: -1, PageToken: "nonsense!"})
			return err
		}, []string{"page_size", "page_token", "prefix"}},
		"list usage": {func() error {
			_, err := r.ListUsage(ctx, &quotadv1.ListUsageRequest{Window: 77, From: "yesterday", To: "2026-02-30", Unit: "!", PageSize: 1001})
			return err
		}, []string{"from", "page_size", "to", "unit", "window"}},
		"list usage backwards": {func() error {
			_, err := r.ListUsage(ctx, &quotadv1.ListUsageRequest{From: "2026-11-22", To: "2026-11-21"})
			return err
		}, []string{"to"}},
		"list usage token": {func() error {
			_, err := r.ListUsage(ctx, &quotadv1.ListUsageRequest{PageToken: "nonsense"})
			return err
		}, []string{"page_token"}},
		"audit token": {func() error {
			_, err := r.ListAudit(ctx, &quotadv1.ListAuditRequest{PageToken: "-3"})
			return err
		}, []string{"page_token"}},
		"get": {func() error { _, err := r.GetBucket(ctx, &quotadv1.GetBucketRequest{}); return err }, []string{"name"}},
		"watch": {func() error {
			w, err := r.WatchUsage(ctx, &quotadv1.WatchUsageRequest{Prefix: "..", Interval: durationpb.New(time.Millisecond)})
			if err == nil {
				_, err = w.Recv()
			}
			return err
		}, []string{"interval", "prefix"}},
	}
}

func invalidChanges(ctx context.Context, r *rig) map[string]invalidCase {
	return map[string]invalidCase{
		"set nothing": {func() error { _, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{}); return err }, []string{"bucket.name"}},
		"set wrong": {func() error {
			_, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: "a", OnExpiry: 9, Limits: []*quotadv1.Limit{{Window: 12}}}})
			return err
		}, []string{"bucket.limits[0].window", "bucket.on_expiry"}},
		"set zone": {func() error {
			_, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: "a", Zone: "Europe/Atlantis"}, Reason: strings.Repeat("x", 501)})
			return err
		}, []string{"bucket", "reason"}},
		"apply twice": {func() error {
			_, err := r.Apply(ctx, &quotadv1.ApplyRequest{Buckets: []*quotadv1.Bucket{{Name: "a"}, {Name: "a"}}})
			return err
		}, []string{"buckets[1].name"}},
		"override": {func() error {
			_, err := r.SetOverride(ctx, &quotadv1.SetOverrideRequest{Bucket: "a", Label: "2026-11-22", Limit: new(int64(-1))})
			return err
		}, []string{"limit"}},
		"override the past": {func() error {
			_, err := r.SetOverride(ctx, &quotadv1.SetOverrideRequest{Bucket: "a", Label: "2020-01-01", Limit: new(int64(1))})
			return err
		}, []string{"label"}},
		"reset":  {func() error { _, err := r.ResetUsage(ctx, &quotadv1.ResetUsageRequest{Bucket: "a/*"}); return err }, []string{"bucket"}},
		"delete": {func() error { _, err := r.DeleteBucket(ctx, &quotadv1.DeleteBucketRequest{Name: "a b"}); return err }, []string{"name"}},
	}
}
