package service_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// rig is a service on a ledger, and a client of it.
type rig struct {
	quotadv1.QuotaServiceClient
	quotadv1.InspectServiceClient
	quotadv1.AdminServiceClient
	store *store.Store
	stop  chan struct{}
	dir   string // where backups are made
	close func()
}

func start(t *testing.T, e store.Engine, d quota.Defaults, opts ...func(*service.Config)) *rig {
	t.Helper()
	s, err := store.Open(t.Context(), e, store.Options{Defaults: d})
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, s, s, opts...)
}

func serve(t *testing.T, s *store.Store, l service.Ledger, opts ...func(*service.Config)) *rig {
	t.Helper()
	stop := make(chan struct{})
	c := service.Config{Ledger: l, Version: "test", Engine: "memory", Stopping: stop, BackupDir: t.TempDir()}
	for _, o := range opts {
		o(&c)
	}
	server := grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(auth.NewContext(ctx, callerOf(ctx)), req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, local{ss})
		}),
	)
	service.New(c).Register(server)
	l1 := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l1) }()
	conn, err := grpc.NewClient("passthrough:///rig", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithMaxHeaderListSize(8<<10), // as Python and Ruby; a status above it arrives as INTERNAL, without what it says
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l1.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	return &rig{
		quotadv1.NewQuotaServiceClient(conn), quotadv1.NewInspectServiceClient(conn), quotadv1.NewAdminServiceClient(conn), s, stop, c.BackupDir,
		sync.OnceFunc(func() {
			if err := errors.Join(conn.Close()); err != nil {
				t.Error(err)
			}
			server.Stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}),
	}
}

// as makes calls come from somebody else.
func as(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "test-caller", name)
}

func callerOf(ctx context.Context) auth.Principal {
	if name := metadata.ValueFromIncomingContext(ctx, "test-caller"); len(name) > 0 {
		who := auth.Local()
		who.Name = name[0]
		return who
	}
	return auth.Local()
}

type local struct{ grpc.ServerStream }

func (l local) Context() context.Context {
	return auth.NewContext(l.ServerStream.Context(), callerOf(l.ServerStream.Context()))
}

var fifty = quota.Defaults{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 50}}, UndeclaredLive: 2}

// detail returns the detail of that type.
func detail[T any](err error) (found T, ok bool) {
	for _, d := range status.Convert(err).Details() {
		if found, ok = d.(T); ok {
			return found, true
		}
	}
	return found, false
}

func reason(err error) string {
	info, ok := detail[*errdetails.ErrorInfo](err)
	if !ok || info.GetDomain() != service.Domain {
		return ""
	}
	return info.GetReason()
}

func fields(err error) []string {
	bad, _ := detail[*errdetails.BadRequest](err)
	var fs []string
	for _, v := range bad.GetFieldViolations() {
		if v.GetDescription() == "" {
			fs = append(fs, "(without a description)")
		}
		fs = append(fs, v.GetField())
	}
	slices.Sort(fs)
	return slices.Compact(fs)
}

