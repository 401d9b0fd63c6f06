package auth_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/strictyaml"
)

var day = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// newSecret makes a token that is the same for the same number.
func newSecret(t testing.TB, n byte) auth.Secret {
	t.Helper()
	s, err := auth.NewToken(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func someTokens() auth.Tokens {
	return auth.Tokens{
		"ci":  {Hash: sha256.Sum256([]byte("one")), Created: day, Expires: day.AddDate(0, 0, 90)},
		"old": {Hash: sha256.Sum256([]byte("another")), Created: day.Add(time.Nanosecond)},
	}
}

func TestNewToken(t *testing.T) {
	t.Parallel()
	s := newSecret(t, 0xff)
	if got := s.Reveal(); got != "quotad_"+strings.Repeat("_", 42)+"8" {
		t.Errorf("256 ones are %q", got)
	}
	if want := auth.TokenHash(sha256.Sum256([]byte(s.Reveal()))); s.Hash() != want {
		t.Errorf("the hash is %s, want %s", s.Hash(), want)
	}
	for _, short := range []io.Reader{strings.NewReader(""), strings.NewReader(strings.Repeat("x", 31)), iotest.ErrReader(errors.New("no bits"))} {
		if s, err := auth.NewToken(short); err == nil || s.Reveal() != "" {
			t.Errorf("without enough bits there is a token: %v", err)
		}
	}
	if again, err := auth.ParseSecret(s.Reveal()); err != nil || again.Reveal() != s.Reveal() {
		t.Errorf("a token is no token: %v", err)
	}
	for _, bad := range []string{"", "quotad_", s.Reveal()[1:], s.Reveal() + "A", s.Reveal() + "\n", " " + s.Reveal(), "Q" + s.Reveal()[1:], "quotad_" + strings.Repeat("/", 43), "quotad_" + strings.Repeat("=", 43)} {
		if got, err := auth.ParseSecret(bad); err == nil || got.Reveal() != "" || bad != "" && bad != "quotad_" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q is taken for a token, or shown: %v", bad, err)
		}
	}
}

// shows tells whether a text shows a token, or enough of it to find the rest.
func shows(text string, s auth.Secret) bool { return strings.Contains(text, s.Reveal()[7:20]) }

// TestSecretIsHidden lets everything print a token that prints.
func TestSecretIsHidden(t *testing.T) {
	t.Parallel()
	s := newSecret(t, 0x5a)
	type holder struct {
		Public  auth.Secret
		private auth.Secret
		Pointer *auth.Secret
		Any     any
		List    []auth.Secret
		Map     map[string]auth.Secret
	}
	h := holder{Public: s, private: s, Pointer: &s, Any: s, List: []auth.Secret{s}, Map: map[string]auth.Secret{"k": s}}
	var out bytes.Buffer
	for _, v := range []any{s, &s, h, &h, []any{s, h}, map[string]any{"k": h}, struct{ auth.Secret }{s}, fmt.Errorf("calling with %v and %s: %w", s, h.private, io.EOF)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%08.3f", "%c", "%U", "%t", "%e", "%b", "%o", "%p", "%z", "%-70s", "%.3s", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		fmt.Fprint(&out, v)
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			log := slog.New(handler)
			log.Info("a token", "token", v, slog.Group("g", "token", v), "list", []any{v})
			log.With("token", v).Info(fmt.Sprint(v))
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%T: %v", v, err)
		}
		out.Write(text)
	}
	text, err := s.MarshalText()
	out.Write(text)
	out.WriteString(s.String() + s.GoString() + s.LogValue().String())
	if err != nil || shows(out.String(), s) {
		t.Errorf("a token is shown (%v):\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "[hidden]") {
		t.Error("a hidden token is not said to be one")
	}
	for _, seen := range []string{fmt.Sprint(s.Reveal()), fmt.Sprintf("%v", struct{ text string }{s.Reveal()})} {
		if !shows(seen, s) {
			t.Error("control: a token that is shown is not seen")
		}
	}
}

// TestToken: a token stands for its name until it expires, and nothing else stands for anything.
func TestToken(t *testing.T) {
	t.Parallel()
	s, forever := newSecret(t, 1), newSecret(t, 2)
	tokens := auth.Tokens{
		"ci": {Hash: s.Hash(), Created: day, Expires: day.Add(time.Hour)}, "ops": {Hash: forever.Hash(), Created: day},
		"password": {Hash: sha256.Sum256([]byte("hunter2")), Created: day}, // no token of ours
		"empty":    {Hash: auth.Secret{}.Hash(), Created: day},
	}
	a := auth.NewAccess(policy(t, goodPolicy), tokens)
	for _, c := range []struct {
		secret string
		after  time.Duration
		want   auth.Identity
	}{
		{s.Reveal(), 0, "token:ci"},
		{s.Reveal(), time.Hour - 1, "token:ci"},
		{s.Reveal(), time.Hour, ""},
		{forever.Reveal(), 1e6 * time.Hour, "token:ops"},
		{newSecret(t, 3).Reveal(), 0, ""},
		{s.Reveal()[:20], 0, ""},
		{s.Reveal() + " ", 0, ""},
		{strings.ToLower(s.Reveal()), 0, ""},
		{s.Hash().String(), 0, ""},
		{"ci", 0, ""},
		{"hunter2", 0, ""},
		{"", 0, ""},
	} {
		id, err := a.Token(c.secret, day.Add(c.after))
		if id != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, auth.ErrUnknownToken) {
			t.Errorf("%q after %v is %q, %v; want %q", c.secret, c.after, id, err, c.want)
		}
	}
	if _, err := auth.OpenAccess().Token(s.Reveal(), day); err == nil {
		t.Error("there is a token where there are none")
	}
}

