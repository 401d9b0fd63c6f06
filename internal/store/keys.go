package store

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// The layout of a ledger: which space holds what under which key. Everything with a date lives in a space per date, so that it
// leaves in one stroke. docs/format.md describes it for people.
const (
	spaceMeta     = "meta"     // facts about the ledger itself
	spaceSettings = "settings" // what is declared, by name
	spaceExpiries = "expiries" // the open reservations, by when they expire
	spaceInFlight = "inflight" // how many reservations are open on each bucket
	receiptsAt    = "receipts/"
	namesAt       = "names/"
	auditAt       = "audit/"

	keySchema   = "schema"
	keyDefaults = "defaults"
	keyRevision = "revision" // of what is declared
	keyClock    = "clock"
	keyBoot     = "boot"
	keyAudit    = "audit"      // the head of the chain: the number and the hash of the last record
	keyBase     = "audit-base" // the same of the last record that has left; not there if none has
	keyOpen     = "open"       // how many reservations are open

	// keyCount is the number of names in a space of names. No name starts with NUL.
	keyCount = "\x00count"
)

// usedAt is where the counts of each span live; the rest of the space's name is a label or its date.
var usedAt = map[window.Span]string{
	window.Minute: "used-minute/", window.Hour: "used-hour/", window.Day: "used/", window.Week: "used-week/",
	window.Month: "used-month/", window.Year: "used-year/", window.Ever: "used-ever/",
}

// short tells whether the counts of a span share a space per date, with the start in the key, and leave after two days.
func short(s window.Span) bool { return s == window.Minute || s == window.Hour }

// accountSpace names the space of a window's counts.
func accountSpace(s window.Span, label string) string {
	if short(s) {
		return usedAt[s] + label[:len(time.DateOnly)]
	}
	return usedAt[s] + label
}

// accountKey names a count within its space: bucket, unit, and for minutes and hours the time at which they start. NUL is in
// no name, so that no two counts share a key, and the counts of a bucket stand together.
func accountKey(k quota.AccountKey) string {
	if short(k.Span) {
		return string(k.Bucket) + "\x00" + string(k.Unit) + "\x00" + k.Label[len(time.DateOnly):]
	}
	return string(k.Bucket) + "\x00" + string(k.Unit)
}

// parseAccount is the inverse of accountSpace and accountKey.
func parseAccount(span window.Span, space, key string) (quota.AccountKey, error) {
	bucket, rest, ok := strings.Cut(key, "\x00")
	k := quota.AccountKey{Bucket: quota.Bucket(bucket), Span: span, Label: strings.TrimPrefix(space, usedAt[span])}
	if ok && short(span) {
		var at string
		rest, at, ok = strings.Cut(rest, "\x00")
		k.Label += at
	}
	k.Unit = quota.Unit(rest)
	if !ok || k.Bucket.Check() != nil || k.Unit.Check() != nil {
		return k, fmt.Errorf("%w: %q in %s is not the key of a count", ErrCorrupt, key, space)
	}
	return k, nil
}

// spanOf returns the span whose counts a space holds.
func spanOf(space string) (window.Span, bool) {
	at, _, _ := strings.Cut(space, "/")
	for span, prefix := range usedAt {
		if prefix == at+"/" {
			return span, true
		}
	}
	return 0, false
}

// dateOf returns the date by which things are kept that belong to no bucket's zone.
func dateOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// receiptKey names a receipt within its space. NUL is in no principal and no id.
func receiptKey(k quota.ReceiptKey) string {
	if k.ExtendID != "" {
		return k.Principal + "\x00" + k.RequestID + "\x00" + k.ExtendID
	}
	return k.Principal + "\x00" + k.RequestID
}

// parseReceiptKey is the inverse of receiptKey.
func parseReceiptKey(space, key string) (quota.ReceiptKey, error) {
	parts := strings.Split(key, "\x00")
	switch {
	case len(parts) == 2 && parts[1] != "":
		return quota.ReceiptKey{Principal: parts[0], RequestID: parts[1]}, nil
	case len(parts) == 3 && parts[1] != "" && parts[2] != "":
		return quota.ReceiptKey{Principal: parts[0], RequestID: parts[1], ExtendID: parts[2]}, nil
	}
	return quota.ReceiptKey{}, fmt.Errorf("%w: %q in %s is not the key of a receipt", ErrCorrupt, key, space)
}

// expiryKey makes open reservations sort by when they expire.
func expiryKey(at time.Time, k quota.ReceiptKey) string { return expiryKeyOf(at, receiptKey(k)) }

// expiryKeyOf is expiryKey for a reservation by the key of its receipt.
func expiryKeyOf(at time.Time, receipt string) string {
	key := make([]byte, 0, 160)
	key = binary.BigEndian.AppendUint64(key, uint64(at.UnixMilli()))
	return string(append(key, receipt...))
}

// parseExpiryKey is the inverse of expiryKey.
func parseExpiryKey(key string) (time.Time, quota.ReceiptKey, error) {
	if len(key) < 8 {
		return time.Time{}, quota.ReceiptKey{}, fmt.Errorf("%w: %q in %s is too short", ErrCorrupt, key, spaceExpiries)
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64([]byte(key[:8])))).UTC() //nolint:gosec // expiryKey's own conversion, back
	k, err := parseReceiptKey(spaceExpiries, key[8:])
	return at, k, err
}

// auditKey makes audit records sort by their number.
func auditKey(sequence int64) string { return fmt.Sprintf("%016x", sequence) }
