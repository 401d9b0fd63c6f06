package service_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store/memengine"
)

func charge(bucket, unit string, amount int64) *quotadv1.Charge {
	return &quotadv1.Charge{Bucket: bucket, Unit: unit, Amount: &amount}
}

// declare declares buckets, or ends the test.
func (r *rig) declare(t *testing.T, buckets ...*quotadv1.Bucket) {
	t.Helper()
	for _, b := range buckets {
		if _, err := r.SetBucket(t.Context(), &quotadv1.SetBucketRequest{Bucket: b}); err != nil {
			t.Fatal(err)
		}
	}
}

// hold makes a reservation, or ends the test.
func (r *rig) hold(t *testing.T, ctx context.Context, bucket, id string, hold time.Duration, charges ...*quotadv1.Charge) *quotadv1.AcquireResponse {
	t.Helper()
	resp, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: bucket, RequestId: id, Hold: durationpb.New(hold), Charges: charges})
	if err != nil {
		t.Fatalf("holding %s: %v", id, err)
	}
	return resp
}

func (r *rig) settle(ctx context.Context, id string, charges ...*quotadv1.Charge) error {
	_, err := r.Settle(ctx, &quotadv1.SettleRequest{RequestId: id, Charges: charges})
	return err
}

func (r *rig) release(ctx context.Context, id string) error {
	_, err := r.Release(ctx, &quotadv1.ReleaseRequest{RequestId: id})
	return err
}

func (r *rig) extend(ctx context.Context, id string, hold time.Duration) error {
	_, err := r.Extend(ctx, &quotadv1.ExtendRequest{RequestId: id, Hold: durationpb.New(hold)})
	return err
}

// lines says of each balance how much is used and held, such as "app calls 1+2/10 2000-01-01".
func lines(bs []*quotadv1.Balance) []string {
	var out []string
	for _, b := range bs {
		limit := "-"
		if b.Limit != nil {
			limit = fmt.Sprint(b.GetLimit())
		}
		line := fmt.Sprintf("%s %s %d+%d/%s %s", b.GetBucket(), b.GetUnit(), b.GetUsed(), b.GetHeld(), limit, b.GetWindowLabel())
		if over := b.GetOverage(); over > 0 {
			line += fmt.Sprintf(" over %d", over)
		}
		out = append(out, line)
	}
	return out
}

func wantLines(t *testing.T, what string, bs []*quotadv1.Balance, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, lines(bs)); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

// usage returns how a bucket stands.
func (r *rig) usage(t *testing.T, bucket string) []*quotadv1.Balance {
	t.Helper()
	resp, err := r.GetBucket(t.Context(), &quotadv1.GetBucketRequest{Name: bucket})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetBucket().GetBalances()
}

func app() *quotadv1.Bucket {
	return &quotadv1.Bucket{Name: "app", Limits: []*quotadv1.Limit{{Max: 10}, {Unit: "tokens", Max: 1000}}}
}

