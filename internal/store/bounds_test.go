package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// However many days a reservation is extended over, it cannot hold more of a unit than a count can. What would is refused, and leaves
// it as it was.
func TestReservationHoldsNoMoreThanACount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{})
		defer closeStore(t, s)
		do(t, s, quota.SetBucket{Name: "a"}, quota.Done)
		time.Sleep(23 * time.Hour)
		most := quota.Charge{Unit: "usd_micros", Amount: quota.AmountMax}
		do(t, s, reserving("a", "id", quota.HoldMax, most), quota.Done)
		// Written as the extensions of a day would leave it, which are too many to make one by one.
		const rest = quota.CountMax/quota.AmountMax - 3
		err := e.Update(t.Context(), func(tx store.Tx) error {
			sp := spoiler{t, tx}
			sp.receipt("id", func(r *quota.Receipt) {
				r.Hold.Charges[0].Amount = rest * quota.AmountMax
				for i := range r.Entries {
					r.Entries[i].Amount = rest * quota.AmountMax
					k := r.Entries[i].Key
					sp.account(store.AccountSpace(k.Span, k.Label), store.AccountKey(k), func(a *quota.Account) { a.Held = rest * quota.AmountMax })
				}
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 { // the second on the next day, whose counts have room
			do(t, s, extending("id", fmt.Sprint(i), quota.HoldMax, most), quota.Done)
			time.Sleep(90 * time.Minute)
		}
		before, _ := allPages(t, s, store.ReservationQuery{Max: 10})
		d := do(t, s, extending("id", "too-much", quota.HoldMax, quota.Charge{Unit: "usd_micros", Amount: 1}), quota.Invalid)
		if said := fmt.Sprint(d.Problems); !strings.Contains(said, "would make the reservation hold more than 4000000000000000000 usd_micros of a") {
			t.Error(said)
		}
		after, _ := allPages(t, s, store.ReservationQuery{Max: 10})
		if fmt.Sprint(before) != fmt.Sprint(after) {
			t.Errorf("it stood as %+v, and stands as %+v", before, after)
		}
		do(t, s, extending("id", "longer", quota.HoldMax), quota.Done)
		d = do(t, s, settling("id"), quota.Done)
		sum := int64(0)
		for _, b := range d.Balances {
			if sum += b.Used; b.Held != 0 {
				t.Errorf("still held: %+v", b)
			}
		}
		if d := do(t, s, settling("id"), quota.Done); sum != quota.CountMax || !d.Replayed {
			t.Errorf("%d used, replayed: %v", sum, d.Replayed)
		}
		soundEngine(t, e)
	})
}

// deepest is a bucket below which nothing is declared. It and its parents limit all windows, so that each charge below it touches many
// counts, most of them shared.
const deepest = "p/p/p/p/p/p/p"

func declareDeepest(t *testing.T, s *store.Store) {
	t.Helper()
	for i := 1; i <= len(deepest); i += 2 {
		limits := make([]quota.Limit, 0, len(window.Spans()))
		for _, span := range window.Spans() {
			limits = append(limits, quota.Limit{Unit: quota.Calls, Span: span, Max: 1e12})
		}
		do(t, s, quota.SetBucket{Name: deepest[:i], Settings: quota.Settings{Limits: limits}}, quota.Done)
	}
}

// below returns charges of buckets from and up to another below the deepest.
func below(from, to int) []quota.Charge {
	var charges []quota.Charge
	for i := from; i < to; i++ {
		charges = append(charges, quota.Charge{Bucket: quota.Bucket(fmt.Sprintf("%s/%d", deepest, i)), Unit: quota.Calls, Amount: 1})
	}
	return charges
}

func partsOf(t *testing.T, e store.Engine, id string) (n int) {
	t.Helper()
	err := e.View(t.Context(), func(tx store.Tx) error { n = len(spoiler{t, tx}.receiptOf(id).Entries); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A reservation does not become larger than what one transaction can end, however small each of its extensions is.
func TestReservationKeepsBoundedParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{Defaults: quota.Defaults{UndeclaredLive: 1000}})
		defer closeStore(t, s)
		declareDeepest(t, s)
		do(t, s, reserving(deepest+"/0", "id", time.Hour, below(0, 1)...), quota.Done)
		each := partsOf(t, e, "id")
		most := quota.EntriesMax / each
		for n := 1; n < most; n++ {
			do(t, s, extending("id", fmt.Sprint(n), 0, below(n, n+1)...), quota.Done)
		}
		for range 2 {
			d := do(t, s, extending("id", "one-more", 0, below(most, most+1)...), quota.Invalid)
			want := fmt.Sprintf("would make the reservation keep %d parts", (most+1)*each)
			if said := fmt.Sprint(d.Problems); !strings.Contains(said, want) || partsOf(t, e, "id") != most*each {
				t.Errorf("%s; it keeps %d parts, want %d", said, partsOf(t, e, "id"), most*each)
			}
		}
		do(t, s, settling("id"), quota.Done)
		soundEngine(t, e)
	})
}

