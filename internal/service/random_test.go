package service_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// randomCalls makes calls about few buckets, ids and units, so that they meet each other in every state.
type randomCalls struct {
	*rig
	rng *rand.Rand
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func (c *randomCalls) id() string { return pick(c.rng, "1", "2", "3", "4", "5", "6", "7", "8") }

func (c *randomCalls) hold() *durationpb.Duration {
	return pick(c.rng, nil, durationpb.New(0), durationpb.New(time.Millisecond), durationpb.New(time.Minute), durationpb.New(time.Hour), durationpb.New(-1))
}

func (c *randomCalls) charges() []*quotadv1.Charge {
	charges := make([]*quotadv1.Charge, c.rng.IntN(4))
	for i := range charges {
		charges[i] = &quotadv1.Charge{Bucket: pick(c.rng, "", "", "app", "app/below", "free", "new"), Unit: pick(c.rng, "", "calls", "tokens", "pages")}
		if c.rng.IntN(3) > 0 {
			charges[i].Amount = new(pick(c.rng, int64(0), 1, 2, 5, 11, 1e15, 1e15+1))
		}
		if c.rng.IntN(8) == 0 {
			charges[i].Ceiling = new(int64(3))
		}
	}
	return charges
}

// call makes one call; the error is the answer's.
func (c *randomCalls) call(ctx context.Context) error {
	var err error
	switch bucket := pick(c.rng, "app", "app/below", "app/below", "free"); c.rng.IntN(12) {
	case 0, 1, 2:
		_, err = c.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: bucket, RequestId: c.id(), Hold: c.hold(), Charges: c.charges()})
	case 3, 4:
		_, err = c.Settle(ctx, &quotadv1.SettleRequest{RequestId: c.id(), Charges: c.charges()})
	case 5:
		_, err = c.Release(ctx, &quotadv1.ReleaseRequest{RequestId: c.id()})
	case 6, 7:
		_, err = c.Extend(ctx, &quotadv1.ExtendRequest{RequestId: c.id(), ExtendId: pick(c.rng, "", "x", "y"), Hold: c.hold(), Charges: c.charges()})
	case 8:
		_, err = c.Check(ctx, &quotadv1.CheckRequest{Bucket: bucket, Hold: c.hold(), Charges: c.charges()})
	case 9:
		_, err = c.ResetUsage(ctx, &quotadv1.ResetUsageRequest{Bucket: bucket})
	case 10:
		_, err = c.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{
			Name: pick(c.rng, "app", "app/*", "free"), MaxInFlight: int64(c.rng.IntN(4)), MaxHoldPercent: pick[int32](c.rng, 0, 50),
			Limits:   pick(c.rng, nil, []*quotadv1.Limit{{Max: 10}}, []*quotadv1.Limit{{Max: 9, Window: quotadv1.Window_WINDOW_HOUR}, {Unit: "tokens", Max: 9}}),
			OnExpiry: pick(c.rng, quotadv1.OnExpiry_ON_EXPIRY_CHARGE, quotadv1.OnExpiry_ON_EXPIRY_RELEASE),
		}})
	default:
		time.Sleep(pick(c.rng, time.Millisecond, time.Minute, 20*time.Minute))
	}
	return err
}

// agree tells whether what buckets are said to hold is what the open reservations have; all of it is of one day.
func (c *randomCalls) agree(ctx context.Context) error {
	open, err := c.ListReservations(ctx, &quotadv1.ListReservationsRequest{State: stateOpen, PageSize: 1000})
	if err != nil {
		return err
	}
	held, inFlight := map[string]int64{}, map[string]int64{}
	for _, r := range open.GetReservations() {
		touched := map[string]bool{}
		for _, charge := range r.GetCharges() {
			bucket := charge.GetBucket()
			held[bucket+" "+charge.GetUnit()] += charge.GetAmount()
			touched[bucket] = true
			if parent, _, below := strings.Cut(bucket, "/"); below {
				held[parent+" "+charge.GetUnit()] += charge.GetAmount()
				touched[parent] = true
			}
		}
		for bucket := range touched {
			inFlight[bucket]++
		}
	}
	for _, name := range []string{"app", "app/below", "free"} {
		resp, err := c.GetBucket(ctx, &quotadv1.GetBucketRequest{Name: name})
		if err != nil {
			return err
		}
		b := resp.GetBucket()
		if b.GetInFlight() != inFlight[name] {
			return fmt.Errorf("%s has %d in flight, and %d are open", name, b.GetInFlight(), inFlight[name])
		}
		for _, balance := range b.GetBalances() {
			want := held[name+" "+balance.GetUnit()]
			if day := balance.GetWindow() == quotadv1.Window_WINDOW_DAY; day && balance.GetHeld() != want || balance.GetHeld() > want {
				return fmt.Errorf("%d are held by the open ones, and %v", want, balance)
			}
		}
	}
	return nil
}

// run makes so many calls, and tells of the first answer that none may have.
func (c *randomCalls) run(ctx context.Context, calls int) error {
	for range calls {
		err := c.call(ctx)
		switch status.Code(err) {
		case codes.OK, codes.ResourceExhausted, codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists, codes.InvalidArgument:
		default:
			return err
		}
		if err != nil && reason(err) == "" {
			return fmt.Errorf("a refusal without a reason: %w", err)
		}
	}
	return c.agree(ctx)
}

// randomRun runs calls that a seed makes, on a ledger of its own, and returns what was wrong.
func randomRun(t *testing.T, seed uint64, calls int, wrap func(service.Ledger) service.Ledger) (err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, openErr := store.Open(t.Context(), memengine.New(), store.Options{Defaults: quota.Defaults{Limits: fifty.Limits, UndeclaredLive: 100}})
		if openErr != nil {
			t.Fatal(openErr)
		}
		c := &randomCalls{serve(t, s, wrap(s)), rand.New(rand.NewPCG(seed, 0))}
		defer c.close()
		c.declare(t, app(), &quotadv1.Bucket{Name: "free"})
		err = c.run(t.Context(), calls)
	})
	return err
}

// Whatever calls come in whatever order, each is answered, or refused with a reason, and what is held is what is open.
func TestRandomCalls(t *testing.T) {
	seeds := uint64(20)
	if os.Getenv("QUOTAD_LONG") != "" {
		seeds = 2000
	}
	for seed := range seeds {
		if err := randomRun(t, seed, 60, func(l service.Ledger) service.Ledger { return l }); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// defective is a ledger that answers what was settled before with an error of its own, or that miscounts what is in flight.
type defective struct {
	service.Ledger
	miscounts bool
}

func (l defective) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	d, err := l.Ledger.Apply(ctx, op)
	if d.Outcome == quota.AlreadySettled && !l.miscounts {
		err = errors.New("it is settled already")
	}
	return d, err
}

func (l defective) Bucket(ctx context.Context, name string) (quota.View, error) {
	v, err := l.Ledger.Bucket(ctx, name)
	if l.miscounts {
		v.InFlight++
	}
	return v, err
}

// The control: a ledger that fails where it should refuse is found by some seed, and one that miscounts by any.
func TestRandomCallsFindDefects(t *testing.T) {
	found := 0
	for seed := range uint64(20) {
		if randomRun(t, seed, 60, func(l service.Ledger) service.Ledger { return defective{Ledger: l} }) != nil {
			found++
		}
	}
	if found == 0 {
		t.Error("a refusal that became an error was not found")
	}
	if randomRun(t, 0, 60, func(l service.Ledger) service.Ledger { return defective{Ledger: l, miscounts: true} }) == nil {
		t.Error("one in flight too many was not found")
	}
}
