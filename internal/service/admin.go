package service

import (
	"context"
	"fmt"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
)

// adminServer answers changes by people.
type adminServer struct {
	quotadv1.UnimplementedAdminServiceServer
	s *Service
}

// SetBucket declares a bucket or a pattern.
func (a adminServer) SetBucket(ctx context.Context, req *quotadv1.SetBucketRequest) (*quotadv1.SetBucketResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	name := req.GetBucket().GetName()
	settings, ps := settingsOf(req.GetBucket(), "bucket")
	if ps != nil {
		return nil, invalid(ps)
	}
	d, err := a.s.apply(ctx, who, quota.SetBucket{Reason: req.GetReason(), Name: name, Settings: settings})
	if err != nil {
		return nil, err
	}
	c := d.Changes[0]
	return &quotadv1.SetBucketResponse{Bucket: bucket(name, c.After), Previous: bucket(name, c.Before)}, nil
}

// DeleteBucket takes a declaration away.
func (a adminServer) DeleteBucket(ctx context.Context, req *quotadv1.DeleteBucketRequest) (*quotadv1.DeleteBucketResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	d, err := a.s.apply(ctx, who, quota.DeleteBucket{Reason: req.GetReason(), Name: req.GetName()})
	if err != nil {
		return nil, err
	}
	return &quotadv1.DeleteBucketResponse{Previous: bucket(req.GetName(), d.Changes[0].Before)}, nil
}

// Apply makes a whole set the declared one.
func (a adminServer) Apply(ctx context.Context, req *quotadv1.ApplyRequest) (*quotadv1.ApplyResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	op := quota.ApplySet{
		Reason: req.GetReason(), Source: quota.SourceAPI, ValidateOnly: req.GetValidateOnly(),
		Buckets: make(map[string]quota.Settings, len(req.GetBuckets())),
	}
	var ps quota.Problems
	for i, b := range req.GetBuckets() {
		field := fmt.Sprintf("buckets[%d]", i)
		settings, bad := settingsOf(b, field)
		ps = append(ps, bad...)
		if _, twice := op.Buckets[b.GetName()]; twice {
			ps.Add(field+".name", "%q is declared twice; keep one", b.GetName())
		}
		op.Buckets[b.GetName()] = settings
	}
	if ps != nil {
		return nil, invalid(ps)
	}
	d, err := a.s.apply(ctx, who, op)
	if err != nil {
		return nil, err
	}
	resp := &quotadv1.ApplyResponse{}
	for _, c := range d.Changes {
		resp.Changes = append(resp.Changes, &quotadv1.BucketChange{Name: c.Name, Before: bucket(c.Name, c.Before), After: bucket(c.Name, c.After)})
	}
	return resp, nil
}

// SetOverride gives a bucket another limit in one window.
func (a adminServer) SetOverride(ctx context.Context, req *quotadv1.SetOverrideRequest) (*quotadv1.SetOverrideResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	var ps quota.Problems
	checkWindow(&ps, "window", req.GetWindow())
	if ps != nil {
		return nil, invalid(ps)
	}
	op := quota.SetOverride{
		Reason: req.GetReason(), Bucket: quota.Bucket(req.GetBucket()), Unit: quota.Unit(req.GetUnit()),
		Span: spanOf(req.GetWindow()), Label: req.GetLabel(),
	}
	if req.Limit != nil {
		op.Limit = quota.AtMost(req.GetLimit())
	}
	d, err := a.s.apply(ctx, who, op)
	if err != nil {
		return nil, err
	}
	return &quotadv1.SetOverrideResponse{Before: balance(d.Before[0]), After: balance(d.After[0])}, nil
}

// ResetUsage sets used to zero in current windows.
func (a adminServer) ResetUsage(ctx context.Context, req *quotadv1.ResetUsageRequest) (*quotadv1.ResetUsageResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	var ps quota.Problems
	checkWindow(&ps, "window", req.GetWindow())
	if ps != nil {
		return nil, invalid(ps)
	}
	d, err := a.s.apply(ctx, who, quota.Reset{
		Reason: req.GetReason(), Bucket: quota.Bucket(req.GetBucket()), Unit: quota.Unit(req.GetUnit()),
		Span: spanOf(req.GetWindow()), ValidateOnly: req.GetValidateOnly(),
	})
	if err != nil {
		return nil, err
	}
	return &quotadv1.ResetUsageResponse{Before: balances(d.Before), After: balances(d.After)}, nil
}
