package store_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// BenchmarkApply is the whole path below the wire, durable: callers share commits on a real file. Compare memory with bolt to see
// what the disk costs, and one caller with many to see what sharing gives.
func BenchmarkApply(b *testing.B) {
	engines := map[string]func(string) (store.Engine, error){
		"bolt":   func(dir string) (store.Engine, error) { return openBolt(b, dir), nil },
		"memory": func(string) (store.Engine, error) { return memengine.New(), nil },
	}
	for _, name := range []string{"bolt", "memory"} {
		for _, callers := range []int{1, 64, 256} {
			for _, keys := range []int{1, 10_000} {
				for _, ids := range []bool{false, true} {
					b.Run(fmt.Sprintf("%s/callers=%d/keys=%d/ids=%v", name, callers, keys, ids), func(b *testing.B) {
						e, err := engines[name](filepath.Join(b.TempDir(), "data"))
						if err != nil {
							b.Fatal(err)
						}
						benchApply(b, e, callers, keys, ids)
					})
				}
			}
		}
	}
}

func benchApply(b *testing.B, e store.Engine, callers, keys int, ids bool) {
	ctx := b.Context()
	s, err := store.Open(ctx, e, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	limits := []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: quota.CountMax}}
	if _, err := s.Apply(ctx, quota.SetBucket{Name: "bench/*", Settings: quota.Settings{Limits: limits}}); err != nil {
		b.Fatal(err)
	}
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("bench/%07d", i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 1))
			zipf := rand.NewZipf(rng, 1.1, 1, uint64(keys-1))
			for left.Add(-1) >= 0 {
				id := ""
				if ids {
					id = uuid.Must(uuid.NewV7()).String()
				}
				if d, err := s.Apply(ctx, acquire(names[zipf.Uint64()], id)); err != nil || d.Outcome != quota.Done {
					b.Errorf("%v %v", d, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
