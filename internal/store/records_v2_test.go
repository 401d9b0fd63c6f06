package store

import (
	"bytes"
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

var (
	anyUnit = rapid.Custom(func(t *rapid.T) quota.Unit {
		return quota.Unit(rapid.StringMatching(`[a-z][a-z0-9_]{0,20}`).Draw(t, "unit"))
	})
	anyBucket = rapid.Custom(func(t *rapid.T) quota.Bucket { return quota.Bucket(anyName.Draw(t, "bucket")) })
	anyAmount = rapid.Int64Range(0, quota.AmountMax)
	anyMilli  = rapid.Custom(func(t *rapid.T) time.Time {
		return time.UnixMilli(rapid.Int64Range(1, 4e12).Draw(t, "time")).UTC()
	})
	// anyText is what a caller or a request id may be: bytes of all kinds but NUL.
	anyText = rapid.StringN(1, 30, 60).Filter(func(s string) bool { return !strings.Contains(s, "\x00") })
)

// anyReservation draws a receipt of layout 2: of a reservation in any phase, or of a plain acquire that was released.
func anyReservation(t *rapid.T) quota.Receipt {
	r := quota.Receipt{Time: anyMilli.Draw(t, "made"), Phase: quota.PhaseReleased}
	copy(r.Fingerprint[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "fingerprint"))
	if rapid.IntRange(0, 4).Draw(t, "kind") > 0 {
		r.Phase = rapid.SampledFrom([]quota.Phase{quota.PhaseOpen, quota.PhaseSettled, quota.PhaseReleased, quota.PhaseExpired}).Draw(t, "phase")
		r.Hold = &quota.Hold{
			Bucket: anyBucket.Draw(t, "bucket"), Expiry: anyMilli.Draw(t, "expiry"), Late: rapid.Bool().Draw(t, "late"),
			OnExpiry: rapid.SampledFrom([]quota.OnExpiry{quota.ExpiryCharge, quota.ExpiryRelease}).Draw(t, "on expiry"),
		}
		if r.Phase != quota.PhaseOpen {
			r.Hold.Ended = anyMilli.Draw(t, "ended")
		}
		for range rapid.IntRange(1, 5).Draw(t, "charges") {
			r.Hold.Charges = append(r.Hold.Charges, quota.HeldCharge{
				Bucket: anyBucket.Draw(t, "charged"), Unit: anyUnit.Draw(t, "unit"),
				Amount: anyAmount.Draw(t, "held"), Used: anyAmount.Draw(t, "used"),
			})
		}
	}
	for range rapid.IntRange(0, 8).Draw(t, "entries") {
		e := quota.Entry{Key: anyKey(t), Amount: anyAmount.Draw(t, "amount"), Resets: rapid.Uint32().Draw(t, "resets")}
		if r.Hold != nil {
			e.Charge = rapid.IntRange(0, len(r.Hold.Charges)-1).Draw(t, "charge")
			e.Used = rapid.Int64Range(0, math.MaxInt64).Draw(t, "used")
		}
		r.Entries = append(r.Entries, e)
	}
	return r
}

// damage flips a bit of a record, cuts it short, or puts a byte into it.
func damage(t *rapid.T, record []byte) []byte {
	record = bytes.Clone(record)
	at := rapid.IntRange(0, len(record)-1).Draw(t, "damaged at")
	switch rapid.IntRange(0, 2).Draw(t, "damage") {
	case 0:
		record[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	case 1:
		record = record[:at]
	case 2:
		record = append(record[:at:at], append([]byte{rapid.Byte().Draw(t, "byte")}, record[at:]...)...)
	}
	return record
}

// What is written of a reservation is read again under its own key alone, and not at all once it is damaged.
func TestReservationsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const space, key = "receipts/2026-11-22", "local\x00id"
		r := anyReservation(t)
		record := seal(appendReceipt(nil, r), space, key)
		if record[0] != receiptVersion {
			t.Fatalf("version %d", record[0])
		}
		got, err := parseReceipt(record, space, key)
		if err != nil || !cmp.Equal(got, r) {
			t.Fatal(err, cmp.Diff(r, got))
		}
		if _, err := parseReceipt(record, space, key+"x"); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("under another key: %v", err)
		}
		if _, err := unseal(record, space, key); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("what knows version 1 alone reads it: %v", err)
		}
		spoiled := damage(t, record)
		if _, err := parseReceipt(spoiled, space, key); !errors.Is(err, ErrCorrupt) && !bytes.Equal(spoiled, record) {
			t.Fatalf("damaged: %v", err)
		}
		// However a record with something missing came by a good checksum, it is not taken for another.
		body := record[:len(record)-4]
		cut := bytes.Clone(body[:rapid.IntRange(1, len(body)-1).Draw(t, "cut")])
		if _, err := parseReceipt(seal(cut, space, key), space, key); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut short: %v", err)
		}
		if _, err := parseReceipt(seal(append(bytes.Clone(body), 0), space, key), space, key); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("with a byte more: %v", err)
		}
	})
}

