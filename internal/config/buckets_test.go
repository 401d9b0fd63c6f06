package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

const example = `# what each bucket may use; see docs/configuration.md
buckets:
  portfolio:
    description: The portfolio's AI calls
    zone: America/Chicago
    limits:
      - 50 calls/day
      - 2_000_000 tokens/month
    on_expiry: charge        # or release
  "acme/*":
    limits: [1000 calls/day]
    on_expiry: release
  acme: {}                   # declared, counted only
  2026: {limits: [7]}
  portfolio/bedrock:
    limits: [10 calls/day, 200_000 output_tokens/day]
    on_expiry: release
    max_hold: 25%
    max_in_flight: 1_000
    hold: 10m
    estimates: [4_096 output_tokens, 2]
  held:
    hold: 1.5s
    max_hold: "100%"
    max_in_flight: 1
    estimates:
      - 500 usd_micros
    thresholds: [50%, 80%, "100%"]
  silent: {thresholds: []}   # nothing is told of it
`

func TestLoadBuckets(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "buckets.yaml")
	if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadBuckets(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]quota.Settings{
		"portfolio": {
			Description: "The portfolio's AI calls", Zone: "America/Chicago",
			Limits: []quota.Limit{{Unit: "calls", Span: window.Day, Max: 50}, {Unit: "tokens", Span: window.Month, Max: 2_000_000}},
		},
		"acme/*": {Limits: []quota.Limit{{Unit: "calls", Span: window.Day, Max: 1000}}, OnExpiry: quota.ExpiryRelease},
		"acme":   {},
		"2026":   {Limits: []quota.Limit{{Unit: "calls", Span: window.Day, Max: 7}}},
		"portfolio/bedrock": {
			Limits:   []quota.Limit{{Unit: "calls", Span: window.Day, Max: 10}, {Unit: "output_tokens", Span: window.Day, Max: 200_000}},
			OnExpiry: quota.ExpiryRelease, MaxHold: 25, MaxInFlight: 1000, Hold: 10 * time.Minute,
			Estimates: []quota.Estimate{{Unit: "output_tokens", Amount: 4096}, {Unit: "calls", Amount: 2}},
		},
		"held": {
			MaxHold: 100, MaxInFlight: 1, Hold: 1500 * time.Millisecond, Estimates: []quota.Estimate{{Unit: "usd_micros", Amount: 500}},
			Thresholds: quota.Thresholds{50, 80, 100},
		},
		"silent": {Thresholds: quota.Thresholds{}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := LoadBuckets(path + "x"); err == nil || !strings.HasPrefix(err.Error(), "buckets file: open ") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := ParseBuckets("x", make([]byte, BucketsBytesMax+1)); err == nil || err.Error() != "x: is too large: at most 8MiB" {
		t.Errorf("a file that is too large: %v", err)
	}
	if got, err := ParseBuckets("x", []byte("buckets: {}\n")); err != nil || len(got) != 0 {
		t.Errorf("a file that declares none: %v, %v", got, err)
	}
}

// TestLongBuckets: how long a file is and how it is commented says nothing of how deep it nests. Each line here comes back from
// two levels at once, which is where a count of indentations can drift.
func TestLongBuckets(t *testing.T) {
	t.Parallel()
	const many = 100
	for name, bucket := range map[string]string{
		"plain":                 "  b%d:\n    limits:\n      - 5 calls/day\n",
		"a comment above each":  "  # next\n  b%d:\n    limits: [5 calls/day]\n",
		"an indented comment":   "      # next\n  b%d: {limits: [5 calls/day]}\n",
		"comments in the lists": "  # next\n  b%d:\n    # what it may use\n    limits:\n      # by day\n      - 5 calls/day # no more\n\n",
		"comments at the end":   "  b%d:\n    limits:\n      - 5 calls/day\n        # aside\n      # below\n    # and\n  # on\n# and on\n",
	} {
		src, want := "buckets:\n", make(map[string]quota.Settings)
		for i := range many {
			src += fmt.Sprintf(bucket, i)
			want[fmt.Sprintf("b%d", i)] = quota.Settings{Limits: []quota.Limit{{Unit: "calls", Span: window.Day, Max: 5}}}
		}
		got, err := ParseBuckets("x.yaml", []byte(src))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if err := roundTrip(want, FormatBuckets); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func anySettings() *rapid.Generator[quota.Settings] {
	return rapid.Custom(func(t *rapid.T) quota.Settings {
		s := quota.Settings{
			Description: rapid.OneOf(rapid.Just(""), rapid.StringN(0, 60, quota.NoteBytesMax), rapid.SampledFrom(nasty)).Draw(t, "description"),
			Zone:        rapid.SampledFrom([]string{"", "UTC", "Europe/Berlin", "Etc/GMT+5"}).Draw(t, "zone"),
			OnExpiry:    rapid.SampledFrom([]quota.OnExpiry{quota.ExpiryCharge, quota.ExpiryRelease}).Draw(t, "on expiry"),
		}
		unit := rapid.OneOf(rapid.StringMatching(`[a-z][a-z0-9_]{0,8}`), rapid.SampledFrom([]string{"calls", "tokens"})) // often the same again
		for range rapid.IntRange(0, 4).Draw(t, "limits") {
			l := quota.Limit{
				Unit: quota.Unit(unit.Draw(t, "unit")), Span: rapid.SampledFrom(window.Spans()).Draw(t, "span"), Max: rapid.Int64Range(0, quota.CountMax).Draw(t, "max"),
			}
			if more := append(slices.Clone(s.Limits), l); quota.CheckLimits(more) == nil {
				s.Limits = more
			}
		}
		if rapid.Bool().Draw(t, "reserves") {
			s.MaxHold = rapid.IntRange(0, 100).Draw(t, "max hold")
			s.MaxInFlight = rapid.Int64Range(0, quota.InFlightMax).Draw(t, "max in flight")
			s.Hold = rapid.OneOf(rapid.Just[time.Duration](0), rapid.Custom(anyHold)).Draw(t, "hold")
		}
		for range rapid.IntRange(0, 3).Draw(t, "estimates") {
			e := quota.Estimate{Unit: quota.Unit(unit.Draw(t, "unit")), Amount: rapid.Int64Range(1, quota.AmountMax).Draw(t, "amount")}
			with := s
			with.Estimates = append(slices.Clone(s.Estimates), e)
			if with.Check() == nil {
				s = with
			}
		}
		if rapid.Bool().Draw(t, "thresholds") {
			s.Thresholds = slices.Clone(rapid.SampledFrom([]quota.Thresholds{{}, {80, 100}, {1}, {1, 2, 3, 4, 5, 6, 7, 1000}}).Draw(t, "told at"))
		}
		return s
	})
}

// anyHold draws a hold time: a round one, as people write them, or any to the nanosecond.
func anyHold(t *rapid.T) time.Duration {
	unit := rapid.SampledFrom([]time.Duration{time.Nanosecond, time.Millisecond, time.Second, time.Minute, time.Hour}).Draw(t, "unit")
	least := max(1, int64(quota.HoldMin/unit))
	return time.Duration(rapid.Int64Range(least, int64(quota.HoldMax/unit)).Draw(t, "hold")) * unit
}

// nasty are texts that readers of YAML are known to take for something else.
var nasty = []string{
	"no", "~", "null", "0x10", "1_000", "- a", "? a", "a: b", "a #b", "# a", "&a", "*a", "!a", "%a", "@a", "`a", "{a", "[a", "'a", `"a`, `a\nb`,
	"a\nb", "a\n\n b\n", "\ttab", " lead", "trail ", "\u2028", "\ufeff", "\u0085", "\x00", "\x7f", "ä", "\U0001f600", "---", "...", "<<", "=", "a\r\nb",
}

// roundTrip tells whether what format writes is read as the same.
func roundTrip(buckets map[string]quota.Settings, format func(map[string]quota.Settings) []byte) error {
	text := format(buckets)
	got, err := ParseBuckets("x.yaml", text)
	if err != nil {
		return fmt.Errorf("%w\nin\n%s", err, text)
	}
	if diff := cmp.Diff(buckets, got, cmpopts.EquateEmpty()); diff != "" {
		return fmt.Errorf("(-want +got):\n%s\nin\n%s", diff, text)
	}
	for name, s := range got { // the difference that EquateEmpty does not see
		if !s.Equal(buckets[name]) {
			return fmt.Errorf("%s: %s, want %s\nin\n%s", name, s, buckets[name], text)
		}
	}
	return nil
}

func TestFormatBuckets(t *testing.T) {
	t.Parallel()
	name := rapid.OneOf(
		rapid.StringMatching(`([A-Za-z0-9:@=+\-_]{1,6}|\*)(/([A-Za-z0-9.:@=+\-_]{1,6}x|\*)){0,3}`),
		rapid.SampledFrom([]string{"no", "null", "true", "*", "*/*", "-", "-a", "a:", ":a", "@a", "=", "1", "1.5", "0x1", "1e3", "1:30", "<", "..."}),
	).Filter(func(s string) bool { return quota.CheckPattern(s) == nil })
	rapid.Check(t, func(t *rapid.T) {
		buckets := rapid.MapOfN(name, anySettings(), 0, 6).Draw(t, "buckets")
		if err := roundTrip(buckets, FormatBuckets); err != nil {
			t.Fatal(err)
		}
	})
	for _, text := range nasty {
		if err := roundTrip(map[string]quota.Settings{"a": {Description: text}}, FormatBuckets); err != nil {
			t.Error(err)
		}
	}
}

// TestFormatBucketsControl: a formatter without quotes must be caught by the texts above.
func TestFormatBucketsControl(t *testing.T) {
	t.Parallel()
	careless := func(buckets map[string]quota.Settings) []byte {
		return []byte("buckets:\n  a:\n    description: " + buckets["a"].Description + "\n")
	}
	caught := 0
	for _, text := range nasty {
		if roundTrip(map[string]quota.Settings{"a": {Description: text}}, careless) != nil {
			caught++
		}
	}
	if caught < len(nasty)/2 {
		t.Errorf("only %d of %d texts catch a formatter that does not quote", caught, len(nasty))
	}
}

// TestFormatBucketsForgetful: a formatter that forgets any one of the keys must be caught by the settings that are drawn.
func TestFormatBucketsForgetful(t *testing.T) {
	t.Parallel()
	drawn := make([]quota.Settings, 60)
	for seed := range drawn {
		drawn[seed] = anySettings().Example(seed) // the same at every run
	}
	for _, key := range bucketKeys {
		forgetful := func(buckets map[string]quota.Settings) []byte {
			b := buckets["a"]
			reflect.ValueOf(&b).Elem().FieldByName(fieldOf(key)).SetZero()
			return FormatBuckets(map[string]quota.Settings{"a": b})
		}
		if !slices.ContainsFunc(drawn, func(s quota.Settings) bool {
			return roundTrip(map[string]quota.Settings{"a": s}, forgetful) != nil
		}) {
			t.Errorf("no settings catch a formatter that forgets %s", key)
		}
	}
}

// fieldOf returns the name of the field that a key sets.
func fieldOf(key string) string {
	name := ""
	for word := range strings.SplitSeq(key, "_") {
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	return name
}

// TestBucketKeys: there is a key for each field of the settings but Source, which the file is, and a field for each key.
func TestBucketKeys(t *testing.T) {
	t.Parallel()
	var fields []string
	for f := range reflect.TypeFor[quota.Settings]().Fields() {
		if f.Name != "Source" {
			fields = append(fields, f.Name)
		}
	}
	var known []string
	for _, key := range bucketKeys {
		known = append(known, fieldOf(key))
	}
	slices.Sort(fields)
	slices.Sort(known)
	if diff := cmp.Diff(fields, known); diff != "" {
		t.Errorf("(-fields +keys):\n%s", diff)
	}
}

func TestFormatBucketsText(t *testing.T) {
	t.Parallel()
	buckets, err := ParseBuckets("x.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "formatted.golden"), FormatBuckets(buckets))
}

// FuzzBuckets: no file makes the parser fall over; what it takes is what the ledger takes, and can be written and read again.
func FuzzBuckets(f *testing.F) {
	seed(f, "buckets")
	f.Add([]byte(example))
	f.Fuzz(func(t *testing.T, src []byte) {
		buckets, err := ParseBuckets("x.yaml", src)
		if err != nil {
			checkFaults(t, src, err)
			return
		}
		for name, s := range buckets {
			if err := quota.CheckPattern(name); err != nil {
				t.Errorf("took %q: %v", name, err)
			}
			if err := s.Check(); err != nil {
				t.Errorf("took %s: %v", name, err)
			}
		}
		if err := roundTrip(buckets, FormatBuckets); err != nil {
			t.Error(err)
		}
	})
}
