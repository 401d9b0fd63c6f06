package bedrock

import (
	"cmp"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
	"strings"
	"time"
)

// Bounds of a price table and of what it yields.
const (
	// PricesBytesMax is how large a price table may be.
	PricesBytesMax = 1 << 20
	// priceMax bounds prices, counts and results: quotad takes no larger amount.
	priceMax = 1_000_000_000_000_000
	// weightMax bounds a burn-down weight. AWS has published up to 5, and 15 for one model.
	weightMax = 1_000
	// perTokens is what prices of tokens are for.
	perTokens = 1_000_000
	// nanosPerMicro is how many nano-dollars make a millionth of a dollar.
	nanosPerMicro = 1_000
)

// Prices is a table of prices and burn-down weights, by model, service tier and date. It does not change and may be used by any number
// of goroutines. Make one by LoadPrices or ParsePrices.
type Prices struct {
	name    string
	entries []priceEntry // those that win first
	unknown *rates       // nil: a model without a price is an error
}

// priceEntry is one pattern of one entry of the table.
type priceEntry struct {
	pattern string
	stars   int
	tier    string    // "": any
	from    time.Time // zero: always
	rates   rates
	line    int // of the pattern in the file
}

// rates are the prices and weights of one entry, in nano-dollars: of a million tokens, or of one of anything else.
type rates struct {
	input, output, cacheRead, cacheWrite, cacheWrite1h int64
	textUnit, image, call                              int64
	burndown                                           weights
}

// weights are how many tokens of AWS's own service quota one token counts.
type weights struct{ input, output, cacheRead, cacheWrite int64 }

// Cost is what one call comes to.
type Cost struct {
	// NanoUSD is its price in billionths of a US dollar, rounded up, at most 1,000,000,000,000,000 (a million dollars).
	NanoUSD int64
	// Tokens are its tokens by their burn-down weights, as AWS counts them against its service quotas; at most
	// 1,000,000,000,000,000.
	Tokens int64
	// Known tells that the table lists the model. false is of its fallback for unknown models, and should be told to someone.
	Known bool
}

// Micros returns the price in millionths of a US dollar, rounded up.
func (c Cost) Micros() int64 { return c.NanoUSD/nanosPerMicro + min(c.NanoUSD%nanosPerMicro, 1) }

// UnknownModelError says that a table has no price for a model and denies what it does not know.
type UnknownModelError struct {
	// Model is the model's id or ARN as the request has it; it may be "".
	Model string
	// Tier is the service tier that was asked for.
	Tier string
	// Table is the name of the table, such as its path.
	Table string
}

// Error says which model, and how to give it a price.
func (e *UnknownModelError) Error() string {
	return fmt.Sprintf("%s has no price for the model %q in the tier %q; list it under models, or give unknown a price", e.Table, e.Model, e.Tier)
}

// LoadPrices reads a table from a file of at most PricesBytesMax. What is wrong in it is named with its line.
func LoadPrices(path string) (*Prices, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("price table: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	src, err := io.ReadAll(io.LimitReader(f, PricesBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("reading the price table %s: %w", path, err)
	}
	return ParsePrices(path, src)
}

// Cost returns what a usage costs, by the entry for the model and tier that is in force at an instant. Of those that match, the one
// wins whose pattern has the most characters that are not *, then the fewest *; then one that names the tier before one for any; then
// the latest date that is not in the future. Its errors are an *UnknownModelError, and sums beyond their bounds or counts that are
// negative.
func (p *Prices) Cost(model, tier string, at time.Time, u Usage) (Cost, error) {
	r, known := p.unknown, false
	for i := range p.entries {
		e := &p.entries[i]
		if (e.tier == "" || e.tier == tier) && !e.from.After(at) && globMatch(e.pattern, model) {
			r, known = &e.rates, true
			break
		}
	}
	if r == nil {
		return Cost{}, &UnknownModelError{Model: model, Tier: tier, Table: p.name}
	}
	c, err := r.cost(u)
	if err != nil {
		return Cost{}, fmt.Errorf("the cost of a call of %q: %w", model, err)
	}
	c.Known = known
	return c, nil
}

