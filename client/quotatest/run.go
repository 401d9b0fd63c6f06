package quotatest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/metrics"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/server"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
)

const (
	pipeBytes = 256 << 10 // what one direction of a connection holds
	expireMax = 512       // how many reservations expire in one transaction, as in quotad
)

// run is one life of the daemon, from a start to a stop.
type run struct {
	pipe   *bufconn.Listener
	door   *door // for tcp
	ledger *store.Store
	server *server.Server
	live   context.Context //nolint:containedctx // ends when the stop begins; calls that wait for the connection look at it
	die    context.CancelFunc
	ended  chan error // takes the server's last word
}

// lasting is an engine that outlives its store, so that counts in memory outlive a Stop.
type lasting struct{ store.Engine }

// Close is store.Engine's, and keeps everything.
func (lasting) Close() error { return nil }

// Stop ends quotad as a crash would for its callers: calls under way and those that follow get UNAVAILABLE, until Restart. What was
// granted before is kept; whether a call under way was decided is for its caller to find out, by its id. A second Stop does nothing.
func (s *Server) Stop() {
	s.t.Helper()
	s.changing.Lock()
	defer s.changing.Unlock()
	if err := s.stop(); err != nil {
		s.t.Fatalf("quotatest: Stop: %v", err)
	}
}

// Restart starts quotad again with the counts that it had, stopping it first if it runs. Reservations that came due meanwhile have
// expired when it returns.
func (s *Server) Restart() {
	s.t.Helper()
	s.changing.Lock()
	defer s.changing.Unlock()
	if err := errors.Join(s.stop(), s.start()); err != nil {
		s.t.Fatalf("quotatest: starting: %v", err)
	}
	if err := s.expire(s.context()); err != nil {
		s.t.Fatalf("quotatest: starting: expiring reservations: %v", err)
	}
}

// Listen has quotad answer on a loopback TCP port, too, and returns its host:port: for what is tested in another process or another
// language. The port stays the same after a Restart, and while quotad is stopped a connection to it is closed at once.
func (s *Server) Listen() string {
	s.t.Helper()
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.tcp == nil {
		var lc net.ListenConfig
		l, err := lc.Listen(s.context(), "tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatalf("quotatest: Listen: %v", err)
		}
		s.tcp = l
		s.serve.Go(func() { s.accept(l) })
	}
	return s.tcp.Addr().String()
}

// start begins a run. changing is held.
func (s *Server) start() error {
	ledger, engine, err := s.openLedger()
	if err != nil {
		return err
	}
	if s.clock != nil {
		at := ledger.Now()
		s.clock.step(func(time.Time) time.Time { return at }) // a file may have seen a later time
	}
	r := &run{pipe: bufconn.Listen(pipeBytes), door: newDoor(), ledger: ledger, ended: make(chan error, 1)}
	r.live, r.die = context.WithCancel(s.context())
	ready := make(chan struct{})
	r.server = server.New(server.Config{
		Listeners: []net.Listener{r.pipe, r.door}, Metrics: metrics.New(metrics.Build{}), Methods: auth.Methods(), Now: ledger.Now,
		Ready: func() { close(ready) },
	})
	service.New(service.Config{
		Ledger: ledger, Version: "quotatest", Engine: engine, BackupDir: s.o.dir, Stopping: r.server.Stopping(),
	}).Register(r.server)
	go func() { r.ended <- r.server.Run(r.live) }()
	<-ready
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.ledger = r, ledger
	return nil
}

func (s *Server) openLedger() (ledger *store.Store, engine string, err error) {
	e := s.memory
	engine = "memory"
	if e == nil {
		engine = "bbolt"
		if e, err = boltengine.Open(s.o.dir, boltengine.Options{Create: true}); err != nil {
			return nil, "", fmt.Errorf("opening %s: %w", s.o.dir, err)
		}
	}
	o := store.Options{Defaults: s.o.defaults}
	if s.clock != nil {
		o.Now, o.Uptime = s.clock.now, s.clock.uptime
	}
	ledger, err = store.Open(s.context(), e, o)
	return ledger, engine, err
}

func (s *Server) running() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run
}

// stop ends the run, if there is one. changing is held.
func (s *Server) stop() error {
	s.mu.Lock()
	r := s.run
	s.run = nil
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	r.server.Stop()
	r.die()
	err := errors.Join(<-r.ended, r.ledger.Close())
	s.forget()
	return err
}

// expire carries out the expiries that are due, without waiting for the store's own keeper, which sleeps by the machine's clock.
func (s *Server) expire(ctx context.Context) error {
	r := s.running()
	for more := r != nil; more; {
		d, err := r.ledger.Apply(ctx, quota.Expire{Max: expireMax})
		if err != nil && !errors.Is(err, store.ErrClosed) {
			return err
		}
		more = err == nil && d.More
	}
	return nil
}

// accept hands connections to whichever run there is.
func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if r := s.running(); r == nil || !r.door.enter(c) {
			_ = c.Close() // nobody is there to answer on it
		}
	}
}

// door is a listener of one run: the port behind it stays open from run to run, so that nobody else gets it meanwhile.
type door struct {
	conns chan net.Conn
	shut  chan struct{}
	once  sync.Once
}

func newDoor() *door { return &door{conns: make(chan net.Conn), shut: make(chan struct{})} }

// enter hands a connection over; false if the door is shut.
func (d *door) enter(c net.Conn) bool {
	select {
	case d.conns <- c:
		return true
	case <-d.shut:
		return false
	}
}

// Accept is net.Listener's.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.shut:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's.
func (d *door) Close() error {
	d.once.Do(func() { close(d.shut) })
	return nil
}

// Addr is net.Listener's.
func (d *door) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
