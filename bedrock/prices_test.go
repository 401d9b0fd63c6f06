package bedrock

import (
	"errors"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// priced makes a table with these entries.
func priced(t *testing.T, unknown, models string) *Prices {
	t.Helper()
	p, err := ParsePrices("prices.yaml", []byte("version: 1\nunknown: "+unknown+"\nmodels:\n"+models))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func day(t *testing.T, date string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestCost(t *testing.T) {
	t.Parallel()
	p := priced(t, "{unit: nano-usd/1M, input: 7_000_000, output: 8_000_000}", `
  - {match: ["all"], unit: nano-usd/1M, input: 1_000_000, output: 10_000_000, cache_read: 100_000_000, cache_write: 1_000_000_000, cache_write_1h: 10_000_000_000, text_unit: 100_000, image: 1_000_000, call: 10_000_000, burndown: {input: 2, output: 5, cache_read: 7, cache_write: 11}}
  - {match: ["defaults"], unit: nano-usd/1M, input: 3, output: 5}
  - {match: ["writes"], unit: nano-usd/1M, input: 1_000_000, output: 0, cache_write: 2_000_000}
  - {match: ["video"], unit: nano-usd/1M, call: 44}
  - {match: ["dear"], unit: nano-usd/1M, input: 1_000_000_000_000_000, output: 1_000_000_000_000_000, image: 1_000_000_000_000_000, burndown: {input: 1000}}
`)
	one := Usage{InputTokens: 1, OutputTokens: 1, CacheReadTokens: 1, CacheWriteTokens: 1, CacheWrite1hTokens: 1, TextUnits: 1, Images: 1}
	for _, c := range []struct {
		name, model string
		usage       Usage
		want        Cost
		micros      int64
		fault       string
	}{
		{"one of each", "all", one, Cost{1 + 10 + 100 + 1_000 + 10_000 + 100_000 + 1_000_000 + 10_000_000, 2 + 5 + 7 + 11 + 11, true}, 11_112, ""},
		{"nothing but the call", "all", Usage{}, Cost{10_000_000, 0, true}, 10_000, ""},
		{"rounded up once, not for each", "defaults", Usage{InputTokens: 1, OutputTokens: 1}, Cost{1, 2, true}, 1, ""},
		{"caches are input if they have no price", "defaults", Usage{CacheReadTokens: 1_000_000, CacheWriteTokens: 1_000_000, CacheWrite1hTokens: 1_000_000}, Cost{9, 2_000_000, true}, 1, ""},
		{"an hour is as other writes if it has none", "writes", Usage{CacheWriteTokens: 1, CacheWrite1hTokens: 1}, Cost{4, 2, true}, 1, ""},
		{"exactly", "defaults", Usage{InputTokens: 1_000_000}, Cost{3, 1_000_000, true}, 1, ""},
		{"one more", "defaults", Usage{InputTokens: 1_000_001}, Cost{4, 1_000_001, true}, 1, ""},
		{"free", "defaults", Usage{}, Cost{0, 0, true}, 0, ""},
		{"by the call", "video", Usage{InputTokens: 100, Images: 3}, Cost{44, 100, true}, 1, ""},
		{"unknown", "other", Usage{InputTokens: 1, OutputTokens: 1}, Cost{15, 2, false}, 1, ""},
		{"the most", "dear", Usage{InputTokens: 1_000_000}, Cost{1e15, 1e9, true}, 1e12, ""},
		{"more than that", "dear", Usage{InputTokens: 1_000_001}, Cost{}, 0, "nano-dollars"},
		{"far more than that", "dear", Usage{InputTokens: 1e15, OutputTokens: 1e15, CacheReadTokens: 1e15, Images: 1e15}, Cost{}, 0, "nano-dollars"},
		{"too many tokens", "defaults", Usage{InputTokens: 1e15, OutputTokens: 1}, Cost{}, 0, "weighted tokens"},
		{"negative", "all", Usage{OutputTokens: -1}, Cost{}, 0, "a count of -1"},
		{"not a count", "all", Usage{OutputTokens: math.MaxInt64}, Cost{}, 0, "a count of 9223372036854775807"},
	} {
		got, err := p.Cost(c.model, "default", day(t, "2026-01-01"), c.usage)
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %+v, %v; want an error with %q", c.name, got, err, c.fault)
			}
			continue
		}
		if err != nil || got != c.want || got.Micros() != c.micros {
			t.Errorf("%s: %+v, %d micros, %v; want %+v, %d", c.name, got, got.Micros(), err, c.want, c.micros)
		}
	}
}

func TestUnknownModelIsDenied(t *testing.T) {
	t.Parallel()
	p := priced(t, "deny", `
  - {match: ["a*"], tier: default, unit: nano-usd/1M, call: 1}
  - {match: ["b*"], from: 2026-05-01, unit: nano-usd/1M, call: 1}
`)
	for _, c := range [][3]string{{"x", "default", "2026-06-01"}, {"a", "flex", "2026-06-01"}, {"b", "default", "2026-04-30"}, {"", "default", "2026-06-01"}} {
		_, err := p.Cost(c[0], c[1], day(t, c[2]), Usage{})
		unknown, ok := errors.AsType[*UnknownModelError](err)
		if !ok || unknown.Model != c[0] || unknown.Tier != c[1] || unknown.Table != "prices.yaml" || !strings.Contains(err.Error(), "prices.yaml has no price for the model") {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestWhichEntryWins(t *testing.T) {
	t.Parallel()
	// The price of a call tells the entry. They stand in an order that says nothing.
	const models = `
  - {match: ["*"], unit: nano-usd/1M, call: 1}
  - {match: ["*.claude-*"], unit: nano-usd/1M, call: 2}
  - {match: ["anthropic.claude-*"], unit: nano-usd/1M, call: 3}
  - {match: ["anthropic.*-4-*"], from: 2026-01-01, unit: nano-usd/1M, call: 4}
  - {match: ["anthropic.claude-4-v1"], unit: nano-usd/1M, call: 5}
  - {match: ["anthropic.claude-4-v1*"], tier: flex, unit: nano-usd/1M, call: 6}
  - {match: ["anthropic.claude-4-v2"], unit: nano-usd/1M, call: 7}
  - {match: ["anthropic.claude-4-v2"], from: 2026-06-01, unit: nano-usd/1M, call: 8}
  - {match: ["anthropic.claude-4-v2"], from: 2026-03-01, unit: nano-usd/1M, call: 9}
  - {match: ["anthropic.claude-4-v2"], tier: flex, unit: nano-usd/1M, call: 10}
  - {match: ["arn:aws:bedrock:*:*:inference-profile/*anthropic.claude-*"], unit: nano-usd/1M, call: 11}
`
	p := priced(t, "deny", models)
	for _, c := range []struct {
		model, tier, at string
		call            int64
	}{
		{"meta.llama", "default", "2026-01-01", 1},
		{"us.claude-x", "default", "2026-01-01", 2},
		{"anthropic.claude-x", "default", "2026-01-01", 3},
		{"anthropic.opus-4-x", "default", "2026-01-01", 4},
		{"anthropic.opus-4-x", "default", "2025-12-31", 1}, // not yet
		{"anthropic.claude-4-v1", "default", "2026-01-01", 5},
		{"anthropic.claude-4-v1", "flex", "2026-01-01", 5},   // no * goes before one that names the tier
		{"anthropic.claude-4-v1:0", "flex", "2026-01-01", 6}, // the longest
		{"anthropic.claude-4-v1:0", "default", "2026-01-01", 3},
		{"anthropic.claude-4-v2", "default", "2026-02-28", 7},
		{"anthropic.claude-4-v2", "default", "2026-03-01", 9},
		{"anthropic.claude-4-v2", "default", "2026-05-31", 9},
		{"anthropic.claude-4-v2", "default", "2027-01-01", 8},
		{"anthropic.claude-4-v2", "flex", "2027-01-01", 10},
		{"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-4-v2", "default", "2027-01-01", 11},
	} {
		got, err := p.Cost(c.model, c.tier, day(t, c.at), Usage{})
		if err != nil || got.NanoUSD != c.call || !got.Known {
			t.Errorf("%s, %s, %s: %+v, %v; want %d", c.model, c.tier, c.at, got, err, c.call)
		}
	}
}

// costOf reckons with numbers of any size.
func costOf(r rates, u Usage, each bool) (nanos, tokens *big.Int) {
	nanos, tokens = new(big.Int), new(big.Int)
	million := big.NewInt(1e6)
	up := func(n *big.Int) *big.Int {
		q, rest := new(big.Int).DivMod(n, million, new(big.Int))
		if rest.Sign() > 0 {
			q.Add(q, big.NewInt(1))
		}
		return q
	}
	sum := new(big.Int)
	for _, c := range [][3]int64{
		{u.InputTokens, r.input, r.burndown.input},
		{u.OutputTokens, r.output, r.burndown.output},
		{u.CacheReadTokens, r.cacheRead, r.burndown.cacheRead},
		{u.CacheWriteTokens, r.cacheWrite, r.burndown.cacheWrite},
		{u.CacheWrite1hTokens, r.cacheWrite1h, r.burndown.cacheWrite},
	} {
		product := new(big.Int).Mul(big.NewInt(c[0]), big.NewInt(c[1]))
		if each {
			nanos.Add(nanos, up(product))
		} else {
			sum.Add(sum, product)
		}
		tokens.Add(tokens, new(big.Int).Mul(big.NewInt(c[0]), big.NewInt(c[2])))
	}
	nanos.Add(nanos, up(sum))
	for _, c := range [][2]int64{{u.TextUnits, r.textUnit}, {u.Images, r.image}, {1, r.call}} {
		nanos.Add(nanos, new(big.Int).Mul(big.NewInt(c[0]), big.NewInt(c[1])))
	}
	return nanos, tokens
}

func TestCostIsExact(t *testing.T) {
	t.Parallel()
	caught, fine, beyond := 0, 0, 0
	exact := func(t *rapid.T) {
		// Of all magnitudes, so that what is too much and what is hardly anything both come up.
		amount := rapid.Custom(func(t *rapid.T) int64 {
			n := int64(1)
			for range rapid.IntRange(0, 15).Draw(t, "digits") {
				n *= 10
			}
			return rapid.Int64Range(0, n).Draw(t, "n")
		})
		weight := rapid.Int64Range(0, weightMax)
		r := rates{
			amount.Draw(t, "input"), amount.Draw(t, "output"), amount.Draw(t, "read"), amount.Draw(t, "write"), amount.Draw(t, "write1h"),
			amount.Draw(t, "unit"), amount.Draw(t, "image"), amount.Draw(t, "call"),
			weights{weight.Draw(t, "wi"), weight.Draw(t, "wo"), weight.Draw(t, "wr"), weight.Draw(t, "ww")},
		}
		u := Usage{
			InputTokens: amount.Draw(t, "in"), OutputTokens: amount.Draw(t, "out"), CacheReadTokens: amount.Draw(t, "cr"), CacheWriteTokens: amount.Draw(t, "cw"),
			CacheWrite1hTokens: amount.Draw(t, "cw1"), TextUnits: amount.Draw(t, "units"), Images: amount.Draw(t, "images"),
		}
		nanos, tokens := costOf(r, u, false)
		most := big.NewInt(priceMax)
		got, err := r.cost(u)
		if nanos.Cmp(most) > 0 || tokens.Cmp(most) > 0 {
			beyond++
			if err == nil {
				t.Fatalf("%+v of %+v is %+v; want an error, as it is %v and %v tokens", u, r, got, nanos, tokens)
			}
			return
		}
		fine++
		if err != nil || got.NanoUSD != nanos.Int64() || got.Tokens != tokens.Int64() {
			t.Fatalf("%+v of %+v is %+v, %v; want %v and %v tokens", u, r, got, err, nanos, tokens)
		}
		micros := new(big.Int).Div(new(big.Int).Add(nanos, big.NewInt(999)), big.NewInt(1000))
		if got.Micros() != micros.Int64() {
			t.Fatalf("%v nano-dollars are %d micros; want %v", nanos, got.Micros(), micros)
		}
		// The control rounds each product.
		if each, _ := costOf(r, u, true); each.Cmp(nanos) != 0 {
			caught++
		}
	}
	// One round of rapid may draw no sum of a kind; that two hundred do not is no chance.
	for round := 0; round == 0 || round < 200 && (caught == 0 || fine == 0 || beyond == 0); round++ {
		rapid.Check(t, exact)
	}
	if caught == 0 || fine == 0 || beyond == 0 {
		t.Errorf("control: of %d sums, and %d beyond bounds, %d tell one rounding from several", fine, beyond, caught)
	}
}

func TestCostAtTheBounds(t *testing.T) {
	t.Parallel()
	// All that can be given at once: 128 bits must hold it.
	r := rates{priceMax, priceMax, priceMax, priceMax, priceMax, priceMax, priceMax, priceMax, weights{weightMax, weightMax, weightMax, weightMax}}
	u := Usage{InputTokens: priceMax, OutputTokens: priceMax, CacheReadTokens: priceMax, CacheWriteTokens: priceMax, CacheWrite1hTokens: priceMax, TextUnits: priceMax, Images: priceMax}
	if c, err := r.cost(u); err == nil {
		t.Errorf("%+v; want an error", c)
	}
	r.textUnit, r.image, r.call = 0, 0, 0
	if c, err := r.cost(u); err == nil {
		t.Errorf("of tokens alone: %+v; want an error", c)
	}
}

// globRegexp is what a pattern means.
func globRegexp(pattern string) *regexp.Regexp {
	return regexp.MustCompile(`\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `(?s:.*)`) + `\z`)
}

func TestGlobMatch(t *testing.T) {
	t.Parallel()
	// The control takes what the first try says: it never has a * stand for more.
	hasty := func(pattern, text string) bool {
		parts := strings.Split(pattern, "*")
		if len(parts) == 1 {
			return pattern == text
		}
		for i, part := range parts {
			at := strings.Index(text, part)
			if at < 0 || i == 0 && at > 0 {
				return false
			}
			text = text[at+len(part):]
		}
		return text == "" || parts[len(parts)-1] == ""
	}
	caught, matches := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*:]{0,8}`).Draw(t, "pattern")
		text := rapid.StringMatching(`[ab:]{0,12}`).Draw(t, "text")
		want := globRegexp(pattern).MatchString(text)
		if got := globMatch(pattern, text); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, text, got, want)
		}
		if want {
			matches++
		}
		if hasty(pattern, text) != want {
			caught++
		}
	})
	if globMatch("*ab", "aab") != true || hasty("*ab", "abab") {
		t.Error("control: the hasty matcher is right about *ab and abab")
	}
	if matches == 0 {
		t.Error("nothing matched")
	}
	t.Logf("%d matches; the hasty matcher was caught %d times", matches, caught)
}

