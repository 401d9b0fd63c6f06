package client_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// What a proxy or gRPC itself answers after quotad has granted is no decision either: nobody makes the call, so that it is given back.
func TestGrantedUnderAnotherAnswer(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.Unknown, codes.Canceled, codes.ResourceExhausted, codes.Aborted, codes.Internal} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			l := &line{after: func(_ context.Context, method string) error {
				if method == "Acquire" {
					return status.Error(code, "by somebody on the way")
				}
				return nil
			}}
			q, c := on(t, []string{"5"}, l.option())
			if _, err := c.Reserve(t.Context(), "b"); status.Code(err) != code {
				t.Errorf("%v, want %s", err, code)
			}
			mustFlush(t, c)
			wantUsed(t, q, 0, 0)
		})
	}
}

// A try whose answer was lost may have been granted, whatever a later one is answered.
func TestGrantedBeforeARefusal(t *testing.T) {
	t.Parallel()
	tries := 0
	l := &line{
		before: func(_ context.Context, method string, _ any) error {
			if method == "Acquire" {
				if tries++; tries == 2 {
					return status.Error(codes.Unauthenticated, "the token has ended")
				}
			}
			return nil
		},
		after: func(ctx context.Context, method string) error {
			if method == "Acquire" {
				return unavailable(ctx, method)
			}
			return nil
		},
	}
	q, c := on(t, []string{"5"}, l.option(), client.WithTries(3, time.Millisecond))
	if _, err := c.Reserve(t.Context(), "b"); status.Code(err) != codes.Unauthenticated {
		t.Error(err)
	}
	mustFlush(t, c)
	wantUsed(t, q, 0, 0)
}

// unpeered is a connection that does not say whom it has reached, as those that are not gRPC's own.
type unpeered struct{ *grpc.ClientConn }

func (u unpeered) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	return errors.Join(u.ClientConn.Invoke(ctx, method, args, reply), lostIf(strings.HasSuffix(method, "Acquire")))
}

func lostIf(lost bool) error {
	if lost {
		return status.Error(codes.Unavailable, "lost")
	}
	return nil
}

func TestGrantedOverAnotherConnection(t *testing.T) {
	t.Parallel()
	q := quotatest.New(t)
	q.Declare("b", "5")
	c, err := client.New(unpeered{q.Conn()}, client.WithTries(2, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Reserve(t.Context(), "b"); err == nil {
		t.Error("reserved")
	}
	mustFlush(t, c)
	wantUsed(t, q, 0, 0)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// A request that cannot be sent is no quotad that cannot be reached: FailOpen lets nothing through for it.
func TestFailOpenRefusesWhatCannotBeSent(t *testing.T) {
	t.Parallel()
	_, c := on(t, []string{"0"}, client.WithFailOpen(client.FailOpen{PerMinute: 5}))
	for name, take := range map[string]client.Taking{"bucket": nil, "unit": client.Charge{Unit: "\xff"}, "id": client.WithRequestID("\xff")} {
		bucket := "b"
		if take == nil {
			bucket = "users/\xff"
		}
		_, err := c.Acquire(t.Context(), bucket, take)
		if _, unreachable := errors.AsType[*client.UnreachableError](err); err == nil || unreachable || status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", name, err)
		}
	}
	if _, err := c.Check(t.Context(), "\xff"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("check: %v", err)
	}
	if s := c.Stats(); s.Local != 0 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

// An id that is empty by a slip must not become another one at each sending.
func TestEmptyRequestID(t *testing.T) {
	t.Parallel()
	q, c := on(t, []string{"5"})
	for range 2 {
		if _, err := c.Acquire(t.Context(), "b", client.WithRequestID("")); status.Code(err) != codes.InvalidArgument {
			t.Errorf("acquire: %v", err)
		}
		if _, err := c.Reserve(t.Context(), "b", client.WithRequestID("")); status.Code(err) != codes.InvalidArgument {
			t.Errorf("reserve: %v", err)
		}
	}
	wantUsed(t, q, 0, 0)
}

// What may have been granted unknown to its caller must not take the room of settlements: there are as many of them as callers come
// while quotad hangs.
func TestSettlementsHaveRoom(t *testing.T) {
	t.Parallel()
	line := &hanging{}
	c, err := client.New(line, client.WithTries(1, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Reserve(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	line.hangs.Store(true)
	for range client.PendingMax {
		if _, err := c.Acquire(t.Context(), "b"); err == nil {
			t.Fatal("granted")
		}
	}
	if err := r.SettleSoon(); err != nil {
		t.Error(err)
	}
	if s := c.Stats(); s.Pending != client.PendingMax/2+1 || s.Lost != client.PendingMax/2 {
		t.Errorf("%+v: want half of the room left, and the settlement kept", s)
	}
	line.hangs.Store(false)
	mustFlush(t, c)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// hanging grants everything, or leaves everything open.
type hanging struct {
	grpc.ClientConnInterface

	hangs atomic.Bool
}

func (h *hanging) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return lostIf(h.hangs.Load())
}

// A client that is closed under a call says so.
func TestClosedUnderACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pipe := bufconn.Listen(64 << 10) // on which nobody says anything
		defer pipe.Close()
		dial := func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }
		c, err := client.Dial("passthrough:///localhost", client.WithTimeout(time.Minute), client.WithTries(1, time.Millisecond), client.WithDialOptions(grpc.WithContextDialer(dial)))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := c.Acquire(t.Context(), "b")
			ended <- err
		}()
		heard, err := pipe.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer heard.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, client.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	})
}

// A target in another notation is told as such, not as one that is far away.
func TestDialNotations(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"http://127.0.0.1:7070":  "want host:port or unix:///path",
		"https://quotad.example": "want host:port or unix:///path",
		"tcp://127.0.0.1:7070":   "want host:port or unix:///path",
		"/run/quotad.sock":       "unix:///run/quotad.sock",
	} {
		c, err := client.Dial(target)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", target, err, want)
		}
		if err == nil {
			c.Close()
		}
	}
}

