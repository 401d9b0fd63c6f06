// Package boltengine keeps a store's bytes in one bbolt file. It adds what a daemon that guards money needs around bbolt: one
// owner per directory, a missing file that stays missing, damage told before it is served, and a failed sync that ends all use.
package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/quotad/quotad/internal/store"
)

const (
	// FileName is the data file's name in its directory.
	FileName = "quotad.db"
	// LockName is the name of the file whose lock says who owns the directory. It is never deleted: a lock on a file that
	// another process made anew would exclude nobody.
	LockName = "LOCK"
	// DefaultMaxSize is the most that a data file may grow to, in bytes, where Options do not say.
	DefaultMaxSize = 4 << 30
	// MinMaxSize is the least that Options.MaxSize may ask for, in bytes.
	MinMaxSize = 1 << 20
)

var (
	// ErrMissing means that the directory has no data file, and that Options.Create did not ask for a new one.
	ErrMissing = errors.New("no data file")
	// ErrLocked means that another process has the directory or the file open.
	ErrLocked = errors.New("another process has it open")
	// ErrDamaged means that the file is not what quotad wrote: cut short, overwritten, or no bbolt file at all.
	ErrDamaged = errors.New("the data file is damaged")
	// ErrGone means that the path no longer leads to the file that is open, or to all of it.
	ErrGone = errors.New("the data file was taken away")
)

// Options say how to open a directory. The zero value opens what is there, to write.
type Options struct {
	// Create makes the directory (mode 0700) and a new file (0600) where there is none. Without it a missing file is
	// ErrMissing, because a lost file that is silently made anew would hand out the day's budget twice.
	Create bool
	// MaxSize is the most that the file may grow to, in bytes; 0 means DefaultMaxSize, less than MinMaxSize is an error.
	MaxSize int64
	// ReadOnly opens the file for inspection and writes nothing, not even a lock file. It excludes writers, but not others
	// that only read. It cannot be combined with Create.
	ReadOnly bool
	// Now is the clock by which Engine.Views measures; nil means time.Now. Only differences of its times are used.
	Now func() time.Time
}

// Engine is a store.Engine on one bbolt file. It is safe for concurrent use: updates run one after another, views beside them.
type Engine struct {
	db       *bolt.DB
	file     *os.File // what db reads and writes; owned and closed by db
	lock     *os.File // nil if the file was opened without its directory
	path     string
	most     int64
	readOnly bool
	tornMeta bool

	writing sync.Mutex // held by the running Update
	kept    arena      // values of the running Update
	views   views      // that are open

	state   sync.Mutex
	running sync.WaitGroup // calls that Close waits for
	closed  bool           // guarded by state

	dead    atomic.Pointer[error] // why no call may run any more
	faulted atomic.Bool           // bbolt may have been left with its locks held
}

var (
	_ store.Engine      = (*Engine)(nil)
	_ store.Snapshotter = (*Engine)(nil)
	_ store.Sizer       = (*Engine)(nil)
	_ store.Viewer      = (*Engine)(nil)
)

// Open takes the directory's lock, checks the whole structure of its file, and opens it. The error is ErrMissing, ErrLocked
// (after at most half a second), ErrDamaged, or what the operating system said.
func Open(dir string, o Options) (*Engine, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, FileName)
	if !o.Create {
		if err := present(path); err != nil {
			return nil, err
		}
	}
	if err := prepareDir(dir, o.Create); err != nil {
		return nil, err
	}
	lock, err := lockDir(dir, o.ReadOnly)
	if err != nil {
		return nil, err
	}
	e, err := openLocked(path, o)
	if err != nil {
		if lock != nil {
			_ = lock.Close()
		}
		return nil, err
	}
	e.lock = lock
	return e, nil
}

// OpenFile opens any one data file, such as a backup, for reading only and without a directory's lock. It checks as Open does.
func OpenFile(path string) (*Engine, error) {
	return openLocked(path, Options{ReadOnly: true})
}

