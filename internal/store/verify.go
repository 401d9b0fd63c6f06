package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// faultsMax is how many faults a report names; the rest are counted.
const faultsMax = 100

// Report is what Verify found.
type Report struct {
	Accounts, Receipts, Audits, Declared int      // records read
	Events                               int      // likewise
	Open                                 int      // reservations that are open
	Faults                               []string // what is wrong, a line each; none means that the ledger is sound
	MoreFaults                           int      // those beyond the first hundred
	Recounted                            int      // counts whose receipts were all there to be added up
	Clean                                bool     // whether the last run ended in order
	Boots                                int64    // how often the ledger was started
	LedgerTime                           time.Time
}

func (r *Report) fault(format string, args ...any) {
	if len(r.Faults) == faultsMax {
		r.MoreFaults++
		return
	}
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

// Verify reads every record of a ledger: checksums, forms, counts against receipts, what is held against the open reservations,
// those against the index of their expiries, the chain of the audit trail. It changes nothing, and is meant for a ledger that
// nobody is writing to. A fault is reported; an error means that the engine could not be read.
func Verify(ctx context.Context, e Engine) (Report, error) {
	var r Report
	err := e.View(ctx, func(tx Tx) error {
		v := verifier{
			tx: tx, r: &r, receipts: make(map[quota.AccountKey]map[uint32]int64),
			held: make(map[quota.AccountKey]int64), inFlight: make(map[quota.Bucket]int64),
			told: make(map[quota.AccountKey]int),
		}
		return v.run()
	})
	if err != nil {
		return r, fmt.Errorf("verifying: %w", err)
	}
	return r, nil
}

type verifier struct {
	tx            Tx
	r             *Report
	receipts      map[quota.AccountKey]map[uint32]int64 // what receipts say of each count, by its resets
	held          map[quota.AccountKey]int64            // what open reservations say of each count
	inFlight      map[quota.Bucket]int64                // how many are open on each bucket
	receiptSpaces []string
	first         string // the first date whose receipts must all be there
	chain         *quota.Chain
	endless       bool                     // whether the head of the chain cannot be read
	event         int64                    // the number of the event before
	told          map[quota.AccountKey]int // the highest threshold that events tell of, of each count
	baseless      bool                     // whether its base cannot, and no record has been met yet
	seen          func(quota.AuditPoint)   // told of each place in the chain; nil means nobody
}

func (v *verifier) run() error {
	schema, err := checkSchema(v.tx, Schema)
	if err != nil {
		return err
	}
	if err := v.meta(); err != nil {
		return err
	}
	if _, err := v.auditTrail(schema); err != nil {
		return err
	}
	var spaces []string
	if err := v.tx.Spaces("", func(space string) bool { spaces = append(spaces, space); return true }); err != nil {
		return err
	}
	for _, space := range spaces {
		if strings.HasPrefix(space, receiptsAt) {
			v.receiptSpaces = append(v.receiptSpaces, space)
		}
	}
	for _, space := range spaces { // receipts first, as counts are held against them
		if strings.HasPrefix(space, receiptsAt) {
			if err := v.receiptSpace(space); err != nil {
				return err
			}
		}
	}
	for _, space := range spaces {
		if err := v.space(space); err != nil {
			return err
		}
	}
	v.unknownCounts()
	v.cursors()
	return v.open()
}

func (v *verifier) meta() error {
	st := newState(v.tx, time.Time{}, new(window.Cache), new(books))
	if book, err := st.Book(); err != nil {
		v.r.fault("%v", err)
	} else {
		v.r.Declared = len(book.Names())
	}
	boot, err := st.boot()
	if err != nil {
		v.r.fault("%v", err)
	}
	v.r.Clean, v.r.Boots = boot.Clean, boot.Boots
	clock, err := st.number(spaceMeta, keyClock)
	if err != nil {
		v.r.fault("%v", err)
	}
	v.r.LedgerTime = time.Unix(0, clock).UTC()
	v.first = dateOf(v.r.LedgerTime.Add(-24 * time.Hour))
	return nil
}

func (v *verifier) receiptSpace(space string) error {
	return v.tx.Scan(space, "", func(key string, record []byte) bool {
		v.r.Receipts++
		receipt, err := parseReceipt(record, space, key)
		if err != nil {
			v.r.fault("%v", err)
			return true
		}
		if _, err := parseReceiptKey(space, key); err != nil {
			v.r.fault("%v", err)
		}
		for _, e := range receipt.Entries {
			if used := receipt.Used(e); used > 0 {
				if v.receipts[e.Key] == nil {
					v.receipts[e.Key] = make(map[uint32]int64)
				}
				v.receipts[e.Key][e.Resets] += used
			}
			if held := receipt.Held(e); held > 0 {
				v.held[e.Key] += held
			}
		}
		v.selfCheck(space, key, receipt)
		for _, b := range receipt.InFlight() {
			v.inFlight[b]++
		}
		if receipt.Phase == quota.PhaseOpen {
			v.r.Open++
		}
		return true
	})
}

// selfCheck finds a reservation whose charges are not what its entries say, and a receipt that is in the space of a later date too.
func (v *verifier) selfCheck(space, key string, r quota.Receipt) {
	name := fmt.Sprintf("receipt %q in %s", key, space)
	for _, later := range v.receiptSpaces {
		record, err := v.tx.Get(later, key)
		if later > space && err == nil && record != nil {
			v.r.fault("%s: it is in %s too", name, later)
		}
	}
	if r.Hold == nil {
		return
	}
	charged := make([]bool, len(r.Hold.Charges))
	for _, e := range r.Entries {
		charge := r.Hold.Charges[e.Charge] // reading it has checked that there is such a one
		if charged[e.Charge] = true; e.Amount != charge.Amount {
			v.r.fault("%s: it took %d of a count, for a charge of %d", name, e.Amount, charge.Amount)
		}
	}
	if slices.Contains(charged, false) {
		v.r.fault("%s: a charge of it touches no count", name)
	}
	if r.Hold.Expiry.Before(r.Time) {
		v.r.fault("%s: it expired before it was made", name)
	}
}

// open holds the open reservations against what is kept of them elsewhere: their expiries, one for one, and their numbers.
func (v *verifier) open() error {
	st := newState(v.tx, v.r.LedgerTime, new(window.Cache), new(books))
	n := 0
	err := v.tx.Scan(spaceExpiries, "", func(key string, record []byte) bool {
		n++
		x, err := parseExpiry(key, record)
		if err != nil {
			v.r.fault("%v", err)
			return true
		}
		r, seen, err := st.Receipt(x.key)
		switch {
		case err != nil: // told of before
		case !seen || r.Phase != quota.PhaseOpen || !r.Hold.Expiry.Equal(x.at):
			v.r.fault("reservation %q of %q: it is to expire at %s, and no such one is open", x.key.RequestID, x.key.Principal, x.at.Format(time.RFC3339))
		case r.Hold.Bucket != x.bucket || !r.Time.Equal(x.made):
			v.r.fault("reservation %q of %q: the list of expiries has it as of %s, made at %s", x.key.RequestID, x.key.Principal, x.bucket, x.made.Format(time.RFC3339))
		}
		return true
	})
	if err != nil {
		return err
	}
	said, err := st.number(spaceMeta, keyOpen)
	if err != nil {
		v.r.fault("%v", err)
	}
	if n != v.r.Open || said != int64(v.r.Open) {
		v.r.fault("%d reservations are open, %d are to expire, the count says %d", v.r.Open, n, said)
	}
	for b, n := range v.inFlight {
		if said, err := st.InFlight(b); err != nil || said != n {
			v.r.fault("%s: %d reservations are open, the count says %d", b, n, said)
		}
	}
	return v.tx.Scan(spaceInFlight, "", func(key string, _ []byte) bool {
		if v.inFlight[quota.Bucket(key)] == 0 {
			v.r.fault("%s: no reservation is open, and the count says that some are", key)
		}
		return true
	})
}

func (v *verifier) space(space string) error {
	at, _, _ := strings.Cut(space, "/")
	span, counts := spanOf(space)
	switch {
	case (at+"/" == namesAt || at+"/" == eventsAt) && expired(space, v.r.LedgerTime, DefaultRetain): // perhaps leaving, a piece at a time
	case counts:
		return v.tx.Scan(space, "", func(key string, record []byte) bool {
			v.account(span, space, key, record)
			return true
		})
	case at+"/" == namesAt:
		return v.names(space)
	case at+"/" == eventsAt:
		return v.eventSpace(space)
	case space == spaceMeta, space == spaceSettings, at+"/" == receiptsAt, at+"/" == auditAt: // read before
	case space == spaceExpiries, space == spaceInFlight: // read after
	default:
		v.r.fault("%s: a space that quotad does not know", space)
	}
	return nil
}

func (v *verifier) account(span window.Span, space, key string, record []byte) {
	v.r.Accounts++
	k, err := parseAccount(span, space, key)
	if err != nil {
		v.r.fault("%v", err)
		return
	}
	said := v.receipts[k]
	delete(v.receipts, k)
	a, err := parseAccountRecord(record, space, key)
	if err != nil {
		v.r.fault("%v", err)
		return
	}
	name := fmt.Sprintf("%s %s %s %s", k.Bucket, k.Unit, k.Span, k.Label)
	if held := v.held[k]; held != a.Held {
		v.r.fault("%s: open reservations hold %d, the count says %d", name, held, a.Held)
	}
	delete(v.held, k)
	if a.Receipted > a.Used {
		v.r.fault("%s: receipts account for %d, but only %d are used", name, a.Receipted, a.Used)
	}
	sum := said[a.Resets]
	whole := !a.Start.IsZero() && dateOf(a.Start) >= v.first // its receipts are all younger than what may have left
	if whole {
		v.r.Recounted++
	}
	if told := v.told[k]; whole && told != a.Told {
		v.r.fault("%s: events told of %d%%, the count says %d%%", name, told, a.Told)
	}
	if sum > a.Receipted || whole && sum != a.Receipted {
		v.r.fault("%s: receipts add up to %d, the count says %d", name, sum, a.Receipted)
	}
}

// unknownCounts finds receipts of counts that are not there, though they have not had the time to leave.
func (v *verifier) unknownCounts() {
	for k := range v.receipts {
		if !expired(accountSpace(k.Span, k.Label), v.r.LedgerTime, 48*time.Hour) {
			v.r.fault("%s %s %s %s: there are receipts, but no count", k.Bucket, k.Unit, k.Span, k.Label)
		}
	}
	for k := range v.held {
		if !expired(accountSpace(k.Span, k.Label), v.r.LedgerTime, 48*time.Hour) {
			v.r.fault("%s %s %s %s: reservations hold of it, but there is no count", k.Bucket, k.Unit, k.Span, k.Label)
		}
	}
}

func (v *verifier) names(space string) error {
	st := state{tx: v.tx}
	said, err := st.number(space, keyCount)
	if err != nil {
		v.r.fault("%v", err)
	}
	var n int64
	err = v.tx.Scan(space, "", func(key string, record []byte) bool {
		if key == keyCount {
			return true
		}
		n++
		if _, err := unseal(record, space, key); err != nil {
			v.r.fault("%v", err)
		}
		return true
	})
	if err == nil && n != said {
		v.r.fault("%s: %d names are there, the count says %d", space, n, said)
	}
	return err
}

// MarkRestored is for a ledger that was put in place from a backup, before a store opens it. A backup knows nothing of what was
// spent after it was made, so that restoring one would give the day's budget out again: every limit refuses until the day of
// now ends, and MarkRestored returns when that is in the ledger's own zone. With keepToday it lets the counts stand, and
// returns the zero time. Both are audited.
func MarkRestored(ctx context.Context, e Engine, now time.Time, keepToday bool, principal, reason string) (until time.Time, err error) {
	err = e.Update(ctx, func(tx Tx) error {
		st := newState(tx, now, new(window.Cache), new(books))
		schema, err := checkSchema(tx, Schema)
		if err != nil {
			return err
		}
		seen, err := st.number(spaceMeta, keyClock)
		if err != nil {
			return err
		}
		if ledger := time.Unix(0, seen); ledger.After(now) { // the ledger's time never goes back
			st.now = ledger
		}
		if schema > 0 {
			if err := st.migrate(schema); err != nil {
				return err
			}
		}
		if keepToday {
			_, err := quota.Apply(st, st.now, quota.Note{Principal: principal, Reason: reason, Action: "restore", After: "the counts of the backup stand"})
			return err
		}
		until, err = st.exhaust(principal, reason)
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("marking the ledger as restored: %w", err)
	}
	return until, nil
}

// exhaust ends the day. An override of that day from before would open a bucket again, so it goes.
func (s *state) exhaust(principal, reason string) (until time.Time, err error) {
	for _, space := range openSpaces(window.Day, s.now) {
		if err := s.dropOverrides(space); err != nil {
			return time.Time{}, err
		}
	}
	if _, err := quota.Apply(s, s.now, quota.Exhaust{Principal: principal, Reason: reason}); err != nil {
		return time.Time{}, err
	}
	book, err := s.Book()
	if err != nil {
		return time.Time{}, err
	}
	zone, err := window.LoadZone(book.Defaults().Zone)
	return window.Day.At(s.now, zone).End, err
}

func (s *state) dropOverrides(space string) error {
	overridden := make(map[quota.AccountKey]quota.Account)
	var bad error
	err := s.tx.Scan(space, "", func(key string, record []byte) bool {
		a, err := parseAccountRecord(record, space, key)
		if err == nil && a.Override.Set && a.End.After(s.now) {
			var k quota.AccountKey
			k, err = parseAccount(window.Day, space, key)
			overridden[k] = a
		}
		bad = err
		return bad == nil
	})
	if err != nil || bad != nil {
		return errors.Join(err, bad)
	}
	for k, a := range overridden {
		a.Override = quota.Cap{}
		if err := s.SetAccount(k, a); err != nil {
			return err
		}
	}
	return s.flush()
}
