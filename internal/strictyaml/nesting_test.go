package strictyaml_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/lexer"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// depthMax is how deep a file may nest.
const depthMax = 9

// sample is a text, what it holds, and how deep it nests.
type sample struct {
	src   string
	want  any
	depth int
}

// anySample draws a file as people write them: blocks and brackets, comments anywhere, texts of several lines that look like
// YAML, and steps of any width.
func anySample() *rapid.Generator[sample] {
	return rapid.Custom(func(t *rapid.T) sample {
		w := &writer{t: t}
		depth := rapid.IntRange(1, depthMax+3).Draw(t, "depth")
		want := w.block(depth, 0, w.pick(2, "list") == 0)
		return sample{src: w.String(), want: want, depth: depth}
	})
}

type writer struct {
	strings.Builder
	t       *rapid.T
	literal bool // a text has just ended that an indented comment would be taken for a part of
}

func (w *writer) pick(n int, what string) int { return rapid.IntRange(0, n-1).Draw(w.t, what) }

// remarks may write comments and empty lines above a line of this indentation.
func (w *writer) remarks(indent int) {
	for range max(0, w.pick(6, "remarks")-3) {
		at := []int{0, indent, indent + 3}[w.pick(3, "at")]
		if w.literal {
			at = 0
		}
		w.WriteString(strings.Repeat(" ", at) + "# remark: [\n")
	}
	w.literal = false
}

// block writes a list or mapping of exactly this depth whose first line has been indented already, and returns what it holds.
func (w *writer) block(depth, indent int, isList bool) any {
	children := 1 + w.pick(3, "children")
	deepest := w.pick(children, "deepest")
	list, pairs := []any{}, make(map[string]any)
	for i := range children {
		inner := 0
		if i == deepest {
			inner = depth - 1
		} else if depth > 1 {
			inner = w.pick(min(3, depth), "inner")
		}
		if i > 0 {
			w.remarks(indent)
			w.WriteString(strings.Repeat(" ", indent))
		}
		if isList {
			w.WriteString("-")
			list = append(list, w.value(inner, indent, true))
			continue
		}
		key := fmt.Sprintf("k%d", i)
		w.WriteString([]string{key, `"` + key + `"`, key + " "}[w.pick(3, "key")] + ":")
		pairs[key] = w.value(inner, indent, false)
	}
	if isList {
		return list
	}
	return pairs
}

// value writes what stands behind a dash or a colon, and the end of its line.
func (w *writer) value(depth, indent int, item bool) any {
	if depth == 0 {
		return w.scalar(indent)
	}
	if w.pick(4, "flow") == 0 {
		w.WriteString(" ")
		v := w.flow(depth)
		w.WriteString([]string{"\n", " # }\n"}[w.pick(2, "end")])
		return v
	}
	isList := w.pick(2, "list") == 0
	if item && w.pick(2, "compact") == 0 {
		step := 1 + w.pick(3, "step")
		w.WriteString(strings.Repeat(" ", step))
		return w.block(depth, indent+1+step, isList)
	}
	step := 1 + w.pick(4, "step")
	if isList && !item && w.pick(2, "below") == 0 {
		step = 0 // the dashes of a key's list may stand right below it
	}
	w.WriteString([]string{"\n", " # -\n"}[w.pick(2, "end")])
	w.remarks(indent + step)
	w.WriteString(strings.Repeat(" ", indent+step))
	return w.block(depth, indent+step, isList)
}

func (w *writer) scalar(indent int) string {
	pad := strings.Repeat(" ", indent+2)
	switch w.pick(6, "scalar") {
	case 0:
		w.WriteString(" |-\n" + pad + "a:\n" + pad + " - b\n" + pad + "  - c: d\n")
		w.literal = true
		return "a:\n - b\n  - c: d"
	case 1:
		w.WriteString(" \"a\n" + pad + "b: c\n" + pad + "  - d\"\n")
		return "a b: c - d"
	case 2:
		w.WriteString(" a b # c: d\n")
		return "a b"
	case 3:
		w.WriteString(" '- a: ['\n")
		return "- a: ["
	case 4:
		w.WriteString(" a\n" + pad + "- b\n")
		w.literal = true // not by YAML's own rules, but the parser takes an indented comment below for more of it
		return "a - b"
	}
	w.WriteString(" 5\n")
	return "5"
}

