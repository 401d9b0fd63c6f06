package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// testPolicy is an access of one principal, chat, which is uid 7 and has a token. body is what the policy says besides.
func testPolicy(t testing.TB, body string) (a *auth.Access, token string) {
	t.Helper()
	p := newPrincipals(t)
	token = p.token("chat")
	return p.access("principals:\n  chat:\n    is: [\"uid:7\", token:chat]\n" + body), token
}

// principals makes tokens, and policies that know them.
type principals struct {
	t      testing.TB
	tokens auth.Tokens
}

func newPrincipals(t testing.TB) *principals {
	t.Helper()
	return &principals{t, auth.Tokens{}}
}

func (p *principals) token(name string) string {
	p.t.Helper()
	secret, err := auth.NewToken(rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.tokens[name] = auth.Token{Hash: secret.Hash(), Created: time.Now()}
	return secret.Reveal()
}

func (p *principals) access(text string) *auth.Access {
	p.t.Helper()
	policy, err := auth.ParsePolicy("policy.yaml", []byte(text))
	if err != nil {
		p.t.Fatal(err)
	}
	return auth.NewAccess(policy, p.tokens)
}

// behind lets a gate hold an access.
func behind(a *auth.Access) *auth.Gate {
	g := new(auth.Gate)
	g.Set(a)
	return g
}

// listenUnix opens a socket, over which tokens are taken.
func listenUnix(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "q.sock"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func bearing(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == service.Domain {
			return info.GetReason()
		}
	}
	return ""
}

// asks is what each method asks of its caller, written down a second time, so that a slip in the daemon's own table is seen.
func asks() map[string]string {
	return map[string]string{
		"QuotaService/Acquire": "acquire", "QuotaService/Check": "acquire", "QuotaService/Extend": "acquire",
		"QuotaService/Settle": "settle", "QuotaService/Release": "settle",
		"InspectService/ListBuckets": "inspect", "InspectService/GetBucket": "inspect", "InspectService/ListUsage": "inspect",
		"InspectService/ListReservations": "inspect", "InspectService/WatchUsage": "inspect", "InspectService/ListAudit": "inspect",
		"InspectService/GetStatus": "inspect", "InspectService/WhoAmI": "",
		"AdminService/SetBucket": "admin", "AdminService/DeleteBucket": "admin", "AdminService/SetOverride": "admin",
		"AdminService/ResetUsage": "admin", "AdminService/Apply": "everything", "AdminService/Backup": "everything",
		"AdminService/ExplainAccess": "everything",
	}
}

// roles returns what principals may do, by their names; their tokens, if they have one; and a policy that says so.
func roles(t *testing.T) (may map[string][]string, tokens map[string]string, access *auth.Access) {
	t.Helper()
	p := newPrincipals(t)
	may = map[string][]string{
		"acquirer": {"acquire"}, "settler": {"settle"}, "inspector": {"inspect"}, "admin": {"admin"}, "nobody": nil, "stranger": nil, "": nil,
		"everything": {"acquire", "settle", "inspect", "admin", "everything"},
	}
	tokens = map[string]string{"stranger": p.token("stranger")} // which the policy does not have
	text := "principals:\n"
	for role, verbs := range may {
		if role == "" || role == "stranger" || role == "nobody" {
			continue
		}
		tokens[role] = p.token(role)
		on := "acme/**"
		if role == "everything" {
			on, verbs = `"**"`, verbs[:4]
		}
		text += fmt.Sprintf("  %s:\n    is: [token:%s]\n    may: {", role, role)
		for i, v := range verbs {
			text += strings.Repeat(", ", min(i, 1)) + v + ": [" + on + "]"
		}
		text += "}\n"
	}
	return may, tokens, p.access(text)
}

// walk calls every method that a server has, in each role, and returns what was answered otherwise than it should be: of a server
// for all, or of one with a control listener, on that and on the one for apps.
func walk(t *testing.T, table auth.Table, withControl bool) (faults []string) {
	t.Helper()
	may, tokens, access := roles(t)
	ledger, err := store.Open(t.Context(), memengine.New(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	control := listenUnix(t)
	r := newRig(t, func(c *Config) {
		c.Listeners, c.Methods, c.Gate = []net.Listener{listenUnix(t)}, table, behind(access)
		if withControl {
			c.Control = []net.Listener{control}
		}
	}, service.New(service.Config{Ledger: ledger, BackupDir: t.TempDir(), Access: behind(access).Get}))
	t.Cleanup(func() { _ = ledger.Close() })
	conns := map[*grpc.Server]*grpc.ClientConn{r.apps: r.conn}
	if withControl {
		conns[r.control] = dial(t, control)
	}
	methods := 0
	for server, conn := range conns {
		for name, info := range r.servers()[len(r.servers())-1].GetServiceInfo() {
			for _, m := range info.Methods {
				methods++
				here := !withControl || server == r.control || !strings.HasSuffix(name, "InspectService") && !strings.HasSuffix(name, "AdminService")
				want := asks()[strings.TrimPrefix(name, ourPrefix)+"/"+m.Name]
				for role, verbs := range may {
					ctx := t.Context()
					if tokens[role] != "" {
						ctx = bearing(ctx, tokens[role])
					}
					got := verdict(askEmpty(ctx, conn, "/"+name+"/"+m.Name, m))
					should := "admitted"
					if !here {
						should = "elsewhere"
					} else if want != "" && !slices.Contains(verbs, want) {
						should = "denied"
					}
					if got != should {
						faults = append(faults, fmt.Sprintf("%q calls %s/%s: %s, want %s", role, name, m.Name, got, should))
					}
				}
			}
		}
	}
	if methods < 20*len(conns) {
		t.Errorf("only %d methods were found", methods)
	}
	return faults
}

// askEmpty makes one call with an empty request, and returns how it ended, or nil once it is answered.
func askEmpty(ctx context.Context, conn *grpc.ClientConn, method string, m grpc.MethodInfo) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: m.IsClientStream, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return stream.RecvMsg(&emptypb.Empty{})
}

func verdict(err error) string {
	text := status.Convert(err).Message()
	switch code := status.Code(err); {
	case code == codes.PermissionDenied && strings.Contains(text, "may not call") && reasonOf(err) == service.ReasonPermissionDenied:
		return "denied"
	case code == codes.Unimplemented && strings.Contains(text, "control listener"):
		return "elsewhere"
	case code == codes.Unauthenticated, code == codes.PermissionDenied && strings.Contains(text, "may not call"), code == codes.Unimplemented, code == codes.Unavailable:
		return err.Error()
	}
	return "admitted"
}

// TestWhoMayCallWhat is every role against every method, over the wire: S1 of the threats.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	for _, control := range []bool{false, true} {
		for _, fault := range walk(t, auth.Methods(), control) {
			t.Error(fault)
		}
	}
	slip := auth.Methods()
	slip["/quotad.v1.AdminService/ResetUsage"] = auth.Rule{Verb: auth.Inspect}
	if faults := walk(t, slip, false); !slices.ContainsFunc(faults, func(s string) bool { return strings.Contains(s, "ResetUsage: admitted") }) {
		t.Errorf("control: a method that was put in the wrong row was not found: %q", faults)
	}
}

