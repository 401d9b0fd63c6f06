package service_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

const (
	everyState = quotadv1.ReservationState_RESERVATION_STATE_UNSPECIFIED
	stateOpen  = quotadv1.ReservationState_RESERVATION_STATE_OPEN
)

// list reads a whole listing, page after page; the number of its pages is checked by those who count them.
func (r *rig) list(t *testing.T, req *quotadv1.ListReservationsRequest) []*quotadv1.Reservation {
	t.Helper()
	var all []*quotadv1.Reservation
	for req = proto.CloneOf(req); ; {
		resp, err := r.ListReservations(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, resp.GetReservations()...)
		if n := len(resp.GetReservations()); n > 100 && n > int(req.GetPageSize()) || req.GetPageSize() > 0 && n > int(req.GetPageSize()) {
			t.Errorf("a page of %d where %d were asked for", n, req.GetPageSize())
		}
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			return all
		}
	}
}

func ids(rs []*quotadv1.Reservation) string {
	var found []string
	for _, r := range rs {
		found = append(found, r.GetRequestId())
	}
	return strings.Join(found, " ")
}

// The listing has each reservation once, with all there is to say of it, and can be narrowed by bucket, state and age.
func TestListReservations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		r.declare(t, app(), &quotadv1.Bucket{Name: "free", OnExpiry: quotadv1.OnExpiry_ON_EXPIRY_RELEASE})
		made := time.Now()
		if _, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "app", RequestId: "plain"}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"c", "b", "a"} { // those that expire first come first, whatever their ids
			r.hold(t, ctx, "app", "open-"+id, 10*time.Hour+time.Duration('z'-id[0])*time.Second)
		}
		r.hold(t, ctx, "app", "settled", time.Hour, charge("", "", 1), charge("free", "tokens", 3))
		r.hold(t, ctx, "app/below", "released", time.Hour)
		r.hold(t, ctx, "free", "expired", time.Hour)
		time.Sleep(time.Minute)
		settledAt := time.Now()
		if err := r.settle(ctx, "settled", charge("free", "usd_micros", 9), charge("free", "tokens", 0)); err != nil {
			t.Fatal(err)
		}
		if err := r.release(ctx, "released"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		r.hold(t, ctx, "app/below", "open-young", time.Minute)
		states := map[quotadv1.ReservationState]string{
			everyState: "expired open-a open-b open-c open-young released settled",
			stateOpen:  "open-young open-c open-b open-a",
			quotadv1.ReservationState_RESERVATION_STATE_SETTLED:  "settled",
			quotadv1.ReservationState_RESERVATION_STATE_RELEASED: "released",
			quotadv1.ReservationState_RESERVATION_STATE_EXPIRED:  "expired",
		}
		for state, want := range states {
			for size := range int32(9) {
				if got := ids(r.list(t, &quotadv1.ListReservationsRequest{State: state, PageSize: size})); got != want {
					t.Errorf("%v in pages of %d: %q, want %q", state, size, got, want)
				}
			}
		}
		for _, c := range []struct {
			req  *quotadv1.ListReservationsRequest
			want string
		}{
			{&quotadv1.ListReservationsRequest{Prefix: "app/below"}, "open-young released"},
			{&quotadv1.ListReservationsRequest{Prefix: "app"}, "open-a open-b open-c open-young released settled"},
			{&quotadv1.ListReservationsRequest{Prefix: "ap"}, ""},
			{&quotadv1.ListReservationsRequest{Prefix: "app", State: stateOpen, MinAge: durationpb.New(time.Second)}, "open-c open-b open-a"},
			{&quotadv1.ListReservationsRequest{MinAge: durationpb.New(time.Second)}, "expired open-a open-b open-c released settled"},
			{&quotadv1.ListReservationsRequest{MinAge: durationpb.New(61 * time.Minute), PageSize: 1}, "expired open-a open-b open-c released settled"},
			{&quotadv1.ListReservationsRequest{MinAge: durationpb.New(61*time.Minute + 1)}, ""},
			{&quotadv1.ListReservationsRequest{MinAge: &durationpb.Duration{Seconds: 300_000_000_000}}, ""},
			{&quotadv1.ListReservationsRequest{MinAge: durationpb.New(0), State: stateOpen}, "open-young open-c open-b open-a"},
		} {
			if got := ids(r.list(t, c.req)); got != c.want {
				t.Errorf("%v: %q, want %q", c.req, got, c.want)
			}
		}
		checkListed(t, r, made, settledAt)
	})
}

