package strictyaml_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/strictyaml"
)

// TestScalarsAreText: no word turns into something else on the way, as "no" or 1_000 do in other readers of YAML.
func TestScalarsAreText(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"no", "0x10", "1_000", "1e3", ".5", "2026-11-22", "007", "true", "~x", "a b", "a#b", "'it''s'", `"\u00e4"`, "|-\n  a: b\n  # c"} {
		want, plain := text, false
		switch text {
		case "'it''s'":
			want = "it's"
		case `"\u00e4"`:
			want = "ä"
		case "|-\n  a: b\n  # c":
			want = "a: b\n# c"
		default:
			plain = true
		}
		f, top := strictyaml.Parse("x.yaml", []byte("key: "+text+"\n"))
		entries := f.Mapping(top, "the file")
		if err := f.Err(); err != nil || len(entries) != 1 {
			t.Errorf("%s: %v, %d entries", text, err, len(entries))
			continue
		}
		if got, ok := f.Scalar(entries[0], entries[0].Value); !ok || got != want || f.Err() != nil {
			t.Errorf("%s is read as %q", text, got)
		}
		if got := entries[0].Value.Plain(); got != plain {
			t.Errorf("%s: plain is %t", text, got)
		}
	}
}

// TestFaults: what a reader does not understand is said with its place.
func TestFaults(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		"a: &x 1":         "x:1:4: anchors, aliases and merges are not read; write the value out, in quotes if it begins with & or *\n    1 | a: &x 1\n      |    ^",
		"a: *x":           "x:1:4: anchors, aliases",
		"<<: {}":          "x:1:1: anchors, aliases",
		"a: !t 1":         "x:1:4: tags and directives are not read; write the value alone, in quotes if it begins with ! or %\n",
		"%YAML 1.2\n---":  "x:1:1: tags and directives",
		"? a\n: b":        "x:1:1: a key in the form \"? key\" is not read; want \"key: value\"\n",
		"a: 1\n---\na: 2": "x:2:1: a second document begins; want one\n",
		"a: [1":           "x:1:4: ",
		"a: 1\n\xff: 2":   "x:2:1: is not UTF-8 text\n",
		"- a":             "x:1:1: the file is a list; want \"key: value\" lines\n",
		"~":               "x:1:1: the file is empty; want \"key: value\" lines\n",
		"a: 1\na: 2":      "x:2:1: \"a\" stands in line 1 already; keep one\n    2 | a: 2\n      | ^",
		"a: {b: 1}":       "a is a mapping; want a single value",
		"a: [[b]]":        "x:1:5: a is a list; want a single value",
		"a:":              "x:1:1: a has no value; give it one, or take the line away",
		"a: [~]":          "x:1:1: a has no value",
	} {
		if _, err := readScalars([]byte(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v\nwant %s", src, err, want)
		}
	}
	f, top := strictyaml.Parse("x", []byte("a: 1\nb:\n"))
	for _, e := range f.Mapping(top, "the file") {
		if got := f.List(e); got != nil {
			t.Errorf("%s is a list of %d", e.Key, len(got))
		}
	}
	f.Fault(strictyaml.Place{Line: 2}, "is %s", "a line")
	f.Fault(strictyaml.Place{}, "is a file\x1b")
	const want = "x: is a file?\n" +
		"x:1:4: a is a single value; want a list, such as a: [...]\n    1 | a: 1\n      |    ^\n" +
		"x:2: is a line\n    2 | b:\n" +
		"x:2:1: b is empty; want a list, such as b: [...]\n    2 | b:\n      | ^"
	if diff := cmp.Diff(want, f.Err().Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// readScalars reads a mapping to scalars and lists of them.
func readScalars(src []byte) (texts []string, err error) {
	f, top := strictyaml.Parse("x", src)
	if f.Err() != nil {
		return nil, f.Err()
	}
	for _, e := range f.Mapping(top, "the file") {
		values := []strictyaml.Node{e.Value}
		if e.Value.Kind == strictyaml.List {
			values = e.Value.Items()
		}
		for _, v := range values {
			text, _ := f.Scalar(e, v)
			texts = append(texts, text)
		}
	}
	return texts, f.Err()
}

func TestNothing(t *testing.T) {
	t.Parallel()
	for _, src := range []string{"", "\n", "# nothing\n", "\ufeff", "---\n"} {
		if f, top := strictyaml.Parse("x", []byte(src)); top.Kind != strictyaml.Nothing || f.Err() != nil {
			t.Errorf("%q is %s, %v", src, top.Kind, f.Err())
		}
	}
}

// read returns all that a text holds, as maps, slices and strings.
func read(src []byte) (any, error) {
	f, top := strictyaml.Parse("x", src)
	if f.Err() != nil || top.Kind == strictyaml.Nothing {
		return nil, f.Err()
	}
	v := valueOf(f, strictyaml.Entry{Key: "the file"}, top)
	return v, f.Err()
}

func valueOf(f *strictyaml.File, e strictyaml.Entry, n strictyaml.Node) any {
	switch n.Kind {
	case strictyaml.Mapping:
		m := make(map[string]any)
		for _, inner := range f.Mapping(n, e.Key) {
			m[inner.Key] = valueOf(f, inner, inner.Value)
		}
		return m
	case strictyaml.List:
		list := []any{}
		for _, item := range n.Items() {
			list = append(list, valueOf(f, e, item))
		}
		return list
	}
	text, _ := f.Scalar(e, n)
	return text
}

// FuzzParse: no text makes the parser fall over or take long, and each fault points into the file.
func FuzzParse(f *testing.F) {
	for _, src := range []string{
		"a: [b, {c: 'd'}]\n# e\nf:\n- g: |\n    h\n  i: \"j\"\n", "a: &b 1\n", "\ufeffa:\r\n  - b\r", "? a\n: b\n", "---\na\n...\n---\n", ": : : a", "[- - a, [b]: c]: d", "\xff",
	} {
		f.Add([]byte(src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		_, err := read(src)
		if err == nil {
			return
		}
		faults, ok := err.(strictyaml.Faults)
		if !ok || len(faults) == 0 {
			t.Fatalf("error is a %T: %v", err, err)
		}
		lines := 1 + strings.Count(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(src)), "\n")
		for _, fault := range faults {
			if fault.Text == "" || fault.Line < 0 || fault.Line > lines || fault.Line > 0 && fault.Column < 1 {
				t.Errorf("fault %+v in a file of %d lines", fault, lines)
			}
			if text := fault.String(); strings.ContainsAny(text, "\x00\x1b\x7f") {
				t.Errorf("a terminal would obey %q", text)
			}
		}
	})
}