func (o Options) check() error {
	switch {
	case o.MaxSize < 0 || o.MaxSize > 0 && o.MaxSize < MinMaxSize:
		return fmt.Errorf("size limit of the data file: %d bytes is too small, want at least %d, or 0 for %d", o.MaxSize, MinMaxSize, int64(DefaultMaxSize))
	case o.ReadOnly && o.Create:
		return errors.New("a data file cannot be created read-only")
	}
	return nil
}

// openLocked is Open once nobody else may change the directory.
func openLocked(path string, o Options) (*Engine, error) {
	if o.Create {
		if err := createIfMissing(path); err != nil {
			return nil, err
		}
	}
	if err := present(path); err != nil { // it was looked for before, but not under the lock
		return nil, err
	}
	most := o.MaxSize
	if most == 0 {
		most = DefaultMaxSize
	}
	e := &Engine{path: path, most: most, readOnly: o.ReadOnly}
	if e.views.now = o.Now; e.views.now == nil {
		e.views.now = time.Now
	}
	if err := e.openFile(); err != nil {
		return nil, err
	}
	return e, nil
}

// Path returns where the data file is.
func (e *Engine) Path() string { return e.path }

// TornMeta tells whether one of the file's two meta pages was unreadable when it was opened. The file is whole, but it may lack
// the last commit before that; the next two commits mend it.
func (e *Engine) TornMeta() bool { return e.tornMeta }

// OpenReaders returns how many views are running, as bbolt counts them.
func (e *Engine) OpenReaders() int { return e.db.Stats().OpenTxN }

// Size returns the length of the data file in bytes and the most that it may become. Pages that a Drop freed are reused but not
// given back, so the length does not shrink.
func (e *Engine) Size() (bytes, most int64) {
	if e.admit() != nil {
		return 0, e.most
	}
	defer e.running.Done()
	info, err := e.file.Stat()
	if err != nil {
		return 0, e.most
	}
	return info.Size(), e.most
}

// Close waits for running calls, closes the file and gives up the directory. A second Close does nothing.
func (e *Engine) Close() error {
	e.state.Lock()
	if e.closed {
		e.state.Unlock()
		return nil
	}
	e.closed = true
	e.state.Unlock()
	if e.faulted.Load() {
		// A fault may have left bbolt with a lock held, so closing it could wait for ever. The process is about to end, and
		// keeps the directory's lock until then.
		return nil
	}
	e.running.Wait()
	err := e.db.Close()
	if e.lock != nil {
		err = errors.Join(err, e.lock.Close())
	}
	if err != nil {
		return fmt.Errorf("closing %s: %w", e.path, err)
	}
	return nil
}

// enter is admit for a call with a context, which may have ended.
func (e *Engine) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.admit()
}

// admit lets a call in, which must then call e.running.Done.
func (e *Engine) admit() error {
	e.state.Lock()
	defer e.state.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	if err := e.alive(); err != nil {
		return err
	}
	e.running.Add(1)
	return nil
}

// alive returns the error that ended all use, if any did.
func (e *Engine) alive() error {
	if err := e.dead.Load(); err != nil {
		return *err
	}
	return nil
}

// die makes every later call fail, and returns the error that they get: the first one that was given.
func (e *Engine) die(cause error) error {
	err := fmt.Errorf("%w: %w", store.ErrUnknown, cause)
	e.dead.CompareAndSwap(nil, &err)
	return *e.dead.Load()
}

// present tells a missing data file by its name, before anything is made or locked on its behalf.
func present(path string) error {
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s does not exist; --create makes a new one, in which nothing has been used yet: "+
			"if there was one before, restore it from a backup instead, or its budgets will be spent twice", ErrMissing, path)
	case err != nil:
		return fmt.Errorf("looking for the data file: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is not a regular file", ErrDamaged, path)
	}
	return nil
}
