package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// books keeps the newest compiled book, so that not every transaction has to compile what is declared. The transaction holds
// the truth: a book is used only where its revision is the transaction's own.
type books struct {
	mu       sync.Mutex
	revision int64
	book     *quota.Book
}

func (b *books) get(revision int64) *quota.Book {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.revision != revision {
		return nil
	}
	return b.book
}

func (b *books) put(revision int64, book *quota.Book) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.revision, b.book = revision, book
}

// state is quota.State over one transaction.
type state struct {
	tx      Tx
	now     time.Time
	windows *window.Cache
	books   *books
	passed  *passed     // the damaged reservations that are due; nil means that they are looked at again
	damaged func(error) // told of a damaged record that did not stop what was being done; nil means nobody

	revision int64 // of what is declared, as this transaction has it; 0 until it was read
	book     *quota.Book
	settings map[string]quota.Settings // being changed; nil while nothing was declared in this transaction
	defaults *quota.Defaults
	writes   int
	buf      []byte
	spaces   [window.Ever + 1]struct{ label, space string } // the newest of each span, to spare making its name again
	counts   counts

	today      string           // the space of new receipts; "" until asked for
	request    quota.ReceiptKey // the one that was met last
	requestKey string           // and its key

	strays   map[string]string // the receipts found in spaces of other dates, by their keys
	receipts []string          // the spaces in which a receipt may be, the newest first; nil until looked for
	changed  int64             // the new revision of what is declared; 0 if nothing changed
	trailAt  string            // the space of new audit records; "" until looked for
	eventsAt string            // the space of new events; "" until looked for
	opened   int64             // open reservations, more or fewer than before this transaction
	byTheWay quota.Decision    // what was expired for the sake of other ops
	waits    bool              // nothing is expired for the sake of another op
	stays    bool              // receipts stay in the space that they are in
	expired  int               // of them, those that Expire ended
	soonest  time.Time         // the first expiry that was scheduled; zero if none was

	announced int64 // the number of the last event; 0 if this transaction has none
}

func newState(tx Tx, now time.Time, windows *window.Cache, books *books) *state {
	return &state{tx: tx, now: now, windows: windows, books: books, buf: make([]byte, 0, 512)}
}

func (s *state) Windows() *window.Cache { return s.windows }

func (s *state) put(space, key string, body []byte) error {
	s.writes++
	if err := s.tx.Put(space, key, seal(body, space, key)); err != nil {
		return fmt.Errorf("writing %q in %s: %w", key, space, err)
	}
	return nil
}

func (s *state) putJSON(space, key string, v any) error {
	body, err := appendJSON(v)
	if err != nil {
		return err
	}
	return s.put(space, key, body)
}

// number reads a number; 0 if there is none.
func (s *state) number(space, key string) (int64, error) {
	record, err := s.tx.Get(space, key)
	if err != nil || record == nil {
		return 0, err
	}
	body, err := unseal(record, space, key)
	if err != nil {
		return 0, err
	}
	if len(body) != 8 {
		return 0, fmt.Errorf("%w: the number %q in %s has %d bytes", ErrCorrupt, key, space, len(body))
	}
	return int64(binary.BigEndian.Uint64(body)), nil //nolint:gosec // putNumber's own conversion, back
}

func (s *state) putNumber(space, key string, n int64) error {
	s.buf = binary.BigEndian.AppendUint64(append(s.buf[:0], recordVersion), uint64(n)) //nolint:gosec // times before 1970 wrap, and back again
	return s.put(space, key, s.buf)
}

func (s *state) space(k quota.AccountKey) string {
	label := k.Label
	if short(k.Span) {
		label = label[:len(time.DateOnly)]
	}
	c := &s.spaces[k.Span]
	if c.space == "" || c.label != label {
		c.label, c.space = label, accountSpace(k.Span, k.Label)
	}
	return c.space
}

