package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func anySettings() *rapid.Generator[quota.Settings] {
	return rapid.Custom(func(t *rapid.T) quota.Settings {
		s := quota.Settings{
			Description: rapid.OneOf(rapid.Just(""), rapid.StringN(0, 60, quota.NoteBytesMax), rapid.SampledFrom(nasty)).Draw(t, "description"),
			Zone:        rapid.SampledFrom([]string{"", "UTC", "Europe/Berlin", "Etc/GMT+5"}).Draw(t, "zone"),
			OnExpiry:    rapid.SampledFrom([]quota.OnExpiry{quota.ExpiryCharge, quota.ExpiryRelease}).Draw(t, "on expiry"),
		}
		units := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9_]{0,8}`), 0, 4, rapid.ID).Draw(t, "units")
		for _, u := range units {
			s.Limits = append(s.Limits, quota.Limit{
				Unit: quota.Unit(u), Span: rapid.SampledFrom(window.Spans()).Draw(t, "span"), Max: rapid.Int64Range(0, quota.CountMax).Draw(t, "max"),
			})
		}
		return s
	})
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
