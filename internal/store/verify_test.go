package store_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
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

// A bubble begins on this date.
const firstDay = "2000-01-01"

// spoiler changes the records of a ledger behind the store's back, with checksums that are right.
type spoiler struct {
	t  *testing.T
	tx store.Tx
}

func (s spoiler) get(space, key string) []byte {
	record, err := s.tx.Get(space, key)
	if err != nil || record == nil {
		s.t.Fatalf("%q in %s: %v, %v", key, space, record, err)
	}
	return bytes.Clone(record)
}

func (s spoiler) put(space, key string, body []byte) {
	if err := s.tx.Put(space, key, store.Seal(body, space, key)); err != nil {
		s.t.Fatal(err)
	}
}

func (s spoiler) remove(space, key string) {
	s.get(space, key)
	if err := s.tx.Delete(space, key); err != nil {
		s.t.Fatal(err)
	}
}

// flip damages a record so that its checksum fails.
func (s spoiler) flip(space, key string) {
	record := s.get(space, key)
	record[len(record)/2] ^= 4
	if err := s.tx.Put(space, key, record); err != nil {
		s.t.Fatal(err)
	}
}

func (s spoiler) number(space, key string, n uint64) {
	s.put(space, key, binary.BigEndian.AppendUint64([]byte{1}, n))
}

func (s spoiler) account(space, key string, change func(*quota.Account)) {
	a, err := store.ParseAccountRecord(s.get(space, key), space, key)
	if err != nil {
		s.t.Fatal(err)
	}
	change(&a)
	s.put(space, key, store.AppendAccount(nil, a))
}

const receiptsOfFirstDay = "receipts/" + firstDay

func receiptID(id string) quota.ReceiptKey {
	return quota.ReceiptKey{Principal: "test", RequestID: id}
}

