package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// nestingMax is how deep a file may nest. Ours need three levels; the parser's cost grows with the square of the depth.
const nestingMax = 8

// file is one YAML file that is read strictly: a key or value that is not understood is a fault, and so is what YAML can do but
// nobody needs here (anchors, tags, several documents), as it would have to be understood to be counted on. Scalars are text as
// it stands: no word is taken for a truth value or a number on the way.
type file struct {
	name   string
	lines  []string
	faults Faults
}

// entry is one key of a mapping and what it maps to.
type entry struct {
	key  string
	at   *token.Token // of the key
	node ast.Node
}

// readFile returns the content of a file that is not larger than most bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // names the act and the path
	}
	defer f.Close() //nolint:errcheck // only read
	src, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(src)) > most {
		return nil, fmt.Errorf("%s is too large: at most %s", path, formatSize(most))
	}
	return src, nil
}

// lineEnds makes one of all that the parser takes for the end of a line.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// parseFile returns the top mapping of a YAML text; none of an empty one.
func parseFile(name string, src []byte) (*file, []entry) {
	text := lineEnds.Replace(strings.TrimPrefix(string(src), "\ufeff"))
	f := &file{name: name, lines: strings.Split(text, "\n")}
	if !utf8.ValidString(text) {
		for i, line := range f.lines {
			if !utf8.ValidString(line) {
				f.add(i+1, 1, len(line), "is not UTF-8 text")
				return f, nil
			}
		}
	}
	tree := f.tree(text)
	switch {
	case tree == nil:
		return f, nil
	case len(tree.Docs) == 0 || len(tree.Docs) == 1 && tree.Docs[0].Body == nil:
		return f, nil
	case len(tree.Docs) > 1:
		f.fault(tree.Docs[1].Start, "a second document begins; want one")
		return f, nil
	}
	return f, f.mapping(tree.Docs[0].Body, "the file")
}

// tree returns the text as YAML has it; nil if there is a fault. A panic of the parser is one too: a daemon reads its buckets file
// while it serves, and must outlive whatever stands there.
func (f *file) tree(text string) (tree *ast.File) {
	defer func() {
		if reason := recover(); reason != nil {
			f.add(0, 0, 0, fmt.Sprintf("cannot be read as YAML: %v", reason))
			tree = nil
		}
	}()
	tokens := lexer.Tokenize(text)
	if !f.checkTokens(tokens) {
		return nil
	}
	tree, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		f.syntax(err)
		return nil
	}
	return tree
}

// checkTokens tells whether the parser may see the text.
func (f *file) checkTokens(tokens token.Tokens) bool {
	flow, entries := 0, 0
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
		default:
		}
		if t.Type == token.SequenceEntryType {
			entries++
		} else {
			entries = 0
		}
		if t.Position != nil && (flow > nestingMax || entries > nestingMax || t.Position.IndentLevel > nestingMax) {
			f.fault(t, "nests too deep")
			return false
		}
	}
	return len(f.faults) == 0
}

func (f *file) syntax(err error) {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		f.fault(at.GetToken(), "%s", strings.ReplaceAll(at.GetMessage(), "'\t'", "tab"))
		return
	}
	f.add(0, 0, 0, err.Error())
}

// mapping returns the entries of a mapping. A key that stands twice is a fault, as only one of the two can be meant.
func (f *file) mapping(n ast.Node, what string) []entry {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		f.fault(n.GetToken(), "%s is %s; want \"key: value\" lines", what, kind(n))
		return nil
	}
	entries := make([]entry, 0, len(values))
	lines := make(map[string]int, len(values))
	for _, v := range values {
		at := v.Key.GetToken()
		e := entry{key: at.Value, at: at, node: v.Value}
		if line, twice := lines[e.key]; twice {
			f.fault(at, "%q stands in line %d already; keep one", e.key, line)
			continue
		}
		lines[e.key] = at.Position.Line
		entries = append(entries, e)
	}
	return entries
}

// items returns what a list holds.
func (f *file) items(e entry) []ast.Node {
	list, ok := e.node.(*ast.SequenceNode)
	if !ok {
		f.fault(e.tokenOf(), "%s is %s; want a list, such as %s: [...]", e.key, kind(e.node), e.key)
		return nil
	}
	return list.Values
}

// scalar returns a single value as its text.
func (f *file) scalar(e entry, n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.NullNode:
		f.fault(e.at, "%s has no value; give it one, or take the line away", e.key)
	default:
		f.fault(n.GetToken(), "%s is %s; want a single value", e.key, kind(n))
	}
	return "", false
}

func (e entry) tokenOf() *token.Token {
	if _, null := e.node.(*ast.NullNode); null || e.node == nil {
		return e.at
	}
	return e.node.GetToken()
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "empty"
	}
	return "a single value"
}

// fault notes that something is wrong at a token.
func (f *file) fault(t *token.Token, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if t == nil || t.Position == nil {
		f.add(0, 0, 0, text)
		return
	}
	width := utf8.RuneCountInString(t.Value)
	if t.Type == token.SingleQuoteType || t.Type == token.DoubleQuoteType {
		width += 2
	}
	f.add(t.Position.Line, t.Position.Column, width, text)
}

func (f *file) add(line, column, width int, text string) {
	fault := Fault{File: f.name, Line: line, Column: column, Width: width, Text: harmless(text)}
	if line > 0 && line <= len(f.lines) {
		fault.Source = f.lines[line-1]
	}
	f.faults = append(f.faults, fault)
}

// err returns what is wrong in the file as an error; nil if nothing is.
func (f *file) err() error {
	if len(f.faults) == 0 {
		return nil
	}
	return f.faults
}
