package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/quotad/quotad/internal/store"
)

func anErrorKeepsNothing(ctx context.Context, e store.Engine) error {
	before := contents{"a": {"k": "1", "l": "2"}, "b": {"m": "3"}}
	if err := fill(ctx, e, before); err != nil {
		return err
	}
	err := e.Update(ctx, func(tx store.Tx) error {
		return errors.Join(
			tx.Put("a", "k", []byte("9")), tx.Put("a", "new", []byte("9")), tx.Delete("a", "l"),
			tx.Drop("b"), tx.Put("c", "k", []byte("9")), ours())
	})
	if !errors.Is(err, errOurs) {
		return fmt.Errorf("Update returned %s, not the error of its function", text(err))
	}
	if err := e.Update(ctx, func(store.Tx) error { return errOurs }); err != errOurs { //nolint:errorlint // as it is
		return fmt.Errorf("Update returned %s, not the very error of its function", text(err))
	}
	if err := e.View(ctx, func(store.Tx) error { return errOurs }); err != errOurs { //nolint:errorlint // as it is
		return fmt.Errorf("View returned %s, not the very error of its function", text(err))
	}
	if err := viewHolds(ctx, e, before); err != nil {
		return fmt.Errorf("after a failed update: %w", err)
	}
	if err := noSpace(ctx, e, "c"); err != nil {
		return err
	}
	if err := fill(ctx, e, contents{"a": {"k": "4"}}); err != nil {
		return err
	}
	return viewHolds(ctx, e, contents{"a": {"k": "4", "l": "2"}, "b": {"m": "3"}})
}

func ours() error { return errOurs }

// isOurs tells whether what was recovered is what a function of ours panics with.
func isOurs(recovered any) bool {
	err, ok := recovered.(error)
	return ok && errors.Is(err, errOurs)
}

func noSpace(ctx context.Context, e store.Engine, name string) error {
	return e.View(ctx, func(tx store.Tx) error {
		var inner error
		err := tx.Spaces("", func(space string) bool {
			if space == name {
				inner = fmt.Errorf("space %q was made by an update that failed", name)
			}
			return true
		})
		return errors.Join(err, inner)
	})
}

func aPanicKeepsNothing(ctx context.Context, e store.Engine) error {
	before := contents{"a": {"k": "1"}}
	if err := fill(ctx, e, before); err != nil {
		return err
	}
	survive := func(run func(context.Context, func(store.Tx) error) error) (err error) {
		defer func() {
			if r := recover(); r != nil && !isOurs(r) {
				err = fmt.Errorf("the panic became another: %v", r)
			}
		}()
		if err := run(ctx, func(tx store.Tx) error {
			_ = tx.Put("a", "k", []byte("9")) // an error in the view
			_ = tx.Put("z", "k", []byte("9"))
			panic(errOurs)
		}); err == nil {
			return errors.New("a function that panicked counted as done")
		}
		return nil
	}
	if err := errors.Join(survive(e.Update), survive(e.View)); err != nil {
		return err
	}
	if err := viewHolds(ctx, e, before); err != nil {
		return fmt.Errorf("after a panic: %w", err)
	}
	if err := fill(ctx, e, contents{"a": {"k": "2"}}); err != nil {
		return fmt.Errorf("after a panic: %w", err)
	}
	return viewHolds(ctx, e, contents{"a": {"k": "2"}})
}

// anEndedContext may be refused or served, but what is said must be so.
func anEndedContext(ctx context.Context, e store.Engine) error {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	want := contents{}
	if err := fill(ended, e, contents{"a": {"k": "1"}}); err == nil {
		want = contents{"a": {"k": "1"}}
	}
	return viewHolds(ctx, e, want)
}