// A denial is a status with everything in it that a caller needs: who refused, how much is left, when it resets, and that
// sending it again is no use.
func TestDenial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		resp, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "portfolio", Charges: []*quotadv1.Charge{{Amount: new(int64(50))}}})
		if err != nil {
			t.Fatal(err)
		}
		if b := resp.GetBalances()[0]; len(resp.GetBalances()) != 1 || b.GetUsed() != 50 || b.GetLimit() != 50 || b.Remaining == nil ||
			b.GetRemaining() != 0 || b.GetUnit() != "calls" || b.GetWindow() != quotadv1.Window_WINDOW_DAY || b.GetWindowLabel() != "2000-01-01" {
			t.Errorf("%v", resp)
		}
		time.Sleep(time.Hour)
		var trailer metadata.MD
		_, err = r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "portfolio"}, grpc.Trailer(&trailer))
		if status.Code(err) != codes.ResourceExhausted || reason(err) != service.ReasonLimitExceeded {
			t.Fatalf("%v %q", err, reason(err))
		}
		if got := trailer.Get("grpc-retry-pushback-ms"); !slices.Equal(got, []string{"-1"}) {
			t.Errorf("pushback %q", got)
		}
		if retry, _ := detail[*errdetails.RetryInfo](err); retry.GetRetryDelay().AsDuration() != 23*time.Hour {
			t.Errorf("retry after %v, want 23 hours", retry.GetRetryDelay())
		}
		if failure, _ := detail[*errdetails.QuotaFailure](err); len(failure.GetViolations()) != 1 || failure.GetViolations()[0].GetSubject() != "bucket:portfolio" {
			t.Errorf("%v", failure)
		}
		d, _ := detail[*quotadv1.Denial](err)
		if v := d.GetViolations()[0]; v.GetCap() != 50 || v.GetRequested() != 1 || v.GetNever() || v.GetCeiling() || v.GetBalance().GetUsed() != 50 {
			t.Errorf("%v", d)
		}
		want := "portfolio: 50 of 50 calls used this day, 1 asked; resets at 2000-01-02T00:00:00Z"
		if d.GetMessage() != want || status.Convert(err).Message() != want {
			t.Errorf("message %q, want %q", d.GetMessage(), want)
		}
		check, err := r.Check(ctx, &quotadv1.CheckRequest{Bucket: "portfolio"})
		if err != nil || check.GetAllowed() || check.GetDenial().GetMessage() != want {
			t.Errorf("check: %v, %v", check, err)
		}
		_, err = r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "portfolio", Charges: []*quotadv1.Charge{{Amount: new(int64(51))}}})
		if _, retry := detail[*errdetails.RetryInfo](err); retry || !strings.Contains(err.Error(), "no wait can help") {
			t.Errorf("what can never pass: %v", err)
		}
	})
}

// Every refusal that is not a denial has its own code and reason, and charges nothing.
func TestRefusals(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func(bucket, id string, n int64) error {
		_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: bucket, RequestId: id, Charges: []*quotadv1.Charge{{Amount: &n}}})
		return err
	}
	must(get("a", "id", 1))
	must(get("b", "", 1))
	file := quota.ApplySet{Source: quota.SourceFile, Buckets: map[string]quota.Settings{"declared": {}}}
	_, err := r.store.Apply(ctx, file)
	must(err)
	check := func(err error, code codes.Code, why string) {
		t.Helper()
		if status.Code(err) != code || reason(err) != why {
			t.Errorf("%v: reason %q, want %v %s", err, reason(err), code, why)
		}
	}
	check(get("a", "id", 2), codes.AlreadyExists, service.ReasonRequestIDReused)
	err = get("c", "", 1)
	check(err, codes.FailedPrecondition, service.ReasonTooManyBuckets)
	if !strings.Contains(err.Error(), `bucket: "c" is not declared`) {
		t.Errorf("%v", err)
	}
	for n := range 64 { // with the calls one too many
		_, err = r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a", Charges: []*quotadv1.Charge{{Unit: "u" + strconv.Itoa(n)}}})
	}
	check(err, codes.FailedPrecondition, service.ReasonTooManyBuckets)
	if !strings.Contains(err.Error(), `unit: "u63" is not limited by "a"`) {
		t.Errorf("%v", err)
	}
	_, err = r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: "declared"}})
	check(err, codes.FailedPrecondition, service.ReasonDeclaredInFile)
	_, err = r.Apply(ctx, &quotadv1.ApplyRequest{Buckets: []*quotadv1.Bucket{{Name: "declared"}}})
	check(err, codes.FailedPrecondition, service.ReasonDeclaredInFile)
	_, err = r.store.Apply(ctx, quota.Configure{Defaults: quota.Defaults{UndeclaredLive: 2}})
	must(err)
	check(get("d", "", 1), codes.NotFound, service.ReasonUnknownBucket)
	_, err = r.GetBucket(ctx, &quotadv1.GetBucketRequest{Name: "never/seen"})
	check(err, codes.NotFound, service.ReasonUnknownBucket)
	_, err = r.GetBucket(ctx, &quotadv1.GetBucketRequest{Name: "a"})
	must(err) // counted before, so there is something to show
}

