package groupcommit_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/groupcommit"
)

// BenchmarkDo measures an op among so many callers, with a write that is free
// and with one that sleeps at least so long. It reports how many ops shared one.
func BenchmarkDo(b *testing.B) {
	for _, write := range []time.Duration{0, 200 * time.Microsecond} {
		for _, callers := range []int{1, 64, 256, 1024} {
			b.Run(fmt.Sprintf("write=%v/callers=%d", write, callers), func(b *testing.B) {
				benchmarkDo(b, write, callers)
			})
		}
	}
}

func benchmarkDo(b *testing.B, write time.Duration, callers int) {
	writes := 0
	c := groupcommit.New(1024, 4096, func(ops []int64, results []groupcommit.Result[int64]) error {
		writes++
		if write > 0 {
			// The sleep stands for a disk: what it costs is what is measured.
			time.Sleep(write)
		}
		for i, op := range ops {
			results[i].Value = op
		}
		return nil
	})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for {
				op := next.Add(1)
				if op > int64(b.N) {
					return
				}
				if got, err := c.Do(ctx, op); err != nil || got != op {
					b.Errorf("Do(%d) = %d, %v", op, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	c.Close()
	b.ReportMetric(float64(b.N)/float64(writes), "ops/write")
}
