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

// recordVersion is the first byte of every record, but for the receipts of what is more than a plain acquire.
const recordVersion = 1

// receiptVersion is the first byte of a receipt that says how far it has come: that of a reservation, or of an acquire that was
// released.
const receiptVersion = 2

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
	_, body, err := unsealUpTo(recordVersion, record, space, key)
	return body, err
}

// unsealUpTo is unseal for a record of any version up to the newest that is known.
func unsealUpTo(newest byte, record []byte, space, key string) (version byte, body []byte, err error) {
	if len(record) < 5 {
		return 0, nil, fmt.Errorf("%w: %q in %s has %d bytes", ErrCorrupt, key, space, len(record))
	}
	body = record[:len(record)-4]
	if checksum(body, space, key) != binary.BigEndian.Uint32(record[len(body):]) {
		return 0, nil, fmt.Errorf("%w: %q in %s fails its checksum", ErrCorrupt, key, space)
	}
	if body[0] == 0 || body[0] > newest {
		return 0, nil, fmt.Errorf("%w: %q in %s has version %d; this quotad knows %d", ErrCorrupt, key, space, body[0], newest)
	}
	return body[0], body[1:], nil
}

const (
	hasLimit = 1 << iota
	hasOverride
	hasBounds
	hasTold
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
	if a.Told != 0 {
		flags |= hasTold
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
	if a.Told != 0 {
		buf = appendCount(buf, int64(a.Told))
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
	if flags&hasTold != 0 {
		a.Told = int(d.count32())
	}
	if d.bad || len(d.rest) > 0 {
		return quota.Account{}, fmt.Errorf("%w: the count %q in %s cannot be read", ErrCorrupt, key, space)
	}
	return a, nil
}

// appendReceipt writes a receipt. An entry names only what differs from the entry before, as a bucket's parents and windows
// have most of their names in common.
func appendReceipt(buf []byte, r quota.Receipt) []byte {
	version := byte(recordVersion) // what a plain acquire leaves has stayed the same
	if r.Phase != quota.PhaseUsed || r.Hold != nil {
		version = receiptVersion
	}
	buf = append(buf, version)
	buf = append(buf, r.Fingerprint[:]...)
	buf = binary.AppendVarint(buf, r.Time.UnixMilli())
	if version == receiptVersion {
		buf = appendPhase(buf, r)
	}
	buf = appendCount(buf, int64(len(r.Entries)))
	var last quota.AccountKey
	for _, e := range r.Entries {
		buf = appendShared(buf, string(last.Bucket), string(e.Key.Bucket))
		buf = appendShared(buf, string(last.Unit), string(e.Key.Unit))
		buf = append(buf, byte(e.Key.Span))
		buf = appendShared(buf, last.Label, e.Key.Label)
		buf = appendCount(buf, e.Amount)
		buf = binary.AppendUvarint(buf, uint64(e.Resets))
		if r.Hold != nil {
			buf = appendCount(buf, int64(e.Charge))
			buf = appendCount(buf, e.Used)
		}
		last = e.Key
	}
	return buf
}

const (
	hasHold = 1 << iota
	isReleasedOnExpiry
	isLate
)

// appendPhase writes what a receipt has besides that of a plain acquire.
func appendPhase(buf []byte, r quota.Receipt) []byte {
	buf = append(buf, byte(r.Phase))
	if r.Hold == nil {
		return append(buf, 0)
	}
	h := r.Hold
	flags := byte(hasHold)
	if h.OnExpiry == quota.ExpiryRelease {
		flags |= isReleasedOnExpiry
	}
	if h.Late {
		flags |= isLate
	}
	buf = append(buf, flags)
	buf = appendShared(buf, "", string(h.Bucket))
	buf = binary.AppendVarint(buf, h.Expiry.UnixMilli())
	ended := int64(0)
	if !h.Ended.IsZero() {
		ended = h.Ended.UnixMilli()
	}
	buf = binary.AppendVarint(buf, ended)
	buf = appendCount(buf, int64(len(h.Charges)))
	last := quota.HeldCharge{Bucket: h.Bucket}
	for _, c := range h.Charges {
		buf = appendShared(buf, string(last.Bucket), string(c.Bucket))
		buf = appendShared(buf, string(last.Unit), string(c.Unit))
		buf = appendCount(buf, c.Amount)
		buf = appendCount(buf, c.Used)
		last = c
	}
	return buf
}

// phase reads what appendPhase writes.
func (d *decoder) phase(r *quota.Receipt) {
	r.Phase = quota.Phase(d.byte())
	flags := d.byte()
	if flags == 0 && r.Phase == quota.PhaseReleased { // a plain acquire
		return
	}
	if r.Phase == quota.PhaseUsed || r.Phase > quota.PhaseExpired || flags&hasHold == 0 || flags > hasHold|isReleasedOnExpiry|isLate {
		d.bad = true
		return
	}
	h := &quota.Hold{Late: flags&isLate != 0, Bucket: quota.Bucket(d.shared(""))}
	if flags&isReleasedOnExpiry != 0 {
		h.OnExpiry = quota.ExpiryRelease
	}
	h.Expiry = time.UnixMilli(d.varint()).UTC()
	if ended := d.varint(); ended != 0 {
		h.Ended = time.UnixMilli(ended).UTC()
	}
	n := d.count()
	if n == 0 || n > int64(len(d.rest)) {
		d.bad = true
	}
	last := quota.HeldCharge{Bucket: h.Bucket}
	for range n {
		if d.bad {
			break
		}
		last.Bucket = quota.Bucket(d.shared(string(last.Bucket)))
		last.Unit = quota.Unit(d.shared(string(last.Unit)))
		last.Amount, last.Used = d.count(), d.count()
		h.Charges = append(h.Charges, last)
	}
	r.Hold = h
}

func parseReceipt(record []byte, space, key string) (quota.Receipt, error) {
	version, body, err := unsealUpTo(receiptVersion, record, space, key)
	if err != nil {
		return quota.Receipt{}, err
	}
	d := decoder{rest: body}
	var r quota.Receipt
	copy(r.Fingerprint[:], d.bytes(int64(len(r.Fingerprint))))
	r.Time = time.UnixMilli(d.varint()).UTC()
	if version == receiptVersion {
		d.phase(&r)
	}
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
		e := quota.Entry{Key: last, Amount: d.count(), Resets: d.count32()}
		if r.Hold != nil {
			charge := d.count()
			if charge >= int64(len(r.Hold.Charges)) {
				d.bad = true
			}
			e.Charge, e.Used = int(charge), d.count()
		}
		r.Entries = append(r.Entries, e)
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
	estimateRecord struct {
		Unit   string `json:"unit"`
		Amount int64  `json:"amount"`
	}
	settingsRecord struct {
		Limits      []limitRecord    `json:"limits,omitempty"`
		Zone        string           `json:"zone,omitempty"`
		OnExpiry    quota.OnExpiry   `json:"on_expiry,omitempty"`
		Description string           `json:"description,omitempty"`
		Source      quota.Source     `json:"source,omitempty"`
		MaxHold     int              `json:"max_hold,omitempty"` // percent
		MaxInFlight int64            `json:"max_in_flight,omitempty"`
		Hold        int64            `json:"hold,omitempty"` // milliseconds
		Estimates   []estimateRecord `json:"estimates,omitempty"`
		Thresholds  []int            `json:"thresholds,omitzero"` // percent; none is something else than left out
	}
	defaultsRecord struct {
		Limits         []limitRecord `json:"limits,omitempty"`
		Zone           string        `json:"zone,omitempty"`
		UndeclaredLive int64         `json:"undeclared_live"`
		Exhausted      int64         `json:"exhausted,omitempty"`  // milliseconds since 1970
		Thresholds     []int         `json:"thresholds,omitempty"` // percent
	}
	auditRecord struct {
		Time      int64  `json:"time"` // milliseconds since 1970
		Principal string `json:"principal"`
		Action    string `json:"action"`
		Bucket    string `json:"bucket,omitempty"`
		Before    string `json:"before,omitempty"`
		After     string `json:"after,omitempty"`
		Reason    string `json:"reason,omitempty"`
		Hash      string `json:"hash,omitempty"` // hexadecimal; records from before layout 3 have none
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
	d := quota.Defaults{Limits: limitsOf(r.Limits), Zone: r.Zone, UndeclaredLive: r.UndeclaredLive, Thresholds: r.Thresholds}
	if r.Exhausted != 0 {
		d.Exhausted = time.UnixMilli(r.Exhausted).UTC()
	}
	return d
}

func defaultsRecordOf(d quota.Defaults) defaultsRecord {
	r := defaultsRecord{Limits: limitRecords(d.Limits), Zone: d.Zone, UndeclaredLive: d.UndeclaredLive, Thresholds: d.Thresholds}
	if !d.Exhausted.IsZero() {
		r.Exhausted = d.Exhausted.UnixMilli()
	}
	return r
}

func (r settingsRecord) settings() quota.Settings {
	s := quota.Settings{
		Limits: limitsOf(r.Limits), Zone: r.Zone, OnExpiry: r.OnExpiry, Description: r.Description, Source: r.Source,
		MaxHold: r.MaxHold, MaxInFlight: r.MaxInFlight, Hold: time.Duration(r.Hold) * time.Millisecond,
		Thresholds: r.Thresholds,
	}
	for _, e := range r.Estimates {
		s.Estimates = append(s.Estimates, quota.Estimate{Unit: quota.Unit(e.Unit), Amount: e.Amount})
	}
	return s
}

func settingsRecordOf(s quota.Settings) settingsRecord {
	r := settingsRecord{
		Limits: limitRecords(s.Limits), Zone: s.Zone, OnExpiry: s.OnExpiry, Description: s.Description, Source: s.Source,
		MaxHold: s.MaxHold, MaxInFlight: s.MaxInFlight, Hold: s.Hold.Milliseconds(),
		Thresholds: s.Thresholds,
	}
	for _, e := range s.Estimates {
		r.Estimates = append(r.Estimates, estimateRecord{string(e.Unit), e.Amount})
	}
	return r
}
