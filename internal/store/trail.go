package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
)

// Audit keeps an administrative change as the new head of the chain.
func (s *state) Audit(a quota.AuditRecord) error {
	head, err := s.auditPoint(keyAudit)
	if err != nil {
		return err
	}
	a.Sequence = head.Sequence + 1
	a.Time = time.UnixMilli(a.Time.UnixMilli()).UTC()
	for _, text := range []*string{&a.Principal, &a.Action, &a.Bucket, &a.Before, &a.After, &a.Reason} {
		*text = strings.ToValidUTF8(*text, "\uFFFD") // as JSON has it, so that what is hashed is what is read
	}
	a.Hash = a.Link(head.Hash)
	if err := s.putAuditPoint(keyAudit, quota.AuditPoint{Sequence: a.Sequence, Hash: a.Hash}); err != nil {
		return err
	}
	space, err := s.auditSpace(a.Time)
	if err != nil {
		return err
	}
	return s.putJSON(space, auditKey(a.Sequence), auditRecordOf(a))
}

// auditSpace returns where a record goes: the space of its date, or the newest there is if a clock that was wrong has made later
// ones, so that the spaces of the trail are in the order of its numbers.
func (s *state) auditSpace(t time.Time) (string, error) {
	if s.trailAt == "" {
		spaces, err := s.spacesOf(auditAt)
		if err != nil {
			return "", err
		}
		if s.trailAt = auditAt + dateOf(t); len(spaces) > 0 {
			s.trailAt = max(s.trailAt, spaces[len(spaces)-1])
		}
	}
	return s.trailAt, nil
}

// auditPoint reads one end of the chain; the zero value if it is not there.
func (s *state) auditPoint(key string) (quota.AuditPoint, error) {
	record, err := s.tx.Get(spaceMeta, key)
	if err != nil || record == nil {
		return quota.AuditPoint{}, err
	}
	body, err := unseal(record, spaceMeta, key)
	if err != nil {
		return quota.AuditPoint{}, err
	}
	var p quota.AuditPoint
	if len(body) != 8+len(p.Hash) {
		return p, fmt.Errorf("%w: the end of the audit trail, %q in %s, has %d bytes", ErrCorrupt, key, spaceMeta, len(body))
	}
	p.Sequence = int64(binary.BigEndian.Uint64(body)) //nolint:gosec // putAuditPoint's own conversion, back
	if p.Sequence < 0 {
		return quota.AuditPoint{}, fmt.Errorf("%w: the end of the audit trail, %q in %s, has the number %d", ErrCorrupt, key, spaceMeta, p.Sequence)
	}
	copy(p.Hash[:], body[8:])
	return p, nil
}

func (s *state) putAuditPoint(key string, p quota.AuditPoint) error {
	s.buf = binary.BigEndian.AppendUint64(append(s.buf[:0], recordVersion), uint64(p.Sequence)) //nolint:gosec // never negative
	s.buf = append(s.buf, p.Hash[:]...)
	return s.put(spaceMeta, key, s.buf)
}

// auditChain returns both ends of the chain.
func (s *state) auditChain() (c quota.AuditChain, err error) {
	if c.Base, err = s.auditPoint(keyBase); err != nil {
		return c, err
	}
	c.Head, err = s.auditPoint(keyAudit)
	return c, err
}

// beginChain makes a chain of a trail from before layout 3: what is there has no hashes and stays as it is, and the head covers all of
// it. It returns from which record on, if some before cannot be covered as one of them is damaged or missing; 0 if all are.
func (s *state) beginChain() (from int64, err error) {
	last, err := s.number(spaceMeta, keyAudit)
	if err != nil {
		return 0, err
	}
	spaces, err := s.spacesOf(auditAt)
	if err != nil {
		return 0, err
	}
	base, first := quota.AuditPoint{}, true
	chain := quota.NewChain(base)
	restart := func(after int64) {
		base = quota.AuditPoint{Sequence: after}
		chain = quota.NewChain(base)
	}
	for _, space := range spaces {
		err := s.tx.Scan(space, "", func(key string, record []byte) bool {
			a, err := parseAudit(record, space, key)
			switch {
			case err != nil && a.Sequence > 0: // damaged
				restart(a.Sequence)
				from = a.Sequence + 1
			case err != nil: // not even its key can be read: it has no place in the trail
			case first: // those before it have left
				restart(a.Sequence - 1)
			case a.Sequence != chain.Last().Sequence+1:
				restart(a.Sequence - 1)
				from = a.Sequence
			}
			if err == nil {
				_ = chain.Add(a) // what it could find has just been seen to
			}
			first = false
			return true
		})
		if err != nil {
			return 0, err
		}
	}
	if chain.Last().Sequence < last { // the newest are missing, or all have left
		if !first {
			from = last + 1
		}
		restart(last)
	}
	if base.Sequence > 0 {
		if err := s.putAuditPoint(keyBase, base); err != nil {
			return 0, err
		}
	}
	return from, s.putAuditPoint(keyAudit, chain.Last())
}

