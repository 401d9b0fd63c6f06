package strictyaml

import "github.com/goccy/go-yaml/token"

// nestingMax is how deep a file may nest. Ours need five levels; the parser's cost grows with the square of the depth.
const nestingMax = 9

// nesting counts the lists and mappings that a token is inside of, before the parser sees them. The lexer's own level of indentation
// does not serve: it goes back by one where a line goes back by several, so that it grows with the length of a file.
type nesting struct {
	// blocks are where the lists and mappings begin that are told by their columns: twice the column, and one more for a list.
	// A dash below the first letter of its key is inside of the key's mapping all the same.
	blocks []int
	// flow is how many brackets and braces are open. Columns say nothing inside them.
	flow int
	// dashes is how many of them stand in a row inside brackets.
	dashes int
}

// depth takes the next token and returns how deep it stands. It is exact but for what stands in brackets without its own, such as
// [key: value], and for keys that are left out: those may be one level more.
func (n *nesting) depth(t *token.Token) int {
	if t.Type == token.CommentType || t.Position == nil {
		return len(n.blocks) + n.flow + n.dashes
	}
	if t.Type != token.SequenceEntryType {
		n.dashes = 0
	}
	switch t.Type {
	case token.SequenceStartType, token.MappingStartType:
		n.flow++
	case token.SequenceEndType, token.MappingEndType:
		n.flow = max(0, n.flow-1)
	case token.SequenceEntryType:
		if n.flow > 0 {
			n.dashes++
		}
	default:
	}
	switch {
	case n.flow > 0:
	case t.Type == token.SequenceEntryType:
		n.enter(2*t.Position.Column + 1)
	case t.NextType() == token.MappingValueType: // it is a key
		n.enter(2 * t.Position.Column)
	}
	return len(n.blocks) + n.flow + n.dashes
}

// enter leaves the blocks that are over at a place, and begins the one that is there or goes on with it.
func (n *nesting) enter(place int) {
	for len(n.blocks) > 0 && n.blocks[len(n.blocks)-1] >= place {
		n.blocks = n.blocks[:len(n.blocks)-1]
	}
	n.blocks = append(n.blocks, place)
}
