package bedrock

import (
	"os"
	"strings"
	"testing"
)

const soundTable = `version: 1
unknown: deny
models:
  - match: [a]
    unit: nano-usd/1M
    input: 1
    output: 2
`

// entryWith is a table of one entry with these lines.
func entryWith(lines ...string) string {
	return "version: 1\nunknown: deny\nmodels:\n  - match: [a]\n    unit: nano-usd/1M\n    " + strings.Join(lines, "\n    ") + "\n"
}

var faultyTables = []struct{ name, src, want string }{
	{"empty", "", "p.yaml: is empty; want version: 1"},
	{"comments alone", "# nothing\n", "is empty"},
	{"a list", "- a\n", "p.yaml:1:1: the table is not a mapping"},
	{"a word", "prices\n", "p.yaml:1:1: the table is not a mapping"},
	{"no version", "unknown: deny\nmodels: []\n", `p.yaml: has no "version"; want version: 1`},
	{"no unknown", "version: 1\nmodels: []\n", `p.yaml: has no "unknown"; want`},
	{"no models", "version: 1\nunknown: deny\n", `p.yaml: has no "models"; want`},
	{"version", "version: 2\nunknown: deny\nmodels: []\n", "p.yaml:1:10: version: 2 is unknown; want 1"},
	{"version is empty", "version:\nunknown: deny\nmodels: []\n", "version has no value"},
	{"unknown key", soundTable + "modles: []\n", `p.yaml:8:1: the table has an unknown key "modles"; want one of version, unknown, models`},
	{"a key twice", soundTable + "version: 1\n", `p.yaml:8:1: "version" stands in line 1 already; keep one`},
	{"unknown: allow", "version: 1\nunknown: allow\nmodels: []\n", `p.yaml:2:10: unknown: "allow"; want deny, or a price such as {unit: nano-usd/1M`},
	{"unknown without a unit", "version: 1\nunknown: {input: 1, output: 2}\nmodels: []\n", "unknown has no unit; want unit: nano-usd/1M"},
	{"unknown with a match", "version: 1\nunknown: {match: [a]}\nmodels: []\n", `unknown has an unknown key "match"`},
	{"unknown is a list", "version: 1\nunknown: [deny]\nmodels: []\n", "unknown is a list; want a single value"},
	{"models is a mapping", "version: 1\nunknown: deny\nmodels: {a: 1}\n", "models is not a list"},
	{"models is empty", "version: 1\nunknown: deny\nmodels:\n", "models is not a list"},
	{"an entry is a word", "version: 1\nunknown: deny\nmodels: [a]\n", "p.yaml:3:10: an entry of models is not a mapping"},
	{"no match", "version: 1\nunknown: deny\nmodels:\n  - unit: nano-usd/1M\n    call: 1\n", "an entry of models has no match"},
	{"match is a word", strings.Replace(soundTable, "[a]", "a", 1), "p.yaml:4:12: match is not a list of patterns"},
	{"match is empty", strings.Replace(soundTable, "[a]", "[]", 1), "match is not a list of patterns"},
	{"match has a list", strings.Replace(soundTable, "[a]", "[[a]]", 1), "match is a list; want a single value"},
	{"match has an empty pattern", strings.Replace(soundTable, "[a]", `[""]`, 1), `match: "" has 0 bytes; want 1 to 2048`},
	{"match is too long", strings.Replace(soundTable, "[a]", "["+strings.Repeat("a", 2049)+"]", 1), "has 2049 bytes"},
	{"match has a space", strings.Replace(soundTable, "[a]", `["a b"]`, 1), "has a ' ' in it"},
	{"match has a ?", strings.Replace(soundTable, "[a]", `["a?"]`, 1), "has a '?' in it"},
	{"match has **", strings.Replace(soundTable, "[a]", `["a**"]`, 1), "has ** in it; one * stands for any run"},
	{"a pattern twice in one entry", strings.Replace(soundTable, "[a]", "[a, a]", 1), `p.yaml:4: match: "a" is priced for the same tier and date in line 4 already`},
	{"a pattern twice", soundTable + "  - match: [b, a]\n    unit: nano-usd/1M\n    call: 1\n", `p.yaml:8: match: "a" is priced for the same tier and date in line 4 already; keep one`},
	{"tier is empty", entryWith("call: 1", `tier: ""`), `p.yaml:7:11: tier: ""; want default, flex`},
	{"tier in capitals", entryWith("call: 1", "tier: Flex"), `tier: "Flex"; want default, flex`},
	{"tier is a list", entryWith("call: 1", "tier: [flex]"), "tier is a list; want a single value"},
	{"from is no date", entryWith("call: 1", "from: 2026-13-01"), `p.yaml:7:11: from: "2026-13-01" is no date; want one such as 2026-01-31`},
	{"from has a time", entryWith("call: 1", "from: 2026-01-01T00:00:00Z"), "is no date"},
	{"no unit", strings.Replace(soundTable, "    unit: nano-usd/1M\n", "", 1), "an entry of models has no unit; want unit: nano-usd/1M"},
	{"another unit", strings.Replace(soundTable, "nano-usd/1M", "usd/1k", 1), `p.yaml:5:11: unit: "usd/1k"; the one unit is nano-usd/1M`},
	{"no price", entryWith("burndown: {output: 5}"), "an entry of models has no price; want input and output, or text_unit, image or call"},
	{"no output", entryWith("input: 5"), "has a price of some tokens and not of others; want input and output, 0 if they are free"},
	{"cache alone", entryWith("cache_read: 5"), "has a price of some tokens and not of others"},
	{"unknown price", entryWith("input: 5", "output: 5", "cached: 1"), `p.yaml:8:5: an entry of models has an unknown key "cached"; want one of match, tier, from, unit, input, output, cache_read,`},
	{"negative", entryWith("input: -5", "output: 5"), `p.yaml:6:12: input: "-5"; want a whole number from 0 to 1000000000000000, without quotes, sign or fraction`},
	{"plus", entryWith("input: +5", "output: 5"), `input: "+5"; want a whole number`},
	{"fraction", entryWith("input: 5.0", "output: 5"), `input: "5.0"; want a whole number`},
	{"exponent", entryWith("input: 5e3", "output: 5"), `input: "5e3"; want a whole number`},
	{"hexadecimal", entryWith("input: 0x10", "output: 5"), `input: "0x10"; want a whole number`},
	{"octal", entryWith("input: 010", "output: 5"), `input: "010"; want a whole number`},
	{"in quotes", entryWith(`input: "5"`, "output: 5"), `input: "5"; want a whole number from 0 to 1000000000000000, without quotes`},
	{"a word", entryWith("input: free", "output: 5"), `input: "free"; want a whole number`},
	{"nothing", entryWith("input:", "output: 5"), "input has no value"},
	{"a list", entryWith("input: [5]", "output: 5"), "input is a list; want a single value"},
	{"a block of text", entryWith("input: |-", "  5", "output: 5"), `input: "5"; want a whole number from 0 to 1000000000000000, without quotes`},
	{"_ at the end", entryWith("input: 5_", "output: 5"), `input: "5_"; want a whole number`},
	{"_ twice", entryWith("input: 5__0", "output: 5"), `input: "5__0"; want a whole number`},
	{"too large", entryWith("input: 1_000_000_000_000_001", "output: 5"), `input: "1_000_000_000_000_001"; want a whole number from 0 to 1000000000000000`},
	{"overflow", entryWith("input: 18446744073709551621", "output: 5"), `input: "18446744073709551621"; want a whole number`},
	{"unknown weight", entryWith("call: 1", "burndown: {call: 5}"), `burndown has an unknown key "call"; want one of input, output, cache_read, cache_write`},
	{"weight too large", entryWith("call: 1", "burndown: {output: 1001}"), `output: "1001"; want a whole number from 0 to 1000`},
	{"burndown is a number", entryWith("call: 1", "burndown: 5"), "burndown is not a mapping"},
	{"an anchor", strings.Replace(soundTable, "[a]", "&x [a]", 1), "p.yaml:4:12: anchors, aliases and merges are not read"},
	{"a tag", strings.Replace(soundTable, "input: 1", "input: !!int 1", 1), "tags and directives are not read"},
	{"a key with ?", "? version\n: 1\n", `a key in the form "? key" is not read`},
	{"two documents", soundTable + "---\n" + soundTable, "p.yaml:8:1: a second document begins; want one"},
	{"nested too deep", "version: " + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "\n", "nests too deep"},
	{"nested too deep in lines", "version:\n" + strings.Join([]string{" a:", "  a:", "   a:", "    a:", "     a:", "      a:", "       a:", "        a:", "         a: 1"}, "\n"), "nests too deep"},
	{"nested too deep in a line", "version: 1\nmodels:\n" + strings.Repeat("- ", 20) + "a\n", "nests too deep"},
	{"not YAML", "version: [1\n", "p.yaml:1:10:"},
	{"not UTF-8", "version: 1 # \xff\n", "is not UTF-8 text"},
}

