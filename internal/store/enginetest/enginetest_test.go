package enginetest

import (
	"testing"

	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// bugs are those that one session shows, with the checks that must find them. Others may, too.
var bugs = map[bug]string{
	keepsOnError:     "an error keeps nothing",
	keepsOnPanic:     "a panic keeps nothing",
	swallowsPanics:   "a panic keeps nothing",
	wrapsErrors:      "an error keeps nothing",
	liesWhenEnded:    "an ended context",
	emptyBecomesNil:  "empty is not nil",
	keysAreText:      "every byte in keys",
	takesEmptyNames:  "names that are empty",
	scansUnordered:   "scan",
	scansFromStart:   "scan",
	scansOn:          "scan",
	oneScanAtATime:   "scan and read and write",
	failsWhenMissing: "what is missing",
	dropsNothing:     "drop",
	dropsAtTheEnd:    "drop and put again",
	dropsUndone:      "drop and put again",
	listsUnordered:   "spaces",
	stopsAtDrop:      "drop while listing",
	readsOldValues:   "a transaction reads its own writes",
	losesTheEmptied:  "emptied and filled again",
	keepsTheSlice:    "values are copied",
	reusesTheSlice:   "values stay",
	viewsSeeRunning:  "a view sees no running update",
	viewsFollow:      "a view stays as it was",
	viewsWrite:       "a view cannot write",
	updatesOverlap:   "updates do not overlap",
	worksWhenClosed:  "closed",
	closesAtOnce:     "close waits",
	cutsValues:       "large values",
	losesKeys:        "many keys",
}

// durableBugs are those that only another session shows.
var durableBugs = map[bug]string{
	forgets:           "what was committed stays",
	remembersFailures: "what failed does not come back",
	forgetsEmpty:      "empty and large values stay",
	dropsReturn:       "a dropped space stays away",
	keepsFirstSession: "one commit each time",
}

// TestSuite shows that each check finds a bug of the kind that it is for, and nothing in an engine without one.
func TestSuite(t *testing.T) {
	found := map[string]bool{}
	for _, c := range checks() {
		if err := c.run(t.Context(), openNaive(sound, &disk{})); err != nil {
			t.Errorf("check %q blames a sound engine: %v", c.name, err)
		}
		for b, by := range bugs {
			if by != c.name {
				continue
			}
			found[c.name] = true
			if err := c.run(t.Context(), openNaive(b, &disk{})); err == nil {
				t.Errorf("check %q does not find an engine that %s", c.name, b)
			} else {
				t.Logf("%s: %v", b, err)
			}
		}
		if !found[c.name] {
			t.Errorf("no broken engine shows that check %q can fail", c.name)
		}
	}
}

// TestDurableSuite is TestSuite for checks over several sessions.
func TestDurableSuite(t *testing.T) {
	for _, c := range durableChecks() {
		opener := func(b bug) func() store.Engine {
			d := &disk{}
			return func() store.Engine { return openNaive(b, d) }
		}
		if err := c.run(t.Context(), opener(sound)); err != nil {
			t.Errorf("check %q blames a sound engine: %v", c.name, err)
		}
		n := 0
		for b, by := range durableBugs {
			if by != c.name {
				continue
			}
			n++
			if err := c.run(t.Context(), opener(b)); err == nil {
				t.Errorf("check %q does not find an engine that %s", c.name, b)
			}
		}
		if n == 0 {
			t.Errorf("no broken engine shows that check %q can fail", c.name)
		}
	}
}

// TestModel shows that random histories find bugs that they can meet, within a few dozen.
func TestModel(t *testing.T) {
	const seeds = 60
	for _, b := range []bug{
		sound, keepsOnError, keepsOnPanic, keysAreText, scansUnordered, dropsNothing, dropsAtTheEnd, dropsUndone, readsOldValues,
		forgets, remembersFailures, forgetsEmpty, dropsReturn, keepsFirstSession,
	} {
		caught := -1
		for seed := range seeds {
			d := &disk{}
			reopen := func() store.Engine { return openNaive(b, d) }
			if err := replay(t.Context(), reopen(), reopen, history(true).Example(seed)); err != nil {
				caught = seed
				break
			}
		}
		switch {
		case b == sound && caught >= 0:
			t.Errorf("history %d blames a sound engine", caught)
		case b != sound && caught < 0:
			t.Errorf("no history of %d finds an engine that %s", seeds, b)
		}
	}
}

// TestPoison shows that the poisoned engine keeps every promise, and poisons.
func TestPoison(t *testing.T) {
	Run(t, func(*testing.T) store.Engine { return Poison(memengine.New()) })

	e := Poison(memengine.New())
	if err := fill(t.Context(), e, contents{"a": {"k": "value"}}); err != nil {
		t.Fatal(err)
	}
	var got, scanned []byte
	if err := e.View(t.Context(), func(tx store.Tx) (err error) {
		if got, err = tx.Get("a", "k"); err != nil {
			return err
		}
		return tx.Scan("a", "", func(_ string, v []byte) bool { scanned = v; return true })
	}); err != nil {
		t.Fatal(err)
	}
	if string(got) == "value" || string(scanned) == "value" {
		t.Errorf("slices that were kept too long still show %q and %q", got, scanned)
	}
}
