package auth

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/strictyaml"
)

// Bounds of a tokens file.
const (
	// TokensBytesMax is how large it may be.
	TokensBytesMax = 4 << 20
	// TokensMax is how many tokens it may have.
	TokensMax = 10_000
)

// Token is what is kept of a bearer token.
type Token struct {
	// Hash is its SHA-256.
	Hash TokenHash
	// Created is when it was made.
	Created time.Time
	// Expires is when it ends to be accepted; zero means never. It is after Created.
	Expires time.Time
}

// Expired tells whether the token has ended to be accepted.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Tokens is the tokens there are, by their names. A policy calls the one named ci "token:ci".
type Tokens map[string]Token

// LoadTokens reads a tokens file. What is wrong in it is an error of type strictyaml.Faults.
func LoadTokens(path string) (Tokens, error) {
	src, err := readFile(path, TokensBytesMax)
	if err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	return ParseTokens(path, src)
}

// ParseTokens reads the content of a tokens file; name is what errors call it. The error is of type strictyaml.Faults, with all that
// is wrong. It shows nothing that may be a token, and a file that holds one is refused.
func ParseTokens(name string, src []byte) (Tokens, error) {
	form := tokensForm()
	f, entries := form.open(name, src)
	if len(entries) > TokensMax {
		f.Fault(entries[TokensMax].At, "this is token %d; at most %d", TokensMax+1, TokensMax)
		entries = entries[:TokensMax]
	}
	tokens := make(Tokens, len(entries))
	names := make(map[TokenHash]string, len(entries))
	for _, e := range entries {
		if err := CheckTokenName(e.Key); err != nil {
			f.Fault(e.At, "%v", err)
			continue
		}
		t, ok := readToken(f, e)
		if other, twice := names[t.Hash]; ok && twice {
			f.Fault(e.At, "%s has the hash of %s; one token has one name", e.Key, other)
		}
		names[t.Hash] = e.Key
		tokens[e.Key] = t
	}
	if err := form.err(f); err != nil {
		return nil, err
	}
	return tokens, nil
}

func tokensForm() form {
	return form{
		key: "tokens", bytesMax: TokensBytesMax,
		empty:  `has no tokens; want what quotactl token create writes, or "tokens: {}" for none`,
		secret: secretLike,
		masked: regexp.MustCompile(`[A-Za-z0-9_-]{32,}`), // a token without its beginning, or a hash, which nobody misses
	}
}

// readToken reads one token; false means that something in it is wrong.
func readToken(f *strictyaml.File, e strictyaml.Entry) (t Token, ok bool) {
	keys := []string{"sha256", "created", "expires"}
	seen := make(map[string]bool)
	ok = true
	fault := func(at strictyaml.Place, format string, args ...any) {
		ok = false
		f.Fault(at, format, args...)
	}
	for _, k := range f.Mapping(e.Value, e.Key) {
		if !slices.Contains(keys, k.Key) {
			fault(k.At, "unknown key%s", strictyaml.Instead(k.Key, keys, strconv.Quote)) // which may be a token, and is not said
			continue
		}
		seen[k.Key] = true
		text, single := f.Scalar(k, k.Value)
		if !single {
			ok = false
			continue
		}
		if err := t.set(k.Key, text); err != nil {
			fault(k.Value.At, "%s: %v", k.Key, err)
		}
	}
	if e.Value.Kind != strictyaml.Mapping {
		return t, false // which is a fault already
	}
	for _, key := range keys[:2] {
		if !seen[key] {
			fault(e.At, "%s has no %s; want what quotactl token create writes", e.Key, key)
		}
	}
	if ok && !t.Expires.IsZero() && !t.Expires.After(t.Created) {
		fault(e.At, "%s expires before it is created", e.Key)
	}
	return t, ok
}

func (t *Token) set(key, text string) (err error) {
	switch key {
	case "sha256":
		t.Hash, err = parseHash(text)
	case "created":
		t.Created, err = parseTime(text)
	case "expires":
		t.Expires, err = parseTime(text)
	}
	return err
}

// parseTime reads an instant. Its text is not shown by the error: it may be a token that was put in the wrong place.
func parseTime(text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.IsZero() || at.UTC().Year() < 1 || at.UTC().Year() > 9999 {
		return time.Time{}, fmt.Errorf("want a time such as 2026-11-23T12:00:00Z")
	}
	return at.UTC(), nil
}

// FormatTokens returns a tokens file that says the same, sorted by name.
func FormatTokens(tokens Tokens) []byte {
	var s strings.Builder
	s.WriteString("# The tokens that quotad --tokens FILE accepts, by their hashes: none can be had from here. quotactl token writes this file.\n")
	if len(tokens) == 0 {
		s.WriteString("tokens: {}\n")
		return []byte(s.String())
	}
	s.WriteString("tokens:\n")
	for _, name := range slices.Sorted(maps.Keys(tokens)) {
		t := tokens[name]
		// In quotes, as a name or a hash may look like a number.
		fmt.Fprintf(&s, "  %q:\n    sha256: %q\n    created: %q\n", name, t.Hash, t.Created.UTC().Format(time.RFC3339Nano))
		if !t.Expires.IsZero() {
			fmt.Fprintf(&s, "    expires: %q\n", t.Expires.UTC().Format(time.RFC3339Nano))
		}
	}
	return []byte(s.String())
}
