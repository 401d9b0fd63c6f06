package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// TargetDefault is where a quotad listens that was told nothing else.
const TargetDefault = "127.0.0.1:7070"

// reconnectMax is the longest wait between two attempts to connect: less than what the tries of one call take together.
const reconnectMax = BackoffMax / 4

const (
	// pingAfter is how long a connection may be silent under calls before it is pinged. quotad allows a ping in ten seconds.
	pingAfter = 20 * time.Second
	// pingTimeout is how long the answer may take. On Linux it is also how long what was sent may stay without an acknowledgement.
	pingTimeout = 5 * time.Second
)

// Client asks one quotad. It is safe for concurrent use, and has no goroutine of its own but while something is to be delivered.
type Client struct {
	o      options
	rpc    quotadv1.QuotaServiceClient
	conn   *grpc.ClientConn // nil if it was given
	open   *localGrants     // nil: fail closed
	outbox *outbox
	// tellsPeers is whether the connection says to whom a call was sent. One that is not grpc's own may not, and then every call may
	// have been sent.
	tellsPeers bool
	live       context.Context //nolint:containedctx // ends when Close begins, and every acquire under way with it
	die        context.CancelFunc
	starting   sync.RWMutex // held to begin an acquire, and by Close to see that none begins any more
	acquiring  sync.WaitGroup
	closed     atomic.Bool
	count      counters
}

type counters struct {
	granted, denied, unreachable, local atomic.Int64
}

// Stats is what a client has seen since it was made.
type Stats struct {
	// Granted is how many acquires and reservations quotad has granted.
	Granted int64
	// Denied is how many it has refused for want of quota.
	Denied int64
	// Unreachable is how many found no answer and were not let through.
	Unreachable int64
	// Local is how many acquires, reservations and extensions found no answer and were let through (FailOpen).
	Local int64
	// Pending is how many settlements, releases and bookings of what was let through are not delivered yet.
	Pending int64
	// Delivered is how many were.
	Delivered int64
	// Lost is how many never will be; OnLost was told of each.
	Lost int64
	// Unjournaled is how many the journal could not take when they came: the disk is full, or the file has its JournalMax bytes. They
	// are delivered like the others, but do not survive the end of the process.
	Unjournaled int64
}

// Dial returns a client of the quotad at target: host:port or unix:///path, or "" for $QUOTAD_SERVER, else TargetDefault. It does
// not wait for a connection, so that an app may start before its quotad; an error is about the target, an option or the journal.
// Close it in the end.
func Dial(target string, opts ...Option) (*Client, error) {
	o, err := optionsOf(opts)
	if err != nil {
		return nil, err
	}
	target = cmp.Or(target, os.Getenv("QUOTAD_SERVER"), TargetDefault)
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	creds, err := o.transport(target)
	if err != nil {
		return nil, err
	}
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		// A quotad that is back is to be found within the tries of one call. gRPC's own backoff begins at a second and goes up to two
		// minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: BackoffDefault, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
			MinConnectTimeout: max(o.timeout, TimeoutDefault), // a handshake of TLS may take longer than the tries of a call
		}),
		// A machine that is gone says nothing; without this its connection lasts until the system gives up, some fifteen minutes later.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		// The client retries by itself, with what it knows of denials and ids.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
	}, o.dial...)
	if o.token != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer{o.token}))
	}
	conn, err := grpc.NewClient(target, dial...)
	if err != nil {
		return nil, fmt.Errorf("dialling quotad at %s: %w", target, err)
	}
	c, err := newClient(conn, o)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.conn = conn
	return c, nil
}

// New returns a client on a connection that its caller has made and will close, after the client. WithTransportCredentials and
// WithDialOptions have no effect; an option that would have the connection be another's, or secure, is an error.
func New(conn grpc.ClientConnInterface, opts ...Option) (*Client, error) {
	o, err := optionsOf(opts)
	if err != nil {
		return nil, err
	}
	if o.tls != nil || o.token != nil {
		return nil, errors.New("WithTLSFiles, WithToken and WithTokenFile are for Dial; this connection is made already")
	}
	return newClient(conn, o)
}

func newClient(conn grpc.ClientConnInterface, o options) (*Client, error) {
	c := &Client{o: o, rpc: quotadv1.NewQuotaServiceClient(conn)}
	_, c.tellsPeers = conn.(*grpc.ClientConn)
	if o.failOpen != nil {
		c.open = &localGrants{cap: o.failOpen.PerMinute, now: o.now}
	}
	box, err := openOutbox(o, c.deliver)
	if err != nil {
		return nil, err
	}
	c.outbox = box
	c.live, c.die = context.WithCancel(context.Background()) //nolint:forbidigo // it outlives every call, and ends with Close
	return c, nil
}

