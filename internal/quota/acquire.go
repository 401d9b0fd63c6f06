package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// windowsAhead bounds how many windows are looked through for the time at which a refused acquire could pass. It is small, as
// every other request waits meanwhile.
const windowsAhead = 8

// entry is what one acquire asks of one count.
type entry struct {
	key      AccountKey
	window   window.Window
	amount   int64
	declared Cap // the limit in force but for an override
	lasting  Cap // the declared limit, which holds in the next window too; declared differs on the day of a restored backup alone
	ceiling  Cap
	account  Account

	limited bool // whether the bucket limits the unit in any window
	kept    bool // whether anything is kept of the count yet
}

// plan is an acquire laid out over the counts it touches.
type plan struct {
	reader  Reader
	now     time.Time
	book    *Book
	entries []entry
	index   map[AccountKey]int // of entries, where buckets of one request may share a parent; else nil
	names   []liveName         // undeclared names that are new on their day
}

type liveName struct {
	day    string
	bucket Bucket
}

// acquire reads first, decides, and writes last; a refusal writes nothing.
func acquire(s State, now time.Time, op Acquire) (Decision, error) {
	id := ReceiptKey{op.Principal, op.RequestID}
	if op.RequestID != "" {
		r, seen, err := s.Receipt(id)
		if err != nil {
			return Decision{}, err
		}
		if seen && r.Fingerprint != op.sum {
			return Decision{Outcome: IDReused, Detail: op.RequestID}, nil
		}
		if seen {
			return replay(s, now, r)
		}
	}
	p, refusal, err := planAcquire(s, now, op)
	if err != nil || refusal.Outcome != 0 {
		return refusal, err
	}
	if d, err := p.verdict(); err != nil || d.Outcome != Done {
		return d, err
	}
	return p.commit(s, now, op)
}

// Check tells what an Acquire would be answered now, and writes nothing. It does not look for a receipt.
func Check(r Reader, now time.Time, op Acquire) (Decision, error) {
	p, refusal, err := planAcquire(r, now, op)
	if err != nil || refusal.Outcome != 0 {
		refusal.Time = now
		return refusal, err
	}
	d, err := p.verdict()
	if err != nil {
		return Decision{}, err
	}
	d.Time, d.Balances = now, p.balances()
	return d, nil
}

// replay answers a request that was granted before: what was decided then, with the counts as they stand now.
func replay(s State, now time.Time, r Receipt) (Decision, error) {
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	d := Decision{Outcome: Done, Replayed: true, Balances: make([]Balance, 0, len(r.Entries))}
	for _, e := range r.Entries {
		a, ok, err := s.Account(e.Key)
		if err != nil {
			return Decision{}, err
		}
		if ok { // a count outlives its receipts, but for a ledger whose clock was set back: there it may have left before them
			d.Balances = append(d.Balances, standing(book, now, e.Key, a))
		}
	}
	d.Balances = worthShowing(d.Balances)
	return d, nil
}

// planAcquire finds every count that the acquire touches, and how it stands.
func planAcquire(r Reader, now time.Time, op Acquire) (plan, Decision, error) {
	book, err := r.Book()
	if err != nil {
		return plan{}, Decision{}, err
	}
	p := plan{reader: r, now: now, book: book, entries: make([]entry, 0, 1)}
	if len(op.Charges) > 1 {
		p.index = make(map[AccountKey]int)
	}
	for i, c := range op.Charges {
		leaf := book.Rules(c.Bucket)
		if leaf == nil {
			return plan{}, Decision{Outcome: UnknownBucket, Detail: string(c.Bucket)}, nil
		}
		if c.CeilingSpan != 0 && !leaf.counts(c.Unit, c.CeilingSpan) {
			var ps Problems
			ps.Add(fmt.Sprintf("charges[%d].ceiling_window", i), "%s does not count %s by the %s; want %s, or leave it out",
				c.Bucket, c.Unit, c.CeilingSpan, spansOf(leaf.caps(c.Unit)))
			return plan{}, Decision{Outcome: Invalid, Problems: ps}, nil
		}
		p.add(c.Bucket, leaf, c)
		for parent := c.Bucket.Parent(); parent != ""; parent = parent.Parent() {
			if rules := book.declared(parent); rules != nil {
				p.add(parent, rules, Charge{Unit: c.Unit, Amount: c.Amount})
			}
		}
		if leaf.undeclared {
			p.names = append(p.names, liveName{r.Windows().At(window.Day, now, leaf.zone).Label, c.Bucket})
		}
	}
	if len(p.entries) > CountsMax {
		var ps Problems
		ps.Add("charges", "touch %d counts, over all buckets, parents and windows; at most %d in one request", len(p.entries), CountsMax)
		return plan{}, Decision{Outcome: Invalid, Problems: ps}, nil
	}
	if err := p.read(); err != nil {
		return plan{}, Decision{}, err
	}
	refusal, err := p.admitUnits()
	if err != nil || refusal.Outcome != 0 {
		return p, refusal, err
	}
	refusal, err = p.admitNames(book.defaults.UndeclaredLive)
	return p, refusal, err
}

