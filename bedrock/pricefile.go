package bedrock

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// unitSpelling is the one accepted unit: of each price of tokens, nano-dollars (billionths of a US dollar) for a million of them.
	unitSpelling = "nano-usd/1M"
	// priceDepthMax is how deep a table may nest; ours needs five levels, and the parser's cost grows with the square of the depth.
	priceDepthMax = 8
	// patternBytesMax is how long a model's id or ARN may be in Bedrock's API.
	patternBytesMax = 2048
	// priceFaultsShown is how many faults an error spells out.
	priceFaultsShown = 10
)

var (
	tableKeys    = []string{"version", "unknown", "models"}
	rateKeys     = []string{"unit", "input", "output", "cache_read", "cache_write", "cache_write_1h", "text_unit", "image", "call", "burndown"}
	entryKeys    = append([]string{"match", "tier", "from"}, rateKeys...)
	burndownKeys = []string{"input", "output", "cache_read", "cache_write"}
)

// priceFault is one thing that is wrong in a table.
type priceFault struct {
	line, column int // 0: of the file as a whole
	text         string
}

// priceFile is a table while it is read. It is read strictly: what is not understood is a fault, as is what YAML can do but nobody needs
// here. A price that was misread is money.
type priceFile struct {
	name   string
	faults []*priceFault
}

// ParsePrices reads a table; name is what errors call it. The error names all that is wrong, each with its line and what would be
// right. In an entry, a price of cache_read or cache_write that is left out is that of input, and of cache_write_1h that of
// cache_write: no token is free because it was forgotten. A price of text_unit, image or call that is left out is 0.
func ParsePrices(name string, src []byte) (*Prices, error) {
	f := &priceFile{name: name}
	p := &Prices{name: name}
	if len(src) > PricesBytesMax {
		f.fault(nil, "is too large: at most %d bytes", PricesBytesMax)
		return nil, f.err()
	}
	if top := f.parse(src); top != nil {
		f.table(p, top)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return p, nil
}

func (f *priceFile) table(p *Prices, top ast.Node) {
	keys := f.mapping(top, "the table", tableKeys)
	if keys == nil {
		return
	}
	for _, required := range tableKeys {
		if _, there := keys[required]; !there {
			f.fault(nil, "has no %q; want version: 1, unknown: deny or a price, and models: a list", required)
		}
	}
	if v, there := keys["version"]; there {
		if text, ok := f.scalar(v, "version"); ok && text != "1" {
			f.fault(v.GetToken(), "version: %s is unknown; want 1", text)
		}
	}
	if u, there := keys["unknown"]; there {
		p.unknown = f.unknown(u)
	}
	models, there := keys["models"]
	if !there {
		return
	}
	list, ok := models.(*ast.SequenceNode)
	if !ok {
		f.fault(models.GetToken(), "models is not a list; want models: [] or one \"- match: [...]\" for each")
		return
	}
	for _, n := range list.Values {
		p.entries = append(p.entries, f.model(n)...)
	}
	f.faults = append(f.faults, orderPrices(p.entries)...)
}

func (f *priceFile) unknown(n ast.Node) *rates {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		keys := f.mapping(n, "unknown", rateKeys)
		r := f.rates(n, "unknown", keys)
		return &r
	}
	if text, ok := f.scalar(n, "unknown"); ok && text != "deny" {
		f.fault(n.GetToken(), "unknown: %q; want deny, or a price such as {unit: %s, input: 10_000_000_000, output: 50_000_000_000}", text, unitSpelling)
	}
	return nil
}

