package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
)

const (
	secretPrefix = "quotad_"
	secretBytes  = 32 // 256 random bits
	hidden       = "[hidden]"
)

// secretLen is how long a token is as text.
var secretLen = len(secretPrefix) + base64.RawURLEncoding.EncodedLen(secretBytes)

// secretLike matches what may be a token, whole or in part.
var secretLike = regexp.MustCompile(secretPrefix + `[A-Za-z0-9_-]+`)

// Secret is a bearer token. Whatever prints, logs or encodes it gets "[hidden]"; Reveal alone returns it. The zero value is an empty
// one.
type Secret struct {
	// text is behind a pointer, as what prints the fields of a struct around it asks none of the methods below.
	text *string
}

// NewToken makes a token: "quotad_" and 256 bits of rand in base64url. The error is that of rand.
func NewToken(rand io.Reader) (Secret, error) {
	var bits [secretBytes]byte
	if _, err := io.ReadFull(rand, bits[:]); err != nil {
		return Secret{}, fmt.Errorf("reading random bits: %w", err)
	}
	text := secretPrefix + base64.RawURLEncoding.EncodeToString(bits[:])
	return Secret{&text}, nil
}

// ParseSecret takes a text for a token. The error says that it has not the form of one, and does not show it.
func ParseSecret(text string) (Secret, error) {
	if !isSecret(text) {
		return Secret{}, fmt.Errorf("not a token of quotad; want %s and %d more characters, as quotactl token create prints it", secretPrefix, secretLen-len(secretPrefix))
	}
	return Secret{&text}, nil
}

// isSecret tells whether a text has the form of a token. What NewToken did not make is no token, though somebody has put its hash
// into a file: it would be a password, and one pass of SHA-256 keeps no password.
func isSecret(text string) bool {
	random, ok := strings.CutPrefix(text, secretPrefix)
	return ok && len(text) == secretLen && only(random, lower+upper+"_-")
}

// Reveal returns the token itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Hash returns what may be kept of the token.
func (s Secret) Hash() TokenHash { return hashToken(s.Reveal()) }

// String hides the token.
func (Secret) String() string { return hidden }

// GoString hides the token.
func (Secret) GoString() string { return hidden }

// Format hides the token, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) } // fmt has no use for the error

// LogValue hides the token.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON hides the token.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// MarshalText hides the token.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// TokenHash is all that is kept of a token: its SHA-256. A token has 256 random bits, so that one pass keeps it as well as many
// would; nobody can try them all. A look-up by the hash may take longer for one hash than for another, and that tells nothing about
// a token: whoever sends one cannot choose what it hashes to.
type TokenHash [sha256.Size]byte

// String returns the hash in hex.
func (h TokenHash) String() string { return hex.EncodeToString(h[:]) }

func hashToken(text string) TokenHash { return sha256.Sum256([]byte(text)) }

// parseHash reads a hash as String writes it. The error does not show the text: it may be a token that was put in the wrong place.
func parseHash(text string) (h TokenHash, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) || strings.ToLower(text) != text {
		return h, errors.New("want the SHA-256 of a token, 64 digits of lower-case hex, as quotactl token create writes it")
	}
	return TokenHash(b), nil
}

// stars puts as many stars in place of what matches, so that the rest stays in its columns.
func stars(what *regexp.Regexp, text string) string {
	return what.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat("*", len(s)) })
}
