package quota_test

import (
	"encoding/binary"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// The names there are, told once more.
var (
	rightName    = regexp.MustCompile(`\A[A-Za-z0-9._:@=+-]+(/[A-Za-z0-9._:@=+-]+){0,7}\z`)
	rightPattern = regexp.MustCompile(`\A([A-Za-z0-9._:@=+-]+|\*)(/([A-Za-z0-9._:@=+-]+|\*)){0,7}\z`)
	dotSegment   = regexp.MustCompile(`(\A|/)\.\.?(/|\z)`)
	rightUnit    = regexp.MustCompile(`\A[a-z][a-z0-9_]{0,63}\z`)
	rightID      = regexp.MustCompile(`\A[!-~]{0,128}\z`)
	rightLimit   = regexp.MustCompile(`\A *(-?[0-9]+(_[0-9]+)*)( +([a-z][a-z0-9_]*))? *(/ *(minute|hour|day|week|month|year|ever) *)?\z`)
)

func FuzzNames(f *testing.F) {
	for name := range nastyNames {
		if len(name) < 1<<10 {
			f.Add(name)
		}
	}
	f.Fuzz(func(t *testing.T, name string) {
		short := len(name) <= 200 && !dotSegment.MatchString(name)
		if err := quota.Bucket(name).Check(); (err == nil) != (short && rightName.MatchString(name)) {
			t.Errorf("bucket %q: %v", name, err)
		}
		if err := quota.CheckPattern(name); (err == nil) != (short && rightPattern.MatchString(name)) {
			t.Errorf("declaration %q: %v", name, err)
		}
		if err := quota.Unit(name).Check(); (err == nil) != rightUnit.MatchString(name) {
			t.Errorf("unit %q: %v", name, err)
		}
		a := quota.Acquire{Bucket: "a", RequestID: name}
		if ps := a.Validate(); (ps == nil) != rightID.MatchString(name) {
			t.Errorf("id %q: %v", name, ps)
		}
	})
}

func FuzzParseLimit(f *testing.F) {
	for _, s := range []string{
		"50 calls/day", "50", "0", "50/hour", "2_000_000 tokens/month", " 7  tokens / ever ", "4000000000000000000", "4000000000000000001",
		"-5", "-_5", "+5", "+_5", "5_", "5__0", "1e3", "50 Calls", "50 calls per day", "50 calls/", "50 calls/days", "5\t/day", "٣", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := quota.ParseLimit(s)
		if err != nil {
			return
		}
		if l.Check() != nil || !rightLimit.MatchString(strings.Map(plainSpace, s)) {
			t.Errorf("%q is read as %v", s, l)
		}
		if again, err := quota.ParseLimit(l.String()); again != l || err != nil {
			t.Errorf("%q is read as %v, and that as %v: %v", s, l, again, err)
		}
	})
}

// plainSpace makes a space of all that strings.TrimSpace takes for one.
func plainSpace(r rune) rune {
	if strings.TrimSpace(string(r)) == "" {
		return ' '
	}
	return r
}

// acquireFrom makes an acquire of any bytes: texts and numbers as they come.
func acquireFrom(data []byte) quota.Acquire {
	text := func() string {
		if len(data) == 0 {
			return ""
		}
		n := min(int(data[0])%24, len(data)-1)
		s := string(data[1 : 1+n])
		data = data[1+n:]
		return s
	}
	number := func() int64 {
		n, size := binary.Varint(data)
		data = data[max(0, min(size, len(data))):]
		return n
	}
	a := quota.Acquire{Bucket: quota.Bucket(text()), RequestID: text()}
	for len(data) > 0 && len(a.Charges) < 40 {
		c := quota.Charge{Bucket: quota.Bucket(text()), Unit: quota.Unit(text()), Amount: number(), Ceiling: quota.Cap{Max: number(), Set: number()%2 == 1}}
		c.CeilingSpan = window.Span(number())
		a.Charges = append(a.Charges, c)
	}
	return a
}