// checkListed tells whether what is listed is told in full.
func checkListed(t *testing.T, r *rig, made, settledAt time.Time) {
	t.Helper()
	for _, l := range r.list(t, &quotadv1.ListReservationsRequest{}) {
		if l.GetPrincipal() != "local" || l.GetExpireTime() == nil || l.GetCreateTime() == nil || (l.GetEndTime() == nil) != (l.GetState() == stateOpen) {
			t.Errorf("%v", l)
		}
		switch l.GetRequestId() {
		case "settled":
			if amountsOf(l.GetCharges()) != "app calls 1, free tokens 3" || amountsOf(l.GetSettled()) != "app calls 1, free tokens 0, free usd_micros 9" ||
				!l.GetCreateTime().AsTime().Equal(made) || !l.GetEndTime().AsTime().Equal(settledAt) || l.GetBucket() != "app" || l.GetLate() {
				t.Errorf("%v", l)
			}
		case "expired":
			if l.GetOnExpiry() != quotadv1.OnExpiry_ON_EXPIRY_RELEASE || len(l.GetSettled()) != 0 || !l.GetExpireTime().AsTime().Equal(made.Add(time.Hour)) {
				t.Errorf("%v", l)
			}
		}
	}
}

// A token of another listing, or none at all, is refused and names its field.
func TestReservationTokens(t *testing.T) {
	r := start(t, memengine.New(), fifty)
	defer r.close()
	for i := range 3 {
		r.hold(t, t.Context(), "a", strconv.Itoa(i), time.Hour)
	}
	page := func(state quotadv1.ReservationState, token string) (string, error) {
		resp, err := r.ListReservations(t.Context(), &quotadv1.ListReservationsRequest{State: state, PageSize: 1, PageToken: token})
		return resp.GetNextPageToken(), err
	}
	open, err := page(stateOpen, "")
	if err != nil || open == "" {
		t.Fatal(open, err)
	}
	every, err := page(everyState, "")
	if err != nil || every == "" {
		t.Fatal(every, err)
	}
	for state, tokens := range map[quotadv1.ReservationState][]string{
		stateOpen:  {every, "nonsense", "12", "\x00", open[:1], "x" + open, strings.Replace(open, "\x00", "", 1)},
		everyState: {open, "nonsense", "used/2026-11-22\x00a", "\x00", strings.ReplaceAll(every, "\x00", "")},
	} {
		for _, token := range tokens {
			if _, err := page(state, token); status.Code(err) != codes.InvalidArgument || !slices.Equal(fields(err), []string{"page_token"}) {
				t.Errorf("%v %q: %v", state, token, err)
			}
		}
	}
}

// Reservations makes a listing of a shown ledger: as many as there are in its picture, each as large as can be.
func (s *shown) Reservations(_ context.Context, q store.ReservationQuery) (found []quota.Reservation, next string, err error) {
	s.pageMax.Store(max(s.pageMax.Load(), int64(q.Max)))
	first := 0
	if q.After != "" {
		if first, err = strconv.Atoi(q.After); err != nil {
			return nil, "", fmt.Errorf("%q: %w", q.After, store.ErrPageToken)
		}
	}
	views := s.picture.Load().views
	last := min(first+q.Max, len(views))
	for n := first; n < last; n++ {
		found = append(found, aReservation(n, len(views[n].Balances)))
	}
	if last < len(views) {
		next = strconv.Itoa(last)
	}
	return found, next, nil
}