const hexOne = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed" // of "one"

func TestTokensFile(t *testing.T) {
	t.Parallel()
	const want = `# The tokens that quotad --tokens FILE accepts, by their hashes: none can be had from here. quotactl token writes this file.
tokens:
  "ci":
    sha256: "` + hexOne + `"
    created: "2026-11-22T12:00:00Z"
    expires: "2027-02-20T12:00:00Z"
  "old":
    sha256: "ae448ac86c4e8e4dec645729708ef41873ae79c6dff84eff73360989487f08e5"
    created: "2026-11-22T12:00:00.000000001Z"
`
	if diff := cmp.Diff(want, string(auth.FormatTokens(someTokens()))); diff != "" {
		t.Errorf("the file differs (-want +got):\n%s", diff)
	}
	for _, tokens := range []auth.Tokens{{}, someTokens(), {"1e3": {Created: day}, "-": {Hash: auth.TokenHash{1}, Created: day}, "null": {Hash: auth.TokenHash{2}, Created: day}}} {
		got, err := auth.ParseTokens("t.yaml", auth.FormatTokens(tokens))
		if diff := cmp.Diff(tokens, got); diff != "" || err != nil {
			t.Errorf("%v: what was written is read otherwise (-want +got):\n%s", err, diff)
		}
	}
	loose := "tokens:\n  ci: {created: 2026-11-22T13:00:00+01:00, sha256: " + hexOne + ", expires: 2027-02-20T12:00:00Z}\n"
	if got, err := auth.ParseTokens("t.yaml", []byte(loose)); err != nil || got["ci"] != someTokens()["ci"] {
		t.Errorf("by hand it reads %v, %v", got, err)
	}
}

