package auth_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
)

func bucket(name string) quota.Bucket { return quota.Bucket(name) }

func TestPattern(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ pattern, matches, not string }{
		{"acme", "acme", "acme/x acme-evil Acme acm acmee / /acme acme/"},
		{"acme/chat", "acme/chat", "acme acme/chat/x acme/chatter acme/cha acme//chat xacme/chat"},
		{"acme/*", "acme/x acme/y.z", "acme acme/x/y acme-evil acme-evil/x acme/ acme/* acme/.. acme/."},
		{"*/chat", "acme/chat x/chat", "chat x/y/chat acme/chat/x */chat"},
		{"acme/*/in", "acme/x/in", "acme/in acme/x/y/in acme/x/out acme//in"},
		{"*", "acme", "acme/x . .. * **"},
		{"acme/**", "acme/x acme/x/y/z", "acme acme-evil acme-evil/x acme/ acme//x acme/x/ acme/x/../y acme/x/*"},
		{"*/chat/**", "acme/chat/x acme/chat/x/y", "acme/chat chat/x x/y/chat/z"},
		{"**", "acme acme/x/y", " / a/ /a a//b ../a a/*"},
		{"", "", "a *"},
	} {
		for name := range strings.FieldsSeq(c.matches) {
			if !auth.Pattern(c.pattern).Matches(bucket(name)) || !auth.Pattern(c.pattern).Covers(name) {
				t.Errorf("%s does not match %s", c.pattern, name)
			}
		}
		for name := range strings.SplitSeq(c.not, " ") {
			if auth.Pattern(c.pattern).Matches(bucket(name)) {
				t.Errorf("%s matches %q", c.pattern, name)
			}
		}
	}
	for _, c := range []struct{ pattern, covers, not string }{
		{"acme/*", "acme/*", "acme */x * acme/*/* acme/** **"},
		{"acme/**", "acme/* acme/*/* acme/x/*", "*/x * acme acme/**"},
		{"*/x", "*/x a/x", "*/* */*/x"},
		{"**", "* */* a/*/b", "** a/** a*"},
		{"a/b", "a/b", "a/* */b"},
	} {
		for name := range strings.FieldsSeq(c.covers) {
			if !auth.Pattern(c.pattern).Covers(name) {
				t.Errorf("%s does not cover %s", c.pattern, name)
			}
		}
		for name := range strings.FieldsSeq(c.not) {
			if auth.Pattern(c.pattern).Covers(name) {
				t.Errorf("%s covers %s", c.pattern, name)
			}
		}
	}
}