// aReservation has as many charges, each of another unit, and takes as many bytes as it can.
func aReservation(n, charges int) quota.Reservation {
	r := quota.Reservation{
		Principal: "local", RequestID: strconv.Itoa(n), Phase: quota.PhaseSettled, Made: time.Unix(1<<40, 1),
		Hold: quota.Hold{Bucket: quota.Bucket(largeName(0)), Expiry: time.Unix(1<<40, 1), Ended: time.Unix(1<<40, 1), Late: true},
	}
	for i := range charges {
		unit := fmt.Sprintf("u%03d", i)
		unit += strings.Repeat("v", quota.UnitBytesMax-len(unit))
		r.Charges = append(r.Charges, quota.HeldCharge{Bucket: r.Bucket, Unit: quota.Unit(unit), Amount: quota.CountMax, Used: quota.CountMax})
	}
	return r
}

// A page of large reservations ends where its bytes do, and the next goes on there; no message is too large for a client.
func TestReservationPages(t *testing.T) {
	for _, c := range []struct {
		what                    string
		n, charges, size, pages int
	}{
		{"small", 1000, 1, 1000, 1},
		{"small, in pages", 1000, 1, 300, 4},
		{"of 32 charges", 300, 32, 1000, 5},
		{"of all counts that one may touch", 50, quota.CountsMax, 1000, 5},
	} {
		views := make([]quota.View, c.n)
		for i := range views {
			views[i].Balances = make([]quota.Balance, c.charges)
		}
		r, l := startShown(t, views)
		seen, pages, token := 0, 0, ""
		for {
			resp, err := r.ListReservations(t.Context(), &quotadv1.ListReservationsRequest{PageSize: int32(c.size), PageToken: token})
			if err != nil {
				t.Fatal(c.what, err)
			}
			for _, found := range resp.GetReservations() {
				if found.GetRequestId() != strconv.Itoa(seen) {
					t.Fatalf("%s: %s is listed where %d should be", c.what, found.GetRequestId(), seen)
				}
				seen++
			}
			if n := proto.Size(resp); n > 3*pageBytes || len(resp.GetReservations()) > c.size {
				t.Errorf("%s: a page of %d in %d bytes", c.what, len(resp.GetReservations()), n)
			}
			pages++
			if token = resp.GetNextPageToken(); token == "" {
				break
			}
		}
		if seen != c.n || pages != c.pages {
			t.Errorf("%s: %d of %d on %d pages, want %d", c.what, seen, c.n, pages, c.pages)
		}
		if n := l.pageMax.Load(); n > 10 {
			t.Errorf("%s: one snapshot had %d", c.what, n)
		}
		r.close()
	}
}

// Whoever watches sees what is held, and that it is not held any more when a reservation expires and nobody calls.
func TestWatchReservations(t *testing.T) {
	for on, used := range map[quotadv1.OnExpiry]int64{quotadv1.OnExpiry_ON_EXPIRY_CHARGE: 4, quotadv1.OnExpiry_ON_EXPIRY_RELEASE: 0} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, memengine.New(), fifty)
			defer r.close()
			ctx := t.Context()
			r.declare(t, &quotadv1.Bucket{Name: "app", Limits: []*quotadv1.Limit{{Max: 10}}, OnExpiry: on})
			w, err := r.WatchUsage(ctx, &quotadv1.WatchUsageRequest{Prefix: "app"})
			if err != nil {
				t.Fatal(err)
			}
			next := func(what string, used, held int64) {
				t.Helper()
				resp, err := w.Recv()
				if err != nil {
					t.Fatal(err)
				}
				wantLines(t, what, resp.GetBalances(), fmt.Sprintf("app calls %d+%d/10 2000-01-01", used, held))
			}
			next("at first", 0, 0)
			began := time.Now()
			r.hold(t, ctx, "app", "id", 90*time.Second, charge("", "", 4))
			next("held", 0, 4)
			next("expired", used, 0)
			if after := time.Since(began); after < 90*time.Second || after > 92*time.Second {
				t.Errorf("it was told after %v", after)
			}
			r.hold(t, ctx, "app", "other", time.Minute, charge("", "", 1))
			next("held again", used, 1)
			if err := r.settle(ctx, "other", charge("", "", 3)); err != nil {
				t.Fatal(err)
			}
			next("settled", used+3, 0)
		})
	}
}