// TestTokens: what is taken for a token, by which ways, and that it stays where it is.
func TestTokens(t *testing.T) {
	t.Parallel()
	access, token := testPolicy(t, "    may: {acquire: [acme/**]}\n")
	canary := strings.TrimPrefix(token, "quotad_")[4:20]
	l := listenUnix(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gate := behind(access)
	r := newRig(t, func(c *Config) { c.Listeners, c.Gate = []net.Listener{l, tcp}, gate })
	var who *auth.Caller
	r.fake.acquire = func(ctx context.Context) (*quotadv1.AcquireResponse, error) {
		who = auth.CallerOf(ctx)
		return &quotadv1.AcquireResponse{}, nil
	}
	clear := quotadv1.NewQuotaServiceClient(dial(t, tcp))
	other := newPrincipals(t).token("other")
	for _, test := range []struct {
		values []string
		tcp    bool
		code   codes.Code
		text   string
	}{
		{values: []string{"Bearer " + token}},
		{values: []string{"bearer " + token}},
		{values: []string{"BEARER " + token}},
		{values: []string{"Bearer " + other}, code: codes.Unauthenticated, text: "unknown, revoked or expired"},
		{values: []string{"Bearer " + token + "x"}, code: codes.Unauthenticated, text: "unknown, revoked or expired"},
		{values: []string{"Bearer  " + token}, code: codes.Unauthenticated, text: "unknown, revoked or expired"},
		{values: []string{"Bearer "}, code: codes.Unauthenticated, text: "one value"},
		{values: []string{token}, code: codes.Unauthenticated, text: "one value"},
		{values: []string{"Basic " + token}, code: codes.Unauthenticated, text: "one value"},
		{values: []string{"Bearer " + token, "Bearer " + token}, code: codes.Unauthenticated, text: "one value"},
		{values: []string{"Bearer " + strings.Repeat(token, 100)}, code: codes.Unauthenticated, text: "one value"},
		{values: []string{"Bearer " + token}, tcp: true, code: codes.Unauthenticated, text: "over TLS or unix sockets alone"},
		{code: codes.PermissionDenied, text: "who is no principal of the policy"},
		{tcp: true, code: codes.PermissionDenied, text: "loopback, who is no principal of the policy"},
	} {
		ctx := t.Context()
		for _, v := range test.values {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
		}
		to := r.quota
		if test.tcp {
			to = clear
		}
		who = nil
		_, err := to.Acquire(ctx, &quotadv1.AcquireRequest{})
		name := strings.ReplaceAll(fmt.Sprint(test.values), token, "TOKEN")
		if status.Code(err) != test.code || err != nil && !strings.Contains(err.Error(), test.text) || err != nil && reasonOf(err) == "" {
			t.Errorf("%.200s: %v, want %v %q", name, err, test.code, test.text)
		}
		if err == nil && (who == nil || who.Principal.Name != "chat" || !slices.Equal(who.Identities, []auth.Identity{"token:chat"})) {
			t.Errorf("%.200s: the handler was told that %v is calling", name, who)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("an error has the token in it: %v", err)
		}
	}
	leaked(t, r, canary)
	if !strings.Contains(r.log.String(), `principal="chat (token:chat)"`) {
		t.Errorf("the log does not say who called:\n%s", r.log)
	}
	// Without a policy everybody is local, and nobody's token is looked at.
	gate.Set(auth.OpenAccess())
	if _, err := clear.Acquire(bearing(t.Context(), "nonsense"), &quotadv1.AcquireRequest{}); err != nil || who.Principal != auth.Local() {
		t.Errorf("without a policy: %v, as %v", err, who)
	}
}

// leaked looks for a secret where none may be.
func leaked(t *testing.T, r *rig, canary string) {
	t.Helper()
	if strings.Contains(r.log.String(), canary) {
		t.Errorf("the log has the token in it:\n%s", r.log)
	}
	for name := range counts(t, r.metrics) {
		if strings.Contains(name, canary) {
			t.Errorf("a metric has the token in it: %s", name)
		}
	}
}

// TestTokenExpires: a token ends at its time, also for a connection that used it before.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	p := newPrincipals(t)
	text := p.token("chat")
	end := time.Now().Add(time.Hour)
	entry := p.tokens["chat"]
	entry.Expires = end
	p.tokens["chat"] = entry
	g, _ := newTestGuard(t, Config{Gate: behind(p.access("principals:\n  chat:\n    is: [token:chat]\n    may: {acquire: [\"**\"]}\n"))})
	by := &shown{private: true}
	ctx := metadata.NewIncomingContext(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: by}), metadata.Pairs("authorization", "Bearer "+text))
	now := end.Add(-time.Nanosecond)
	g.now = func() time.Time { return now }
	if _, err := g.admit(ctx, quotadv1.QuotaService_Acquire_FullMethodName); err != nil {
		t.Errorf("before its end: %v", err)
	}
	now = end
	if _, err := g.admit(ctx, quotadv1.QuotaService_Acquire_FullMethodName); status.Code(err) != codes.Unauthenticated {
		t.Errorf("at its end: %v", err)
	}
}