// failing is a ledger that answers with an error, or with an outcome that nobody knows.
type failing struct {
	service.Ledger
	err     error
	outcome quota.Outcome
}

func (f *failing) Apply(context.Context, quota.Op) (quota.Decision, error) {
	return quota.Decision{Outcome: f.outcome}, f.err
}

// Every error of the store has its own status, and none is RESOURCE_EXHAUSTED: overload is not a denial.
func TestFailures(t *testing.T) {
	s, err := store.Open(t.Context(), memengine.New(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := &failing{Ledger: s}
	r := serve(t, s, f)
	defer r.close()
	for _, c := range []struct {
		err  error
		code codes.Code
		why  string
	}{
		{store.ErrOverloaded, codes.Unavailable, service.ReasonOverloaded},
		{store.ErrClosed, codes.Unavailable, service.ReasonShuttingDown},
		{store.ErrFull, codes.Unavailable, service.ReasonStorageFull},
		{store.ErrUnknown, codes.Unavailable, service.ReasonOutcomeUnknown},
		{store.ErrCorrupt, codes.DataLoss, service.ReasonRecordCorrupt},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		{context.Canceled, codes.Canceled, ""},
		{errors.New("anything"), codes.Internal, ""},
		{nil, codes.Internal, ""}, // with the outcome 0
	} {
		f.err = c.err
		_, err := r.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: "a"})
		if status.Code(err) != c.code || reason(err) != c.why {
			t.Errorf("%v: %v %q, want %v %q", c.err, err, reason(err), c.code, c.why)
		}
	}
}

// Each method that is served is in the table of who may call it, and the table has no other.
func TestMethodTable(t *testing.T) {
	served := map[string]bool{}
	server := grpc.NewServer()
	service.New(service.Config{}).Register(server)
	for name, info := range server.GetServiceInfo() {
		for _, m := range info.Methods {
			served["/"+name+"/"+m.Name] = true
		}
	}
	table := auth.Methods()
	for m := range served {
		if err := table.Allow(auth.Local(), m); err != nil {
			t.Errorf("served, but %v", err)
		}
		open := strings.HasSuffix(m, "/WhoAmI")
		if (table.Allow(auth.Principal{}, m) == nil) != open || (table.Allow(auth.Principal{Name: "mallory"}, m) == nil) != open {
			t.Errorf("%s is open to anybody, or closed to all", m)
		}
	}
	for m := range table {
		if strings.HasPrefix(m, "/quotad.") && !served[m] {
			t.Errorf("%s is in the table, and not served", m)
		}
	}
	if table.Allow(auth.Local(), "/quotad.v1.AdminService/Anything") == nil {
		t.Error("a method that is not in the table is allowed")
	}
}

// Without a caller nothing is reached.
func TestNobody(t *testing.T) {
	s, err := store.Open(t.Context(), memengine.New(), store.Options{Defaults: fifty})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	server := grpc.NewServer()
	service.New(service.Config{Ledger: s}).Register(server)
	l := bufconn.Listen(1 << 16)
	go server.Serve(l) //nolint:errcheck // ended below
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:///nobody", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, info := range server.GetServiceInfo() {
		for _, m := range info.Methods {
			full := "/" + name + "/" + m.Name
			stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, full)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(stream.SendMsg(&quotadv1.GetStatusRequest{}), stream.CloseSend()); err != nil {
				t.Fatal(err)
			}
			err = stream.RecvMsg(&quotadv1.GetStatusResponse{})
			if c := status.Code(err); c != codes.Unauthenticated && c != codes.Unimplemented {
				t.Errorf("%s: %v", full, err)
			}
		}
	}
}