func TestPatternCheck(t *testing.T) {
	t.Parallel()
	for _, good := range []auth.Pattern{"**", "*", "a", "a/**", "*/**", "a/*/**", "a/*/b", "a/b@c.d:e=f+g-h_i/**"} {
		if err := good.Check(); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []auth.Pattern{
		"", "/", "/**", "a**", "**a", "**/a", "a/**/b", "***", "a/***", "a*", "*a/**", "a/", "/a", "a//b", "a//**", "../**", "a/./**", "a b/**", "ä/**", "a\x00/**",
		"a/b/c/d/e/f/g/h/**", "a/b/c/d/e/f/g/h/i", auth.Pattern(strings.Repeat("a", 201)), auth.Pattern(strings.Repeat("a", 200) + "/**"),
	} {
		if bad.Check() == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
}

// oracle makes a regular expression of a pattern: another way to say which names it matches.
func oracle(p auth.Pattern) *regexp.Regexp {
	const segment = `[A-Za-z0-9._:@=+-]+`
	var parts []string
	for s := range strings.SplitSeq(string(p), "/") {
		switch s {
		case "**":
			s = segment + `(/` + segment + `)*`
		case "*":
			s = segment
		default:
			s = regexp.QuoteMeta(s)
		}
		parts = append(parts, s)
	}
	return regexp.MustCompile(`^` + strings.Join(parts, "/") + `\z`)
}

// disagrees tells whether a way to match differs from the oracle about a bucket, or matches what is none.
func disagrees(matches func(auth.Pattern, quota.Bucket) bool, p auth.Pattern, b quota.Bucket) bool {
	got := matches(p, b)
	if b.Check() != nil {
		return got && !oracle(p).MatchString(string(b)) // too long, perhaps; never outside
	}
	return got != oracle(p).MatchString(string(b))
}

// byPrefix is a broken way to match, as a policy is easily read: by the bytes before the star.
func byPrefix(p auth.Pattern, b quota.Bucket) bool {
	prefix, open := strings.CutSuffix(string(p), "**")
	return open && strings.HasPrefix(string(b), strings.TrimSuffix(prefix, "/")) || p.Matches(b)
}

// carelessly is another: a * is any text.
func carelessly(p auth.Pattern, b quota.Bucket) bool {
	return regexp.MustCompile(`^` + strings.ReplaceAll(regexp.QuoteMeta(string(p)), `\*`, `.*`) + `\z`).MatchString(string(b))
}

func anyName(stars bool) *rapid.Generator[string] {
	segments := []string{"a", "b", "ab", "a-b", "a.b", "A", "..a"}
	if stars {
		segments = append(segments, "*", "*", "*")
	}
	return rapid.Map(rapid.SliceOfN(rapid.SampledFrom(segments), 1, 4), func(s []string) string { return strings.Join(s, "/") })
}

func anyPattern() *rapid.Generator[auth.Pattern] {
	return rapid.Custom(func(t *rapid.T) auth.Pattern {
		name := anyName(true).Draw(t, "name")
		return auth.Pattern(rapid.SampledFrom([]string{name, name + "/**", "**"}).Draw(t, "pattern"))
	})
}

func TestPatternMatchesAsTheOracle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, name := anyPattern().Draw(t, "p"), anyName(false).Draw(t, "name")
		if disagrees(auth.Pattern.Matches, p, bucket(name)) {
			t.Fatalf("%s matches %s: %v", p, name, p.Matches(bucket(name)))
		}
	})
	for what, broken := range map[string]func(auth.Pattern, quota.Bucket) bool{"by prefix": byPrefix, "carelessly": carelessly} {
		caught := func(seed int) bool {
			return disagrees(broken, anyPattern().Example(seed), bucket(anyName(false).Example(seed+1)))
		}
		if !slices.ContainsFunc(upTo(3000), caught) {
			t.Errorf("control: who matches %s is not caught", what)
		}
	}
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// TestCovers: a pattern covers a declared name if, and only if, it matches every name that this one stands for. Names of three segments
// that neither speaks of stand in for all others.
func TestCovers(t *testing.T) {
	t.Parallel()
	segments := []string{"a", "b", "ab", "a-b", "a.b", "A", "..a", "other"}
	// matchesAll tells whether p matches every name that a declared name stands for.
	var matchesAll func(p auth.Pattern, declared string) bool
	matchesAll = func(p auth.Pattern, declared string) bool {
		if !strings.Contains(declared, "*") {
			return p.Matches(bucket(declared))
		}
		return !slices.ContainsFunc(segments, func(s string) bool { return !matchesAll(p, strings.Replace(declared, "*", s, 1)) })
	}
	rapid.Check(t, func(t *rapid.T) {
		p, declared := anyPattern().Draw(t, "p"), anyName(true).Draw(t, "declared")
		if strings.Count(declared, "*") > 2 {
			declared = "a/*"
		}
		if got, want := p.Covers(declared), matchesAll(p, declared); got != want {
			t.Fatalf("%s covers %s: %v, and matches all of it: %v", p, declared, got, want)
		}
	})
	// Control: who takes a declared name for a bucket's is caught.
	caught := func(seed int) bool {
		p, declared := anyPattern().Example(seed), anyName(true).Example(seed+1)
		return strings.Count(declared, "*") < 3 && carelessly(p, bucket(declared)) != matchesAll(p, declared)
	}
	if !slices.ContainsFunc(upTo(3000), caught) {
		t.Error("control: who lets a * match a * carelessly is not caught")
	}
}

// FuzzPatternMatches: no name outside of a pattern ever matches, whatever both are.
func FuzzPatternMatches(f *testing.F) {
	for _, seed := range [][2]string{
		{"acme/**", "acme-evil/x"},
		{"acme/*", "acme/"},
		{"**", "a//b"},
		{"*", "*"},
		{"a/*/b", "a/x/y/b"},
		{"a.b/*", "aXb/c"},
		{"acme/**", "acme/x/../../b"},
		{"a/b", "a/b\n"},
		{"a/**", "a/\x00"},
		{"a", "a/"},
		{"*/**", "/a"},
		{"acme/**", "acme"},
		{"*", "ä"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, b := auth.Pattern(pattern), bucket(name)
		if p.Check() != nil || b.Check() != nil {
			_, _ = p.Matches(b), p.Covers(name) // what is not checked is not matched either, or at least does no harm
			return
		}
		if disagrees(auth.Pattern.Matches, p, b) {
			t.Errorf("%s matches %s: %v", p, name, p.Matches(b))
		}
		if p.Matches(b) != p.Covers(name) {
			t.Errorf("%s matches %s: %v, and covers it: %v", p, name, p.Matches(b), p.Covers(name))
		}
	})
}