// leaveTrail moves the base of the chain to the last of these records of a space, the first that it has. What is not whole does not
// leave: it is all that is left to look at for whoever asks what has happened.
func (s *state) leaveTrail(space string, keys []string) error {
	base, err := s.auditPoint(keyBase)
	if err != nil {
		return err
	}
	chain := quota.NewChain(base)
	for _, key := range keys {
		record, err := s.tx.Get(space, key)
		if err != nil {
			return err
		}
		a, err := parseAudit(record, space, key)
		if a.Sequence > 0 && a.Sequence <= base.Sequence { // from before the chain
			continue
		}
		if err == nil {
			err = chain.Add(a)
		}
		if err != nil {
			return fmt.Errorf("%w: %s stays, and all after it: %w", ErrCorrupt, space, err)
		}
	}
	if chain.Last() == base {
		return nil
	}
	return s.putAuditPoint(keyBase, chain.Last())
}

func auditNumber(space, key string) (int64, error) {
	n, err := strconv.ParseInt(key, 16, 64)
	if err != nil || n < 1 || key != auditKey(n) {
		return 0, fmt.Errorf("%w: %q in %s is not the key of an audit record", ErrCorrupt, key, space)
	}
	return n, nil
}

// parseAudit reads an audit record. One that is damaged has its number all the same, if its key has.
func parseAudit(record []byte, space, key string) (quota.AuditRecord, error) {
	sequence, err := auditNumber(space, key)
	if err != nil {
		return quota.AuditRecord{}, err
	}
	damaged := quota.AuditRecord{Sequence: sequence}
	var r auditRecord
	if err := parseJSON(record, space, key, &r); err != nil {
		return damaged, err
	}
	a := quota.AuditRecord{
		Sequence: sequence, Time: time.UnixMilli(r.Time).UTC(), Principal: r.Principal, Action: r.Action,
		Bucket: r.Bucket, Before: r.Before, After: r.After, Reason: r.Reason,
	}
	if r.Hash != "" {
		if a.Hash, err = quota.ParseAuditHash(r.Hash); err != nil {
			return damaged, fmt.Errorf("%w: %q in %s: %w", ErrCorrupt, key, space, err)
		}
	}
	return a, nil
}

func auditRecordOf(a quota.AuditRecord) auditRecord {
	r := auditRecord{a.Time.UnixMilli(), a.Principal, a.Action, a.Bucket, a.Before, a.After, a.Reason, ""}
	if a.Hash != (quota.AuditHash{}) {
		r.Hash = a.Hash.String()
	}
	return r
}

// canonicalAudit tells whether a record that can be read is byte for byte as quotad writes it: JSON says the same in many ways.
func canonicalAudit(record []byte, a quota.AuditRecord) bool {
	body, err := appendJSON(auditRecordOf(a))
	return err == nil && string(record[:len(record)-4]) == string(body)
}

// AuditReport is what VerifyAudit found.
type AuditReport struct {
	Records    int              // how many were read
	Chain      quota.AuditChain // where the chain begins and ends
	Faults     []string         // what is wrong, a line each; none means that the chain is whole
	MoreFaults int              // those beyond the first hundred
}

