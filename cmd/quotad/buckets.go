package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
)

// errNotKept means that the file is good and that the ledger did not keep what it declares.
var errNotKept = errors.New("the ledger did not keep it")

// changesShown is how many changes of one reading are logged by name.
const changesShown = 50

// applier is the ledger's door for change.
type applier interface {
	Apply(context.Context, quota.Op) (quota.Decision, error)
}

// bucketsFile keeps the ledger to what a file declares: whole or not at all. A file that is bad leaves what was declared before.
type bucketsFile struct {
	path    string
	ledger  applier
	log     *slog.Logger
	observe func(at time.Time, ok bool)
	now     func() time.Time

	seen [sha256.Size]byte // what was last read, good or bad; of the goroutine that loads

	mu      sync.Mutex
	problem string // why the file on the disk is not in force; "" if it is
}

func (b *bucketsFile) problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.problem == "" {
		return nil
	}
	return []string{b.problem}
}

// load reads the file and applies it. Unless force is set a file that was read before is left alone.
func (b *bucketsFile) load(ctx context.Context, force bool) error {
	declared, sum, err := b.read()
	if !force && sum == b.seen {
		return nil
	}
	return b.take(ctx, declared, sum, err)
}

// take applies what was read, unless it is bad, and keeps in mind how that went.
func (b *bucketsFile) take(ctx context.Context, declared map[string]quota.Settings, sum [sha256.Size]byte, err error) error {
	b.seen = sum
	var changes []quota.Change
	if err == nil {
		changes, err = b.apply(ctx, declared)
	}
	if errors.Is(err, errNotKept) {
		b.seen = [sha256.Size]byte{}
	}
	b.observe(b.now(), err == nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		b.problem = "the buckets file is refused, and the one before is in force: " + first
		return err
	}
	b.problem = ""
	b.log.Info("buckets file is in force", "file", b.path, "declared", len(declared), "changes", len(changes))
	b.logChanges(changes)
	return nil
}

// read returns what the file declares, and a sum that changes with its content, or with why it cannot be read.
func (b *bucketsFile) read() (map[string]quota.Settings, [sha256.Size]byte, error) {
	declared, err := config.LoadBuckets(b.path)
	var shape bytes.Buffer
	if err != nil {
		shape.WriteString(err.Error())
	} else {
		shape.Write(config.FormatBuckets(declared))
	}
	return declared, sha256.Sum256(shape.Bytes()), err
}

func (b *bucketsFile) apply(ctx context.Context, declared map[string]quota.Settings) ([]quota.Change, error) {
	d, err := b.ledger.Apply(ctx, quota.ApplySet{
		Principal: "quotad", Reason: "buckets file", Source: quota.SourceFile, Buckets: declared,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", b.path, errNotKept, err)
	}
	if d.Outcome != quota.Done {
		errs := make([]error, 0, len(d.Problems))
		for _, p := range d.Problems {
			errs = append(errs, fmt.Errorf("%s: %s", b.path, p))
		}
		if len(errs) == 0 {
			errs = append(errs, fmt.Errorf("%s: the ledger refused it: %s %s", b.path, d.Outcome, d.Detail))
		}
		return nil, errors.Join(errs...)
	}
	return d.Changes, nil
}

// adopt makes what a buckets file declared the API's own, for a start without one: else nobody could change it any more. Where
// the ledger does not keep that, as there is no room, say, the daemon goes on: what is declared is in force all the same.
func adopt(ctx context.Context, ledger applier, log *slog.Logger) {
	d, err := ledger.Apply(ctx, quota.Adopt{Principal: "quotad"})
	switch {
	case err != nil:
		log.Warn("what a buckets file had declared cannot be changed by calls until a start that can write", "error", err)
	case len(d.Changes) > 0:
		log.Info("there is no buckets file now: what one had declared can be changed by calls", "declared", len(d.Changes))
	}
}

func (b *bucketsFile) logChanges(changes []quota.Change) {
	for i, c := range changes {
		if i == changesShown {
			b.log.Info("buckets file: and more", "changes", len(changes)-i)
			return
		}
		switch {
		case c.Before == nil:
			b.log.Info("bucket added", "bucket", c.Name, "now", c.After.String())
		case c.After == nil:
			b.log.Info("bucket removed", "bucket", c.Name, "before", c.Before.String())
		default:
			b.log.Info("bucket changed", "bucket", c.Name, "before", c.Before.String(), "now", c.After.String())
		}
	}
}

// files returns what is to be watched.
func (b *bucketsFile) files() []string { return []string{b.path} }
