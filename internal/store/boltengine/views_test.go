package boltengine

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/store"
)

// Whatever the order in which views end, the oldest that is left is the one that is told, and none is left at the end.
func TestViewsInAnyOrder(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		now := time.Unix(1_800_000_000, 0)
		e := &Engine{}
		e.views.now = func() time.Time { return now }
		want := map[*view]time.Time{}
		for range 60 {
			now = now.Add(time.Duration(rng.IntN(3)) * time.Second)
			if rng.IntN(2) == 0 {
				v := &view{}
				e.views.begin(v)
				want[v] = now
			} else {
				for v := range want { // any one
					e.views.end(v)
					delete(want, v)
					break
				}
			}
			oldest := time.Duration(0)
			for _, began := range want {
				oldest = max(oldest, now.Sub(began))
			}
			if open, age := e.Views(); open != len(want) || age != oldest {
				t.Fatalf("%d open, the oldest for %s; want %d and %s", open, age, len(want), oldest)
			}
		}
		for v := range want {
			e.views.end(v)
		}
		if e.views.first != nil || e.views.last != nil || e.views.open != 0 {
			t.Fatal("something is left")
		}
	}
}

// A view is open from its begin to its end, also one that fails or panics, and so is a copy.
func TestViews(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	e := open(t, t.TempDir(), Options{Create: true, Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	defer shut(t, e)
	want := func(what string, views int, age time.Duration) {
		t.Helper()
		if n, oldest := e.Views(); n != views || oldest != age {
			t.Errorf("%s: %d open, the oldest for %s; want %d and %s", what, n, oldest, views, age)
		}
		if n := e.OpenReaders(); n != views {
			t.Errorf("%s: bbolt has %d readers, and %d are told", what, n, views)
		}
	}
	want("at first", 0, 0)
	if err := e.View(t.Context(), func(store.Tx) error {
		now.Add(7)
		want("in one", 1, 7*time.Second)
		err := e.View(t.Context(), func(store.Tx) error {
			now.Add(5)
			want("in a second", 2, 12*time.Second)
			return nil
		})
		want("after the second", 1, 12*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want("after both", 0, 0)
	func() {
		defer func() { _ = recover() }()
		_ = e.View(t.Context(), func(store.Tx) error { panic("a defect") })
	}()
	want("after a panic", 0, 0)
	if err := e.copyTo(discard{}, func(int64) error { now.Add(3); want("while it copies", 1, 3*time.Second); return nil }); err != nil {
		t.Fatal(err)
	}
	want("after a copy", 0, 0)
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// Many views at once are counted, and none is left behind.
func TestViewsAtOnce(t *testing.T) {
	t.Parallel()
	e := open(t, t.TempDir(), Options{Create: true})
	defer shut(t, e)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if err := e.View(t.Context(), func(store.Tx) error {
					if n, _ := e.Views(); n < 1 || n > 8 {
						t.Errorf("%d are open", n)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n, age := e.Views(); n != 0 || age != 0 {
		t.Errorf("%d left, for %s", n, age)
	}
}

// BenchmarkView is a reading of nothing: what each pays to begin and end, its place among the open ones included.
func BenchmarkView(b *testing.B) {
	e := open(b, b.TempDir(), Options{Create: true})
	defer shut(b, e)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.View(b.Context(), func(store.Tx) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