func (s spoiler) receiptOf(id string) quota.Receipt {
	key := store.ReceiptKey(receiptID(id))
	r, err := store.ParseReceipt(s.get(receiptsOfFirstDay, key), receiptsOfFirstDay, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s spoiler) receipt(id string, change func(*quota.Receipt)) {
	r := s.receiptOf(id)
	change(&r)
	s.put(receiptsOfFirstDay, store.ReceiptKey(receiptID(id)), store.AppendReceipt(nil, r))
}

// expiry notes when a reservation expires, as the store does.
func (s spoiler) expiry(at time.Time, id string, made time.Time, bucket string) {
	s.put("expiries", store.ExpiryKey(at, receiptID(id)), append(binary.AppendVarint([]byte{1}, made.UnixMilli()), bucket...))
}

func (s spoiler) expiryKey(id string) string {
	return store.ExpiryKey(s.receiptOf(id).Hold.Expiry, receiptID(id))
}

// spoilings are the ways in which the records of reservations can contradict each other, and what Verify is to say.
var spoilings = map[string]struct {
	says  string
	spoil func(spoiler)
}{
	"none, the control": {"", func(spoiler) {}},

	"too much held":     {"app/a calls day 2000-01-01: open reservations hold 5, the count says 6", func(s spoiler) { s.account("used/"+firstDay, "app/a\x00calls", func(a *quota.Account) { a.Held++ }) }},
	"too little held":   {"app calls month 2000-01: open reservations hold 5, the count says 4", func(s spoiler) { s.account("used-month/2000-01", "app\x00calls", func(a *quota.Account) { a.Held-- }) }},
	"held by nobody":    {"app/b calls day 2000-01-01: open reservations hold 0, the count says 1", func(s spoiler) { s.account("used/"+firstDay, "app/b\x00calls", func(a *quota.Account) { a.Held++ }) }},
	"the count is gone": {"app/a tokens day 2000-01-01: reservations hold of it, but there is no count", func(s spoiler) { s.remove("used/"+firstDay, "app/a\x00tokens") }},
	"a settlement that is not in the count": {
		"app/b calls day 2000-01-01: receipts add up to 5, the count says 4", func(s spoiler) {
			s.account("used/"+firstDay, "app/b\x00calls", func(a *quota.Account) { a.Used--; a.Receipted-- })
		},
	},
	"a settlement of something else": {"app/b calls day 2000-01-01: receipts add up to 6, the count says 5", func(s spoiler) {
		s.receipt("settled", func(r *quota.Receipt) {
			for i := range r.Entries {
				r.Entries[i].Used++
			}
		})
	}},

	"no expiry":      {"2 reservations are open, 1 are to expire, the count says 2", func(s spoiler) { s.remove("expiries", s.expiryKey("open")) }},
	"another expiry": {`reservation "nobody" of "test": it is to expire at 2000-01-01T05:00:00Z, and no such one is open`, func(s spoiler) { s.expiry(bubbleAt(5*time.Hour), "nobody", bubbleAt(0), "app/a") }},
	"two expiries of one": {`reservation "open" of "test": it is to expire at 2000-01-01T05:00:00Z`, func(s spoiler) {
		s.expiry(bubbleAt(5*time.Hour), "open", bubbleAt(0), "app/a")
	}},
	"the wrong one expires": {`reservation "settled" of "test": it is to expire at`, func(s spoiler) {
		s.remove("expiries", s.expiryKey("open"))
		r := s.receiptOf("settled")
		s.expiry(r.Hold.Expiry, "settled", r.Time, "app/b")
	}},
	"expires at another time": {`reservation "open" of "test": it is to expire at 2000-01-01T05:00:00Z`, func(s spoiler) {
		r := s.receiptOf("open")
		s.remove("expiries", s.expiryKey("open"))
		s.expiry(bubbleAt(5*time.Hour), "open", r.Time, "app/a")
	}},
	"expires in another bucket": {`reservation "open" of "test": the list of expiries has it as of app/x`, func(s spoiler) {
		r := s.receiptOf("open")
		s.expiry(r.Hold.Expiry, "open", r.Time, "app/x")
	}},
	"was made at another time": {`made at 1999-12-31T23:59:59Z`, func(s spoiler) { s.expiry(s.receiptOf("open").Hold.Expiry, "open", bubbleAt(-time.Second), "app/a") }},
	"a damaged expiry":         {"fails its checksum", func(s spoiler) { s.flip("expiries", s.expiryKey("open")) }},
	"an expiry of nothing":     {"is too short", func(s spoiler) { s.put("expiries", "short", []byte{1}) }},
	"an expiry of no receipt":  {"is not the key of a receipt", func(s spoiler) { s.put("expiries", "01234567nobody", []byte{1, 0}) }},

	"too many open":         {"2 reservations are open, 2 are to expire, the count says 3", func(s spoiler) { s.number("meta", "open", 3) }},
	"nothing says how many": {"2 reservations are open, 2 are to expire, the count says 0", func(s spoiler) { s.remove("meta", "open") }},
	"a damaged number":      {`"open" in meta fails its checksum`, func(s spoiler) { s.flip("meta", "open") }},

	"too many in flight":         {"app/a: 2 reservations are open, the count says 3", func(s spoiler) { s.number("inflight", "app/a", 3) }},
	"too few in flight":          {"app: 2 reservations are open, the count says 1", func(s spoiler) { s.number("inflight", "app", 1) }},
	"none in flight":             {"app: 2 reservations are open, the count says 0", func(s spoiler) { s.remove("inflight", "app") }},
	"in flight on another":       {"app/b: no reservation is open, and the count says that some are", func(s spoiler) { s.number("inflight", "app/b", 1) }},
	"damaged number in flight":   {"app/a: 2 reservations are open", func(s spoiler) { s.flip("inflight", "app/a") }},
	"the receipt is gone":        {`reservation "open" of "test": it is to expire at`, func(s spoiler) { s.remove(receiptsOfFirstDay, "test\x00open") }},
	"a settled receipt is gone":  {"app/b calls day 2000-01-01: receipts add up to 2, the count says 5", func(s spoiler) { s.remove(receiptsOfFirstDay, "test\x00settled") }},
	"an expired receipt is gone": {"app/b calls day 2000-01-01: receipts add up to 3, the count says 5", func(s spoiler) { s.remove(receiptsOfFirstDay, "test\x00expired") }},
	"a damaged receipt":          {`"test\x00open" in receipts/2000-01-01 fails its checksum`, func(s spoiler) { s.flip(receiptsOfFirstDay, "test\x00open") }},
	"an open receipt says that it is released": {"app/a calls day 2000-01-01: open reservations hold 3, the count says 5", func(s spoiler) {
		s.receipt("open", func(r *quota.Receipt) { r.Phase = quota.PhaseReleased })
	}},
	"a released receipt says that it is open": {"3 reservations are open, 2 are to expire, the count says 2", func(s spoiler) {
		s.receipt("released", func(r *quota.Receipt) { r.Phase = quota.PhaseOpen })
	}},
	"an open receipt holds more": {"open reservations hold 6, the count says 5", func(s spoiler) {
		s.receipt("open", func(r *quota.Receipt) { r.Entries[0].Amount++ })
	}},
	"an open receipt is there twice": {"3 reservations are open, 2 are to expire, the count says 2", func(s spoiler) {
		s.put("receipts/1999-12-31", "test\x00open", store.AppendReceipt(nil, s.receiptOf("open")))
	}},
	"a receipt without a caller": {"is not the key of a receipt", func(s spoiler) {
		s.put(receiptsOfFirstDay, "nobody", store.AppendReceipt(nil, s.receiptOf("released")))
	}},
}

func bubbleAt(d time.Duration) time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(d) }

