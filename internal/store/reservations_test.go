package store_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// allPages returns all pages of a listing, and how many there were.
func allPages(t *testing.T, s *store.Store, q store.ReservationQuery) (found []quota.Reservation, pages int) {
	t.Helper()
	for {
		page, next, err := s.Reservations(t.Context(), q)
		if err != nil || len(page) > q.Max {
			t.Fatalf("%d of %d: %v", len(page), q.Max, err)
		}
		found = append(found, page...)
		if pages++; next == "" {
			return found, pages
		}
		if next == q.After {
			t.Fatalf("the page after %q is the same again", next)
		}
		q.After = next
	}
}

func idsOf(found []quota.Reservation) []string {
	ids := make([]string, len(found))
	for i, r := range found {
		ids[i] = r.Principal + "/" + r.RequestID
	}
	return ids
}

// kept is a reservation as a test made it.
type kept struct {
	id      string // with its caller
	bucket  quota.Bucket
	made    time.Time
	expiry  time.Time
	phase   quota.Phase
	changed string // the date of its last change
}

// someReservations makes reservations of all phases over two days, by two callers, some of them with the same ids.
func someReservations(t *testing.T, s *store.Store, rng *rand.Rand) []kept {
	t.Helper()
	var all []kept
	for i := range 90 {
		k := kept{bucket: quota.Bucket([]string{"app", "app/a", "app/b", "application", "z"}[rng.IntN(5)])}
		op := reserving(string(k.bucket), fmt.Sprintf("id-%d", i/2), time.Duration(10+rng.IntN(14*60))*time.Minute)
		op.Principal = []string{"ann", "bob"}[i%2]
		d := do(t, s, op, quota.Done)
		k.id, k.made, k.expiry = op.Principal+"/"+op.RequestID, time.Now(), d.Expiry
		all = append(all, k)
		do(t, s, acquire("app/a", fmt.Sprintf("plain-%d", i)), quota.Done)
		time.Sleep(time.Duration(rng.IntN(40)) * time.Minute)
		if rng.IntN(2) == 0 {
			continue
		}
		pick := &all[rng.IntN(len(all))]
		caller, id, _ := strings.Cut(pick.id, "/")
		var op2 quota.Op = quota.Settle{Principal: caller, RequestID: id}
		ends := quota.PhaseSettled
		if rng.IntN(2) == 0 {
			op2, ends = quota.Release{Principal: caller, RequestID: id}, quota.PhaseReleased
		}
		if d, err := s.Apply(t.Context(), op2); err != nil {
			t.Fatal(err)
		} else if d.Outcome == quota.Done && !d.Replayed {
			pick.phase, pick.changed = ends, time.Now().Format(time.DateOnly)
		}
	}
	synctest.Wait()
	for i := range all {
		k := &all[i]
		switch {
		case k.phase != 0:
		case k.expiry.After(time.Now()):
			k.phase, k.changed = quota.PhaseOpen, k.made.Format(time.DateOnly)
		default:
			k.phase, k.changed = quota.PhaseExpired, k.expiry.Format(time.DateOnly)
		}
	}
	return all
}

// Listings have what is asked for and nothing else, each once and in order, whatever the size of the pages: open ones by when they
// expire, all by the date of their last change and then by caller and id.
func TestReservationPages(t *testing.T) {
	for seed := range 3 {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(seed), 9))
				s := open(t, memengine.New(), store.Options{Defaults: quota.Defaults{Limits: onExpiry("", 0).Settings.Limits, UndeclaredLive: 100}})
				defer closeStore(t, s)
				for _, name := range []string{"app", "app/*", "application", "z"} {
					do(t, s, quota.SetBucket{Name: name}, quota.Done)
				}
				all := someReservations(t, s, rng)
				for n := range 400 {
					q := store.ReservationQuery{
						Prefix: quota.Bucket([]string{"", "app", "app/a", "z", "nobody"}[rng.IntN(5)]),
						Phase:  quota.Phase(n % 5), Max: 1 + rng.IntN(1+rng.IntN(100)),
					}
					if rng.IntN(2) == 0 {
						q.MinAge = time.Duration(rng.IntN(30*60)) * time.Minute
					}
					found, _ := allPages(t, s, q)
					if diff := gocmp.Diff(wanted(all, q), idsOf(found)); diff != "" {
						t.Fatalf("%+v: %s", q, diff)
					}
				}
			})
		})
	}
}

