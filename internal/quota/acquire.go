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

	rules *Rules // of the bucket
	holds int64  // what the reservation holds of the count already
}

// plan is an acquire laid out over the counts it touches.
type plan struct {
	reader  Reader
	now     time.Time
	book    *Book
	entries []entry
	index   map[AccountKey]int // of entries, where buckets of one request may share a parent; else nil
	names   []liveName         // undeclared names that are new on their day
	charges []Charge           // with every amount known
	hold    *holding           // what only a reservation has; nil for a plain acquire
}

type liveName struct {
	day    string
	bucket Bucket
}

// acquire reads first, decides, and writes last; a refusal writes nothing.
func acquire(s State, now time.Time, op Acquire) (Decision, error) {
	id := ReceiptKey{Principal: op.Principal, RequestID: op.RequestID}
	if op.RequestID != "" {
		r, seen, err := s.Receipt(id)
		if err != nil {
			return Decision{}, err
		}
		if seen && r.Fingerprint != op.sum {
			return Decision{Outcome: IDReused, Field: "request_id", Detail: op.RequestID}, nil
		}
		if seen {
			return repeat(s, now, id, r)
		}
	}
	p, refusal, err := planAcquire(s, now, op, nil)
	if err != nil || refusal.Outcome != 0 {
		return refusal, err
	}
	if d, err := p.verdict(); err != nil || d.Outcome != Done {
		return d, err
	}
	if err := p.take(s, op.RequestID != ""); err != nil {
		return Decision{}, err
	}
	d := Decision{Outcome: Done, Balances: p.balances()}
	if op.Reserve {
		d.Phase = PhaseOpen
		d.Expiry, err = p.keepReservation(s, id, op)
		return d, err
	}
	if op.RequestID == "" {
		return d, nil
	}
	r := Receipt{Fingerprint: op.sum, Time: now, Entries: make([]Entry, len(p.entries))}
	for i, e := range p.entries {
		r.Entries[i] = Entry{Key: e.key, Amount: e.amount, Resets: e.account.Resets}
	}
	return d, s.SetReceipt(id, r)
}

