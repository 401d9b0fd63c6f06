package quotatest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// undeclaredMax is how many undeclared names may have a count on one day, as quotad has it where nothing else is said.
const undeclaredMax = 10_000

// startDefault is in the middle of a day and of everything longer: noon of Thursday, 15 January 2026, in UTC.
func startDefault() time.Time { return time.Date(2026, time.January, 15, 12, 0, 0, 0, time.UTC) }

// Server is a running quotad. Its methods may be called by many at once; those that end a test by t.Fatal are for the goroutine
// of the test, as that is: Set, Advance, Stop, Restart, Listen, Declare and the reading of counts.
type Server struct {
	t      testing.TB
	o      options
	clock  *clock       // nil: the machine's
	memory store.Engine // nil with a file
	conn   *grpc.ClientConn
	conns  sync.Map       // the *grpc.ClientConn that have made a call
	serve  sync.WaitGroup // what accepts on tcp

	changing sync.Mutex   // held by Listen, Stop and Restart
	tcp      net.Listener // nil until Listen

	mu     sync.Mutex
	run    *run         // nil while it is stopped
	ledger *store.Store // that of the newest run
}

// Option changes what New makes.
type Option func(*options) error

type options struct {
	start    time.Time
	real     bool
	dir      string
	defaults quota.Defaults
}

// Start is the clock's first time; without it that is noon of 15 January 2026 in UTC. The clock stands still until Set or Advance
// move it.
func Start(at time.Time) Option {
	return func(o *options) error {
		if at.Unix() < 0 {
			return fmt.Errorf("Start: %s; want 1970 or later", at)
		}
		o.start = at
		return nil
	}
}

// RealTime has quotad count by the machine's clock, which Set and Advance cannot move.
func RealTime() Option {
	return func(o *options) error {
		o.real = true
		return nil
	}
}

// WithFile keeps the counts in a data file in the directory at path, as quotad does with --data, rather than in memory: each answer
// waits for the disk, and the next Server on the directory goes on from there. The directory is made if there is none. If the file
// has seen a later time than Start, the clock begins at that.
func WithFile(path string) Option {
	return func(o *options) error {
		if path == "" {
			return fmt.Errorf("WithFile: the path is empty")
		}
		o.dir = path
		return nil
	}
}

// Default sets the limits of names that nobody declared, such as "50 calls/day", which is what quotad has by itself. Without it
// such a name is refused (NOT_FOUND), so that a test finds a slip in a name.
func Default(limits ...string) Option {
	return func(o *options) error {
		parsed, err := limitsOf(limits)
		if err != nil {
			return fmt.Errorf("Default: %w", err)
		}
		o.defaults.Limits = parsed
		return nil
	}
}

// Zone is the IANA zone whose days and other windows hold for buckets that name none, such as "Europe/Berlin"; without it UTC.
func Zone(name string) Option {
	return func(o *options) error {
		o.defaults.Zone = name
		return nil
	}
}

func limitsOf(texts []string) ([]quota.Limit, error) {
	limits := make([]quota.Limit, len(texts))
	for i, text := range texts {
		l, err := quota.ParseLimit(text)
		if err != nil {
			return nil, err
		}
		limits[i] = l
	}
	return limits, quota.CheckLimits(limits)
}

// New returns a quotad that runs, with nothing declared. It is stopped when the test ends, after what was registered with t.Cleanup
// later than it.
func New(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := &Server{t: t, o: options{start: startDefault(), defaults: quota.Defaults{UndeclaredLive: undeclaredMax}}}
	for _, set := range opts {
		if err := set(&s.o); err != nil {
			t.Fatalf("quotatest: %v", err)
		}
	}
	if !s.o.real {
		s.clock = newClock(s.o.start.Round(0).UTC())
	}
	if s.o.dir == "" {
		s.memory = lasting{memengine.New()}
	}
	conn, err := grpc.NewClient(target, s.dialOptions()...)
	if err != nil {
		t.Fatalf("quotatest: %v", err)
	}
	s.conn = conn
	t.Cleanup(s.end)
	s.Restart()
	return s
}

// end stops everything for good.
func (s *Server) end() {
	s.changing.Lock()
	defer s.changing.Unlock()
	if err := s.stop(); err != nil {
		s.t.Errorf("quotatest: stopping: %v", err)
	}
	_ = s.conn.Close() // only says that it was closed already
	if s.tcp != nil {
		_ = s.tcp.Close() // the same
	}
	s.serve.Wait()
}

// Client returns a client of this quotad, closed when the test ends. The options are those of client.Dial. While quotad runs its
// calls wait for the connection, so that the first one after a Restart is answered.
func (s *Server) Client(opts ...client.Option) *client.Client {
	s.t.Helper()
	c, err := client.Dial(target, append([]client.Option{
		client.WithTransportCredentials(inProcess()),
		client.WithDialOptions(s.dialOptions()...),
	}, opts...)...)
	if err != nil {
		s.t.Fatalf("quotatest: %v", err)
	}
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Errorf("quotatest: closing a client: %v", err)
		}
	})
	return c
}

// Conn returns a connection for generated stubs, all three services: always the same one. It is closed when the test ends.
func (s *Server) Conn() *grpc.ClientConn { return s.conn }

// Now returns the time by which quotad counts.
func (s *Server) Now() time.Time {
	if s.clock != nil {
		return s.clock.now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Now()
}

// Set sets the clock. It never goes back: to ask for that ends the test, and so does Set under RealTime. Reservations that are due
// by then have expired when Set returns; those of a stopped quotad when Restart does. Receipts and old counts are not taken away
// then: an id stays known for longer than the 24 hours that are promised, until quotad's own tidying, which goes by the machine's clock
// and begins at a Restart.
func (s *Server) Set(t time.Time) {
	s.t.Helper()
	s.step("Set", func(time.Time) time.Time { return t.Round(0).UTC() })
}

// Advance moves the clock on by d, as Set does.
func (s *Server) Advance(d time.Duration) {
	s.t.Helper()
	s.step("Advance", func(now time.Time) time.Time { return now.Add(d) })
}

func (s *Server) step(what string, next func(time.Time) time.Time) {
	s.t.Helper()
	if s.clock == nil {
		s.t.Fatalf("quotatest: %s: the clock is the machine's (RealTime)", what)
	}
	if now, ok := s.clock.step(next); !ok {
		s.t.Fatalf("quotatest: %s: to %s, which is before %s; the clock never goes back", what,
			next(now).Format(time.RFC3339Nano), now.Format(time.RFC3339Nano))
	}
	if err := s.expire(s.context()); err != nil {
		s.t.Fatalf("quotatest: %s: expiring reservations: %v", what, err)
	}
}

// context is for what the Server does by itself. It outlives the test's, which ends before the cleanups run.
func (s *Server) context() context.Context { return context.WithoutCancel(s.t.Context()) }