// From the hold over its extension to what was used: each answer says how the counts stand, and each sent again changes nothing.
func TestReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		r.declare(t, app())
		began := time.Now()
		for _, replayed := range []bool{false, true} {
			resp := r.hold(t, ctx, "app", "id", time.Minute, charge("", "", 1), charge("", "tokens", 400))
			wantLines(t, "acquire", resp.GetBalances(), "app calls 0+1/10 2000-01-01", "app tokens 0+400/1000 2000-01-01")
			if resp.GetReplayed() != replayed || !resp.GetExpireTime().AsTime().Equal(began.Add(time.Minute)) || resp.GetState() != stateOpen {
				t.Errorf("%v", resp)
			}
		}
		time.Sleep(30 * time.Second)
		for _, replayed := range []bool{false, true} {
			resp, err := r.Extend(ctx, &quotadv1.ExtendRequest{
				RequestId: "id", ExtendId: "more", Hold: durationpb.New(time.Minute), Charges: []*quotadv1.Charge{charge("", "tokens", 100)},
			})
			if err != nil {
				t.Fatal(err)
			}
			wantLines(t, "extend", resp.GetBalances(), "app calls 0+1/10 2000-01-01", "app tokens 0+500/1000 2000-01-01")
			if resp.GetReplayed() != replayed || !resp.GetExpireTime().AsTime().Equal(began.Add(90*time.Second)) || resp.GetState() != stateOpen {
				t.Errorf("%v", resp)
			}
		}
		for _, replayed := range []bool{false, true} {
			resp, err := r.Settle(ctx, &quotadv1.SettleRequest{RequestId: "id", Charges: []*quotadv1.Charge{charge("", "tokens", 1200), charge("app", "usd_micros", 7)}})
			if err != nil {
				t.Fatal(err)
			}
			wantLines(t, "settle", resp.GetBalances(),
				"app calls 1+0/10 2000-01-01", "app tokens 1200+0/1000 2000-01-01 over 200", "app usd_micros 7+0/- 2000-01-01")
			if resp.GetReplayed() != replayed || resp.GetLate() {
				t.Errorf("%v", resp)
			}
		}
		if resp := r.hold(t, ctx, "app", "id", time.Minute, charge("", "", 1), charge("", "tokens", 400)); !resp.GetReplayed() || resp.GetState() != quotadv1.ReservationState_RESERVATION_STATE_SETTLED {
			t.Errorf("a settled one was acquired again: %v", resp)
		}
		r.hold(t, ctx, "app", "failed", 0, charge("", "", 2))
		for _, replayed := range []bool{false, true} {
			resp, err := r.Release(ctx, &quotadv1.ReleaseRequest{RequestId: "failed"})
			if err != nil || resp.GetReplayed() != replayed || resp.GetLate() {
				t.Fatal(resp, err)
			}
			wantLines(t, "release", resp.GetBalances(), "app calls 1+0/10 2000-01-01")
		}
	})
}

// A plain acquire can be given back, and nothing else.
func TestReleaseOfAPlainAcquire(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	if _, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a", RequestId: "id", Charges: []*quotadv1.Charge{charge("", "", 3)}}); err != nil {
		t.Fatal(err)
	}
	if resp, err := r.Release(ctx, &quotadv1.ReleaseRequest{RequestId: "id"}); err != nil || resp.GetReplayed() || resp.GetBalances()[0].GetUsed() != 0 {
		t.Errorf("%v, %v", resp, err)
	}
	_, again := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "a", RequestId: "id", Charges: []*quotadv1.Charge{charge("", "", 3)}})
	for what, err := range map[string]error{"settle": r.settle(ctx, "id"), "extend": r.extend(ctx, "id", time.Minute), "acquire": again} {
		const text = `request_id: "id" was released before; nothing of it is charged: use a new id to acquire again`
		if reason(err) != service.ReasonAlreadyReleased || status.Convert(err).Message() != text {
			t.Errorf("%s: %v", what, err)
		}
		if d, has := detail[*quotadv1.Reservation](err); has {
			t.Errorf("%s: it was no reservation: %v", what, d)
		}
	}
}

// What was held yesterday is settled there, and the answer shows yesterday.
func TestSettledAfterMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		r.declare(t, app())
		time.Sleep(24*time.Hour - time.Minute)
		r.hold(t, ctx, "app", "settled", time.Hour, charge("", "", 2))
		r.hold(t, ctx, "app", "released", time.Hour, charge("", "", 3))
		time.Sleep(2 * time.Minute)
		r.hold(t, ctx, "app", "today", time.Hour, charge("", "", 1))
		settled, err := r.Settle(ctx, &quotadv1.SettleRequest{RequestId: "settled", Charges: []*quotadv1.Charge{charge("", "", 11), charge("", "usd_micros", 5)}})
		if err != nil {
			t.Fatal(err)
		}
		wantLines(t, "settle", settled.GetBalances(), "app calls 11+3/10 2000-01-01 over 1", "app usd_micros 5+0/- 2000-01-01")
		if b := settled.GetBalances()[0]; b.GetEnd().AsTime().After(time.Now()) || b.GetStart() == nil {
			t.Errorf("the window of then is not shown: %v", b)
		}
		released, err := r.Release(ctx, &quotadv1.ReleaseRequest{RequestId: "released"})
		if err != nil {
			t.Fatal(err)
		}
		wantLines(t, "release", released.GetBalances(), "app calls 11+0/10 2000-01-01 over 1")
		wantLines(t, "today", r.usage(t, "app"), "app calls 0+1/10 2000-01-02", "app tokens 0+0/1000 2000-01-02")
	})
}

