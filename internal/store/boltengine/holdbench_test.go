package boltengine

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/window"
)

// BenchmarkReservationPages shows how many pages a commit of reservations writes, with ids that sort by time (UUIDv7) and with random
// ones (UUIDv4), among 200,000 that were made in the same way: those that sort are put side by side, the others each dirty a page of
// their own. Each round makes 256 reservations, and settles these or any 256.
func BenchmarkReservationPages(b *testing.B) {
	for _, c := range []struct {
		name string
		id   func() string
		any  bool
	}{
		{"ids=sorted/settle=newest", func() string { return uuid.Must(uuid.NewV7()).String() }, false},
		{"ids=sorted/settle=any", func() string { return uuid.Must(uuid.NewV7()).String() }, true},
		{"ids=random/settle=newest", uuid.NewString, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			e := open(b, b.TempDir(), Options{Create: true})
			now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
			s, err := store.Open(b.Context(), e, store.Options{Now: func() time.Time { return now }, Uptime: func() time.Duration { return 0 }})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			limits := []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: quota.CountMax}}
			if _, err := s.Apply(b.Context(), quota.SetBucket{Name: "bench/*", Settings: quota.Settings{Limits: limits}}); err != nil {
				b.Fatal(err)
			}
			var all []string
			for range 100 {
				all = append(all, reserveAll(b, s, c.id, 2000)...)
			}
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			acquired, settled := pages{e: e, s: s}, pages{e: e, s: s}
			for b.Loop() {
				var made []string
				acquired.count(func() { made = reserveAll(b, s, c.id, 256) })
				if c.any {
					made, all = all[:256], append(all[256:], made...)
				}
				settled.count(func() {
					together(b, len(made), func(i int) (quota.Decision, error) {
						return s.Apply(b.Context(), quota.Settle{Principal: "bench", RequestID: made[i]})
					})
				})
			}
			acquired.report(b, "acquire")
			settled.report(b, "settle")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// pages counts the pages that commits write.
type pages struct {
	e              *Engine
	s              *store.Store
	pages, commits int64
	rounds         int64
}

func (p *pages) count(do func()) {
	stats, revision := p.e.db.Stats().TxStats, p.s.Revision()
	do()
	now := p.e.db.Stats().TxStats
	p.pages += now.GetPageCount() - stats.GetPageCount()
	p.commits += p.s.Revision() - revision
	p.rounds++
}

func (p *pages) report(b *testing.B, name string) {
	b.Helper()
	b.ReportMetric(float64(p.pages)/float64(p.commits), name+"-pages/commit")
	b.ReportMetric(float64(p.pages)/float64(p.rounds*256), name+"-pages/call")
}

// reserveAll makes n reservations that share commits, and returns their ids.
func reserveAll(b *testing.B, s *store.Store, id func() string, n int) []string {
	b.Helper()
	made := make([]string, n)
	for i := range made {
		made[i] = id()
	}
	together(b, n, func(i int) (quota.Decision, error) {
		op := quota.Acquire{
			Principal: "bench", Bucket: quota.Bucket(fmt.Sprintf("bench/%03d", rand.IntN(100))), RequestID: made[i], Reserve: true,
		}
		if ps := op.Validate(); ps != nil {
			b.Error(ps)
		}
		return s.Apply(b.Context(), op)
	})
	return made
}

// together makes n calls at once.
func together(b *testing.B, n int, call func(i int) (quota.Decision, error)) {
	b.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if d, err := call(i); err != nil || d.Outcome != quota.Done {
				b.Errorf("%v %v", d.Outcome, err)
			}
		})
	}
	wg.Wait()
}
