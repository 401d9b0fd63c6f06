package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/window"
)

// balances lays counts out as a table.
func (a *app) balances(list []*quotadv1.Balance) *table {
	t := a.countTable()
	for _, b := range list {
		a.addCount(t, b)
	}
	return t
}

// countTable is a table of counts without any yet. On a terminal a bar shows how full each is.
func (a *app) countTable() *table {
	head := []string{"BUCKET", "UNIT", "WINDOW", "USED", "HELD", "LIMIT", "LEFT"}
	if a.isTerminal(1) {
		head = append(head, "")
	}
	return a.newTable(append(head, "NOTES", "RESETS")...)
}

// addCount adds a count, with notes besides its own.
func (a *app) addCount(t *table, b *quotadv1.Balance, more ...string) {
	row := []cell{
		words(b.GetBucket()), words(b.GetUnit()), words(spanOf(b.GetWindow()).String()),
		number(b.GetUsed()), number(b.GetHeld()), numberOrDash(b.Limit), numberOrDash(b.Remaining),
	}
	if a.isTerminal(1) {
		row = append(row, barOf(b))
	}
	t.add(append(row, words(notesOf(b, more...)), words(a.resets(b)))...)
}

// addDeclared shows what is declared without being a count.
func (a *app) addDeclared(t *table, name, unit, span string, limit *int64, note string) {
	row := []cell{words(name), words(unit), words(span), numberOrDash(nil), numberOrDash(nil), numberOrDash(limit), numberOrDash(nil)}
	if a.isTerminal(1) {
		row = append(row, cell{})
	}
	t.add(append(row, words(note), words(""))...)
}

// barOf shows how full a count is; nothing where it has no limit.
func barOf(b *quotadv1.Balance) cell {
	if b.Limit == nil {
		return cell{}
	}
	taken := b.GetUsed() + b.GetHeld()
	c := cell{text: fmt.Sprintf("%s %4s", bar(b.GetUsed(), b.GetHeld(), b.GetLimit(), barWidth), percent(taken, b.GetLimit())), style: green}
	switch {
	case taken >= b.GetLimit():
		c.style = red
	case float64(taken) >= 0.8*float64(b.GetLimit()):
		c.style = yellow
	}
	return c
}

// notesOf says what is special about a count, in words joined by commas and without blanks, so that it stays one column.
func notesOf(b *quotadv1.Balance, more ...string) string {
	notes := slices.DeleteFunc(slices.Clone(more), func(note string) bool { return note == "" })
	if b.GetOverridden() {
		notes = append(notes, "override")
	}
	if over := b.GetOverage(); over > 0 {
		notes = append(notes, fmt.Sprintf("over-by-%d", over))
	}
	return strings.Join(notes, ",")
}

// resets says when a count starts anew.
func (a *app) resets(b *quotadv1.Balance) string {
	if b.GetEnd() == nil {
		return "never"
	}
	end := b.GetEnd().AsTime()
	left := end.Sub(a.now())
	if left <= 0 {
		return "ended " + stamp(end)
	}
	return fmt.Sprintf("in %s (%s)", span(left), stamp(end))
}

// labelOf names the window of a count.
func labelOf(b *quotadv1.Balance) string {
	if b.GetWindowLabel() == "" {
		return spanOf(b.GetWindow()).String()
	}
	return b.GetWindowLabel()
}

// back returns the label of the window that lies n windows before the one of now.
func back(s window.Span, now time.Time, zone *time.Location, n int) window.Window {
	w := s.At(now, zone)
	for range n {
		if w.Start.IsZero() {
			break
		}
		w = s.At(w.Start.Add(-time.Second), zone)
	}
	return w
}
