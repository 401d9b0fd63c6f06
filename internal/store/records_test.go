package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

var anyName = rapid.StringMatching(`[A-Za-z0-9._:@=+-]{1,20}(/[A-Za-z0-9._:@=+-]{1,20}){0,3}`).Filter(func(s string) bool {
	return quota.Bucket(s).Check() == nil
})

func anyKey(t *rapid.T) quota.AccountKey {
	at := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "at"), 0)
	w := rapid.SampledFrom(window.Spans()).Draw(t, "span").At(at, time.UTC)
	return quota.AccountKey{
		Bucket: quota.Bucket(anyName.Draw(t, "bucket")), Unit: quota.Unit(rapid.StringMatching(`[a-z][a-z0-9_]{0,20}`).Draw(t, "unit")),
		Span: w.Span, Label: w.Label,
	}
}

func anyCap(t *rapid.T) quota.Cap {
	if rapid.Bool().Draw(t, "unlimited") {
		return quota.Cap{}
	}
	return quota.AtMost(rapid.Int64Range(0, math.MaxInt64).Draw(t, "cap"))
}

// What is written is read again, under its own key alone.
func TestRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := anyKey(t)
		space, key := accountSpace(k.Span, k.Label), accountKey(k)
		back, err := parseAccount(k.Span, space, key)
		if err != nil || back != k {
			t.Fatalf("%+v came back as %+v: %v", k, back, err)
		}
		if span, ok := spanOf(space); !ok || span != k.Span {
			t.Fatalf("%s holds %v", space, span)
		}
		count := rapid.Int64Range(0, math.MaxInt64)
		a := quota.Account{
			Used: count.Draw(t, "used"), Held: count.Draw(t, "held"), Receipted: count.Draw(t, "receipted"),
			Limit: anyCap(t), Override: anyCap(t), Resets: rapid.Uint32().Draw(t, "resets"),
			Told: rapid.IntRange(0, quota.ThresholdMax).Draw(t, "told"),
		}
		if k.Span != window.Ever {
			a.Start = time.Unix(rapid.Int64Range(-1e9, 4e9).Draw(t, "start"), 0).UTC()
			a.End = a.Start.Add(time.Duration(rapid.Int64Range(1, 4e7).Draw(t, "length")) * time.Second)
		}
		record := seal(appendAccount(nil, a), space, key)
		got, err := parseAccountRecord(record, space, key)
		if err != nil || !cmp.Equal(got, a) {
			t.Fatal(err, cmp.Diff(a, got))
		}
		if _, err := parseAccountRecord(record, space, key+"x"); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("read under another key: %v", err)
		}
		bit := rapid.IntRange(0, len(record)*8-1).Draw(t, "bit")
		record[bit/8] ^= 1 << (bit % 8)
		if _, err := parseAccountRecord(record, space, key); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("with bit %d flipped: %v", bit, err)
		}
	})
}

func TestReceiptsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := quota.Receipt{Time: time.UnixMilli(rapid.Int64Range(0, 4e12).Draw(t, "time")).UTC()}
		copy(r.Fingerprint[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "fingerprint"))
		for range rapid.IntRange(0, 10).Draw(t, "entries") {
			r.Entries = append(r.Entries, quota.Entry{
				Key: anyKey(t), Amount: rapid.Int64Range(1, quota.AmountMax).Draw(t, "amount"), Resets: rapid.Uint32().Draw(t, "resets"),
			})
		}
		record := seal(appendReceipt(nil, r), "receipts/2026-11-22", "local\x00id")
		got, err := parseReceipt(record, "receipts/2026-11-22", "local\x00id")
		if err != nil || !cmp.Equal(got, r) {
			t.Fatal(err, cmp.Diff(r, got))
		}
	})
}

