package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/quotad/quotad/internal/store"
)

// TestRefused sorts errors as the parts of bbolt give them.
func TestRefused(t *testing.T) {
	write := func(e syscall.Errno) error { return &fs.PathError{Op: "write", Path: "quotad.db", Err: e} }
	grow := func(e syscall.Errno) error {
		return errors.New("file resize error: " + (&fs.PathError{Op: "truncate", Path: "quotad.db", Err: e}).Error())
	}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{berrors.ErrMaxSizeReached, true},
		{fmt.Errorf("mmap allocate error: %w", berrors.ErrMaxSizeReached), true},
		{write(syscall.ENOSPC), true},
		{write(syscall.EDQUOT), true},
		{write(syscall.EFBIG), true},
		{grow(syscall.ENOSPC), true},
		{grow(syscall.EFBIG), true},
		{write(syscall.EIO), false},
		{write(syscall.EROFS), false},
		{write(syscall.EBADF), false},
		{grow(syscall.EIO), false},
		{syscall.EIO, false},
		{syscall.ENOSPC, false}, // a bare errno came from a sync
		{errors.New("file sync error: " + syscall.ENOSPC.Error()), false},
		{&fs.PathError{Op: "sync", Path: "quotad.db", Err: syscall.ENOSPC}, false},
		{errors.New("mmap allocate error: cannot allocate memory"), false},
		{berrors.ErrInvalidMapping, false},
	} {
		if got := refused(c.err); got != c.want {
			t.Errorf("refused(%v) = %v", c.err, got)
		}
	}
}

// TestEmptyUpdate: a transaction that wrote nothing leaves the file as it was, to the byte.
func TestEmptyUpdate(t *testing.T) {
	e := open(t, t.TempDir(), Options{Create: true})
	defer shut(t, e)
	if err := put(e, "a", "k", "v"); err != nil {
		t.Fatal(err)
	}
	before := e.lastCommit()
	for range 10 {
		if err := e.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.Get("a", "k")
			return errors.Join(err, tx.Delete("a", "none"), tx.Drop("none"), tx.Scan("a", "", func(string, []byte) bool { return true }))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if after := e.lastCommit(); after != before {
		t.Errorf("empty updates made %d commits", after-before)
	}
	if err := put(e, "a", "k", "w"); err != nil || e.lastCommit() != before+1 {
		t.Errorf("a write made %d commits, %v", e.lastCommit()-before, err) // or this test proves nothing
	}
}

// TestPutErrors: what bbolt refuses comes back as it is, and the engine goes on.
func TestPutErrors(t *testing.T) {
	e := open(t, t.TempDir(), Options{Create: true})
	defer shut(t, e)
	if err := put(e, "a", strings.Repeat("k", 1<<16), "v"); !errors.Is(err, berrors.ErrKeyTooLarge) {
		t.Errorf("%v, want ErrKeyTooLarge", err)
	}
	if err := put(e, "a", "k", "v"); err != nil {
		t.Error(err)
	}
}

// TestCommitPanic: what bbolt leaves when it panics in a commit is not known.
func TestCommitPanic(t *testing.T) {
	e := open(t, t.TempDir(), Options{Create: true})
	defer shut(t, e)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_ = e.Update(t.Context(), func(x store.Tx) error {
			x.(*tx).bolt.OnCommit(func() { panic("on purpose") })
			return x.Put("a", "k", nil)
		})
	}()
	if err := put(e, "a", "k", "v"); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("%v, want ErrUnknown", err)
	}
}

// TestMaxSize fills a small file and goes on: what is there can be changed and taken away, and then there is room again.
func TestMaxSize(t *testing.T) {
	for _, most := range []int64{MinMaxSize, 20 << 20, 40 << 20} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			dir := t.TempDir()
			e := open(t, dir, Options{Create: true, MaxSize: most})
			kept, err := fillUp(e, "used/1", int(most/100))
			if !errors.Is(err, store.ErrFull) {
				t.Fatalf("after %d keys: %v, want ErrFull", kept, err)
			}
			if err := e.View(t.Context(), func(tx store.Tx) error { return countIs(tx, "used/1", kept) }); err != nil {
				t.Error(err)
			}
			for i := range 50 {
				if err := put(e, "used/1", fmt.Sprintf("%08d", i), "overwritten"+strings.Repeat(".", 489)); err != nil {
					t.Fatalf("overwriting in a full file: %v", err)
				}
			}
			if size, limit := e.Size(); size > most || limit != most {
				t.Errorf("the file has %d bytes, of %d allowed", size, most)
			}
			if err := e.Update(t.Context(), func(tx store.Tx) error { return tx.Drop("used/1") }); err != nil {
				t.Fatalf("dropping in a full file: %v", err)
			}
			if again, _ := fillUp(e, "used/2", kept/2); again < kept/2 {
				t.Errorf("after the drop there was room for %d keys, where %d had been", again, kept)
			}
			shut(t, e)
			e = open(t, dir, Options{MaxSize: most})
			if got := get(t, e, "used/2", "00000001"); len(got) != 500 {
				t.Errorf("after opening again got %d bytes", len(got))
			}
			shut(t, e)
		})
	}
}

// fillUp puts values of 500 bytes, in batches, until there are n or one is refused. It returns how many were kept.
func fillUp(e *Engine, space string, n int) (int, error) {
	value := make([]byte, 500)
	for kept := 0; ; {
		batch := min(max(100, n/50), n-kept)
		if batch == 0 {
			return kept, nil
		}
		if err := e.Update(context.Background(), func(tx store.Tx) error {
			for i := kept; i < kept+batch; i++ {
				if err := tx.Put(space, fmt.Sprintf("%08d", i), value); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return kept, err
		}
		kept += batch
	}
}

func countIs(tx store.Tx, space string, want int) error {
	n := 0
	if err := tx.Scan(space, "", func(string, []byte) bool { n++; return true }); err != nil {
		return err
	}
	if n != want {
		return fmt.Errorf("%s holds %d keys, want %d", space, n, want)
	}
	return nil
}

// TestOpenLarger: a limit below what the file has already is no reason not to read it.
func TestOpenLarger(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir, Options{Create: true})
	if _, err := fillUp(e, "a", 5000); err != nil {
		t.Fatal(err)
	}
	shut(t, e)
	e = open(t, dir, Options{MaxSize: MinMaxSize})
	defer shut(t, e)
	if err := put(e, "a", "00000000", "v"); err != nil && !errors.Is(err, store.ErrFull) {
		t.Error(err)
	}
	if _, err := fillUp(e, "b", 10_000); !errors.Is(err, store.ErrFull) {
		t.Errorf("%v, want ErrFull", err)
	}
	if _, err := os.Stat(e.Path()); err != nil {
		t.Error(err)
	}
}
