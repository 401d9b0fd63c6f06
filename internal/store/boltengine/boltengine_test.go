package boltengine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/enginetest"
)

// childVar names the part that this binary plays when a test starts it again, as faults of some kinds end a process.
const childVar = "QUOTAD_BOLTENGINE_CHILD"

func TestMain(m *testing.M) {
	if part := os.Getenv(childVar); part != "" {
		play(os.Stdout, part, os.Args[1:])
		return
	}
	goleak.VerifyTestMain(m)
}

// part is what a child does: it says on a writer how it went.
type part func(out io.Writer, args []string) error

func play(out io.Writer, name string, args []string) {
	parts := faultParts()
	parts["mutations"], parts["mutations-raw"] = playMutations, playMutations
	if err := parts[name](out, args); err != nil {
		fmt.Fprintln(out, "error:", err)
	}
	fmt.Fprintln(out, "end")
}

// spawn runs a part in a process of its own and returns what it printed. A part that does not reach its end is an error.
func spawn(t *testing.T, prefix []string, part string, args ...string) ([]string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	line := slices.Concat(prefix, []string{self}, args)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = append(os.Environ(), childVar+"="+part, "GORACE=atexit_sleep_ms=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		lines = append(lines, s.Text())
	}
	if err != nil {
		return lines, fmt.Errorf("%s died: %w\n%.2000s", part, err, stderr.String())
	}
	if !slices.Contains(lines, "end") {
		return lines, fmt.Errorf("%s ended too early", part)
	}
	return lines, nil
}

func TestEngine(t *testing.T) {
	at := func(t *testing.T, dir string) store.Engine {
		t.Helper()
		return open(t, dir, Options{Create: true})
	}
	enginetest.Run(t, func(t *testing.T) store.Engine {
		t.Helper()
		return at(t, t.TempDir())
	})
	enginetest.RunDurable(t, at)
}

// open opens a directory. Whoever calls it closes the engine.
func open(tb testing.TB, dir string, o Options) *Engine {
	tb.Helper()
	e, err := Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// shut closes an engine and looks for views that were left open.
func shut(tb testing.TB, e *Engine) {
	tb.Helper()
	if n := e.OpenReaders(); n != 0 {
		tb.Errorf("%d views were left open", n)
	}
	if err := e.Close(); err != nil {
		tb.Error(err)
	}
}

func put(e *Engine, space, key, value string) error {
	return e.Update(context.Background(), func(tx store.Tx) error { return tx.Put(space, key, []byte(value)) })
}

func get(tb testing.TB, e *Engine, space, key string) string {
	tb.Helper()
	var value string
	if err := e.View(tb.Context(), func(tx store.Tx) error {
		v, err := tx.Get(space, key)
		value = string(v)
		return err
	}); err != nil {
		tb.Fatal(err)
	}
	return value
}

func TestOpenMissing(t *testing.T) {
	dir := t.TempDir()
	for name, at := range map[string]string{"no directory": filepath.Join(dir, "none"), "no file": dir} {
		_, err := Open(at, Options{})
		if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "--create") {
			t.Errorf("%s: %v, want ErrMissing and a hint", name, err)
		}
		if _, err := Open(at, Options{ReadOnly: true}); !errors.Is(err, ErrMissing) {
			t.Errorf("%s, read-only: %v, want ErrMissing", name, err)
		}
	}
	if left := list(t, dir); len(left) != 0 {
		t.Errorf("a refusal left %v behind", left)
	}
	if _, err := OpenFile(filepath.Join(dir, "none")); !errors.Is(err, ErrMissing) {
		t.Errorf("OpenFile: %v, want ErrMissing", err)
	}
}

