package quota_test

import (
	"fmt"
	"testing"

	"github.com/quotad/quotad/internal/quota"
)

// BenchmarkAcquire is what a decision costs, on a state made of maps.
func BenchmarkAcquire(b *testing.B) {
	ids := make([]string, 1<<16)
	for i := range ids {
		ids[i] = fmt.Sprintf("018f3b1c-7b1e-7c3a-9d5e-%012d", i)
	}
	for _, c := range []struct {
		name     string
		declared map[string]string
		op       quota.Acquire
		ids      bool
	}{
		{"hot", map[string]string{"portfolio": "4_000_000_000_000_000_000"}, quota.Acquire{Bucket: "portfolio"}, false},
		{"hot-thresholds", map[string]string{"portfolio": "4_000_000_000_000_000_000"}, quota.Acquire{Bucket: "portfolio"}, false},
		{"hot-with-id", map[string]string{"portfolio": "4_000_000_000_000_000_000"}, quota.Acquire{Bucket: "portfolio"}, true},
		{"denied", map[string]string{"portfolio": "0"}, quota.Acquire{Bucket: "portfolio"}, false},
		{
			"deep",
			map[string]string{"acme": "4_000_000_000_000_000_000/month", "acme/*": "4_000_000_000_000_000_000, 4_000_000_000_000_000_000/hour"},
			quota.Acquire{Bucket: "acme/alice"},
			false,
		},
		{
			"tokens",
			map[string]string{"portfolio": "4_000_000_000_000_000_000, 4_000_000_000_000_000_000 tokens"},
			quota.Acquire{Bucket: "portfolio", Charges: []quota.Charge{{Amount: 1}, {Unit: "tokens", Amount: 1}}},
			false,
		},
	} {
		b.Run(c.name, func(b *testing.B) {
			var defaults quota.Defaults
			if c.name == "hot-thresholds" {
				defaults.Thresholds = quota.Thresholds{80, 100}
			}
			s := newState(b, defaults, declare(c.declared))
			op := valid(b, c.op)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if c.ids {
					if i%len(ids) == 0 {
						clear(s.receipts)
					}
					op.RequestID = ids[i%len(ids)]
				}
				s.written = s.written[:0]
				d, err := quota.Apply(s, noon, op)
				if err != nil || d.Outcome == quota.IDReused {
					b.Fatal(d, err)
				}
			}
		})
	}
}

// BenchmarkValidate is what the look at a request costs.
func BenchmarkValidate(b *testing.B) {
	for _, id := range []string{"", "018f3b1c-7b1e-7c3a-9d5e-0123456789ab"} {
		b.Run("id-"+fmt.Sprint(id != ""), func(b *testing.B) {
			charges := []quota.Charge{{Amount: 1}}
			b.ReportAllocs()
			for b.Loop() {
				op := quota.Acquire{Bucket: "acme/alice", RequestID: id, Charges: charges}
				if ps := op.Validate(); ps != nil {
					b.Fatal(ps)
				}
			}
		})
	}
}

// BenchmarkRules is what it costs to find what holds for a name.
func BenchmarkRules(b *testing.B) {
	for _, patterns := range []int{0, 1, 100, 10_000} {
		b.Run(fmt.Sprint("patterns-", patterns), func(b *testing.B) {
			declared := make(map[string]quota.Settings)
			for i := range patterns {
				declared[fmt.Sprintf("acme%d/*", i)] = quota.Settings{}
			}
			book, err := quota.NewBook(quota.Defaults{Limits: limits("50")}, declared)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				book.Rules("zebra/alice")
			}
		})
	}
}