// Two clients that come to one journal by a link that led nowhere at first must not both have it.
func TestJournalBehindADanglingLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "journal"), link); err != nil {
		t.Skip(err)
	}
	c, err := client.Dial("", client.WithJournal(link))
	if err == nil {
		c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "leads nowhere") {
		t.Errorf("%v", err)
	}
}

// swallowing is a connection whose packets are dropped from a moment on, without a word, as when a machine is gone.
type swallowing struct {
	net.Conn

	gone *atomic.Bool
}

func (s swallowing) Write(b []byte) (int, error) {
	if s.gone.Load() {
		return len(b), nil
	}
	return s.Conn.Write(b)
}

// A quotad that is gone without a word is found where it is now within half a minute of calls, and not when the system has given the
// connection up.
func TestConnectionThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Bool
		first := make(chan struct{}, 1)
		pipe := bufconn.Listen(64 << 10)
		server := grpc.NewServer()
		quotadv1.RegisterQuotaServiceServer(server, granting{})
		go func() { _ = server.Serve(pipe) }()
		defer server.Stop()
		first <- struct{}{} // the connection that is going to be gone
		dial := func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := pipe.DialContext(ctx)
			select {
			case <-first:
				return swallowing{conn, &gone}, err
			default:
				return conn, err
			}
		}
		c, err := client.Dial("passthrough:///localhost", client.WithTries(1, time.Millisecond), client.WithDialOptions(grpc.WithContextDialer(dial)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Acquire(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		gone.Store(true)
		start := time.Now()
		for _, err = c.Acquire(t.Context(), "b"); err != nil && time.Since(start) < time.Hour; {
			_, err = c.Acquire(t.Context(), "b")
		}
		if took := time.Since(start); err != nil || took > 30*time.Second {
			t.Errorf("answered after %s: %v", took, err)
		}
	})
}

// granting is a quotad that grants everything.
type granting struct {
	quotadv1.UnimplementedQuotaServiceServer
}

func (granting) Acquire(context.Context, *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	return &quotadv1.AcquireResponse{}, nil
}

func (granting) Release(context.Context, *quotadv1.ReleaseRequest) (*quotadv1.ReleaseResponse, error) {
	return &quotadv1.ReleaseResponse{}, nil
}
