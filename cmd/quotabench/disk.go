package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// syncs are what the disk asks for durability. Each is a median.
type syncs struct {
	appended time.Duration // fdatasync after an append, which makes the file longer
	pair     time.Duration // two fdatasyncs, each after a page was overwritten: a commit of bbolt
}

const pageSize = 4096

// measureSyncs writes to a file of its own in dir, for about the time given.
func measureSyncs(dir string, d time.Duration) (s syncs, err error) {
	f, err := os.CreateTemp(dir, "sync-*")
	if err != nil {
		return s, fmt.Errorf("measuring the disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, pageSize)
	end := int64(0)
	s.appended, err = median(d/2, func() error {
		end += pageSize
		return writeAndSync(f, page, end-pageSize)
	})
	if err != nil {
		return s, err
	}
	at := int64(0)
	s.pair, err = median(d/2, func() error {
		at = (at + 7*pageSize) % end
		if err := writeAndSync(f, page, at); err != nil {
			return err
		}
		return writeAndSync(f, page, 0)
	})
	return s, err
}

func writeAndSync(f *os.File, page []byte, at int64) error {
	page[0]++
	if _, err := f.WriteAt(page, at); err != nil {
		return err
	}
	return syncData(f)
}

// median runs fn for about d, ten times at least, and returns how long it takes.
func median(d time.Duration, fn func() error) (time.Duration, error) {
	var h histogram
	for start := time.Now(); h.n < 10 || time.Since(start) < d; {
		begun := time.Now()
		if err := fn(); err != nil {
			return 0, fmt.Errorf("measuring the disk: %w", err)
		}
		h.record(time.Since(begun))
	}
	return h.quantile(0.5), nil
}

// realDisk makes a directory that is not in memory: where the caller says, else under the system's temporary directory, else
// under bin/ of the working directory.
func realDisk(wanted string) (string, error) {
	roots := []string{wanted}
	if wanted == "" {
		roots = []string{os.TempDir(), "bin"}
	}
	for _, root := range roots {
		if err := os.MkdirAll(root, 0o750); err != nil {
			return "", fmt.Errorf("making a directory for the files: %w", err)
		}
		if _, inMemory := fileSystem(root); !inMemory {
			dir, err := os.MkdirTemp(root, "quotabench-")
			if err != nil {
				return "", fmt.Errorf("making a directory for the files: %w", err)
			}
			return filepath.Abs(dir)
		}
	}
	return "", fmt.Errorf("%q: in memory, so that nothing would be durable; name a directory on a disk with --dir", roots)
}