// VerifyAudit reads the audit trail of a ledger that nobody is writing to, and checks the chain of its records. seen, if it is not
// nil, is told of each place in the chain, the base first, with the hash that the chain has there. A fault is reported; an error means
// that the ledger could not be read, or has no chain yet.
func VerifyAudit(ctx context.Context, e Engine, seen func(quota.AuditPoint)) (AuditReport, error) {
	var r Report
	var chain quota.AuditChain
	err := e.View(ctx, func(tx Tx) error {
		schema, err := checkSchema(tx, Schema)
		if err == nil && schema < chainSchema {
			err = fmt.Errorf("%w: the ledger has layout %d, which has no chain; quotad makes one when it starts on it", ErrSchema, schema)
		}
		if err != nil {
			return err
		}
		v := verifier{tx: tx, r: &r, seen: seen}
		chain, err = v.auditTrail(schema)
		return err
	})
	if err != nil {
		return AuditReport{}, fmt.Errorf("verifying the audit trail: %w", err)
	}
	return AuditReport{Records: r.Audits, Chain: chain, Faults: r.Faults, MoreFaults: r.MoreFaults}, nil
}

// auditTrail checks all of the trail: its forms, its numbers, and since layout 3 the chain of its hashes.
func (v *verifier) auditTrail(schema int64) (quota.AuditChain, error) {
	st := newState(v.tx, time.Time{}, nil, nil)
	var ends quota.AuditChain
	var err error
	if schema >= chainSchema {
		ends.Base, err = v.auditEnd(st, keyBase)
		if err == nil {
			ends.Head, err = v.auditEnd(st, keyAudit)
		}
	} else {
		err = v.oldTrail(st, &ends)
	}
	if err != nil {
		return ends, err
	}
	if v.seen != nil {
		v.seen(ends.Base)
	}
	v.chain = quota.NewChain(ends.Base)
	spaces, err := st.spacesOf(auditAt)
	if err != nil {
		return ends, err
	}
	for _, space := range spaces {
		if err := v.audits(space); err != nil {
			return ends, err
		}
	}
	if schema < chainSchema { // nothing says what the last hash is to be, and that none has any
		return ends, nil
	}
	if err := v.chain.End(ends.Head); err != nil && !v.endless {
		v.r.fault("%v", err)
	}
	return ends, nil
}

// auditEnd reads one end of the chain. A damaged one is a fault, and is not held against the records.
func (v *verifier) auditEnd(st *state, key string) (quota.AuditPoint, error) {
	p, err := st.auditPoint(key)
	if errors.Is(err, ErrCorrupt) {
		v.r.fault("%v", err)
		v.endless = v.endless || key == keyAudit
		v.baseless = v.baseless || key == keyBase
		return quota.AuditPoint{}, nil
	}
	return p, err
}

// oldTrail sets the ends of a trail without a chain, of which the numbers alone can be checked.
func (v *verifier) oldTrail(st *state, ends *quota.AuditChain) error {
	last, err := st.number(spaceMeta, keyAudit)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		v.r.fault("%v", err)
	}
	ends.Head.Sequence, ends.Base.Sequence = last, last
	spaces, err := st.spacesOf(auditAt)
	if err != nil {
		return err
	}
	for _, space := range slices.Backward(spaces) {
		err := v.tx.Scan(space, "", func(key string, _ []byte) bool {
			n, bad := auditNumber(space, key)
			if bad == nil {
				ends.Base.Sequence = n - 1
			}
			return bad != nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// audits checks the records of one date.
func (v *verifier) audits(space string) error {
	return v.tx.Scan(space, "", func(key string, record []byte) bool {
		v.r.Audits++
		a, err := parseAudit(record, space, key)
		if v.baseless && a.Sequence > 0 {
			v.chain = quota.NewChain(quota.AuditPoint{Sequence: a.Sequence - 1})
			v.chain.Skip(a.Sequence)
			v.baseless = false
			return true
		}
		if err != nil {
			v.r.fault("%v", err)
			if a.Sequence > 0 {
				v.chain.Skip(a.Sequence)
			}
			return true
		}
		if !canonicalAudit(record, a) {
			v.r.fault("audit record %d is not written as quotad writes it", a.Sequence)
		}
		if err := v.chain.Add(a); err != nil {
			v.r.fault("%s: %v", space, err)
		}
		if v.seen != nil {
			v.seen(v.chain.Last())
		}
		return true
	})
}
