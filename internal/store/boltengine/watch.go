package boltengine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/quotad/quotad/internal/store"
)

// DefaultWatch is how often Watch looks if it is not told.
const DefaultWatch = time.Second

// Watch looks at once, and then in the given interval (0 means DefaultWatch), whether the path still leads to the file that is
// open, and to all of it. It returns ErrGone as soon as it does not: the engine is dead then, and the process must exit at
// once, as another daemon may already be granting from what stands there now. It returns nil when ctx or the engine ends.
func (e *Engine) Watch(ctx context.Context, every time.Duration) error {
	if every <= 0 {
		every = DefaultWatch
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		switch err := e.look(ctx); {
		case errors.Is(err, store.ErrClosed) || ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (e *Engine) look(ctx context.Context) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.running.Done()
	gone := e.gone()
	if gone != nil {
		_ = e.die(gone)
	}
	return gone
}

// gone tells what became of the file.
func (e *Engine) gone() error {
	there, err := os.Stat(e.path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	here, err := e.file.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	if !os.SameFile(here, there) {
		return fmt.Errorf("%w: another file stands at %s", ErrGone, e.path)
	}
	// The metas first, the size after: the file is made longer before a meta says so.
	metas, err := e.readLiveMetas()
	if err != nil {
		return fmt.Errorf("%w: %s was overwritten: %w", ErrGone, e.path, err)
	}
	if here, err = e.file.Stat(); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	for _, m := range metas {
		if have := uint64(max(here.Size(), 0)) / m.pageSize; m.pages > have {
			return fmt.Errorf("%w: %s was cut short: %d pages of %d are left", ErrGone, e.path, have, m.pages)
		}
	}
	return nil
}

// readLiveMetas reads the metas while a commit may be writing one of them, so a first look may find it half written.
func (e *Engine) readLiveMetas() ([]meta, error) {
	metas, err := readMetas(e.file, maxPageSize)
	if err != nil {
		return readMetas(e.file, maxPageSize)
	}
	return metas, nil
}
