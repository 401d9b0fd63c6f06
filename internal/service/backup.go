package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
)

const (
	// backupChunk is how many bytes of a backup one message carries.
	backupChunk = 64 << 10

	// A backup under way is a file of this name in a directory that begins and ends like this.
	backupFile   = "quotad.db"
	backupPrefix = "backup-"
	backupSuffix = ".tmp"
)

// Backup sends a consistent copy of the ledger, whose structure has been checked. The copy is a file of its own by then, so that
// a slow reader holds up nothing but the next backup.
func (a adminServer) Backup(_ *quotadv1.BackupRequest, stream grpc.ServerStreamingServer[quotadv1.BackupResponse]) error {
	who, err := caller(stream.Context())
	if err != nil {
		return err
	}
	if err := authorise(who, asked{auth.Admin, []string{everyBucket}}); err != nil {
		return err
	}
	if !a.s.backingUp.TryLock() {
		return backupRunning()
	}
	defer a.s.backingUp.Unlock()
	a.s.removeOldBackups()
	dir, err := os.MkdirTemp(a.s.c.BackupDir, backupPrefix+"*"+backupSuffix)
	if err != nil {
		return backupFailure(fmt.Errorf("making room for a backup: %w", err))
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			a.s.c.Log.Error("a backup that was sent stays behind", "dir", dir, "error", err)
		}
	}()
	path := filepath.Join(dir, backupFile)
	if err := a.s.copyLedger(stream.Context(), path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return backupFailure(fmt.Errorf("reading the backup: %w", err))
	}
	defer f.Close() //nolint:errcheck // nothing was written to it
	// From here on the copy has no name, so that nothing is left of it however the process ends. A system that cannot do that
	// has the directory removed in the end.
	_ = os.Remove(path)
	return a.s.sendFile(f, stream)
}

// removeOldBackups removes what a process that was killed left of its backup. Nobody else makes one in that directory: the one
// who does has its lock. The directory for temporary files belongs to all, so it is left alone.
func (s *Service) removeOldBackups() {
	if s.c.BackupDir == "" {
		return
	}
	entries, err := os.ReadDir(s.c.BackupDir)
	if err != nil {
		s.c.Log.Error("cannot look for backups that were left behind", "dir", s.c.BackupDir, "error", err)
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), backupPrefix)
		if ok && e.IsDir() {
			number, ok = strings.CutSuffix(number, backupSuffix)
		}
		if !ok || !e.IsDir() || number == "" || strings.Trim(number, "0123456789") != "" {
			continue
		}
		dir := filepath.Join(s.c.BackupDir, e.Name())
		if err := os.RemoveAll(dir); err != nil {
			s.c.Log.Error("a backup that was left behind cannot be removed", "dir", dir, "error", err)
			continue
		}
		s.c.Log.Info("removed a backup that was left behind", "dir", dir)
	}
}

// copyLedger copies the ledger to path, until the caller goes or the daemon stops.
func (s *Service) copyLedger(ctx context.Context, path string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.c.Stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := s.c.Ledger.Backup(ctx, path)
	if s.isStopping() {
		return stopping()
	}
	if err != nil {
		return backupFailure(fmt.Errorf("making a backup: %w", err))
	}
	return nil
}

func (s *Service) isStopping() bool {
	select {
	case <-s.c.Stopping:
		return true
	default:
		return false
	}
}

// sendFile sends what is in f and its sum, until the daemon stops.
func (s *Service) sendFile(f *os.File, stream grpc.ServerStreamingServer[quotadv1.BackupResponse]) error {
	info, err := f.Stat()
	if err != nil {
		return backupFailure(fmt.Errorf("reading the backup: %w", err))
	}
	resp := &quotadv1.BackupResponse{Size: info.Size()}
	sum := sha256.New()
	chunk := make([]byte, backupChunk)
	for !s.isStopping() {
		n, err := f.Read(chunk)
		if errors.Is(err, io.EOF) {
			return stream.Send(&quotadv1.BackupResponse{Sha256: hex.EncodeToString(sum.Sum(nil))})
		}
		if err != nil {
			return backupFailure(fmt.Errorf("reading the backup: %w", err))
		}
		sum.Write(chunk[:n])
		resp.Chunk = chunk[:n]
		if err := stream.Send(resp); err != nil {
			return err
		}
		resp = &quotadv1.BackupResponse{}
	}
	return stopping()
}
