package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
)

// copyMargin is how many bytes a copy leaves free on its file system, so that whoever else writes there, perhaps the ledger
// itself, does not find it full.
const copyMargin = 64 << 20

// Snapshot writes a consistent copy to a new file at path, which it syncs and checks. It holds one view open while it copies, so
// the data file grows by what is written meanwhile. If it fails, it leaves no file. Where the file system tells how much is free,
// a copy that would leave less than 64 MiB is not begun; the error is then syscall.ENOSPC, which says nothing about the ledger.
func (e *Engine) Snapshot(ctx context.Context, path string) error {
	return e.snapshot(ctx, path, freeSpace)
}

// snapshot is Snapshot on a file system that has so many bytes free.
func (e *Engine) snapshot(ctx context.Context, path string, free func(dir string) (int64, error)) (err error) {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.running.Done()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating the copy: %w", err)
	}
	w := &ctxWriter{ctx: ctx, w: f}
	room := func(need int64) error { return enough(filepath.Dir(path), need, free) }
	if err = e.copyTo(w, room); w.err != nil {
		err = w.err // bbolt keeps only its text
	}
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = CheckFile(path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("copying to %s: %w", path, err), os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

// copyTo writes a consistent copy to w, if there is room for as many bytes.
func (e *Engine) copyTo(w io.Writer, room func(need int64) error) (err error) {
	defer e.recoverFault(debug.SetPanicOnFault(true), &err)
	var v view
	e.views.begin(&v)
	defer e.views.end(&v)
	t, err := e.db.Begin(false)
	if err != nil {
		return e.die(fmt.Errorf("beginning a view: %w", err))
	}
	defer func() { _ = t.Rollback() }()
	if err := room(t.Size()); err != nil {
		return err
	}
	_, err = t.WriteTo(w)
	return err
}

// enough refuses a copy that would not leave copyMargin free.
func enough(dir string, need int64, free func(dir string) (int64, error)) error {
	has, err := free(dir)
	if err != nil {
		return fmt.Errorf("asking how much is free in %s: %w", dir, err)
	}
	if has-copyMargin < need {
		return fmt.Errorf("the copy has %d bytes and is to leave %d free, and %s has %d: %w",
			need, int64(copyMargin), dir, has, syscall.ENOSPC)
	}
	return nil
}

// ctxWriter stops a copy when its caller has gone, and remembers what stopped it.
type ctxWriter struct {
	ctx context.Context //nolint:containedctx // it lives as long as the call
	w   io.Writer
	err error
}

func (w *ctxWriter) Write(b []byte) (n int, err error) {
	if w.err = w.ctx.Err(); w.err == nil {
		n, w.err = w.w.Write(b)
	}
	return n, w.err
}

// CheckFile checks the structure of any one data file, such as a backup, as Open would. What its records say is not looked at.
// It does not write, and returns ErrMissing, ErrLocked or ErrDamaged.
func CheckFile(path string) error {
	e, err := OpenFile(path)
	if err != nil {
		return err
	}
	return e.Close()
}
