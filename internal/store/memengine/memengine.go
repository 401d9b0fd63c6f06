// Package memengine keeps a store's bytes in memory: for tests, and for trying quotad out. Nothing outlives the process.
package memengine

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/quotad/quotad/internal/store"
)

// Engine is a store.Engine in memory. It is safe for concurrent use: updates run one after another, and views, which each see
// the tree that was current when they began, wait for nothing.
type Engine struct {
	seed    seed
	writing sync.Mutex // held by the running Update
	current atomic.Pointer[tree[space]]

	state   sync.Mutex
	running sync.WaitGroup // calls that Close waits for
	closed  bool           // guarded by state
}

// space holds the keys of one space. One that was emptied by Delete stays until it is dropped.
type space = tree[[]byte]

var _ store.Engine = (*Engine)(nil)

var errNoName = errors.New("memengine: a space and a key must have a name")

// New returns an empty engine.
func New() *Engine {
	e := &Engine{seed: newSeed()}
	e.current.Store(&tree[space]{})
	return e
}

// Update is store.Engine's. It runs fn once.
func (e *Engine) Update(ctx context.Context, fn func(store.Tx) error) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.running.Done()
	e.writing.Lock()
	defer e.writing.Unlock()
	x := &tx{tree: *e.current.Load(), seed: e.seed, writable: true}
	if err := fn(x); err != nil {
		return err
	}
	e.current.Store(&x.tree)
	return nil
}

// View is store.Engine's.
func (e *Engine) View(ctx context.Context, fn func(store.Tx) error) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.running.Done()
	return fn(&tx{tree: *e.current.Load()})
}

// Close waits for running calls. Everything that was kept is lost.
func (e *Engine) Close() error {
	e.state.Lock()
	e.closed = true
	e.state.Unlock()
	e.running.Wait()
	e.current.Store(&tree[space]{})
	return nil
}

// enter admits a call, which must then call e.running.Done.
func (e *Engine) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.state.Lock()
	defer e.state.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	e.running.Add(1)
	return nil
}

// tx is a store.Tx on a tree of its own. Writes replace the tree.
type tx struct {
	tree     tree[space]
	seed     seed
	writable bool
}

// Get is store.Tx's.
func (x *tx) Get(space, key string) ([]byte, error) {
	s, _ := x.tree.get(space)
	v, _ := s.get(key)
	return v, nil
}

// Put is store.Tx's.
func (x *tx) Put(space, key string, value []byte) error {
	if !x.writable {
		return store.ErrReadOnly
	}
	if space == "" || key == "" {
		return errNoName
	}
	s, _ := x.tree.get(space)
	kept := append(make([]byte, 0, len(value)), value...) // never nil
	x.replace(space, s.put(strings.Clone(key), x.seed.rank(key), kept))
	return nil
}

// Delete is store.Tx's.
func (x *tx) Delete(space, key string) error {
	if !x.writable {
		return store.ErrReadOnly
	}
	s, _ := x.tree.get(space)
	if _, found := s.get(key); found {
		x.replace(space, s.remove(key))
	}
	return nil
}

// Scan is store.Tx's.
func (x *tx) Scan(space, from string, fn func(key string, value []byte) bool) error {
	s, _ := x.tree.get(space)
	s.scan(from, fn)
	return nil
}

// Drop is store.Tx's.
func (x *tx) Drop(space string) error {
	if !x.writable {
		return store.ErrReadOnly
	}
	if _, found := x.tree.get(space); found {
		x.tree = x.tree.remove(space)
	}
	return nil
}

// Spaces is store.Tx's. It names the spaces that there were when it was called.
func (x *tx) Spaces(from string, fn func(space string) bool) error {
	x.tree.scan(from, func(name string, _ space) bool { return fn(name) })
	return nil
}

func (x *tx) replace(name string, s space) {
	x.tree = x.tree.put(strings.Clone(name), x.seed.rank(name), s)
}
