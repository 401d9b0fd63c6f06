package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
)

// verifyFile checks a data file that nobody has open: its structure, its checksums, and its counts against its receipts. The
// error is about a file that cannot be read at all.
func verifyFile(ctx context.Context, path string) (store.Report, error) {
	e, err := boltengine.OpenFile(path)
	if err != nil {
		return store.Report{}, err
	}
	report, err := store.Verify(ctx, e)
	return report, errors.Join(err, e.Close())
}

// notSound is the error of a file that was read and has faults.
func notSound(path string, r store.Report) error {
	lines := faults{fmt.Sprintf("%s is not sound: %s", path, count(len(r.Faults)+r.MoreFaults, "fault"))}
	lines = append(lines, r.Faults...)
	if r.MoreFaults > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", r.MoreFaults))
	}
	return lines
}

// newBeside makes a file of mode 0600 in the directory of path. Nobody else can have it open.
func newBeside(path string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new-*")
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err // which name was tried says nothing
	}
	if err != nil {
		return nil, fmt.Errorf("making a file beside %s: %w", path, err)
	}
	return f, nil
}

// giveName puts a finished file at path, durably. Without replace it fails if there is one already, also one that came up
// meanwhile.
func giveName(from, path string, replace bool) error {
	var err error
	if replace {
		err = os.Rename(from, path)
	} else if err = os.Link(from, path); err == nil {
		err = os.Remove(from)
	} else if !errors.Is(err, fs.ErrExist) && !exists(path) {
		err = os.Rename(from, path) // a file system without hard links
	}
	if err != nil {
		return fmt.Errorf("naming the file %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}
