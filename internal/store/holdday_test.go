package store_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// changesOf returns the instants in a year at which clocks in a zone are set, found by watching them.
func changesOf(zone *time.Location, year int) []time.Time {
	offset := func(t time.Time) int {
		_, seconds := t.In(zone).Zone()
		return seconds
	}
	var changes []time.Time
	for t := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC); t.Year() == year; t = t.Add(time.Hour) {
		if offset(t) == offset(t.Add(time.Hour)) {
			continue
		}
		second := t
		for offset(second) == offset(t) {
			second = second.Add(time.Second)
		}
		changes = append(changes, second)
	}
	return changes
}

// Reservations that are made around a change of the clocks, and settled after it and after midnight, count in the windows that
// admitted them: on days of 23 and 25 hours, where midnight is skipped or comes twice, where an hour is, and where a day is.
func TestSettledWhereAdmitted(t *testing.T) {
	nights := 0
	for name, year := range map[string]int{
		"America/Havana": 2024, "America/Sao_Paulo": 2018, "America/Asuncion": 2023, "America/Santiago": 2023, "Asia/Beirut": 2022,
		"Atlantic/Azores": 2024, "Europe/Berlin": 2026, "America/New_York": 2026, "Australia/Lord_Howe": 2026, "Africa/Cairo": 2024,
		"Pacific/Apia": 2011, "Asia/Tehran": 2021,
	} {
		zone, err := window.LoadZone(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range changesOf(zone, year) {
			nights++
			t.Run(name+"/"+change.Format(time.DateOnly), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { settledWhereAdmitted(t, zone, change) })
			})
		}
	}
	if nights < 24 {
		t.Errorf("%d nights, want 24", nights)
	}
}

// admissions are when reservations are made, from the change of the clocks on. There are two in each hour that may be skipped or
// come twice.
var admissions = []time.Duration{
	-100 * time.Minute, -59 * time.Minute, -31 * time.Minute, -29 * time.Minute, -time.Second, 0, time.Second,
	29 * time.Minute, 31 * time.Minute, 59*time.Minute + 59*time.Second, time.Hour, 100 * time.Minute,
}

// counted is what is used and held in each window of a bucket, by its span and label.
type counted map[string][2]int64

func countedOf(t *testing.T, s *store.Store) counted {
	t.Helper()
	sums := make(counted)
	for _, span := range window.Spans() {
		found, next, err := s.Usage(t.Context(), store.UsageQuery{Span: span, Prefix: "a", Max: 1000})
		if err != nil || next != "" {
			t.Fatal(next, err)
		}
		for _, b := range found {
			sums[fmt.Sprint(span, " ", b.Window.Label)] = [2]int64{b.Used, b.Held}
		}
	}
	return sums
}

