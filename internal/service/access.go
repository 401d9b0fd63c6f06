package service

import (
	"context"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
)

// WhoAmI tells its caller who quotad takes it for, and what that one may do. It tells nothing that the caller did not show, and asks
// nothing of it.
func (i inspectServer) WhoAmI(ctx context.Context, _ *quotadv1.WhoAmIRequest) (*quotadv1.WhoAmIResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	resp := &quotadv1.WhoAmIResponse{Principal: who.Name, Policy: i.s.c.Access().Policy()}
	for _, id := range auth.CallerOf(ctx).Identities {
		resp.Identities = append(resp.Identities, string(id))
	}
	for _, verb := range auth.Verbs() {
		granted := who.Grants(verb)
		if len(granted) == 0 {
			continue
		}
		g := &quotadv1.Grant{Verb: verb.String()}
		for _, pattern := range granted {
			g.Buckets = append(g.Buckets, string(pattern))
		}
		resp.Grants = append(resp.Grants, g)
	}
	return resp, nil
}

// ExplainAccess tells whether somebody may do a thing, and why.
func (a adminServer) ExplainAccess(ctx context.Context, req *quotadv1.ExplainAccessRequest) (*quotadv1.ExplainAccessResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	var ps quota.Problems
	if req.GetWho() == "" {
		ps.Add("who", `is left out; want a principal, or an identity such as "uid:1000"`)
	}
	verb, err := auth.ParseVerb(req.GetVerb())
	ps.Try("verb", err)
	if req.GetBucket() != everyBucket {
		ps.Try("bucket", quota.CheckPattern(req.GetBucket()))
	}
	if ps != nil {
		return nil, invalid(ps)
	}
	if err := authorise(who, asked{auth.Admin, []string{everyBucket}}); err != nil {
		return nil, err
	}
	e := a.s.c.Access().Explain(req.GetWho(), verb, req.GetBucket(), a.s.c.Ledger.Now())
	return &quotadv1.ExplainAccessResponse{Allowed: e.Allowed, Principal: e.Principal, Reason: e.Reason}, nil
}
