package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/quotad/quotad/internal/store"
)

// faultParts are the parts of this file.
func faultParts() map[string]part {
	return map[string]part{"limit": playLimit, "inject": playUpdates, "truncate": playTruncate}
}

func TestNetworkFS(t *testing.T) {
	for magic, refuse := range map[int64]bool{0x6969: true, 0xff534d42: true, 0xfe534d42: true, unix.EXT4_SUPER_MAGIC: false, unix.TMPFS_MAGIC: false} {
		if err := refuseMagic("dir", magic); (err != nil) != refuse {
			t.Errorf("file system %#x: %v", magic, err)
		}
	}
}

// device puts a device where the engine's file was, under the same descriptor, and returns how to put the file back. Writes to
// /dev/full fail with ENOSPC; writes to /dev/null succeed, and its sync fails.
func device(t *testing.T, e *Engine, name string) (restore func()) {
	t.Helper()
	fd := int(e.file.Fd())
	dev, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := unix.Dup(fd)
	if err == nil {
		err = unix.Dup3(int(dev.Fd()), fd, unix.O_CLOEXEC)
	}
	if err := errors.Join(err, dev.Close()); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(unix.Dup3(saved, fd, unix.O_CLOEXEC), unix.Close(saved)); err != nil {
			t.Fatal(err)
		}
	}
}

// settled returns an engine that need not grow for a while.
func settled(t *testing.T) *Engine {
	t.Helper()
	e := open(t, t.TempDir(), Options{Create: true})
	if err := put(e, "a", "k", "before"); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestWriteFails: a disk that is full refuses, and the engine goes on by itself when it is not.
func TestWriteFails(t *testing.T) {
	e := settled(t)
	restore := device(t, e, "/dev/full")
	for range 3 {
		if err := put(e, "a", "k", "lost"); !errors.Is(err, store.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v, want ErrFull and ENOSPC", err)
		}
	}
	restore()
	if got := get(t, e, "a", "k"); got != "before" {
		t.Errorf("a refused write shows: %q", got)
	}
	if err := put(e, "a", "k", "after"); err != nil {
		t.Error(err)
	}
	shut(t, e)
	e = open(t, filepath.Dir(e.Path()), Options{})
	if got := get(t, e, "a", "k"); got != "after" {
		t.Errorf("after opening again got %q", got)
	}
	shut(t, e)
}

// TestSyncFails: a sync that fails ends all use, though bbolt would go on.
func TestSyncFails(t *testing.T) {
	e := settled(t)
	restore := device(t, e, "/dev/null")
	err := put(e, "a", "k", "perhaps")
	restore()
	if !errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrFull) {
		t.Fatalf("%v, want ErrUnknown", err)
	}
	ran := false
	fn := func(store.Tx) error { ran = true; return nil }
	for name, run := range map[string]func(context.Context, func(store.Tx) error) error{"Update": e.Update, "View": e.View} {
		if err := run(t.Context(), fn); !errors.Is(err, store.ErrUnknown) {
			t.Errorf("%s after that returned %v, want ErrUnknown", name, err)
		}
	}
	if err := e.Snapshot(t.Context(), filepath.Join(t.TempDir(), "copy")); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("Snapshot after that returned %v, want ErrUnknown", err)
	}
	if ran {
		t.Error("a function was run after the engine had died")
	}
	shut(t, e)
	shut(t, open(t, filepath.Dir(e.Path()), Options{}))
}

// TestDescriptorGone: neither a write nor a sync is possible.
func TestDescriptorGone(t *testing.T) {
	e := settled(t)
	restore := device(t, e, "/dev/zero")
	fd := int(e.file.Fd())
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	err := put(e, "a", "k", "perhaps")
	restore()
	if !errors.Is(err, store.ErrUnknown) || !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v, want ErrUnknown and EBADF", err)
	}
	shut(t, e)
}

// TestDiskFull fills a real file system, of memory.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("quotad", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	e := open(t, data, Options{Create: true})
	kept, err := fillUp(e, "a", 10_000)
	if !errors.Is(err, store.ErrFull) || kept == 0 {
		t.Fatalf("after %d keys: %v, want ErrFull", kept, err)
	}
	if err := e.View(t.Context(), func(tx store.Tx) error { return countIs(tx, "a", kept) }); err != nil {
		t.Error(err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if more, err := fillUp(e, "b", 1000); err != nil {
		t.Errorf("with room again: %v after %d keys", err, more)
	}
	shut(t, e)
	e = open(t, data, Options{})
	if err := e.View(t.Context(), func(tx store.Tx) error { return errors.Join(countIs(tx, "a", kept), countIs(tx, "b", 1000)) }); err != nil {
		t.Error(err)
	}
	shut(t, e)
}

// TestFileSizeLimit: the file cannot be made longer.
func TestFileSizeLimit(t *testing.T) {
	dir := t.TempDir()
	shut(t, open(t, dir, Options{Create: true}))
	lines, err := spawn(t, nil, "limit", dir)
	if err != nil || !slices.Equal(lines, []string{"full", "small ok", "end"}) {
		t.Errorf("%q, %v", lines, err)
	}
	shut(t, open(t, dir, Options{}))
}

func playLimit(out io.Writer, args []string) error {
	e, err := Open(args[0], Options{})
	if err != nil {
		return err
	}
	size, _ := e.Size()
	limit := &unix.Rlimit{Cur: uint64(size), Max: uint64(size)}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, limit); err != nil {
		return err
	}
	if _, err := fillUp(e, "a", 1000); !errors.Is(err, store.ErrFull) {
		return fmt.Errorf("%w, want ErrFull", err)
	}
	fmt.Fprintln(out, "full")
	if err := e.Update(context.Background(), func(store.Tx) error { return nil }); err != nil {
		return err
	}
	if err := e.View(context.Background(), func(tx store.Tx) error { return countIs(tx, "a", 0) }); err != nil {
		return err
	}
	fmt.Fprintln(out, "small ok")
	return e.Close()
}