func settledWhereAdmitted(t *testing.T, zone *time.Location, change time.Time) {
	t.Helper()
	var shift dial
	var n ended
	start := change.Add(-2 * time.Hour)
	shift.set(time.Until(start))
	e := memengine.New()
	o := skewed(&shift, &n)
	s := open(t, noClose{e}, o)
	settings := quota.Settings{Zone: zone.String()}
	for _, span := range window.Spans() {
		settings.Limits = append(settings.Limits, quota.Limit{Unit: quota.Calls, Span: span, Max: 1_000_000})
	}
	do(t, s, quota.SetBucket{Name: "a", Settings: settings}, quota.Done)
	want, clocks := make(counted), make(map[string]string)
	in := func(d quota.Decision, used, held int64) {
		for _, b := range d.Balances {
			k := fmt.Sprint(b.Window.Span, " ", b.Window.Label)
			want[k] = [2]int64{want[k][0] + used, want[k][1] + held}
		}
	}
	admitted := make([]quota.Decision, len(admissions))
	for i, at := range admissions {
		time.Sleep(start.Add(at + 2*time.Hour).Sub(s.Now()))
		admitted[i] = do(t, s, reserving("a", fmt.Sprint("id-", i), 12*time.Hour, quota.Charge{Amount: 100 + int64(i)}), quota.Done)
		in(admitted[i], 0, 100+int64(i))
		admittedRight(t, zone, change.Add(at), admitted[i], clocks)
	}
	if diff := gocmp.Diff(want, countedOf(t, s)); diff != "" {
		t.Fatalf("held: %s", diff)
	}
	for i, d := range admitted {
		amount := 100 + int64(i)
		actual := amount + int64(i%3-1)*50 // less, the same and more
		switch i % 4 {
		case 0: // after the change, and perhaps after midnight
			time.Sleep(10 * time.Minute)
		case 1: // in another run, while it is open
			closeStore(t, s)
			s = open(t, noClose{e}, o)
		case 2: // after it has expired, so that it has been charged
			time.Sleep(max(0, time.Until(d.Expiry.Add(-shift.get()))))
			synctest.Wait()
			if n.charged.Load() == 0 {
				t.Fatal("nothing has expired")
			}
		case 3: // the day after
			time.Sleep(time.Until(change.Add(30*time.Hour - shift.get())))
		}
		do(t, s, settling(fmt.Sprint("id-", i), quota.Charge{Amount: actual}), quota.Done)
		in(d, actual, -amount)
	}
	if diff := gocmp.Diff(want, countedOf(t, s)); diff != "" {
		t.Errorf("settled: %s", diff)
	}
	closeStore(t, s)
	soundEngine(t, e)
}

// admittedRight holds the windows that admitted something against a wall clock in the zone. clocks remembers what the clock showed
// in each hour that was met, so that an hour that comes twice is two.
func admittedRight(t *testing.T, zone *time.Location, at time.Time, d quota.Decision, clocks map[string]string) {
	t.Helper()
	if len(d.Balances) != len(window.Spans()) {
		t.Fatalf("%d balances: %+v", len(d.Balances), d.Balances)
	}
	for _, b := range d.Balances {
		w := b.Window
		if w.Span != window.Ever && (at.Before(w.Start) || !at.Before(w.End)) {
			t.Errorf("at %v it was admitted in %v", at, w)
		}
		shown := at.In(zone).Format("2006-01-02 15 -0700")
		switch w.Span {
		case window.Day:
			if day := at.In(zone).Format(time.DateOnly); w.Label != day && shown[:10] == day {
				t.Errorf("at %v it was admitted on %s, and calendars show %s", at, w.Label, day)
			}
		case window.Hour:
			if was, met := clocks[w.Label]; met && was != shown {
				t.Errorf("the hour %s was %s and is %s", w.Label, was, shown)
			}
			for label, was := range clocks {
				if was == shown && label != w.Label {
					t.Errorf("%s is in two hours, %s and %s", shown, label, w.Label)
				}
			}
			clocks[w.Label] = shown
		}
	}
}

// ten is a limit of ten calls a day.
var ten = quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 10}}}