// sameContent tells whether two validated acquires ask the same.
func sameContent(a, b quota.Acquire) bool {
	return a.Bucket == b.Bucket && a.Reserve == b.Reserve && (!a.Reserve || a.Hold == b.Hold) && sameCharges(a.Charges, b.Charges)
}

func sameCharges(a, b []quota.Charge) bool {
	return slices.EqualFunc(a, b, func(c, d quota.Charge) bool {
		if !c.Ceiling.Set {
			c.Ceiling.Max = 0
		}
		if !d.Ceiling.Set {
			d.Ceiling.Max = 0
		}
		return sameCharge(c, d)
	})
}

func FuzzValidate(f *testing.F) {
	one := []byte("\x03a/b\x021\x31\x00\x05calls\x04\x00\x00\x00")
	add := func(x, y []byte) {
		f.Add(x, y, int64(-1), int64(-1))
		f.Add(x, y, int64(0), int64(-1))
		f.Add(x, y, int64(time.Hour), int64(time.Hour))
		f.Add(x, y, int64(time.Hour), int64(time.Minute))
	}
	add(one, one)
	add(one, append(slices.Clone(one), 1, 'c', 0, 2, 2, 1, 6))
	add([]byte("\x01a\x011"), []byte("\x01a\x012"))
	add([]byte("\x01a\x011\x01b\x01u\x02\x04\x01\x06"), []byte("\x01a\x011\x01b\x01u\x02\x04\x01\x08"))
	add([]byte("\x01a\x011\x01b\x00\x02\x00\x00\x00\x01c\x00\x02\x00\x00\x00"), []byte("\x01a\x011\x01c\x00\x02\x00\x00\x00\x01b\x00\x02\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, x, y []byte, xHold, yHold int64) {
		a, b := acquireFrom(x), acquireFrom(y)
		a.Reserve, a.Hold = xHold >= 0, time.Duration(xHold)
		b.Reserve, b.Hold = yHold >= 0, time.Duration(yHold)
		if xHold == -1 { // a plain acquire, which has none
			a.Hold = 0
		}
		if yHold == -1 {
			b.Hold = 0
		}
		ax, bx := extendFrom(a), extendFrom(b)
		bad, alsoBad := a.Validate(), b.Validate()
		for _, p := range slices.Concat(bad, alsoBad, ax.Validate(), bx.Validate()) {
			if p.Field == "" || p.Text == "" || len(p.String()) > 2_000 {
				t.Errorf("a problem that says too little or too much: %q", p)
			}
		}
		if ax.Validate() == nil && bx.Validate() == nil {
			if got, want := quota.SumExtend(ax) == quota.SumExtend(bx), ax.Hold == bx.Hold && sameCharges(ax.Charges, bx.Charges); got != want {
				t.Errorf("%+v and %+v: the same fingerprint %v, want %v", ax, bx, got, want)
			}
		}
		if bad != nil || alsoBad != nil || a.RequestID == "" || b.RequestID == "" {
			return
		}
		if got, want := quota.Sum(a) == quota.Sum(b), sameContent(a, b); got != want {
			t.Errorf("%+v and %+v: the same fingerprint %v, want %v", a, b, got, want)
		}
		again := a
		again.Charges = slices.Clone(a.Charges)
		if ps := again.Validate(); ps != nil || quota.Sum(again) != quota.Sum(a) {
			t.Errorf("%+v, validated again: %v", a, ps)
		}
	})
}

// extendFrom makes an extension of what an acquire asks.
func extendFrom(a quota.Acquire) quota.Extend {
	return quota.Extend{RequestID: a.RequestID, ExtendID: a.RequestID, Hold: a.Hold, Charges: slices.Clone(a.Charges)}
}

// FuzzHistories lets bytes choose what happens, so that a fuzzer can look for what no seed has met.
func FuzzHistories(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		data := make([]byte, 1_000)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := func(n int, _ string) int {
			if len(data) == 0 {
				return 0
			}
			b := int(data[0])
			data = data[1:]
			return b % n
		}
		if err := history(p, nil); err != nil {
			t.Error(err)
		}
	})
}
