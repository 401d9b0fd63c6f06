package quota_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"": "", "1": "", "018f3b1c-7b1e-7c3a-9d5e-0123456789ab": "", "!~": "", `"\'`: "", strings.Repeat("x", 128): "",
		strings.Repeat("x", 129): "has 129 bytes",
		" ":                      "has the byte 0x20",
		"a b":                    "has the byte 0x20",
		"a\n":                    "has the byte 0x0a",
		"\x00":                   "has the byte 0x00",
		"a\x7f":                  "has the byte 0x7f",
		"é":                      "has the byte 0xc3",
		"\xff":                   "has the byte 0xff",
	} {
		a := quota.Acquire{Bucket: "a", RequestID: id}
		ps := a.Validate()
		if want == "" && ps != nil || want != "" && (len(ps) != 1 || ps[0].Field != "request_id" || !strings.HasPrefix(ps[0].Text, want+"; a request id is")) {
			t.Errorf("id %q: %v, want %q", id, ps, want)
		}
	}
}

func TestValidateFillsIn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		charges, want []quota.Charge
	}{
		{nil, []quota.Charge{{Bucket: "a", Unit: "calls", Amount: 1, Default: true}}},
		{[]quota.Charge{{Amount: 2}}, []quota.Charge{{Bucket: "a", Unit: "calls", Amount: 2}}},
		{
			[]quota.Charge{{Bucket: "b", Amount: quota.AmountMax}, {Unit: "tokens", Amount: 3, Ceiling: quota.AtMost(0), CeilingSpan: window.Ever}},
			[]quota.Charge{{Bucket: "b", Unit: "calls", Amount: quota.AmountMax}, {Bucket: "a", Unit: "tokens", Amount: 3, Ceiling: quota.AtMost(0), CeilingSpan: window.Ever}},
		},
	} {
		a := quota.Acquire{Bucket: "a", Charges: slices.Clone(c.charges), RequestID: "1"}
		for range 2 { // a second time it changes nothing
			if ps := a.Validate(); ps != nil || !slices.Equal(a.Charges, c.want) {
				t.Errorf("%+v becomes %+v, want %+v: %v", c.charges, a.Charges, c.want, ps)
			}
		}
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	t.Parallel()
	many := make([]quota.Charge, 33)
	for _, c := range []struct {
		a    quota.Acquire
		want []string
	}{
		{quota.Acquire{}, []string{"bucket: is empty"}},
		{quota.Acquire{Bucket: "a/*", RequestID: "a b"}, []string{`bucket: "a/*": '*' is not allowed`, "request_id: has the byte 0x20"}},
		{quota.Acquire{Bucket: "a", Charges: many}, []string{"charges: has 33; at most 32 in one request"}},
		{quota.Acquire{Bucket: "a", Charges: []quota.Charge{{}}}, []string{"charges[0].amount: is 0; want 1 to 1000000000000000, or leave it out for the bucket's estimate, or 1"}},
		{quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: -1}}}, []string{"charges[0].amount: is -1; want"}},
		{quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: quota.AmountMax + 1}}}, []string{"charges[0].amount: is 1000000000000001; want"}},
		{quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: math.MinInt64}}}, []string{"charges[0].amount: is -9223372036854775808; want"}},
		{
			quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: 1, Ceiling: quota.AtMost(-1)}}},
			[]string{"charges[0].ceiling: is -1; want 0 or more, or leave it out for none"},
		},
		{
			quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: 1, CeilingSpan: 9}}},
			[]string{"charges[0].ceiling_window: is 9, which is not a window", "charges[0].ceiling_window: is given without a ceiling; give both or neither"},
		},
		{
			quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Amount: 1}, {Bucket: "a", Unit: "calls", Amount: 1}, {Unit: "tokens", Amount: 1}}},
			[]string{"charges[1].unit: calls of a is charged by charges[0] already; add the amounts up in one charge"},
		},
		{
			quota.Acquire{Bucket: "a", Charges: []quota.Charge{{Bucket: "b//", Unit: "X", Amount: 1}, {Bucket: "b//", Unit: "X", Amount: 1}}},
			[]string{`charges[0].bucket: "b//": an empty segment`, `charges[0].unit: "X"; a unit is`, `charges[1].bucket: "b//"`, `charges[1].unit: "X"; a unit is`},
		},
	} {
		ps := c.a.Validate()
		if !slices.EqualFunc(ps, c.want, func(p quota.Problem, want string) bool { return strings.HasPrefix(p.String(), want) }) {
			t.Errorf("%+v:\n%s", c.a, cmp.Diff(c.want, ps))
		}
	}
}

