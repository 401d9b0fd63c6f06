package client

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Bounds and defaults of what a client does by itself.
const (
	// TimeoutDefault is how long one try may take. A durable answer takes milliseconds; a second is a disk in trouble.
	TimeoutDefault = time.Second
	// TriesDefault is how often a call is sent at most, the first time included.
	TriesDefault = 4
	// BackoffDefault is about how long the client waits before the second try; it doubles from try to try.
	BackoffDefault = 50 * time.Millisecond
	// BackoffMax is the longest wait between two tries.
	BackoffMax = time.Second
	// PendingMax is how many settlements, releases and bookings that were not delivered yet a client keeps. More are lost, and OnLost is told.
	// Releases of what may never have been granted take at most half of it.
	PendingMax = 10_000
	// LocalBucketsMax is for how many buckets FailOpen grants in one minute.
	LocalBucketsMax = 10_000

	triesMax = 20
)

// Option changes what a client does. What is wrong with one is said by Dial and New.
type Option func(*options) error

type options struct {
	timeout  time.Duration
	tries    int
	backoff  time.Duration
	failOpen *FailOpen
	journal  string
	onLost   func(Lost)
	creds    credentials.TransportCredentials
	tls      credentials.TransportCredentials // nil without WithTLSFiles
	token    func() (string, error)           // nil: none is sent
	dial     []grpc.DialOption
	now      func() time.Time
}

func optionsOf(opts []Option) (options, error) {
	o := options{timeout: TimeoutDefault, tries: TriesDefault, backoff: BackoffDefault, onLost: func(Lost) {}, now: time.Now}
	for _, set := range opts {
		if set == nil {
			continue
		}
		if err := set(&o); err != nil {
			return o, err
		}
	}
	return o, nil
}

// WithTimeout bounds each try of a call, 1 ms to 1 minute; TimeoutDefault without it. The context of the call bounds all tries
// together.
func WithTimeout(d time.Duration) Option {
	return func(o *options) error {
		if d < time.Millisecond || d > time.Minute {
			return fmt.Errorf("WithTimeout: %v; want 1ms to 1m", d)
		}
		o.timeout = d
		return nil
	}
}

// WithTries bounds how often a call is sent, 1 to 20, and sets about how long to wait before the second try, 1 ms to BackoffMax.
// The wait doubles from try to try up to BackoffMax, and each is shortened at random by up to a half, so that many callers do not
// come back as one. Every try carries the same request id, so that they charge once together.
func WithTries(n int, backoff time.Duration) Option {
	return func(o *options) error {
		if n < 1 || n > triesMax {
			return fmt.Errorf("WithTries: %d tries; want 1 to %d", n, triesMax)
		}
		if backoff < time.Millisecond || backoff > BackoffMax {
			return fmt.Errorf("WithTries: a backoff of %v; want 1ms to %v", backoff, BackoffMax)
		}
		o.tries, o.backoff = n, backoff
		return nil
	}
}

// FailClosed is what a client does without another option: where quotad gives no answer, Acquire and Reserve return an
// UnreachableError, and the call that costs money is not made.
func FailClosed() Option {
	return func(o *options) error {
		o.failOpen = nil
		return nil
	}
}

// FailOpen lets calls through where quotad gives no answer, up to a cap of this process alone. What went through is booked when
// quotad answers again, as far as there is room then and it is less than 23 hours old; what cannot be booked is told to OnLost. A
// denial is an answer and stays one. A call is let through only after all its tries, so that its context has to last longer than those.
type FailOpen struct {
	// PerMinute is how many acquires of one bucket this process lets through in a minute: at least 1. The cap is not shared: ten
	// processes let through ten times as many.
	PerMinute int
	// OnGrant is told of each call that was let through, extensions among them, on the goroutine that makes it; nil means nobody. It must
	// not call Close, which waits for it.
	OnGrant func(bucket string, err error)
}

// WithFailOpen makes a client fail open. What was let through may have been granted, unknown to the client, and quotad remembers for
// at least 24 hours that it was, so that to book it charges once. After 23 hours it is not booked any more, but told to OnLost.
func WithFailOpen(f FailOpen) Option {
	return func(o *options) error {
		if f.PerMinute < 1 {
			return fmt.Errorf("WithFailOpen: PerMinute is %d; want at least 1", f.PerMinute)
		}
		o.failOpen = &f
		return nil
	}
}

// WithJournal keeps settlements and releases that are not delivered yet in a file, which is made if there is none, readable by its
// owner alone. A client that is opened on it later delivers them, each exactly once; what FailOpen let through 23 hours ago or more is
// told to OnLost instead, as quotad may have forgotten whether it was granted. One process has it at a time: each of several workers
// needs a file of its own; PATH.lock beside it says who has it. It takes up to JournalMax, and what does not fit or cannot be written
// is kept in memory and counted as Unjournaled. Without it they are kept in memory, and what is left at the end of the process is
// decided by the expiry of its reservation.
func WithJournal(path string) Option {
	return func(o *options) error {
		if path == "" {
			return fmt.Errorf("WithJournal: the path is empty")
		}
		o.journal = path
		return nil
	}
}

// Lost is a settlement, a release, or the booking of what FailOpen let through, that will never be delivered.
type Lost struct {
	// RequestID is the reservation, or the acquire.
	RequestID string
	// Bucket is the one that was let through; "" where there is nothing to be booked.
	Bucket string
	// Acquired are the charges that were let through, as they were given: none for one call and the bucket's estimates, and where there
	// is nothing to be booked.
	Acquired []Charge
	// Settled are the charges of a settlement; none for a release, for a plain acquire, and for what settles as held.
	Settled []Charge
	// Err is why: quotad refused it for good, it is too old to be booked, there was no room to keep it, or the client was closed.
	Err error
}

// WithOnLost is told of each settlement, release or booking that is given up, so that it can be logged. It must not block, and so call
// neither Flush nor Close, which wait for it. The reservation then ends by its expiry; what was not booked is not counted.
func WithOnLost(f func(Lost)) Option {
	return func(o *options) error {
		if f == nil {
			return fmt.Errorf("WithOnLost: the function is nil")
		}
		o.onLost = f
		return nil
	}
}

// WithTransportCredentials secures the connection, where WithTLSFiles is not enough. Without either only loopback addresses and unix
// sockets are dialled, in the clear; for another network in the clear, give insecure.NewCredentials().
func WithTransportCredentials(c credentials.TransportCredentials) Option {
	return func(o *options) error {
		o.creds = c
		return nil
	}
}

// WithDialOptions adds options of grpc.NewClient, for Dial alone: interceptors, a stats handler, a dialer.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) error {
		o.dial = append(o.dial, opts...)
		return nil
	}
}

// WithClock sets the clock by which FailOpen counts its minutes, and tells how old what it let through is; time.Now without it.
func WithClock(now func() time.Time) Option {
	return func(o *options) error {
		if now == nil {
			return fmt.Errorf("WithClock: the clock is nil")
		}
		o.now = now
		return nil
	}
}