// wanted is what a query is to find, in order.
func wanted(all []kept, q store.ReservationQuery) []string {
	var found []kept
	for _, k := range all {
		within := q.Prefix == "" || k.bucket == q.Prefix || strings.HasPrefix(string(k.bucket), string(q.Prefix)+"/")
		if within && time.Since(k.made) >= q.MinAge && (q.Phase == quota.PhaseUsed || q.Phase == k.phase) {
			found = append(found, k)
		}
	}
	slices.SortFunc(found, func(a, b kept) int {
		if q.Phase == quota.PhaseOpen {
			return cmp.Or(a.expiry.Compare(b.expiry), cmp.Compare(a.id, b.id))
		}
		return cmp.Or(cmp.Compare(a.changed, b.changed), cmp.Compare(a.id, b.id))
	})
	ids := make([]string, len(found))
	for i, k := range found {
		ids[i] = k.id
	}
	return ids
}

// A listing shows what a reservation is, and of an extended one all that it holds.
func TestReservationShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memengine.New(), store.Options{Defaults: fifty})
		defer closeStore(t, s)
		made := time.Now()
		do(t, s, reserving("a", "id", time.Hour, quota.Charge{Amount: 2}), quota.Done)
		time.Sleep(time.Minute)
		do(t, s, extending("id", "more", time.Hour, quota.Charge{Unit: "tokens", Amount: 7}), quota.Done)
		want := quota.Reservation{Principal: "test", RequestID: "id", Phase: quota.PhaseOpen, Made: made.UTC(), Hold: quota.Hold{
			Bucket: "a", Expiry: made.Add(61 * time.Minute).UTC(),
			Charges: []quota.HeldCharge{{Bucket: "a", Unit: quota.Calls, Amount: 2}, {Bucket: "a", Unit: "tokens", Amount: 7}},
		}}
		for _, phase := range []quota.Phase{quota.PhaseUsed, quota.PhaseOpen} {
			found, _ := allPages(t, s, store.ReservationQuery{Phase: phase, Max: 5})
			if diff := gocmp.Diff([]quota.Reservation{want}, found); diff != "" {
				t.Error(diff)
			}
		}
		do(t, s, settling("id", quota.Charge{Amount: 1}), quota.Done)
		want.Phase, want.Ended = quota.PhaseSettled, time.Now().UTC()
		want.Charges[0].Used, want.Charges[1].Used = 1, 7
		found, _ := allPages(t, s, store.ReservationQuery{Phase: quota.PhaseSettled, Max: 5})
		if diff := gocmp.Diff([]quota.Reservation{want}, found); diff != "" {
			t.Error(diff)
		}
	})
}

// What is no page token is refused, and so is one of the other listing.
func TestReservationTokens(t *testing.T) {
	s := open(t, memengine.New(), store.Options{Defaults: fifty})
	defer closeStore(t, s)
	for i := range 3 {
		do(t, s, reserving("a", fmt.Sprintf("id-%d", i), time.Hour), quota.Done)
	}
	good := make(map[quota.Phase]string)
	for _, phase := range []quota.Phase{quota.PhaseUsed, quota.PhaseOpen} {
		_, next, err := s.Reservations(t.Context(), store.ReservationQuery{Phase: phase, Max: 1})
		if err != nil || next == "" {
			t.Fatalf("%q, %v", next, err)
		}
		good[phase] = next
	}
	for phase, tokens := range map[quota.Phase][]string{
		quota.PhaseOpen: {
			good[quota.PhaseUsed], "x", "\x00", "12", "12\x00", "12\x00a", "12\x00a\x00", "-12\x00a\x00b", "a\x00a\x00b", "12\x00a\x00b\x00c\x00d",
			"99999999999999999999\x00a\x00b", "\x00a\x00b",
		},
		quota.PhaseUsed:    {good[quota.PhaseOpen], "x", "\x00", "receipts/2000-01-01", "used/2000-01-01\x00a", "receipts\x00a"},
		quota.PhaseSettled: {good[quota.PhaseOpen], "x"},
	} {
		for _, token := range tokens {
			found, next, err := s.Reservations(t.Context(), store.ReservationQuery{Phase: phase, Max: 1, After: token})
			if !errors.Is(err, store.ErrPageToken) || len(found) > 0 || next != "" {
				t.Errorf("%v after %q: %v %q, %v", phase, token, idsOf(found), next, err)
			}
		}
	}
}