// add asks the counts of one bucket for a charge.
func (p *plan) add(b Bucket, rules *Rules, c Charge) {
	limited := rules.limits(c.Unit)
	for _, sc := range rules.caps(c.Unit) {
		w := p.reader.Windows().At(sc.span, p.now, rules.zone)
		e := entry{
			key:    AccountKey{Bucket: b, Unit: c.Unit, Span: sc.span, Label: w.Label},
			window: w, amount: c.Amount, declared: p.book.limit(rules, c.Unit, w), lasting: sc.cap,
			limited: limited,
		}
		if c.CeilingSpan == sc.span || c.CeilingSpan == 0 && (sc.cap.Set || !limited) {
			e.ceiling = c.Ceiling
		}
		if i, ok := p.index[e.key]; ok {
			p.entries[i].amount += e.amount
			p.entries[i].ceiling = p.entries[i].ceiling.Lower(e.ceiling)
			continue
		}
		if p.index != nil {
			p.index[e.key] = len(p.entries)
		}
		p.entries = append(p.entries, e)
	}
}

func (p *plan) read() error {
	for i := range p.entries {
		e := &p.entries[i]
		var err error
		if e.account, e.kept, err = p.reader.Account(e.key); err != nil {
			return err
		}
	}
	return nil
}

// admitUnits refuses a count of a unit that its bucket does not limit, if it were the first of its day and the bucket had counts
// of too many units already. It looks nothing up where no such count begins.
func (p *plan) admitUnits() (Decision, error) {
	var had map[Bucket]int // units that a bucket has, those of this request included
	for i := range p.entries {
		e := &p.entries[i]
		if e.kept || e.limited || e.key.Span != window.Day {
			continue
		}
		n, known := had[e.key.Bucket]
		if !known {
			units, err := p.reader.Units(e.key.Bucket, e.window)
			if err != nil {
				return Decision{}, err
			}
			n = len(units)
		}
		if n >= UnitsMax {
			return Decision{Outcome: TooManyNames, Detail: fmt.Sprintf("%s: unit %q", e.key.Bucket, e.key.Unit)}, nil
		}
		if had == nil {
			had = make(map[Bucket]int)
		}
		had[e.key.Bucket] = n + 1
	}
	return Decision{}, nil
}

// admitNames keeps of p.names those that are new on their day, and refuses if there would be too many.
func (p *plan) admitNames(most int64) (Decision, error) {
	if len(p.names) == 0 {
		return Decision{}, nil
	}
	fresh := p.names[:0]
	var live int64
	for _, name := range p.names {
		if p.counted(name) || slices.Contains(fresh, name) {
			continue
		}
		known, n, err := p.reader.LiveNames(name.day, name.bucket)
		if err != nil {
			return Decision{}, err
		}
		if known {
			continue
		}
		fresh = append(fresh, name)
		if live = n + int64(len(fresh)); live > most {
			return Decision{Outcome: TooManyNames, Detail: string(name.bucket)}, nil
		}
	}
	p.names = fresh
	return Decision{}, nil
}

// counted tells, without another look-up, that a name has a count on its day already.
func (p *plan) counted(name liveName) bool {
	for i := range p.entries {
		if e := &p.entries[i]; e.kept && e.key.Span == window.Day && e.key.Bucket == name.bucket {
			return true
		}
	}
	return false
}

// verdict decides: every count has room for what is asked of it, or all those that have not are named.
func (p *plan) verdict() (Decision, error) {
	violations := p.violations()
	if violations == nil {
		return Decision{Outcome: Done}, nil
	}
	at, err := p.passAt(violations)
	if err != nil {
		return Decision{}, err
	}
	for i := range violations { // an override made for a later window may grant what is too much for what is declared
		violations[i].Never = violations[i].Never && at.IsZero()
	}
	return Decision{Outcome: Denied, Violations: violations, RetryAt: at}, nil
}