// newTestGuard returns a guard alone, and what it logs.
func newTestGuard(t *testing.T, c Config) (*guard, *logbook) {
	t.Helper()
	log := &logbook{}
	c.Metrics, c.Now = metrics.New(metrics.Build{}), time.Now
	if c.Methods == nil {
		c.Methods = auth.Methods()
	}
	return newGuard(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), c, nil, &loads{}), log
}

// TestNothingShown: who shows nothing is asked to, and may do what asks nothing.
func TestNothingShown(t *testing.T) {
	t.Parallel()
	access, _ := testPolicy(t, "    may: {acquire: [acme/**]}\n")
	g, _ := newTestGuard(t, Config{Gate: behind(access)})
	for _, ctx := range []context.Context{t.Context(), peer.NewContext(t.Context(), &peer.Peer{AuthInfo: &shown{private: true}})} {
		_, err := g.admit(ctx, quotadv1.QuotaService_Acquire_FullMethodName)
		if status.Code(err) != codes.Unauthenticated || reasonOf(err) != "UNAUTHENTICATED" {
			t.Errorf("an acquire by nobody: %v", err)
		}
		if _, err := g.admit(ctx, quotadv1.InspectService_WhoAmI_FullMethodName); err != nil {
			t.Errorf("asking who one is: %v", err)
		}
	}
}