// Every refusal of the new calls has its code and its reason, and says how the reservation stands where it ended.
func TestReservationRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		r.declare(t, app())
		if _, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "app", RequestId: "plain"}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"settled", "released", "expired", "extended"} {
			r.hold(t, ctx, "app", id, time.Minute, charge("", "", 1), charge("", "tokens", 9))
		}
		first := []*quotadv1.Charge{charge("", "tokens", 7)}
		more := &quotadv1.ExtendRequest{RequestId: "extended", ExtendId: "x", Hold: durationpb.New(time.Hour), Charges: first}
		_, extended := r.Extend(ctx, more)
		for what, err := range map[string]error{"settle": r.settle(ctx, "settled", first...), "release": r.release(ctx, "released"), "extend": extended} {
			if err != nil {
				t.Fatal(what, err)
			}
		}
		time.Sleep(2 * time.Minute)
		more.Charges = []*quotadv1.Charge{charge("", "tokens", 8)}
		_, reused := r.Extend(ctx, more)
		_, otherwise := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "app", RequestId: "extended", Hold: durationpb.New(time.Hour)})
		precondition := codes.FailedPrecondition
		const none, settled = quotadv1.ReservationState_RESERVATION_STATE_UNSPECIFIED, quotadv1.ReservationState_RESERVATION_STATE_SETTLED
		const released, expired = quotadv1.ReservationState_RESERVATION_STATE_RELEASED, quotadv1.ReservationState_RESERVATION_STATE_EXPIRED
		const over = "at 2000-01-01T00:01:00Z; it can be settled or released, and nothing else: use a new id to acquire again"
		for _, c := range []struct {
			what  string
			err   error
			code  codes.Code
			why   string
			state quotadv1.ReservationState // of the Reservation in the details; none without one
			text  string
		}{
			{"settle nothing", r.settle(ctx, "never"), codes.NotFound, service.ReasonUnknownReservation, none, `"never"`},
			{"release nothing", r.release(ctx, "never"), codes.NotFound, service.ReasonUnknownReservation, none, `"never"`},
			{"extend nothing", r.extend(ctx, "never", time.Hour), codes.NotFound, service.ReasonUnknownReservation, none, `"never"`},
			{"settle a plain one", r.settle(ctx, "plain"), precondition, service.ReasonNotReservation, none, "without hold"},
			{"extend a plain one", r.extend(ctx, "plain", time.Hour), precondition, service.ReasonNotReservation, none, "without hold"},
			{"settle otherwise", r.settle(ctx, "settled"), precondition, service.ReasonAlreadySettled, settled, "at 2000-01-01T00:00:00Z, with 1 calls, 7 tokens"},
			{"release a settled one", r.release(ctx, "settled"), precondition, service.ReasonAlreadySettled, settled, "1 calls, 7 tokens"},
			{"extend a settled one", r.extend(ctx, "settled", time.Hour), precondition, service.ReasonAlreadySettled, settled, "1 calls, 7 tokens"},
			{"settle a released one", r.settle(ctx, "released"), precondition, service.ReasonAlreadyReleased, released, "at 2000-01-01T00:00:00Z"},
			{"extend a released one", r.extend(ctx, "released", time.Hour), precondition, service.ReasonAlreadyReleased, released, "nothing of it is charged"},
			{"extend too late", r.extend(ctx, "expired", time.Hour), precondition, service.ReasonExpired, expired, `"expired" has expired, ` + over},
			{"extend otherwise", reused, codes.AlreadyExists, service.ReasonRequestIDReused, none, `extend_id: "x" was used before for something else; use a new id for a new extension`},
			{"acquire otherwise", otherwise, codes.AlreadyExists, service.ReasonRequestIDReused, none, `request_id: "extended" was used before for something else; use a new id for a new request`},
		} {
			if status.Code(c.err) != c.code || reason(c.err) != c.why || !strings.Contains(c.err.Error(), c.text) {
				t.Errorf("%s: %v (%s), want %v %s and %q", c.what, c.err, reason(c.err), c.code, c.why, c.text)
			}
			if d, _ := detail[*quotadv1.Reservation](c.err); d.GetState() != c.state {
				t.Errorf("%s: %v in the details, want %v", c.what, d, c.state)
			}
		}
		d, _ := detail[*quotadv1.Reservation](r.settle(ctx, "settled"))
		if d.GetRequestId() != "settled" || d.GetBucket() != "app" || d.GetLate() || d.GetEndTime() == nil ||
			amountsOf(d.GetCharges()) != "app calls 1, app tokens 9" || amountsOf(d.GetSettled()) != "app calls 1, app tokens 7" {
			t.Errorf("the first settlement is not told: %v", d)
		}
		wantLines(t, "after all refusals", r.usage(t, "app"), "app calls 3+1/10 2000-01-01", "app tokens 16+16/1000 2000-01-01")
	})
}

