package client_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
)

// socketTo makes a unix socket that leads to an address, until the test ends.
func socketTo(t *testing.T, address string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quotad.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var piping sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		piping.Wait()
	})
	piping.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				near.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				piping.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
				})
			}
		}
	})
	return path
}

// acquireAt dials and asks once.
func acquireAt(t *testing.T, target string, opts ...client.Option) {
	t.Helper()
	c, err := client.Dial(target, opts...)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := c.Acquire(t.Context(), "b"); err != nil {
		t.Errorf("%s: %v", target, err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("%s: %v", target, err)
	}
}

func TestDial(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("b")
	address := q.Listen()
	socket := socketTo(t, address)
	_, port, _ := net.SplitHostPort(address)
	targets := []string{address, "localhost:" + port, "dns:///" + address, "passthrough:///" + address, "unix://" + socket, "unix:" + socket}
	for _, target := range targets {
		acquireAt(t, target)
	}
	if n := q.Used("b", ""); n != int64(len(targets)) {
		t.Errorf("%d used, want %d", n, len(targets))
	}
}

// The environment names the quotad where the program does not.
func TestDialEnvironment(t *testing.T) {
	q := quotatest.New(t)
	q.Declare("b")
	t.Setenv("QUOTAD_SERVER", q.Listen())
	acquireAt(t, "")
	if n := q.Used("b", ""); n != 1 {
		t.Errorf("%d used, want 1", n)
	}
	t.Setenv("QUOTAD_SERVER", "quotad.example.com:7070")
	if _, err := client.Dial(""); err == nil || !strings.Contains(err.Error(), "quotad.example.com:7070 is not on this machine") {
		t.Error(err)
	}
	acquireAt(t, q.Listen())
}

// Dial does not wait for quotad, and a bad target is told when it is dialled and not when it is used.
func TestDialBeforeQuotad(t *testing.T) {
	t.Parallel()
	c, err := client.Dial("unix://"+filepath.Join(t.TempDir(), "none.sock"), client.WithTries(2, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Acquire(t.Context(), "b"); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	if s := c.Stats(); s.Pending != 0 {
		t.Errorf("%+v: something is to be given back that was never sent", s)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// What is not on this machine is not spoken to in the clear, unless that is asked for.
func TestDialElsewhere(t *testing.T) {
	t.Parallel()
	for _, target := range []string{
		"10.0.0.1:7070", "quotad.internal:7070", "quotad.internal", "dns:///quotad.internal:7070", "dns://10.0.0.1/localhost:7070",
		"passthrough:///10.0.0.1:7070", "[2001:db8::1]:7070", "0.0.0.0:7070", "[::]:7070", "localhost.example.com:7070", "127.0.0.1.example.com:7070",
		"unix.example.com:7070", ":7070", "xds:///localhost:7070",
	} {
		c, err := client.Dial(target)
		if err == nil || !strings.Contains(err.Error(), "dialling quotad: "+target+" is not on this machine") || !strings.Contains(err.Error(), "WithTransportCredentials") {
			t.Errorf("%s: %v", target, err)
		}
		if err == nil {
			c.Close()
		}
	}
	for _, target := range []string{"127.0.0.1:7070", "127.8.9.10:7070", "[::1]:7070", "localhost:7070", "localhost", "dns:///localhost:7070", "unix:///run/quotad.sock", "unix-abstract:quotad"} {
		c, err := client.Dial(target)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		c.Close()
	}
	c, err := client.Dial("10.0.0.1:7070", client.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []struct {
		opt  client.Option
		want string
	}{
		{client.WithTimeout(0), "WithTimeout: 0s; want 1ms to 1m"},
		{client.WithTimeout(2 * time.Minute), "WithTimeout: 2m0s; want 1ms to 1m"},
		{client.WithTries(0, time.Second), "WithTries: 0 tries; want 1 to 20"},
		{client.WithTries(21, time.Second), "WithTries: 21 tries; want 1 to 20"},
		{client.WithTries(1, 0), "WithTries: a backoff of 0s; want 1ms to 1s"},
		{client.WithTries(1, time.Minute), "WithTries: a backoff of 1m0s; want 1ms to 1s"},
		{client.WithFailOpen(client.FailOpen{}), "WithFailOpen: PerMinute is 0; want at least 1"},
		{client.WithJournal(""), "WithJournal: the path is empty"},
		{client.WithOnLost(nil), "WithOnLost: the function is nil"},
		{client.WithClock(nil), "WithClock: the clock is nil"},
	} {
		for name, open := range map[string]func(client.Option) (*client.Client, error){
			"Dial": func(o client.Option) (*client.Client, error) { return client.Dial("", o) },
			"New":  func(o client.Option) (*client.Client, error) { return client.New(nobody{}, o) },
		} {
			if c, err := open(o.opt); c != nil || err == nil || !strings.Contains(err.Error(), o.want) {
				t.Errorf("%s: %v, want %q", name, err, o.want)
			}
		}
	}
	journal := filepath.Join(t.TempDir(), "none", "journal")
	if c, err := client.Dial("", client.WithJournal(journal)); c != nil || err == nil || !strings.Contains(err.Error(), journal) {
		t.Errorf("a journal that cannot be made: %v", err)
	}
}

// New leaves the connection to whoever made it.
func TestNew(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("b")
	for range 2 {
		c, err := client.New(q.Conn())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Acquire(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Options about the connection reach gRPC, and the last word on tries is the client's.
func TestDialOptions(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("b")
	calls := 0
	opt := client.WithDialOptions(grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		calls++
		return invoke(ctx, method, req, reply, cc, opts...)
	}))
	acquireAt(t, q.Listen(), opt)
	if calls != 1 {
		t.Errorf("%d calls went through the interceptor, want 1", calls)
	}
}
