package service

import (
	"context"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
)

// quotaServer answers what applications call.
type quotaServer struct {
	quotadv1.UnimplementedQuotaServiceServer
	s *Service
}

// Acquire takes amounts before a call.
func (q quotaServer) Acquire(ctx context.Context, req *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetHold() != nil {
		return nil, later("hold: reservations come with a later version of quotad; leave hold out to use the amounts at once")
	}
	op, problems := acquireOf(req.GetBucket(), req.GetCharges())
	op.RequestID = req.GetRequestId()
	if problems = append(problems, op.Validate()...); problems != nil {
		return nil, invalid(problems)
	}
	d, err := q.s.apply(ctx, who, op)
	if err != nil {
		return nil, err
	}
	return &quotadv1.AcquireResponse{Balances: balances(d.Balances), Replayed: d.Replayed}, nil
}

// Check tells what an Acquire would answer.
func (q quotaServer) Check(ctx context.Context, req *quotadv1.CheckRequest) (*quotadv1.CheckResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	op, problems := acquireOf(req.GetBucket(), req.GetCharges())
	if problems = append(problems, op.Validate()...); problems != nil {
		return nil, invalid(problems)
	}
	d, err := q.s.c.Ledger.Check(ctx, op)
	if err != nil {
		return nil, failure(err)
	}
	resp := &quotadv1.CheckResponse{Allowed: d.Outcome == quota.Done, Balances: balances(d.Balances)}
	if d.Outcome == quota.Denied {
		resp.Denial = denial(d)
		return resp, nil
	}
	return resp, refusal(ctx, d)
}

// Settle is part of the contract, and comes with reservations.
func (quotaServer) Settle(context.Context, *quotadv1.SettleRequest) (*quotadv1.SettleResponse, error) {
	return nil, later("Settle comes with reservations, in a later version of quotad")
}

// Release is part of the contract, and comes with reservations.
func (quotaServer) Release(context.Context, *quotadv1.ReleaseRequest) (*quotadv1.ReleaseResponse, error) {
	return nil, later("Release comes with reservations, in a later version of quotad")
}

// Extend is part of the contract, and comes with reservations.
func (quotaServer) Extend(context.Context, *quotadv1.ExtendRequest) (*quotadv1.ExtendResponse, error) {
	return nil, later("Extend comes with reservations, in a later version of quotad")
}
