package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// The budget that the apps share.
const (
	bucket = "portfolio"
	limit  = 50
)

// An app asks before each call to its model. It is a process of its own.
type app struct {
	name    string
	ceiling int64 // its own lower cap on the shared count; 0 means none
	calls   int
	over    time.Duration // the time over which the calls begin
}

// apps are both of them. The dear one comes first, and stops at a count at which the other may go on.
func apps() []app {
	return []app{
		{name: "bedrock", ceiling: 10, calls: 300, over: 1500 * time.Millisecond},
		{name: "chat", calls: 300, over: 1500 * time.Millisecond},
	}
}

func appNamed(name string) (app, error) {
	for _, a := range apps() {
		if a.name == name {
			return a, nil
		}
	}
	return app{}, fmt.Errorf("there is no app %q", name)
}

// request returns what the app sends before one of its calls, always the same for the same call.
func (a app) request(call int) *quotadv1.AcquireRequest {
	r := &quotadv1.AcquireRequest{Bucket: bucket, RequestId: fmt.Sprintf("%s-call-%04d", a.name, call)}
	if a.ceiling > 0 {
		r.Charges = []*quotadv1.Charge{{Ceiling: new(a.ceiling)}}
	}
	return r
}

// answer is how one call of an app ended. Apps write them as JSON, one a line.
type answer struct {
	App      string    `json:"app"`
	Call     int       `json:"call"`
	Granted  bool      `json:"granted"`
	Replayed bool      `json:"replayed"` // granted before, but the answer had not arrived
	Sent     int       `json:"sent"`     // how often it was sent
	Denial   string    `json:"denial,omitempty"`
	RetryAt  time.Time `json:"retry_at,omitzero"`
}

// playApp makes all calls of an app, and tells how each ended.
func playApp(ctx context.Context, name, server string, w io.Writer) error {
	a, err := appNamed(name)
	if err != nil {
		return err
	}
	conn, err := connect(server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	client := quotadv1.NewQuotaServiceClient(conn)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // of the output
	out := json.NewEncoder(w)
	var wg sync.WaitGroup
	for call := range a.calls {
		wg.Go(func() {
			pause(ctx, a.over*time.Duration(call)/time.Duration(a.calls))
			got, err := a.ask(ctx, client, call)
			if err == nil {
				mu.Lock()
				err = out.Encode(got)
				mu.Unlock()
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// ask sends one request until it is answered. No answer means perhaps, and the same id again turns that into the truth.
func (a app) ask(ctx context.Context, client quotadv1.QuotaServiceClient, call int) (answer, error) {
	got := answer{App: a.name, Call: call}
	for {
		got.Sent++
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		response, err := client.Acquire(try, a.request(call))
		cancel()
		if err == nil {
			got.Granted, got.Replayed = true, response.GetReplayed()
			return got, nil
		}
		s := status.Convert(err)
		if denial := denialOf(s); denial != nil {
			got.Denial = denial.GetMessage()
			if denial.GetRetryAt() != nil {
				got.RetryAt = denial.GetRetryAt().AsTime()
			}
			return got, nil
		}
		if s.Code() != codes.Unavailable && s.Code() != codes.DeadlineExceeded || ctx.Err() != nil {
			return got, fmt.Errorf("%s: call %d: %w", a.name, call, err)
		}
		pause(ctx, 25*time.Millisecond)
	}
}

// denialOf returns why a request was denied; nil if it was not, but failed otherwise.
func denialOf(s *status.Status) *quotadv1.Denial {
	if s.Code() != codes.ResourceExhausted {
		return nil
	}
	for _, detail := range s.Details() {
		if denial, ok := detail.(*quotadv1.Denial); ok {
			return denial
		}
	}
	return nil
}

// connect returns a connection that comes back soon after the daemon does.
func connect(server string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(server,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", server, err)
	}
	return conn, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