// A sender of nonsense gets no more back than it takes to see what is wrong.
func TestValidateKeepsItsAnswerShort(t *testing.T) {
	t.Parallel()
	junk := strings.Repeat("\x00", 1<<20)
	a := quota.Acquire{Bucket: quota.Bucket(junk), RequestID: junk}
	for range quota.ChargesMax {
		a.Charges = append(a.Charges, quota.Charge{Bucket: quota.Bucket(junk), Unit: quota.Unit(junk), Ceiling: quota.AtMost(-1), CeilingSpan: 99})
	}
	size := 0
	for _, p := range a.Validate() {
		size += len(p.String())
	}
	if size > 100_000 {
		t.Errorf("%d bytes, want 100,000 at most", size)
	}
}

// Acquires with one content share a fingerprint, and others have another.
func TestFingerprints(t *testing.T) {
	t.Parallel()
	base := func() quota.Acquire {
		return quota.Acquire{Principal: "p", RequestID: "1", Bucket: "a/b", Charges: []quota.Charge{
			{Amount: 1}, {Unit: "tokens", Amount: 2, Ceiling: quota.AtMost(5), CeilingSpan: window.Day},
		}}
	}
	want := quota.Sum(valid(t, base()))
	seen := map[quota.Fingerprint]string{want: "the first"}
	for name, c := range map[string]struct {
		change func(*quota.Acquire)
		same   bool
	}{
		"another id":             {func(a *quota.Acquire) { a.RequestID = "2" }, true},
		"another caller":         {func(a *quota.Acquire) { a.Principal = "q" }, true},
		"defaults written out":   {func(a *quota.Acquire) { a.Charges[0].Bucket, a.Charges[0].Unit = "a/b", "calls" }, true},
		"a number for no bound":  {func(a *quota.Acquire) { a.Charges[0].Ceiling = quota.Cap{Max: 7} }, true},
		"an amount left out":     {func(a *quota.Acquire) { a.Charges[0].Default = true }, true}, // it is 1 to the caller
		"a hold of no use":       {func(a *quota.Acquire) { a.Hold = time.Hour }, true},
		"held":                   {func(a *quota.Acquire) { a.Reserve = true }, false},
		"held for an hour":       {func(a *quota.Acquire) { a.Reserve, a.Hold = true, time.Hour }, false},
		"held for a minute":      {func(a *quota.Acquire) { a.Reserve, a.Hold = true, time.Minute }, false},
		"another bucket":         {func(a *quota.Acquire) { a.Bucket = "a/c" }, false},
		"another charged bucket": {func(a *quota.Acquire) { a.Charges[0].Bucket = "a/c" }, false},
		"another unit":           {func(a *quota.Acquire) { a.Charges[0].Unit = "tokens_" }, false},
		"another amount":         {func(a *quota.Acquire) { a.Charges[0].Amount = 2 }, false},
		"a ceiling":              {func(a *quota.Acquire) { a.Charges[0].Ceiling = quota.AtMost(0) }, false},
		"another ceiling":        {func(a *quota.Acquire) { a.Charges[1].Ceiling = quota.AtMost(6) }, false},
		"no ceiling":             {func(a *quota.Acquire) { a.Charges[1].Ceiling, a.Charges[1].CeilingSpan = quota.Cap{}, 0 }, false},
		"another ceiling window": {func(a *quota.Acquire) { a.Charges[1].CeilingSpan = window.Month }, false},
		"no ceiling window":      {func(a *quota.Acquire) { a.Charges[1].CeilingSpan = 0 }, false},
		"another order":          {func(a *quota.Acquire) { slices.Reverse(a.Charges) }, false},
		"one charge less":        {func(a *quota.Acquire) { a.Charges = a.Charges[:1] }, false},
		"one charge more":        {func(a *quota.Acquire) { a.Charges = append(a.Charges, quota.Charge{Unit: "x", Amount: 1}) }, false},
	} {
		a := base()
		c.change(&a)
		got := quota.Sum(valid(t, a))
		if (got == want) != c.same {
			t.Errorf("%s: the same fingerprint %v, want %v", name, got == want, c.same)
		}
		if other, ok := seen[got]; ok && !c.same {
			t.Errorf("%s has the fingerprint of %s", name, other)
		}
		seen[got] = name
	}
	for _, c := range [][2]quota.Acquire{ // the same letters, parted elsewhere
		{{Bucket: "x", Charges: []quota.Charge{{Bucket: "y", Unit: "zu", Amount: 1}}}, {Bucket: "x", Charges: []quota.Charge{{Bucket: "yz", Unit: "u", Amount: 1}}}},
		{{Bucket: "x", Charges: []quota.Charge{{Bucket: "yz", Amount: 1}}}, {Bucket: "xy", Charges: []quota.Charge{{Bucket: "z", Amount: 1}}}},
	} {
		c[0].RequestID, c[1].RequestID = "1", "1"
		if quota.Sum(valid(t, c[0])) == quota.Sum(valid(t, c[1])) {
			t.Errorf("%+v and %+v have one fingerprint", c[0], c[1])
		}
	}
	none := base()
	none.RequestID = ""
	if got := quota.Sum(valid(t, none)); got != (quota.Fingerprint{}) {
		t.Errorf("without an id the fingerprint is %v, want none", got)
	}
}
