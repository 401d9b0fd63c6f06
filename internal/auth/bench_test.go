package auth_test

import (
	"testing"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
)

// BenchmarkMay is what each acquire pays to be allowed.
func BenchmarkMay(b *testing.B) {
	p := access(b, goodPolicy, "").Principal([]auth.Identity{"uid:1000"})
	bucket := quota.Bucket("acme/chat/alice@example.com")
	b.ReportAllocs()
	for b.Loop() {
		if !p.May(auth.Acquire, bucket) {
			b.Fatal("refused")
		}
	}
}

// BenchmarkToken is what each call by a token pays to be known.
func BenchmarkToken(b *testing.B) {
	s := newSecret(b, 1)
	a := auth.NewAccess(policy(b, goodPolicy), auth.Tokens{"ci": {Hash: s.Hash(), Created: day}})
	text := s.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Token(text, day); err != nil {
			b.Fatal(err)
		}
	}
}
