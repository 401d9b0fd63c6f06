// Package auth says who is calling, and what they may do.
package auth

import (
	"context"
	"fmt"
)

// Principal is who is calling. The zero value is nobody, and may do nothing.
type Principal struct {
	// Name scopes request ids and is kept in the audit trail. It has no NUL.
	Name string
}

// Local is everybody who reaches the daemon by loopback or by a unix socket. Those are the only listeners that it opens, so for
// now there is nobody else.
func Local() Principal { return Principal{Name: "local"} }

type contextKey struct{}

// NewContext returns a context that says who is calling.
func NewContext(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext returns who is calling; nobody, and false, if nothing says.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(contextKey{}).(Principal)
	return p, ok
}

// Table says for each method of the daemon, by its full name, who may call it. A method that is not in it is denied, so that
// one that was forgotten cannot be open by mistake.
type Table map[string]func(Principal) bool

// Methods returns the table of this daemon.
func Methods() Table {
	local := func(p Principal) bool { return p == Local() }
	anybody := func(Principal) bool { return true }
	t := Table{}
	for _, m := range []string{
		"QuotaService/Acquire", "QuotaService/Settle", "QuotaService/Release", "QuotaService/Extend", "QuotaService/Check",
		"InspectService/ListBuckets", "InspectService/GetBucket", "InspectService/ListUsage", "InspectService/ListReservations",
		"InspectService/WatchUsage", "InspectService/ListAudit", "InspectService/GetStatus",
		"AdminService/SetBucket", "AdminService/DeleteBucket", "AdminService/Apply", "AdminService/SetOverride",
		"AdminService/ResetUsage", "AdminService/Backup",
	} {
		t["/quotad.v1."+m] = local
	}
	for _, m := range []string{
		"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	} {
		t[m] = anybody
	}
	return t
}

// Allow returns nil if p may call the method with that full name, such as "/quotad.v1.QuotaService/Acquire".
func (t Table) Allow(p Principal, method string) error {
	may, known := t[method]
	switch {
	case !known:
		return fmt.Errorf("nobody may call %s", method)
	case !may(p):
		return fmt.Errorf("%q may not call %s", p.Name, method)
	}
	return nil
}
