// Package enginetest is the suite that every store.Engine must pass. An engine's own tests call Run, and RunDurable too if what
// it keeps outlives it.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/store"
)

// Run checks an engine against what store.Engine and store.Tx promise. open returns a new, empty engine each time; Run closes it.
func Run(t *testing.T, open func(t *testing.T) store.Engine) {
	t.Helper()
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			e := open(t)
			if err := c.run(t.Context(), e); err != nil {
				t.Error(err)
			}
			if err := finish(e); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("model", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			e := open(t)
			if err := replay(t.Context(), e, nil, history(false).Draw(rt, "steps")); err != nil {
				rt.Error(err)
			}
			if err := finish(e); err != nil {
				rt.Error(err)
			}
		})
	})
}

// RunDurable checks that what an engine acknowledged, and nothing else, is there when its directory is opened again. openAt
// opens the engine in dir, which is empty the first time.
func RunDurable(t *testing.T, openAt func(t *testing.T, dir string) store.Engine) {
	t.Helper()
	for _, c := range durableChecks() {
		t.Run("durable/"+c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.run(t.Context(), func() store.Engine { return openAt(t, dir) }); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("durable/model", func(t *testing.T) {
		root := t.TempDir()
		rapid.Check(t, func(rt *rapid.T) {
			dir, err := os.MkdirTemp(root, "") //nolint:usetesting // one for each history
			if err != nil {
				rt.Fatal(err)
			}
			reopen := func() store.Engine { return openAt(t, dir) }
			if err := replay(t.Context(), reopen(), reopen, history(true).Draw(rt, "steps")); err != nil {
				rt.Error(err)
			}
		})
	})
}

// finish closes an engine and, if it counts its readers, checks that none was left open.
func finish(e store.Engine) error {
	if c, ok := e.(interface{ OpenReaders() int }); ok {
		if n := c.OpenReaders(); n != 0 {
			return fmt.Errorf("%d views were left open", n)
		}
	}
	if err := e.Close(); err != nil {
		return fmt.Errorf("Close: %w", err)
	}
	return nil
}

// check is one promise. It gets an empty engine.
type check struct {
	name string
	run  func(ctx context.Context, e store.Engine) error
}

// checks are functions that return errors rather than tests, so that a test can show that they catch a broken engine.
func checks() []check {
	return []check{
		{"an error keeps nothing", anErrorKeepsNothing},
		{"a panic keeps nothing", aPanicKeepsNothing},
		{"an ended context", anEndedContext},
		{"empty is not nil", emptyIsNotNil},
		{"every byte in keys", everyByteInKeys},
		{"names that are empty", namesThatAreEmpty},
		{"scan", scan},
		{"scan and read and write", scanAndReadAndWrite},
		{"what is missing", whatIsMissing},
		{"drop", drop},
		{"drop and put again", dropAndPutAgain},
		{"spaces", spaces},
		{"drop while listing", dropWhileListing},
		{"a transaction reads its own writes", readsItsOwnWrites},
		{"emptied and filled again", emptiedAndFilledAgain},
		{"values are copied", valuesAreCopied},
		{"values stay", valuesStay},
		{"a view sees no running update", aViewSeesNoRunningUpdate},
		{"a view stays as it was", aViewStaysAsItWas},
		{"a view cannot write", aViewCannotWrite},
		{"updates do not overlap", updatesDoNotOverlap},
		{"closed", closed},
		{"close waits", closeWaits},
		{"large values", largeValues},
		{"many keys", manyKeys},
	}
}

// errOurs is what a failing function returns; an engine must hand back this very value.
var errOurs = errors.New("enginetest: on purpose")

// contents is what an engine holds: values by space and key.
type contents map[string]map[string]string

// read returns what a transaction sees, without spaces that are empty.
func read(tx store.Tx) (contents, error) {
	all := contents{}
	var inner error
	err := tx.Spaces("", func(space string) bool {
		keys := map[string]string{}
		last := ""
		inner = tx.Scan(space, "", func(key string, value []byte) bool {
			if key <= last {
				inner = fmt.Errorf("Scan of %q named %q after %q", space, key, last)
				return false
			}
			last = key
			keys[key] = string(value)
			return true
		})
		if len(keys) > 0 {
			all[space] = keys
		}
		return inner == nil
	})
	return all, errors.Join(err, inner)
}

// holds checks that a transaction sees exactly want, by scanning and by getting each key.
func holds(tx store.Tx, want contents) error {
	got, err := read(tx)
	if err != nil {
		return err
	}
	if err := same(got, want); err != nil {
		return err
	}
	for space, keys := range want {
		for key, value := range keys {
			if got, err := tx.Get(space, key); err != nil || got == nil || string(got) != value {
				return fmt.Errorf("Get(%q, %q) = %s, %s, want %s", space, key, short(got), text(err), short([]byte(value)))
			}
		}
	}
	return nil
}

func same(got, want contents) error {
	for space, keys := range want {
		for key, value := range keys {
			if v, ok := got[space][key]; !ok {
				return fmt.Errorf("%q/%q is missing, want %s", space, key, short([]byte(value)))
			} else if v != value {
				return fmt.Errorf("%q/%q is %s, want %s", space, key, short([]byte(v)), short([]byte(value)))
			}
		}
	}
	for space, keys := range got {
		for key := range keys {
			if _, ok := want[space][key]; !ok {
				return fmt.Errorf("%q/%q is there, and should not be", space, key)
			}
		}
	}
	return nil
}

// viewHolds is holds in a view.
func viewHolds(ctx context.Context, e store.Engine, want contents) error {
	return e.View(ctx, func(tx store.Tx) error { return holds(tx, want) })
}

// fill puts contents in one update.
func fill(ctx context.Context, e store.Engine, c contents) error {
	return e.Update(ctx, func(tx store.Tx) error { return putAll(tx, c) })
}

func putAll(tx store.Tx, c contents) error {
	for space, keys := range c {
		for key, value := range keys {
			if err := tx.Put(space, key, []byte(value)); err != nil {
				return fmt.Errorf("Put(%q, %q): %w", space, key, err)
			}
		}
	}
	return nil
}

// text shows an error that may be nil.
func text(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// short shows a value without filling the screen with it.
func short(b []byte) string {
	switch {
	case b == nil:
		return "nil"
	case len(b) > 40:
		return fmt.Sprintf("%q... (%d bytes)", b[:40], len(b))
	}
	return fmt.Sprintf("%q", b)
}
