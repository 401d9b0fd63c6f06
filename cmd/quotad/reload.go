package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a directory has to be still before the files in it are read: writers make several steps.
const settle = 100 * time.Millisecond

// settleMax is how long they are waited for in a directory that is never still: a token that was revoked there has to go.
const settleMax = time.Second

// retryAfter is how long to wait before a good file is tried again that the ledger did not keep, because there was no room, say.
const retryAfter = 5 * time.Second

// reloaded is what is read again while the daemon runs, whole or not at all: what is bad leaves what was good before.
type reloaded interface {
	// files returns what is to be watched.
	files() []string
	// load reads them. Unless force is set, what was read before is left alone.
	load(ctx context.Context, force bool) error
}

// keeper has something read again when its files change, and when it is asked to.
type keeper struct {
	what    string // as the log names it, such as "buckets file"
	of      reloaded
	log     *slog.Logger
	explain func(error)   // shows people a refusal in full
	again   chan struct{} // asks for it; holds one
	said    string        // what was wrong at the last reading, as it was logged; "" if nothing was
}

func newKeeper(what string, of reloaded, log *slog.Logger, explain func(error)) *keeper {
	return &keeper{what: what, of: of, log: log, explain: explain, again: make(chan struct{}, 1)}
}

// ask has it read again, and does not wait.
func (k *keeper) ask() {
	select {
	case k.again <- struct{}{}:
	default: // it is due already
	}
}

// keep goes on until ctx ends. It watches directories and not files: editors, ConfigMaps and those who rotate certificates put a new
// file, or a link to one, in the place of the old.
func (k *keeper) keep(ctx context.Context) {
	var events chan fsnotify.Event
	var failures chan error
	watch := func() error { return nil }
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close() //nolint:errcheck // the process goes on without it
		events, failures = watcher.Events, watcher.Errors
		watch = func() error { return watchDirs(watcher, k.of.files()) }
	}
	if err = errors.Join(err, watch()); err != nil {
		k.log.Warn("changes of the "+k.what+" may not be seen; SIGHUP reads it again", "error", err)
	}
	var due time.Time         // when to read at the latest; zero while nothing has happened
	still := time.NewTimer(0) // at once, as a file may have changed before the watch began
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.again:
			k.load(ctx, still, true)
		case <-events:
			if due.IsZero() {
				due = time.Now().Add(settleMax)
			}
			still.Reset(min(settle, time.Until(due)))
		case <-still.C:
			due = time.Time{}
			_ = watch() // a link may lead elsewhere now; where it does not, it is watched already
			k.load(ctx, still, false)
		case err := <-failures: // events may have been lost
			k.log.Warn("watching the "+k.what, "error", err)
			still.Reset(settle)
		}
	}
}

// load reads it, and says what is wrong with it.
func (k *keeper) load(ctx context.Context, still *time.Timer, force bool) {
	err := k.of.load(ctx, force)
	if err == nil {
		k.said = ""
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	if errors.Is(err, errNotKept) || errors.Is(err, errNotNoted) {
		still.Reset(retryAfter)
	}
	// Once: the log may be in a directory that is watched, and each line of it would bring the next.
	if !force && err.Error() == k.said {
		return
	}
	k.said = err.Error()
	if errors.Is(err, errNotNoted) {
		k.log.Warn(k.what+" is in force, and not noted", "error", err)
		return
	}
	k.log.Error(k.what+" is refused; the one before is in force", "file", strings.Join(k.of.files(), ", "))
	k.explain(err)
}

// watchDirs watches the directories of files, and where a file is a link also the one that it leads to.
func watchDirs(watcher *fsnotify.Watcher, files []string) error {
	var errs []error
	for _, path := range files {
		errs = append(errs, watcher.Add(filepath.Dir(path)))
		if target, err := filepath.EvalSymlinks(path); err == nil { // else it is gone for now; its own directory tells when it is back
			errs = append(errs, watcher.Add(filepath.Dir(target)))
		}
	}
	return errors.Join(errs...)
}
