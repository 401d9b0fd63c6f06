package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestUUID7(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_795_000_000_123)
	r := rand.New(rand.NewPCG(1, 2))
	seen := make(map[string]bool)
	for range 1000 {
		text := uuid7(now, r)
		id, err := uuid.Parse(text)
		if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("%s: version %v, variant %v, %v", text, id.Version(), id.Variant(), err)
		}
		if sec, nsec := id.Time().UnixTime(); time.Unix(sec, nsec).UnixMilli() != now.UnixMilli() {
			t.Fatalf("%s is of %v, want %v", text, time.Unix(sec, nsec), now)
		}
		seen[text] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d of 1000 ids differ", len(seen))
	}
}

func TestBucketName(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]string{0: "bench/0000000", 123: "bench/0000123", keysMax - 1: "bench/9999999"} {
		if got := bucketName(i); got != want {
			t.Errorf("bucketName(%d) = %q, want %q", i, got, want)
		}
	}
}

func TestStrewIsOneToOne(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 10, 100, 9973, 10_000} {
		seen := make([]bool, n)
		for rank := range n {
			seen[strew(rank, strideOf(n), n)] = true
		}
		for i, hit := range seen {
			if !hit {
				t.Fatalf("of %d, %d is never reached", n, i)
			}
		}
	}
}

// A Zipf load has favourites; a uniform one has none; both stay among the keys.
func TestPicker(t *testing.T) {
	t.Parallel()
	for _, zipf := range []float64{0, 1.1} {
		p := newPicker(load{Keys: 1000, Zipf: zipf, Seed: 7}, 3)
		counts := make([]int, 1000)
		for range 100_000 {
			counts[p.next()]++
		}
		most := 0
		for _, n := range counts {
			most = max(most, n)
		}
		if favourites := most > 10_000; favourites != (zipf > 0) {
			t.Errorf("zipf %g: the most popular of 1000 buckets got %d of 100000 calls", zipf, most)
		}
	}
}