func emptyIsNotNil(ctx context.Context, e store.Engine) error {
	look := func(tx store.Tx) error {
		for _, key := range []string{"nil", "empty"} {
			if v, err := tx.Get("a", key); err != nil || v == nil || len(v) != 0 {
				return fmt.Errorf("Get of an empty value = %s, %s", short(v), text(err))
			}
		}
		if v, err := tx.Get("a", "none"); err != nil || v != nil {
			return fmt.Errorf("Get of no value = %s, %s", short(v), text(err))
		}
		var inner error
		return errors.Join(tx.Scan("a", "", func(key string, v []byte) bool {
			if v == nil {
				inner = fmt.Errorf("Scan showed an empty value at %q as nil", key)
			}
			return true
		}), inner)
	}
	if err := e.Update(ctx, func(tx store.Tx) error {
		if err := errors.Join(tx.Put("a", "nil", nil), tx.Put("a", "empty", []byte{})); err != nil {
			return err
		}
		return look(tx)
	}); err != nil {
		return err
	}
	return e.View(ctx, look)
}

func everyByteInKeys(ctx context.Context, e store.Engine) error {
	keys := map[string]string{}
	for i := range 256 {
		for _, key := range []string{string([]byte{byte(i)}), string([]byte{byte(i), 0}), string([]byte{'k', byte(i), 'z'})} {
			keys[key] = "value of " + key
		}
	}
	if err := fill(ctx, e, contents{"bytes": keys}); err != nil {
		return err
	}
	return viewHolds(ctx, e, contents{"bytes": keys})
}

func namesThatAreEmpty(ctx context.Context, e store.Engine) error {
	for _, at := range [][2]string{{"a", ""}, {"", "k"}} {
		if err := fill(ctx, e, contents{at[0]: {at[1]: "v"}}); err == nil {
			return fmt.Errorf("Put(%q, %q) was kept", at[0], at[1])
		}
	}
	return e.View(ctx, func(tx store.Tx) error {
		if v, err := tx.Get("a", ""); err != nil || v != nil {
			return fmt.Errorf("Get of the empty key = %s, %s", short(v), text(err))
		}
		return holds(tx, contents{})
	})
}

// scanned returns the keys that a Scan names, at most the given number.
func scanned(tx store.Tx, space, from string, most int) ([]string, error) {
	var keys []string
	err := tx.Scan(space, from, func(key string, _ []byte) bool {
		keys = append(keys, key)
		return len(keys) < most
	})
	return keys, err
}

func scan(ctx context.Context, e store.Engine) error {
	if err := fill(ctx, e, contents{"a": {"b": "1", "d": "2", "d\x00": "3", "f": "4", "\xff": "5"}, "b": {"c": "6"}}); err != nil {
		return err
	}
	return e.View(ctx, func(tx store.Tx) error {
		for _, c := range []struct {
			from string
			most int
			want []string
		}{
			{"", 9, []string{"b", "d", "d\x00", "f", "\xff"}},
			{"", 1, []string{"b"}},
			{"b", 2, []string{"b", "d"}},
			{"c", 9, []string{"d", "d\x00", "f", "\xff"}},
			{"d\x00", 9, []string{"d\x00", "f", "\xff"}},
			{"d\x00\x00", 9, []string{"f", "\xff"}},
			{"\xff", 9, []string{"\xff"}},
			{"\xff\xff", 9, nil},
		} {
			got, err := scanned(tx, "a", c.from, c.most)
			if err != nil || !slices.Equal(got, c.want) {
				return fmt.Errorf("Scan from %q, at most %d, named %q, %s, want %q", c.from, c.most, got, text(err), c.want)
			}
		}
		return nil
	})
}

// scanAndReadAndWrite scans a space while it reads there, and writes in another.
func scanAndReadAndWrite(ctx context.Context, e store.Engine) error {
	a := map[string]string{}
	for i := range 500 {
		a[fmt.Sprintf("k%04d", i)] = fmt.Sprint(i)
	}
	if err := fill(ctx, e, contents{"a": a}); err != nil {
		return err
	}
	err := e.Update(ctx, func(tx store.Tx) error {
		var inner error
		seen := 0
		err := tx.Scan("a", "", func(key string, value []byte) bool {
			seen++
			_, err := tx.Get("a", "k0000")
			first, err2 := scanned(tx, "a", "k0100", 1)
			inner = errors.Join(err, err2, tx.Put("b", key, value), tx.Delete("c", key))
			if !slices.Equal(first, []string{"k0100"}) {
				inner = fmt.Errorf("a Scan in a Scan named %q", first)
			}
			return inner == nil
		})
		if seen != len(a) {
			return fmt.Errorf("Scan named %d keys of %d, %s", seen, len(a), text(inner))
		}
		return errors.Join(err, inner)
	})
	if err != nil {
		return err
	}
	return viewHolds(ctx, e, contents{"a": a, "b": a})
}

