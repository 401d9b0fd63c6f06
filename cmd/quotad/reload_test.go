package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

// counted is something that is read again, and counts how often.
type counted struct {
	path string
	n    atomic.Int64
}

func (c *counted) files() []string { return []string{c.path} }

func (c *counted) load(context.Context, bool) error { c.n.Add(1); return nil }

// TestBusyDirectory: a file is read again also where another one of its directory changes all the time.
func TestBusyDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	of := &counted{path: filepath.Join(dir, "tokens.yaml")}
	k := newKeeper("tokens", of, slog.New(slog.DiscardHandler), func(error) {})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.keep(ctx) }()
	defer func() { cancel(); <-done }()
	busy, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for deadline := time.Now().Add(patience); of.n.Load() < 2; time.Sleep(settle / 10) { // the first is that of the start
		if time.Now().After(deadline) {
			t.Fatalf("read %d times within %v", of.n.Load(), patience)
		}
		if _, err := io.WriteString(busy, "a line\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRefusalIsSaidOnce: a log in the directory that is watched does not bring about itself. Who asks is told again.
func TestRefusalIsSaidOnce(t *testing.T) {
	t.Parallel()
	var wrong error
	said := 0
	k := newKeeper("tokens", &certificates{reload: func() error { return wrong }}, slog.New(slog.DiscardHandler), func(error) { said++ })
	still := time.NewTimer(time.Hour)
	for i, test := range []struct {
		err   error
		force bool
		said  int
	}{
		{errors.New("a"), false, 1},
		{errors.New("a"), false, 1},
		{errors.New("b"), false, 2},
		{errors.New("b"), true, 3},
		{nil, false, 3},
		{errors.New("b"), false, 4},
	} {
		wrong = test.err
		if k.load(t.Context(), still, test.force); said != test.said {
			t.Errorf("%d: said %d times, want %d", i, said, test.said)
		}
	}
}

// fickle is a ledger that may refuse changes.
type fickle struct {
	*store.Store
	err error
}

func (f *fickle) Apply(ctx context.Context, op quota.Op) (quota.Decision, error) {
	if f.err != nil {
		return quota.Decision{}, f.err
	}
	return f.Store.Apply(ctx, op)
}

// notes returns what the audit trail has of access, oldest first.
func (f *fickle) notes(t *testing.T) (all []string) {
	t.Helper()
	page, err := f.Audit(t.Context(), store.AuditQuery{Max: lookBack})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range page.Records {
		if r.Action == "access" {
			all = append([]string{r.Before + " -> " + r.After}, all...)
		}
	}
	return all
}

// TestAccessIsNoted: what is in force comes into the audit trail once, also where there was no room at first, and also that there is
// no policy any more.
func TestAccessIsNoted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(t.Context(), memengine.New(), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ledger := &fickle{Store: s}
		var text bytes.Buffer
		log := slog.New(slog.NewTextHandler(&text, nil))
		if err := noteAccess(t.Context(), ledger, noPolicy); err != nil || len(ledger.notes(t)) != 0 {
			t.Errorf("where there never was a policy: %v, and the notes %q", err, ledger.notes(t))
		}
		path := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(path, []byte("principals: {}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		a := &accessFiles{policy: path, gate: &auth.Gate{}, log: log, observe: func(time.Time, bool) {}, now: time.Now}
		if err := a.load(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		ledger.err, a.ledger = store.ErrFull, ledger
		k := newKeeper("policy", a, log, func(err error) { t.Errorf("it is shown as refused: %v", err) })
		still := time.NewTimer(time.Hour)
		began := time.Now()
		k.load(t.Context(), still, false)
		<-still.C
		if waited := time.Since(began); waited != retryAfter || len(a.problems()) != 0 {
			t.Errorf("it is noted again after %v, want %v; problems %q", waited, retryAfter, a.problems())
		}
		ledger.err = nil
		for range 2 { // the second has nothing to do
			k.load(t.Context(), still, false)
		}
		if got := ledger.notes(t); len(got) != 1 || !strings.HasPrefix(got[0], " -> policy "+path) {
			t.Errorf("once there is room the notes are %q, want one", got)
		}
		for range 2 {
			if err := noteAccess(t.Context(), ledger, noPolicy); err != nil {
				t.Error(err)
			}
		}
		if got := ledger.notes(t); len(got) != 2 || !strings.HasSuffix(got[1], " -> "+noPolicy) || strings.HasPrefix(got[1], " -> ") {
			t.Errorf("after a start without a policy the notes are %q", got)
		}
	})
}

// TestWriteNew: the file with the addresses takes the place of what was left over, and goes through nobody's link.
func TestWriteNew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "addr")
	if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second"} {
		if err := writeNew(path, text); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("it has %q, %v; want %q", got, err, text)
		}
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "mine" {
		t.Errorf("where the link led there is %q, %v", got, err)
	}
}