func TestParsePricesRefuses(t *testing.T) {
	t.Parallel()
	if _, err := ParsePrices("p.yaml", []byte(soundTable)); err != nil {
		t.Fatalf("control: %v", err)
	}
	for _, c := range faultyTables {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := ParsePrices("p.yaml", []byte(c.src))
			if err == nil || p != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestParsePricesTellsAll(t *testing.T) {
	t.Parallel()
	_, err := ParsePrices("p.yaml", []byte(strings.NewReplacer("nano-usd/1M", "usd", "input: 1", "input: -1", "output: 2", "output: x").Replace(soundTable)))
	if err == nil || strings.Count(err.Error(), "p.yaml:") != 3 {
		t.Errorf("got %v; want three faults", err)
	}
	if excerpt := "    6 |     input: -1\n      |            ^^\n"; err != nil && !strings.Contains(err.Error(), excerpt) {
		t.Errorf("got %v; want the line and what is wrong in it", err)
	}
	_, err = ParsePrices("p.yaml", []byte(soundTable+strings.Repeat("  - {}\n", 50)))
	if err == nil || !strings.HasSuffix(err.Error(), " more") || strings.Count(err.Error(), "p.yaml:") != 11 {
		t.Errorf("got %v; want ten faults and how many more", err)
	}
}

func TestParsePricesAccepts(t *testing.T) {
	t.Parallel()
	for name, src := range map[string]string{
		"line ends of Windows, and a byte order mark": "\ufeff" + strings.ReplaceAll(soundTable, "\n", "\r\n"),
		"no models":                "version: 1\nunknown: {unit: nano-usd/1M, input: 0, output: 0}\nmodels: []\n",
		"comments":                 strings.NewReplacer("input: 1", "input: 1_0 # ten", "unit: nano-usd/1M", "unit: nano-usd/1M # of a dollar").Replace(soundTable),
		"comments between entries": soundTable + "  # one\n  - {match: [b], unit: nano-usd/1M, call: 1}\n" + strings.Repeat("    # more\n\n  # and more\n", 20),
		"quotes":                   strings.NewReplacer("[a]", `["a", 'b*']`, "nano-usd/1M", `"nano-usd/1M"`).Replace(soundTable),
		"the same pattern with another tier, and another date": soundTable + "  - {match: [a], tier: flex, unit: nano-usd/1M, call: 1}\n  - {match: [a], from: 2026-01-01, unit: nano-usd/1M, call: 1}\n",
	} {
		if _, err := ParsePrices("p.yaml", []byte(src)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParsePrices(f *testing.F) {
	example, err := os.ReadFile("prices.example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example, "amazon.nova-invented-v1:0")
	f.Add([]byte(soundTable), "a")
	f.Add([]byte("version: 1\nunknown: {unit: nano-usd/1M, call: 5}\nmodels: [{match: ['*']}]"), "")
	f.Fuzz(func(t *testing.T, src []byte, model string) {
		p, err := ParsePrices("p.yaml", src)
		if (p == nil) == (err == nil) {
			t.Fatalf("a table %v and an error %v", p, err)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "p.yaml:") {
				t.Errorf("%q does not begin with the name of the table", err)
			}
			return
		}
		c, err := p.Cost(model, tierDefault, day(t, "2026-01-01"), Usage{InputTokens: 1000, Images: 3})
		if c.NanoUSD < 0 || c.Tokens < 0 || err != nil && c != (Cost{}) {
			t.Errorf("%+v, %v", c, err)
		}
	})
}