// Reservations that are due and damaged are looked at once in a run, not by everything that depends on what is due.
func TestDamagedLookedAtOnce(t *testing.T) {
	const many = 20_000
	synctest.Test(t, func(t *testing.T) {
		var reads, scanned int
		e := memengine.New()
		on := false
		seen := &hooks{Engine: e, tx: func(tx store.Tx) store.Tx {
			if on {
				return gets{tx, &reads, &scanned}
			}
			return tx
		}}
		s := open(t, noClose{seen}, store.Options{})
		defer closeStore(t, s)
		do(t, s, nothing("full"), quota.Done)
		do(t, s, quota.SetBucket{Name: "other"}, quota.Done)
		for i := range many {
			do(t, s, reserving("other", fmt.Sprint(i), time.Hour), quota.Done)
		}
		err := e.Update(t.Context(), func(tx store.Tx) error { spoiler{t, tx}.flip("used/"+firstDay, "other\x00calls"); return nil })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait() // the keeper has looked at them
		on = true
		for range 3 {
			reads, scanned = 0, 0
			do(t, s, acquire("full", ""), quota.Denied)
			do(t, s, quota.Reset{Bucket: "full"}, quota.Done)
			if reads > 100 || scanned > 100 {
				t.Errorf("a denial and a reset read %d records, and went over %d", reads, scanned)
			}
		}
		if st := s.Status(t.Context()); !st.CorruptSeen || st.Open != many {
			t.Errorf("the status: %+v", st)
		}
	})
}

// gets counts the records that a transaction reads.
type gets struct {
	store.Tx
	reads, scanned *int
}

func (g gets) Get(space, key string) ([]byte, error) {
	*g.reads++
	return g.Tx.Get(space, key)
}

func (g gets) Scan(space, from string, fn func(string, []byte) bool) error {
	return g.Tx.Scan(space, from, func(key string, v []byte) bool { *g.scanned++; return fn(key, v) })
}

// Large reservations are expired a few in a transaction: what bounds it is the work, not their number.
func TestExpireIsBoundedByWork(t *testing.T) {
	const large = 40
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		n := new(ended)
		s := open(t, noClose{e}, store.Options{Defaults: quota.Defaults{UndeclaredLive: 1000}, OnBatch: n.onBatch})
		defer closeStore(t, s)
		declareDeepest(t, s)
		for i := range large {
			do(t, s, reserving(deepest+"/0", fmt.Sprint(i), time.Hour, below(0, 20)...), quota.Done)
		}
		entries := partsOf(t, e, "0")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		most := int64((2*quota.EntriesMax + entries - 1) / entries)
		if most >= large/2 {
			t.Fatalf("%d parts each are too few for the test", entries)
		}
		if n.charged.Load() != large || n.largest.Load() > most {
			t.Errorf("%d of %d were expired, %d of %d parts in one transaction; want %d at most", n.charged.Load(), large, n.largest.Load(), entries, most)
		}
		soundEngine(t, e)
	})
}

// A settlement that meets damage after it has looked for a bucket's units is refused by itself: those that came with it still share
// a transaction.
func TestDamageKeepsTheBatch(t *testing.T) {
	const others = 100
	for _, unit := range []quota.Unit{quota.Calls, "fresh"} {
		synctest.Test(t, func(t *testing.T) {
			e := memengine.New()
			updates := 0
			began, going := make(chan struct{}), make(chan struct{})
			var once sync.Once
			h := &hooks{Engine: e}
			s := open(t, noClose{h}, store.Options{Defaults: fifty})
			defer closeStore(t, s)
			for _, name := range []string{"a", "bad"} {
				do(t, s, quota.SetBucket{Name: name}, quota.Done)
			}
			do(t, s, reserving("bad", "id", time.Hour), quota.Done)
			synctest.Wait()
			err := e.Update(t.Context(), func(tx store.Tx) error { spoiler{t, tx}.flip("used/"+firstDay, "bad\x00calls"); return nil })
			if err != nil {
				t.Fatal(err)
			}
			h.before = func() error { updates++; once.Do(func() { close(began); <-going }); return nil }
			var callers sync.WaitGroup
			callers.Go(func() { do(t, s, acquire("a", ""), quota.Done) }) // whose transaction lasts until the others wait
			<-began
			for i := range others {
				callers.Go(func() { do(t, s, acquire("a", ""), quota.Done) })
				if i%10 == 5 {
					synctest.Wait() // so that some of the others came before
					callers.Go(func() {
						if _, err := s.Apply(t.Context(), settling("id", quota.Charge{Unit: unit, Amount: 1})); !errors.Is(err, store.ErrCorrupt) {
							t.Errorf("the damaged one: %v", err)
						}
					})
				}
			}
			synctest.Wait()
			close(going)
			callers.Wait()
			if updates != 2 {
				t.Errorf("unit %s: %d transactions, want 2", unit, updates)
			}
		})
	}
}