// spacesOf returns the spaces whose names start with prefix, the oldest first.
func (s *state) spacesOf(prefix string) ([]string, error) {
	var spaces []string
	err := s.tx.Spaces(prefix, func(space string) bool {
		if !strings.HasPrefix(space, prefix) {
			return false
		}
		spaces = append(spaces, space)
		return true
	})
	return spaces, err
}

// receiptSpaces returns where a receipt can be, the newest first: it lives on the date that it was last written and the whole date
// after, and longer where its space has not left yet. Later dates than today are those of a clock that was wrong and has been set
// right; what was granted by it is remembered too.
func (s *state) receiptSpaces() ([]string, error) {
	if s.receipts != nil {
		return s.receipts, nil
	}
	spaces, err := s.spacesOf(receiptsAt)
	if err != nil {
		return nil, err
	}
	today := s.todaysReceipts()
	s.receipts = []string{today}
	for _, space := range slices.Backward(spaces) {
		if space != today {
			s.receipts = append(s.receipts, space)
		}
	}
	return s.receipts, nil
}

// Receipt returns what is kept of a request.
func (s *state) Receipt(k quota.ReceiptKey) (quota.Receipt, bool, error) {
	spaces, err := s.receiptSpaces()
	if err != nil {
		return quota.Receipt{}, false, err
	}
	key := s.receiptKey(k)
	for _, space := range spaces {
		record, err := s.tx.Get(space, key)
		if err != nil {
			return quota.Receipt{}, false, err
		}
		if record != nil {
			r, err := parseReceipt(record, space, key)
			if space != s.receipts[0] {
				if s.strays == nil {
					s.strays = make(map[string]string)
				}
				s.strays[key] = space
			}
			return r, err == nil, err
		}
	}
	return quota.Receipt{}, false, nil
}

// SetReceipt keeps a receipt in the space of today. If it was in an older one it moves, so that it lives for as long again; in one of
// a later date, by a clock that was wrong and has been set right, it stays, so that it does not leave before its counts are history.
func (s *state) SetReceipt(k quota.ReceiptKey, r quota.Receipt) error {
	key, space := s.receiptKey(k), s.todaysReceipts()
	if at, ok := s.strays[key]; ok {
		if at > space || s.stays {
			space = at
		} else {
			s.writes++
			if err := s.tx.Delete(at, key); err != nil {
				return fmt.Errorf("moving %q out of %s: %w", key, at, err)
			}
			delete(s.strays, key)
		}
	}
	s.buf = appendReceipt(s.buf[:0], r)
	return s.put(space, key, s.buf)
}

// todaysReceipts names the space in which receipts are written now.
func (s *state) todaysReceipts() string {
	if s.today == "" {
		s.today = receiptsAt + dateOf(s.now)
	}
	return s.today
}

// receiptKey is receiptKey for a request that is looked up, written and scheduled one after the other.
func (s *state) receiptKey(k quota.ReceiptKey) string {
	if k != s.request || s.requestKey == "" {
		s.request, s.requestKey = k, receiptKey(k)
	}
	return s.requestKey
}

// Units returns the units that a bucket has counts of in a window.
func (s *state) Units(b quota.Bucket, w window.Window) ([]quota.Unit, error) {
	if err := s.flush(); err != nil { // what was counted first in this transaction is there too
		return nil, err
	}
	if short(w.Span) {
		return s.unitsWithin(b, w)
	}
	space, prefix := accountSpace(w.Span, w.Label), string(b)+"\x00"
	var units []quota.Unit
	var bad error
	err := s.tx.Scan(space, prefix, func(key string, _ []byte) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		k, err := parseAccount(w.Span, space, key)
		if err != nil {
			bad = err
			return false
		}
		units = append(units, k.Unit)
		return true
	})
	if err == nil {
		err = bad
	}
	return units, err
}

