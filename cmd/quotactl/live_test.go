package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// live is a real daemon with its data, for tests that have to do more than a script can.
type live struct {
	server, data string
	*daemon
}

func newLive(t *testing.T) *live {
	t.Helper()
	dir := t.TempDir()
	l := &live{server: "unix://" + filepath.Join(dir, "s"), data: filepath.Join(dir, "data")}
	l.start(t)
	t.Cleanup(func() { _ = l.end(syscall.SIGKILL) })
	return l
}

func (l *live) start(t *testing.T) {
	t.Helper()
	d, err := startDaemon(l.server, "--data", l.data, "--create", "--zone", noonZone(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	l.daemon = d
}

// ctl runs quotactl against a server, and returns what it printed.
func ctl(t *testing.T, server string, args ...string) (out, errs string, code int) {
	t.Helper()
	return ask(t, append(args, "--server", server)...)
}

// TestWatchComesBack kills the daemon under a watch.
func TestWatchComesBack(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	if _, errs, code := ctl(t, l.server, "acquire", "portfolio"); code != 0 {
		t.Fatal(errs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, stdout := io.Pipe()
	complaints, stderr := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"watch", "--interval", "100ms", "--server", l.server}, env{
			stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, now: time.Now,
			getenv: func(string) string { return "" }, isTerminal: func(int) bool { return false },
		})
		_ = stdout.Close()
		_ = stderr.Close()
	}()
	lines, words := bufio.NewScanner(out), bufio.NewScanner(complaints)
	next := func(s *bufio.Scanner, want string) {
		t.Helper()
		if !s.Scan() || !regexp.MustCompile(want).MatchString(s.Text()) {
			t.Fatalf("got %q, want %q", s.Text(), want)
		}
	}
	next(lines, `^\S+ portfolio calls/day \S+ used=1 held=0 limit=50 left=49 over=0$`)
	_ = l.end(syscall.SIGKILL)
	next(words, `^quotactl: lost quotad at unix://\S+; trying again in 200ms$`)
	go func() { _, _ = io.Copy(io.Discard, complaints) }()
	l.start(t)
	if _, errs, code := ctl(t, l.server, "acquire", "portfolio"); code != 0 {
		t.Fatal(errs)
	}
	next(lines, `used=2 held=0`) // and not the first line again
	cancel()
	go func() { _, _ = io.Copy(io.Discard, out) }()
	if code := <-ended; code != exitOK {
		t.Errorf("an interrupted watch exits with %d", code)
	}
}

// lossy stands between quotactl and quotad, and loses answers.
type lossy struct {
	quotadv1.UnimplementedQuotaServiceServer
	next quotadv1.QuotaServiceClient
	lose func(n int32) error // what the caller gets in place of the answer to the n-th request; nil: the answer
	n    atomic.Int32
}

func (l *lossy) Acquire(ctx context.Context, req *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	n := l.n.Add(1)
	resp, err := l.next.Acquire(ctx, req)
	if lost := l.lose(n); lost != nil {
		return nil, lost
	}
	return resp, err
}

func (l *lossy) Settle(ctx context.Context, req *quotadv1.SettleRequest) (*quotadv1.SettleResponse, error) {
	n := l.n.Add(1)
	resp, err := l.next.Settle(ctx, req)
	if lost := l.lose(n); lost != nil {
		return nil, lost
	}
	return resp, err
}

func (l *lossy) Release(ctx context.Context, req *quotadv1.ReleaseRequest) (*quotadv1.ReleaseResponse, error) {
	n := l.n.Add(1)
	resp, err := l.next.Release(ctx, req)
	if lost := l.lose(n); lost != nil {
		return nil, lost
	}
	return resp, err
}

func (l *lossy) Extend(ctx context.Context, req *quotadv1.ExtendRequest) (*quotadv1.ExtendResponse, error) {
	n := l.n.Add(1)
	resp, err := l.next.Extend(ctx, req)
	if lost := l.lose(n); lost != nil {
		return nil, lost
	}
	return resp, err
}

// newLossy puts a lossy server before a daemon, and returns its address.
func newLossy(t *testing.T, server string, lose func(n int32) error) (*lossy, string) {
	t.Helper()
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{next: quotadv1.NewQuotaServiceClient(conn), lose: lose}
	s := grpc.NewServer()
	quotadv1.RegisterQuotaServiceServer(s, l)
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(func() {
		s.Stop()
		_ = conn.Close()
	})
	return l, "unix://" + path
}

// TestAcquireChargesOnce loses the first two answers to an acquire that was carried out.
func TestAcquireChargesOnce(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	gone := status.Error(codes.Unavailable, "the connection broke")
	proxy, server := newLossy(t, l.server, func(n int32) error {
		if n <= 2 {
			return gone
		}
		return nil
	})
	out, errs, code := ctl(t, server, "acquire", "portfolio")
	if code != 0 || !strings.Contains(out, "granted before under id ") {
		t.Errorf("acquire: exit %d, %s%s", code, out, errs)
	}
	if n := proxy.n.Load(); n != 3 {
		t.Errorf("it was sent %d times, want 3", n)
	}
	if out, _, _ := ctl(t, l.server, "list", "-o", "json"); !strings.Contains(out, `"used": "1"`) {
		t.Errorf("three sendings were not charged once:\n%s", out)
	}
}

// TestAcquirePerhaps never answers. The caller is told how to learn what happened, and a denial is not sent again.
func TestAcquirePerhaps(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	_, server := newLossy(t, l.server, func(int32) error { return status.Error(codes.Unavailable, "the connection broke") })
	_, errs, code := ctl(t, server, "acquire", "portfolio", "--timeout", "250ms")
	id := regexp.MustCompile(`whether it was charged is not known here: the same command with --id (\S+) charges at most once`).FindStringSubmatch(errs)
	if code != exitError || id == nil {
		t.Fatalf("exit %d: %s", code, errs)
	}
	out, errs, code := ctl(t, l.server, "acquire", "portfolio", "--id", id[1])
	if code != 0 || !strings.Contains(out, "granted before under id "+id[1]) {
		t.Errorf("with the id: exit %d, %s%s", code, out, errs)
	}
	_, errs, code = ctl(t, server, "acquire", "portfolio", "--timeout", "250ms", "--id", "mine")
	if code != exitError || !strings.Contains(errs, "the same command may be run again") {
		t.Errorf("with an own id: exit %d, %s", code, errs)
	}
	_, errs, code = ctl(t, server, "acquire", "portfolio", "--timeout", "250ms", "--id", "")
	if code != exitError || !strings.Contains(errs, "without a request id there is no way to ask") {
		t.Errorf("without an id: exit %d, %s", code, errs)
	}

	proxy, server := newLossy(t, l.server, func(int32) error { return nil })
	if _, _, code := ctl(t, server, "acquire", "portfolio", "--ceiling", "0"); code != exitDenied || proxy.n.Load() != 1 {
		t.Errorf("a denial: exit %d, sent %d times", code, proxy.n.Load())
	}
}

// TestAcquireOutlivesARestart begins while no daemon is there.
func TestAcquireOutlivesARestart(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	if err := l.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		errs string
		code int
	}
	answered := make(chan answer)
	go func() {
		_, errs, code := ctl(t, l.server, "acquire", "portfolio", "--timeout", "15s")
		answered <- answer{errs, code}
	}()
	l.start(t)
	if got := <-answered; got.code != 0 {
		t.Errorf("exit %d: %s", got.code, got.errs)
	}
}
