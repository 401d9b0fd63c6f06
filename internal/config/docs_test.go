package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocs compares docs/configuration.md with what is parsed, both ways: flags, environment, keys of the file, defaults, and the
// keys of the buckets file.
func TestDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `--([a-z-]+)[^`]*` \\| ([^|]*) \\| ([^|]*) \\| ([^|]*) \\|")
	documented := make(map[string]bool)
	var order []string
	for _, match := range row.FindAllStringSubmatch(string(page), -1) {
		name, environment, inFile, def := match[1], match[2], match[3], strings.TrimSpace(match[4])
		documented[name] = true
		order = append(order, name)
		k := find(name)
		if k == nil {
			t.Errorf("--%s is documented, and unknown", name)
			continue
		}
		wantEnv, wantFile := "`"+EnvName(name)+"`", "`"+name+"`"
		if k.where == flagOnly {
			wantEnv = "no"
		}
		if k.where != anywhere {
			wantFile = "no"
		}
		if !strings.HasPrefix(environment, wantEnv) || !strings.HasPrefix(inFile, wantFile) {
			t.Errorf("--%s is documented as %s and %s, want %s and %s", name, environment, inFile, wantEnv, wantFile)
		}
		wantDefault := "none"
		switch {
		case k.toggle && k.where != flagOnly:
			wantDefault = "`false`"
		case k.def != nil:
			wantDefault = "`" + k.def[0] + "`"
		}
		if def != wantDefault {
			t.Errorf("--%s is documented to be %s by default, want %s", name, def, wantDefault)
		}
	}
	for _, k := range keys {
		if !documented[k.name] {
			t.Errorf("--%s is not documented", k.name)
		}
	}
	if !slices.Equal(order, flagNames()) {
		t.Errorf("the flags are documented in the order %q, want %q", order, flagNames())
	}
	for _, name := range regexp.MustCompile(`QUOTAD_[A-Z_]*[A-Z]`).FindAllString(string(page), -1) {
		if !slices.ContainsFunc(keys, func(k *key) bool { return EnvName(k.name) == name && k.where != flagOnly }) {
			t.Errorf("%s is documented, and unknown", name)
		}
	}
	for _, name := range bucketKeys {
		if !strings.Contains(string(page), "\n| `"+name+"` | ") {
			t.Errorf("the key %s of the buckets file is not documented", name)
		}
	}
}

// TestUsage: --help has every flag, with its default, and no other.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, k := range keys {
		if !regexp.MustCompile(`(?m)^  --` + k.name + `( |$)`).MatchString(Usage) {
			t.Errorf("--help does not have --%s", k.name)
		}
		if k.def != nil && !k.toggle && !strings.Contains(Usage, "("+k.def[0]+")") {
			t.Errorf("--help does not say that --%s is %s by default", k.name, k.def[0])
		}
	}
	for _, match := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(Usage, -1) {
		if find(match[1]) == nil {
			t.Errorf("--help has --%s, which is unknown", match[1])
		}
	}
	for line := range strings.Lines(Usage) {
		if len(line) > 82 {
			t.Errorf("a line of --help has %d bytes: %s", len(line), line)
		}
	}
}

// TestDocsExamples: the files shown in the docs are good, and what is said of bad ones is what is said.
func TestDocsExamples(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{"configuration.md", "operations.md"} {
		page, err := os.ReadFile(filepath.Join("../../docs", doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
			text := []byte(match[1])
			var err error
			switch {
			case strings.Contains(match[1], "buckets:\n"):
				_, err = ParseBuckets(doc, text)
			case strings.Contains(match[1], "listen:"):
				err = (&Config{origins: map[string]string{}}).applyFile(doc, text)
			default:
				continue // of another program
			}
			if err != nil {
				t.Errorf("an example in %s is refused:\n%v", doc, err)
			}
		}
	}
}