// checkTarget finds what is an address, but in another notation than gRPC's, which would look a name up and never find it.
func checkTarget(target string) error {
	scheme, _, found := strings.Cut(target, "://")
	switch {
	case strings.HasPrefix(target, "/"):
		return fmt.Errorf("dialling quotad: %s is a path; for a socket give unix://%s", target, target)
	case found && slices.Contains([]string{"http", "https", "tcp", "grpc", "grpcs"}, scheme):
		return fmt.Errorf("dialling quotad: %s; want host:port or unix:///path", target)
	}
	return nil
}

// isSocket tells whether a target is a unix socket.
func isSocket(target string) bool {
	return strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:")
}

// isLocal tells whether a target stays on this machine.
func isLocal(target string) bool {
	if isSocket(target) {
		return true
	}
	for _, scheme := range []string{"dns:///", "passthrough:///"} {
		target = strings.TrimPrefix(target, scheme)
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Close ends each Acquire and Reserve under way with ErrClosed, gives what is not delivered yet one more timeout to go, and closes the
// connection that Dial made. What is left then stands in the journal, or is lost. A second Close does nothing.
func (c *Client) Close() error {
	c.starting.Lock()
	again := c.closed.Swap(true)
	c.starting.Unlock()
	if again {
		return nil
	}
	c.die()
	c.acquiring.Wait()                                                    // what they leave to be told of is kept, too
	ctx, cancel := context.WithTimeout(context.Background(), c.o.timeout) //nolint:forbidigo // io.Closer has no context, and the app's may have ended
	defer cancel()
	_ = c.outbox.flush(ctx) // what is left is reported by close
	err := c.outbox.close()
	if c.conn != nil {
		err = errors.Join(err, c.conn.Close())
	}
	return err
}

// Flush waits until everything is delivered, or ctx ends: before a process is frozen, say. Its error is that of ctx,
// or ErrClosed where a closed client had to leave something.
func (c *Client) Flush(ctx context.Context) error { return c.outbox.flush(ctx) }

// Stats tells what the client has seen.
func (c *Client) Stats() Stats {
	s := Stats{
		Granted: c.count.granted.Load(), Denied: c.count.denied.Load(),
		Unreachable: c.count.unreachable.Load(), Local: c.count.local.Load(),
	}
	c.outbox.counts(&s)
	return s
}

// Grant is a yes: durable, and charged once.
type Grant struct {
	// RequestID names it. Release gives it back by that.
	RequestID string
	// Balances are the counts that were charged, as they stand now; none for a local grant.
	Balances []Balance
	// Replayed tells whether the same id had been granted before, so that this call charged nothing.
	Replayed bool
	// Local tells whether quotad gave no answer and FailOpen let the call through.
	Local bool
}

// Acquire takes amounts at once: one call from the bucket, or the charges that are given, all of them or none. The error is a
// *DeniedError if there is not enough left, an *UnreachableError if quotad gave no answer, an *AccessError if it does not let this
// client, the context's own if that ended, else a gRPC status about the request. After an error the call must not be made, and what may have been charged for it unknown to the
// caller is given back, unless the caller gave the id.
func (c *Client) Acquire(ctx context.Context, bucket string, opts ...Taking) (*Grant, error) {
	t := takingOf(opts)
	if t.hold != nil {
		return nil, fmt.Errorf("acquire %s: WithHold is for Reserve", bucket)
	}
	resp, local, err := c.acquire(ctx, "acquire", t, &quotadv1.AcquireRequest{Bucket: bucket, Charges: taken(t.charges)})
	switch {
	case err != nil:
		return nil, err
	case local != nil:
		return &Grant{RequestID: local.id(), Local: true}, nil
	}
	return &Grant{RequestID: resp.id, Balances: balancesOf(resp.GetBalances()), Replayed: resp.GetReplayed()}, nil
}

// Release gives an acquire back by its id: the call failed before it cost anything. It may be sent again, and by another process.
func (c *Client) Release(ctx context.Context, requestID string) error {
	return c.end(ctx, &note{release: &quotadv1.ReleaseRequest{RequestId: requestID}})
}

type acquired struct {
	*quotadv1.AcquireResponse
	id string
}

// begin tells whether the client is open, and has Close then wait for acquiring.Done.
func (c *Client) begin() bool {
	c.starting.RLock()
	defer c.starting.RUnlock()
	if c.closed.Load() {
		return false
	}
	c.acquiring.Add(1)
	return true
}

// acquire asks for what req says under the id of t, or a new one. Either an answer, or what FailOpen let through, or an error. A plain
// acquire that was let through is handed over to be booked; a reservation is when it is settled.
func (c *Client) acquire(ctx context.Context, op string, t taking, req *quotadv1.AcquireRequest) (*acquired, *note, error) {
	if !c.begin() {
		return nil, nil, fmt.Errorf("%s %s: %w", op, req.GetBucket(), ErrClosed)
	}
	defer c.acquiring.Done()
	req.RequestId = t.id
	switch {
	case t.named && t.id == "":
		return nil, nil, fmt.Errorf("%s %s: %w", op, req.GetBucket(), status.Error(codes.InvalidArgument, "WithRequestID: the id is empty"))
	case !t.named:
		id, err := newID()
		if err != nil {
			return nil, nil, fmt.Errorf("%s %s: %w", op, req.GetBucket(), err)
		}
		req.RequestId = id
	}
	made := c.o.now().Unix()
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.live, cancel)()
	resp, a, err := send(calling, c, req, c.rpc.Acquire)
	if err == nil && t.named && hasEnded(resp.GetState()) {
		return nil, nil, fmt.Errorf("%s %s: the reservation %s was settled or expired before; use a new id for a new call: %w", op, req.GetBucket(), t.id, ErrEnded)
	}
	if err == nil {
		c.count.granted.Add(1)
		return &acquired{resp, req.GetRequestId()}, nil, nil
	}
	if denied, ok := deniedBy(err); ok {
		c.count.denied.Add(1)
		return nil, nil, denied
	}
	if ctx.Err() == nil && undecided(err) && c.open != nil && c.open.grant(req.GetBucket()) {
		c.letThrough(req.GetBucket(), err)
		local := &note{acquire: req, made: made}
		if req.GetHold() == nil {
			c.outbox.add(local)
		}
		return nil, local, nil
	}
	if a.perhaps && !t.named {
		// It may have been granted all the same. Nobody will make the call, so that nothing of it may stay charged.
		c.outbox.add(&note{release: &quotadv1.ReleaseRequest{RequestId: req.GetRequestId()}, perhaps: true})
	}
	if ctx.Err() != nil || undecided(err) {
		c.count.unreachable.Add(1)
	}
	return nil, nil, c.failure(ctx, op, req.GetBucket(), a, err)
}

// letThrough counts and tells what FailOpen does.
func (c *Client) letThrough(bucket string, err error) {
	c.count.local.Add(1)
	if tell := c.o.failOpen.OnGrant; tell != nil {
		tell(bucket, err)
	}
}

// hasEnded tells whether a reservation is over, so that who asks for it again is not to make the call a second time.
func hasEnded(s quotadv1.ReservationState) bool {
	return s != quotadv1.ReservationState_RESERVATION_STATE_UNSPECIFIED && s != quotadv1.ReservationState_RESERVATION_STATE_OPEN
}

// Verdict is what an acquire of the same charges would be answered now; another caller may be first.
type Verdict struct {
	// Allowed tells whether it would be granted.
	Allowed bool
	// Balances are the counts that it would charge, as they stand.
	Balances []Balance
	// Denial says why not; nil if Allowed.
	Denial *DeniedError
}

// Check tells what an Acquire, or with WithHold a Reserve, would be answered, and charges nothing. A denial is in the verdict; the
// error is that of Acquire otherwise. WithRequestID has no effect.
func (c *Client) Check(ctx context.Context, bucket string, opts ...Taking) (*Verdict, error) {
	if c.closed.Load() {
		return nil, fmt.Errorf("check %s: %w", bucket, ErrClosed)
	}
	t := takingOf(opts)
	req := &quotadv1.CheckRequest{Bucket: bucket, Charges: taken(t.charges), Hold: wireHold(t.hold)}
	resp, a, err := send(ctx, c, req, c.rpc.Check)
	if err != nil {
		return nil, c.failure(ctx, "check", bucket, a, err)
	}
	v := &Verdict{Allowed: resp.GetAllowed(), Balances: balancesOf(resp.GetBalances())}
	if resp.GetDenial() != nil {
		v.Denial = denialOf(resp.GetDenial())
	}
	return v, nil
}

// failure is the error of a call that was neither granted nor denied.
func (c *Client) failure(ctx context.Context, op, what string, a attempts, err error) error {
	if ctx.Err() == nil && undecided(err) {
		return &UnreachableError{Op: op, Bucket: what, Tries: a.tries, Err: err}
	}
	if e := accessErrorOf(op, what, err); e != nil && ctx.Err() == nil {
		return e
	}
	if ctx.Err() == nil && status.Code(err) == codes.Canceled && c.closed.Load() {
		err = ErrClosed // gRPC calls it CANCELLED
	}
	return fmt.Errorf("%s %s: %w", op, what, ofContext(ctx, err))
}

// newID returns an id that sorts by time, as receipts in one order of time cost the least to keep.
func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("making a request id: %w", err)
	}
	return id.String(), nil
}
