package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"sync"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// recordVersion is the first byte of every record.
const recordVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal finishes a record: what it is filed under is part of its checksum, so that a record in the wrong place is found too.
func seal(body []byte, space, key string) []byte {
	return binary.BigEndian.AppendUint32(body, checksum(body, space, key))
}

// filings lends room to put a space and a key together in, as a checksum of every record is taken at every reading.
var filings = sync.Pool{New: func() any { return new([]byte) }}

func checksum(body []byte, space, key string) uint32 {
	filed := filings.Get().(*[]byte)
	defer filings.Put(filed)
	*filed = append(append(append((*filed)[:0], space...), 0), key...)
	return crc32.Update(crc32.Checksum(*filed, castagnoli), castagnoli, body)
}

// unseal returns what a record holds, without its version.
func unseal(record []byte, space, key string) ([]byte, error) {
	if len(record) < 5 {
		return nil, fmt.Errorf("%w: %q in %s has %d bytes", ErrCorrupt, key, space, len(record))
	}
	body := record[:len(record)-4]
	if checksum(body, space, key) != binary.BigEndian.Uint32(record[len(body):]) {
		return nil, fmt.Errorf("%w: %q in %s fails its checksum", ErrCorrupt, key, space)
	}
	if body[0] != recordVersion {
		return nil, fmt.Errorf("%w: %q in %s has version %d; this quotad knows %d", ErrCorrupt, key, space, body[0], recordVersion)
	}
	return body[1:], nil
}

const (
	hasLimit = 1 << iota
	hasOverride
	hasBounds
)

// appendAccount writes a count. Most counts fit in some twenty bytes, and the fewer bytes, the fewer pages a commit touches.
func appendAccount(buf []byte, a quota.Account) []byte {
	var flags byte
	if a.Limit.Set {
		flags |= hasLimit
	}
	if a.Override.Set {
		flags |= hasOverride
	}
	if !a.Start.IsZero() {
		flags |= hasBounds
	}
	buf = append(buf, recordVersion, flags)
	buf = appendCount(buf, a.Used)
	buf = appendCount(buf, a.Held)
	buf = appendCount(buf, a.Receipted)
	buf = binary.AppendUvarint(buf, uint64(a.Resets))
	if a.Limit.Set {
		buf = appendCount(buf, a.Limit.Max)
	}
	if a.Override.Set {
		buf = appendCount(buf, a.Override.Max)
	}
	if !a.Start.IsZero() {
		buf = binary.AppendVarint(buf, a.Start.Unix())
		buf = appendCount(buf, a.End.Unix()-a.Start.Unix())
	}
	return buf
}

func parseAccountRecord(record []byte, space, key string) (quota.Account, error) {
	body, err := unseal(record, space, key)
	if err != nil {
		return quota.Account{}, err
	}
	d := decoder{rest: body}
	flags := d.byte()
	a := quota.Account{Used: d.count(), Held: d.count(), Receipted: d.count(), Resets: d.count32()}
	if flags&hasLimit != 0 {
		a.Limit = quota.AtMost(d.count())
	}
	if flags&hasOverride != 0 {
		a.Override = quota.AtMost(d.count())
	}
	if flags&hasBounds != 0 {
		start := d.varint()
		a.Start = time.Unix(start, 0).UTC()
		a.End = time.Unix(start+d.count(), 0).UTC()
	}
	if d.bad || len(d.rest) > 0 {
		return quota.Account{}, fmt.Errorf("%w: the count %q in %s cannot be read", ErrCorrupt, key, space)
	}
	return a, nil
}

// appendReceipt writes a receipt. An entry names only what differs from the entry before, as a bucket's parents and windows
// have most of their names in common.
func appendReceipt(buf []byte, r quota.Receipt) []byte {
	buf = append(buf, recordVersion)
	buf = append(buf, r.Fingerprint[:]...)
	buf = binary.AppendVarint(buf, r.Time.UnixMilli())
	buf = appendCount(buf, int64(len(r.Entries)))
	var last quota.AccountKey
	for _, e := range r.Entries {
		buf = appendShared(buf, string(last.Bucket), string(e.Key.Bucket))
		buf = appendShared(buf, string(last.Unit), string(e.Key.Unit))
		buf = append(buf, byte(e.Key.Span))
		buf = appendShared(buf, last.Label, e.Key.Label)
		buf = appendCount(buf, e.Amount)
		buf = binary.AppendUvarint(buf, uint64(e.Resets))
		last = e.Key
	}
	return buf
}

func parseReceipt(record []byte, space, key string) (quota.Receipt, error) {
	body, err := unseal(record, space, key)
	if err != nil {
		return quota.Receipt{}, err
	}
	d := decoder{rest: body}
	var r quota.Receipt
	copy(r.Fingerprint[:], d.bytes(int64(len(r.Fingerprint))))
	r.Time = time.UnixMilli(d.varint()).UTC()
	n := d.count()
	if n > int64(len(d.rest)) { // an entry has several bytes; do not make room for what cannot be there
		d.bad = true
	}
	var last quota.AccountKey
	for range n {
		if d.bad {
			break
		}
		last.Bucket = quota.Bucket(d.shared(string(last.Bucket)))
		last.Unit = quota.Unit(d.shared(string(last.Unit)))
		last.Span = window.Span(d.byte())
		last.Label = d.shared(last.Label)
		r.Entries = append(r.Entries, quota.Entry{Key: last, Amount: d.count(), Resets: d.count32()})
	}
	if d.bad || len(d.rest) > 0 {
		return quota.Receipt{}, fmt.Errorf("%w: the receipt %q in %s cannot be read", ErrCorrupt, key, space)
	}
	return r, nil
}

