package auth_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/quotad/quotad/internal/auth"
)

// document is docs/access.md.
func document(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rows returns the cells of the table that has this head.
func rows(t *testing.T, head string) (cells [][]string) {
	t.Helper()
	_, table, found := strings.Cut(document(t), head+"\n")
	if !found {
		t.Fatalf("the document has no table %s", head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|---") {
			cells = append(cells, strings.Split(line, "|")[1:])
		}
	}
	return cells
}

// quoted returns what stands in a cell as code.
func quoted(cell string) (words []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		words = append(words, m[1])
	}
	return words
}

// TestDocumentedFiles reads the files of the document.
func TestDocumentedFiles(t *testing.T) {
	t.Parallel()
	policies, tokens := 0, 0
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(document(t), -1) {
		if strings.HasPrefix(block[1], "principals:") {
			policies++
			policy(t, block[1])
			continue
		}
		tokens++
		if _, err := auth.ParseTokens("docs/access.md", []byte(block[1])); err != nil {
			t.Error(err)
		}
	}
	if policies != 3 || tokens != 1 {
		t.Errorf("%d policies and %d tokens files are in the document", policies, tokens)
	}
	flat := strings.Join(strings.Fields(document(t)), " ")
	for _, bound := range []string{fmt.Sprintf("10,000 tokens and %d MiB", auth.TokensBytesMax>>20), fmt.Sprintf("may have %d MiB", auth.PolicyBytesMax>>20)} {
		if !strings.Contains(flat, bound) {
			t.Errorf("the document does not say %q", bound)
		}
	}
}

// TestDocumentedMethods holds the table of verbs against that of methods.
func TestDocumentedMethods(t *testing.T) {
	t.Parallel()
	documented, real := map[string]auth.Rule{}, map[string]auth.Rule{}
	for _, row := range rows(t, "| verb | opens |") {
		rule := auth.Rule{Anybody: true}
		if who := quoted(row[0]); len(who) > 0 {
			verb, err := auth.ParseVerb(who[0])
			if err != nil {
				t.Error(err)
			}
			rule = auth.Rule{Verb: verb, All: len(who) == 2 && who[1] == string(auth.Everything)}
		}
		for _, method := range quoted(row[1]) {
			documented[method] = rule
		}
	}
	for method, rule := range auth.Methods() {
		if strings.HasPrefix(method, "/quotad.") {
			real[method[strings.LastIndexByte(method, '/')+1:]] = rule
		} else if !rule.Anybody {
			t.Errorf("the document says that anybody may call %s", method)
		}
	}
	if !maps.Equal(documented, real) {
		t.Errorf("the document has the methods\n%v, there are\n%v", documented, real)
	}
}

// TestDocumentedPatterns tries what the document says of patterns and identities.
func TestDocumentedPatterns(t *testing.T) {
	t.Parallel()
	for _, row := range rows(t, "| pattern | is | is not |") {
		p := auth.Pattern(quoted(row[0])[0])
		for i, want := range []bool{true, false} {
			for _, name := range quoted(row[i+1]) {
				if p.Matches(bucket(name)) != want {
					t.Errorf("the document says that %s matches %s: %v", p, name, want)
				}
			}
		}
	}
	for _, row := range rows(t, "| identity | who shows it |") {
		id := strings.NewReplacer("NAME", "ci", "DOMAIN", "acme.example", "PATH", "chat", "HOST", "acme.example").Replace(quoted(row[0])[0])
		id = strings.Replace(id, "id:N", "id:1", 1)
		if err := auth.Identity(id).Check(); err != nil {
			t.Errorf("the document has an identity %s: %v", quoted(row[0])[0], err)
		}
	}
}