// TestTokensFaults holds each slip against what is said about it. None of it shows a value.
func TestTokensFaults(t *testing.T) {
	t.Parallel()
	one := func(name, rest string) string { return "tokens: {" + name + ": {" + rest + "}}" }
	const rest = "sha256: " + hexOne + ", created: 2026-11-22T12:00:00Z"
	for src, want := range map[string]string{
		"":                                `t.yaml: has no tokens; want what quotactl token create writes, or "tokens: {}" for none`,
		"tokens:":                         `t.yaml:1:9: tokens is empty; want "key: value" lines`,
		"token: {}":                       `t.yaml:1:1: unknown key "token"; did you mean "tokens"?`,
		one("ci", ""):                     `t.yaml:1:10: ci has no sha256; want what quotactl token create writes`,
		one("Ci", rest):                   `t.yaml:1:10: a token named "Ci"; want 1 to 64 bytes of a-z, 0-9 and ._-`,
		one("ci", rest+", secret: x"):     `t.yaml:1:120: unknown key; want one of sha256, created, expires`,
		one("ci", rest+", expire: x"):     `t.yaml:1:120: unknown key; did you mean "expires"?`,
		one("ci", rest+", expires: soon"): `t.yaml:1:129: expires: want a time such as 2026-11-23T12:00:00Z`,
		one("ci", rest+", expires: 0001-01-01T00:00:00Z"):                               `t.yaml:1:129: expires: want a time such as 2026-11-23T12:00:00Z`,
		one("ci", rest+", expires: 2026-11-22T12:00:00Z"):                               `t.yaml:1:10: ci expires before it is created`,
		one("ci", "sha256: "+strings.ToUpper(hexOne)+", created: 2026-11-22T12:00:00Z"): `t.yaml:1:23: sha256: want the SHA-256 of a token, 64 digits of lower-case hex, as quotactl token create writes it`,
		one("ci", "sha256: "+hexOne[1:]+", created: 2026-11-22T12:00:00Z"):              `t.yaml:1:23: sha256: want the SHA-256 of a token, 64 digits of lower-case hex, as quotactl token create writes it`,
		"tokens: {a: {" + rest + "}, b: {" + rest + "}}":                                `t.yaml:1:120: b has the hash of a; one token has one name`,
	} {
		tokens, err := auth.ParseTokens("t.yaml", []byte(src))
		if err == nil {
			t.Errorf("%q is taken", src)
			continue
		}
		if got, _, _ := strings.Cut(err.Error(), "\n"); got != want || tokens != nil {
			t.Errorf("%q:\n got %s\nwant %s", src, got, want)
		}
	}
}

// TestTokensBound has one token too many. Nothing else is wrong, so that those before it are allowed.
func TestTokensBound(t *testing.T) {
	if os.Getenv("QUOTAD_LONG") == "" {
		t.Skip("10,001 tokens take seconds to read; QUOTAD_LONG=1 reads them")
	}
	t.Parallel()
	var many strings.Builder
	many.WriteString("tokens:\n")
	for i := range auth.TokensMax + 1 {
		fmt.Fprintf(&many, "  t%d: {sha256: %s, created: 2026-11-22T12:00:00Z}\n", i, auth.TokenHash(sha256.Sum256(fmt.Append(nil, i))))
	}
	_, err := auth.ParseTokens("t.yaml", []byte(many.String()))
	if faults, _ := errors.AsType[strictyaml.Faults](err); len(faults) != 1 || faults[0].Text != "this is token 10001; at most 10000" {
		t.Errorf("10,001 tokens: %v", err)
	}
}

