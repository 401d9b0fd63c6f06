package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
)

// restoration is what a restore is to do.
type restoration struct {
	file, dir, reason string
	keepToday, force  bool
}

func (a *app) restoreCommand() *cobra.Command {
	var r restoration
	cmd := &cobra.Command{
		Use:   "restore FILE --data DIR [flags]",
		Short: "put a backup in place of a stopped daemon's ledger",
		Long: `Puts a backup in place of the ledger in a data directory that no quotad has open. The backup is verified first, and takes its
place in one step; a ledger that was there is kept beside it.

A backup does not know what was used since it was made. So that no budget is spent twice, nothing that is limited is granted
until the day ends, unless --keep-today says to trust the counts of the backup; quotactl override opens a bucket again. Counts
of longer windows are those of the backup either way.`,
		Example: `  systemctl stop quotad
  quotactl restore /var/backups/quotad-2026-11-22.db --data /var/lib/quotad --force`,
		Args: operands("FILE"),
	}
	cmd.Flags().StringVar(&r.dir, "data", "", "the data directory, `DIR` (required)")
	cmd.Flags().BoolVar(&r.keepToday, "keep-today", false, "trust the backup's counts of today")
	cmd.Flags().BoolVar(&r.force, "force", false, "replace a ledger that is there")
	a.reasonFlag(cmd, &r.reason)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if r.dir == "" {
			return usagef(cmd, "--data DIR is missing")
		}
		r.file = args[0]
		done, err := a.restore(cmd.Context(), r)
		if err != nil {
			return offlineError(err)
		}
		return a.emitOwn(done, func(w io.Writer) { showRestored(w, done) })
	}
	return cmd
}

// restored is what a restore did.
type restored struct {
	File      string `json:"file"`
	Data      string `json:"data"`
	Accounts  int    `json:"accounts"`
	Ledger    string `json:"ledger_time"`               // the last that the backup knows of
	Exhausted string `json:"exhausted_until,omitempty"` // absent if today's counts were kept
	Aside     string `json:"aside,omitempty"`           // where the ledger that was there is now
}

func showRestored(w io.Writer, r restored) {
	fmt.Fprintf(w, "%s is in place in %s: %s, as of %s\n", r.File, r.Data, count(r.Accounts, "count"), r.Ledger)
	if r.Exhausted == "" {
		fmt.Fprintln(w, "today's counts are the backup's: what was used since then is forgotten, and can be used again")
	} else {
		fmt.Fprintf(w, "nothing that is limited is granted until %s; quotactl override opens a bucket before that\n", r.Exhausted)
	}
	if r.Aside != "" {
		fmt.Fprintf(w, "the ledger that was there is %s\n", r.Aside)
	}
}

func (a *app) restore(ctx context.Context, r restoration) (restored, error) {
	report, err := verifyFile(ctx, r.file)
	if err != nil {
		return restored{}, fmt.Errorf("verifying the backup: %w", err)
	}
	if len(report.Faults) > 0 {
		return restored{}, &hinted{err: notSound(r.file, report), hint: "restore a backup that verifies"}
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return restored{}, fmt.Errorf("making the data directory: %w", err)
	}
	release, err := boltengine.Lock(r.dir)
	if err != nil {
		return restored{}, err
	}
	defer release() //nolint:errcheck // nothing more is written to the lock
	path := filepath.Join(r.dir, boltengine.FileName)
	if exists(path) && !r.force {
		return restored{}, &hinted{err: fmt.Errorf("%s holds a ledger already", r.dir), hint: "--force puts the backup in its place, and keeps it beside"}
	}
	stage, err := os.MkdirTemp(r.dir, "restore-*")
	if err != nil {
		return restored{}, fmt.Errorf("making room for the backup: %w", err)
	}
	defer os.RemoveAll(stage) //nolint:errcheck // what is left there is not used
	done := restored{File: r.file, Data: r.dir, Accounts: report.Accounts, Ledger: stamp(report.LedgerTime)}
	staged := filepath.Join(stage, boltengine.FileName)
	if done.Exhausted, err = a.stage(ctx, r, staged); err != nil {
		return restored{}, err
	}
	if exists(path) {
		done.Aside = path + ".before-restore-" + a.now().UTC().Format("20060102T150405Z")
		if err := os.Link(path, done.Aside); err != nil {
			return restored{}, fmt.Errorf("keeping the old ledger: %w", err)
		}
	}
	return done, giveName(staged, path, true)
}

// stage makes the file that is to be put in place, and returns until when it grants nothing; "" if today's counts are kept.
// What was made of the backup is verified once more.
func (a *app) stage(ctx context.Context, r restoration, staged string) (string, error) {
	size, err := copyFile(r.file, staged)
	if err != nil {
		return "", err
	}
	until, err := a.mark(ctx, r, filepath.Dir(staged), size)
	if err != nil {
		return "", err
	}
	report, err := verifyFile(ctx, staged)
	if err != nil {
		return "", fmt.Errorf("verifying the copy: %w", err)
	}
	if len(report.Faults) > 0 {
		return "", notSound("the copy", report)
	}
	return until, nil
}

// mark tells the ledger of a directory, which has size bytes, that it was restored.
func (a *app) mark(ctx context.Context, r restoration, dir string, size int64) (string, error) {
	e, err := boltengine.Open(dir, boltengine.Options{MaxSize: max(boltengine.DefaultMaxSize, 2*size)})
	if err != nil {
		return "", fmt.Errorf("opening the copy: %w", err)
	}
	until, err := store.MarkRestored(ctx, e, a.now(), r.keepToday, "quotactl restore", r.reason)
	if err = errors.Join(err, e.Close()); err != nil {
		return "", fmt.Errorf("marking the copy: %w", err)
	}
	if r.keepToday {
		return "", nil
	}
	return stamp(until), nil
}

func copyFile(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, fmt.Errorf("opening the backup: %w", err)
	}
	defer in.Close() //nolint:errcheck // nothing was written to it
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fmt.Errorf("copying the backup: %w", err)
	}
	size, err := io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return 0, fmt.Errorf("copying the backup: %w", err)
	}
	return size, nil
}