// TestHotPolicy: a new policy decides from the next call on, and leaves alone what is under way.
func TestHotPolicy(t *testing.T) {
	t.Parallel()
	p := newPrincipals(t)
	token := p.token("chat")
	policy := "principals:\n  chat:\n    is: [token:chat]\n    may: {%s: [acme/**]}\n"
	yes, no := p.access(fmt.Sprintf(policy, "acquire")), p.access(fmt.Sprintf(policy, "inspect"))
	gate := behind(yes)
	r := newRig(t, func(c *Config) { c.Listeners, c.Gate = []net.Listener{listenUnix(t)}, gate })
	began, end := make(chan struct{}), make(chan struct{})
	r.fake.acquire = func(context.Context) (*quotadv1.AcquireResponse, error) {
		close(began)
		<-end
		return &quotadv1.AcquireResponse{}, nil
	}
	ctx := bearing(t.Context(), token)
	answered := make(chan error, 1)
	go func() { answered <- r.call(ctx) }()
	<-began
	gate.Set(no)
	if err := r.call(ctx); status.Code(err) != codes.PermissionDenied {
		t.Errorf("under the new policy: %v", err)
	}
	close(end)
	if err := <-answered; err != nil {
		t.Errorf("a call that was under way: %v", err)
	}
	r.fake.acquire = func(context.Context) (*quotadv1.AcquireResponse, error) { return &quotadv1.AcquireResponse{}, nil }
	gate.Set(yes)
	if err := r.call(ctx); err != nil {
		t.Errorf("under the policy of before: %v", err)
	}
	// Many callers, while it changes to and fro: each is answered by one or the other.
	var calling sync.WaitGroup
	for range 4 {
		calling.Go(func() {
			for range 100 {
				if err := r.call(ctx); err != nil && status.Code(err) != codes.PermissionDenied {
					t.Errorf("while policies change: %v", err)
				}
			}
		})
	}
	for i := range 200 {
		gate.Set([]*auth.Access{no, yes}[i%2])
	}
	calling.Wait()
	if load := r.guards[r.apps].loads.of("chat"); load.calls.Load() != 0 {
		t.Errorf("%d calls are counted that have ended", load.calls.Load())
	}
}

// TestInFlight: a principal that has as much under way as it may is refused more, on all its connections, and others are not.
func TestInFlight(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{0, 3} { // 0, the control: without the limit nobody is refused
		p := newPrincipals(t)
		greedy, modest := p.token("greedy"), p.token("modest")
		text := "principals:\n  greedy:\n    is: [token:greedy]\n    may: {acquire: [a/**], inspect: [a/**]}\n"
		if limit > 0 {
			text += fmt.Sprintf("    in_flight: %d\n", limit)
		}
		text += "  modest:\n    is: [token:modest]\n    may: {acquire: [a/**], inspect: [a/**]}\n"
		r := newRig(t, func(c *Config) { c.Listeners, c.Gate = []net.Listener{listenUnix(t)}, behind(p.access(text)) })
		began, end := make(chan struct{}, 100), make(chan struct{})
		r.fake.acquire = func(ctx context.Context) (*quotadv1.AcquireResponse, error) {
			if who, _ := auth.FromContext(ctx); who.Name == "greedy" {
				began <- struct{}{}
				<-end
			}
			return &quotadv1.AcquireResponse{}, nil
		}
		conns := []quotadv1.QuotaServiceClient{r.quota, quotadv1.NewQuotaServiceClient(r.dial())}
		var calling sync.WaitGroup
		for i := range 3 {
			calling.Go(func() {
				if _, err := conns[i%2].Acquire(bearing(t.Context(), greedy), &quotadv1.AcquireRequest{}); err != nil {
					t.Errorf("a call within the limit: %v", err)
				}
			})
			<-began
		}
		fourth := make(chan error, 1)
		go func() { fourth <- r.call(bearing(t.Context(), greedy)) }()
		if limit == 0 {
			<-began
			close(end)
			if err := <-fourth; err != nil {
				t.Errorf("control: a fourth call where there is no limit: %v", err)
			}
		} else {
			if err := <-fourth; status.Code(err) != codes.Unavailable || reasonOf(err) != service.ReasonOverloaded || !strings.Contains(err.Error(), "greedy (token:greedy) has 3 calls under way") {
				t.Errorf("a fourth call: %v", err)
			}
			if err := r.call(bearing(t.Context(), modest)); err != nil {
				t.Errorf("another principal: %v", err)
			}
			close(end)
		}
		calling.Wait()
		if err := r.call(bearing(t.Context(), greedy)); err != nil {
			t.Errorf("once calls have ended: %v", err)
		}
	}
}

