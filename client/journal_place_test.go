package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A journal is one file, wherever the process goes after it has opened it: a rewriting must not make another.
func TestJournalOfAProcessThatMoves(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	t.Chdir(first)
	j := keeping(t, "journal")
	t.Chdir(second)
	err := j.rewrite()
	if err == nil {
		err = j.close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(second); err != nil || len(left) > 0 {
		t.Errorf("%v where the process went (%v)", left, err)
	}
	j, notes, err := openJournal(filepath.Join(first, "journal"))
	if err != nil || len(notes) != 1 {
		t.Fatalf("%d notes, want 1 (%v)", len(notes), err)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
}

// keeping returns an open journal with one note in it.
func keeping(t *testing.T, path string) *journal {
	t.Helper()
	j, _, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	seq, line, err := j.encode(&note{release: &quotadv1.ReleaseRequest{RequestId: "a"}})
	if err == nil {
		err = j.add(seq, line)
	}
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// A journal that somebody removes under a running process is written again, with all that it keeps.
func TestJournalThatWasRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j := keeping(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	j, notes, err := openJournal(path)
	if err != nil || len(notes) != 1 {
		t.Fatalf("%d notes, want 1 (%v)", len(notes), err)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
}

// A file that somebody has put in a journal's place is not overwritten, and it is said.
func TestJournalThatWasReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j := keeping(t, path)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err == nil || !strings.Contains(err.Error(), "another file has taken its place") {
		t.Errorf("closed with %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "theirs" {
		t.Errorf("%q (%v)", data, err)
	}
}
