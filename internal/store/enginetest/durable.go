package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/quotad/quotad/internal/store"
)

// durableCheck is one promise of an engine that outlives its process. Each open follows a Close of what was opened before.
type durableCheck struct {
	name string
	run  func(ctx context.Context, open func() store.Engine) error
}

func durableChecks() []durableCheck {
	return []durableCheck{
		{"what was committed stays", committedStays},
		{"what failed does not come back", failedStaysAway},
		{"empty and large values stay", valuesOfAllSizesStay},
		{"a dropped space stays away", droppedStaysAway},
		{"one commit each time", oneCommitEachTime},
	}
}

// session opens the engine, runs fn and closes it.
func session(open func() store.Engine, fn func(e store.Engine) error) error {
	e := open()
	return errors.Join(fn(e), finish(e))
}

func committedStays(ctx context.Context, open func() store.Engine) error {
	want := contents{"a": {}, "b": {"\x00": "zero", "\xff\xff": "high"}}
	for i := range 5_000 {
		want["a"][fmt.Sprintf("k%05d", i)] = strings.Repeat("v", i%100)
	}
	if err := session(open, func(e store.Engine) error { return fill(ctx, e, want) }); err != nil {
		return err
	}
	return session(open, func(e store.Engine) error { return viewHolds(ctx, e, want) })
}

func failedStaysAway(ctx context.Context, open func() store.Engine) error {
	want := contents{"a": {"k": "1"}}
	if err := session(open, func(e store.Engine) error {
		if err := fill(ctx, e, want); err != nil {
			return err
		}
		err := e.Update(ctx, func(tx store.Tx) error {
			return errors.Join(tx.Put("a", "k", []byte("2")), tx.Put("b", "k", []byte("2")), ours())
		})
		if !errors.Is(err, errOurs) {
			return fmt.Errorf("Update returned %s", text(err))
		}
		return nil
	}); err != nil {
		return err
	}
	return session(open, func(e store.Engine) error { return viewHolds(ctx, e, want) })
}

func valuesOfAllSizesStay(ctx context.Context, open func() store.Engine) error {
	want := contents{"a": {"empty": "", "large": strings.Repeat("x", 64<<10), "larger": strings.Repeat("y", 1<<20)}}
	if err := session(open, func(e store.Engine) error { return fill(ctx, e, want) }); err != nil {
		return err
	}
	return session(open, func(e store.Engine) error { return viewHolds(ctx, e, want) })
}

func droppedStaysAway(ctx context.Context, open func() store.Engine) error {
	keys := map[string]string{}
	for i := range 3_000 {
		keys[fmt.Sprint(i)] = "a value"
	}
	if err := session(open, func(e store.Engine) error { return fill(ctx, e, contents{"a": keys, "b": keys}) }); err != nil {
		return err
	}
	if err := session(open, func(e store.Engine) error {
		return e.Update(ctx, func(tx store.Tx) error { return tx.Drop("a") })
	}); err != nil {
		return err
	}
	return session(open, func(e store.Engine) error { return viewHolds(ctx, e, contents{"b": keys}) })
}

func oneCommitEachTime(ctx context.Context, open func() store.Engine) error {
	want := contents{"a": {}}
	for i := range 10 {
		key := fmt.Sprint(i)
		if err := session(open, func(e store.Engine) error {
			if err := viewHolds(ctx, e, want.used()); err != nil {
				return err
			}
			return fill(ctx, e, contents{"a": {key: "v"}})
		}); err != nil {
			return err
		}
		want["a"][key] = "v"
	}
	return session(open, func(e store.Engine) error { return viewHolds(ctx, e, want) })
}
