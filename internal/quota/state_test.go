package quota_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// errState is how a mapState fails when it is told to.
var errState = errors.New("the state failed")

// mapState is a State made of plain maps. It counts what is written to it, and remembers which counts were.
type mapState struct {
	book     *quota.Book
	accounts map[quota.AccountKey]quota.Account
	receipts map[quota.ReceiptKey]quota.Receipt
	live     map[string]map[quota.Bucket]bool
	expiries map[quota.ReceiptKey]time.Time
	inFlight map[quota.Bucket]int64
	audits   []quota.AuditRecord
	events   []quota.Event
	windows  window.Cache

	writes  int       // calls that change something
	written []written // the counts among them, in order, each once
	failIn  int       // the call that fails, counted down; 0 means none
	unread  bool      // the call that failed was a reading
}

// written is a count that was written, and how it stood before.
type written struct {
	key quota.AccountKey
	was quota.Account
}

// newState returns an empty ledger under which names are declared.
func newState(tb testing.TB, defaults quota.Defaults, declared map[string]quota.Settings) *mapState {
	tb.Helper()
	s, err := makeState(defaults, declared)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func makeState(defaults quota.Defaults, declared map[string]quota.Settings) (*mapState, error) {
	book, err := quota.NewBook(defaults, maps.Clone(declared))
	if err != nil {
		return nil, err
	}
	return &mapState{
		book:     book,
		accounts: make(map[quota.AccountKey]quota.Account),
		receipts: make(map[quota.ReceiptKey]quota.Receipt),
		live:     make(map[string]map[quota.Bucket]bool),
		expiries: make(map[quota.ReceiptKey]time.Time),
		inFlight: make(map[quota.Bucket]int64),
	}, nil
}

// fails tells whether this call is the one that is to fail.
func (s *mapState) fails(reading bool) bool {
	if s.failIn == 0 {
		return false
	}
	s.failIn--
	s.unread = reading && s.failIn == 0
	return s.failIn == 0
}

func (s *mapState) Book() (*quota.Book, error) {
	if s.fails(true) {
		return nil, errState
	}
	return s.book, nil
}

func (s *mapState) Account(k quota.AccountKey) (quota.Account, bool, error) {
	if s.fails(true) {
		return quota.Account{}, false, errState
	}
	a, ok := s.accounts[k]
	return a, ok, nil
}

func (s *mapState) Units(b quota.Bucket, w window.Window) ([]quota.Unit, error) {
	if s.fails(true) {
		return nil, errState
	}
	var units []quota.Unit
	for k := range s.accounts {
		if k.Bucket == b && k.Span == w.Span && k.Label == w.Label {
			units = append(units, k.Unit)
		}
	}
	slices.Sort(units)
	return units, nil
}

func (s *mapState) LiveNames(day string, name quota.Bucket) (known bool, n int64, err error) {
	if s.fails(true) {
		return false, 0, errState
	}
	return s.live[day][name], int64(len(s.live[day])), nil
}

func (s *mapState) Windows() *window.Cache { return &s.windows }

func (s *mapState) SetAccount(k quota.AccountKey, a quota.Account) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	if !slices.ContainsFunc(s.written, func(w written) bool { return w.key == k }) {
		s.written = append(s.written, written{k, s.accounts[k]})
	}
	s.accounts[k] = a
	return nil
}

func (s *mapState) Receipt(k quota.ReceiptKey) (quota.Receipt, bool, error) {
	if s.fails(true) {
		return quota.Receipt{}, false, errState
	}
	r, ok := s.receipts[k]
	return r, ok, nil
}

func (s *mapState) SetReceipt(k quota.ReceiptKey, r quota.Receipt) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	s.receipts[k] = r
	return nil
}

func (s *mapState) InFlight(b quota.Bucket) (int64, error) {
	if s.fails(true) {
		return 0, errState
	}
	return s.inFlight[b], nil
}

func (s *mapState) SetInFlight(b quota.Bucket, n int64) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	s.inFlight[b] = n
	return nil
}

func (s *mapState) Due(now time.Time, most int) ([]quota.ReceiptKey, error) {
	if s.fails(true) {
		return nil, errState
	}
	var due []quota.ReceiptKey
	for k, at := range s.expiries {
		if !at.After(now) {
			due = append(due, k)
		}
	}
	slices.SortFunc(due, func(a, b quota.ReceiptKey) int {
		return cmp.Or(s.expiries[a].Compare(s.expiries[b]), cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.RequestID, b.RequestID))
	})
	return due[:min(len(due), most)], nil
}

func (s *mapState) Schedule(k quota.ReceiptKey, before time.Time, r quota.Receipt) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	if had, ok := s.expiries[k]; ok != !before.IsZero() || !had.Equal(before) {
		return fmt.Errorf("%v was to expire at %v, not %v", k, had, before)
	}
	delete(s.expiries, k)
	if r.Phase == quota.PhaseOpen {
		s.expiries[k] = r.Hold.Expiry
	}
	return nil
}

func (s *mapState) AddLiveName(day string, name quota.Bucket) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	if s.live[day] == nil {
		s.live[day] = make(map[quota.Bucket]bool)
	}
	s.live[day][name] = true
	return nil
}

func (s *mapState) Declare(name string, settings *quota.Settings) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	declared := s.declared()
	if settings == nil {
		delete(declared, name)
	} else {
		declared[name] = *settings
	}
	var err error
	s.book, err = quota.NewBook(s.book.Defaults(), declared)
	return err
}

func (s *mapState) SetDefaults(d quota.Defaults) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	var err error
	s.book, err = quota.NewBook(d, s.declared())
	return err
}

func (s *mapState) Announce(e quota.Event) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	e.ID = int64(len(s.events) + 1)
	s.events = append(s.events, e)
	return nil
}

func (s *mapState) Audit(r quota.AuditRecord) error {
	if s.fails(false) {
		return errState
	}
	s.writes++
	r.Sequence = int64(len(s.audits) + 1)
	s.audits = append(s.audits, r)
	return nil
}

// declared returns all that is declared, as a map of its own.
func (s *mapState) declared() map[string]quota.Settings {
	declared := make(map[string]quota.Settings)
	for _, name := range s.book.Names() {
		declared[name], _ = s.book.Settings(name)
	}
	return declared
}

// apply decides an op, and fails the test on an error or on an op that does not pass Validate.
func (s *mapState) apply(tb testing.TB, now time.Time, op quota.Op) quota.Decision {
	tb.Helper()
	op, ps := validated(op)
	if ps != nil {
		tb.Fatalf("%+v: %v", op, ps)
	}
	d, err := quota.Apply(s, now, op)
	if err != nil {
		tb.Fatalf("%+v: %v", op, err)
	}
	return d
}

// valid returns the acquire, validated.
func valid(tb testing.TB, a quota.Acquire) quota.Acquire {
	tb.Helper()
	if ps := a.Validate(); ps != nil {
		tb.Fatalf("%+v: %v", a, ps)
	}
	return a
}