// betweens are what may happen between a reservation and its settlement.
var betweens = map[string]struct {
	between func(*testing.T, *store.Store)
	used    int64 // on the first day, where 2 were used before, 5 are held and 7 are settled
	over    int64
	hold    time.Duration // 0 means until half an hour after midnight
}{
	"nothing":        {func(*testing.T, *store.Store) {}, 9, 0, 0},
	"midnight":       {func(*testing.T, *store.Store) { time.Sleep(23 * time.Hour) }, 9, 0, 0},
	"a lower limit":  {func(t *testing.T, s *store.Store) { t.Helper(); lower(t, s, 3) }, 9, 6, 0},
	"a limit of 0":   {func(t *testing.T, s *store.Store) { t.Helper(); lower(t, s, 0) }, 9, 7, 0},
	"a higher limit": {func(t *testing.T, s *store.Store) { t.Helper(); lower(t, s, 99) }, 9, 0, 0},
	"another zone": {func(t *testing.T, s *store.Store) {
		t.Helper()
		zoned := ten
		zoned.Zone = "Pacific/Kiritimati"
		do(t, s, quota.SetBucket{Name: "app/a", Settings: zoned}, quota.Done)
		do(t, s, quota.SetBucket{Name: "app", Settings: zoned}, quota.Done)
	}, 9, 0, 0},
	"other windows": {func(t *testing.T, s *store.Store) {
		t.Helper()
		monthly := quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Month, Max: 10}}}
		do(t, s, quota.SetBucket{Name: "app/a", Settings: monthly}, quota.Done)
	}, 9, 0, 0},
	"the declarations are gone": {func(t *testing.T, s *store.Store) {
		t.Helper()
		do(t, s, quota.DeleteBucket{Name: "app/a"}, quota.Done)
		do(t, s, quota.DeleteBucket{Name: "app"}, quota.Done)
	}, 9, 0, 0},
	"a reset": {func(t *testing.T, s *store.Store) {
		t.Helper()
		do(t, s, quota.Reset{Bucket: "app/a"}, quota.Done)
		do(t, s, quota.Reset{Bucket: "app"}, quota.Done)
	}, 7, 0, 0},
	"its expiry and a reset": {func(t *testing.T, s *store.Store) {
		t.Helper()
		time.Sleep(2 * time.Hour)
		do(t, s, quota.Reset{Bucket: "app/a"}, quota.Done)
		do(t, s, quota.Reset{Bucket: "app"}, quota.Done)
	}, 2, 0, time.Hour}, // 5 were charged and forgotten, and 7 is 2 more
	"its expiry": {func(*testing.T, *store.Store) { time.Sleep(40 * time.Hour) }, 9, 0, 0},
	"an override": {func(t *testing.T, s *store.Store) {
		t.Helper()
		do(t, s, quota.SetOverride{Bucket: "app/a", Limit: quota.AtMost(4)}, quota.Done)
	}, 9, 5, 0},
}

// Whatever happened to a ledger between a reservation and its settlement, the settlement counts on the day that admitted the
// reservation, in its bucket and in the parent.
func TestSettledAfter(t *testing.T) {
	for name, c := range betweens {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", name, restart), func(t *testing.T) {
				testEngines(t, func(t *testing.T, e store.Engine) {
					t.Helper()
					s := open(t, noClose{e}, store.Options{Defaults: fifty})
					do(t, s, quota.SetBucket{Name: "app", Settings: ten}, quota.Done)
					do(t, s, quota.SetBucket{Name: "app/a", Settings: ten}, quota.Done)
					time.Sleep(5 * time.Hour)
					do(t, s, acquire("app/a", "plain", quota.Charge{Amount: 2}), quota.Done)
					do(t, s, reserving("app/a", "id", cmp.Or(c.hold, 19*time.Hour+30*time.Minute), quota.Charge{Amount: 5}), quota.Done)
					c.between(t, s)
					if restart {
						closeStore(t, s)
						s = open(t, noClose{e}, store.Options{Defaults: fifty})
					}
					d := do(t, s, settling("id", quota.Charge{Amount: 7}), quota.Done)
					over := int64(0)
					for _, a := range d.Overage {
						over = max(over, a.Amount)
					}
					if over != c.over {
						t.Errorf("%d above the limit, want %d: %+v", over, c.over, d.Balances)
					}
					for _, bucket := range []string{"app/a", "app"} {
						if used, held := inForce(t, e, firstDay, bucket); used != c.used || held != 0 {
							t.Errorf("%s: %d used and %d held on the first day, want %d", bucket, used, held, c.used)
						}
					}
					if used, held := inForce(t, e, "2000-01-02", "app/a"); used != 0 || held != 0 {
						t.Errorf("%d used and %d held on the second day", used, held)
					}
					soundEngine(t, e)
					closeStore(t, s)
				})
			})
		}
	}
}

