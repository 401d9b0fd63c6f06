package service_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// grants is a policy as the tests see it: by principal and verb, the patterns.
type grants map[string]map[string][]string

// yaml writes a policy for the daemon, in which each principal is a token of its name.
func (g grants) yaml() string {
	var s strings.Builder
	s.WriteString("principals:\n")
	for who, verbs := range g {
		fmt.Fprintf(&s, "  %s:\n    is: [\"token:%s\"]\n    may: {", who, who)
		for verb, patterns := range verbs {
			fmt.Fprintf(&s, "%s: [\"%s\"], ", verb, strings.Join(patterns, `", "`))
		}
		s.WriteString("}\n")
	}
	return s.String()
}

// may is the tests' own reading of a policy, which knows nothing of the daemon's: patterns as regular expressions. A name with stars
// is a declared pattern, which a star of a policy's stands for as for any segment.
func (g grants) may(who, verb, name string) bool {
	return slices.ContainsFunc(g[who][verb], func(pattern string) bool {
		text := regexp.QuoteMeta(pattern)
		text = strings.ReplaceAll(text, `\*\*`, `[^/]+(/[^/]+)#`)
		text = strings.ReplaceAll(text, `\*`, `[^/]+`)
		return regexp.MustCompile(`^` + strings.ReplaceAll(text, "#", "*") + `$`).MatchString(name)
	})
}

func (g grants) some(who, verb string) bool { return len(g[who][verb]) > 0 }
func (g grants) all(who, verb string) bool  { return slices.Contains(g[who][verb], "**") }

var tenants = grants{
	"root":    {"acquire": {"**"}, "settle": {"**"}, "inspect": {"**"}, "admin": {"**"}},
	"acme":    {"acquire": {"acme/**"}, "settle": {"acme/**"}, "inspect": {"acme/**"}, "admin": {"acme/**"}},
	"other":   {"acquire": {"other", "other/**"}, "settle": {"other"}, "inspect": {"other", "other/**"}, "admin": {"other", "other/**"}},
	"reader":  {"inspect": {"acme", "acme/*"}},
	"taker":   {"acquire": {"acme/a", "other/x"}, "settle": {"acme/a"}},
	"mixed":   {"inspect": {"*/a"}, "admin": {"other/x", "acme/*"}, "acquire": {"other/*"}},
	"auditor": {"inspect": {"**"}},
	"nobody":  {},
}

// The buckets that the tests ask for, tenants' and such as begin like them, and names of declarations.
var (
	askedBuckets  = []string{"acme", "acme/a", "acme/b/c", "acme-evil", "acme-evil/a", "other", "other/x", "Acme/a"}
	askedPatterns = []string{"acme/*", "*/a", "other/*", "*"}
)

// meddle changes what a server does with a call, to see that the tests notice: who calls, and with what.
type meddle func(who auth.Principal, method string, req any) auth.Principal

// doors is a service behind a server that authenticates by name, and asks the table of methods as the daemon's does.
type doors struct {
	*rig
	access *auth.Access
}

func (g grants) access(t *testing.T) *auth.Access {
	t.Helper()
	policy, err := auth.ParsePolicy("policy.yaml", []byte(strings.ReplaceAll(g.yaml(), "  nobody:\n    is: [\"token:nobody\"]\n    may: {}\n", "")))
	if err != nil {
		t.Fatal(err)
	}
	return auth.NewAccess(policy, nil)
}

