package bedrock

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/strictyaml"
)

const (
	// unitSpelling is the one accepted unit: of each price of tokens, nano-dollars (billionths of a US dollar) for a million of them.
	unitSpelling = "nano-usd/1M"
	// patternBytesMax is how long a model's id or ARN may be in Bedrock's API.
	patternBytesMax = 2048
)

var (
	tableKeys    = []string{"version", "unknown", "models"}
	rateKeys     = []string{"unit", "input", "output", "cache_read", "cache_write", "cache_write_1h", "text_unit", "image", "call", "burndown"}
	entryKeys    = append([]string{"match", "tier", "from"}, rateKeys...)
	burndownKeys = []string{"input", "output", "cache_read", "cache_write"}
)

// priceFault is what is wrong in a line of a table.
type priceFault struct {
	line int
	text string
}

// priceFile is a table while it is read. It is read strictly, as a price that was misread is money.
type priceFile struct{ *strictyaml.File }

// ParsePrices reads a table; name is what errors call it. The error names all that is wrong, each with its line and what would be
// right. In an entry, a price of cache_read or cache_write that is left out is that of input, and of cache_write_1h that of
// cache_write: no token is free because it was forgotten. A price of text_unit, image or call that is left out is 0.
func ParsePrices(name string, src []byte) (*Prices, error) {
	if len(src) > PricesBytesMax {
		return nil, strictyaml.Faults{{File: name, Text: fmt.Sprintf("is too large: at most %d bytes", PricesBytesMax)}}
	}
	file, top := strictyaml.Parse(name, src)
	f := priceFile{file}
	p := &Prices{name: name}
	switch {
	case top.Kind != strictyaml.Nothing:
		f.table(p, top)
	case f.Err() == nil:
		f.Fault(strictyaml.Place{}, "is empty; want version: 1, unknown: deny or a price, and models: a list")
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return p, nil
}

func (f priceFile) table(p *Prices, top strictyaml.Node) {
	keys := f.mapping(top, "the table", tableKeys)
	if keys == nil {
		return
	}
	for _, required := range tableKeys {
		if _, there := keys[required]; !there {
			f.Fault(strictyaml.Place{}, "has no %q; want version: 1, unknown: deny or a price, and models: a list", required)
		}
	}
	if v, there := keys["version"]; there {
		if text, ok := f.Scalar(v, v.Value); ok && text != "1" {
			f.Fault(v.Value.At, "version: %s is unknown; want 1", text)
		}
	}
	if u, there := keys["unknown"]; there {
		p.unknown = f.unknown(u)
	}
	models, there := keys["models"]
	if !there {
		return
	}
	if models.Value.Kind != strictyaml.List {
		f.Fault(models.Value.At, "models is not a list; want models: [] or one \"- match: [...]\" for each")
		return
	}
	for _, n := range models.Value.Items() {
		p.entries = append(p.entries, f.model(n)...)
	}
	for _, fault := range orderPrices(p.entries) {
		f.Fault(strictyaml.Place{Line: fault.line}, "%s", fault.text)
	}
}

func (f priceFile) unknown(e strictyaml.Entry) *rates {
	n := e.Value
	if n.Kind == strictyaml.Mapping {
		keys := f.mapping(n, "unknown", rateKeys)
		r := f.rates(n, "unknown", keys)
		return &r
	}
	if text, ok := f.Scalar(e, n); ok && text != "deny" {
		f.Fault(n.At, "unknown: %q; want deny, or a price such as {unit: %s, input: 10_000_000_000, output: 50_000_000_000}", text, unitSpelling)
	}
	return nil
}

// model returns an entry once for each of its patterns.
func (f priceFile) model(n strictyaml.Node) []priceEntry {
	keys := f.mapping(n, "an entry of models", entryKeys)
	if keys == nil {
		return nil
	}
	base := priceEntry{rates: f.rates(n, "an entry of models", keys)}
	if t, there := keys["tier"]; there {
		text, ok := f.Scalar(t, t.Value)
		if ok && (text == "" || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "") {
			f.Fault(t.Value.At, "tier: %q; want default, flex, priority or reserved, or leave it out for any", text)
		}
		base.tier = text
	}
	if d, there := keys["from"]; there {
		text, ok := f.Scalar(d, d.Value)
		day, err := time.Parse(time.DateOnly, text)
		if ok && err != nil {
			f.Fault(d.Value.At, "from: %q is no date; want one such as 2026-01-31, from whose start in UTC the price holds", text)
		}
		base.from = day
	}
	m, there := keys["match"]
	if !there {
		f.Fault(n.At, "an entry of models has no match; want the models it is for, such as match: [\"anthropic.claude-*\"]")
		return nil
	}
	patterns := m.Value.Items()
	if len(patterns) == 0 {
		f.Fault(m.Value.At, "match is not a list of patterns; want one such as [\"anthropic.claude-*\"]")
		return nil
	}
	entries := make([]priceEntry, 0, len(patterns))
	for _, v := range patterns {
		text, ok := f.Scalar(m, v)
		if !ok {
			continue
		}
		e := base
		e.pattern = text
		if fault := checkGlob(e.pattern); fault != "" {
			f.Fault(v.At, "match: %q %s", e.pattern, fault)
			continue
		}
		e.stars = strings.Count(e.pattern, "*")
		e.line = v.At.Line
		entries = append(entries, e)
	}
	return entries
}

// checkGlob returns what is wrong with a pattern; "" if nothing is.
func checkGlob(pattern string) string {
	switch {
	case pattern == "" || len(pattern) > patternBytesMax:
		return fmt.Sprintf("has %d bytes; want 1 to %d", len(pattern), patternBytesMax)
	case strings.Contains(pattern, "**"):
		return "has ** in it; one * stands for any run of characters"
	}
	for _, c := range pattern {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-._:/*", c):
		default:
			return fmt.Sprintf("has a %q in it; ids and ARNs of models have letters, digits and -._:/ and * stands for any run of characters", c)
		}
	}
	return ""
}

// rates reads the prices of one entry; n is where to point at if one is missing.
func (f priceFile) rates(n strictyaml.Node, what string, keys map[string]strictyaml.Entry) rates {
	r := rates{burndown: weights{input: 1, output: 1, cacheWrite: 1}}
	if keys == nil {
		return r
	}
	if u, there := keys["unit"]; !there {
		f.Fault(n.At, "%s has no unit; want unit: %s, which is billionths of a US dollar for 1,000,000 tokens, and for one of anything else", what, unitSpelling)
	} else if text, ok := f.Scalar(u, u.Value); ok && text != unitSpelling {
		f.Fault(u.Value.At, "unit: %q; the one unit is %s, billionths of a US dollar for 1,000,000 tokens, and for one of anything else", text, unitSpelling)
	}
	has := func(key string) bool { _, there := keys[key]; return there }
	tokens := has("input") || has("output") || has("cache_read") || has("cache_write") || has("cache_write_1h")
	switch {
	case tokens && (!has("input") || !has("output")):
		f.Fault(n.At, "%s has a price of some tokens and not of others; want input and output, 0 if they are free", what)
	case !tokens && !has("text_unit") && !has("image") && !has("call"):
		f.Fault(n.At, "%s has no price; want input and output, or text_unit, image or call", what)
	}
	r.input = f.integer(keys, "input", priceMax, 0)
	r.output = f.integer(keys, "output", priceMax, 0)
	r.cacheRead = f.integer(keys, "cache_read", priceMax, r.input)
	r.cacheWrite = f.integer(keys, "cache_write", priceMax, r.input)
	r.cacheWrite1h = f.integer(keys, "cache_write_1h", priceMax, r.cacheWrite)
	r.textUnit = f.integer(keys, "text_unit", priceMax, 0)
	r.image = f.integer(keys, "image", priceMax, 0)
	r.call = f.integer(keys, "call", priceMax, 0)
	if b, there := keys["burndown"]; there {
		w := f.mapping(b.Value, "burndown", burndownKeys)
		r.burndown.input = f.integer(w, "input", weightMax, 1)
		r.burndown.output = f.integer(w, "output", weightMax, 1)
		r.burndown.cacheRead = f.integer(w, "cache_read", weightMax, 0)
		r.burndown.cacheWrite = f.integer(w, "cache_write", weightMax, 1)
	}
	return r
}

// integer reads a whole number of 0 to most, whose digits may be parted by single _.
func (f priceFile) integer(keys map[string]strictyaml.Entry, key string, most, otherwise int64) int64 {
	e, there := keys[key]
	if !there {
		return otherwise
	}
	text, ok := f.Scalar(e, e.Value)
	if !ok {
		return 0
	}
	value, ok := wholeNumber(text, most)
	if !ok || !e.Value.Plain() {
		f.Fault(e.Value.At, "%s: %q; want a whole number from 0 to %d, without quotes, sign or fraction, such as 3_000_000_000", key, text, most)
	}
	return value
}

func wholeNumber(text string, most int64) (int64, bool) {
	if text == "" || len(text) > 1 && text[0] == '0' {
		return 0, false
	}
	var n int64
	for i := range len(text) {
		c := text[i]
		switch {
		case c == '_' && i > 0 && i < len(text)-1 && text[i-1] != '_':
		case '0' <= c && c <= '9':
			n = n*10 + int64(c-'0')
			if n > most {
				return 0, false
			}
		default:
			return 0, false
		}
	}
	return n, true
}

// mapping returns the entries of a mapping by their keys, nil if it is none. Keys that are not known are faults.
func (f priceFile) mapping(n strictyaml.Node, what string, known []string) map[string]strictyaml.Entry {
	if n.Kind != strictyaml.Mapping {
		f.Fault(n.At, "%s is not a mapping; want \"key: value\" lines of %s", what, strings.Join(known, ", "))
		return nil
	}
	keys := make(map[string]strictyaml.Entry)
	for _, e := range f.Mapping(n, what) {
		if !slices.Contains(known, e.Key) {
			f.Fault(e.At, "%s has an unknown key %q; want one of %s", what, e.Key, strings.Join(known, ", "))
			continue
		}
		keys[e.Key] = e
	}
	return keys
}
