package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// emit prints an answer in the form that --output asks for; table prints it for people, nil prints nothing.
func (a *app) emit(m proto.Message, table func(io.Writer)) error {
	if a.output == "table" {
		if table != nil {
			table(a.stdout)
		}
		return nil
	}
	text, err := messageJSON(m)
	if err != nil {
		return err
	}
	return a.emitJSON(text, "  ")
}

// field is a text that an answer does not have and is printed with, such as an id that quotactl made.
type field struct{ name, value string }

// emitWith prints an answer as emit does, with more fields before its own.
func (a *app) emitWith(m proto.Message, more []field, table func(io.Writer)) error {
	if a.output == "table" {
		return a.emit(m, table)
	}
	text, err := messageJSON(m)
	if err != nil {
		return err
	}
	var s strings.Builder
	for _, f := range more {
		value, err := json.Marshal(f.value)
		if err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
		fmt.Fprintf(&s, "%q:%s,", f.name, value)
	}
	return a.emitJSON([]byte("{"+s.String()+string(text[1:])), "  ") // an answer is never without fields of its own
}

// emitLine prints one of many answers: a line of JSON, or a document of YAML.
func (a *app) emitLine(m proto.Message) error {
	text, err := messageJSON(m)
	if err != nil {
		return err
	}
	if a.output == "yaml" {
		fmt.Fprintln(a.stdout, "---")
	}
	return a.emitJSON(text, "")
}

// emitJSON prints JSON as it is asked for, indented unless it is to be one line.
func (a *app) emitJSON(text []byte, indent string) error {
	if a.output == "yaml" {
		out, err := yaml.JSONToYAML(text)
		if err != nil {
			return fmt.Errorf("writing YAML: %w", err)
		}
		_, err = a.stdout.Write(out)
		return err
	}
	var out bytes.Buffer
	layOut := json.Compact // protojson varies its blanks on purpose
	if indent != "" {
		layOut = func(out *bytes.Buffer, text []byte) error { return json.Indent(out, text, "", indent) }
	}
	if err := layOut(&out, text); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	_, err := fmt.Fprintln(a.stdout, out.String())
	return err
}

// messageJSON writes a message by the JSON rules of protobuf under the names of the contract, with what is zero but not with
// what is absent.
func messageJSON(m proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	return text, nil
}

// A style is how a terminal shows a text.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// paint dresses a text for the output that is meant, 1 or 2, if that is to have colours.
func (a *app) paint(stream int, s style, text string) string {
	if s == plain || text == "" || !a.colours(stream) {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

func (a *app) colours(stream int) bool {
	switch a.color {
	case "always":
		return true
	case "never":
		return false
	}
	return a.isTerminal(stream) && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// cell is one field of a table.
type cell struct {
	text  string
	style style
	right bool // numbers stand on the right
}

// table is rows of cells under a head. Widths are counted before a text is dressed.
type table struct {
	a    *app
	head []string
	rows [][]cell
}

func (a *app) newTable(head ...string) *table { return &table{a: a, head: head} }

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	right := make([]bool, len(t.head))
	width := make([]int, len(t.head))
	for i, h := range t.head {
		width[i] = utf8.RuneCountInString(h)
	}
	for _, row := range t.rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
			right[i] = right[i] || c.right
		}
	}
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = cell{text: h, style: bold, right: right[i]}
	}
	for _, row := range append([][]cell{head}, t.rows...) {
		fmt.Fprintln(w, t.line(row, width))
	}
}

func (t *table) line(row []cell, width []int) string {
	var s strings.Builder
	for i, c := range row {
		pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text))
		text := t.a.paint(1, c.style, c.text)
		switch {
		case c.right:
			s.WriteString(pad + text)
		case i == len(row)-1:
			s.WriteString(text)
		default:
			s.WriteString(text + pad)
		}
		if i < len(row)-1 {
			s.WriteString("  ")
		}
	}
	return strings.TrimRight(s.String(), " ")
}

func words(s string) cell { return cell{text: orDash(s)} }
func number(n int64) cell { return cell{text: fmt.Sprint(n), right: true} }

// numberOrDash is a number that may be absent.
func numberOrDash(n *int64) cell {
	if n == nil {
		return cell{text: "-", right: true}
	}
	return number(*n)
}
