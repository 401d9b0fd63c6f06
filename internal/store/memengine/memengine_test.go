package memengine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/enginetest"
	"github.com/quotad/quotad/internal/store/memengine"
)

func TestEngine(t *testing.T) {
	enginetest.Run(t, func(*testing.T) store.Engine { return memengine.New() })
}

func BenchmarkUpdate(b *testing.B) {
	for _, keys := range []int{1, 10_000, 100_000} {
		for _, ops := range []int{1, 256} {
			b.Run(fmt.Sprintf("keys=%d/ops=%d", keys, ops), func(b *testing.B) {
				e := memengine.New()
				names := make([]string, keys)
				value := make([]byte, 40)
				if err := e.Update(b.Context(), func(tx store.Tx) error {
					for i := range names {
						names[i] = fmt.Sprintf("portfolio/%06d", i)
						if err := tx.Put("used/2026-11-22", names[i], value); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if err := readAndWrite(b.Context(), e, names, ops, value); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(ops*b.N)/b.Elapsed().Seconds(), "ops/s")
			})
		}
	}
}

func readAndWrite(ctx context.Context, e store.Engine, names []string, ops int, value []byte) error {
	return e.Update(ctx, func(tx store.Tx) error {
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
	})
}
