package boltengine

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

const (
	// A lock is tried for half a second: a predecessor that was killed may take a moment to go.
	lockTries = 26
	lockPause = 20 * time.Millisecond

	// mapSize is how much of the address space a file gets from the start. bbolt cannot map it anew while a view is open, so
	// a growing file would make the writer wait for readers. It is no memory, and a larger file gets what it needs.
	mapSize = 256 << 20

	asidePattern = FileName + ".new-*"
)

// prepareDir makes the directory if asked to, and refuses file systems that cannot keep the promises.
func prepareDir(dir string, create bool) error {
	if create {
		if err := makeDir(filepath.Clean(dir)); err != nil {
			return fmt.Errorf("making the data directory: %w", err)
		}
	}
	return refuseNetworkFS(dir)
}

// makeDir makes dir and the directories above it where there are none, each durable.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err // nil if it is there
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// lockDir takes the directory's lock and writes the process id into it, for people to read. A read-only caller shares the lock
// with its like, and does without where there is no lock file, as in a copy on read-only media.
func lockDir(dir string, readOnly bool) (*os.File, error) {
	path := filepath.Join(dir, LockName)
	for {
		flag, how := os.O_RDWR|os.O_CREATE, unix.LOCK_EX
		if readOnly {
			flag, how = os.O_RDONLY, unix.LOCK_SH
		}
		f, err := os.OpenFile(path, flag, 0o600)
		if readOnly && errors.Is(err, fs.ErrNotExist) {
			return nil, nil //nolint:nilnil // no lock file, so no lock to hold
		}
		if err != nil {
			return nil, fmt.Errorf("opening the lock file: %w", err)
		}
		if err := flock(f, how); err != nil {
			_ = f.Close()
			return nil, err
		}
		if !samePath(f, path) { // somebody deleted it while this process waited: this lock excludes nobody
			_ = f.Close()
			continue
		}
		if readOnly {
			return f, nil
		}
		if err := writePID(f); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("writing the process id into %s: %w", path, err)
		}
		return f, nil
	}
}

// Lock takes a data directory as an engine does, for a program that puts a file in place of the one there. It returns ErrLocked
// after half a second if another process has it.
func Lock(dir string) (release func() error, err error) {
	f, err := lockDir(dir, false)
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// flock locks f, or returns ErrLocked after half a second.
func flock(f *os.File, how int) error {
	for range lockTries {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		time.Sleep(lockPause)
	}
	return fmt.Errorf("%w: %s is locked%s", ErrLocked, f.Name(), owner(f))
}

// owner names the process that wrote its id into a lock file, if one did.
func owner(f *os.File) string {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil && filepath.Base(f.Name()) == LockName {
		return fmt.Sprintf(" by process %d", pid)
	}
	return ""
}

// samePath tells whether path leads to f.
func samePath(f *os.File, path string) bool {
	here, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(here, there)
}

// createIfMissing makes a data file aside and gives it its name when it is whole and on the disk: losing power while bbolt
// writes its first pages would leave a file that it cannot open. The caller holds the directory's lock.
func createIfMissing(path string) error {
	dir := filepath.Dir(path)
	left, err := filepath.Glob(filepath.Join(escapeGlob(dir), asidePattern))
	if err != nil {
		return fmt.Errorf("looking for unfinished files: %w", err)
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("removing an unfinished file: %w", err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err // nil if it is there
	}
	f, err := os.CreateTemp(dir, asidePattern) // mode 0600
	if err != nil {
		return fmt.Errorf("creating the data file: %w", err)
	}
	aside := f.Name()
	if err = initialise(f); err == nil {
		err = giveName(aside, path)
	}
	if err != nil {
		_ = os.Remove(aside)
		return fmt.Errorf("creating the data file: %w", err)
	}
	return syncDir(dir)
}

// initialise writes an empty database into f, syncs it and closes it.
func initialise(f *os.File) error {
	db, err := bolt.Open(f.Name(), 0o600, &bolt.Options{Timeout: time.Second})
	if err == nil {
		err = db.Close()
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// giveName names the file at aside path, unless that name has been taken meanwhile.
func giveName(aside, path string) error {
	err := os.Link(aside, path)
	if err == nil {
		return os.Remove(aside)
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	// No hard links here. The lock is held, so only a stranger could take the name between these two.
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	return os.Rename(aside, path)
}

// syncDir makes names in dir durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	err = errors.Join(f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// openFile checks and opens e.path. All is done with one file descriptor, so that what was checked is what is served.
func (e *Engine) openFile() error {
	flag, how := os.O_RDWR, unix.LOCK_EX
	if e.readOnly {
		flag, how = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := os.OpenFile(e.path, flag, 0)
	if err != nil {
		return fmt.Errorf("opening the data file: %w", err)
	}
	if err := e.openChecked(f, how); err != nil {
		// If bbolt panicked, it left the file mapped, and a mapped file keeps its lock when it is closed. If bbolt closed the
		// file, neither of these does anything.
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		_ = f.Close()
		return err
	}
	return nil
}

func (e *Engine) openChecked(f *os.File, how int) error {
	if err := flock(f, how); err != nil { // bbolt will take the same lock, but only after it has read the file
		return err
	}
	torn, err := checkPages(f)
	if err != nil {
		return fmt.Errorf("checking %s: %w", e.path, err)
	}
	db, err := openBolt(f, e.readOnly, e.most)
	if err != nil {
		return fmt.Errorf("opening %s: %w", e.path, err)
	}
	if err := checkTree(db); err != nil {
		return errors.Join(fmt.Errorf("checking %s: %w", e.path, err), db.Close())
	}
	e.db, e.file, e.tornMeta = db, f, torn
	return nil
}

// openBolt opens f, which is locked and whose pages have been checked. Whatever panics in it is damage.
func openBolt(f *os.File, readOnly bool, most int64) (db *bolt.DB, err error) {
	defer recoverDamage(debug.SetPanicOnFault(true), &err)
	initial := int64(mapSize)
	for initial > most { // with more mapped than it may have, bbolt would outgrow a small limit
		initial /= 2
	}
	db, err = bolt.Open(f.Name(), 0o600, &bolt.Options{
		Timeout:         time.Second, // none would wait for ever
		FreelistType:    bolt.FreelistMapType,
		PreLoadFreelist: true, // for the check, when read-only
		ReadOnly:        readOnly,
		InitialMmapSize: int(initial),
		MaxSize:         int(min(most, math.MaxInt)),
		OpenFile:        func(string, int, os.FileMode) (*os.File, error) { return f, nil },
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, damaged("%w", err)
	}
	return db, err
}

// checkTree has bbolt check that its trees are in order and that every page is used or free.
func checkTree(db *bolt.DB) (err error) {
	defer recoverDamage(debug.SetPanicOnFault(true), &err)
	return db.View(func(t *bolt.Tx) error {
		var first error
		found := 0
		for err := range t.Check() { // to its end, or its goroutine would stay
			if found++; first == nil {
				first = err
			}
		}
		if first != nil {
			return damaged("%d faults in its structure, the first: %w", found, first)
		}
		return nil
	})
}

// recoverDamage turns a panic into ErrDamaged. Deferred with the goroutine's earlier setting.
func recoverDamage(earlier bool, err *error) {
	debug.SetPanicOnFault(earlier)
	if r := recover(); r != nil {
		*err = damaged("%v", r)
	}
}

// damaged is an ErrDamaged that says what is wrong and what to do.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w; restore it from a backup", ErrDamaged, fmt.Errorf(format, args...))
}