func whatIsMissing(ctx context.Context, e store.Engine) error {
	look := func(tx store.Tx) error {
		if v, err := tx.Get("no", "k"); err != nil || v != nil {
			return fmt.Errorf("Get in no space = %s, %s", short(v), text(err))
		}
		if keys, err := scanned(tx, "no", "", 9); err != nil || keys != nil {
			return fmt.Errorf("Scan of no space named %q, %s", keys, text(err))
		}
		return nil
	}
	if err := e.View(ctx, look); err != nil {
		return err
	}
	if err := e.Update(ctx, func(tx store.Tx) error {
		return errors.Join(look(tx), tx.Delete("no", "k"), tx.Drop("no"), look(tx))
	}); err != nil {
		return fmt.Errorf("an update of nothing: %w", err)
	}
	if err := fill(ctx, e, contents{"a": {"b": "1"}}); err != nil {
		return err
	}
	if err := e.Update(ctx, func(tx store.Tx) error { return errors.Join(tx.Delete("a", "a"), tx.Delete("a", "c")) }); err != nil {
		return err
	}
	return viewHolds(ctx, e, contents{"a": {"b": "1"}})
}

func drop(ctx context.Context, e store.Engine) error {
	small, big := map[string]string{"k": "1"}, map[string]string{}
	for i := range 20_000 {
		big[fmt.Sprintf("key %06d", i)] = "some value"
	}
	if err := fill(ctx, e, contents{"small": small, "big": big, "other": small}); err != nil {
		return err
	}
	if err := e.Update(ctx, func(tx store.Tx) error {
		return errors.Join(tx.Drop("big"), holds(tx, contents{"small": small, "other": small}))
	}); err != nil {
		return err
	}
	if err := viewHolds(ctx, e, contents{"small": small, "other": small}); err != nil {
		return err
	}
	if err := e.Update(ctx, func(tx store.Tx) error { return errors.Join(tx.Drop("big"), tx.Drop("small")) }); err != nil {
		return err
	}
	if err := fill(ctx, e, contents{"big": small}); err != nil {
		return err
	}
	return viewHolds(ctx, e, contents{"big": small, "other": small})
}

func dropAndPutAgain(ctx context.Context, e store.Engine) error {
	before := contents{"a": {"k": "1", "l": "2"}}
	if err := fill(ctx, e, before); err != nil {
		return err
	}
	after := contents{"a": {"k": "3", "m": "4"}}
	turn := func(tx store.Tx) error {
		if err := errors.Join(tx.Put("a", "n", []byte("5")), tx.Drop("a")); err != nil {
			return err
		}
		if v, err := tx.Get("a", "k"); err != nil || v != nil {
			return fmt.Errorf("Get after Drop = %s, %s", short(v), text(err))
		}
		return errors.Join(putAll(tx, after), holds(tx, after))
	}
	err := e.Update(ctx, func(tx store.Tx) error {
		if err := turn(tx); err != nil {
			return err
		}
		return errOurs
	})
	if !errors.Is(err, errOurs) {
		return err
	}
	if err := viewHolds(ctx, e, before); err != nil {
		return fmt.Errorf("after a Drop that was rolled back: %w", err)
	}
	if err := e.Update(ctx, turn); err != nil {
		return err
	}
	return viewHolds(ctx, e, after)
}

// listed returns the spaces that Spaces names, at most the given number.
func listed(tx store.Tx, from string, most int) ([]string, error) {
	var names []string
	err := tx.Spaces(from, func(space string) bool {
		names = append(names, space)
		return len(names) < most
	})
	return names, err
}

