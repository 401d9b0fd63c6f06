package systemtest_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

const (
	crowdSize  = 64
	crowdLimit = 50
)

// crowd lets callers race for a limit in each round, on a bucket of its own. It returns the rounds in which another number of
// them than the limit was granted.
func crowd(ctx context.Context, conns []*client, rounds int) []string {
	var mu sync.Mutex
	var faults []string
	var next atomic.Int64
	var lanes sync.WaitGroup
	for range 4 { // races side by side, so that no core waits
		lanes.Go(func() {
			for round := next.Add(1); round <= int64(rounds); round = next.Add(1) {
				if fault := race(ctx, conns, round); fault != "" {
					mu.Lock()
					faults = append(faults, fault)
					mu.Unlock()
				}
			}
		})
	}
	lanes.Wait()
	return faults
}

func race(ctx context.Context, conns []*client, round int64) string {
	var grants, denials atomic.Int64
	var other atomic.Value
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range crowdSize {
		request := &quotadv1.AcquireRequest{Bucket: crowdBucket(round)}
		if i%2 == 0 {
			request.RequestId = fmt.Sprintf("race-%d-%d", round, i)
		}
		wg.Go(func() {
			<-start
			_, err := conns[i%len(conns)].Acquire(ctx, request)
			switch conclude(err) {
			case granted:
				grants.Add(1)
			case denied:
				denials.Add(1)
			case perhaps, refused, unlawful:
				other.Store(err.Error())
			}
		})
	}
	close(start)
	wg.Wait()
	if grants.Load() == crowdLimit && denials.Load() == crowdSize-crowdLimit {
		return ""
	}
	return fmt.Sprintf("round %d: %d granted and %d denied of %d; another answer: %v", round, grants.Load(), denials.Load(), crowdSize, other.Load())
}

func crowdBucket(round int64) string { return fmt.Sprintf("crowd/%04d", round) }

// 64 callers at once on a limit of 50: exactly 50 are granted, every time, and the ledger says so too.
func TestCrowd(t *testing.T) {
	t.Parallel()
	rounds := portion(1000, 200, 20_000)
	d := newSite(t).start()
	conns := []*client{d.dial(t), d.dial(t), d.dial(t), d.dial(t)}
	conns[0].declare(t, "crowd/*", crowdLimit)
	if faults := crowd(t.Context(), conns, rounds); len(faults) > 0 {
		t.Fatal(strings.Join(faults, "\n"))
	}
	used := conns[0].used(t, "crowd")
	for round := range int64(rounds) {
		if n := used[crowdBucket(round+1)]; n != crowdLimit {
			t.Errorf("%s counts %d, want %d", crowdBucket(round+1), n, crowdLimit)
		}
	}
}

// Control: a service that checks, and then charges in a second step, grants too many and is caught.
func TestCrowdCatchesTwoSteps(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	quotadv1.RegisterQuotaServiceServer(server, &twoSteps{used: make(map[string]int)})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	if faults := crowd(t.Context(), []*client{dial(t, "unix://"+socket)}, 20); len(faults) == 0 {
		t.Error("20 races over a service that checks and charges in two steps, and none was granted too much")
	}
}

// twoSteps is how the count was kept before there was quotad: a check, and later a charge.
type twoSteps struct {
	quotadv1.UnimplementedQuotaServiceServer
	mu   sync.Mutex
	used map[string]int
}

// Acquire is quotadv1.QuotaServiceServer's.
func (s *twoSteps) Acquire(_ context.Context, r *quotadv1.AcquireRequest) (*quotadv1.AcquireResponse, error) {
	s.mu.Lock()
	full := s.used[r.GetBucket()] >= crowdLimit
	s.mu.Unlock()
	if full {
		st, err := status.New(codes.ResourceExhausted, "full").WithDetails(&errdetails.ErrorInfo{Reason: "LIMIT_EXCEEDED", Domain: "quotad"})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	// The call to the model, between the two steps.
	time.Sleep(time.Millisecond)
	s.mu.Lock()
	s.used[r.GetBucket()]++
	s.mu.Unlock()
	return new(quotadv1.AcquireResponse), nil
}
