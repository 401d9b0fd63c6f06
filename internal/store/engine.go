package store

import (
	"context"
	"errors"
	"time"
)

// Engine keeps ordered bytes on behalf of a Store. It is the seam between quotad and a database, and all that a new database
// has to provide; enginetest.Run is the judge of whether it does.
type Engine interface {
	// Both Update and View refuse a context that has ended before they begin, and do not look at it after.

	// Update runs fn in a transaction and makes its writes durable before it returns nil. If fn returns an error, none of its
	// writes is kept and that error is returned as it is. If keeping the writes fails, the error is ErrFull (nothing was kept,
	// the engine goes on) or ErrUnknown (perhaps kept, the engine must not be used any more). fn may be run more than once, by
	// engines that retry on conflict. A transaction that wrote nothing costs no write to the disk. Calls do not overlap.
	Update(ctx context.Context, fn func(Tx) error) error

	// View runs fn on a snapshot. It does not wait for Update, and may show a commit shortly before it is durable, so nothing
	// that must be durable is answered from it. It is to be short: no view may last across a write to a network.
	View(ctx context.Context, fn func(Tx) error) error

	// Close gives up what the engine holds. It waits for a running Update or View; later ones fail with ErrClosed.
	Close() error
}

// Tx addresses a value by the space it is in and its key there. Spaces are named by printable text; keys are any bytes but
// the empty string. A space comes into being with its first Put. Slices that Get and Scan hand out are valid until the
// function that got the Tx returns, and must not be changed. A write in a View is an error.
type Tx interface {
	// Get returns the value, or nil if there is none. A value that was put empty comes back empty, not nil.
	Get(space, key string) ([]byte, error)
	// Put keeps a copy of value, which may be reused after the call. An empty space or key is an error, and an engine may refuse
	// keys above 32 KiB.
	Put(space, key string, value []byte) error
	// Delete takes a value away; that there is none is no error.
	Delete(space, key string) error
	// Scan calls fn for each key from from on, in order of bytes, until fn returns false. fn may read, and write to
	// other spaces, but not to this one.
	Scan(space, from string, fn func(key string, value []byte) bool) error
	// Drop takes a space away with all that it holds: an old day leaves in one stroke. That there is none is no error.
	Drop(space string) error
	// Spaces calls fn for each space from from on, in order of bytes, until fn returns false. A space that was emptied by
	// Delete may or may not be named. fn may write, and may drop what it is told of.
	Spaces(from string, fn func(space string) bool) error
}

// Snapshotter is an Engine that can copy itself to a file while it works. It is what an online backup needs.
type Snapshotter interface {
	// Snapshot writes a consistent copy to a new file at path, with mode 0600, and syncs it. It fails if path exists.
	Snapshot(ctx context.Context, path string) error
}

// Sizer is an Engine that knows how much room it takes.
type Sizer interface {
	// Size returns the bytes in use on the disk and the most that it may take; 0 means no bound.
	Size() (bytes, most int64)
}

// Viewer is an Engine that knows which of its views are open. One that stays open makes the file grow, whatever leaves.
type Viewer interface {
	// Views returns how many views and copies are open now, and for how long the oldest of them has been.
	Views() (open int, oldest time.Duration)
}

var (
	// ErrFull means that there was no room for the writes: none of them was kept, and the engine goes on.
	ErrFull = errors.New("store: no room to write")
	// ErrUnknown means that a sync failed: nobody knows what is on the disk. The engine takes no more, and the process must
	// end so that its successor reads the truth.
	ErrUnknown = errors.New("store: a write failed with its outcome unknown")
	// ErrClosed means that the engine or the store has been closed. Nothing was written.
	ErrClosed = errors.New("store: closed")
	// ErrCorrupt means that a record failed its checksum or cannot be read. It is refused rather than guessed.
	ErrCorrupt = errors.New("store: a record is damaged")
	// ErrReadOnly means a write in a View.
	ErrReadOnly = errors.New("store: write in a read-only transaction")
)
