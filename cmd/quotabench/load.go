package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// What a load may call.
const (
	targetAcquire = "acquire"
	targetPairs   = "pairs" // an acquire with hold and its settlement, counted as one
	targetEcho    = "echo"
)

// heldAmount is what each reservation holds; it is settled with as much or less.
const heldAmount = 1000

// load says what to call, how hard and for how long.
type load struct {
	Server      string
	Target      string
	Connections int
	InFlight    int
	Keys        int
	Zipf        float64
	IDs         bool
	Duration    time.Duration
	Warmup      time.Duration
	Seed        uint64
	TLS         string // a directory with ca.pem, client.pem and client-key.pem; "" means in the clear
}

// figures are what a load found. Latencies are in microseconds. Warm-up is left out.
type figures struct {
	Target      string  `json:"target"`
	Connections int     `json:"connections"`
	InFlight    int     `json:"inflight"`
	Keys        int     `json:"keys"`
	Zipf        float64 `json:"zipf"`
	IDs         bool    `json:"ids"`
	Seconds     float64 `json:"seconds"`
	RPS         float64 `json:"rps"` // grants and denials; of pairs, both calls together
	P50         float64 `json:"p50_us"`
	P90         float64 `json:"p90_us"`
	P99         float64 `json:"p99_us"`
	P999        float64 `json:"p999_us"`
	Errors      int64   `json:"errors"`
	Denials     int64   `json:"denials"`
	FirstError  string  `json:"first_error,omitempty"`
}

func (l load) check() error {
	switch {
	case l.Target != targetAcquire && l.Target != targetPairs && l.Target != targetEcho:
		return fmt.Errorf("--target %q is unknown; want %s, %s or %s", l.Target, targetAcquire, targetPairs, targetEcho)
	case l.Connections < 1 || l.Connections > 1000:
		return fmt.Errorf("--connections %d is out of range; want 1 to 1000", l.Connections)
	case l.InFlight < l.Connections || l.InFlight > 100_000:
		return fmt.Errorf("--inflight %d is out of range; want one for each connection, at most 100000", l.InFlight)
	case l.Target == targetPairs && !l.IDs:
		return errors.New("--target pairs needs --ids: a reservation is settled by its id")
	case l.Keys < 1 || l.Keys > keysMax:
		return fmt.Errorf("--keys %d is out of range; want 1 to %d", l.Keys, keysMax)
	case l.Zipf != 0 && l.Zipf <= 1:
		return fmt.Errorf("--zipf %g is out of range; want more than 1, or 0 for a uniform load", l.Zipf)
	case l.Duration <= 0 || l.Duration > time.Hour || l.Warmup < 0 || l.Warmup > time.Hour:
		return errors.New("--duration and --warmup are at most an hour")
	}
	return nil
}

// caller is one of the callers of a load, with what it saw.
type caller struct {
	*picker
	conn    *grpc.ClientConn
	method  string
	ids     bool
	pairs   bool
	took    histogram
	errors  int64
	denials int64
	first   error
}

