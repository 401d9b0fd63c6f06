package main

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"time"
)

// prefix is where all buckets of a load are; pattern declares them.
const (
	prefix  = "bench/"
	pattern = prefix + "*"
	digits  = 7
	keysMax = 10_000_000
)

// bucketName returns the name of a bucket by its number, such as "bench/0000123".
func bucketName(i int) string {
	var buf [20]byte
	number := strconv.AppendInt(buf[:0], int64(i), 10)
	name := make([]byte, 0, len(prefix)+digits)
	name = append(name, prefix...)
	for range digits - len(number) {
		name = append(name, '0')
	}
	return string(append(name, number...))
}

// A picker chooses buckets, as one caller does. Popular buckets are strewn over all names, as they are in life: were they
// neighbours, they would share pages of the file.
type picker struct {
	r      *rand.Rand
	zipf   *rand.Zipf // nil: uniform
	keys   int
	stride int
}

func newPicker(l load, caller int) *picker {
	p := &picker{r: rand.New(rand.NewPCG(l.Seed, uint64(caller))), keys: l.Keys, stride: strideOf(l.Keys)} //nolint:gosec // a load needs no secrets
	if l.Zipf > 0 && l.Keys > 1 {
		p.zipf = rand.NewZipf(p.r, l.Zipf, 1, uint64(l.Keys-1))
	}
	return p
}

// next returns the number of the bucket to charge.
func (p *picker) next() int {
	switch {
	case p.keys == 1:
		return 0
	case p.zipf == nil:
		return p.r.IntN(p.keys)
	}
	return strew(int(p.zipf.Uint64()), p.stride, p.keys) //nolint:gosec // below keys
}

// strew maps rank to another number below n, each to its own.
func strew(rank, stride, n int) int { return int(int64(rank) * int64(stride) % int64(n)) }

// strideOf returns a step that visits all of n numbers before it comes back, and leaps about while it does.
func strideOf(n int) int {
	for s := max(1, n*618/1000); ; s++ {
		if gcd(s, n) == 1 {
			return s
		}
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// uuid7 returns a UUID of version 7, which sorts by its time.
func uuid7(now time.Time, r *rand.Rand) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16|r.Uint64()&0xfff|0x7000)
	binary.BigEndian.PutUint64(id[8:], r.Uint64()&^(3<<62)|2<<62)
	var text [36]byte
	hex.Encode(text[:8], id[:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:], id[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