// What was given back is not granted by sending its acquire or its extension again, and the answer says what to do.
func TestSentAgainAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		r.declare(t, app(), &quotadv1.Bucket{Name: "back", OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_RELEASE})
		acquire := func(bucket, id string) error {
			_, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: bucket, RequestId: id, Hold: durationpb.New(time.Minute)})
			return err
		}
		extend := func(id string) error {
			_, err := r.Extend(ctx, &quotadv1.ExtendRequest{RequestId: id, ExtendId: "x", Charges: []*quotadv1.Charge{charge("", "tokens", 1)}})
			return err
		}
		both := func(bucket, id string) {
			t.Helper()
			if err := errors.Join(acquire(bucket, id), extend(id), acquire(bucket, id), extend(id)); err != nil {
				t.Fatal(err)
			}
		}
		for id, bucket := range map[string]string{"settled": "app", "released": "app", "charged": "app", "expired": "back"} {
			both(bucket, id)
		}
		if err := errors.Join(r.settle(ctx, "settled", charge("", "", 0)), r.release(ctx, "released")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		both("app", "settled")
		both("app", "charged")
		const anew = ": use a new id to acquire again"
		for id, want := range map[string]struct {
			bucket, why string
			state       quotadv1.ReservationState
			text        string
		}{
			"released": {"app", service.ReasonAlreadyReleased, quotadv1.ReservationState_RESERVATION_STATE_RELEASED, "was released before, at 2000-01-01T00:00:00Z; nothing of it is charged" + anew},
			"expired":  {"back", service.ReasonExpired, quotadv1.ReservationState_RESERVATION_STATE_EXPIRED, "has expired, at 2000-01-01T00:01:00Z; it can be settled or released, and nothing else" + anew},
		} {
			for what, err := range map[string]error{"acquire": acquire(want.bucket, id), "extend": extend(id)} {
				d, _ := detail[*quotadv1.Reservation](err)
				if text := fmt.Sprintf("request_id: %q %s", id, want.text); reason(err) != want.why || status.Convert(err).Message() != text || d.GetState() != want.state {
					t.Errorf("%s %s: %v with %v, want %s, %v and %s", what, id, err, d, want.why, want.state, text)
				}
			}
		}
	})
}

// Where something else than the reservation's own bucket was charged, a text says so.
func TestSettlementNamesOtherBuckets(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	ctx := t.Context()
	r.hold(t, ctx, "a", "id", time.Minute, charge("", "", 1), charge("b", "", 2))
	if err := r.settle(ctx, "id", charge("b", "", 5), charge("b", "tokens", 7)); err != nil {
		t.Fatal(err)
	}
	if err := r.settle(ctx, "id"); !strings.HasSuffix(status.Convert(err).Message(), ", with 1 calls, 5 calls of b, 7 tokens of b") {
		t.Errorf("%v", err)
	}
}

func amountsOf(charges []*quotadv1.Charge) string {
	var parts []string
	for _, c := range charges {
		parts = append(parts, fmt.Sprintf("%s %s %d", c.GetBucket(), c.GetUnit(), c.GetAmount()))
	}
	return strings.Join(parts, ", ")
}