// Keys of receipts and expiries come back as they were, and expiries sort by their time.
func TestExpiriesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() (time.Time, quota.ReceiptKey) {
			return anyMilli.Draw(t, "at"), quota.ReceiptKey{Principal: anyText.Draw(t, "principal"), RequestID: anyText.Draw(t, "id")}
		}
		at, k := draw()
		for _, extension := range []string{"", anyText.Draw(t, "extension")} {
			x := k
			x.ExtendID = extension
			if got, err := parseReceiptKey("receipts/", receiptKey(x)); err != nil || got != x {
				t.Fatalf("%+v came back as %+v: %v", x, got, err)
			}
		}
		key := expiryKey(at, k)
		if when, got, err := parseExpiryKey(key); err != nil || got != k || !when.Equal(at) {
			t.Fatalf("%v %+v came back as %v %+v: %v", at, k, when, got, err)
		}
		if at2, k2 := draw(); at.Before(at2) != (key < expiryKey(at2, k2)) && !at.Equal(at2) {
			t.Fatalf("%v and %v sort the wrong way", at, at2)
		}
		// The record, as state.Schedule writes it.
		r := quota.Receipt{Time: anyMilli.Draw(t, "made"), Phase: quota.PhaseOpen, Hold: &quota.Hold{Bucket: anyBucket.Draw(t, "bucket"), Expiry: at}}
		w := make(written)
		if err := newState(w, r.Time, new(window.Cache), new(books)).Schedule(k, time.Time{}, r); err != nil {
			t.Fatal(err)
		}
		record := w[spaceExpiries+"\x00"+key]
		x, err := parseExpiry(key, record)
		if err != nil || x != (expiry{at: at, key: k, made: r.Time, bucket: r.Hold.Bucket}) {
			t.Fatalf("%+v, %v", x, err)
		}
		spoiled := damage(t, record)
		if _, err := parseExpiry(key, spoiled); !errors.Is(err, ErrCorrupt) && !bytes.Equal(spoiled, record) {
			t.Fatalf("damaged: %v", err)
		}
		if _, err := parseExpiry(expiryKey(at.Add(time.Millisecond), k), record); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("at another time: %v", err)
		}
	})
}

// What is not the key of a receipt is not taken for one.
func TestReceiptKeysRefused(t *testing.T) {
	for _, key := range []string{"", "a", "a\x00", "a\x00\x00x", "a\x00b\x00", "a\x00b\x00c\x00d", "\x00\x00"} {
		if k, err := parseReceiptKey("receipts/2026-11-22", key); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %+v, %v", key, k, err)
		}
		if _, k, err := parseExpiryKey("01234567" + key); !errors.Is(err, ErrCorrupt) {
			t.Errorf("an expiry of %q: %+v, %v", key, k, err)
		}
	}
}

// written is a Tx that only keeps what is put into it.
type written map[string][]byte

func (written) Get(string, string) ([]byte, error)                   { return nil, nil }
func (written) Delete(string, string) error                          { return nil }
func (written) Scan(string, string, func(string, []byte) bool) error { return nil }
func (written) Drop(string) error                                    { return nil }
func (written) Spaces(string, func(string) bool) error               { return nil }
func (w written) Put(space, key string, value []byte) error {
	w[space+"\x00"+key] = bytes.Clone(value)
	return nil
}

