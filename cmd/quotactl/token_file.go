package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/quotad/quotad/internal/auth"
)

// lockAgain is how often a lock is asked for while another process has it. A change takes a few milliseconds.
const lockAgain = 5 * time.Millisecond

// changeTokens changes a tokens file: it reads it, changes what it says, and puts another file in its place, whole and durable. One
// process after the other does so. With create a file that is not there counts as one without tokens.
func (a *app) changeTokens(ctx context.Context, path string, create bool, change func(auth.Tokens) error) error {
	path, err := followed(path)
	if err != nil {
		return err
	}
	if !create && !exists(path) {
		_, err := loadTokens(path)
		return err // and leaves no lock where no file is
	}
	unlock, err := a.lockBeside(ctx, path)
	if err != nil {
		return err
	}
	defer unlock()
	tokens, err := loadTokens(path)
	if create && errors.Is(err, fs.ErrNotExist) {
		tokens, err = auth.Tokens{}, nil
	}
	if err != nil {
		return err
	}
	if err := change(tokens); err != nil {
		return err
	}
	return replaceFile(path, auth.FormatTokens(tokens))
}

// followed returns where a file is: a link to it is not to be replaced by a file.
func followed(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	switch {
	case err == nil:
		return real, nil
	case exists(path):
		return "", fmt.Errorf("%s is a link that leads nowhere: %w", path, err)
	}
	return path, nil
}

// lockBeside locks a file of its own beside path, as path itself is replaced. It is left there: who takes it away would have the next
// two processes lock different files.
func (a *app) lockBeside(ctx context.Context, path string) (unlock func(), err error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	lock := flock.New(path + ".lock")
	_, err = lock.TryLockContext(ctx, lockAgain)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, &hinted{err: fmt.Errorf("another process has changed %s for %v, and nothing was done", path, a.timeout), hint: "--timeout waits longer"}
	}
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { _ = lock.Close() }, nil // nothing was written to it
}

// replaceFile puts a file with this content at path, durably: one reads the old or the new, never a part. A new file has mode 0600;
// another keeps its mode and owner, as a daemon under another name may have to read it.
func replaceFile(path string, content []byte) (err error) {
	f, err := newBeside(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it is not what was wanted
		}
	}()
	_, err = f.Write(content)
	if info, there := os.Stat(path); err == nil && there == nil {
		err = errors.Join(keepOwner(f, info), f.Chmod(info.Mode().Perm()))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s anew: %w", path, err)
	}
	return giveName(f.Name(), path, true)
}
