package auth

import "fmt"

// Rule says what a method asks of its caller before anything is looked at. Which buckets may be touched is asked again for each, by
// the service.
type Rule struct {
	// Verb is what the caller has to be allowed, for some bucket at least. 0 is for a method that asks nothing: Anybody says so.
	Verb Verb
	// All asks for the verb on every bucket.
	All bool
	// Anybody lets everybody call, also who is nobody.
	Anybody bool
}

// Table says for each method of the daemon, by its full name, what it asks. A method that is not in it is denied, so that one that
// was forgotten cannot be open by mistake.
type Table map[string]Rule

// Methods returns the table of this daemon.
func Methods() Table {
	t := Table{}
	for verb, methods := range map[Verb][]string{
		Acquire: {"QuotaService/Acquire", "QuotaService/Check", "QuotaService/Extend"},
		Settle:  {"QuotaService/Settle", "QuotaService/Release"},
		Inspect: {
			"InspectService/ListBuckets", "InspectService/GetBucket", "InspectService/ListUsage", "InspectService/ListReservations",
			"InspectService/WatchUsage", "InspectService/ListAudit", "InspectService/GetStatus",
		},
		Admin: {"AdminService/SetBucket", "AdminService/DeleteBucket", "AdminService/SetOverride", "AdminService/ResetUsage"},
	} {
		for _, m := range methods {
			t["/quotad.v1."+m] = Rule{Verb: verb}
		}
	}
	for _, m := range []string{"AdminService/Apply", "AdminService/Backup", "AdminService/ExplainAccess"} {
		t["/quotad.v1."+m] = Rule{Verb: Admin, All: true}
	}
	for _, m := range []string{
		"/quotad.v1.InspectService/WhoAmI",
		"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	} {
		t[m] = Rule{Anybody: true}
	}
	return t
}

// Allow returns nil if p may call the method with that full name, such as "/quotad.v1.QuotaService/Acquire".
func (t Table) Allow(p Principal, method string) error {
	rule, known := t[method]
	switch {
	case !known:
		return fmt.Errorf("nobody may call %s", method)
	case rule.Anybody:
		return nil
	case rule.All && !p.MayAll(rule.Verb):
		return fmt.Errorf("%s may not call %s: it asks for %s on every bucket (**)", p, method, rule.Verb)
	case !p.MaySome(rule.Verb):
		return fmt.Errorf("%s may not call %s: it asks for %s, which the policy grants it on no bucket", p, method, rule.Verb)
	}
	return nil
}

// String says who it is, for people.
func (p Principal) String() string {
	switch {
	case p.Name != "" && p.Shown != "":
		return fmt.Sprintf("%s (%s)", p.Name, p.Shown)
	case p.Name != "":
		return p.Name
	case p.Shown != "":
		return fmt.Sprintf("%s, who is no principal of the policy,", p.Shown)
	}
	return "a caller who showed nothing"
}