// model returns an entry once for each of its patterns.
func (f *priceFile) model(n ast.Node) []priceEntry {
	keys := f.mapping(n, "an entry of models", entryKeys)
	if keys == nil {
		return nil
	}
	base := priceEntry{rates: f.rates(n, "an entry of models", keys)}
	if t, there := keys["tier"]; there {
		base.tier, _ = f.scalar(t, "tier")
		if base.tier == "" || strings.Trim(base.tier, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			f.fault(t.GetToken(), "tier: %q; want default, flex, priority or reserved, or leave it out for any", base.tier)
		}
	}
	if d, there := keys["from"]; there {
		text, ok := f.scalar(d, "from")
		day, err := time.Parse(time.DateOnly, text)
		if ok && err != nil {
			f.fault(d.GetToken(), "from: %q is no date; want one such as 2026-01-31, from whose start in UTC the price holds", text)
		}
		base.from = day
	}
	m, there := keys["match"]
	if !there {
		f.fault(n.GetToken(), "an entry of models has no match; want the models it is for, such as match: [\"anthropic.claude-*\"]")
		return nil
	}
	list, ok := m.(*ast.SequenceNode)
	if !ok || len(list.Values) == 0 {
		f.fault(m.GetToken(), "match is not a list of patterns; want one such as [\"anthropic.claude-*\"]")
		return nil
	}
	entries := make([]priceEntry, 0, len(list.Values))
	for _, v := range list.Values {
		e := base
		if e.pattern, ok = f.scalar(v, "match"); !ok {
			continue
		}
		if fault := checkGlob(e.pattern); fault != "" {
			f.fault(v.GetToken(), "match: %q %s", e.pattern, fault)
			continue
		}
		e.stars = strings.Count(e.pattern, "*")
		e.line = v.GetToken().Position.Line
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
func (f *priceFile) rates(n ast.Node, what string, keys map[string]ast.Node) rates {
	r := rates{burndown: weights{input: 1, output: 1, cacheWrite: 1}}
	if keys == nil {
		return r
	}
	if u, there := keys["unit"]; !there {
		f.fault(n.GetToken(), "%s has no unit; want unit: %s, which is billionths of a US dollar for 1,000,000 tokens, and for one of anything else", what, unitSpelling)
	} else if text, ok := f.scalar(u, "unit"); ok && text != unitSpelling {
		f.fault(u.GetToken(), "unit: %q; the one unit is %s, billionths of a US dollar for 1,000,000 tokens, and for one of anything else", text, unitSpelling)
	}
	has := func(key string) bool { _, there := keys[key]; return there }
	tokens := has("input") || has("output") || has("cache_read") || has("cache_write") || has("cache_write_1h")
	switch {
	case tokens && (!has("input") || !has("output")):
		f.fault(n.GetToken(), "%s has a price of some tokens and not of others; want input and output, 0 if they are free", what)
	case !tokens && !has("text_unit") && !has("image") && !has("call"):
		f.fault(n.GetToken(), "%s has no price; want input and output, or text_unit, image or call", what)
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
		w := f.mapping(b, "burndown", burndownKeys)
		r.burndown.input = f.integer(w, "input", weightMax, 1)
		r.burndown.output = f.integer(w, "output", weightMax, 1)
		r.burndown.cacheRead = f.integer(w, "cache_read", weightMax, 0)
		r.burndown.cacheWrite = f.integer(w, "cache_write", weightMax, 1)
	}
	return r
}

// integer reads a whole number of 0 to most, whose digits may be parted by single _.
func (f *priceFile) integer(keys map[string]ast.Node, key string, most, otherwise int64) int64 {
	n, there := keys[key]
	if !there {
		return otherwise
	}
	text, ok := f.scalar(n, key)
	if !ok {
		return 0
	}
	value, ok := wholeNumber(text, most)
	if !ok || quoted(n) {
		f.fault(n.GetToken(), "%s: %q; want a whole number from 0 to %d, without quotes, sign or fraction, such as 3_000_000_000", key, text, most)
	}
	return value
}

func quoted(n ast.Node) bool {
	t := n.GetToken().Type
	return t == token.SingleQuoteType || t == token.DoubleQuoteType
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

// parse returns the top of the one document that the text holds; nil if there is a fault.
func (f *priceFile) parse(src []byte) (top ast.Node) {
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimPrefix(string(src), "\ufeff"))
	if !utf8.ValidString(text) {
		f.fault(nil, "is not UTF-8 text")
		return nil
	}
	// A panic of the parser is a fault of the table: a program may read it again while it serves.
	defer func() {
		if reason := recover(); reason != nil {
			f.fault(nil, "cannot be read as YAML: %v", reason)
			top = nil
		}
	}()
	tokens := lexer.Tokenize(text)
	if !f.plain(tokens) {
		return nil
	}
	tree, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		if at := yaml.Error(nil); errors.As(err, &at) && at.GetToken() != nil {
			f.fault(at.GetToken(), "%s", at.GetMessage())
		} else {
			f.fault(nil, "cannot be read as YAML: %v", err)
		}
		return nil
	}
	if len(tree.Docs) == 0 || tree.Docs[0].Body == nil {
		f.fault(nil, "is empty; want version: 1, unknown: deny or a price, and models: a list")
		return nil
	}
	if len(tree.Docs) > 1 {
		f.fault(tree.Docs[1].Start, "a second document begins; want one")
		return nil
	}
	return tree.Docs[0].Body
}

// plain tells whether the text is of the part of YAML that is read, and not nested too deep for the parser.
func (f *priceFile) plain(tokens token.Tokens) bool {
	flow, entries, line := 0, 0, 0
	var columns []int // where the lines begin that this one is inside of
	for _, t := range tokens {
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			f.fault(t, "anchors, aliases and merges are not read; write the value out, in quotes if it begins with & or *")
		case token.TagType, token.DirectiveType:
			f.fault(t, "tags and directives are not read; write the value alone, in quotes if it begins with ! or %%")
		case token.MappingKeyType:
			f.fault(t, "a key in the form \"? key\" is not read; want \"key: value\"")
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.CommentType:
			continue
		default:
		}
		if t.Type == token.SequenceEntryType {
			entries++
		} else {
			entries = 0
		}
		// Not by the lexer's own level of indentation, which rises with every comment that is indented.
		if t.Position != nil && t.Position.Line > line {
			line = t.Position.Line
			for len(columns) > 0 && columns[len(columns)-1] >= t.Position.Column {
				columns = columns[:len(columns)-1]
			}
			columns = append(columns, t.Position.Column)
		}
		if max(flow, entries, len(columns)) > priceDepthMax {
			f.fault(t, "nests too deep")
			return false
		}
	}
	return len(f.faults) == 0
}