// Every way in which the records of reservations can contradict each other is found and told.
func TestVerifyFindsContradictions(t *testing.T) {
	for name, c := range spoilings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := memengine.New()
				s := open(t, noClose{e}, store.Options{Defaults: fifty})
				do(t, s, quota.SetBucket{Name: "app", Settings: quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Month, Max: 500}}}}, quota.Done)
				for _, id := range []string{"settled", "released"} {
					do(t, s, reserving("app/b", id, time.Hour, quota.Charge{Amount: 2}), quota.Done)
				}
				do(t, s, reserving("app/b", "expired", time.Second, quota.Charge{Amount: 2}), quota.Done)
				time.Sleep(time.Second)
				synctest.Wait()
				do(t, s, settling("settled", quota.Charge{Amount: 3}), quota.Done)
				do(t, s, releasing("released"), quota.Done)
				do(t, s, reserving("app/a", "open", time.Hour, quota.Charge{Amount: 2}, quota.Charge{Unit: "tokens", Amount: 9}), quota.Done)
				do(t, s, reserving("app/a", "open-2", time.Hour, quota.Charge{Amount: 3}), quota.Done)
				closeStore(t, s)
				if err := e.Update(t.Context(), func(tx store.Tx) error { c.spoil(spoiler{t, tx}); return nil }); err != nil {
					t.Fatal(err)
				}
				r, err := store.Verify(t.Context(), e)
				if err != nil {
					t.Fatal(err)
				}
				faults := strings.Join(r.Faults, "\n")
				if c.says == "" && faults != "" || c.says != "" && !strings.Contains(faults, c.says) {
					t.Errorf("verify says:\n%s\nwant:\n%s", faults, c.says)
				}
			})
		})
	}
}

// Verify is silent on a sound ledger, all along a random life: reservations of every phase, over midnights, resets, changes of limits
// and of zones, in several units and windows, with their receipts moving and leaving, and several ops in one transaction. Run one with
// -run '/seed=N$'.
func TestVerifySilentOnSound(t *testing.T) {
	seeds := 6
	if os.Getenv("QUOTAD_LONG") != "" {
		seeds = 100
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { soundLife(t, rand.New(rand.NewPCG(uint64(seed), 5))) })
		})
	}
}