func open(t *testing.T, g grants, opts ...any) *doors {
	t.Helper()
	access := g.access(t)
	var wrong meddle
	var ledger func(service.Ledger) service.Ledger
	current := func() *auth.Access { return access }
	for _, o := range opts {
		switch o := o.(type) {
		case meddle:
			wrong = o
		case func(service.Ledger) service.Ledger:
			ledger = o
		case func() *auth.Access:
			current = o
		}
	}
	at := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	s, err := store.Open(t.Context(), memengine.New(), store.Options{
		Defaults: quota.Defaults{Limits: fifty.Limits, UndeclaredLive: 10_000}, Now: func() time.Time { return at }, Uptime: func() time.Duration { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	var l service.Ledger = s
	if ledger != nil {
		l = ledger(s)
	}
	identify := func(ctx context.Context, method string, req any) (context.Context, error) {
		ids := []auth.Identity{auth.Identity("token:" + callerOf(ctx).Name)}
		who := access.Principal(ids)
		if wrong != nil {
			who = wrong(who, method, req)
		}
		if err := auth.Methods().Allow(who, method); err != nil {
			return ctx, status.Error(codes.PermissionDenied, err.Error())
		}
		return auth.WithCaller(ctx, &auth.Caller{Principal: who, Identities: ids}), nil
	}
	server := identifying(identify)
	stop := make(chan struct{})
	service.New(service.Config{Ledger: l, Stopping: stop, BackupDir: t.TempDir(), Access: current}).Register(server)
	pipe := bufconn.Listen(1 << 20)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(pipe) })
	conn, err := grpc.NewClient("passthrough:///doors", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithMaxHeaderListSize(8<<10),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &doors{&rig{
		quotadv1.NewQuotaServiceClient(conn), quotadv1.NewInspectServiceClient(conn), quotadv1.NewAdminServiceClient(conn), s, stop, "", nil,
	}, access}
}

// identifying is a server that finds out who calls.
func identifying(identify func(context.Context, string, any) (context.Context, error)) *grpc.Server {
	return grpc.NewServer(grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			ctx, err := identify(ctx, info.FullMethod, req)
			if err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			ctx, err := identify(ss.Context(), info.FullMethod, nil)
			if err != nil {
				return err
			}
			return next(srv, identified{ss, ctx})
		}))
}

type identified struct {
	grpc.ServerStream
	ctx context.Context // a stream's context is asked for by its method
}

func (i identified) Context() context.Context { return i.ctx }

// ask is one call of a matrix, and what it needs of a policy.
type ask struct {
	what    string
	verb    string
	buckets []string // each of them, by the verb; none means some bucket
	all     bool     // the verb on everything
	do      func(context.Context) error
}

// refused returns what of an ask the tests' own reading of the policy refuses; ok if nothing.
func (g grants) refused(who string, a ask) (names []string, ok bool) {
	if a.all {
		return []string{"**"}, g.all(who, a.verb)
	}
	for _, b := range a.buckets {
		if !g.may(who, a.verb, b) && !slices.Contains(names, b) {
			names = append(names, b)
		}
	}
	return names, len(names) == 0 && g.some(who, a.verb)
}

// asks are the calls that name buckets, for two of them and a name of a declaration.
func (d *doors) asks(one, two, declared string) []ask {
	charges := []*quotadv1.Charge{{Bucket: two}, {Bucket: one, Unit: "tokens"}}
	return []ask{
		{"acquire", "acquire", []string{one}, false, errOf(d.Acquire, &quotadv1.AcquireRequest{Bucket: one})},
		{"acquire from two", "acquire", []string{one, two}, false, errOf(d.Acquire, &quotadv1.AcquireRequest{Bucket: one, Charges: charges})},
		{"acquire from another", "acquire", []string{one, two}, false, errOf(d.Acquire, &quotadv1.AcquireRequest{Bucket: one, Charges: charges[:1]})},
		{"check two", "acquire", []string{one, two}, false, errOf(d.Check, &quotadv1.CheckRequest{Bucket: one, Charges: charges})},
		{"extend by two", "acquire", []string{two, one}, false, errOf(d.Extend, &quotadv1.ExtendRequest{RequestId: "none", ExtendId: "x", Charges: charges})},
		{"extend", "acquire", nil, false, errOf(d.Extend, &quotadv1.ExtendRequest{RequestId: "none", Hold: durationpb.New(time.Minute)})},
		{"settle", "settle", nil, false, errOf(d.Settle, &quotadv1.SettleRequest{RequestId: "none", Charges: charges})},
		{"release", "settle", nil, false, errOf(d.Release, &quotadv1.ReleaseRequest{RequestId: "none"})},
		{"get", "inspect", []string{one}, false, errOf(d.GetBucket, &quotadv1.GetBucketRequest{Name: one})},
		{"get a declaration", "inspect", []string{declared}, false, errOf(d.GetBucket, &quotadv1.GetBucketRequest{Name: declared})},
		{"status", "inspect", nil, false, errOf(d.GetStatus, &quotadv1.GetStatusRequest{})},
		{"list buckets", "inspect", nil, false, errOf(d.ListBuckets, &quotadv1.ListBucketsRequest{Prefix: one})},
		{"list usage", "inspect", nil, false, errOf(d.ListUsage, &quotadv1.ListUsageRequest{Prefix: one})},
		{"list reservations", "inspect", nil, false, errOf(d.ListReservations, &quotadv1.ListReservationsRequest{Prefix: one})},
		{"list the trail", "inspect", nil, false, errOf(d.ListAudit, &quotadv1.ListAuditRequest{Prefix: one})},
		{"watch", "inspect", nil, false, first(d.WatchUsage, &quotadv1.WatchUsageRequest{Prefix: one})},
		{"override", "admin", []string{one}, false, errOf(d.SetOverride, &quotadv1.SetOverrideRequest{Bucket: one, Limit: new(int64(60))})},
		{"reset", "admin", []string{one}, false, errOf(d.ResetUsage, &quotadv1.ResetUsageRequest{Bucket: one})},
		{"set", "admin", []string{declared}, false, errOf(d.SetBucket, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: declared}})},
		{"delete", "admin", []string{declared}, false, errOf(d.DeleteBucket, &quotadv1.DeleteBucketRequest{Name: declared})},
		{"apply", "admin", nil, true, errOf(d.Apply, &quotadv1.ApplyRequest{Buckets: []*quotadv1.Bucket{{Name: one}}, ValidateOnly: true})},
		{"explain", "admin", nil, true, errOf(d.ExplainAccess, &quotadv1.ExplainAccessRequest{Who: "acme", Verb: "inspect", Bucket: one})},
		{"back up", "admin", nil, true, first(d.Backup, &quotadv1.BackupRequest{})},
	}
}

