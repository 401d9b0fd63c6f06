package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// Schema is the version of the layout that this quotad writes, and the newest that it reads. docs/format.md tells what each added:
// 2 has reservations, 3 the chain of audit records, thresholds and events.
const Schema = 3

// chainSchema is the first layout whose audit records are a chain.
const chainSchema = 3

// ErrSchema means that the ledger was written by a newer quotad, or by something else.
var ErrSchema = errors.New("store: unknown layout")

// boot checks what the engine keeps and commits the start.
func (s *Store) boot(ctx context.Context) error {
	err := s.engine.Update(ctx, func(tx Tx) error {
		st := newState(tx, s.o.Now(), &s.windows, &s.books)
		schema, err := checkSchema(tx, Schema)
		if err != nil {
			return err
		}
		seen, err := st.number(spaceMeta, keyClock)
		if err != nil {
			return err
		}
		var newest time.Time
		if seen != 0 && !s.o.AcceptClock {
			newest = time.Unix(0, seen)
		}
		s.clock = newClock(s.o.Now, s.o.Uptime, newest)
		st = newState(tx, s.clock.last, &s.windows, &s.books)
		if err := s.begin(st, schema); err != nil {
			return err
		}
		return s.acceptClock(st, time.Unix(0, seen))
	})
	if err != nil {
		return fmt.Errorf("starting the ledger: %w", err)
	}
	s.minute = minuteOf(s.clock.last)
	return s.checkOpenWindows(ctx)
}

// checkSchema returns the layout that there is, 0 if there is nothing yet, and refuses what is newer than known.
func checkSchema(tx Tx, known int64) (schema int64, err error) {
	st := state{tx: tx}
	schema, err = st.number(spaceMeta, keySchema)
	if err != nil || 1 <= schema && schema <= known {
		return schema, err
	}
	if schema != 0 {
		return 0, fmt.Errorf("%w: the ledger has layout %d, this quotad knows %d: use the newer quotad that wrote it", ErrSchema, schema, known)
	}
	empty := true
	err = tx.Spaces("", func(string) bool { empty = false; return false })
	if err == nil && !empty {
		err = fmt.Errorf("%w: there is data, and nothing that says it is quotad's", ErrSchema)
	}
	return 0, err
}

// migrate brings a ledger of an older layout to this one. What is there stays as it is, but for the end of the audit trail, which
// gets the hash of all that is in it; and the layout's number is what keeps an older quotad from a ledger whose reservations and
// whose chain it would not see.
func (s *state) migrate(schema int64) error {
	if schema == Schema {
		return nil
	}
	if err := s.putNumber(spaceMeta, keySchema, Schema); err != nil {
		return err
	}
	if schema == 0 {
		return nil
	}
	after := fmt.Sprintf("layout %d", Schema)
	if schema < chainSchema {
		from, err := s.beginChain()
		if err != nil {
			return err
		}
		if from > 0 {
			after += fmt.Sprintf("; the audit trail was not whole, and its chain begins with record %d", from)
		}
	}
	return s.Audit(quota.AuditRecord{
		Time: s.now, Principal: "quotad", Action: quota.ActionMigrate, Before: fmt.Sprintf("layout %d", schema), After: after,
	})
}

// begin marks the start, and what holds from now on where nothing is declared.
func (s *Store) begin(st *state, schema int64) error {
	if err := st.migrate(schema); err != nil {
		return err
	}
	fresh := schema == 0
	if fresh {
		if err := st.SetDefaults(s.o.Defaults); err != nil {
			return err
		}
	}
	boot, err := st.boot()
	if err != nil {
		return err
	}
	s.cleanStop = fresh || boot.Clean
	boot.Boots++
	boot.Time, boot.Clean = st.now.UnixMilli(), false
	if err := st.putJSON(spaceMeta, keyBoot, boot); err != nil {
		return err
	}
	if err := st.putNumber(spaceMeta, keyClock, st.now.UnixNano()); err != nil {
		return err
	}
	d, err := quota.Apply(st, st.now, quota.Configure{Principal: "quotad", Defaults: s.o.Defaults})
	if err == nil && d.Outcome != quota.Done {
		err = fmt.Errorf("configuring the ledger: %v", d.Problems)
	}
	return err
}

// acceptClock notes that the ledger's time was set back on purpose.
func (s *Store) acceptClock(st *state, seen time.Time) error {
	if !s.o.AcceptClock || !seen.After(st.now) {
		return nil
	}
	return st.Audit(quota.AuditRecord{
		Time: st.now, Principal: "quotad", Action: "accept_clock",
		Before: seen.UTC().Format(time.RFC3339), After: st.now.UTC().Format(time.RFC3339),
	})
}

func (s *state) boot() (bootRecord, error) {
	var r bootRecord
	record, err := s.tx.Get(spaceMeta, keyBoot)
	if err != nil || record == nil {
		return r, err
	}
	return r, parseJSON(record, spaceMeta, keyBoot, &r)
}

// checkOpenWindows reads every count that can still be charged. A damaged one does not stop the others: its bucket is refused,
// and the problem is shown.
func (s *Store) checkOpenWindows(ctx context.Context) error {
	return s.engine.View(ctx, func(tx Tx) error {
		for _, span := range window.Spans() {
			for _, space := range openSpaces(span, s.clock.last) {
				err := tx.Scan(space, "", func(key string, record []byte) bool {
					if _, err := parseAccountRecord(record, space, key); err != nil {
						s.damaged(err)
					}
					return true
				})
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// openSpaces returns the spaces that a window may be in which contains t in some zone.
func openSpaces(span window.Span, t time.Time) []string {
	var spaces []string
	for _, zone := range []*time.Location{time.FixedZone("first", -15*60*60), time.UTC, time.FixedZone("last", 15*60*60)} {
		if short(span) {
			zone = time.UTC // filed by the date in UTC
		}
		space := accountSpace(span, span.At(t, zone).Label)
		if len(spaces) == 0 || spaces[len(spaces)-1] != space {
			spaces = append(spaces, space)
		}
	}
	return spaces
}

// markStopped is the last commit of a run.
func (s *Store) markStopped() error {
	err := s.engine.Update(context.Background(), func(tx Tx) error { //nolint:forbidigo // the last commit waits for nobody's context
		st := newState(tx, s.clock.read(), &s.windows, &s.books)
		boot, err := st.boot()
		if err != nil {
			return err
		}
		boot.Clean = true
		if err := st.putNumber(spaceMeta, keyClock, st.now.UnixNano()); err != nil {
			return err
		}
		return st.putJSON(spaceMeta, keyBoot, boot)
	})
	if err != nil {
		return fmt.Errorf("marking the ledger as stopped: %w", err)
	}
	return nil
}
