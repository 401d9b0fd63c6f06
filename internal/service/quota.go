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
	op, problems := acquireOf(req.GetBucket(), req.GetCharges(), req.GetHold())
	op.RequestID = req.GetRequestId()
	if problems = append(problems, op.Validate()...); problems != nil {
		return nil, invalid(problems)
	}
	d, err := q.s.apply(ctx, who, op)
	if err != nil {
		return nil, err
	}
	return &quotadv1.AcquireResponse{Balances: balances(d.Balances), Replayed: d.Replayed, ExpireTime: timestamp(d.Expiry), State: phases[d.Phase]}, nil
}

// Check tells what an Acquire would answer.
func (q quotaServer) Check(ctx context.Context, req *quotadv1.CheckRequest) (*quotadv1.CheckResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	op, problems := acquireOf(req.GetBucket(), req.GetCharges(), req.GetHold())
	if op.Reserve {
		op.RequestID = "check" // which a reservation needs, and a check does not look at
	}
	if problems = append(problems, op.Validate()...); problems != nil {
		return nil, invalid(problems)
	}
	what, err := askedOf(op)
	if err != nil {
		return nil, failure(err)
	}
	if err := authorise(who, what); err != nil {
		return nil, err
	}
	d, err := q.s.c.Ledger.Check(ctx, op)
	if err != nil {
		return nil, q.s.sightOf(who).failure(ctx, err)
	}
	resp := &quotadv1.CheckResponse{Allowed: d.Outcome == quota.Done, Balances: balances(d.Balances)}
	if d.Outcome == quota.Denied {
		resp.Denial = denial(d)
		return resp, nil
	}
	return resp, refusal(ctx, d)
}

// Settle replaces what a reservation holds by what was really used.
func (q quotaServer) Settle(ctx context.Context, req *quotadv1.SettleRequest) (*quotadv1.SettleResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	charges, problems := chargesOf(req.GetCharges())
	op := quota.Settle{RequestID: req.GetRequestId(), Charges: charges}
	if problems = append(problems, op.Validate()...); problems != nil {
		return nil, invalid(problems)
	}
	d, err := q.s.apply(ctx, who, op)
	if err != nil {
		return nil, err
	}
	return &quotadv1.SettleResponse{Balances: balances(d.Balances), Replayed: d.Replayed, Late: d.Late}, nil
}

// Release gives back what was acquired.
func (q quotaServer) Release(ctx context.Context, req *quotadv1.ReleaseRequest) (*quotadv1.ReleaseResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	op := quota.Release{RequestID: req.GetRequestId()}
	if problems := op.Validate(); problems != nil {
		return nil, invalid(problems)
	}
	d, err := q.s.apply(ctx, who, op)
	if err != nil {
		return nil, err
	}
	return &quotadv1.ReleaseResponse{Balances: balances(d.Balances), Replayed: d.Replayed, Late: d.Late}, nil
}

// Extend keeps a reservation longer, and takes more for it.
func (q quotaServer) Extend(ctx context.Context, req *quotadv1.ExtendRequest) (*quotadv1.ExtendResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	charges, problems := chargesOf(req.GetCharges())
	op := quota.Extend{RequestID: req.GetRequestId(), ExtendID: req.GetExtendId(), Charges: charges}
	if op.Hold = holdOf(&problems, "hold", req.GetHold(), "to keep the expiry"); op.Hold == 0 && req.GetHold() != nil {
		op.Hold = quota.HoldMin // what is wrong has been noted, and is not that it was left out
	}
	if problems = append(problems, op.Validate()...); problems != nil {
		return nil, invalid(problems)
	}
	d, err := q.s.apply(ctx, who, op)
	if err != nil {
		return nil, err
	}
	return &quotadv1.ExtendResponse{
		Balances: balances(d.Balances), Replayed: d.Replayed, ExpireTime: timestamp(d.Expiry), State: phases[d.Phase],
	}, nil
}
