// Package strictyaml reads one YAML file strictly: what is not understood is a fault that says where it stands and what would be
// right, and so is what YAML can do but nobody needs here (anchors, tags, several documents), as it would have to be understood
// to be counted on. Scalars are text as it stands: no word is taken for a truth value or a number on the way.
package strictyaml

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// File is a file while it is read. It gathers the faults that Parse, its own methods and its reader find in it. Use it in one
// goroutine.
type File struct {
	name   string
	lines  []string
	faults Faults
}

// Kind is what a value is.
type Kind uint8

// The kinds of values.
const (
	Nothing Kind = iota // no value at all: of a file that is empty or has a fault
	Null                // a key or an item without a value, or null or ~
	Scalar              // a single value
	List
	Mapping
)

// String returns the kind as a fault says it.
func (k Kind) String() string {
	switch k {
	case Nothing:
		return "nothing"
	case Null:
		return "empty"
	case Scalar:
		return "a single value"
	case List:
		return "a list"
	case Mapping:
		return "a mapping"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Node is a value in a file. The zero Node is Nothing.
type Node struct {
	// At is where the value begins; of one that is left out, where its key or dash ends.
	At Place
	// Kind is what the value is.
	Kind Kind

	node ast.Node
}

// Entry is one key of a mapping and what it maps to.
type Entry struct {
	// Key is the key as text.
	Key string
	// At is where the key stands.
	At Place
	// Value is what the key maps to. It is not Nothing.
	Value Node
}

// lineEnds makes one of all that the parser takes for the end of a line.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// Parse reads a text and returns the one value in it: Nothing if the text is empty, or if it has a fault; File.Err then says which.
// name is what faults call the file. How large the text may be is for the caller to say.
func Parse(name string, src []byte) (*File, Node) {
	text := lineEnds.Replace(strings.TrimPrefix(string(src), "\ufeff"))
	f := &File{name: name, lines: strings.Split(text, "\n")}
	if !utf8.ValidString(text) {
		for i, line := range f.lines {
			if !utf8.ValidString(line) {
				f.Fault(Place{Line: i + 1, Column: 1, Width: len(line)}, "is not UTF-8 text")
				return f, Node{}
			}
		}
	}
	tree := f.tree(text)
	switch {
	case tree == nil || len(tree.Docs) == 0 || len(tree.Docs) == 1 && tree.Docs[0].Body == nil:
		return f, Node{}
	case len(tree.Docs) > 1:
		f.Fault(placeOf(tree.Docs[1].Start), "a second document begins; want one")
		return f, Node{}
	}
	return f, nodeOf(tree.Docs[0].Body)
}

// tree returns the text as YAML has it; nil if there is a fault. A panic of the parser is one too: a daemon reads its buckets file
// while it serves, and must outlive whatever stands there.
func (f *File) tree(text string) (tree *ast.File) {
	defer func() {
		if reason := recover(); reason != nil {
			f.Fault(Place{}, "cannot be read as YAML: %v", reason)
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
func (f *File) checkTokens(tokens token.Tokens) bool {
	var n nesting
	for _, t := range tokens {
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			f.Fault(placeOf(t), "anchors, aliases and merges are not read; write the value out, in quotes if it begins with & or *")
		case token.TagType, token.DirectiveType:
			f.Fault(placeOf(t), "tags and directives are not read; write the value alone, in quotes if it begins with ! or %%")
		case token.MappingKeyType:
			f.Fault(placeOf(t), "a key in the form \"? key\" is not read; want \"key: value\"")
		default:
		}
		if n.depth(t) > nestingMax {
			f.Fault(placeOf(t), "nests too deep")
			return false
		}
	}
	return len(f.faults) == 0
}

func (f *File) syntax(err error) {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		f.Fault(placeOf(at.GetToken()), "%s", strings.ReplaceAll(at.GetMessage(), "'\t'", "tab"))
		return
	}
	f.Fault(Place{}, "%s", err.Error())
}

// Mapping returns the entries of a mapping in the order of the file. Anything else is a fault, in which what says whose value it
// is; so is a key that stands twice, as only one of the two can be meant: the first is returned.
func (f *File) Mapping(n Node, what string) []Entry {
	var values []*ast.MappingValueNode
	switch m := n.node.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		f.Fault(n.At, "%s is %s; want \"key: value\" lines", what, n.Kind)
		return nil
	}
	entries := make([]Entry, 0, len(values))
	lines := make(map[string]int, len(values))
	for _, v := range values {
		key := v.Key.GetToken()
		e := Entry{Key: key.Value, At: placeOf(key), Value: nodeOf(v.Value)}
		if line, twice := lines[e.Key]; twice {
			f.Fault(e.At, "%q stands in line %d already; keep one", e.Key, line)
			continue
		}
		lines[e.Key] = e.At.Line
		entries = append(entries, e)
	}
	return entries
}

// List returns the items of the list that an entry's value is. Anything else is a fault.
func (f *File) List(e Entry) []Node {
	if e.Value.Kind != List {
		at := e.Value.At
		if e.Value.Kind == Null {
			at = e.At
		}
		f.Fault(at, "%s is %s; want a list, such as %s: [...]", e.Key, e.Value.Kind, e.Key)
	}
	return e.Value.Items()
}

// Scalar returns the text of a single value: of an entry, or of an item of the list that an entry has. Anything else is a fault.
func (f *File) Scalar(e Entry, n Node) (string, bool) {
	if n.Kind == Null {
		f.Fault(e.At, "%s has no value; give it one, or take the line away", e.Key)
		return "", false
	}
	switch s := n.node.(type) {
	case *ast.LiteralNode:
		return s.Value.Value, true
	case *ast.StringNode:
		return s.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return s.GetToken().Value, true
	}
	f.Fault(n.At, "%s is %s; want a single value", e.Key, n.Kind)
	return "", false
}

// Fault notes that something is wrong at a place; the zero Place is the file as a whole. The text says what was wrong and what would
// be right.
func (f *File) Fault(at Place, format string, args ...any) {
	fault := Fault{File: f.name, Place: at, Text: harmless(fmt.Sprintf(format, args...))}
	if at.Line > 0 && at.Line <= len(f.lines) {
		fault.Source = f.lines[at.Line-1]
	}
	f.faults = append(f.faults, fault)
}

// Err returns what is wrong in the file as an error of type Faults; nil if nothing is.
func (f *File) Err() error {
	if len(f.faults) == 0 {
		return nil
	}
	return f.faults
}

// Items returns what a list holds; nothing of any other kind.
func (n Node) Items() []Node {
	list, ok := n.node.(*ast.SequenceNode)
	if !ok {
		return nil
	}
	items := make([]Node, len(list.Values))
	for i, v := range list.Values {
		items[i] = nodeOf(v)
	}
	return items
}

// Plain tells that a value is a scalar without quotes, and in its line: not a block of text.
func (n Node) Plain() bool {
	if _, block := n.node.(*ast.LiteralNode); block || n.Kind != Scalar {
		return false
	}
	t := n.node.GetToken().Type
	return t != token.SingleQuoteType && t != token.DoubleQuoteType
}

func nodeOf(n ast.Node) Node {
	var kind Kind
	switch n.(type) {
	case nil:
		return Node{Kind: Null}
	case *ast.NullNode:
		kind = Null
	case *ast.SequenceNode:
		kind = List
	case *ast.MappingNode, *ast.MappingValueNode:
		kind = Mapping
	default:
		kind = Scalar
	}
	return Node{At: placeOf(n.GetToken()), Kind: kind, node: n}
}

// placeOf returns where a token stands. One that the parser has made up stands nowhere.
func placeOf(t *token.Token) Place {
	if t == nil || t.Position == nil {
		return Place{}
	}
	width := utf8.RuneCountInString(t.Value)
	if t.Type == token.SingleQuoteType || t.Type == token.DoubleQuoteType {
		width += 2
	}
	return Place{Line: t.Position.Line, Column: t.Position.Column, Width: width}
}