// mapping returns the values of a mapping by their keys, nil if it is none. Keys that are not known or stand twice are faults.
func (f *priceFile) mapping(n ast.Node, what string, known []string) map[string]ast.Node {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		f.fault(n.GetToken(), "%s is not a mapping; want \"key: value\" lines of %s", what, strings.Join(known, ", "))
		return nil
	}
	keys := make(map[string]ast.Node, len(values))
	for _, v := range values {
		at := v.Key.GetToken()
		switch _, twice := keys[at.Value]; {
		case twice:
			f.fault(at, "%s has %q twice; keep one", what, at.Value)
		case !slices.Contains(known, at.Value):
			f.fault(at, "%s has an unknown key %q; want one of %s", what, at.Value, strings.Join(known, ", "))
		default:
			keys[at.Value] = v.Value
		}
	}
	return keys
}

// scalar returns a single value as its text; no word is taken for anything else on the way.
func (f *priceFile) scalar(n ast.Node, what string) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.NullNode:
		f.fault(n.GetToken(), "%s has no value; give it one, or take it away", what)
	default:
		f.fault(n.GetToken(), "%s is not a single value", what)
	}
	return "", false
}

func (f *priceFile) fault(t *token.Token, format string, args ...any) {
	fault := &priceFault{text: fmt.Sprintf(format, args...)}
	if t != nil && t.Position != nil {
		fault.line, fault.column = t.Position.Line, t.Position.Column
	}
	f.faults = append(f.faults, fault)
}

// err returns what is wrong as one error, a line for each fault in the order of the file; nil if nothing is.
func (f *priceFile) err() error {
	if len(f.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(f.faults, func(a, b *priceFault) int { return cmp.Or(a.line-b.line, a.column-b.column) })
	lines := make([]string, 0, priceFaultsShown+1)
	for i, fault := range f.faults {
		if i == priceFaultsShown {
			lines = append(lines, fmt.Sprintf("%s: and %d more", f.name, len(f.faults)-i))
			break
		}
		where := f.name
		if fault.line > 0 {
			where = fmt.Sprintf("%s:%d", where, fault.line)
		}
		if fault.column > 0 {
			where = fmt.Sprintf("%s:%d", where, fault.column)
		}
		lines = append(lines, where+": "+fault.text)
	}
	return errors.New(strings.Join(lines, "\n"))
}