// unitsWithin is Units for a minute or an hour. Their space holds a whole date of them; but whatever is counted is counted by the
// day as well, and the day says which units to look for.
func (s *state) unitsWithin(b quota.Bucket, w window.Window) ([]quota.Unit, error) {
	all, err := s.Units(b, s.windows.At(window.Day, w.Start, w.Start.Location()))
	if err != nil {
		return nil, err
	}
	var units []quota.Unit
	for _, u := range all {
		k := quota.AccountKey{Bucket: b, Unit: u, Span: w.Span, Label: w.Label}
		record, err := s.tx.Get(s.space(k), accountKey(k))
		if err != nil {
			return nil, err
		}
		if record != nil {
			units = append(units, u)
		}
	}
	return units, nil
}

// LiveNames tells whether an undeclared name is counted on a day, and how many are.
func (s *state) LiveNames(day string, name quota.Bucket) (bool, int64, error) {
	record, err := s.tx.Get(namesAt+day, string(name))
	if err != nil {
		return false, 0, err
	}
	n, err := s.number(namesAt+day, keyCount)
	return record != nil, n, err
}

// AddLiveName notes an undeclared name.
func (s *state) AddLiveName(day string, name quota.Bucket) error {
	n, err := s.number(namesAt+day, keyCount)
	if err != nil {
		return err
	}
	if err := s.putNumber(namesAt+day, keyCount, n+1); err != nil {
		return err
	}
	return s.put(namesAt+day, string(name), []byte{recordVersion})
}

// Book returns what is declared, from memory where the transaction agrees that it is the newest.
func (s *state) Book() (*quota.Book, error) {
	if s.book != nil {
		return s.book, nil
	}
	if s.settings == nil && s.defaults == nil {
		revision, err := s.number(spaceMeta, keyRevision)
		if err != nil {
			return nil, err
		}
		s.revision = revision
		if s.book = s.books.get(revision); s.book != nil {
			return s.book, nil
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	book, err := quota.NewBook(*s.defaults, s.settings)
	if err != nil {
		return nil, fmt.Errorf("%w: what is declared contradicts itself: %w", ErrCorrupt, err)
	}
	s.book = book
	if s.revision > 0 {
		s.books.put(s.revision, book)
	}
	return book, nil
}

// load reads what is declared and has not been read yet.
func (s *state) load() error {
	if s.defaults == nil {
		var r defaultsRecord
		record, err := s.tx.Get(spaceMeta, keyDefaults)
		if err != nil {
			return err
		}
		if record != nil {
			if err := parseJSON(record, spaceMeta, keyDefaults, &r); err != nil {
				return err
			}
		}
		d := r.defaults()
		s.defaults = &d
	}
	if s.settings != nil {
		return nil
	}
	settings := make(map[string]quota.Settings)
	var bad error
	err := s.tx.Scan(spaceSettings, "", func(name string, record []byte) bool {
		var r settingsRecord
		bad = parseJSON(record, spaceSettings, name, &r)
		settings[name] = r.settings()
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	s.settings = settings
	return err
}

// change readies what is declared for a change, and gives it a new revision.
func (s *state) change() error {
	if s.settings == nil {
		book, err := s.Book()
		if err != nil {
			return err
		}
		d := book.Defaults()
		s.settings, s.defaults = book.All(), &d
	} else if s.book != nil { // it may be in use
		s.settings = maps.Clone(s.settings)
	}
	s.revision, s.book = 0, nil // known to this transaction alone, until it is durable
	revision, err := s.number(spaceMeta, keyRevision)
	if err != nil {
		return err
	}
	s.changed = revision + 1
	return s.putNumber(spaceMeta, keyRevision, s.changed)
}

// Declare keeps what is declared under a name.
func (s *state) Declare(name string, settings *quota.Settings) error {
	if err := s.change(); err != nil {
		return err
	}
	if settings == nil {
		delete(s.settings, name)
		s.writes++
		return s.tx.Delete(spaceSettings, name)
	}
	s.settings[name] = *settings
	return s.putJSON(spaceSettings, name, settingsRecordOf(*settings))
}

// SetDefaults keeps what holds where nothing is declared.
func (s *state) SetDefaults(d quota.Defaults) error {
	if err := s.change(); err != nil {
		return err
	}
	s.defaults = &d
	return s.putJSON(spaceMeta, keyDefaults, defaultsRecordOf(d))
}
