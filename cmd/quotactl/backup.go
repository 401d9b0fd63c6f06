package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
)

func (a *app) backupCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "backup FILE [flags]",
		Short: "write a verified copy of the running daemon's ledger",
		Long: `Writes a consistent copy of the ledger to FILE, mode 0600, while quotad goes on. The copy gets its name only when it is whole,
on the disk, and verified: its SHA-256, its structure, its checksums, and its counts against its receipts. If nothing arrives
for a minute, or for --timeout if that is longer, it gives up.

With - for FILE the verified copy goes to standard output, by way of the directory for temporary files, for a place that quotactl
cannot write to.`,
		Example: `  quotactl backup /var/backups/quotad-2026-11-22.db
  kubectl exec quotad-0 -- /quotactl backup - > quotad.db`,
		Args: operands("FILE"),
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it exists")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path := args[0]
		if path == "-" {
			return a.backupOut(cmd)
		}
		if !force && exists(path) {
			return &hinted{err: fmt.Errorf("%s exists", path), hint: "--force replaces it"}
		}
		made, err := a.backup(cmd.Context(), path, force)
		if err != nil {
			return err
		}
		return a.emitOwn(made, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %s, %s, sha256 %s; verified\n", made.File, sizeOf(made.Bytes), count(made.Accounts, "count"), made.SHA256)
		})
	}
	return cmd
}

// backupOut sends a verified copy to standard output, which is then not the place for words.
func (a *app) backupOut(cmd *cobra.Command) error {
	if a.isTerminal(1) {
		return usagef(cmd, "- would write the bytes of a file to this terminal; send them on, as in quotactl backup - > FILE")
	}
	dir, err := os.MkdirTemp("", "quotactl-backup-")
	if err != nil {
		return fmt.Errorf("making room for the backup: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is in the directory for temporary files
	path := filepath.Join(dir, boltengine.FileName)
	made, err := a.backup(cmd.Context(), path, false)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the backup: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	if _, err := io.Copy(a.stdout, f); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	fmt.Fprintf(a.stderr, "quotactl: %s, %s, sha256 %s; verified\n", sizeOf(made.Bytes), count(made.Accounts, "count"), made.SHA256)
	return nil
}

// backupMade is what a backup turned out to be.
type backupMade struct {
	File     string `json:"file"`
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256"`
	Accounts int    `json:"accounts"`
	Receipts int    `json:"receipts"`
}

// backup receives a copy aside, and names it when nothing is wrong with it.
func (a *app) backup(ctx context.Context, path string, force bool) (backupMade, error) {
	f, err := newBeside(path)
	if err != nil {
		return backupMade{}, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it has gone if all went well
	sum := sha256.New()
	size, err := a.receive(ctx, f, sum)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return backupMade{}, fmt.Errorf("receiving the backup: %w", err)
	}
	report, err := verifyFile(ctx, f.Name())
	if err != nil {
		return backupMade{}, fmt.Errorf("verifying the backup: %w", err)
	}
	if len(report.Faults) > 0 {
		return backupMade{}, notSound("the backup", report)
	}
	return madeOf(path, size, sum, report), giveName(f.Name(), path, force)
}

func madeOf(path string, size int64, sum hash.Hash, r store.Report) backupMade {
	return backupMade{File: path, Bytes: size, SHA256: hex.EncodeToString(sum.Sum(nil)), Accounts: r.Accounts, Receipts: r.Receipts}
}

// receive writes the copy that quotad sends to f, and checks its length and its sum. It gives up when nothing comes any more.
func (a *app) receive(ctx context.Context, f io.Writer, sum hash.Hash) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := max(a.timeout, time.Minute)
	idle := time.AfterFunc(patience, cancel)
	defer idle.Stop()
	stream, err := a.admin().Backup(ctx, &quotadv1.BackupRequest{})
	if err != nil {
		return 0, err
	}
	out := io.MultiWriter(f, sum)
	var size, got int64
	said := ""
	for first := true; ; first = false {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !idle.Stop() {
			return 0, fmt.Errorf("nothing came for %v", patience)
		}
		if err != nil {
			return 0, err
		}
		idle.Reset(patience)
		if first {
			size = piece.GetSize()
		}
		n, err := out.Write(piece.GetChunk())
		if got += int64(n); err != nil {
			return 0, err
		}
		if piece.GetSha256() != "" {
			said = piece.GetSha256()
		}
	}
	switch mine := hex.EncodeToString(sum.Sum(nil)); {
	case said == "":
		return 0, fmt.Errorf("it ended early, after %d of %d bytes", got, size)
	case got != size:
		return 0, fmt.Errorf("%d bytes came where %d were announced", got, size)
	case mine != said:
		return 0, fmt.Errorf("its SHA-256 is %s where quotad says %s", mine, said)
	}
	return size, nil
}