// TestStreamsOfOne: one principal has some of the streams, and leaves the others to others.
func TestStreamsOfOne(t *testing.T) {
	t.Parallel()
	p := newPrincipals(t)
	greedy, modest := p.token("greedy"), p.token("modest")
	text := "principals:\n"
	for _, name := range []string{"greedy", "modest"} {
		text += fmt.Sprintf("  %s:\n    is: [token:%s]\n    may: {inspect: [a/**]}\n", name, name)
	}
	r := newRig(t, func(c *Config) { c.Listeners, c.Gate = []net.Listener{listenUnix(t)}, behind(p.access(text)) })
	began := make(chan struct{}, StreamsMax)
	r.fake.watch = func(ctx context.Context) error { began <- struct{}{}; <-ctx.Done(); return ctx.Err() }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(token string) error {
		stream, err := r.inspect.WatchUsage(bearing(ctx, token), &quotadv1.WatchUsageRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	for range StreamsPrincipalMax {
		go func() { _ = open(greedy) }()
		<-began
	}
	if err := open(greedy); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "has 16 streams open") {
		t.Errorf("one stream more: %v", err)
	}
	go func() { _ = open(modest) }()
	<-began
}

// TestHealthWatchesOfOne: one principal, or all who are nobody, have some of the health watches, and leave the others to others.
func TestHealthWatchesOfOne(t *testing.T) {
	t.Parallel()
	p := newPrincipals(t)
	modest := p.token("modest")
	text := "principals:\n  modest:\n    is: [token:modest]\n    may: {inspect: [a/**]}\n"
	r := newRig(t, func(c *Config) { c.Listeners, c.Gate = []net.Listener{listenUnix(t)}, behind(p.access(text)) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	var conns []*grpc.ClientConn
	for range HealthWatchesPrincipalMax/CallsMax + 1 {
		conns = append(conns, r.dial())
	}
	for i := range HealthWatchesPrincipalMax {
		if err := watch(ctx, conns[i/CallsMax]); err != nil {
			t.Fatalf("watch %d: %v", i+1, err)
		}
	}
	last := conns[len(conns)-1]
	if err := watch(ctx, last); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "has 256 streams open") {
		t.Errorf("one watch more: %v", err)
	}
	if err := watch(bearing(ctx, modest), last); err != nil {
		t.Errorf("another principal: %v", err)
	}
}

// TestLogLines: whatever callers put into names, one record of the log is one line, and no terminal is painted by it.
func TestLogLines(t *testing.T) {
	t.Parallel()
	const evil = "a\nlevel=ERROR msg=forged\r\n\x1b[31mred\u2028\u0085\x00{\"level\":\"ERROR\"}"
	access, _ := testPolicy(t, "    may: {acquire: [acme/**]}\n")
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		options := &slog.HandlerOptions{Level: slog.LevelDebug}
		var handler slog.Handler = slog.NewTextHandler(&out, options)
		if format == "json" {
			handler = slog.NewJSONHandler(&out, options)
		}
		g, _ := newTestGuard(t, Config{Gate: behind(access)})
		g.log = slog.New(handler)
		call := func(ctx context.Context, method string, h grpc.UnaryHandler) {
			_, _ = g.unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, h)
		}
		known := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: &shown{ids: []auth.Identity{"uid:7"}}})
		call(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: &shown{ids: []auth.Identity{evil}}}), quotadv1.QuotaService_Acquire_FullMethodName, nil)
		call(known, "/"+evil, nil)
		call(known, quotadv1.QuotaService_Acquire_FullMethodName, func(context.Context, any) (any, error) {
			return nil, status.Errorf(codes.InvalidArgument, "bucket: %s", evil)
		})
		call(known, quotadv1.QuotaService_Acquire_FullMethodName, func(context.Context, any) (any, error) { panic(evil) })
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 5 { // the panic has two
			t.Errorf("%s: %d lines for 5 records:\n%s", format, len(lines), &out)
		}
		for _, line := range lines {
			if format == "json" && !json.Valid([]byte(line)) || format == "text" && !strings.HasPrefix(line, "time=") {
				t.Errorf("%s: a line that is no record: %s", format, line)
			}
		}
		if strings.ContainsAny(out.String(), "\r\x1b\x00") {
			t.Errorf("%s: a control character is in %q", format, &out)
		}
	}
}
