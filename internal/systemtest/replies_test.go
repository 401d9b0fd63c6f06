package systemtest_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A proxy stands between clients and a daemon, and takes away one in ten of the daemon's replies, together with the connection
// that they were to go over: what was asked has been done, and nobody is told.
type proxy struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	chance   *rand.Rand
	cuts     atomic.Int64
}

func newProxy(t *testing.T, socket string, chance *rand.Rand) *proxy {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: socket, chance: chance}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return p
}

// carry joins one connection with the daemon until either side, or chance, ends it.
func (p *proxy) carry(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("unix", p.target)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	buf := make([]byte, 64<<10)
	for chunk := 0; ; chunk++ {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		// The first chunks are the greeting of HTTP/2, not replies.
		if chunk > 1 && p.drop() {
			p.cuts.Add(1)
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) drop() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.chance.IntN(10) == 0
}

// tries is what stubborn callers needed.
type tries struct{ sent, replayed atomic.Int64 }

// insist acquires n times, and sends each acquire until it is answered: by its id, or without one as if it were new.
func insist(t *testing.T, p *proxy, bucket string, n int, ids bool) *tries {
	t.Helper()
	const perConn = 4 // a cut takes the answers of all that share the connection
	var spent tries
	var next atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var wg sync.WaitGroup
	for range 16 {
		conn := dial(t, p.listener.Addr().String())
		for range perConn {
			wg.Go(func() {
				for i := next.Add(1); i <= int64(n) && ctx.Err() == nil; i = next.Add(1) {
					request := &quotadv1.AcquireRequest{Bucket: bucket}
					if ids {
						request.RequestId = fmt.Sprintf("insist-%06d", i)
					}
					if err := spent.untilAnswered(ctx, conn, request); err != nil {
						t.Errorf("acquire %d: %v", i, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	return &spent
}

func (s *tries) untilAnswered(ctx context.Context, conn *client, request *quotadv1.AcquireRequest) error {
	for {
		s.sent.Add(1)
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		response, err := conn.Acquire(try, request, grpc.WaitForReady(true))
		cancel()
		if response.GetReplayed() {
			s.replayed.Add(1)
		}
		if a := conclude(err); a == granted || a == denied || a == unlawful || ctx.Err() != nil {
			return err
		}
	}
}

// Replies are lost, callers insist, and every acquire is charged once.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	n := portion(10_000, 2000, 200_000)
	s := newSite(t)
	d := s.start()
	conn := d.dial(t)
	conn.declare(t, "insist", 1e12)
	p := newProxy(t, s.socket, seeded(t))
	spent := insist(t, p, "insist", n, true)
	t.Logf("%d acquires sent %d times over %d cuts; %d were known already", n, spent.sent.Load(), p.cuts.Load(), spent.replayed.Load())
	if used := conn.used(t, "insist")["insist"]; used != int64(n) {
		t.Errorf("%d acquires were charged %d times", n, used)
	}
	if spent.replayed.Load() < int64(n/100) {
		t.Errorf("%d of %d acquires had lost their reply: too few to prove anything", spent.replayed.Load(), n)
	}
}

// Control: without ids the same callers are charged for lost replies again, so the proxy does lose them.
func TestLostRepliesWithoutIDs(t *testing.T) {
	t.Parallel()
	const n = 1000
	s := newSite(t)
	d := s.start()
	conn := d.dial(t)
	conn.declare(t, "insist", 1e12)
	insist(t, newProxy(t, s.socket, seeded(t)), "insist", n, false)
	if used := conn.used(t, "insist")["insist"]; used <= n {
		t.Errorf("%d acquires without ids were charged %d times: no reply was lost", n, used)
	}
}
