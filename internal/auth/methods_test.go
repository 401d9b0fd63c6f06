package auth_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
)

// asks is what each method asks of its caller, written a second time, as a person reads it in docs/access.md.
const asks = `
	quotad.v1.QuotaService acquire Acquire Check Extend
	quotad.v1.QuotaService settle Settle Release
	quotad.v1.InspectService inspect ListBuckets GetBucket ListUsage ListReservations WatchUsage ListAudit GetStatus
	quotad.v1.InspectService anybody WhoAmI
	quotad.v1.AdminService admin SetBucket DeleteBucket SetOverride ResetUsage
	quotad.v1.AdminService everything Apply Backup ExplainAccess
	grpc.health.v1.Health anybody Check Watch List
	grpc.reflection.v1.ServerReflection anybody ServerReflectionInfo
	grpc.reflection.v1alpha.ServerReflection anybody ServerReflectionInfo`

// asked maps methods to what they ask.
func asked() map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(strings.TrimSpace(asks)) {
		words := strings.Fields(line)
		for _, method := range words[2:] {
			m["/"+words[0]+"/"+method] = words[1]
		}
	}
	return m
}

// rpcs lists the methods that the descriptors have.
func rpcs(services ...grpc.ServiceDesc) []string {
	var names []string
	for _, d := range services {
		for _, m := range d.Methods {
			names = append(names, "/"+d.ServiceName+"/"+m.MethodName)
		}
		for _, s := range d.Streams {
			names = append(names, "/"+d.ServiceName+"/"+s.StreamName)
		}
	}
	slices.Sort(names)
	return names
}

// Each rpc that there is stands in the table, and nothing else does.
func TestMethodsAreAll(t *testing.T) {
	t.Parallel()
	all := rpcs(quotadv1.QuotaService_ServiceDesc, quotadv1.InspectService_ServiceDesc, quotadv1.AdminService_ServiceDesc,
		grpc_health_v1.Health_ServiceDesc, grpc_reflection_v1.ServerReflection_ServiceDesc, grpc_reflection_v1alpha.ServerReflection_ServiceDesc)
	if table := slices.Sorted(maps.Keys(auth.Methods())); !slices.Equal(table, all) {
		t.Errorf("the table has\n%q, the services have\n%q", table, all)
	}
	if written := slices.Sorted(maps.Keys(asked())); !slices.Equal(written, all) {
		t.Errorf("the test has\n%q, the services have\n%q", written, all)
	}
}

// role is a caller, and which of the things that a method may ask they have.
type role struct {
	who auth.Principal
	has []string
}

// roles returns callers of every kind: nobody, each verb alone, all of them on one bucket, and those who have something everywhere.
func roles(t *testing.T) map[string]role {
	t.Helper()
	everything := []string{"anybody", "acquire", "settle", "inspect", "admin", "everything"}
	all := map[string]role{
		"nobody":                     {auth.Principal{}, everything[:1]},
		"a stranger":                 {auth.Principal{Shown: "uid:7"}, everything[:1]},
		"a name alone":               {auth.Principal{Name: "local"}, everything[:1]},
		"local":                      {auth.Local(), everything},
		"all on a bucket":            {principalOf(t, "acquire: [a/b], settle: [a/b], inspect: [a/b], admin: [a/b]"), everything[:5]},
		"all everywhere":             {principalOf(t, "acquire: ['**'], settle: ['**'], inspect: ['**'], admin: ['**']"), everything},
		"admin everywhere":           {principalOf(t, "admin: ['**']"), []string{"anybody", "admin", "everything"}},
		"admin of nearly everything": {principalOf(t, "admin: ['*', '*/**']"), []string{"anybody", "admin"}},
		"acquire everywhere":         {principalOf(t, "acquire: ['**']"), []string{"anybody", "acquire"}},
	}
	for _, v := range auth.Verbs() {
		all[v.String()+" on a bucket"] = role{principalOf(t, v.String()+": [acme/chat]"), []string{"anybody", v.String()}}
	}
	return all
}

// principalOf returns a principal who may do that much.
func principalOf(t *testing.T, may string) auth.Principal {
	t.Helper()
	p := access(t, "principals: {p: {is: [loopback], may: {"+may+"}}}", "").Principal([]auth.Identity{auth.Loopback})
	if p.Name != "p" {
		t.Fatalf("the caller is %v", p)
	}
	return p
}

