package service_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
	"github.com/quotad/quotad/internal/store/memengine"
)

// receive receives a backup, and checks its length and its sum.
func receive(t *testing.T, r *rig, w io.Writer) error {
	t.Helper()
	stream, err := r.Backup(t.Context(), &quotadv1.BackupRequest{})
	if err != nil {
		return err
	}
	sum := sha256.New()
	var size, got int64
	var said string
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		size += resp.GetSize()
		got += int64(len(resp.GetChunk()))
		said = resp.GetSha256()
		if _, err := io.MultiWriter(sum, w).Write(resp.GetChunk()); err != nil {
			return err
		}
	}
	if got != size || said != hex.EncodeToString(sum.Sum(nil)) {
		return fmt.Errorf("%d bytes of %d, sum %s", got, size, said)
	}
	return nil
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

// A backup is a ledger: it has the counts, and its sum is right.
func TestBackup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	e, err := boltengine.Open(dir, boltengine.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, e, fifty)
	defer r.close()
	if _, err := r.Acquire(t.Context(), &quotadv1.AcquireRequest{Bucket: "a", RequestId: "id"}); err != nil {
		t.Fatal(err)
	}
	body := &bytes.Buffer{}
	if err := receive(t, r, body); err != nil || body.Len() == 0 {
		t.Errorf("%d bytes, %v", body.Len(), err)
	}
	if left := names(t, r.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(copied, body.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := boltengine.OpenFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	report, err := store.Verify(t.Context(), c)
	if err := errors.Join(err, c.Close()); err != nil || report.Accounts != 1 || report.Receipts != 1 || len(report.Faults) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	mem := start(t, memengine.New(), fifty)
	defer mem.close()
	none, err := mem.Backup(t.Context(), &quotadv1.BackupRequest{})
	if err == nil {
		_, err = none.Recv()
	}
	if err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("a backup of memory: %v", err)
	}
}

// copying is a ledger whose copies are made by a function.
type copying struct {
	service.Ledger
	copy func(ctx context.Context, path string) error
}

func (c *copying) Backup(ctx context.Context, path string) error { return c.copy(ctx, path) }

func startCopying(t *testing.T, opts ...func(*service.Config)) (*rig, *copying) {
	t.Helper()
	s, err := store.Open(t.Context(), memengine.New(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &copying{Ledger: s}
	return serve(t, s, c, opts...), c
}

// large is a copy that does not fit into what is under way between the two ends.
func large(_ context.Context, path string) error {
	return os.WriteFile(path, make([]byte, 16<<20), 0o600)
}

// One backup at a time: the second is told so, and the third, after the first, is made.
func TestOneBackupAtATime(t *testing.T) {
	r, c := startCopying(t)
	defer r.close()
	began, goOn := make(chan struct{}), make(chan struct{})
	c.copy = func(_ context.Context, path string) error {
		close(began)
		<-goOn
		return os.WriteFile(path, []byte("copy"), 0o600)
	}
	first := make(chan error)
	go func() { first <- receive(t, r, io.Discard) }()
	<-began
	err := receive(t, r, io.Discard)
	if status.Code(err) != codes.Unavailable || reason(err) != service.ReasonBackupRunning || !strings.Contains(err.Error(), "another backup") {
		t.Errorf("beside another: %v", err)
	}
	close(goOn)
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	c.copy = func(context.Context, string) error { return errors.New("broken") }
	if err := receive(t, r, io.Discard); status.Code(err) != codes.Internal {
		t.Errorf("one that fails: %v", err)
	}
	c.copy = large
	if err := receive(t, r, io.Discard); err != nil {
		t.Errorf("one after others: %v", err)
	}
}

// While it is sent the copy has no name, so that a kill leaves nothing to read; in the end nothing is left at all.
func TestBackupLeavesNothing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file keeps its name there")
	}
	r, c := startCopying(t)
	defer r.close()
	c.copy = large
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := r.Backup(ctx, &quotadv1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	dirs := names(t, r.dir)
	if len(dirs) != 1 {
		t.Fatalf("under way: %v", dirs)
	}
	if left := names(t, filepath.Join(r.dir, dirs[0])); len(left) > 0 {
		t.Errorf("the copy can be read under its name: %v", left)
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	r.close() // waits for the handler
	if left := names(t, r.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What a killed process left goes when the next backup is made, and nothing else does.
func TestBackupRemovesWhatWasLeft(t *testing.T) {
	r, c := startCopying(t)
	defer r.close()
	c.copy = large
	kept := []string{"backup-.tmp", "backup-12", "backup-2026-11-22.tmp", "backup-mine.tmp", "mine-12.tmp"}
	for _, dir := range append([]string{"backup-12.tmp", "backup-4059384.tmp"}, kept...) {
		if err := os.Mkdir(filepath.Join(r.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(r.dir, dir, "quotad.db"), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.dir, "backup-77.tmp"), []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	kept = append(kept, "backup-77.tmp")
	slices.Sort(kept)
	if err := receive(t, r, io.Discard); err != nil {
		t.Fatal(err)
	}
	if left := names(t, r.dir); !slices.Equal(left, kept) {
		t.Errorf("%v is there, want %v", left, kept)
	}
}

// The daemon's end ends a backup, both while it is copied and while it is sent.
func TestBackupEndsWithTheDaemon(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if status.Code(err) != codes.Unavailable || reason(err) != service.ReasonShuttingDown {
			t.Errorf("at the end: %v", err)
		}
	}
	r, c := startCopying(t)
	defer r.close()
	c.copy = func(ctx context.Context, _ string) error {
		close(r.stop)
		<-ctx.Done()
		return ctx.Err()
	}
	check(receive(t, r, io.Discard))

	r, c = startCopying(t)
	defer r.close()
	c.copy = large
	stream, err := r.Backup(t.Context(), &quotadv1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = stream.Recv(); err != nil {
		t.Fatal(err)
	}
	close(r.stop)
	for err == nil {
		_, err = stream.Recv()
	}
	check(err)
}

// No room for the copy is not the same as no room in the ledger, nor as a disk that failed.
func TestBackupWithoutRoom(t *testing.T) {
	r, c := startCopying(t)
	defer r.close()
	for _, w := range []struct {
		err  error
		code codes.Code
		why  string
	}{
		{fmt.Errorf("copying: %w", syscall.ENOSPC), codes.Unavailable, service.ReasonBackupNoRoom},
		{fmt.Errorf("%w: %w", store.ErrUnknown, syscall.ENOSPC), codes.Unavailable, service.ReasonOutcomeUnknown},
		{store.ErrClosed, codes.Unavailable, service.ReasonShuttingDown},
	} {
		c.copy = func(context.Context, string) error { return w.err }
		err := receive(t, r, io.Discard)
		if status.Code(err) != w.code || reason(err) != w.why {
			t.Errorf("%v: %v %q, want %v %q", w.err, err, reason(err), w.code, w.why)
		}
	}
	none, _ := startCopying(t, func(c *service.Config) { c.BackupDir = filepath.Join(c.BackupDir, "missing") })
	defer none.close()
	if err := receive(t, none, io.Discard); status.Code(err) != codes.Internal {
		t.Errorf("without a directory: %v", err)
	}
}
