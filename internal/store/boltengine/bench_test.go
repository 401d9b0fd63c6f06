package boltengine

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/store"
)

// BenchmarkUpdate is the writer's hot path: read a counter, write it back, and commit many of these at once.
func BenchmarkUpdate(b *testing.B) {
	value := make([]byte, 40)
	for _, keys := range []int{1, 10_000} {
		for _, ops := range []int{1, 256} {
			b.Run(fmt.Sprintf("keys=%d/ops=%d", keys, ops), func(b *testing.B) {
				e := open(b, b.TempDir(), Options{Create: true})
				defer shut(b, e)
				names := populate(b, e, keys)
				b.ReportAllocs()
				for b.Loop() {
					if err := e.Update(b.Context(), func(tx store.Tx) error {
						for range ops {
							name := names[rand.IntN(len(names))]
							if _, err := tx.Get("used/2026-11-22", name); err != nil {
								return err
							}
							if err := tx.Put("used/2026-11-22", name, value); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(ops*b.N)/b.Elapsed().Seconds(), "ops/s")
			})
		}
	}
}

// BenchmarkGet reads in one transaction, so that it shows the look-up alone.
func BenchmarkGet(b *testing.B) {
	e := open(b, b.TempDir(), Options{Create: true})
	defer shut(b, e)
	names := populate(b, e, 10_000)
	b.ReportAllocs()
	if err := e.View(b.Context(), func(tx store.Tx) error {
		for i := 0; b.Loop(); i++ {
			if v, err := tx.Get("used/2026-11-22", names[i%len(names)]); err != nil || v == nil {
				return fmt.Errorf("got %v, %w", v, err)
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkOpen opens and checks a file of a million keys.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	e := open(b, dir, Options{Create: true})
	populate(b, e, 1_000_000)
	size, _ := e.Size()
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := open(b, dir, Options{}).Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size)/1e6, "MB")
}

// BenchmarkDrop drops a space of a million keys: how long the writer is gone, and what the next commits cost.
func BenchmarkDrop(b *testing.B) {
	var dropping, after time.Duration
	for b.Loop() {
		e := open(b, b.TempDir(), Options{Create: true})
		populate(b, e, 1_000_000)
		start := time.Now()
		if err := e.Update(b.Context(), func(tx store.Tx) error { return tx.Drop("used/2026-11-22") }); err != nil {
			b.Fatal(err)
		}
		dropping += time.Since(start)
		start = time.Now()
		for range 100 {
			if err := e.Update(b.Context(), func(tx store.Tx) error { return tx.Put("a", "k", nil) }); err != nil {
				b.Fatal(err)
			}
		}
		after += time.Since(start) / 100
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(dropping.Microseconds())/float64(b.N)/1000, "ms/drop")
	b.ReportMetric(float64(after.Microseconds())/float64(b.N), "us/commit-after")
}

// BenchmarkAppend writes receipts, a batch a commit: with ids that sort by time, such ids of 16 callers, and random ids.
func BenchmarkAppend(b *testing.B) {
	value := make([]byte, 60)
	for name, key := range map[string]func(n int) string{
		"sorted":  func(n int) string { return fmt.Sprintf("%016x%016x", n, rand.Uint64()) },
		"callers": func(n int) string { return fmt.Sprintf("%x%015x%016x", rand.IntN(16), n, rand.Uint64()) },
		"random":  func(int) string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) },
	} {
		b.Run(name, func(b *testing.B) {
			e := open(b, b.TempDir(), Options{Create: true})
			defer shut(b, e)
			n := 0
			for b.Loop() {
				if err := e.Update(b.Context(), func(tx store.Tx) error {
					for range 256 {
						n++
						if err := tx.Put("receipts/2026-11-22", key(n), value); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(used(b, e))/float64(n), "B/key")
		})
	}
}

// BenchmarkShed takes a space of a million keys away a piece at a time, as a caller may who cannot wait for a Drop.
func BenchmarkShed(b *testing.B) {
	for _, piece := range []int{256, 1024, 4096} {
		b.Run(fmt.Sprintf("keys=%d", piece), func(b *testing.B) {
			e := open(b, b.TempDir(), Options{Create: true})
			defer shut(b, e)
			names := populate(b, e, 1_000_000)
			for b.Loop() {
				gone := names[:piece]
				if names = names[piece:]; len(names) < piece {
					b.Skip("a million keys are not enough for so many rounds: use -benchtime 200x")
				}
				if err := e.Update(b.Context(), func(tx store.Tx) error {
					for _, name := range gone {
						if err := tx.Delete("used/2026-11-22", name); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// used returns the bytes of the file that are not free.
func used(b *testing.B, e *Engine) int64 {
	b.Helper()
	t, err := e.db.Begin(false)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = t.Rollback() }()
	s := e.db.Stats()
	return t.Size() - int64(s.FreePageN+s.PendingPageN)*int64(e.db.Info().PageSize)
}

// populate puts n counters in batches, and returns their keys.
func populate(b *testing.B, e *Engine, n int) []string {
	b.Helper()
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("acme/%012x", i)
	}
	value := make([]byte, 40)
	for start := 0; start < n; start += 50_000 {
		if err := e.Update(b.Context(), func(tx store.Tx) error {
			for _, name := range names[start:min(n, start+50_000)] {
				if err := tx.Put("used/2026-11-22", name, value); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	return names
}