// run makes the calls. An error means that none could be made.
func (l load) run(ctx context.Context) (figures, error) {
	conns := make([]*grpc.ClientConn, l.Connections)
	for i := range conns {
		conn, err := connectBy(ctx, l.Server, l.TLS)
		if err != nil {
			return figures{}, err
		}
		defer func() { _ = conn.Close() }()
		conns[i] = conn
	}
	method := quotadv1.QuotaService_Acquire_FullMethodName
	if l.Target == targetEcho {
		method = echoMethod
	}
	from := time.Now().Add(l.Warmup)
	to := from.Add(l.Duration)
	callers := make([]*caller, l.InFlight)
	var wg sync.WaitGroup
	for i := range callers {
		c := &caller{picker: newPicker(l, i), conn: conns[i%len(conns)], method: method, ids: l.IDs, pairs: l.Target == targetPairs}
		callers[i] = c
		wg.Go(func() { c.loop(ctx, from, to) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return figures{}, err
	}
	return l.sum(callers)
}

// loop calls until to, and counts the calls, or pairs of them, that ended between from and to.
func (c *caller) loop(ctx context.Context, from, to time.Time) {
	request, response := new(quotadv1.AcquireRequest), new(quotadv1.AcquireResponse)
	if c.pairs {
		request.Charges = []*quotadv1.Charge{{Amount: new(int64(heldAmount))}}
		request.Hold = new(durationpb.Duration)
	}
	for begun := time.Now(); begun.Before(to) && ctx.Err() == nil; {
		request.Bucket = bucketName(c.next())
		if c.ids {
			request.RequestId = uuid7(begun, c.r)
		}
		response.Reset()
		err := c.conn.Invoke(ctx, c.method, request, response)
		if err == nil && c.pairs {
			err = c.settle(ctx, request.GetRequestId())
		}
		ended := time.Now()
		if !ended.Before(from) && ended.Before(to) {
			c.count(ended.Sub(begun), err)
		}
		if err != nil && !denied(err) {
			pause(ctx, 10*time.Millisecond) // a server that fails at once must not be hammered
			ended = time.Now()
		}
		begun = ended
	}
}

// settle ends a reservation with what was held, or with less.
func (c *caller) settle(ctx context.Context, id string) error {
	request := &quotadv1.SettleRequest{RequestId: id}
	if c.r.IntN(2) == 0 {
		request.Charges = []*quotadv1.Charge{{Amount: new(c.r.Int64N(heldAmount))}}
	}
	return c.conn.Invoke(ctx, quotadv1.QuotaService_Settle_FullMethodName, request, new(quotadv1.SettleResponse))
}

func (c *caller) count(took time.Duration, err error) {
	switch {
	case err == nil:
	case denied(err):
		c.denials++
	default:
		c.errors++
		if c.first == nil {
			c.first = err
		}
		return
	}
	c.took.record(took)
}

// denied tells a denial from gRPC's own uses of its code.
func denied(err error) bool {
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted {
		return false
	}
	for _, detail := range s.Details() {
		if _, ok := detail.(*quotadv1.Denial); ok {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l load) sum(callers []*caller) (figures, error) {
	f := figures{
		Target: l.Target, Connections: l.Connections, InFlight: l.InFlight, Keys: l.Keys, Zipf: l.Zipf, IDs: l.IDs,
		Seconds: l.Duration.Seconds(),
	}
	var all histogram
	var first error
	for _, c := range callers {
		all.add(&c.took)
		f.Errors += c.errors
		f.Denials += c.denials
		if first == nil {
			first = c.first
		}
	}
	if all.n == 0 {
		return f, errors.Join(errors.New("no call was answered"), first)
	}
	us := func(q float64) float64 { return float64(all.quantile(q)) / float64(time.Microsecond) }
	f.RPS = float64(all.n) / f.Seconds
	f.P50, f.P90, f.P99, f.P999 = us(0.5), us(0.9), us(0.99), us(0.999)
	if first != nil {
		f.FirstError = first.Error()
	}
	return f, nil
}

// connect waits until the connection stands, so that a wrong address is told at once and no call pays for the handshake.
func connect(ctx context.Context, server string) (*grpc.ClientConn, error) {
	return connectBy(ctx, server, "")
}

// connectBy is connect over mTLS with the files of a directory; "" means in the clear.
func connectBy(ctx context.Context, server, files string) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if files != "" {
		var err error
		if creds, err = clientCredentials(files); err != nil {
			return nil, err
		}
	}
	conn, err := grpc.NewClient(server,
		grpc.WithTransportCredentials(creds), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.5, MaxDelay: 20 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", server, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn.Connect()
	for state := conn.GetState(); state.String() != "READY"; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			_ = conn.Close()
			return nil, fmt.Errorf("connecting to %s: %w", server, ctx.Err())
		}
	}
	return conn, nil
}

// declare gives all buckets of a load a limit that is out of its reach, so that every acquire is decided and none denied.
func declare(ctx context.Context, server string) error {
	return declareBy(ctx, server, "")
}

func declareBy(ctx context.Context, server, files string) error {
	conn, err := connectBy(ctx, server, files)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = quotadv1.NewAdminServiceClient(conn).SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{
		Name:        pattern,
		Limits:      []*quotadv1.Limit{{Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, Max: 1e18}},
		Description: "buckets that quotabench charges",
	}})
	if err != nil {
		return fmt.Errorf("declaring %s: %w", pattern, err)
	}
	return nil
}