// flow writes brackets of exactly this depth.
func (w *writer) flow(depth int) any {
	inner := func() any {
		if depth > 1 {
			return w.flow(depth - 1)
		}
		w.WriteString("a")
		return "a"
	}
	if w.pick(2, "list") == 0 {
		w.WriteString("[b, ")
		list := []any{"b", inner(), "c"}
		w.WriteString(", 'c']")
		return list
	}
	w.WriteString("{k0: b, \"k1\": ")
	pairs := map[string]any{"k0": "b", "k1": inner(), "k2": "c"}
	w.WriteString(", k2: c}")
	return pairs
}

// check tells whether a reader takes a sample for what it is, and refuses it only if it is too deep.
func check(s sample, reader func([]byte) (any, error)) error {
	got, err := reader([]byte(s.src))
	switch {
	case s.depth > depthMax && (err == nil || !strings.Contains(err.Error(), "nests too deep")):
		return fmt.Errorf("%d levels give %v\nin\n%s", s.depth, err, s.src)
	case s.depth > depthMax:
		return nil
	case err != nil:
		return fmt.Errorf("%d levels: %w\nin\n%s", s.depth, err, s.src)
	}
	if diff := cmp.Diff(s.want, got); diff != "" {
		return fmt.Errorf("(-want +got):\n%s\nin\n%s", diff, s.src)
	}
	return nil
}

func TestNesting(t *testing.T) {
	t.Parallel()
	samples := anySample()
	rapid.Check(t, func(t *rapid.T) {
		if err := check(samples.Draw(t, "sample"), read); err != nil {
			t.Fatal(err)
		}
	})
}

// TestNestingControl: readers that count depth by the lexer's indentation, or by brackets alone, must be caught by the samples.
func TestNestingControl(t *testing.T) {
	t.Parallel()
	broken := map[string]func(src []byte) (any, error){
		"the lexer's indentation": func(src []byte) (any, error) {
			for _, token := range lexer.Tokenize(string(src)) {
				if token.Position.IndentLevel >= depthMax {
					return nil, fmt.Errorf("nests too deep")
				}
			}
			return read(src)
		},
		"brackets": func(src []byte) (any, error) {
			if got, err := read(src); err == nil || strings.Count(string(src), "[")+strings.Count(string(src), "{") > depthMax {
				return got, err
			}
			return nil, nil
		},
	}
	for name, reader := range broken {
		caught := 0
		for seed := range 200 {
			if check(anySample().Example(seed), reader) != nil {
				caught++
			}
		}
		if caught < 5 {
			t.Errorf("%d of 200 samples catch a reader that goes by %s", caught, name)
		}
	}
}

// TestDeepest: what would take the parser hours or its stack is refused before it sees it, whatever it is made of.
func TestDeepest(t *testing.T) {
	t.Parallel()
	const many = 10_000
	var steps strings.Builder
	for i := range 200 {
		steps.WriteString(strings.Repeat(" ", i) + "a: |\n" + strings.Repeat(" ", i+1) + "b\n" + strings.Repeat(" ", i) + "c:\n")
	}
	for name, src := range map[string]string{
		"brackets":             strings.Repeat("[", many),
		"braces":               strings.Repeat("{a: ", many),
		"brackets with keys":   strings.Repeat("[a: ", many),
		"dashes":               strings.Repeat("- ", many),
		"dashes in brackets":   "[" + strings.Repeat("- ", many),
		"dashes and comments":  "[" + strings.Repeat("- #\n", many),
		"dashes and brackets":  strings.Repeat("- [", many),
		"keys in a line":       strings.Repeat("a: ", many),
		"colons":               strings.Repeat(": ", many),
		"blocks between texts": steps.String(),
	} {
		if _, err := read([]byte(src)); err == nil || !strings.Contains(err.Error(), "nests too deep") {
			t.Errorf("%s: got %.200v", name, err)
		}
	}
}
