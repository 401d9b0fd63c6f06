package quota

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/window"
)

// View is a bucket as it stands.
type View struct {
	Name     string    // a bucket, or a declared pattern
	Declared *Settings // under this very name; nil if nothing is
	InForce  string    // the declaration in force: see Rules.Name
	Unknown  bool      // nobody declared it, and the default is off
	Settings Settings  // in force, with its zone; what reservations are made under may come from a parent
	Balances []Balance // current counts; limits that have not been charged yet are there with 0 used
	InFlight int64     // open reservations on the bucket and, where it is declared, below it
}

// Look returns a bucket, or a declared pattern, as it stands at now.
func Look(r Reader, now time.Time, name string) (View, error) {
	book, err := r.Book()
	if err != nil {
		return View{}, err
	}
	v := View{Name: name}
	if s, ok := book.Settings(name); ok {
		v.Declared = &s
	}
	if IsPattern(name) {
		if v.Declared != nil {
			c := compile(name, *v.Declared, book.defaults)
			v.InForce, v.Settings = name, c.Settings
			v.Settings.Hold = cmp.Or(c.Settings.Hold, HoldDefault)
		}
		return v, nil
	}
	rules := book.Rules(Bucket(name))
	if rules == nil {
		v.Unknown = true
		rules = book.counted
	}
	v.InForce, v.Settings = rules.Name, rules.Settings
	terms := book.terms(Bucket(name))
	v.Settings.Hold, v.Settings.OnExpiry, v.Settings.Estimates = terms.Hold, terms.OnExpiry, terms.Estimates
	if v.InFlight, err = r.InFlight(Bucket(name)); err != nil {
		return View{}, err
	}
	v.Balances, err = current(r, now, Bucket(name), rules)
	return v, err
}

// current returns the counts of a bucket's current windows: those limited and those charged.
func current(r Reader, now time.Time, b Bucket, rules *Rules) ([]Balance, error) {
	book, err := r.Book()
	if err != nil {
		return nil, err
	}
	keys, err := currentKeys(r, now, b)
	if err != nil {
		return nil, err
	}
	for _, u := range rules.units {
		for _, sc := range u.caps {
			w := r.Windows().At(sc.span, now, rules.zone)
			k := AccountKey{b, u.unit, sc.span, w.Label}
			if book.limit(rules, u.unit, w).Set && !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	slices.SortFunc(keys, func(a, b AccountKey) int {
		if c := compareText(string(a.Unit), string(b.Unit)); c != 0 {
			return c
		}
		return int(a.Span) - int(b.Span)
	})
	balances := make([]Balance, 0, len(keys))
	for _, k := range keys {
		a, _, err := r.Account(k)
		if err != nil {
			return nil, err
		}
		w := r.Windows().At(k.Span, now, rules.zone)
		balances = append(balances, balanceIn(k, w, a, book.limit(rules, k.Unit, w)))
	}
	return worthShowing(balances), nil
}

// currentKeys returns the counts that are kept of a bucket in its current windows.
func currentKeys(r Reader, now time.Time, b Bucket) ([]AccountKey, error) {
	book, err := r.Book()
	if err != nil {
		return nil, err
	}
	rules := book.Rules(b)
	if rules == nil {
		rules = book.counted
	}
	var keys []AccountKey
	for _, span := range window.Spans() {
		w := r.Windows().At(span, now, rules.zone)
		units, err := r.Units(b, w)
		if err != nil {
			return nil, err
		}
		for _, u := range units {
			keys = append(keys, AccountKey{b, u, span, w.Label})
		}
	}
	return keys, nil
}

// balanceIn returns a count in a window that is known, with the limit declared now.
func balanceIn(k AccountKey, w window.Window, a Account, declared Cap) Balance {
	return Balance{
		Bucket: k.Bucket, Unit: k.Unit, Window: w, Limit: a.limit(declared),
		Used: a.Used, Held: a.Held, Overridden: a.Override.Set,
	}
}

// Past returns a count as it was kept, with the limit that held when it was last charged.
func Past(k AccountKey, a Account) Balance { return balanceOf(k, a) }

func balanceOf(k AccountKey, a Account) Balance {
	return balanceIn(k, window.Window{Span: k.Span, Label: k.Label, Start: a.Start, End: a.End}, a, a.Limit)
}

// standing returns a count as it stands at now: while its window goes on with the limit in force, later with its last one.
func standing(book *Book, now time.Time, k AccountKey, a Account) Balance {
	if k.Span != window.Ever && !a.End.After(now) {
		return balanceOf(k, a)
	}
	return currentBalance(book, k, a)
}

func currentBalance(book *Book, k AccountKey, a Account) Balance {
	rules := book.Rules(k.Bucket)
	if rules == nil {
		rules = book.counted
	}
	b := balanceOf(k, a)
	b.Limit = a.limit(book.limit(rules, k.Unit, b.Window))
	return b
}

// line returns a count in a line, for the audit trail.
func (b Balance) line() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s/%s", b.Unit, b.Window.Span)
	if b.Window.Label != "" {
		fmt.Fprintf(&s, " %s", b.Window.Label)
	}
	fmt.Fprintf(&s, ": used %d", b.Used)
	if b.Held > 0 {
		fmt.Fprintf(&s, ", held %d", b.Held)
	}
	if b.Limit.Set {
		fmt.Fprintf(&s, " of %d", b.Limit.Max)
	}
	if b.Overridden {
		s.WriteString(" (override)")
	}
	return s.String()
}

func lines(bs []Balance) string {
	parts := make([]string, len(bs))
	for i, b := range bs {
		parts[i] = b.line()
	}
	return strings.Join(parts, "; ")
}

// Current returns a count of a window that has not ended, with the limit declared now.
func Current(r Reader, k AccountKey, a Account) (Balance, error) {
	book, err := r.Book()
	if err != nil {
		return Balance{}, err
	}
	return currentBalance(book, k, a), nil
}
