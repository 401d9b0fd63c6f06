package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// perfect is a day on which every promise was kept.
func perfect() *day {
	t := newDay()
	for i, a := range apps() {
		grants := []int{10, 40}[i]
		for call := range a.calls {
			t.note(answer{App: a.name, Call: call, Sent: 1, Granted: call < grants})
		}
	}
	t.killed = time.Unix(1_795_000_000, 0)
	t.ledger, t.counted, t.resent, t.replayed = 50, 50, 50, 50
	t.spent = spent{outlived: 60_000, used: 11_250}
	return t
}

// Each way in which a day can go wrong breaks a promise.
func TestBroken(t *testing.T) {
	t.Parallel()
	if broken := perfect().broken(); len(broken) > 0 {
		t.Errorf("a perfect day breaks %v", broken)
	}
	for name, spoil := range map[string]func(*day){
		"one grant too many":      func(d *day) { d.tally("chat").granted++; d.tally("chat").denied-- },
		"one grant too few":       func(d *day) { d.tally("chat").granted--; d.tally("chat").denied++ },
		"above the ceiling":       func(d *day) { d.tally("bedrock").granted++; d.tally("chat").granted-- },
		"a grant was forgotten":   func(d *day) { d.replayed-- },
		"the count is too low":    func(d *day) { d.ledger--; d.counted-- },
		"the count is too high":   func(d *day) { d.ledger++; d.counted++ },
		"charged twice":           func(d *day) { d.counted++ },
		"a call had no answer":    func(d *day) { d.tally("chat").denied-- },
		"the daemon did not die":  func(d *day) { d.killed = time.Time{} },
		"a hold did not last":     func(d *day) { d.spent.outlived -= 30_000 },
		"settled as held":         func(d *day) { d.spent.used = 30_000 },
		"not released":            func(d *day) { d.spent.held = 30_000 },
		"no grant was sent again": func(d *day) { d.resent, d.replayed = 0, 0 },
	} {
		d := perfect()
		spoil(d)
		if len(d.broken()) == 0 {
			t.Errorf("%s: no promise is broken", name)
		}
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	d := perfect()
	d.tally("chat").first = answer{App: "chat", Denial: "portfolio: 50 of 50 calls used this day, 1 asked", RetryAt: time.Unix(1_795_003_600, 0)}
	var out strings.Builder
	d.print(&out, time.Unix(1_795_000_000, 0))
	lines := strings.Split(out.String(), "\n")
	for _, want := range []string{
		"bedrock        10     300        10      290            0                      0",
		"together               600        50      550            0                      0",
		"chat was told: portfolio: 50 of 50 calls used this day, 1 asked, in 1h0m",
		"kept    granted 50 in all, of a limit of 50",
	} {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, want) }) {
			t.Errorf("no line %q in\n%s", want, out.String())
		}
	}
	d.counted++
	d.print(&out, time.Unix(0, 0))
	if !strings.Contains(out.String(), "BROKEN  50 of 50 grants were known when they were sent once more, and charged 1 more") {
		t.Errorf("no broken promise in\n%s", out.String())
	}
}