func errOf[Q, A any](call func(context.Context, Q, ...grpc.CallOption) (A, error), req Q) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := call(ctx, req)
		return err
	}
}

func first[Q, A any](call func(context.Context, Q, ...grpc.CallOption) (grpc.ServerStreamingClient[A], error), req Q) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := call(ctx, req)
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
}

// matrix asks everything as everybody, and returns where the answer is not the one of the tests' own reading of the policy, until there
// are so many.
func (d *doors) matrix(ctx context.Context, g grants, most int) (wrong []string) {
	for i, one := range askedBuckets {
		for j, two := range askedBuckets {
			if j != i && (i+2*j)%3 != 0 {
				continue // a third of the pairs has every bucket on either side, and every declaration
			}
			declared := slices.Concat(askedBuckets, askedPatterns)[(i+j)%(len(askedBuckets)+len(askedPatterns))]
			for _, a := range d.asks(one, two, declared) {
				if j != i && (len(a.buckets) == 0 || len(a.buckets) == 1 && a.buckets[0] == one) {
					continue // has been asked
				}
				for who := range g {
					if complaint := d.complain(as(ctx, who), g, who, a); complaint != "" {
						wrong = append(wrong, complaint)
					}
				}
				if len(wrong) >= most {
					return wrong
				}
			}
		}
	}
	return wrong
}

func (d *doors) complain(ctx context.Context, g grants, who string, a ask) string {
	before := d.store.Revision()
	err := a.do(ctx)
	names, allowed := g.refused(who, a)
	text := fmt.Sprintf("%s: %s (%s on %v)", who, a.what, a.verb, a.buckets)
	if allowed {
		if c := status.Code(err); c == codes.PermissionDenied || c == codes.Unauthenticated {
			return fmt.Sprintf("%s: %v, want no such refusal", text, err)
		}
		return ""
	}
	if status.Code(err) != codes.PermissionDenied {
		return fmt.Sprintf("%s: %v, want a refusal", text, err)
	}
	if d.store.Revision() != before {
		return text + ": refused, but something was written"
	}
	info, told := detail[*errdetails.ErrorInfo](err)
	if !told { // the table of methods refused it, which does not look at buckets
		if g.some(who, a.verb) && !a.all {
			return fmt.Sprintf("%s: %v, want a reason", text, err)
		}
		return ""
	}
	if m := info.GetMetadata(); info.GetReason() != service.ReasonPermissionDenied || info.GetDomain() != service.Domain || m["verb"] != a.verb ||
		!strings.HasPrefix(m["principal"], who+" ") || m["bucket"] != strings.Join(names, ",") {
		return fmt.Sprintf("%s: %v, want %v named", text, info, names)
	}
	return ""
}

// Everybody may do what the policy says, and nothing else, with every bucket and by every rpc.
func TestAccessMatrix(t *testing.T) {
	t.Parallel()
	for _, complaint := range open(t, tenants).matrix(t.Context(), tenants, 20) {
		t.Error(complaint)
	}
}