// violations compares by subtraction, which cannot overflow: counts and bounds are never negative. Never is what the declared
// limits say.
func (p *plan) violations() []Violation {
	var violations []Violation
	for i := range p.entries {
		e := &p.entries[i]
		most := e.account.limit(e.declared)
		if !most.Set {
			most = AtMost(CountMax)
		}
		bound := most.Lower(e.ceiling)
		if e.amount <= bound.Max-e.account.Used-e.account.Held {
			continue
		}
		next := AtMost(CountMax).Lower(e.lasting).Lower(e.ceiling) // an override ends with its window
		violations = append(violations, Violation{
			Balance:   balanceIn(e.key, e.window, e.account, e.declared),
			Requested: e.amount, Cap: bound.Max,
			Ceiling:  bound.Max < most.Max,
			Restored: e.declared != e.lasting && !e.account.Override.Set,
			Never:    e.key.Span == window.Ever || e.amount > next.Max,
		})
	}
	return violations
}

// passAt returns when an acquire that is refused could pass if nothing else were taken: when the last window that refuses has
// ended. The counts of the windows after it have to be looked at too: an override may end with its window, or be made for a
// later one, and a change of zone may lead to a window that was charged before. Zero if it would not pass in any of the windows
// looked at.
func (p *plan) passAt(violations []Violation) (time.Time, error) {
	later := plan{reader: p.reader, entries: slices.Clone(p.entries)}
	at := retryAt(violations)
	for range windowsAhead {
		if at.IsZero() {
			break
		}
		if err := later.move(at); err != nil {
			return time.Time{}, err
		}
		if violations = later.violations(); violations == nil {
			return at, nil
		}
		at = retryAt(violations)
	}
	return time.Time{}, nil
}

// move lays a plan out over the windows that hold t.
func (p *plan) move(t time.Time) error {
	for i := range p.entries {
		e := &p.entries[i]
		if e.window.Contains(t) {
			continue
		}
		e.window = p.reader.Windows().At(e.key.Span, t, e.window.Start.Location())
		e.key.Label, e.declared = e.window.Label, e.lasting
		var err error
		if e.account, e.kept, err = p.reader.Account(e.key); err != nil {
			return err
		}
	}
	return nil
}

// commit charges every count, and keeps the receipt.
func (p *plan) commit(s State, now time.Time, op Acquire) (Decision, error) {
	for i := range p.entries {
		e := &p.entries[i]
		e.account.Used += e.amount
		if op.RequestID != "" {
			e.account.Receipted += e.amount
		}
		e.account.Limit = e.declared
		e.account.cover(e.window)
		if err := s.SetAccount(e.key, e.account); err != nil {
			return Decision{}, err
		}
	}
	for _, n := range p.names {
		if err := s.AddLiveName(n.day, n.bucket); err != nil {
			return Decision{}, err
		}
	}
	if op.RequestID != "" {
		r := Receipt{Fingerprint: op.sum, Time: now, Entries: make([]Entry, len(p.entries))}
		for i, e := range p.entries {
			r.Entries[i] = Entry{Key: e.key, Amount: e.amount, Resets: e.account.Resets}
		}
		if err := s.SetReceipt(ReceiptKey{op.Principal, op.RequestID}, r); err != nil {
			return Decision{}, err
		}
	}
	return Decision{Outcome: Done, Balances: p.balances()}, nil
}

func (p *plan) balances() []Balance {
	bs := make([]Balance, len(p.entries))
	for i, e := range p.entries {
		bs[i] = balanceIn(e.key, e.window, e.account, e.declared)
	}
	return worthShowing(bs)
}

// worthShowing leaves out the day's count where the bucket limits the unit in other windows but not by day. The balances of
// one bucket and unit stand together.
func worthShowing(bs []Balance) []Balance {
	kept := bs[:0]
	for len(bs) > 0 {
		n, limited := 0, false
		for n < len(bs) && bs[n].Bucket == bs[0].Bucket && bs[n].Unit == bs[0].Unit {
			limited = limited || bs[n].Limit.Set
			n++
		}
		for _, b := range bs[:n] {
			if b.Limit.Set || !limited {
				kept = append(kept, b)
			}
		}
		bs = bs[n:]
	}
	return kept
}

func spansOf(caps []spanCap) string {
	names := make([]string, len(caps))
	for i, c := range caps {
		names[i] = c.span.String()
	}
	return strings.Join(names, " or ")
}