func spaces(ctx context.Context, e store.Engine) error {
	one := map[string]string{"k": "1"}
	if err := fill(ctx, e, contents{"used/2": one, "used/10": one, "meta": one, "used/1": one}); err != nil {
		return err
	}
	look := func(tx store.Tx) error {
		for _, c := range []struct {
			from string
			most int
			want []string
		}{
			{"", 9, []string{"meta", "used/1", "used/10", "used/2"}},
			{"", 2, []string{"meta", "used/1"}},
			{"used/", 9, []string{"used/1", "used/10", "used/2"}},
			{"used/10", 1, []string{"used/10"}},
			{"used/3", 9, nil},
		} {
			got, err := listed(tx, c.from, c.most)
			if err != nil || !slices.Equal(got, c.want) {
				return fmt.Errorf("Spaces from %q, at most %d, named %q, %s, want %q", c.from, c.most, got, text(err), c.want)
			}
		}
		return nil
	}
	return errors.Join(e.View(ctx, look), e.Update(ctx, look))
}

func dropWhileListing(ctx context.Context, e store.Engine) error {
	all := contents{"keep": {"k": "1"}}
	for i := range 100 {
		all[fmt.Sprintf("used/%03d", i)] = map[string]string{"k": strings.Repeat("v", i*10)}
	}
	if err := fill(ctx, e, all); err != nil {
		return err
	}
	if err := e.Update(ctx, func(tx store.Tx) error {
		var inner error
		err := tx.Spaces("used/", func(space string) bool {
			inner = tx.Drop(space)
			return inner == nil
		})
		return errors.Join(err, inner)
	}); err != nil {
		return err
	}
	return viewHolds(ctx, e, contents{"keep": {"k": "1"}})
}

