package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
)

func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR|FILE [flags]",
		Short: "check a stopped daemon's data directory, or a backup",
		Long: `Checks a data directory that no quotad has open, or a backup: the structure of the file, the checksum of each record, the counts
against their receipts, and what is held against the open reservations. It changes nothing, lists every fault, and exits with 1
if there is one.`,
		Example: `  quotactl verify /var/lib/quotad
  quotactl verify /var/backups/quotad-2026-11-22.db`,
		Args: operands("DIR|FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := args[0]
			report, err := verifyPath(cmd.Context(), path)
			if err != nil {
				return offlineError(err)
			}
			if err := a.emitOwn(reportOf(path, report), func(w io.Writer) { a.showReport(w, path, report) }); err != nil {
				return err
			}
			if len(report.Faults) > 0 {
				return &hinted{err: notSound(path, report), hint: "keep this file, and restore a backup that verifies"}
			}
			return nil
		},
	}
}

func verifyPath(ctx context.Context, path string) (store.Report, error) {
	info, err := os.Stat(path)
	if err != nil {
		return store.Report{}, fmt.Errorf("looking for the data: %w", err)
	}
	if !info.IsDir() {
		return verifyFile(ctx, path)
	}
	e, err := boltengine.Open(path, boltengine.Options{ReadOnly: true})
	if err != nil {
		return store.Report{}, err
	}
	report, err := store.Verify(ctx, e)
	return report, errors.Join(err, e.Close())
}

// offlineError says what to do about a data directory that cannot be opened.
func offlineError(err error) error {
	switch {
	case errors.Is(err, boltengine.ErrLocked):
		return &hinted{err: err, hint: "quotad has it open: stop it first; quotactl backup works while it runs"}
	case errors.Is(err, boltengine.ErrDamaged):
		return &hinted{err: err, hint: "keep this file, and restore a backup that verifies"}
	}
	return err
}

// reportJSON is a report for programs.
type reportJSON struct {
	Path       string   `json:"path"`
	Sound      bool     `json:"sound"`
	Accounts   int      `json:"accounts"`
	Receipts   int      `json:"receipts"`
	Open       int      `json:"open_reservations"`
	Recounted  int      `json:"recounted"`
	Audits     int      `json:"audits"`
	Declared   int      `json:"declared"`
	CleanStop  bool     `json:"clean_stop"`
	LedgerTime string   `json:"ledger_time,omitempty"`
	Faults     []string `json:"faults"`
	MoreFaults int      `json:"more_faults"`
}

func reportOf(path string, r store.Report) reportJSON {
	out := reportJSON{
		Path: path, Sound: len(r.Faults) == 0, Accounts: r.Accounts, Receipts: r.Receipts, Open: r.Open, Recounted: r.Recounted, Audits: r.Audits,
		Declared: r.Declared, CleanStop: r.Clean, Faults: append([]string{}, r.Faults...), MoreFaults: r.MoreFaults,
	}
	if !r.LedgerTime.IsZero() {
		out.LedgerTime = r.LedgerTime.UTC().Format(time.RFC3339)
	}
	return out
}

func (a *app) showReport(w io.Writer, path string, r store.Report) {
	verdict := a.paint(1, green, "sound")
	if len(r.Faults) > 0 {
		verdict = a.paint(1, red, "not sound")
	}
	stop := "in order"
	if !r.Clean {
		stop = "it was killed, or it runs"
	}
	ledger := ""
	if !r.LedgerTime.IsZero() {
		ledger = stamp(r.LedgerTime)
	}
	fmt.Fprintf(w, "%s: %s\n", path, verdict)
	a.showFacts(w, [][2]string{
		{"counts", fmt.Sprintf("%d, %d of them recounted from receipts", r.Accounts, r.Recounted)},
		{"receipts", fmt.Sprint(r.Receipts)},
		{"reservations", fmt.Sprintf("%d open", r.Open)},
		{"declared", fmt.Sprint(r.Declared)},
		{"audit records", fmt.Sprint(r.Audits)},
		{"ledger time", ledger},
		{"last stop", stop},
	})
}