// A page looks at a bounded number of records. One that found nothing among them is empty, and not the last.
func TestReservationPagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{Defaults: fifty})
		do(t, s, reserving("z", "zz", 2*time.Hour), quota.Done)
		do(t, s, reserving("many", "first", time.Hour), quota.Done)
		closeStore(t, s)
		const many = store.LooksMax + 10
		err := e.Update(t.Context(), func(tx store.Tx) error {
			sp := spoiler{t, tx}
			r := sp.receiptOf("first")
			for i := range many {
				id := fmt.Sprintf("id-%06d", i)
				sp.put(receiptsOfFirstDay, store.ReceiptKey(receiptID(id)), store.AppendReceipt(nil, r))
				sp.expiry(r.Hold.Expiry, id, r.Time, "many")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s = open(t, noClose{e}, store.Options{Defaults: fifty})
		defer closeStore(t, s)
		for _, q := range []store.ReservationQuery{
			{Prefix: "z", Phase: quota.PhaseOpen, Max: 10}, {Prefix: "z", Max: 10},
		} {
			page, next, err := s.Reservations(t.Context(), q)
			if err != nil || len(page) > 0 || next == "" {
				t.Errorf("the first page: %v %q, %v", idsOf(page), next, err)
			}
			found, pages := allPages(t, s, q)
			if ids := idsOf(found); !slices.Equal(ids, []string{"test/zz"}) || pages != 2 {
				t.Errorf("%v on %d pages", ids, pages)
			}
		}
		found, pages := allPages(t, s, store.ReservationQuery{Phase: quota.PhaseOpen, Max: store.PageMax})
		if len(found) != many+2 || pages != many/store.PageMax+1 {
			t.Errorf("%d on %d pages", len(found), pages)
		}
		found, pages = allPages(t, s, store.ReservationQuery{Phase: quota.PhaseSettled, Max: 10})
		if len(found) != 0 || pages != 2 {
			t.Errorf("%d settled on %d pages", len(found), pages)
		}
	})
}

// What is due is shown as expired, and never as open, while most of the expiries are still to be carried out; and nothing is missed
// meanwhile.
func TestReservationsWhileBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 4 * store.ExpireMax
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{Defaults: fifty})
		do(t, s, quota.SetBucket{Name: "a"}, quota.Done)
		for i := range many {
			do(t, s, reserving("a", fmt.Sprintf("id-%d", i), time.Hour), quota.Done)
		}
		do(t, s, reserving("a", "later", 24*time.Hour), quota.Done)
		closeStore(t, s)
		time.Sleep(2 * time.Hour)
		s = open(t, noClose{&hooks{Engine: e, after: func() { time.Sleep(time.Second) }}}, store.Options{Defaults: fifty})
		for range 3 {
			open, _ := allPages(t, s, store.ReservationQuery{Phase: quota.PhaseOpen, Max: 7})
			expired, _ := allPages(t, s, store.ReservationQuery{Phase: quota.PhaseExpired, Max: 1000})
			if ids := idsOf(open); !slices.Equal(ids, []string{"test/later"}) || len(expired) != many {
				t.Errorf("open %v, %d expired", ids, len(expired))
			}
		}
		synctest.Wait()
		closeStore(t, s)
		soundEngine(t, e)
	})
}