func readsItsOwnWrites(ctx context.Context, e store.Engine) error {
	if err := fill(ctx, e, contents{"a": {"b": "1", "c": "2", "d": "3"}}); err != nil {
		return err
	}
	want := contents{"a": {"a": "6", "b": "4", "d": "3"}, "new": {"k": "5"}}
	if err := e.Update(ctx, func(tx store.Tx) error {
		for range 2 { // again over what this transaction wrote
			if err := errors.Join(tx.Put("a", "b", []byte("4")), tx.Delete("a", "c"), tx.Put("new", "k", []byte("5")),
				tx.Put("a", "a", []byte("6")), holds(tx, want), tx.Put("a", "c", nil), tx.Delete("a", "c"), holds(tx, want)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return viewHolds(ctx, e, want)
}

// emptiedAndFilledAgain deletes every key of a space that takes many pages, and goes on with it in the same transaction: bbolt's
// own cursor then looks for the last key for ever.
func emptiedAndFilledAgain(ctx context.Context, e store.Engine) error {
	full := map[string]string{}
	for i := range 2000 {
		full[fmt.Sprintf("k%06d", i)] = strings.Repeat("v", i%50)
	}
	for _, again := range []map[string]string{{"z": "after them"}, {"a": "before"}, {"k000500": "among"}, {}, full} {
		if err := fill(ctx, e, contents{"a": full, "b": {"k": "1"}}); err != nil {
			return err
		}
		if err := e.Update(ctx, func(tx store.Tx) error {
			for key := range full {
				if err := tx.Delete("a", key); err != nil {
					return err
				}
			}
			if err := holds(tx, contents{"b": {"k": "1"}}); err != nil {
				return err
			}
			for key, value := range again {
				if err := tx.Put("a", key, []byte(value)); err != nil {
					return err
				}
			}
			return holds(tx, contents{"a": again, "b": {"k": "1"}})
		}); err != nil {
			return err
		}
		if err := viewHolds(ctx, e, contents{"a": again, "b": {"k": "1"}}); err != nil {
			return err
		}
		if err := e.Update(ctx, func(tx store.Tx) error { return tx.Drop("a") }); err != nil {
			return err
		}
	}
	return nil
}

// valuesAreCopied reuses the slice that it put.
func valuesAreCopied(ctx context.Context, e store.Engine) error {
	buf := make([]byte, 8)
	want := map[string]string{}
	if err := e.Update(ctx, func(tx store.Tx) error {
		for i := range 100 {
			copy(buf, fmt.Sprintf("%08d", i))
			want[fmt.Sprintf("k%03d", i)] = string(buf)
			if err := tx.Put("a", fmt.Sprintf("k%03d", i), buf); err != nil {
				return err
			}
		}
		copy(buf, "scribble")
		return holds(tx, contents{"a": want})
	}); err != nil {
		return err
	}
	copy(buf, "again!!!")
	return viewHolds(ctx, e, contents{"a": want})
}

// valuesStay holds on to slices that it was handed, while what they show is written anew.
func valuesStay(ctx context.Context, e store.Engine) error {
	if err := fill(ctx, e, contents{"a": {"k": "first", "l": "other"}}); err != nil {
		return err
	}
	return e.Update(ctx, func(tx store.Tx) error {
		first, err := tx.Get("a", "k")
		err2 := tx.Put("a", "k", []byte("second"))
		second, err3 := tx.Get("a", "k")
		if err := errors.Join(err, err2, err3); err != nil {
			return err
		}
		var other []byte
		err = tx.Scan("a", "l", func(_ string, v []byte) bool { other = v; return true })
		for i := range 2_000 {
			err = errors.Join(err, tx.Put("a", fmt.Sprint(i), bytes.Repeat([]byte("x"), 100)))
		}
		err = errors.Join(err, tx.Put("a", "k", []byte("third")), tx.Drop("a"), tx.Put("a", "k", []byte("fourth")))
		if string(first) != "first" || string(second) != "second" || string(other) != "other" {
			return fmt.Errorf("values that were handed out became %s, %s, %s", short(first), short(second), short(other))
		}
		return err
	})
}

func aViewCannotWrite(ctx context.Context, e store.Engine) error {
	before := contents{"a": {"k": "1"}}
	if err := fill(ctx, e, before); err != nil {
		return err
	}
	if err := e.View(ctx, func(tx store.Tx) error {
		for name, err := range map[string]error{
			"Put": tx.Put("a", "k", []byte("2")), "Put in a new space": tx.Put("b", "k", nil),
			"Delete": tx.Delete("a", "k"), "Delete of nothing": tx.Delete("b", "k"), "Drop": tx.Drop("a"), "Drop of nothing": tx.Drop("b"),
		} {
			if !errors.Is(err, store.ErrReadOnly) {
				return fmt.Errorf("%s in a view returned %s, want ErrReadOnly", name, text(err))
			}
		}
		return holds(tx, before)
	}); err != nil {
		return err
	}
	return viewHolds(ctx, e, before)
}

func largeValues(ctx context.Context, e store.Engine) error {
	a := map[string]string{}
	for i := range 16 {
		a[fmt.Sprintf("k%d", i)] = strings.Repeat(string(rune('a'+i)), 64<<10+i)
	}
	if err := fill(ctx, e, contents{"a": a}); err != nil {
		return err
	}
	if err := viewHolds(ctx, e, contents{"a": a}); err != nil {
		return err
	}
	a["k3"], a["k4"] = "small now", strings.Repeat("z", 1<<20)
	if err := fill(ctx, e, contents{"a": {"k3": a["k3"], "k4": a["k4"]}}); err != nil {
		return err
	}
	return viewHolds(ctx, e, contents{"a": a})
}

func manyKeys(ctx context.Context, e store.Engine) error {
	const keys, batch = 100_000, 10_000
	key := func(i int) string { return fmt.Sprintf("%08x", uint32(i)*2654435761) } //nolint:gosec // scattered, each once
	for start := 0; start < keys; start += batch {
		if err := e.Update(ctx, func(tx store.Tx) error {
			for i := start; i < start+batch; i++ {
				if err := tx.Put("a", key(i), []byte(fmt.Sprint(i))); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return e.View(ctx, func(tx store.Tx) error {
		n, last := 0, ""
		err := tx.Scan("a", "", func(key string, _ []byte) bool {
			n++
			ordered := last < key
			last = key
			return ordered
		})
		if err != nil || n != keys {
			return fmt.Errorf("Scan named %d keys in order, %s, want %d", n, text(err), keys)
		}
		for i := range keys {
			if v, err := tx.Get("a", key(i)); err != nil || string(v) != fmt.Sprint(i) {
				return fmt.Errorf("Get(%q) = %s, %s, want %d", key(i), short(v), text(err), i)
			}
		}
		return nil
	})
}
