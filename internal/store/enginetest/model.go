package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/store"
)

// step is one thing that happens to an engine.
type step struct {
	how how
	ops []op
}

// how tells what becomes of a step's ops.
type how int

const (
	commit how = iota
	fail       // the function returns an error after the ops
	blow       // it panics
	reopen     // the engine is closed and opened, before the ops are committed
)

// op is one write, or a look at everything.
type op struct {
	what       what
	space, key string
	value      string
}

type what int

const (
	put what = iota
	remove
	dropAll
	look
)

// history draws steps over few names, so that they meet.
func history(durable bool) *rapid.Generator[[]step] {
	hows := []how{commit, commit, commit, fail, fail, blow}
	if durable {
		hows = append(hows, reopen)
	}
	spaces := rapid.SampledFrom([]string{"a", "b", "used/2026-11-22", "used/2026-11-23"})
	keys := rapid.OneOf(rapid.SampledFrom([]string{"k", "l", "\x00", "\xff", "portfolio/bedrock"}), rapid.StringN(1, 20, 60))
	values := rapid.OneOf(rapid.StringN(0, 20, 60), rapid.Map(rapid.IntRange(500, 5000), func(n int) string { return string(make([]byte, n)) }))
	whats := rapid.SampledFrom([]what{put, put, put, put, put, remove, remove, dropAll, look})
	ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) op {
		o := op{what: whats.Draw(t, "what"), space: spaces.Draw(t, "space")}
		if o.what == put || o.what == remove {
			o.key = keys.Draw(t, "key")
		}
		if o.what == put {
			o.value = values.Draw(t, "value")
		}
		return o
	}), 0, 12)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{how: rapid.SampledFrom(hows).Draw(t, "how"), ops: ops.Draw(t, "ops")}
	}), 1, 12)
}

// replay runs steps against an engine and against nested maps, and returns where they part. With reopen it ends with one.
func replay(ctx context.Context, e store.Engine, open func() store.Engine, steps []step) error {
	model := contents{}
	for i, s := range steps {
		if s.how == reopen {
			if err := finish(e); err != nil {
				return err
			}
			e = open()
		}
		next := model.clone()
		err := update(ctx, e, next, s)
		switch {
		case s.how == commit || s.how == reopen:
			model = next
			if err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
		case !errors.Is(err, errOurs):
			return fmt.Errorf("step %d: a function that failed returned %s", i, text(err))
		}
		if err := viewHolds(ctx, e, model); err != nil {
			return fmt.Errorf("after step %d: %w", i, err)
		}
	}
	if open == nil {
		return nil
	}
	if err := finish(e); err != nil {
		return err
	}
	e = open()
	return errors.Join(viewHolds(ctx, e, model), finish(e))
}

// update applies a step to the engine and to the model. A panic of its own comes back as errOurs.
func update(ctx context.Context, e store.Engine, model contents, s step) (err error) {
	defer func() {
		switch r := recover(); {
		case r == nil:
		case isOurs(r):
			err = errOurs
		default:
			panic(r)
		}
	}()
	return e.Update(ctx, func(tx store.Tx) error {
		for _, o := range s.ops {
			if err := o.apply(tx, model); err != nil {
				return err
			}
		}
		switch s.how {
		case fail:
			return errOurs
		case blow:
			panic(errOurs)
		case commit, reopen:
		}
		return nil
	})
}

func (o op) apply(tx store.Tx, model contents) error {
	switch o.what {
	case put:
		if model[o.space] == nil {
			model[o.space] = map[string]string{}
		}
		model[o.space][o.key] = o.value
		return tx.Put(o.space, o.key, []byte(o.value))
	case remove:
		delete(model[o.space], o.key)
		return tx.Delete(o.space, o.key)
	case dropAll:
		delete(model, o.space)
		return tx.Drop(o.space)
	case look:
		return holds(tx, model.used())
	}
	return nil
}

// clone returns a copy that may be changed.
func (c contents) clone() contents {
	all := contents{}
	for space, keys := range c {
		all[space] = maps.Clone(keys)
	}
	return all.used()
}

// used returns the spaces that are not empty.
func (c contents) used() contents {
	all := contents{}
	for space, keys := range c {
		if len(keys) > 0 {
			all[space] = keys
		}
	}
	return all
}