// soundLife verifies a ledger again and again while its store goes on. memengine gives Verify a snapshot of its own.
func soundLife(t *testing.T, rng *rand.Rand) {
	t.Helper()
	e := memengine.New()
	again := func() *store.Store { // on a disk that takes its time, so that what is asked at once shares a transaction
		return open(t, noClose{&hooks{Engine: e, after: func() { time.Sleep(time.Millisecond) }}}, store.Options{Defaults: fifty})
	}
	s := again()
	defer func() { closeStore(t, s) }()
	settings := func() quota.Settings {
		st := quota.Settings{
			Zone: []string{"UTC", "Asia/Kolkata", "America/Havana"}[rng.IntN(3)], OnExpiry: quota.OnExpiry(rng.IntN(2)),
			MaxInFlight: rng.Int64N(8),
		}
		most := int64(0)
		for _, span := range window.Spans() {
			if most += 1 + rng.Int64N(20); rng.IntN(2) == 0 {
				st.Limits = append(st.Limits, quota.Limit{Unit: quota.Calls, Span: span, Max: most})
			}
		}
		return st
	}
	phases := make(map[quota.Phase]int)
	for range 150 {
		var callers sync.WaitGroup
		for range 1 + rng.IntN(6) {
			op := soundOp(rng, settings)
			callers.Go(func() {
				if d, err := s.Apply(t.Context(), op); err != nil || d.Outcome == quota.Invalid || d.Outcome == quota.Behind {
					t.Errorf("%+v: %v %v, %v", op, d.Outcome, d.Problems, err)
				}
			})
		}
		callers.Wait()
		if rng.IntN(3) == 0 {
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(time.Hour)))
		}
		if rng.IntN(20) == 0 {
			closeStore(t, s)
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(6*time.Hour)))
			s = again()
		}
		synctest.Wait()
		r, err := store.Verify(t.Context(), e)
		if err != nil || len(r.Faults) > 0 {
			t.Fatalf("at %v: %v, %v", time.Now(), r.Faults, err)
		}
		found, _, err := s.Reservations(t.Context(), store.ReservationQuery{Max: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range found {
			phases[x.Phase]++
		}
	}
	for _, p := range []quota.Phase{quota.PhaseOpen, quota.PhaseSettled, quota.PhaseReleased, quota.PhaseExpired} {
		if phases[p] == 0 {
			t.Errorf("no reservation was ever seen %v: the life proves little", p)
		}
	}
}

// soundOp is what somebody may ask of a ledger.
func soundOp(rng *rand.Rand, settings func() quota.Settings) quota.Op {
	bucket := []string{"app", "app/a", "app/b", "other/x"}[rng.IntN(4)]
	id := fmt.Sprintf("id-%d", rng.IntN(40))
	amount := func() int64 { return 1 + rng.Int64N(4) }
	charges := []quota.Charge{{Amount: amount()}}
	if rng.IntN(3) == 0 {
		charges = append(charges, quota.Charge{Unit: "tokens", Amount: amount()})
	}
	if rng.IntN(5) == 0 {
		charges = append(charges, quota.Charge{Bucket: "app/b", Unit: "extra", Amount: amount()})
	}
	hold := time.Duration(1+rng.Int64N(5*3600)) * time.Second
	switch n := rng.IntN(100); {
	case n < 35:
		return reserving(bucket, id, hold, charges...)
	case n < 50:
		return acquire(bucket, id, charges...)
	case n < 70:
		return settling(id, quota.Charge{Amount: rng.Int64N(6)})
	case n < 80:
		return releasing(id)
	case n < 90:
		return extending(id, fmt.Sprintf("x-%d", rng.IntN(3)), hold, quota.Charge{Amount: amount()})
	case n < 96:
		return quota.Reset{Bucket: quota.Bucket(bucket)}
	}
	return quota.SetBucket{Name: []string{"app", "app/*"}[rng.IntN(2)], Settings: settings()}
}