// A late settlement corrects what the expiry decided; so does a late release.
func TestLate(t *testing.T) {
	for _, c := range []struct {
		on                       quotadv1.OnExpiry
		expired, settled, undone string
	}{
		{quotadv1.OnExpiry_ON_EXPIRY_UNSPECIFIED, "app calls 4+0/10 2000-01-01", "app calls 6+0/10 2000-01-01", "app calls 5+0/10 2000-01-01"},
		{quotadv1.OnExpiry_ON_EXPIRY_RELEASE, "app calls 0+0/10 2000-01-01", "app calls 5+0/10 2000-01-01", "app calls 5+0/10 2000-01-01"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, memengine.New(), fifty)
			defer r.close()
			ctx := t.Context()
			r.declare(t, &quotadv1.Bucket{Name: "app", Limits: []*quotadv1.Limit{{Max: 10}}, OnExpiry: c.on})
			r.hold(t, ctx, "app", "settled", time.Minute, charge("", "", 3))
			r.hold(t, ctx, "app", "released", time.Minute, charge("", "", 1))
			time.Sleep(time.Minute)
			wantLines(t, "expired", r.usage(t, "app"), c.expired)
			again, err := r.Acquire(ctx, &quotadv1.AcquireRequest{
				Bucket: "app", RequestId: "settled", Hold: durationpb.New(time.Minute), Charges: []*quotadv1.Charge{charge("", "", 3)},
			})
			if c.on == quotadv1.OnExpiry_ON_EXPIRY_RELEASE && reason(err) != service.ReasonExpired {
				t.Errorf("acquired again what was given back: %v, %v", again, err)
			}
			if c.on != quotadv1.OnExpiry_ON_EXPIRY_RELEASE && (!again.GetReplayed() || again.GetState() != quotadv1.ReservationState_RESERVATION_STATE_EXPIRED) {
				t.Errorf("acquired again what was charged: %v, %v", again, err)
			}
			for _, replayed := range []bool{false, true} {
				settled, err := r.Settle(ctx, &quotadv1.SettleRequest{RequestId: "settled", Charges: []*quotadv1.Charge{charge("", "", 5)}})
				if err != nil || settled.GetReplayed() != replayed || !settled.GetLate() {
					t.Fatal(settled, err)
				}
				wantLines(t, "settled", settled.GetBalances(), c.settled)
			}
			for _, replayed := range []bool{false, true} {
				if resp, err := r.Release(ctx, &quotadv1.ReleaseRequest{RequestId: "released"}); err != nil || resp.GetReplayed() != replayed || !resp.GetLate() {
					t.Fatal(resp, err)
				}
			}
			wantLines(t, "released", r.usage(t, "app"), c.undone)
			for _, l := range r.list(t, &quotadv1.ListReservationsRequest{}) {
				if !l.GetLate() || !l.GetEndTime().AsTime().Equal(time.Now()) {
					t.Errorf("%v", l)
				}
			}
		})
	}
}

// An id is its caller's: nobody else can see by it whether there is such a reservation, or touch it.
func TestSomebodyElse(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	alice, bob := as(t.Context(), "alice"), as(t.Context(), "bob")
	r.hold(t, alice, "a", "id", time.Minute, charge("", "", 2))
	if _, err := r.Acquire(alice, &quotadv1.AcquireRequest{Bucket: "a", RequestId: "plain"}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"id", "plain"} {
		for what, err := range map[string]error{
			"settle": r.settle(bob, id), "release": r.release(bob, id), "extend": r.extend(bob, id, time.Hour),
		} {
			if status.Code(err) != codes.NotFound || reason(err) != service.ReasonUnknownReservation {
				t.Errorf("%s %s: %v", what, id, err)
			}
			if _, told := detail[*quotadv1.Reservation](err); told {
				t.Errorf("%s %s: somebody else is told of it", what, id)
			}
		}
	}
	r.hold(t, bob, "a", "id", time.Minute, charge("", "", 3))
	if err := r.settle(bob, "id", charge("", "", 4)); err != nil {
		t.Error(err)
	}
	wantLines(t, "alice's is as it was", r.usage(t, "a"), "a calls 5+2/50 "+time.Now().UTC().Format(time.DateOnly))
	var who []string
	for _, l := range r.list(t, &quotadv1.ListReservationsRequest{}) {
		who = append(who, l.GetPrincipal()+" "+l.GetState().String())
	}
	if !slices.Equal(who, []string{"alice RESERVATION_STATE_OPEN", "bob RESERVATION_STATE_SETTLED"}) {
		t.Errorf("%q", who)
	}
}
