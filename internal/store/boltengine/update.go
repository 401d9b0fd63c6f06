package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"strings"
	"syscall"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/quotad/quotad/internal/store"
)

// Update is store.Engine's. It runs fn once.
func (e *Engine) Update(ctx context.Context, fn func(store.Tx) error) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.running.Done()
	if e.readOnly {
		return store.ErrReadOnly
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	if err := e.alive(); err != nil { // it may have died while this call waited
		return err
	}
	return e.update(fn)
}

func (e *Engine) update(fn func(store.Tx) error) (err error) {
	defer e.recoverFault(debug.SetPanicOnFault(true), &err)
	t, err := e.db.Begin(true)
	if err != nil {
		return e.die(fmt.Errorf("beginning a transaction: %w", err))
	}
	e.kept.reset()
	x := &tx{bolt: t, kept: &e.kept}
	defer x.end()
	if err := fn(x); err != nil {
		return err
	}
	if !x.dirty {
		return nil
	}
	return e.commit(t)
}

// View is store.Engine's. It may show a commit before it is durable.
func (e *Engine) View(ctx context.Context, fn func(store.Tx) error) (err error) {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.running.Done()
	defer e.recoverFault(debug.SetPanicOnFault(true), &err)
	var v view
	e.views.begin(&v)
	defer e.views.end(&v)
	t, err := e.db.Begin(false)
	if err != nil {
		return e.die(fmt.Errorf("beginning a view: %w", err))
	}
	x := &tx{bolt: t}
	defer x.end()
	return fn(x)
}

// commit commits t, and sorts what went wrong into a refusal and the end.
func (e *Engine) commit(t *bolt.Tx) error {
	id := t.ID()
	panicked := true
	defer func() {
		if panicked {
			_ = e.die(errors.New("a commit panicked"))
		}
	}()
	err := t.Commit()
	panicked = false
	switch {
	case err == nil:
		return e.alive() // Watch may have found meanwhile that the file is gone
	case refused(err) && e.lastCommit() < id:
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	default:
		return e.die(fmt.Errorf("committing: %w", err))
	}
}

// lastCommit returns the id of the newest transaction that readers see. A refused commit that they see after all was none.
func (e *Engine) lastCommit() int {
	t, err := e.db.Begin(false)
	if err != nil {
		return int(^uint(0) >> 1)
	}
	defer func() { _ = t.Rollback() }()
	return t.ID()
}

// refused tells whether bbolt gave up a commit for want of room, before it wrote its meta page. These are the ways in bbolt 1.5:
//
//   - no page could be had below MaxSize: ErrMaxSizeReached, as it is;
//   - a page could not be written: the *fs.PathError of (*os.File).WriteAt;
//   - the file could not be made longer: a text that ends with that of the errno, as bbolt does not wrap it.
//
// A sync that fails is a bare errno, or the text "file sync error" after growing. It never counts as a refusal, not even with
// ENOSPC: what the disk then holds is not known.
func refused(err error) bool {
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		return true
	}
	var path *fs.PathError
	grow := strings.HasPrefix(err.Error(), "file resize error: ")
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if grow && strings.HasSuffix(err.Error(), full.Error()) {
			return true
		}
		if errors.As(err, &path) && path.Op == "write" && errors.Is(path.Err, full) {
			return true
		}
	}
	return false
}

// recoverFault turns a fault in the mapped file, which was cut short or cannot be read, into an error and the end of all use.
// Deferred with the goroutine's earlier setting. Any other panic goes on: it is a defect, not the disk.
func (e *Engine) recoverFault(earlier bool, err *error) {
	debug.SetPanicOnFault(earlier)
	r := recover()
	if r == nil {
		return
	}
	if _, fault := r.(interface{ Addr() uintptr }); !fault {
		panic(r)
	}
	e.faulted.Store(true)
	*err = e.die(fmt.Errorf("%w: reading %s: %v", ErrDamaged, e.path, r))
}
