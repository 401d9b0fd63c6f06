package tidy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testName matches the name of a test in a text for people.
var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)`")

// unknownTests returns the tests that a text names and the repository does not have.
func unknownTests(repository *tree, text string) (unknown []string) {
	have := make(map[string]bool)
	for _, f := range repository.files {
		if f.test {
			for _, match := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(f.text, -1) {
				have[match[1]] = true
			}
		}
	}
	for _, match := range testName.FindAllStringSubmatch(text, -1) {
		if !have[match[1]] {
			unknown = append(unknown, match[1])
		}
	}
	return unknown
}

// TestNamedTests: a page that says which test tries a promise names one that there is.
func TestNamedTests(t *testing.T) {
	t.Parallel()
	repository := load(t)
	if found := unknownTests(repository, "`TestNamedTests`, `TestNobodyWroteThis`"); strings.Join(found, " ") != "TestNobodyWroteThis" {
		t.Errorf("control: found %q", found)
	}
	for _, page := range []string{"README.md", "docs/security.md"} {
		text, err := os.ReadFile(filepath.Join(root(t), page))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range unknownTests(repository, string(text)) {
			t.Errorf("%s names %s, which there is not", page, name)
		}
	}
}