func lower(t *testing.T, s *store.Store, most int64) {
	t.Helper()
	limits := []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: most}}
	do(t, s, quota.SetBucket{Name: "app/a", Settings: quota.Settings{Limits: limits}}, quota.Done)
}

// receiptSpacesOf returns where the receipt of a request is, and all spaces of receipts.
func receiptSpacesOf(t *testing.T, e store.Engine, id string) (in, all []string) {
	t.Helper()
	err := e.View(t.Context(), func(tx store.Tx) error {
		return tx.Spaces("receipts/", func(space string) bool {
			if !strings.HasPrefix(space, "receipts/") {
				return false
			}
			record, err := tx.Get(space, store.ReceiptKey(receiptID(id)))
			if err != nil {
				t.Fatal(err)
			}
			if record != nil {
				in = append(in, space)
			}
			all = append(all, space)
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return in, all
}

// A receipt that is changed moves to the space of that day, so that it is there for another 24 hours, and its old space leaves.
func TestReceiptsMove(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *store.Store) quota.Op{
		"settled":  func(*testing.T, *store.Store) quota.Op { return settling("id", quota.Charge{Amount: 2}) },
		"released": func(*testing.T, *store.Store) quota.Op { return releasing("id") },
		"extended": func(*testing.T, *store.Store) quota.Op { return extending("id", "more", 24*time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			testEngines(t, func(t *testing.T, e store.Engine) {
				t.Helper()
				s := open(t, noClose{e}, store.Options{Defaults: fifty})
				defer closeStore(t, s)
				time.Sleep(12 * time.Hour)
				do(t, s, reserving("a", "id", 24*time.Hour), quota.Done)
				if in, _ := receiptSpacesOf(t, e, "id"); !slices.Equal(in, []string{receiptsOfFirstDay}) {
					t.Fatalf("it is in %v", in)
				}
				time.Sleep(23 * time.Hour)
				op := change(t, s)
				do(t, s, op, quota.Done)
				if in, _ := receiptSpacesOf(t, e, "id"); !slices.Equal(in, []string{"receipts/2000-01-02"}) {
					t.Fatalf("after the change it is in %v", in)
				}
				time.Sleep(24 * time.Hour)
				if _, all := receiptSpacesOf(t, e, "id"); slices.Contains(all, receiptsOfFirstDay) {
					t.Errorf("the first day's are still there: %v", all)
				}
				if d := do(t, s, op, quota.Done); !d.Replayed {
					t.Error("24 hours after the change it is forgotten")
				}
				soundEngine(t, e)
			})
		})
	}
}

// An expiry is a change too: what nobody settled can be settled late for 24 hours after its time was over, and be looked at.
func TestLateForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{Defaults: fifty})
		defer closeStore(t, s)
		time.Sleep(12 * time.Hour)
		for _, id := range []string{"first", "second"} {
			do(t, s, reserving("a", id, 24*time.Hour), quota.Done)
		}
		time.Sleep(48 * time.Hour)
		if d := do(t, s, settling("first", quota.Charge{Amount: 4}), quota.Done); !d.Late || d.Balances[0].Used != 5 || d.Balances[0].Window.Label != firstDay {
			t.Errorf("%+v", d)
		}
		time.Sleep(48 * time.Hour)
		do(t, s, settling("first", quota.Charge{Amount: 4}), quota.UnknownReservation)
		do(t, s, settling("second"), quota.UnknownReservation)
		soundEngine(t, e)
	})
}

// refusesReceipts refuses to write receipts while its flag is up, as an engine might that has run into trouble.
type refusesReceipts struct {
	store.Tx
	on *atomic.Bool
}

func (s refusesReceipts) Put(space, key string, v []byte) error {
	if s.on.Load() && strings.HasPrefix(space, "receipts/") {
		return errPicky
	}
	return s.Tx.Put(space, key, v)
}