func TestGlobMatchTakesNoLonger(t *testing.T) {
	t.Parallel()
	pattern, text := strings.Repeat("*a", 1000)+"b", strings.Repeat("a", patternBytesMax)
	if globMatch(pattern, text) {
		t.Errorf("it matches")
	} // were it exponential, the test would not end
}

func TestExamplePrices(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("prices.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(src), "# THE PRICES IN THIS FILE ARE INVENTED.") {
		t.Error("it does not begin by saying that its prices are invented")
	}
	p, err := LoadPrices("prices.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	million := Usage{InputTokens: 1e6, OutputTokens: 1e6}
	for _, c := range []struct {
		model, tier string
		usage       Usage
		want        Cost
	}{
		{"anthropic.claude-invented-v1:0", "default", million, Cost{1_111_000_000 + 5_555_000_000, 6e6, true}},
		{"us.anthropic.claude-invented-v1:0", "flex", million, Cost{555_500_000 + 2_777_500_000, 6e6, true}},
		{"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-invented-v1:0", "default", Usage{CacheWrite1hTokens: 1e6}, Cost{2_222_000_000, 1e6, true}},
		{"amazon.nova-invented-v1:0", "flex", million, Cost{66_000_000 + 222_000_000, 2e6, true}},
		{"stability.sd3-invented", "default", Usage{}, Cost{44_000_000, 0, true}},
		{"guardrail/abc123", "default", Usage{TextUnits: 10, Images: 1}, Cost{1_230_000 + 456_000, 0, true}},
		{guardrailChecks, "default", Usage{TextUnits: 1}, Cost{123_000, 0, true}},
	} {
		if got, err := p.Cost(c.model, c.tier, day(t, "2026-06-01"), c.usage); err != nil || got != c.want {
			t.Errorf("%s, %s: %+v, %v; want %+v", c.model, c.tier, got, err, c.want)
		}
	}
	if _, err := p.Cost("anthropic.claude-other", "default", day(t, "2026-06-01"), million); err == nil {
		t.Error("a model that is not listed has a price")
	}
}

func TestLoadPrices(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := LoadPrices(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := LoadPrices(dir); err == nil {
		t.Error("a directory was read")
	}
	path := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(path, []byte(strings.Repeat("# filler\n", PricesBytesMax/9+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadPrices(path); err == nil || !strings.Contains(err.Error(), "too large: at most 1048576 bytes") || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that is too large: %v", err)
	}
}

func BenchmarkCost(b *testing.B) {
	p, err := LoadPrices("prices.example.yaml")
	if err != nil {
		b.Fatal(err)
	}
	at := time.Unix(1_800_000_000, 0)
	u := Usage{InputTokens: 1234, OutputTokens: 5678}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Cost("amazon.nova-invented-v1:0", "default", at, u); err != nil {
			b.Fatal(err)
		}
	}
}