// TestRolesAndMethods asks for each pair of a role and a method.
func TestRolesAndMethods(t *testing.T) {
	t.Parallel()
	all, want := roles(t), asked()
	// wrong returns the pairs that a table answers otherwise than it should.
	wrong := func(table auth.Table) (pairs []string) {
		for name, role := range all {
			for method, asks := range want {
				if may := slices.Contains(role.has, asks); may != (table.Allow(role.who, method) == nil) {
					pairs = append(pairs, fmt.Sprintf("%s calls %s, want %v", name, method, may))
				}
			}
		}
		return pairs
	}
	if pairs := wrong(auth.Methods()); len(pairs) > 0 {
		t.Errorf("%s", strings.Join(pairs, "\n"))
	}
	for method := range auth.Methods() { // controls: each rule that is another, or is missing, is found
		for _, other := range []auth.Rule{{Verb: auth.Acquire}, {Verb: auth.Settle}, {Verb: auth.Inspect}, {Verb: auth.Admin}, {Verb: auth.Admin, All: true}, {Anybody: true}, {}} {
			table := auth.Methods()
			if table[method] == other {
				continue
			}
			table[method] = other
			if len(wrong(table)) == 0 {
				t.Errorf("control: %s may have the rule %+v", method, other)
			}
		}
	}
}

// Nobody reaches what is not in the table, and an empty table is closed to all.
func TestDefaultDeny(t *testing.T) {
	t.Parallel()
	for role, r := range roles(t) {
		who := r.who
		for _, method := range []string{
			"", "/", "//", "/quotad.v1.QuotaService/", "/quotad.v1.QuotaService/Anything", "quotad.v1.QuotaService/Acquire",
			"/quotad.v1.QuotaService/acquire", "/quotad.v2.QuotaService/Acquire", "/quotad.v1.QuotaService/Acquire/", "/quotad.v1.QuotaService//Acquire",
		} {
			err := auth.Methods().Allow(who, method)
			if err == nil || err.Error() != "nobody may call "+method {
				t.Errorf("%s calls %q: %v", role, method, err)
			}
		}
		for method := range auth.Methods() {
			if auth.Table(nil).Allow(who, method) == nil || (auth.Table{}).Allow(who, method) == nil {
				t.Errorf("an empty table lets %s call %s", role, method)
			}
			if (auth.Table{method: {}}).Allow(who, method) == nil {
				t.Errorf("a rule that asks nothing lets %s call %s", role, method)
			}
		}
	}
}

// A refusal names the method, the caller and what is missing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	chat := access(t, "principals: {chat: {is: ['uid:1000'], may: {acquire: [acme/chat]}}}", "")
	for _, c := range []struct{ id, method, want string }{
		{"uid:1000", "/quotad.v1.AdminService/Backup", "chat (uid:1000) may not call /quotad.v1.AdminService/Backup: it asks for admin on every bucket (**)"},
		{"uid:1000", "/quotad.v1.QuotaService/Settle", "chat (uid:1000) may not call /quotad.v1.QuotaService/Settle: it asks for settle, which the policy grants it on no bucket"},
		{"uid:7", "/quotad.v1.QuotaService/Acquire", "uid:7, who is no principal of the policy, may not call /quotad.v1.QuotaService/Acquire: it asks for acquire, which the policy grants it on no bucket"},
		{"", "/quotad.v1.QuotaService/Acquire", "a caller who showed nothing may not call /quotad.v1.QuotaService/Acquire: it asks for acquire, which the policy grants it on no bucket"},
	} {
		var ids []auth.Identity
		if c.id != "" {
			ids = append(ids, auth.Identity(c.id))
		}
		if err := auth.Methods().Allow(chat.Principal(ids), c.method); err == nil || err.Error() != c.want {
			t.Errorf("%s calls %s:\n got %v\nwant %s", c.id, c.method, err, c.want)
		}
	}
	if got := fmt.Sprint(auth.Local()); got != "local" {
		t.Errorf("who calls without a policy is %q", got)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	nobody, mallory, local := auth.Principal{}, auth.Principal{Name: "mallory"}, auth.Local()
	said := func(ctx context.Context, want auth.Principal, ok bool) {
		t.Helper()
		if who, said := auth.FromContext(ctx); said != ok || who != want {
			t.Errorf("the context says %v, %v; want %v, %v", who, said, want, ok)
		}
	}
	outer := auth.NewContext(t.Context(), mallory)
	inner := auth.NewContext(outer, local)
	said(t.Context(), nobody, false)
	said(outer, mallory, true)
	said(inner, local, true)
	said(auth.NewContext(inner, nobody), nobody, true)
	caller := &auth.Caller{Principal: mallory, Identities: []auth.Identity{"uid:7"}}
	if got := auth.CallerOf(auth.WithCaller(inner, caller)); got != caller {
		t.Errorf("the caller is %v", got)
	}
	if got := auth.CallerOf(t.Context()); got != nil {
		t.Errorf("the caller of a bare context is %v", got)
	}
}