// The matrix covers every rpc but those that everybody may call.
func TestAccessMatrixIsWhole(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	called := map[string]bool{"/quotad.v1.InspectService/WhoAmI": true}
	d := open(t, tenants, meddle(func(who auth.Principal, method string, _ any) auth.Principal {
		mu.Lock()
		defer mu.Unlock()
		called[method] = true
		return who
	}))
	for _, a := range d.asks("acme/a", "acme/b/c", "acme/*") {
		_ = a.do(as(t.Context(), "root")) // whatever it answers
	}
	mu.Lock()
	defer mu.Unlock()
	for method := range auth.Methods() {
		if strings.HasPrefix(method, "/quotad.") && !called[method] {
			t.Errorf("%s is in no matrix", method)
		}
	}
}

// Control: services that forget something are seen by the matrix.
func TestAccessMatrixControl(t *testing.T) {
	t.Parallel()
	policy, err := auth.ParsePolicy("policy.yaml", []byte("principals:\n  root:\n    is: [\"uid:0\"]\n    may: {acquire: [\"**\"], settle: [\"**\"], inspect: [\"**\"], admin: [\"**\"]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	all := auth.NewAccess(policy, nil).Principal([]auth.Identity{"uid:0"})
	for what, wrong := range map[string]meddle{
		"forgets the second charge's bucket": func(who auth.Principal, _ string, req any) auth.Principal {
			if r, ok := req.(*quotadv1.AcquireRequest); ok && len(r.GetCharges()) > 0 && who.May(auth.Acquire, quota.Bucket(r.GetBucket())) {
				return all
			}
			return who
		},
		"forgets to ask for an extension": func(who auth.Principal, method string, _ any) auth.Principal {
			if strings.HasSuffix(method, "/Extend") {
				return all
			}
			return who
		},
		"takes a bucket for a pattern": func(who auth.Principal, _ string, req any) auth.Principal {
			if r, ok := req.(*quotadv1.SetBucketRequest); ok && quota.IsPattern(r.GetBucket().GetName()) {
				return all
			}
			return who
		},
		"compares bytes": func(who auth.Principal, method string, req any) auth.Principal {
			if r, ok := req.(*quotadv1.GetBucketRequest); ok && who.Name == "acme" && strings.HasPrefix(r.GetName(), "acme") {
				return all
			}
			return who
		},
		"refuses too much": func(who auth.Principal, method string, _ any) auth.Principal {
			if strings.HasSuffix(method, "/Release") {
				return auth.Principal{Name: who.Name}
			}
			return who
		},
	} {
		if len(open(t, tenants, wrong).matrix(t.Context(), tenants, 1)) == 0 {
			t.Errorf("a service that %s is not seen", what)
		}
	}
}

// All that is refused is named, as far as a status may carry it: of many long names the first.
func TestRefusalNamesAll(t *testing.T) {
	t.Parallel()
	d := open(t, tenants)
	long := func(i int) string { return fmt.Sprintf("secret/%s%02d", strings.Repeat("x", 190), i) }
	req := &quotadv1.AcquireRequest{Bucket: "acme/a"}
	for i := range 32 {
		req.Charges = append(req.Charges, &quotadv1.Charge{Bucket: long(i)})
	}
	_, err := d.Acquire(as(t.Context(), "acme"), req)
	info, _ := detail[*errdetails.ErrorInfo](err)
	names := strings.Split(info.GetMetadata()["bucket"], ",")
	if status.Code(err) != codes.PermissionDenied || len(names) < 10 || names[0] != long(0) || info.GetMetadata()["omitted"] != fmt.Sprint(32-len(names)) {
		t.Errorf("%v, %d names, %v", status.Code(err), len(names), info)
	}
}

// What is nobody else's is one's own: an id of another's is not found, whatever one may do with its bucket, and one's own reservation is
// settled, released and listed whatever the policy has become.
func TestOwnOnly(t *testing.T) {
	t.Parallel()
	d := open(t, tenants)
	hold := func(who, bucket, id string) {
		t.Helper()
		if _, err := d.Acquire(as(t.Context(), who), &quotadv1.AcquireRequest{Bucket: bucket, RequestId: id, Hold: durationpb.New(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	hold("acme", "acme/a", "one")
	hold("taker", "other/x", "two")
	for _, who := range []string{"root", "taker"} {
		ctx := as(t.Context(), who)
		for what, err := range map[string]error{
			"settle":  errOf(d.Settle, &quotadv1.SettleRequest{RequestId: "one"})(ctx),
			"release": errOf(d.Release, &quotadv1.ReleaseRequest{RequestId: "one"})(ctx),
			"extend":  errOf(d.Extend, &quotadv1.ExtendRequest{RequestId: "one", Hold: durationpb.New(time.Hour)})(ctx),
		} {
			if status.Code(err) != codes.NotFound || reason(err) != service.ReasonUnknownReservation {
				t.Errorf("%s of somebody else's, as %s: %v", what, who, err)
			}
		}
	}
	// taker may settle acme/a alone, and what it acquired of other/x all the same.
	if _, err := d.Settle(as(t.Context(), "taker"), &quotadv1.SettleRequest{RequestId: "two", Charges: []*quotadv1.Charge{{Bucket: "other/x", Amount: new(int64(3))}}}); err != nil {
		t.Errorf("one's own, of a bucket that one may not settle: %v", err)
	}
	// Somebody else's bucket is not reached by a settlement.
	hold("taker", "acme/a", "three")
	_, err := d.Settle(as(t.Context(), "taker"), &quotadv1.SettleRequest{RequestId: "three", Charges: []*quotadv1.Charge{{Bucket: "other", Amount: new(int64(3))}}})
	if status.Code(err) != codes.InvalidArgument || !slices.Equal(fields(err), []string{"charges[0].bucket"}) {
		t.Errorf("a settlement of what was not acquired: %v", err)
	}
}

// WhoAmI tells who one is, also who is nobody; ExplainAccess answers as the policy does.
func TestWhoAmI(t *testing.T) {
	t.Parallel()
	d := open(t, tenants)
	resp, err := d.WhoAmI(as(t.Context(), "reader"), &quotadv1.WhoAmIRequest{})
	if err != nil || resp.GetPrincipal() != "reader" || !resp.GetPolicy() || !slices.Equal(resp.GetIdentities(), []string{"token:reader"}) ||
		len(resp.GetGrants()) != 1 || resp.GetGrants()[0].GetVerb() != "inspect" || !slices.Equal(resp.GetGrants()[0].GetBuckets(), []string{"acme", "acme/*"}) {
		t.Errorf("%v, %v", resp, err)
	}
	resp, err = d.WhoAmI(as(t.Context(), "stranger"), &quotadv1.WhoAmIRequest{})
	if err != nil || resp.GetPrincipal() != "" || !resp.GetPolicy() || !slices.Equal(resp.GetIdentities(), []string{"token:stranger"}) || len(resp.GetGrants()) != 0 {
		t.Errorf("a stranger: %v, %v", resp, err)
	}
	root := as(t.Context(), "root")
	for _, who := range []string{"acme", "mixed", "reader", "root"} {
		for _, verb := range auth.Verbs() {
			for _, b := range slices.Concat(askedBuckets, askedPatterns) {
				got, err := d.ExplainAccess(root, &quotadv1.ExplainAccessRequest{Who: who, Verb: verb.String(), Bucket: b})
				if err != nil || got.GetAllowed() != tenants.may(who, verb.String(), b) || got.GetReason() == "" || got.GetPrincipal() != who {
					t.Errorf("%s %s %s: %v, %v", who, verb, b, got, err)
				}
			}
		}
	}
	_, err = d.ExplainAccess(root, &quotadv1.ExplainAccessRequest{Verb: "see", Bucket: "a//b"})
	if !slices.Equal(fields(err), []string{"bucket", "verb", "who"}) {
		t.Errorf("%v", err)
	}
}

// What GetStatus says of everybody's buckets is for who may inspect them all.
func TestStatusIsFiltered(t *testing.T) {
	t.Parallel()
	d := open(t, tenants, func(l service.Ledger) service.Ledger { return troubled{l} })
	for _, c := range []struct {
		who string
		all bool
	}{{"auditor", true}, {"root", true}, {"acme", false}, {"reader", false}} {
		if _, err := d.Acquire(as(t.Context(), "root"), &quotadv1.AcquireRequest{Bucket: "secret", RequestId: c.who, Hold: durationpb.New(0)}); err != nil {
			t.Fatal(err)
		}
		st, err := d.GetStatus(as(t.Context(), c.who), &quotadv1.GetStatusRequest{})
		if err != nil || st.GetZone() != "" || len(st.GetDefaultLimits()) != 1 || st.GetLedgerTime() == nil || len(st.GetProblems()) != 1 {
			t.Fatalf("%s: %v, %v", c.who, st, err)
		}
		told := strings.Contains(st.String(), "secret")
		if told != c.all || st.GetOpenReservations() > 0 != c.all || st.GetUndeclaredNames() > 0 != c.all || st.GetUndeclaredNamesMax() > 0 != c.all {
			t.Errorf("%s: %v", c.who, st)
		}
	}
}

// troubled is a ledger with a damaged record of one tenant's.
type troubled struct{ service.Ledger }

func (l troubled) Status(ctx context.Context) store.Status {
	st := l.Ledger.Status(ctx)
	st.Problems = append(st.Problems, "a record of secret/b is damaged")
	return st
}

func (troubled) Usage(context.Context, store.UsageQuery) ([]quota.Balance, string, error) {
	return nil, "", fmt.Errorf("secret/b: %w", store.ErrCorrupt)
}

func (troubled) Buckets(context.Context, store.BucketQuery) ([]quota.View, string, error) {
	return nil, "", errors.New("reading secret/b")
}

// ruined is one that answers nothing about any bucket either.
type ruined struct{ troubled }

func (ruined) Apply(context.Context, quota.Op) (quota.Decision, error) {
	return quota.Decision{}, fmt.Errorf("the receipt of secret: %w", store.ErrCorrupt)
}

func (ruined) Check(context.Context, quota.Acquire) (quota.Decision, error) {
	return quota.Decision{}, errors.New("reading secret/b")
}

func (ruined) Bucket(context.Context, string) (quota.View, error) {
	return quota.View{}, fmt.Errorf("secret/b: %w", store.ErrCorrupt)
}

// A failure does not tell of other tenants' buckets either.
func TestFailureIsFiltered(t *testing.T) {
	t.Parallel()
	d := open(t, tenants, func(l service.Ledger) service.Ledger { return ruined{troubled{l}} })
	for _, who := range []string{"auditor", "acme"} {
		ctx := as(t.Context(), who)
		for _, err := range []error{
			errOf(d.ListUsage, &quotadv1.ListUsageRequest{})(ctx), errOf(d.ListBuckets, &quotadv1.ListBucketsRequest{})(ctx),
			first(d.WatchUsage, &quotadv1.WatchUsageRequest{})(ctx),
		} {
			if c := status.Code(err); c != codes.DataLoss && c != codes.Internal || strings.Contains(err.Error(), "secret") != (who == "auditor") {
				t.Errorf("%s is told: %v", who, err)
			}
		}
	}
	for _, who := range []string{"root", "acme"} {
		ctx := as(t.Context(), who)
		for _, err := range []error{
			errOf(d.Acquire, &quotadv1.AcquireRequest{Bucket: "acme/a"})(ctx), errOf(d.Check, &quotadv1.CheckRequest{Bucket: "acme/a"})(ctx),
			errOf(d.Release, &quotadv1.ReleaseRequest{RequestId: "1"})(ctx), errOf(d.GetBucket, &quotadv1.GetBucketRequest{Name: "acme/a"})(ctx),
		} {
			if c := status.Code(err); c != codes.DataLoss && c != codes.Internal || strings.Contains(err.Error(), "secret") != (who == "root") {
				t.Errorf("%s is told: %v", who, err)
			}
		}
	}
}

// A watch ends when who may do what changes: its caller may have become nobody.
func TestWatchEndsWithItsPolicy(t *testing.T) {
	t.Parallel()
	var now atomic.Pointer[auth.Access]
	d := open(t, tenants, now.Load)
	now.Store(d.access)
	w, err := d.WatchUsage(as(t.Context(), "acme"), &quotadv1.WatchUsageRequest{Interval: durationpb.New(100 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	now.Store(tenants.access(t))
	if _, err := w.Recv(); status.Code(err) != codes.Unavailable || reason(err) != "" {
		t.Errorf("%v, want UNAVAILABLE", err)
	}
	// The tests' server goes on telling who calls by the policy of before, as one may that changes just then.
	if err := first(d.WatchUsage, &quotadv1.WatchUsageRequest{})(as(t.Context(), "acme")); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want UNAVAILABLE for who was found out under another policy", err)
	}
}