// TestLostFile takes the file away between two runs: the second must not begin anew.
func TestLostFile(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir, Options{Create: true})
	shut(t, e)
	if err := os.Remove(e.Path()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrMissing) {
		t.Errorf("%v, want ErrMissing", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"small limit": {Create: true, MaxSize: MinMaxSize - 1}, "negative limit": {Create: true, MaxSize: -1}, "create read-only": {Create: true, ReadOnly: true},
	} {
		if e, err := Open(t.TempDir(), o); err == nil {
			t.Errorf("%s: opened", name)
			shut(t, e)
		}
	}
	for name, make := range map[string]func(path string) error{
		"empty":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"text":      func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("hello\n"), 5000), 0o600) },
		"zeros":     func(path string) error { return os.WriteFile(path, make([]byte, 1<<16), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		for _, o := range []Options{{}, {Create: true}, {ReadOnly: true}} {
			dir := t.TempDir()
			if err := make(filepath.Join(dir, FileName)); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, o); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s with %+v: %v, want ErrDamaged", name, o, err)
			}
		}
	}
}

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	e := open(t, dir, Options{Create: true})
	if err := put(e, "a", "k", "v"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700 | fs.ModeDir, e.Path(): 0o600, filepath.Join(dir, LockName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if got, want := list(t, dir), []string{LockName, FileName}; !slices.Equal(got, want) {
		t.Errorf("the directory holds %v, want %v", got, want)
	}
	if bytes, most := e.Size(); bytes <= 0 || most != DefaultMaxSize {
		t.Errorf("Size() = %d, %d", bytes, most)
	}
	pid, err := os.ReadFile(filepath.Join(dir, LockName))
	if err != nil || string(pid) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("the lock file says %q, %v", pid, err)
	}
	shut(t, e)
	e = open(t, dir, Options{Create: true}) // creates nothing where there is something
	if got := get(t, e, "a", "k"); got != "v" {
		t.Errorf("after opening again got %q", got)
	}
	shut(t, e)
}

// TestCreateLeftovers: what an interrupted creation left goes away, but only under the lock, and does not become the file.
func TestCreateLeftovers(t *testing.T) {
	t.Parallel() // it waits for locks
	dir := t.TempDir()
	left := filepath.Join(dir, FileName+".new-123")
	if err := os.WriteFile(left, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := lockDir(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Create: true}); !errors.Is(err, ErrLocked) {
		t.Errorf("%v, want ErrLocked", err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Errorf("a file of another process was taken away: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	shut(t, open(t, dir, Options{Create: true}))
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unfinished file is still there: %v", err)
	}
}

// TestCreateDoesNotReplace: a file that appears while another is made aside stays.
func TestCreateDoesNotReplace(t *testing.T) {
	dir := t.TempDir()
	aside, path := filepath.Join(dir, "aside"), filepath.Join(dir, FileName)
	if err := errors.Join(os.WriteFile(aside, []byte("new"), 0o600), os.WriteFile(path, []byte("restored"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := giveName(aside, path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want ErrExist", err)
	}
	if b, err := os.ReadFile(path); string(b) != "restored" {
		t.Errorf("the file became %q, %v", b, err)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel() // it waits for locks
	dir := t.TempDir()
	e := open(t, dir, Options{Create: true})
	for name, again := range map[string]func() error{
		"second":    func() error { _, err := Open(dir, Options{}); return err },
		"creating":  func() error { _, err := Open(dir, Options{Create: true}); return err },
		"read-only": func() error { _, err := Open(dir, Options{ReadOnly: true}); return err },
		"file":      func() error { return CheckFile(e.Path()) },
	} {
		start := time.Now()
		err := again()
		if took := time.Since(start); !errors.Is(err, ErrLocked) || took > time.Second {
			t.Errorf("%s: %v after %v, want ErrLocked within a second", name, err, took)
		}
		if pid := fmt.Sprintf("process %d", os.Getpid()); name != "file" && !strings.Contains(err.Error(), pid) {
			t.Errorf("%s: %v does not name %s", name, err, pid)
		}
	}
	// Without the lock file, which nobody should delete, the lock on the data file itself holds.
	if err := os.Remove(filepath.Join(dir, LockName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("without the lock file: %v, want ErrLocked", err)
	}
	shut(t, e)
	shut(t, open(t, dir, Options{}))
}

func TestReadOnly(t *testing.T) {
	t.Parallel() // it waits for locks
	dir := t.TempDir()
	e := open(t, dir, Options{Create: true})
	if err := put(e, "a", "k", "v"); err != nil {
		t.Fatal(err)
	}
	shut(t, e)
	if err := os.Remove(filepath.Join(dir, LockName)); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(e.Path())
	if err != nil {
		t.Fatal(err)
	}
	one, two := open(t, dir, Options{ReadOnly: true}), open(t, dir, Options{ReadOnly: true})
	if got := get(t, two, "a", "k"); got != "v" {
		t.Errorf("got %q", got)
	}
	if err := put(one, "a", "k", "w"); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Update: %v, want ErrReadOnly", err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("a writer beside readers: %v, want ErrLocked", err)
	}
	shut(t, one)
	shut(t, two)
	if err := CheckFile(e.Path()); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(e.Path()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("reading changed the file, %v", err)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