// TestFilesShowNoToken puts a token into every place of both files. A tokens file is refused, a policy is where it is read as more
// than a name, and no error shows the token.
func TestFilesShowNoToken(t *testing.T) {
	t.Parallel()
	s := newSecret(t, 0xc7)
	whole, bare := s.Reveal(), s.Reveal()[len("quotad_"):]
	escaped := `"\x71` + whole[1:] + `"`
	good := string(auth.FormatTokens(someTokens()))
	refused := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s is taken", what)
		} else if shows(err.Error(), s) {
			t.Errorf("%s shows the token:\n%v", what, err)
		}
	}
	for _, token := range []string{whole, bare, escaped, "'" + whole + "'", "[" + whole + "]", "{" + whole + ": 1}", "{'" + bare + "': 1, '" + bare + "': 2}", "|\n      " + whole, whole + ": x: y", "&" + bare + " x", "!" + bare + " x", "[" + bare, "\t" + bare} {
		for _, place := range []string{`"` + hexOne + `"`, `"2026-11-22T12:00:00Z"`, `"2027-02-20T12:00:00Z"`, `"ci"`, "created:", "tokens:\n"} {
			_, err := auth.ParseTokens("t.yaml", []byte(strings.Replace(good, place, token, 1)))
			refused(fmt.Sprintf("a tokens file with %s for %s", token, place), err)
		}
		for _, place := range []string{`"uid:1000"`, "200", "acquire", "[acme/**]", "principals", "is", "loopback"} {
			if _, err := auth.ParsePolicy("p.yaml", []byte(strings.Replace(goodPolicy, place, token, 1))); err != nil || strings.Contains(token, whole) {
				refused(fmt.Sprintf("a policy with %s for %s", token, place), err)
			}
		}
	}
	for _, comment := range []string{"# " + whole + "\n", "# ci is " + whole[:30] + "\n"} {
		_, err := auth.ParseTokens("t.yaml", []byte(comment+good))
		refused("a tokens file with the comment "+comment, err)
	}
	_, err := auth.ParsePolicy("p.yaml", []byte("# "+whole+"\n"+goodPolicy))
	refused("a policy with a token in a comment", err)
	_, err = auth.ParseTokens("t.yaml", []byte("tokens:\n  ci: # "+whole+"\n"))
	if want := "t.yaml:2:9: looks like a token; take it out, and revoke it if it is one"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// mutated changes a few bytes or lines of a file.
func mutated(src string) *rapid.Generator[string] {
	lines := strings.SplitAfter(src, "\n")
	return rapid.Custom(func(t *rapid.T) string {
		text := src
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			at := rapid.IntRange(0, max(0, len(text)-1)).Draw(t, "at")
			to := min(len(text), at+rapid.IntRange(0, 3).Draw(t, "long"))
			switch rapid.IntRange(0, 4).Draw(t, "how") {
			case 0:
				text = text[:at] // cut short
			case 1:
				text = text[:at] + text[to:]
			case 2:
				text = text[:at] + rapid.SampledFrom([]string{" ", "\n", ":", "*", "/", "[", "]", "{", "}", "\"", "0", "a", ",", "#", "\x00", "\xff"}).Draw(t, "put") + text[to:]
			case 3:
				text = text[:at] + rapid.SampledFrom(lines).Draw(t, "line") + text[at:]
			default:
				text = strings.Replace(text, rapid.SampledFrom(lines).Draw(t, "without"), "", 1)
			}
		}
		return text
	})
}

// TestMutations: a file that was changed by accident is refused, or read whole: a policy as another reader of YAML reads it, tokens so
// that they can be written and read again. Nothing is ever returned together with an error.
func TestMutations(t *testing.T) {
	t.Parallel()
	for lines := strings.SplitAfter(goodPolicy, "\n"); len(lines) > 2; lines = lines[:len(lines)-1] { // controls: a part is not the whole
		half, err := auth.ParsePolicy("p.yaml", []byte(strings.Join(lines[:len(lines)-2], "")))
		if err == nil && otherwise(half, []byte(goodPolicy)) == "" {
			t.Errorf("control: %d lines of the policy are as good as all", len(lines)-2)
		}
	}
	files := map[string]struct {
		src  string
		read func(testing.TB, []byte) (taken bool)
	}{"policy": {goodPolicy, readPolicyTwice}, "tokens": {string(auth.FormatTokens(someTokens())), readTokens}}
	for name, f := range files {
		mutate := mutated(f.src)
		took, refused := 0, 0
		for i := range 1000 {
			if f.read(t, []byte(mutate.Example(i))) {
				took++
			} else {
				refused++
			}
		}
		if took < 20 || refused < 300 {
			t.Errorf("%s: of 1,000 files %d are taken and %d refused: they say little", name, took, refused)
		}
	}
}

