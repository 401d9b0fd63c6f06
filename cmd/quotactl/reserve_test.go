package main

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// TestEachIsSentAgain loses the first two answers to requests that were carried out: none of them is carried out twice.
func TestEachIsSentAgain(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	gone := status.Error(codes.Unavailable, "the connection broke")
	for _, test := range []struct {
		args []string
		want string
		held string // of the bucket, after it
	}{
		{[]string{"acquire", "b", "--hold", "1h", "--id", "one"}, "held before under id one; nothing more was held; ", "1"},
		{[]string{"extend", "one", "calls=4"}, "extended before under extension id ", "5"},
		{[]string{"settle", "one", "calls=3"}, "settled before, id one; nothing was changed\n", "0"},
		{[]string{"acquire", "b", "--hold", "1h", "--id", "two"}, "held before under id two; nothing more was held; ", "1"},
		{[]string{"release", "two"}, "released before, id two; nothing was changed\n", "0"},
	} {
		proxy, server := newLossy(t, l.server, func(n int32) error {
			if n <= 2 {
				return gone
			}
			return nil
		})
		out, errs, code := ctl(t, server, test.args...)
		if code != 0 || !strings.HasPrefix(out, test.want) {
			t.Errorf("%q: exit %d, %s%s", test.args, code, out, errs)
		}
		if n := proxy.n.Load(); n != 3 {
			t.Errorf("%q was sent %d times, want 3", test.args, n)
		}
		if out, _, _ := ctl(t, l.server, "list", "-o", "json"); !strings.Contains(out, `"held": "`+test.held+`"`) {
			t.Errorf("after %q %s is not what is held:\n%s", test.args, test.held, out)
		}
	}
}

// TestPerhaps never answers: the caller is told what is not known, and how to learn it. Without an id nothing is sent twice.
func TestPerhaps(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	if _, errs, code := ctl(t, l.server, "acquire", "b", "--hold", "1h", "--id", "one"); code != 0 {
		t.Fatal(errs)
	}
	for _, test := range []struct {
		args []string
		once bool
		want string
	}{
		{[]string{"acquire", "b", "--hold", "1h"}, false, `whether it was held is not known here: the same command with --id \S+ holds at most once, and tells\n$`},
		{[]string{"extend", "one", "--hold", "2h"}, false, `whether it was extended is not known here: the same command with --extend-id \S+ extends at most once, and tells\n$`},
		{[]string{"extend", "one", "--hold", "2h", "--extend-id", "x"}, false, `the same command may be run again, it extends at most once and tells\n$`},
		{[]string{"extend", "one", "--hold", "3h", "--extend-id", ""}, true, `whether it was extended is not known, and without an extension id there is no way to ask\n$`},
		{[]string{"settle", "one"}, false, `whether it was settled is not known here: the same command may be run again, it settles at most once and tells\n$`},
		{[]string{"release", "one"}, false, `whether it was released is not known here: the same command may be run again, it releases at most once and tells\n$`},
	} {
		proxy, server := newLossy(t, l.server, func(int32) error { return status.Error(codes.Unavailable, "the connection broke") })
		_, errs, code := ctl(t, server, append(test.args, "--timeout", "250ms")...)
		if code != exitError || !regexp.MustCompile(test.want).MatchString(errs) {
			t.Errorf("%q: exit %d, %s", test.args, code, errs)
		}
		if n := proxy.n.Load(); (n == 1) != test.once {
			t.Errorf("%q was sent %d times", test.args, n)
		}
	}
}

// TestInterrupted presses Ctrl-C while a daemon takes its time.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"acquire", "b", "--hold", "1h"}, `^quotactl: error: interrupted\nquotactl: hint: whether it was held is not known here: the same command with --id \S+ holds at most once, and tells\n$`},
		{[]string{"settle", "one"}, `^quotactl: error: interrupted\nquotactl: hint: whether it was settled .* run again, it settles at most once and tells\n$`},
		{[]string{"release", "one"}, `^quotactl: error: interrupted\nquotactl: hint: whether it was released .* run again, it releases at most once and tells\n$`},
		{[]string{"extend", "one", "--hold", "1h", "--extend-id", ""}, `^quotactl: error: interrupted\nquotactl: hint: .* without an extension id there is no way to ask\n$`},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		slow := &slowly{arrived: interrupt}
		server := serve(t, func(s *grpc.Server) { quotadv1.RegisterQuotaServiceServer(s, slow) })
		var errs bytes.Buffer
		code := run(ctx, append(test.args, "--server", server), env{
			stdin: strings.NewReader(""), stdout: new(bytes.Buffer), stderr: &errs, now: time.Now,
			getenv: func(string) string { return "" }, isTerminal: func(int) bool { return false },
		})
		interrupt()
		if code != exitError || !regexp.MustCompile(test.want).MatchString(errs.String()) {
			t.Errorf("%q: exit %d, %s", test.args, code, &errs)
		}
	}
}

// slowly never answers, and tells when it has been asked.
type slowly struct {
	quotadv1.UnimplementedQuotaServiceServer
	arrived func()
}

func (s *slowly) wait(ctx context.Context) error {
	s.arrived()
	<-ctx.Done()
	return ctx.Err()
}

func (s *slowly) Acquire(ctx context.Context, _ *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	return nil, s.wait(ctx)
}

func (s *slowly) Settle(ctx context.Context, _ *quotadv1.SettleRequest) (*quotadv1.SettleResponse, error) {
	return nil, s.wait(ctx)
}

func (s *slowly) Release(ctx context.Context, _ *quotadv1.ReleaseRequest) (*quotadv1.ReleaseResponse, error) {
	return nil, s.wait(ctx)
}

