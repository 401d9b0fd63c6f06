package strictyaml

import (
	"strconv"
	"strings"
	"testing"
)

func TestInstead(t *testing.T) {
	t.Parallel()
	words := []string{"acquire", "settle", "inspect", "admin"}
	for word, want := range map[string]string{
		"aquire": `; did you mean "acquire"?`, "setlte": `; did you mean "settle"?`, "amdin": `; did you mean "admin"?`,
		"frobnicate": "; want one of acquire, settle, inspect, admin", "": "; want one of acquire, settle, inspect, admin",
		strings.Repeat("admin", 100): "; want one of acquire, settle, inspect, admin",
	} {
		if got := Instead(word, words, strconv.Quote); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"ab", "ba", 1}, {"abc", "abd", 1}, {"kitten", "sitting", 3}, {"limits", "limts", 1}} {
		if got, back := editDistance(test.a, test.b), editDistance(test.b, test.a); got != test.want || back != test.want {
			t.Errorf("%q to %q takes %d and %d back, want %d", test.a, test.b, got, back, test.want)
		}
	}
}