// Settings come back as they were, with all that layout 2 added; and a record of layout 1 is read as it was meant.
func TestSettingsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := quota.Settings{
			Zone: rapid.SampledFrom([]string{"", "UTC", "Asia/Kolkata"}).Draw(t, "zone"), Description: rapid.StringN(0, 40, 100).Draw(t, "description"),
			OnExpiry: quota.OnExpiry(rapid.IntRange(0, 1).Draw(t, "on expiry")), Source: quota.Source(rapid.IntRange(0, 1).Draw(t, "source")),
			MaxHold: rapid.IntRange(0, 100).Draw(t, "max hold"), MaxInFlight: rapid.Int64Range(0, quota.InFlightMax).Draw(t, "max in flight"),
			Hold: time.Duration(rapid.Int64Range(0, quota.HoldMax.Milliseconds()).Draw(t, "hold")) * time.Millisecond,
		}
		for range rapid.IntRange(0, 3).Draw(t, "limits") {
			s.Limits = append(s.Limits, quota.Limit{
				Unit: anyUnit.Draw(t, "unit"), Span: rapid.SampledFrom(window.Spans()).Draw(t, "span"), Max: rapid.Int64Range(0, quota.CountMax).Draw(t, "max"),
			})
		}
		for range rapid.IntRange(0, 3).Draw(t, "estimates") {
			s.Estimates = append(s.Estimates, quota.Estimate{Unit: anyUnit.Draw(t, "unit"), Amount: rapid.Int64Range(1, quota.AmountMax).Draw(t, "amount")})
		}
		body, err := appendJSON(settingsRecordOf(s))
		if err != nil {
			t.Fatal(err)
		}
		record := seal(body, spaceSettings, "name")
		var back settingsRecord
		if err := parseJSON(record, spaceSettings, "name", &back); err != nil || !cmp.Equal(back.settings(), s) {
			t.Fatal(err, cmp.Diff(s, back.settings()))
		}
		spoiled := damage(t, record)
		if err := parseJSON(spoiled, spaceSettings, "name", &back); !errors.Is(err, ErrCorrupt) && !bytes.Equal(spoiled, record) {
			t.Fatalf("damaged: %v", err)
		}
	})
	var old settingsRecord
	record := seal([]byte("\x01"+`{"limits":[{"unit":"calls","span":3,"max":9}],"zone":"UTC","on_expiry":1}`), spaceSettings, "old")
	want := quota.Settings{Limits: []quota.Limit{{Unit: "calls", Span: window.Span(3), Max: 9}}, Zone: "UTC", OnExpiry: quota.ExpiryRelease}
	if err := parseJSON(record, spaceSettings, "old", &old); err != nil || !cmp.Equal(old.settings(), want) {
		t.Error(err, cmp.Diff(want, old.settings()))
	}
}

// A receipt whose phase and hold contradict each other is refused, though its checksum is right: what reads it depends on both.
func TestReceiptsContradict(t *testing.T) {
	const space, key = "receipts/2026-11-22", "local\x00id"
	hold := &quota.Hold{Bucket: "a", Expiry: time.UnixMilli(5), Charges: []quota.HeldCharge{{Bucket: "a", Unit: "calls", Amount: 1}}}
	for name, r := range map[string]quota.Receipt{
		"open without a hold":    {Phase: quota.PhaseOpen},
		"settled without a hold": {Phase: quota.PhaseSettled},
		"expired without a hold": {Phase: quota.PhaseExpired},
		"plain with a hold":      {Phase: quota.PhaseUsed, Hold: hold},
		"unknown phase":          {Phase: quota.PhaseExpired + 1, Hold: hold},
		"holds nothing":          {Phase: quota.PhaseOpen, Hold: &quota.Hold{Bucket: "a", Expiry: time.UnixMilli(5)}},
		"a charge too far": {Phase: quota.PhaseOpen, Hold: hold, Entries: []quota.Entry{
			{Key: quota.AccountKey{Bucket: "a", Unit: "calls", Span: window.Day, Label: "2026-11-22"}, Amount: 1, Charge: 1},
		}},
	} {
		if _, err := parseReceipt(seal(appendReceipt(nil, r), space, key), space, key); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := quota.Receipt{Time: time.UnixMilli(1).UTC(), Phase: quota.PhaseOpen, Hold: hold}
	if _, err := parseReceipt(seal(appendReceipt(nil, good), space, key), space, key); err != nil {
		t.Errorf("the control: %v", err)
	}
}
