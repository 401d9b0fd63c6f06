package quota_test

import (
	"strings"
	"testing"

	"github.com/quotad/quotad/internal/quota"
)

// nastyNames says of each name whether it is a bucket's (b), a pattern's alone (p), or nothing at all.
var nastyNames = map[string]string{
	"a": "b", "A": "b", "7": "b", "-": "b", "_": "b", ":": "b", "@": "b", "=": "b", "+": "b", "...": "b", ".a": "b", "a.": "b",
	"..a": "b", "a..": "b", "a/b": "b", "a/b/c/d/e/f/g/h": "b", "-rf": "b", "--help": "b", "0": "b", "default": "b", "off": "b",
	"acme/alice@example.com": "b", "CON": "b", "null": "b", "a=b": "b", "a+b": "b", "_/_": "b", "1/2/3": "b", "a/A": "b",
	"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-sonnet-20241022-v2:0": "b",
	strings.Repeat("a", 200):              "b",
	strings.Repeat("a", 198) + "/b":       "b",
	strings.Repeat("a/", 7) + "a":         "b",
	strings.Repeat("abcdefghijklmno/", 7): "", // ends with a slash

	"*": "p", "*/a": "p", "a/*": "p", "*/*": "p", "a/*/c": "p", "*/*/*/*/*/*/*/*": "p", "a.b/*": "p",
	strings.Repeat("a", 198) + "/*": "p",

	"": "", "/": "", "//": "", "/a": "", "a/": "", "a//b": "", ".": "", "..": "", "./a": "", "a/.": "", "a/..": "", "../a": "", "a/../b": "",
	"a/./b": "", "a/b/": "", "//a": "", "a/ /b": "", " ": "", " a": "", "a ": "", "a b": "", "\t": "", "\n": "", "a\n": "", "a\r\nb": "",
	"\x00": "", "a\x00": "", "a\x00b": "", "\x7f": "", "\x1b[31m": "", "\xff": "", "\xc3\x28": "", "a\xe2\x80": "", "é": "", "a/é": "",
	"\uff41": "", "\u0430": "", "日本": "", "😀": "", "a\u200bb": "", "a\u202eb": "", "\ufeffa": "", "a\u00a0b": "", "e\u0301": "", "\u017f": "", "\u212a": "",
	"a\\b": "", "C:\\": "", "a%2fb": "", "a?b": "", "a#b": "", "a&b": "", "a;b": "", "a,b": "", "a|b": "", "a'b": "", `a"b`: "", "a`b": "",
	"a$b": "", "$(a)": "", "a!b": "", "a^b": "", "a~b": "", "~": "", "(a)": "", "[a]": "", "{a}": "", "a<b": "", "a>b": "",
	"**": "", "a*": "", "*a": "", "a/b*": "", "a/**": "", "**/a": "", "a*b": "", "a/*b/c": "", "*/": "", "/*": "", "*//*": "", "* ": "", "*/..": "",
	strings.Repeat("a", 201):                      "",
	strings.Repeat("a/", 8) + "a":                 "",
	strings.Repeat("*/", 8) + "*":                 "",
	strings.Repeat("a", 199) + "/*":               "",
	strings.Repeat("/", 200):                      "",
	strings.Repeat("é", 100):                      "",
	strings.Repeat("a", 1<<20):                    "",
	strings.Repeat("a", 199) + "é":                "",
	"a/b/c/d/e/f/g/h/":                            "",
	"a/b/c/d/e/f/g/h/i":                           "",
	strings.Repeat("abcdefghijklmnopqrstuvw/", 9): "",
}

func TestNames(t *testing.T) {
	t.Parallel()
	if len(nastyNames) < 120 {
		t.Errorf("%d names, want 120", len(nastyNames))
	}
	for name, kind := range nastyNames {
		if err := quota.Bucket(name).Check(); (err == nil) != (kind == "b") {
			t.Errorf("bucket %.60q: %v, want it %q", name, err, kind)
		}
		err := quota.CheckPattern(name)
		if (err == nil) != (kind != "") {
			t.Errorf("declaration %.60q: %v, want it %q", name, err, kind)
		}
		if kind != "" && quota.IsPattern(name) != (kind == "p") {
			t.Errorf("%.60q is a pattern: %v, want %q", name, quota.IsPattern(name), kind)
		}
		if err != nil && (len(err.Error()) > 1_200 || !strings.Contains(err.Error(), "a name is 1 to 200 bytes")) {
			t.Errorf("%.60q: the error has %d bytes: %.200v", name, len(err.Error()), err)
		}
	}
}

func TestNameErrors(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"":      "is empty; a name",
		"a//b":  `"a//b": an empty segment; a name`,
		"a/../": `"a/../": a segment ".."; a name`,
		"a b":   `"a b": ' ' is not allowed; a name`,
		"aéb":   `"aéb": 'é' is not allowed; a name`,
		"a*":    `"a*": * stands for a whole segment, never for a part of one; a name`,

		strings.Repeat("a", 201):      "has 201 bytes; a name",
		strings.Repeat("a/", 8) + "a": `"a/a/a/a/a/a/a/a/a" has 9 segments; a name`,
	} {
		if err := quota.CheckPattern(name); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", name, err, want)
		}
	}
	if err := quota.Bucket("a/*").Check(); err == nil || !strings.HasPrefix(err.Error(), `"a/*": '*' is not allowed`) {
		t.Errorf("a pattern as a bucket: %v", err)
	}
}

func TestParentsAndWithin(t *testing.T) {
	t.Parallel()
	for b, want := range map[quota.Bucket]quota.Bucket{"a": "", "a/b": "a", "a/b/c": "a/b", "": ""} {
		if got := b.Parent(); got != want {
			t.Errorf("the parent of %q is %q, want %q", b, got, want)
		}
	}
	for _, c := range []struct {
		b, prefix quota.Bucket
		want      bool
	}{
		{"a", "", true},
		{"", "", true},
		{"a", "a", true},
		{"a/b", "a", true},
		{"a/b/c", "a/b", true},
		{"ab", "a", false},
		{"a", "a/b", false},
		{"b/a", "a", false},
		{"A/b", "a", false},
	} {
		if got := c.b.Within(c.prefix); got != c.want {
			t.Errorf("%q within %q: %v, want %v", c.b, c.prefix, got, c.want)
		}
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for unit, want := range map[quota.Unit]bool{
		"calls": true, "a": true, "a1": true, "a_": true, "usd_micros": true, quota.Unit(strings.Repeat("a", 64)): true,
		"": false, "1": false, "_": false, "_a": false, "1a": false, "A": false, "aB": false, "a-b": false, "a.b": false, "a b": false,
		"a/b": false, "é": false, "a\x00": false, " a": false, "a\n": false, "*": false, quota.Unit(strings.Repeat("a", 65)): false,
	} {
		if err := unit.Check(); (err == nil) != want {
			t.Errorf("unit %q: %v, want it accepted: %v", unit, err, want)
		}
	}
}