// Check tells what an Acquire would be answered now, and writes nothing. It does not look for a receipt.
func Check(r Reader, now time.Time, op Acquire) (Decision, error) {
	p, refusal, err := planAcquire(r, now, op, nil)
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

// repeat answers an acquire or an extension that was made before. If what it took has been given back since, it is refused: whoever
// takes the answer for leave to make a call would make it for nothing.
func repeat(s State, now time.Time, id ReceiptKey, r Receipt) (Decision, error) {
	switch {
	case r.Phase == PhaseReleased:
		return refuseEnded(AlreadyReleased, id, r, now), nil
	case r.Hold != nil && r.phaseAt(now) == PhaseExpired && r.Hold.OnExpiry == ExpiryRelease:
		return refuseEnded(AlreadyExpired, id, r, now), nil
	}
	return replay(s, now, r)
}

// replay answers a request that was granted before: what was decided then, with the counts as they stand now.
func replay(s State, now time.Time, r Receipt) (Decision, error) {
	book, err := s.Book()
	if err != nil {
		return Decision{}, err
	}
	d := Decision{Outcome: Done, Replayed: true, Balances: make([]Balance, 0, len(r.Entries))}
	if r.Hold != nil {
		d.Expiry, d.Phase, d.Late = r.Hold.Expiry, r.phaseAt(now), r.Hold.Late
	}
	for i, e := range r.Entries {
		if slices.ContainsFunc(r.Entries[:i], func(f Entry) bool { return f.Key == e.Key }) {
			continue
		}
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

// planAcquire finds every count that the acquire touches, and how it stands. Where it adds to a reservation, extended is that
// one's receipt.
func planAcquire(r Reader, now time.Time, op Acquire, extended *Receipt) (plan, Decision, error) {
	book, err := r.Book()
	if err != nil {
		return plan{}, Decision{}, err
	}
	p := plan{reader: r, now: now, book: book, entries: make([]entry, 0, 1), charges: amounts(book, op)}
	if len(p.charges) > 1 {
		p.index = make(map[AccountKey]int)
	}
	if op.Reserve {
		p.hold = &holding{extended: extended}
	}
	if refusal := p.layOut(); refusal.Outcome != 0 {
		return plan{}, refusal, nil
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

// layOut asks every count of every charge for its amount, or tells why that cannot be.
func (p *plan) layOut() Decision {
	book := p.book
	for i, c := range p.charges {
		leaf := book.Rules(c.Bucket)
		if leaf == nil {
			return Decision{Outcome: UnknownBucket, Detail: string(c.Bucket)}
		}
		if c.CeilingSpan != 0 && !leaf.counts(c.Unit, c.CeilingSpan) {
			var ps Problems
			ps.Add(fmt.Sprintf("charges[%d].ceiling_window", i), "%s does not count %s by the %s; want %s, or leave it out",
				c.Bucket, c.Unit, c.CeilingSpan, spansOf(leaf.caps(c.Unit)))
			return Decision{Outcome: Invalid, Problems: ps}
		}
		p.charge(i, leaf, c)
		if leaf.undeclared {
			p.names = append(p.names, liveName{p.reader.Windows().At(window.Day, p.now, leaf.zone).Label, c.Bucket})
		}
	}
	if len(p.entries) > CountsMax {
		return tooManyCounts(len(p.entries))
	}
	return Decision{}
}

func tooManyCounts(n int) Decision {
	var ps Problems
	ps.Add("charges", "touch %d counts, over all buckets, parents and windows; at most %d in one request", n, CountsMax)
	return Decision{Outcome: Invalid, Problems: ps}
}

// charge asks the counts of a bucket and of its parents for a charge. A ceiling binds the bucket alone.
func (p *plan) charge(i int, leaf *Rules, c Charge) {
	p.add(i, c.Bucket, leaf, c)
	for parent := c.Bucket.Parent(); parent != ""; parent = parent.Parent() {
		if rules := p.book.declared(parent); rules != nil {
			p.add(i, parent, rules, Charge{Unit: c.Unit, Amount: c.Amount})
		}
	}
}

// add asks the counts of one bucket for a charge, which is number i of the request's.
func (p *plan) add(i int, b Bucket, rules *Rules, c Charge) {
	if p.hold != nil {
		p.hold.bucket(b, rules)
	}
	limited := rules.limits(c.Unit)
	for _, sc := range rules.caps(c.Unit) {
		w := p.reader.Windows().At(sc.span, p.now, rules.zone)
		e := entry{
			key:    AccountKey{Bucket: b, Unit: c.Unit, Span: sc.span, Label: w.Label},
			window: w, amount: c.Amount, declared: p.book.limit(rules, c.Unit, w), lasting: sc.cap,
			limited: limited, rules: rules,
		}
		if c.CeilingSpan == sc.span || c.CeilingSpan == 0 && (sc.cap.Set || !limited) {
			e.ceiling = c.Ceiling
		}
		at, again := p.index[e.key]
		if !again {
			at = len(p.entries)
		}
		if p.hold != nil {
			p.hold.parts = append(p.hold.parts, part{charge: i, entry: at})
		}
		if again {
			p.entries[at].amount += e.amount
			p.entries[at].ceiling = p.entries[at].ceiling.Lower(e.ceiling)
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
	if p.hold != nil {
		return p.readHold()
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
	violations, crowded := p.violations(), p.crowded()
	if violations == nil && crowded == nil {
		return Decision{Outcome: Done}, nil
	}
	due, err := p.reader.Due(p.now, 1)
	if err != nil {
		return Decision{}, err
	}
	if len(due) > 0 { // what it holds may be free
		return Decision{Outcome: Behind}, nil
	}
	var at time.Time
	if violations != nil {
		if at, err = p.passAt(violations); err != nil {
			return Decision{}, err
		}
	}
	for i := range violations { // an override made for a later window may grant what is too much for what is declared
		violations[i].Never = violations[i].Never && at.IsZero()
	}
	if crowded != nil { // nobody knows when a reservation will end
		at = time.Time{}
	}
	return Decision{Outcome: Denied, Violations: append(violations, crowded...), RetryAt: at}, nil
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
		if v, ok := p.share(e, most); ok {
			violations = append(violations, v)
			continue
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
			Never:    e.key.Span == window.Ever && e.amount > bound.Max-e.account.Used || e.amount > next.Max, // what is held may be released
		})
	}
	return violations
}

// passAt returns when an acquire that is refused could pass if nothing else were taken: when the last window that refuses has
// ended. The counts of the windows after it have to be looked at too: an override may end with its window, or be made for a
// later one, and a change of zone may lead to a window that was charged before. Zero if it would not pass in any of the windows
// looked at.
func (p *plan) passAt(violations []Violation) (time.Time, error) {
	later := plan{reader: p.reader, entries: slices.Clone(p.entries), hold: p.hold}
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
		e.holds = p.hold.holds(e.key) // where a change of zone leads back to a window that it was made in
		var err error
		if e.account, e.kept, err = p.reader.Account(e.key); err != nil {
			return err
		}
	}
	return nil
}

// take charges every count.
func (p *plan) take(s State, receipted bool) error {
	p.count(receipted)
	return p.write(s)
}

// count charges every count, and writes nothing.
func (p *plan) count(receipted bool) {
	for i := range p.entries {
		e := &p.entries[i]
		switch {
		case p.hold != nil:
			e.account.Held += e.amount
		case receipted:
			e.account.Receipted += e.amount
			fallthrough
		default:
			e.account.Used += e.amount
		}
		e.account.Limit = e.declared
		e.account.cover(e.window)
	}
}

// write keeps what count charged, and tells of the thresholds that it has reached.
func (p *plan) write(s State) error {
	for i := range p.entries {
		e := &p.entries[i]
		if err := e.rules.thresholds.announce(s, p.now, e.key, &e.account, e.declared); err != nil {
			return err
		}
		if err := s.SetAccount(e.key, e.account); err != nil {
			return err
		}
	}
	for _, n := range p.names {
		if err := s.AddLiveName(n.day, n.bucket); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) balances() []Balance {
	bs := make([]Balance, len(p.entries))
	for i, e := range p.entries {
		bs[i] = balanceIn(e.key, e.window, e.account, e.declared)
	}
	return worthShowing(bs)
}

// worthShowing leaves out the day's count where the bucket limits the unit in other windows but not by day. An extension may have
// charged the same bucket and unit in later windows, so that they need not stand together.
func worthShowing(bs []Balance) []Balance {
	kept := bs[:0]
	for i, b := range bs {
		limited := func(o Balance) bool { return o.Limit.Set && o.Bucket == b.Bucket && o.Unit == b.Unit }
		if b.Limit.Set || !slices.ContainsFunc(kept, limited) && !slices.ContainsFunc(bs[i+1:], limited) {
			kept = append(kept, b)
		}
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