// readPolicy reads a policy twice, and asks what it means.
func readPolicy(t testing.TB, src []byte) bool {
	t.Helper()
	p, err := auth.ParsePolicy("p.yaml", src)
	again, err2 := auth.ParsePolicy("p.yaml", src)
	if (err == nil) != (err2 == nil) || (p == nil) == (err == nil) {
		t.Fatalf("%q: %v, and then %v", src, err, err2)
	}
	if err != nil {
		if err.Error() != err2.Error() || err.Error() == "" {
			t.Fatalf("%q: %v, and then %v", src, err, err2)
		}
		return false
	}
	if auth.NewAccess(p, nil).Sum() != auth.NewAccess(again, nil).Sum() {
		t.Fatalf("%q is read in two ways", src)
	}
	return true
}

// readPolicyTwice reads a policy, and has another reader read it.
func readPolicyTwice(t testing.TB, src []byte) bool {
	t.Helper()
	if !readPolicy(t, src) {
		return false
	}
	if missed := otherwise(policy(t, string(src)), src); missed != "" {
		t.Errorf("%q: another reader finds %s", src, missed)
	}
	return true
}

// otherwise reads a policy with another reader, one that knows nothing of principals, and returns what the policy has not, or has not
// so; "" if they agree.
func otherwise(p *auth.Policy, src []byte) string {
	var file struct {
		Principals map[string]struct {
			Is       []string
			May      map[string][]auth.Pattern
			InFlight int `yaml:"in_flight"`
		}
	}
	if err := yaml.Unmarshal(src, &file); err != nil {
		return err.Error()
	}
	a := auth.NewAccess(p, nil)
	if a.Principals() != len(file.Principals) {
		return fmt.Sprintf("%d principals", len(file.Principals))
	}
	for name, want := range file.Principals {
		for _, id := range want.Is {
			who := a.Principal([]auth.Identity{auth.Identity(id)})
			if who.Name != name || who.InFlightMax() != want.InFlight {
				return fmt.Sprintf("that %s is %s, with %d in flight", id, name, want.InFlight)
			}
			for _, v := range auth.Verbs() {
				if !slices.Equal(who.Grants(v), want.May[v.String()]) {
					return fmt.Sprintf("that %s may %s %q", name, v, want.May[v.String()])
				}
			}
		}
	}
	return ""
}

// readTokens reads tokens, writes them, and reads them again.
func readTokens(t testing.TB, src []byte) bool {
	t.Helper()
	tokens, err := auth.ParseTokens("t.yaml", src)
	if (tokens == nil) == (err == nil) {
		t.Fatalf("%q: %v, %v", src, tokens, err)
	}
	if err != nil {
		return false
	}
	text := auth.FormatTokens(tokens)
	again, err := auth.ParseTokens("t.yaml", text)
	if diff := cmp.Diff(tokens, again); diff != "" || err != nil || !bytes.Equal(auth.FormatTokens(again), text) {
		t.Fatalf("%q: written and read again (%v):\n%s", src, err, diff)
	}
	return true
}

// FuzzPolicy: whatever stands in a policy, it is refused or read, and says the same twice.
func FuzzPolicy(f *testing.F) {
	for _, seed := range []string{goodPolicy, "", "principals: {}", "principals: {p: {is: [loopback], may: {admin: ['**']}}}", "principals:\n- x", "a: &b [*b]", "[[[[[[[[[[["} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) { readPolicy(t, src) })
}

// FuzzTokens: whatever stands in a tokens file, it is refused, or read and written again.
func FuzzTokens(f *testing.F) {
	for _, seed := range []string{string(auth.FormatTokens(someTokens())), "", "tokens: {}", "tokens:\n  x: {sha256: " + hexOne + ", created: 2026-11-22T12:00:00.5+14:00}", "tokens: quotad_x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) { readTokens(t, src) })
}
