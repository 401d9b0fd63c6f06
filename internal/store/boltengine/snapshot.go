package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
)

// Snapshot writes a consistent copy to a new file at path, which it syncs and checks. It holds one view open while it copies, so
// the data file grows by what is written meanwhile. If it fails, it leaves no file.
func (e *Engine) Snapshot(ctx context.Context, path string) (err error) {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.running.Done()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating the copy: %w", err)
	}
	w := &ctxWriter{ctx: ctx, w: f}
	if err = e.copyTo(w); w.err != nil {
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

func (e *Engine) copyTo(w io.Writer) (err error) {
	defer e.recoverFault(debug.SetPanicOnFault(true), &err)
	t, err := e.db.Begin(false)
	if err != nil {
		return e.die(fmt.Errorf("beginning a view: %w", err))
	}
	defer func() { _ = t.Rollback() }()
	_, err = t.WriteTo(w)
	return err
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