func (s *slowly) Extend(ctx context.Context, _ *quotadv1.ExtendRequest) (*quotadv1.ExtendResponse, error) {
	return nil, s.wait(ctx)
}

// serve serves services on a socket of its own, and returns its address.
func serve(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	return "unix://" + path
}

// pages lists reservations as a daemon may: pages that are empty or short, and are not the last.
type pages struct {
	quotadv1.UnimplementedInspectServiceServer
	sizes []int
	asked []int32
}

func (p *pages) ListReservations(_ context.Context, req *quotadv1.ListReservationsRequest) (*quotadv1.ListReservationsResponse, error) {
	p.asked = append(p.asked, req.GetPageSize())
	at := 0
	if token := req.GetPageToken(); token != "" {
		var err error
		if at, err = strconv.Atoi(token); err != nil {
			return nil, err
		}
	}
	resp := &quotadv1.ListReservationsResponse{}
	for range min(p.sizes[at], int(req.GetPageSize())) {
		resp.Reservations = append(resp.Reservations, &quotadv1.Reservation{RequestId: "r", State: req.GetState()})
	}
	if at+1 < len(p.sizes) {
		resp.NextPageToken = strconv.Itoa(at + 1)
	}
	return resp, nil
}

func TestReservationPages(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		limit string
		rows  int
		asked []int32
		more  bool
	}{
		{"100", 9, []int32{100, 100, 98, 98, 95}, false},
		{"5", 5, []int32{5, 5, 3, 3}, true},
		{"2147483647", 9, []int32{1000, 1000, 1000, 1000, 1000}, false},
	} {
		p := &pages{sizes: []int{0, 2, 0, 3, 4}}
		server := serve(t, func(s *grpc.Server) { quotadv1.RegisterInspectServiceServer(s, p) })
		out, errs, code := ctl(t, server, "reservations", "--limit", test.limit)
		if rows := strings.Count(out, "\nr  "); code != 0 || rows != test.rows {
			t.Errorf("--limit %s: exit %d, %d rows, want %d: %s%s", test.limit, code, rows, test.rows, out, errs)
		}
		if diff := cmp.Diff(test.asked, p.asked); diff != "" {
			t.Errorf("--limit %s: pages asked for, -want +got:\n%s", test.limit, diff)
		}
		if more := strings.Contains(errs, "there may be more"); more != test.more {
			t.Errorf("--limit %s: tells of more: %v", test.limit, more)
		}
	}
}

// TestUnkindIDs has ids that no shell can pass on, and some that it can.
func TestUnkindIDs(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	for id, want := range map[string]string{
		"a\x00b":                 "request_id: has the byte 0x00; a request id is 1 to 128 bytes of printable ASCII",
		"a\nb":                   "request_id: has the byte 0x0a; ",
		"\x1b[31m":               "request_id: has the byte 0x1b; ",
		"a\xffb":                 "a text in the request is not UTF-8, so that it was not sent",
		"é":                      "request_id: has the byte 0xc3; ",
		strings.Repeat("x", 129): "request_id: has 129 bytes; ",
		strings.Repeat("x", 1e6): "request_id: has 1000000 bytes; ",
		"%s%d%n":                 `you have no acquire under "%s%d%n"`,
		"../../etc/passwd":       `you have no acquire under "../../etc/passwd"`,
		"auto":                   `you have no acquire under "auto"`,
		"*":                      `you have no acquire under "*"`,
		`"`:                      `you have no acquire under "\""`,
		strings.Repeat("-", 128): "you have no acquire under ",
	} {
		for _, command := range [][]string{{"settle"}, {"release"}, {"extend", "--hold", "1h"}} {
			_, errs, code := ask(t, append(command, "--server", l.server, "--", id)...)
			if code != exitError || !strings.Contains(errs, want) || strings.Contains(errs, "not known here") {
				t.Errorf("%s %.40q: exit %d, %.300s", command[0], id, code, errs)
			}
			if strings.ContainsAny(errs, "\x00\x1b") {
				t.Errorf("%s %.40q: prints what a terminal obeys: %.300q", command[0], id, errs)
			}
		}
	}
}

func TestShellWord(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"order-1": "order-1", "a b": "'a b'", "": "''", "-x": "-- -x", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "~": "'~'", "a/b@c:d=e": "a/b@c:d=e",
	} {
		if got := shellWord(s); got != want {
			t.Errorf("shellWord(%q) = %s, want %s", s, got, want)
		}
	}
}

// readByShell returns what a shell makes of words.
func readByShell(words []string) (string, error) {
	out, err := exec.Command("sh", "-c", "printf '%s\\n' "+strings.Join(words, " ")).Output()
	return string(out), err
}

// TestShellWordIsWhatAShellReads has a shell read ids of any printable bytes, many at a time. The control puts each between two
// quotes and thinks no further.
func TestShellWordIsWhatAShellReads(t *testing.T) {
	t.Parallel()
	ids := []string{"it's"} // which the control is bound to get wrong
	rapid.Check(t, func(t *rapid.T) { ids = append(ids, rapid.StringMatching(`[!-~]{1,20}`).Draw(t, "id")) })
	var words, control []string
	for _, id := range ids {
		words = append(words, strings.TrimPrefix(shellWord(id), "-- "))
		control = append(control, "'"+id+"'")
	}
	want := strings.Join(ids, "\n") + "\n"
	out, err := readByShell(words)
	if diff := cmp.Diff(want, out); err != nil || diff != "" {
		t.Errorf("error %v, -want +got:\n%s", err, diff)
	}
	if out, err := readByShell(control); err == nil && out == want {
		t.Error("control: quotes alone are read as they should be")
	}
}
