package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Place is where something stands in a file. The zero Place is the file as a whole.
type Place struct {
	// Line counts from 1. 0: the file as a whole.
	Line int
	// Column counts the characters of the line from 1. 0: the line as a whole.
	Column int
	// Width is how many characters are meant. Less than 1 counts as 1.
	Width int
}

// Fault is one thing that is wrong in a file, and where.
type Fault struct {
	Place

	// File is the name of the file.
	File string
	// Source is the line, for people to see.
	Source string
	// Text is what was wrong and what would be right.
	Text string
}

// String returns the fault with its place, the line and a caret below what is wrong.
func (f Fault) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Text
	}
	number := fmt.Sprintf("%5d", f.Line)
	source, before := excerpt(f.Source, f.Column-1)
	if f.Column == 0 {
		return fmt.Sprintf("%s:%d: %s\n%s | %s", f.File, f.Line, f.Text, number, source)
	}
	var pad strings.Builder
	for _, r := range before {
		if r == '\t' {
			pad.WriteRune('\t') // as wide as the one above, whatever the terminal makes of it
		} else {
			pad.WriteRune(' ')
		}
	}
	width := max(1, min(f.Width, utf8.RuneCountInString(source)-utf8.RuneCountInString(before)))
	return fmt.Sprintf("%s:%d:%d: %s\n%s | %s\n%s | %s%s",
		f.File, f.Line, f.Column, f.Text, number, source, strings.Repeat(" ", len(number)), pad.String(), strings.Repeat("^", width))
}

// lineShown is how many characters of a line are shown at most.
const lineShown = 120

// excerpt returns the part of a line to show, and the part of that which stands before the character at.
func excerpt(line string, at int) (shown, before string) {
	runes := []rune(harmless(line))
	at = max(0, min(at, len(runes)))
	from := 0
	if at > lineShown*3/4 {
		from = at - lineShown/2
	}
	to := min(len(runes), from+lineShown)
	return string(runes[from:to]), string(runes[from:at])
}

// harmless replaces what a terminal would obey.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

// Faults is all that is wrong in a file. It is an error.
type Faults []Fault

// faultsShown is how many faults an error spells out.
const faultsShown = 10

// Error returns the faults one below the other, in the order of the file.
func (fs Faults) Error() string {
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b Fault) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	parts := make([]string, 0, faultsShown+1)
	for i, f := range fs {
		if i == faultsShown {
			parts = append(parts, fmt.Sprintf("%s: and %d more", f.File, len(fs)-i))
			break
		}
		parts = append(parts, f.String())
	}
	return strings.Join(parts, "\n")
}