// TestTruncated cuts the file short under a running engine: reading what is gone is a fault of memory, which must become an error.
func TestTruncated(t *testing.T) {
	for _, size := range []string{"8192", "0"} {
		dir := t.TempDir()
		e := open(t, dir, Options{Create: true})
		if _, err := fillUp(e, "a", 5000); err != nil {
			t.Fatal(err)
		}
		shut(t, e)
		if lines, err := spawn(t, nil, "truncate", dir, size); err != nil || !slices.Equal(lines, []string{"end"}) {
			t.Errorf("cut to %s: %q, %v", size, lines, err)
		}
	}
}

func playTruncate(_ io.Writer, args []string) error {
	e, err := Open(args[0], Options{})
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err := errors.Join(err, os.Truncate(e.Path(), size)); err != nil {
		return err
	}
	for range 3 {
		if err := e.View(context.Background(), func(tx store.Tx) error { return countIs(tx, "a", 5000) }); !errors.Is(err, store.ErrUnknown) || !errors.Is(err, ErrDamaged) {
			return fmt.Errorf("View: %w, want ErrUnknown and ErrDamaged", err)
		}
		if err := put(e, "a", "k", "v"); !errors.Is(err, store.ErrUnknown) {
			return fmt.Errorf("Update: %w, want ErrUnknown", err)
		}
	}
	return e.Close()
}

// TestInjected fails the n-th call of a kind, in the kernel's name, and holds the engine to what it said.
func TestInjected(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	faults := []string{"fdatasync:error=EIO", "pwrite64:error=ENOSPC", "pwrite64:error=EIO", "ftruncate:error=ENOSPC", "fsync:error=EIO"}
	last := 5
	if os.Getenv("QUOTAD_LONG") != "" {
		last = 40
	}
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			said := map[string]int{}
			for n := 1; n <= last; n++ {
				dir := t.TempDir()
				shut(t, open(t, dir, Options{Create: true}))
				how := []string{strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + strings.Split(fault, ":")[0], "-e", fmt.Sprintf("inject=%s:when=%d", fault, n)}
				lines, err := spawn(t, how, "inject", dir)
				if err != nil {
					if strings.Contains(err.Error(), "ptrace") {
						t.Skip(err)
					}
					t.Errorf("call %d: %v", n, err)
				}
				for what, count := range verifySaid(t, dir, lines) {
					said[what] += count
				}
			}
			t.Log(said)
		})
	}
}

// verifySaid checks the file against what a child said about its updates, and counts the answers.
func verifySaid(t *testing.T, dir string, lines []string) map[string]int {
	t.Helper()
	e := open(t, dir, Options{})
	defer shut(t, e)
	said := map[string]int{}
	for _, line := range lines {
		what, key, _ := strings.Cut(line, " ")
		if key == "" {
			continue
		}
		if said[what]++; what == "wrong" || what == "error:" && !strings.Contains(line, "error") {
			t.Errorf("it said %q", line)
		}
		there := get(t, e, "a", key) != ""
		if what == "kept" && !there {
			t.Errorf("%s was acknowledged, and is gone", key)
		}
		if what == "full" && there {
			t.Errorf("%s was refused, and is there", key)
		}
		if what == "kept" && said["unknown"] > 0 {
			t.Errorf("%s was acknowledged after a failed sync", key)
		}
	}
	return said
}

// playUpdates makes updates and says how each went.
func playUpdates(out io.Writer, args []string) error {
	e, err := Open(args[0], Options{})
	if err != nil {
		return fmt.Errorf("refused: %w", err)
	}
	for i := range 8 {
		key := strconv.Itoa(i)
		switch err := put(e, "a", key, strings.Repeat("v", 3000*i+1)); {
		case err == nil:
			fmt.Fprintln(out, "kept", key)
		case errors.Is(err, store.ErrFull):
			fmt.Fprintln(out, "full", key)
		case errors.Is(err, store.ErrUnknown):
			fmt.Fprintln(out, "unknown", key)
		default:
			fmt.Fprintln(out, "wrong", key, err)
		}
	}
	return e.Close()
}