// No bytes, however they came to have a good checksum, make a reader panic, hang or take more than they are worth; what it
// reads it would write the same way.
func FuzzRecords(f *testing.F) {
	f.Add(appendAccount(nil, quota.Account{Used: 3, Limit: quota.AtMost(50), Start: time.Unix(0, 0), End: time.Unix(86400, 0)}))
	f.Add(appendReceipt(nil, quota.Receipt{Time: time.Unix(1, 0), Entries: []quota.Entry{
		{Key: quota.AccountKey{Bucket: "a/b", Unit: "calls", Span: window.Day, Label: "2026-11-22"}, Amount: 1},
		{Key: quota.AccountKey{Bucket: "a", Unit: "calls", Span: window.Day, Label: "2026-11-22"}, Amount: 1},
	}}))
	day := quota.AccountKey{Bucket: "a/b", Unit: "calls", Span: window.Day, Label: "2026-11-22"}
	f.Add(appendReceipt(nil, quota.Receipt{Time: time.Unix(1, 0), Phase: quota.PhaseOpen, Hold: &quota.Hold{
		Bucket: "a/b", Expiry: time.Unix(9, 0), OnExpiry: quota.ExpiryRelease, Charges: []quota.HeldCharge{{Bucket: "a/b", Unit: "calls", Amount: 3}},
	}, Entries: []quota.Entry{{Key: day, Amount: 3}}}))
	f.Add(appendReceipt(nil, quota.Receipt{Time: time.Unix(1, 0), Phase: quota.PhaseSettled, Hold: &quota.Hold{
		Bucket: "a", Expiry: time.Unix(9, 0), Ended: time.Unix(8, 0), Late: true,
		Charges: []quota.HeldCharge{{Bucket: "a/b", Unit: "calls", Amount: 3, Used: 2}, {Bucket: "a/b", Unit: "tokens", Used: 7}},
	}, Entries: []quota.Entry{{Key: day, Amount: 3, Used: 2, Resets: 1}, {Key: day, Used: 7, Charge: 1}}}))
	f.Add(appendReceipt(nil, quota.Receipt{Time: time.Unix(1, 0), Phase: quota.PhaseReleased, Entries: []quota.Entry{{Key: day, Amount: 3}}}))
	f.Add(append(binary.AppendVarint([]byte{recordVersion}, 1795348800000), "a/b"...))
	f.Add([]byte(`1{"boots":1}`))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, body []byte) {
		const space, key = "used/2026-11-22", "a\x00calls"
		record := seal(bytes.Clone(body), space, key)
		if a, err := parseAccountRecord(record, space, key); err == nil {
			if again, err := parseAccountRecord(seal(appendAccount(nil, a), space, key), space, key); err != nil || !cmp.Equal(a, again) {
				t.Errorf("%v, %s", err, cmp.Diff(a, again))
			}
		}
		if r, err := parseReceipt(record, space, key); err == nil {
			if again, err := parseReceipt(seal(appendReceipt(nil, r), space, key), space, key); err != nil || !cmp.Equal(r, again) {
				t.Errorf("%v, %s", err, cmp.Diff(r, again))
			}
			useReceipt(r)
		}
		expires := expiryKey(time.UnixMilli(1795348800000), quota.ReceiptKey{Principal: "local", RequestID: "id"})
		if _, err := parseExpiry(expires, seal(bytes.Clone(body), spaceExpiries, expires)); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
		if at, k, err := parseExpiryKey(string(body)); err == nil && expiryKey(at, k) != string(body) || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v %+v, %v", at, k, err)
		}
		if e, err := parseEvent(record, space, auditKey(7)); err == nil {
			body, bad := appendJSON(eventRecordOf(e))
			if again, err := parseEvent(seal(body, space, auditKey(7)), space, auditKey(7)); bad != nil || err != nil || !cmp.Equal(e, again) {
				t.Errorf("%v, %v, %s", bad, err, cmp.Diff(e, again))
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
		var boot bootRecord
		if err := parseJSON(record, space, key, &boot); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
		if _, err := parseAccount(window.Minute, space, string(body)); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	})
}

// useReceipt does with a receipt what a reader may do with one that it was given.
func useReceipt(r quota.Receipt) {
	for _, e := range r.Entries {
		_, _ = r.Used(e), r.Held(e)
	}
	_ = r.InFlight()
	if v, ok := quota.ReservationOf(quota.ReceiptKey{}, r, time.Unix(1, 0)); ok || r.Phase == quota.PhaseOpen {
		_ = v.Expiry.Equal(r.Hold.Expiry)
	}
}

// Every space knows when its time is over, and none leaves while a promise needs it.
func TestExpired(t *testing.T) {
	retain := 400 * 24 * time.Hour
	for space, life := range map[string]struct{ stays, goes string }{
		"receipts/2026-11-22":    {"2026-11-23T23:59:59Z", "2026-11-24T00:00:01Z"},
		"names/2026-11-22":       {"2026-11-23T14:00:00Z", "2026-11-25T00:00:00Z"},
		"audit/2026-11-22":       {"2027-12-27T00:00:00Z", "2027-12-28T00:00:01Z"},
		"used-minute/2026-11-22": {"2026-11-24T23:59:59Z", "2026-11-25T00:00:01Z"},
		"used-hour/2026-11-22":   {"2026-11-24T23:59:59Z", "2026-11-25T00:00:01Z"},
		"used/2026-11-22":        {"2027-12-28T00:00:00Z", "2027-12-30T00:00:00Z"},
		"used-week/2026-11-16":   {"2027-12-28T00:00:00Z", "2027-12-30T00:00:00Z"},
		"used-month/2026-11":     {"2028-01-05T00:00:00Z", "2028-01-07T00:00:00Z"},
		"used-year/2026":         {"2028-02-05T00:00:00Z", "2028-02-07T00:00:00Z"},
		"used-ever/":             {"2999-01-01T00:00:00Z", ""},
		"meta":                   {"2999-01-01T00:00:00Z", ""},
		"settings":               {"2999-01-01T00:00:00Z", ""},
		"expiries":               {"2999-01-01T00:00:00Z", ""},
		"inflight":               {"2999-01-01T00:00:00Z", ""},
		"somebody else's":        {"2999-01-01T00:00:00Z", ""},
	} {
		at := func(s string) time.Time {
			when, err := time.Parse(time.RFC3339, s)
			if err != nil {
				t.Fatal(err)
			}
			return when
		}
		if expired(space, at(life.stays), retain) {
			t.Errorf("%s goes at %s", space, life.stays)
		}
		if life.goes != "" && !expired(space, at(life.goes), retain) {
			t.Errorf("%s stays at %s", space, life.goes)
		}
	}
}

// A count is found under the spaces that are searched for open windows, in the zones farthest from UTC too.
func TestOpenSpaces(t *testing.T) {
	for _, name := range []string{"Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kolkata", "America/New_York", ""} {
		zone, err := window.LoadZone(name)
		if err != nil {
			t.Fatal(err)
		}
		for hour := range 24 * 400 {
			at := time.Date(2026, 1, 1, hour, 30, 0, 0, time.UTC)
			for _, span := range window.Spans() {
				space := accountSpace(span, span.At(at, zone).Label)
				if found := openSpaces(span, at); !strings.Contains(strings.Join(found, "\n")+"\n", space+"\n") {
					t.Fatalf("%v in %s: %s is not among %v", at, name, space, found)
				}
			}
		}
	}
}