func (r *rates) cost(u Usage) (Cost, error) {
	for _, n := range []int64{u.InputTokens, u.OutputTokens, u.CacheReadTokens, u.CacheWriteTokens, u.CacheWrite1hTokens, u.TextUnits, u.Images} {
		if n < 0 || n > priceMax {
			return Cost{}, fmt.Errorf("a count of %d; want 0 to %d", n, int64(priceMax))
		}
	}
	// Everything in millionths of a nano-dollar, added up exactly, and rounded once.
	var money wide
	money.add(u.InputTokens, r.input)
	money.add(u.OutputTokens, r.output)
	money.add(u.CacheReadTokens, r.cacheRead)
	money.add(u.CacheWriteTokens, r.cacheWrite)
	money.add(u.CacheWrite1hTokens, r.cacheWrite1h)
	var single wide
	single.add(u.TextUnits, r.textUnit)
	single.add(u.Images, r.image)
	single.add(1, r.call)
	nanos, fits := single.value()
	if fits {
		money.add(nanos, perTokens)
		nanos, fits = money.dividedUp(perTokens)
	}
	if !fits {
		return Cost{}, fmt.Errorf("it is more than %d nano-dollars", int64(priceMax))
	}
	var weighted wide
	weighted.add(u.InputTokens, r.burndown.input)
	weighted.add(u.OutputTokens, r.burndown.output)
	weighted.add(u.CacheReadTokens, r.burndown.cacheRead)
	weighted.add(u.CacheWriteTokens, r.burndown.cacheWrite)
	weighted.add(u.CacheWrite1hTokens, r.burndown.cacheWrite)
	tokens, fits := weighted.value()
	if !fits {
		return Cost{}, fmt.Errorf("it is more than %d weighted tokens", int64(priceMax))
	}
	return Cost{NanoUSD: nanos, Tokens: tokens}, nil
}

// wide is a sum of 128 bits. Ten products of numbers up to priceMax fit into it a million times over, so nothing in it can wrap.
type wide struct{ hi, lo uint64 }

// add adds a product of two numbers that are not negative.
func (w *wide) add(a, b int64) {
	hi, lo := bits.Mul64(uint64(a), uint64(b)) //nolint:gosec // neither is negative
	var carry uint64
	w.lo, carry = bits.Add64(w.lo, lo, 0)
	w.hi, _ = bits.Add64(w.hi, hi, carry)
}

// value returns the sum; false if it is beyond priceMax.
func (w *wide) value() (int64, bool) { return w.dividedUp(1) }

// dividedUp returns the sum divided by d and rounded up; false if that is beyond priceMax.
func (w *wide) dividedUp(d uint64) (int64, bool) {
	if w.hi >= d {
		return 0, false
	}
	q, rest := bits.Div64(w.hi, w.lo, d)
	if rest > 0 && q <= priceMax {
		q++
	}
	if q > priceMax {
		return 0, false
	}
	return int64(q), true
}

// globMatch tells whether a text is of a pattern in which * stands for any run of characters, none among them, and all else for itself.
func globMatch(pattern, text string) bool {
	p, t := 0, 0
	star, from := -1, 0 // the last * and the first character that it does not stand for
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0: // let the last * stand for one more
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// orderPrices puts those entries first that win. It is a fault if two are for the same: neither would.
func orderPrices(entries []priceEntry) []*priceFault {
	slices.SortStableFunc(entries, func(a, b priceEntry) int {
		return cmp.Or(
			cmp.Compare(len(b.pattern)-b.stars, len(a.pattern)-a.stars),
			cmp.Compare(a.stars, b.stars),
			cmp.Compare(min(len(b.tier), 1), min(len(a.tier), 1)),
			b.from.Compare(a.from),
		)
	})
	type same struct {
		pattern, tier string
		from          int64
	}
	var faults []*priceFault
	seen := make(map[same]int, len(entries))
	for _, e := range entries {
		key := same{e.pattern, e.tier, e.from.Unix()}
		if line, twice := seen[key]; twice {
			faults = append(faults, &priceFault{line: e.line, text: fmt.Sprintf("match: %q is priced for the same tier and date in line %d already; keep one, or give one a tier or another date", e.pattern, line)})
			continue
		}
		seen[key] = e.line
	}
	return faults
}
