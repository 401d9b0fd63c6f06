package server

import (
	"context"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"github.com/quotad/quotad/internal/auth"
)

// StrangersMax is how many calls of callers that the policy does not know one server has open at a time, health watches aside, which
// have a bound of their own. gRPC reads the whole request before the guard is asked, so that each may hold as much memory as a message
// has: who is nobody could fill it all.
const StrangersMax = 64

// arrives is asked when the head of a call is there, and nothing of its request. It runs in the goroutine that reads the connection.
// Its refusals have no details: gRPC sends none so early.
func (g *guard) arrives(ctx context.Context, call *tap.Info) (context.Context, error) {
	if call.FullMethodName == healthWatch || !g.stranger(ctx) {
		return ctx, nil
	}
	if !take(&g.strangers, StrangersMax) {
		return nil, g.tooManyStrangers(call.FullMethodName)
	}
	context.AfterFunc(ctx, func() { g.strangers.Add(-1) }) // it ends with the call, however that ends
	return ctx, nil
}

// stranger tells whether the policy does not know who makes a call. A connection on which the token that came last was good is taken
// for its caller's.
func (g *guard) stranger(ctx context.Context) bool {
	access, by := g.gate.Get(), g.shownBy(ctx)
	if !access.Policy() {
		return false
	}
	known, values := &by.known, metadata.ValueFromIncomingContext(ctx, bearerHeader)
	if len(values) > 0 {
		known = &by.token
	}
	who := known.Load()
	switch {
	case who != nil && who.access == access:
		return who.caller.Principal.Name == ""
	case len(values) == 0:
		return access.Principal(by.ids).Name == ""
	}
	if !by.private || !bears(values) {
		return true
	}
	id, err := access.Token(values[0][len(bearerScheme):], g.now())
	return err != nil || access.Principal([]auth.Identity{id}).Name == ""
}