// appendShared writes text by how much of it is as in last, and the rest.
func appendShared(buf []byte, last, text string) []byte {
	n := 0
	for n < len(last) && n < len(text) && last[n] == text[n] {
		n++
	}
	buf = appendCount(buf, int64(n))
	buf = appendCount(buf, int64(len(text)-n))
	return append(buf, text[n:]...)
}

// appendCount writes a number that is never negative. One that is would be a defect in the rules, and must not reach the disk.
func appendCount(buf []byte, n int64) []byte {
	if n < 0 {
		panic(fmt.Sprintf("store: a count of %d", n))
	}
	return binary.AppendUvarint(buf, uint64(n))
}

// decoder reads what the append functions write. After something that cannot be it is bad, and answers zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) byte() byte {
	b := d.bytes(1)
	if b == nil {
		return 0
	}
	return b[0]
}

func (d *decoder) bytes(n int64) []byte {
	if d.bad || n < 0 || n > int64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// count reads a number that is never negative.
func (d *decoder) count() int64 {
	u, n := binary.Uvarint(d.rest)
	if d.bad || n <= 0 || u > math.MaxInt64 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return int64(u)
}

func (d *decoder) count32() uint32 {
	n := d.count()
	if n > math.MaxUint32 {
		d.bad = true
		return 0
	}
	return uint32(n) //nolint:gosec // bounded above
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) shared(last string) string {
	n := d.count()
	if n > int64(len(last)) {
		d.bad = true
	}
	rest := d.bytes(d.count())
	if d.bad {
		return ""
	}
	return last[:n] + string(rest)
}

// appendJSON writes what is rare and may grow: settings, audit records, facts about the ledger.
func appendJSON(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("writing a record: %w", err)
	}
	return append([]byte{recordVersion}, text...), nil
}

func parseJSON(record []byte, space, key string, v any) error {
	body, err := unseal(record, space, key)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %q in %s: %w", ErrCorrupt, key, space, err)
	}
	return nil
}

// The forms of rare records. They are apart from the types of package quota, so that those can change and files stay readable.
type (
	limitRecord struct {
		Unit string      `json:"unit"`
		Span window.Span `json:"span"`
		Max  int64       `json:"max"`
	}
	settingsRecord struct {
		Limits      []limitRecord  `json:"limits,omitempty"`
		Zone        string         `json:"zone,omitempty"`
		OnExpiry    quota.OnExpiry `json:"on_expiry,omitempty"`
		Description string         `json:"description,omitempty"`
		Source      quota.Source   `json:"source,omitempty"`
	}
	defaultsRecord struct {
		Limits         []limitRecord `json:"limits,omitempty"`
		Zone           string        `json:"zone,omitempty"`
		UndeclaredLive int64         `json:"undeclared_live"`
		Exhausted      int64         `json:"exhausted,omitempty"` // milliseconds since 1970
	}
	auditRecord struct {
		Time      int64  `json:"time"` // milliseconds since 1970
		Principal string `json:"principal"`
		Action    string `json:"action"`
		Bucket    string `json:"bucket,omitempty"`
		Before    string `json:"before,omitempty"`
		After     string `json:"after,omitempty"`
		Reason    string `json:"reason,omitempty"`
	}
	bootRecord struct {
		Boots int64 `json:"boots"`
		Time  int64 `json:"time"` // milliseconds since 1970
		Clean bool  `json:"clean"`
	}
)

func limitRecords(limits []quota.Limit) []limitRecord {
	var rs []limitRecord
	for _, l := range limits {
		rs = append(rs, limitRecord{string(l.Unit), l.Span, l.Max})
	}
	return rs
}

func limitsOf(rs []limitRecord) []quota.Limit {
	var limits []quota.Limit
	for _, r := range rs {
		limits = append(limits, quota.Limit{Unit: quota.Unit(r.Unit), Span: r.Span, Max: r.Max})
	}
	return limits
}

func (r defaultsRecord) defaults() quota.Defaults {
	d := quota.Defaults{Limits: limitsOf(r.Limits), Zone: r.Zone, UndeclaredLive: r.UndeclaredLive}
	if r.Exhausted != 0 {
		d.Exhausted = time.UnixMilli(r.Exhausted).UTC()
	}
	return d
}

func defaultsRecordOf(d quota.Defaults) defaultsRecord {
	r := defaultsRecord{Limits: limitRecords(d.Limits), Zone: d.Zone, UndeclaredLive: d.UndeclaredLive}
	if !d.Exhausted.IsZero() {
		r.Exhausted = d.Exhausted.UnixMilli()
	}
	return r
}

func (r settingsRecord) settings() quota.Settings {
	return quota.Settings{
		Limits: limitsOf(r.Limits), Zone: r.Zone, OnExpiry: r.OnExpiry, Description: r.Description, Source: r.Source,
	}
}