// The administration by the wire: declare, override, reset, the trail of it.
func TestAdministration(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{
		Name: "team/*", Limits: []*quotadv1.Limit{{Max: 3}, {Unit: "tokens", Window: quotadv1.Window_WINDOW_MONTH, Max: 100}}, Zone: "Asia/Tokyo",
	}, Reason: "new team"})
	must(err)
	if l := set.GetBucket().GetLimits(); set.GetPrevious() != nil || l[0].GetUnit() != "calls" || l[0].GetWindow() != quotadv1.Window_WINDOW_DAY {
		t.Errorf("%v", set)
	}
	acquire := func(n int64) error {
		_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "team/alice", Charges: []*quotadv1.Charge{{Amount: &n}}})
		return err
	}
	must(acquire(3))
	over, err := r.SetOverride(ctx, &quotadv1.SetOverrideRequest{Bucket: "team/alice", Limit: new(int64(5))})
	must(err)
	if over.GetBefore().GetLimit() != 3 || over.GetAfter().GetLimit() != 5 || !over.GetAfter().GetOverridden() {
		t.Errorf("%v", over)
	}
	must(acquire(2))
	preview, err := r.ResetUsage(ctx, &quotadv1.ResetUsageRequest{Bucket: "team/alice", ValidateOnly: true})
	must(err)
	reset, err := r.ResetUsage(ctx, &quotadv1.ResetUsageRequest{Bucket: "team/alice"})
	must(err)
	if len(preview.GetBefore()) != 1 || preview.GetBefore()[0].GetUsed() != 5 || reset.GetAfter()[0].GetUsed() != 0 {
		t.Errorf("%v %v", preview, reset)
	}
	must(acquire(5))
	diff, err := r.Apply(ctx, &quotadv1.ApplyRequest{Buckets: []*quotadv1.Bucket{{Name: "x"}}, ValidateOnly: true})
	must(err)
	if c := diff.GetChanges(); len(c) != 2 || c[0].GetName() != "team/*" || c[0].GetAfter() != nil || c[1].GetBefore() != nil {
		t.Errorf("%v", diff)
	}
	del, err := r.DeleteBucket(ctx, &quotadv1.DeleteBucketRequest{Name: "team/*"})
	must(err)
	if del.GetPrevious().GetZone() != "Asia/Tokyo" {
		t.Errorf("%v", del)
	}
	trail, err := r.ListAudit(ctx, &quotadv1.ListAuditRequest{PageSize: 2})
	must(err)
	rest, err := r.ListAudit(ctx, &quotadv1.ListAuditRequest{PageToken: trail.GetNextPageToken()})
	must(err)
	var actions []string
	for _, a := range append(trail.GetRecords(), rest.GetRecords()...) {
		actions = append(actions, a.GetAction()+" by "+a.GetPrincipal())
	}
	if got := strings.Join(actions, ", "); got != "delete_bucket by local, reset by local, set_override by local, set_bucket by local" {
		t.Errorf("trail: %s", got)
	}
	st, err := r.GetStatus(ctx, &quotadv1.GetStatusRequest{})
	must(err)
	if st.GetVersion() != "test" || len(st.GetProblems()) != 0 || st.GetUndeclaredNamesMax() != 2 || st.GetRetain().AsDuration() != store.DefaultRetain {
		t.Errorf("%v", st)
	}
}

// Sixty-four callers on a limit of fifty: exactly fifty, round after round.
func TestNeverFiftyOne(t *testing.T) {
	r := start(t, memengine.New(), quota.Defaults{Limits: fifty.Limits, UndeclaredLive: 10_000})
	defer r.close()
	for round := range 20 {
		var granted atomic.Int64
		var callers sync.WaitGroup
		for range 64 {
			callers.Go(func() {
				_, err := r.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: "round/" + time.Duration(round).String()})
				switch {
				case err == nil:
					granted.Add(1)
				case reason(err) != service.ReasonLimitExceeded:
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if granted.Load() != 50 {
			t.Errorf("round %d: %d granted", round, granted.Load())
		}
	}
}