// The receipts of a reservation that is open stay, however old their space is: after a week without a daemon, and while something
// keeps the expiries from being carried out. The control is a space without one, which leaves.
func TestOpenNeverLeaves(t *testing.T) {
	for _, trouble := range []bool{false, true} {
		t.Run(fmt.Sprintf("trouble=%v", trouble), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := memengine.New()
				s := open(t, noClose{e}, store.Options{Defaults: fifty})
				do(t, s, acquire("a", "plain"), quota.Done)
				time.Sleep(24 * time.Hour)
				do(t, s, reserving("a", "id", time.Hour, quota.Charge{Amount: 3}), quota.Done)
				closeStore(t, s)
				time.Sleep(7 * 24 * time.Hour)

				var on atomic.Bool
				on.Store(trouble)
				s = open(t, noClose{&hooks{Engine: e, tx: func(tx store.Tx) store.Tx { return refusesReceipts{tx, &on} }}}, store.Options{Defaults: fifty})
				time.Sleep(26 * time.Hour) // for so long nothing is deleted after such a stop
				in, all := receiptSpacesOf(t, e, "id")
				if !trouble && slices.Contains(all, receiptsOfFirstDay) {
					t.Error("the control, receipts of nothing that is open, is still there")
				}
				want := "receipts/2000-01-09"
				if trouble {
					want = "receipts/2000-01-02"
				}
				if !slices.Equal(in, []string{want}) {
					t.Errorf("it is in %v, want %s", in, want)
				}
				on.Store(false)
				time.Sleep(time.Minute)
				if d := do(t, s, settling("id", quota.Charge{Amount: 2}), quota.Done); !d.Late || d.Balances[0].Used != 2 || d.Balances[0].Window.Label != "2000-01-02" {
					t.Errorf("%+v", d)
				}
				time.Sleep(26 * time.Hour)
				if _, all := receiptSpacesOf(t, e, "id"); len(all) == 0 || all[0] <= "receipts/2000-01-02" {
					t.Errorf("the old spaces never leave: %v", all)
				}
				soundEngine(t, e)
				closeStore(t, s)
			})
		})
	}
}

// A stream that goes on for days is settled in the day that admitted it, though its minute and its hour have left long ago; they
// are not made anew.
func TestWindowsLeaveBeforeSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		s := open(t, noClose{e}, store.Options{Defaults: fifty})
		defer closeStore(t, s)
		settings := quota.Settings{MaxInFlight: 1}
		for _, span := range window.Spans() {
			settings.Limits = append(settings.Limits, quota.Limit{Unit: quota.Calls, Span: span, Max: 100})
		}
		do(t, s, quota.SetBucket{Name: "a", Settings: settings}, quota.Done)
		do(t, s, reserving("a", "id", 24*time.Hour, quota.Charge{Amount: 10}), quota.Done)
		for range 5 {
			time.Sleep(20 * time.Hour)
			do(t, s, extending("id", "", 24*time.Hour), quota.Done)
			soundEngine(t, e)
		}
		before := countedOf(t, s)
		if slices.ContainsFunc(slices.Collect(maps.Keys(before)), func(k string) bool { return strings.HasPrefix(k, "minute") || strings.HasPrefix(k, "hour") }) {
			t.Fatalf("they have not left: %v", before)
		}
		if d := do(t, s, settling("id", quota.Charge{Amount: 7}), quota.Done); d.Late || len(d.Balances) != len(window.Spans())-2 {
			t.Errorf("%+v", d)
		}
		want := make(counted)
		for k, n := range before {
			if n != [2]int64{0, 10} {
				t.Errorf("%s: %v", k, n)
			}
			want[k] = [2]int64{7, 0}
		}
		if diff := gocmp.Diff(want, countedOf(t, s)); diff != "" {
			t.Error(diff)
		}
		do(t, s, reserving("a", "next", time.Hour), quota.Done)
		soundEngine(t, e)
	})
}