// What a receipt says of itself is checked: that its charges are what its entries took, that there is one of it, and its times.
func TestVerifyLooksIntoReceipts(t *testing.T) {
	for says, spoil := range map[string]func(spoiler){
		`it took 5 of a count, for a charge of 4000`: func(s spoiler) {
			s.receipt("id", func(r *quota.Receipt) { r.Hold.Charges[0].Amount = 4000 })
		},
		"a charge of it touches no count": func(s spoiler) {
			s.receipt("id", func(r *quota.Receipt) {
				r.Hold.Charges = append(r.Hold.Charges, quota.HeldCharge{Bucket: "a", Unit: "tokens", Amount: 3})
			})
		},
		"it is in receipts/2000-01-01 too": func(s spoiler) {
			r := s.receiptOf("id")
			r.Phase = quota.PhaseReleased
			s.put("receipts/1999-12-31", store.ReceiptKey(receiptID("id")), store.AppendReceipt(nil, r))
		},
		"it expired before it was made": func(s spoiler) {
			s.remove("expiries", s.expiryKey("id"))
			s.receipt("id", func(r *quota.Receipt) { r.Hold.Expiry = bubbleAt(-time.Hour) })
			s.expiry(bubbleAt(-time.Hour), "id", bubbleAt(0), "a")
		},
		"": func(spoiler) {}, // the control
	} {
		t.Run(says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := memengine.New()
				s := open(t, noClose{e}, store.Options{Defaults: fifty})
				do(t, s, quota.SetBucket{Name: "a"}, quota.Done)
				do(t, s, reserving("a", "id", time.Hour, quota.Charge{Amount: 5}), quota.Done)
				closeStore(t, s)
				err := e.Update(t.Context(), func(tx store.Tx) error { spoil(spoiler{t, tx}); return nil })
				if err != nil {
					t.Fatal(err)
				}
				r, err := store.Verify(t.Context(), e)
				if err != nil {
					t.Fatal(err)
				}
				found := slices.ContainsFunc(r.Faults, func(f string) bool { return says != "" && strings.HasSuffix(f, says) })
				if found != (says != "") || says == "" && len(r.Faults) > 0 {
					t.Errorf("verify says %q", r.Faults)
				}
			})
		})
	}
}

// One damaged record does not keep the others from being listed, and the problem shows.
func TestListedPastDamage(t *testing.T) {
	for name, c := range map[string]struct {
		spoil     func(spoiler)
		open, all []string
	}{
		"a receipt": {func(s spoiler) { s.flip(receiptsOfFirstDay, "test\x00r1") }, []string{"test/r0", "test/r2", "test/r3"}, []string{"test/r0", "test/r2", "test/r3"}},
		"an expiry": {func(s spoiler) { s.flip("expiries", s.expiryKey("r1")) }, []string{"test/r0", "test/r2", "test/r3"}, []string{"test/r0", "test/r1", "test/r2", "test/r3"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := memengine.New()
				s := open(t, noClose{e}, store.Options{Defaults: fifty})
				defer closeStore(t, s)
				for i := range 4 {
					do(t, s, reserving("a", fmt.Sprint("r", i), time.Hour), quota.Done)
				}
				err := e.Update(t.Context(), func(tx store.Tx) error { c.spoil(spoiler{t, tx}); return nil })
				if err != nil {
					t.Fatal(err)
				}
				for phase, want := range map[quota.Phase][]string{quota.PhaseOpen: c.open, quota.PhaseUsed: c.all} {
					for _, size := range []int{1, 100} {
						found, _ := allPages(t, s, store.ReservationQuery{Max: size, Phase: phase})
						if got := idsOf(found); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
							t.Errorf("%v, pages of %d: %v, want %v", phase, size, got, want)
						}
					}
				}
				if st := s.Status(t.Context()); !st.CorruptSeen || len(st.Problems) == 0 {
					t.Errorf("the status shows %v", st.Problems)
				}
			})
		})
	}
}
