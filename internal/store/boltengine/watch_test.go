package boltengine

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/store"
)

// TestWatch takes the file away in every way that an operator's slip can, while the engine works.
func TestWatch(t *testing.T) {
	const every = 5 * time.Millisecond
	for name, slip := range map[string]func(path string) error{
		"removed": os.Remove,
		"renamed": func(path string) error { return os.Rename(path, path+".old") },
		"replaced": func(path string) error {
			b, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path+".copy", b, 0o600), os.Rename(path+".copy", path))
		},
		"cut short":   func(path string) error { return os.Truncate(path, 8192) },
		"emptied":     func(path string) error { return os.Truncate(path, 0) },
		"overwritten": func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, t.TempDir(), Options{Create: true})
			if _, err := fillUp(e, "a", 1000); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := e.look(ctx); err != nil {
				t.Fatalf("before anything happened: %v", err)
			}
			ended := make(chan error, 1)
			go func() { ended <- e.Watch(ctx, every) }()
			if err := slip(e.Path()); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, ErrGone) {
				t.Fatalf("Watch returned %v, want ErrGone", err)
			}
			if err := put(e, "a", "k", "v"); !errors.Is(err, store.ErrUnknown) || !errors.Is(err, ErrGone) {
				t.Errorf("Update after that returned %v, want ErrUnknown and ErrGone", err)
			}
			if err := e.View(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, store.ErrUnknown) {
				t.Errorf("View after that returned %v, want ErrUnknown", err)
			}
			shut(t, e)
		})
	}
}

// TestWatchEnds: a file that stays is watched until the context or the engine ends, also while it grows.
func TestWatchEnds(t *testing.T) {
	e := open(t, t.TempDir(), Options{Create: true})
	ctx, cancel := context.WithCancel(t.Context())
	byContext, byClose := make(chan error, 1), make(chan error, 1)
	go func() { byContext <- e.Watch(ctx, 50*time.Microsecond) }()
	go func() { byClose <- e.Watch(t.Context(), 100*time.Microsecond) }()
	if _, err := fillUp(e, "a", 40_000); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-byContext; err != nil {
		t.Errorf("Watch returned %v when its context ended", err)
	}
	shut(t, e)
	if err := <-byClose; err != nil {
		t.Errorf("Watch returned %v when the engine was closed", err)
	}
}
