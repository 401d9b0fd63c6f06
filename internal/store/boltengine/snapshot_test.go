package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/quotad/quotad/internal/store"
)

// TestSnapshot copies while updates run that each write the same number in two spaces.
func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "data"), Options{Create: true})
	if _, err := fillUp(e, "ballast", 5000); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	ended := make(chan error, 1)
	go func() {
		for i := 0; !stop.Load(); i++ {
			v := fmt.Appendf(nil, "%d", i)
			if err := e.Update(t.Context(), func(tx store.Tx) error {
				return errors.Join(tx.Put("a", "n", v), tx.Put("b", "n", v), tx.Put("more", string(v), v))
			}); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	for i := range 10 {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := e.Snapshot(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("the copy has mode %v, %v", info.Mode(), err)
		}
		c, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := get(t, c, "a", "n"), get(t, c, "b", "n"); a != b {
			t.Errorf("the copy holds half of a transaction: %q and %q", a, b)
		}
		if err := c.View(t.Context(), func(tx store.Tx) error { return countIs(tx, "ballast", 5000) }); err != nil {
			t.Error(err)
		}
		shut(t, c)
	}
	stop.Store(true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	shut(t, e)
}

func TestSnapshotRefuses(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "data"), Options{Create: true})
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Snapshot(t.Context(), taken); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want ErrExist", err)
	}
	if b, err := os.ReadFile(taken); string(b) != "precious" {
		t.Errorf("the file became %q, %v", b, err)
	}
	path := filepath.Join(dir, "copy")
	ctx := &endsLater{Context: t.Context(), after: 2}
	if err := e.Snapshot(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy that failed was left: %v", err)
	}
	shut(t, e)
	if err := e.Snapshot(t.Context(), path); !errors.Is(err, store.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
}

// A copy for which there is no room is not begun, and its error is not taken for that of a full ledger.
func TestSnapshotNeedsRoom(t *testing.T) {
	dir := t.TempDir()
	e := open(t, filepath.Join(dir, "data"), Options{Create: true})
	if _, err := fillUp(e, "ballast", 5000); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "copy")
	bytes, _ := e.Size()
	for _, c := range []struct {
		free int64
		ok   bool
	}{{0, false}, {bytes, false}, {copyMargin, false}, {bytes + copyMargin, true}} {
		err := e.snapshot(t.Context(), path, func(of string) (int64, error) {
			if of != dir {
				t.Errorf("asked how much is free in %s, want %s", of, dir)
			}
			return c.free, nil
		})
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, syscall.ENOSPC) || errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrUnknown) {
			t.Errorf("with %d bytes free: %v", c.free, err)
		}
		if _, err := os.Stat(path); c.ok != (err == nil) {
			t.Errorf("with %d bytes free the copy is there: %v", c.free, err)
		}
	}
	blind := errors.New("cannot tell")
	err := e.snapshot(t.Context(), filepath.Join(dir, "second"), func(string) (int64, error) { return 0, blind })
	if !errors.Is(err, blind) {
		t.Errorf("%v, want %v", err, blind)
	}
	if err := put(e, "a", "k", "v"); err != nil {
		t.Errorf("the ledger after a copy that was refused: %v", err)
	}
	shut(t, e)
	if free, err := freeSpace(dir); err != nil || free <= 0 {
		t.Errorf("%d bytes free, %v", free, err)
	}
	if _, err := freeSpace(filepath.Join(dir, "missing")); err == nil && runtime.GOOS == "linux" {
		t.Error("a directory that is missing has room")
	}
}

// endsLater is a context that is found ended when it has been asked a number of times.
type endsLater struct {
	context.Context
	after int
}

func (c *endsLater) Err() error {
	if c.after--; c.after < 0 {
		return context.Canceled
	}
	return nil
}
