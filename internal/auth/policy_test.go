package auth_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/strictyaml"
)

// policy parses a policy that has to be good.
func policy(t testing.TB, src string) *auth.Policy {
	t.Helper()
	p, err := auth.ParsePolicy("policy.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// access joins a policy and tokens that have to be good; "" for none.
func access(t testing.TB, src, tokens string) *auth.Access {
	t.Helper()
	if tokens == "" {
		return auth.NewAccess(policy(t, src), nil)
	}
	known, err := auth.ParseTokens("tokens.yaml", []byte(tokens))
	if err != nil {
		t.Fatal(err)
	}
	return auth.NewAccess(policy(t, src), known)
}

const goodPolicy = `# Who may do what.
principals:
  chat:
    is: ["spiffe://acme.example/chat", "uid:1000", "token:chat"]
    may: {acquire: [acme/chat/**], settle: [acme/chat/**], inspect: [acme/**]}
    in_flight: 200
  ops:
    is: ["dns:ops.acme.example", "gid:27"]
    may:
      admin: ["**"]
      inspect:
        - "**"
  here: {is: [loopback], may: {inspect: [status/*]}}
`

func TestPolicy(t *testing.T) {
	t.Parallel()
	a := access(t, goodPolicy, "")
	if !a.Policy() || a.Principals() != 3 || a.Tokens() != 0 {
		t.Errorf("policy %v, %d principals, %d tokens", a.Policy(), a.Principals(), a.Tokens())
	}
	for _, c := range []struct {
		shown       string // parted by blanks
		name, known string
	}{
		{"uid:1000 gid:27 loopback", "chat", "uid:1000"},
		{"uid:0 gid:27", "ops", "gid:27"},
		{"spiffe://acme.example/chat dns:ops.acme.example", "chat", "spiffe://acme.example/chat"},
		{"dns:ops.acme.example uid:1000", "ops", "dns:ops.acme.example"},
		{"token:chat", "chat", "token:chat"},
		{"token:other uid:1000", "", "token:other"}, // a token speaks for its caller alone
		{"loopback", "here", "loopback"},
		{"uid:1 gid:1", "", "uid:1"},
		{"spiffe://acme.example/chat/x", "", "spiffe://acme.example/chat/x"},
		{"spiffe://acme.example/Chat", "", "spiffe://acme.example/Chat"},
		{"uid:01000", "", "uid:01000"},
		{"chat", "", "chat"}, // a principal's name is no identity
		{"", "", ""},
	} {
		var ids []auth.Identity
		for id := range strings.FieldsSeq(c.shown) {
			ids = append(ids, auth.Identity(id))
		}
		p := a.Principal(ids)
		if p.Name != c.name || string(p.Shown) != c.known {
			t.Errorf("%q is %q by %q, want %q by %q", c.shown, p.Name, p.Shown, c.name, c.known)
		}
		if p != a.Principal(ids) {
			t.Errorf("%q is not the same twice", c.shown)
		}
		if p.Name == "" && (p.MaySome(auth.Acquire) || p.MaySome(auth.Inspect) || p.MayAll(auth.Admin) || p.Grants(auth.Inspect) != nil || p.InFlightMax() != 0) {
			t.Errorf("%q is nobody, and may something", c.shown)
		}
	}
}

// TestMay asks each of the four questions.
func TestMay(t *testing.T) {
	t.Parallel()
	a := access(t, goodPolicy, "")
	chat, ops := a.Principal([]auth.Identity{"uid:1000"}), a.Principal([]auth.Identity{"gid:27"})
	for _, c := range []struct {
		p        auth.Principal
		v        auth.Verb
		name     string
		declared bool // name may be a declared pattern, and MayDeclared is asked
		want     bool
	}{
		{chat, auth.Acquire, "acme/chat/alice", false, true},
		{chat, auth.Acquire, "acme/chat/alice/x", false, true},
		{chat, auth.Acquire, "acme/chat", false, false},
		{chat, auth.Acquire, "acme/chatter/alice", false, false},
		{chat, auth.Acquire, "acme", false, false},
		{chat, auth.Acquire, "Acme/chat/alice", false, false},
		{chat, auth.Inspect, "acme/chat", false, true},
		{chat, auth.Admin, "acme/chat/alice", false, false},
		{chat, 0, "acme/chat/alice", false, false},
		{chat, 5, "acme/chat/alice", false, false},
		{chat, auth.Acquire, "acme/chat/*", true, true},
		{chat, auth.Acquire, "acme/*/alice", true, false},
		{chat, auth.Acquire, "*", true, false},
		{ops, auth.Admin, "*", true, true},
		{ops, auth.Admin, "a", false, true},
		{ops, auth.Acquire, "a", false, false},
		{auth.Local(), auth.Admin, "*/*", true, true},
		{auth.Local(), 0, "a", false, false},
	} {
		got := c.p.MayDeclared(c.v, c.name)
		if !c.declared && got != c.p.May(c.v, bucket(c.name)) {
			t.Errorf("%v: May and MayDeclared differ for %s %s", c.p, c.v, c.name)
		}
		if got != c.want {
			t.Errorf("%v may %s %s: %v", c.p, c.v, c.name, got)
		}
	}
	if !ops.MayAll(auth.Admin) || ops.MayAll(auth.Acquire) || chat.MayAll(auth.Inspect) || !auth.Local().MayAll(auth.Settle) || auth.Local().MayAll(0) {
		t.Error("MayAll is wrong")
	}
	if !chat.MaySome(auth.Settle) || chat.MaySome(auth.Admin) || chat.MaySome(0) || !auth.Local().MaySome(auth.Admin) {
		t.Error("MaySome is wrong")
	}
	if chat.InFlightMax() != 200 || ops.InFlightMax() != 0 || auth.Local().InFlightMax() != 0 {
		t.Error("InFlightMax is wrong")
	}
	if diff := cmp.Diff([]auth.Pattern{"acme/**"}, chat.Grants(auth.Inspect)); diff != "" || len(auth.Local().Grants(auth.Admin)) != 1 || chat.Grants(0) != nil {
		t.Errorf("Grants is wrong: %s", diff)
	}
	chat.Grants(auth.Inspect)[0] = auth.Everything
	if chat.MayAll(auth.Inspect) {
		t.Error("who looks at grants can change them")
	}
}

// TestPolicyFaults holds each slip against what is said about it, up to the line that shows where.
func TestPolicyFaults(t *testing.T) {
	t.Parallel()
	one := func(is, may string) string { return "principals: {p: {is: [" + is + "], may: {" + may + "}}}" }
	const may = "acquire: [a]"
	for src, want := range map[string]string{
		"":              `p.yaml: lets nobody do anything; want "principals:" and who they are, or "principals: {}" if that is meant`,
		"# nothing\n":   `p.yaml: lets nobody do anything; want "principals:" and who they are, or "principals: {}" if that is meant`,
		"{}":            `p.yaml: lets nobody do anything; want "principals:" and who they are, or "principals: {}" if that is meant`,
		"principals:":   `p.yaml:1:13: principals is empty; want "key: value" lines`,
		"principals: x": `p.yaml:1:13: principals is a single value; want "key: value" lines`,
		"principal: {}": `p.yaml:1:1: unknown key "principal"; did you mean "principals"?`,
		"principals: {p: {is: [loopback], may: {acquire: [a]}, inflight: 1}}": `p.yaml:1:55: unknown key "inflight"; did you mean "in_flight"?`,
		"principals: {p: }":                                                       `p.yaml:1:16: p is empty; want "key: value" lines`,
		"principals: {p: {may: {acquire: [a]}}}":                                  `p.yaml:1:14: p is nobody; want what it is recognised by, such as is: ["uid:1000", "token:p"]`,
		"principals: {p: {is: [loopback]}}":                                       `p.yaml:1:14: p may do nothing; want what it may do, such as may: {acquire: [acme/**]}`,
		one("", may):                                                              `p.yaml:1:18: p is nobody; want what it is recognised by, such as uid:1000`,
		one("loopback", ""):                                                       `p.yaml:1:34: p may do nothing; want what it may do, such as acquire: [acme/**]`,
		one("loopback", "acquire: []"):                                            `p.yaml:1:40: acquire allows nothing; want buckets such as acme/**, or leave it out`,
		one("loopback", "aquire: [a]"):                                            `p.yaml:1:40: unknown verb "aquire"; did you mean "acquire"?`,
		one("loopback", "everything: [a]"):                                        `p.yaml:1:40: unknown verb "everything"; want one of acquire, settle, inspect, admin`,
		one("loopback", "acquire: [a, a]"):                                        `p.yaml:1:53: a stands in acquire already; keep one`,
		one("loopback", "acquire: a"):                                             `p.yaml:1:49: acquire is a single value; want a list, such as acquire: [...]`,
		one("loopback", "acquire: [acme**]"):                                      `p.yaml:1:50: "acme**": ** stands for whole segments at the end, as in acme/**`,
		one("loopback", "acquire: [[a]]"):                                         `p.yaml:1:50: acquire is a list; want a single value`,
		one("loopback, loopback", may):                                            `p.yaml:1:33: loopback is p already; who shows it has to be one principal`,
		one("{}", may):                                                            `p.yaml:1:23: is is a mapping; want a single value`,
		one("'uid:-1'", may):                                                      `p.yaml:1:23: "uid:-1": want a number from 0 to 4294967294, as in uid:1000`,
		"principals: {local: {is: [loopback], may: {admin: [a]}}}":                `p.yaml:1:14: the name "local" is taken; give the principal another`,
		"principals: {quotad: {is: [loopback], may: {admin: [a]}}}":               `p.yaml:1:14: the name "quotad" is taken; give the principal another`,
		"principals: {loopback: {is: [loopback], may: {admin: [a]}}}":             `p.yaml:1:14: the name "loopback" is taken; give the principal another`,
		"principals: {'a b': {is: [loopback], may: {admin: [a]}}}":                `p.yaml:1:14: a principal named "a b"; want 1 to 64 bytes of a-z, 0-9 and ._-`,
		"principals: {Chat: {is: [loopback], may: {admin: [a]}}}":                 `p.yaml:1:14: a principal named "Chat"; want 1 to 64 bytes of a-z, 0-9 and ._-`,
		"principals: {p: {is: [loopback], may: {admin: [a]}, in_flight: 0}}":      `p.yaml:1:64: in_flight is "0"; want how many calls may be under way at a time, 1 to 100000`,
		"principals: {p: {is: [loopback], may: {admin: [a]}, in_flight: 100001}}": `p.yaml:1:64: in_flight is "100001"; want how many calls may be under way at a time, 1 to 100000`,
		"principals: {p: {is: [loopback], may: {admin: [a]}, in_flight: 007}}":    `p.yaml:1:64: in_flight is "007"; want how many calls may be under way at a time, 1 to 100000`,
		"principals: {p: {is: [loopback], may: {admin: [a]}}, p: {}}":             `p.yaml:1:54: "p" stands in line 1 already; keep one`,
		strings.Repeat("#", auth.PolicyBytesMax+1):                                `p.yaml: is too large: at most 1048576 bytes`,
	} {
		p, err := auth.ParsePolicy("p.yaml", []byte(src))
		if err == nil {
			t.Errorf("%q is taken", src)
			continue
		}
		if got, _, _ := strings.Cut(err.Error(), "\n"); got != want || p != nil {
			t.Errorf("%.100q:\n got %s\nwant %s", src, got, want)
		}
	}
}

// All that is wrong is said at once.
func TestPolicyFaultsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := auth.ParsePolicy("p.yaml", []byte("principals:\n  A: {is: [x], may: {aquire: [a]}}\n  b: {}\nother: 1\n"))
	if got := strings.Count(err.Error(), "p.yaml:"); got != 6 {
		t.Errorf("%d faults are said, want 6:\n%v", got, err)
	}
}

// TestPolicyBounds has one too many of all that is bounded. Nothing else is wrong, so that what is before it is allowed.
func TestPolicyBounds(t *testing.T) {
	t.Parallel()
	many := func(n int, format string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(parts, ",")
	}
	one := func(is, may string) string { return "principals: {p: {is: [" + is + "], may: {" + may + "}}}" }
	tooMany := map[string]string{
		one(many(1001, "'uid:%d'"), "acquire: [a]"):                                                             "this is identity 1001; a principal has at most 1000",
		one("loopback", "acquire: ["+many(500, "a%d")+"], settle: ["+many(501, "a%d")+"]"):                      "this is pattern 1001; a principal has at most 1000: use one such as acme/**",
		"principals: {" + strings.Repeat("p", 65) + ": {is: [loopback], may: {admin: [a]}}}":                    "a principal whose name has 65 bytes; want 1 to 64 bytes of a-z, 0-9 and ._-",
		"principals: {" + strings.Repeat("p", 64) + ": {is: [loopback], may: {admin: [a]}, in_flight: 100001}}": `in_flight is "100001"; want how many calls may be under way at a time, 1 to 100000`,
	}
	if os.Getenv("QUOTAD_LONG") != "" {
		tooMany["principals: {"+many(10_001, "p%d: {is: ['uid:%[1]d'], may: {acquire: [a]}}")+"}"] = "this is principal 10001; at most 10000"
	}
	for src, want := range tooMany {
		_, err := auth.ParsePolicy("p.yaml", []byte(src))
		faults, _ := errors.AsType[strictyaml.Faults](err)
		if len(faults) != 1 || faults[0].Text != want { // one: all before it is taken
			t.Errorf("one too many: %d faults, %v, want %q", len(faults), err, want)
		}
	}
}

func TestIdentities(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	host := long + "." + long + "." + long + "." + strings.Repeat("a", 61)
	for _, good := range []auth.Identity{
		"loopback", "uid:0", "uid:4294967294", "gid:27", "token:ci", "token:.", "token:a-b_c.9", auth.Identity("token:" + long + "a"),
		"spiffe://acme.example/chat", "spiffe://a/b", "spiffe://acme_1.example-2/ns/Prod/sa/chat_1.x-y", "spiffe://1/...",
		auth.Identity("spiffe://a/" + strings.Repeat("b", 2048-11)), auth.Identity("spiffe://" + strings.Repeat("a", 255) + "/b"),
		"dns:localhost", "dns:chat.acme.example", "dns:1.example", "dns:xn--bcher-kva.example", auth.Identity("dns:" + host),
	} {
		if err := good.Check(); err != nil {
			t.Errorf("%.80s: %v", good, err)
		}
	}
	for _, bad := range []auth.Identity{
		"", "x", "local", "Loopback", "loopback:", "uid", "uid:", "uid:-1", "uid:+1", "uid:01", "uid:00", "uid:1.0", "uid:0x1", "uid:1e3", "uid: 1", "uid:4294967295", "uid:18446744073709551616", "uid:٣", "UID:1",
		"token:", "token:Ci", "token:a b", "token:a/b", "token:ä", auth.Identity("token:" + long + "aa"), "token:quotad_x",
		"spiffe:", "spiffe://", "spiffe:///a", "spiffe://a", "spiffe://a/", "spiffe://a//b", "spiffe://a/b/", "spiffe://a/.", "spiffe://a/../b", "spiffe://A/b", "SPIFFE://a/b", "spiffe://a:1/b", "spiffe://u@a/b",
		"spiffe://a/b?c", "spiffe://a/b#c", "spiffe://a/b%20c", "spiffe://a/b c", "spiffe://a/ä", "spiffe://a/\u212a", "spiffe:/a/b", auth.Identity("spiffe://a/" + strings.Repeat("b", 2049-11)), auth.Identity("spiffe://" + strings.Repeat("a", 256) + "/b"),
		"dns:", "dns:*", "dns:*.acme.example", "dns:Chat.example", "dns:chat.example.", "dns:.example", "dns:a..b", "dns:-a", "dns:a-", "dns:a_b", "dns:a b", "dns:10.0.0.1", "dns:1", "dns:[::1]", "dns:a:1", "dns:ä.example", auth.Identity("dns:" + host + "a"), auth.Identity("dns:" + long + "a"),
		"uid:1\n", "token:a\x00", "dns:a\n", "spiffe://a/b\n", "http://a/b", "user:a",
	} {
		if err := bad.Check(); err == nil {
			t.Errorf("%q is taken", bad)
		} else if len(err.Error()) > 400 {
			t.Errorf("%.80q: the error has %d bytes", bad, len(err.Error()))
		}
	}
}

func TestLoadAccess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, tokens := file("policy.yaml", goodPolicy), file("tokens.yaml", string(auth.FormatTokens(someTokens())))
	a, err := auth.LoadAccess(good, tokens)
	if err != nil || a.Principals() != 3 || a.Tokens() != len(someTokens()) {
		t.Fatalf("%v, %v", a, err)
	}
	if diff := cmp.Diff([]string{
		"principal chat is token:chat, and there is no such token", "token ci is no principal's, and opens nothing", "token old is no principal's, and opens nothing",
	}, a.Unused()); diff != "" {
		t.Errorf("unused (-want +got):\n%s", diff)
	}
	if a, err := auth.LoadAccess(good, ""); err != nil || a.Tokens() != 0 {
		t.Errorf("without tokens: %v", err)
	}
	bad, worse := file("bad.yaml", "principals: 1"), file("worse.yaml", "tokens: 1")
	for _, c := range []struct {
		policy, tokens string
		want           []string
	}{
		{bad, worse, []string{"bad.yaml:1:13", "worse.yaml:1:9"}},
		{good, worse, []string{"worse.yaml:1:9"}},
		{bad, tokens, []string{"bad.yaml:1:13"}},
		{filepath.Join(dir, "none"), tokens, []string{"policy: open " + dir}},
		{good, filepath.Join(dir, "none"), []string{"tokens: open " + dir}},
		{dir, "", []string{"policy: reading " + dir}},
		{good, file("large", strings.Repeat("#", auth.TokensBytesMax+1)), []string{"large: is too large: at most 4194304 bytes"}},
	} {
		a, err := auth.LoadAccess(c.policy, c.tokens)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) || a != nil {
				t.Errorf("%s and %s: %v, want %q", c.policy, c.tokens, err, want)
			}
		}
	}
}

// TestSum: what means the same has the same sum, and what does not has another.
func TestSum(t *testing.T) {
	t.Parallel()
	const reordered = `{principals: {here: {may: {inspect: ["status/*"]}, is: ["loopback"]}, ops: {is: ["gid:27", "dns:ops.acme.example"], may: {inspect: ["**"], admin: ["**"]}},
		chat: {in_flight: 200, is: ["uid:1000", "token:chat", "spiffe://acme.example/chat"], may: {settle: ["acme/chat/**"], acquire: ["acme/chat/**"], inspect: ["acme/**"]}}}}`
	base := access(t, goodPolicy, "").Sum()
	if got := access(t, reordered, "").Sum(); got != base || len(got) != 64 {
		t.Errorf("in another order the sum is %s, not %s", got, base)
	}
	if made := auth.NewAccess(policy(t, goodPolicy), auth.Tokens{}).Sum(); made != base {
		t.Error("no tokens and an empty file of them differ")
	}
	sums := map[string]string{base: "the policy", auth.OpenAccess().Sum(): "no policy"}
	differs := func(what, sum string) {
		t.Helper()
		if other := sums[sum]; other != "" {
			t.Errorf("%s has the sum of %s", what, other)
		}
		sums[sum] = what
	}
	differs("an empty policy", access(t, "principals: {}", "").Sum())
	for _, change := range [][2]string{
		{"uid:1000", "uid:1001"}, {"acquire: [", "admin: ["}, {"in_flight: 200", "in_flight: 201"}, {"    in_flight: 200\n", ""}, {"acme/**", "acme/*"}, {"  chat", "  chat2"}, {`"gid:27"`, `"gid:27", "gid:28"`},
	} {
		changed := strings.Replace(goodPolicy, change[0], change[1], 1)
		if changed == goodPolicy {
			t.Fatalf("%q is not in the policy", change[0])
		}
		differs(change[1], access(t, changed, "").Sum())
	}
	tokens := someTokens()
	differs("with tokens", auth.NewAccess(policy(t, goodPolicy), tokens).Sum())
	ci := tokens["ci"]
	for what, change := range map[string]func(*auth.Token){
		"another hash": func(t *auth.Token) { t.Hash[0]++ }, "no expiry": func(t *auth.Token) { t.Expires = time.Time{} }, "a later expiry": func(t *auth.Token) { t.Expires = t.Expires.Add(1) },
	} {
		changed := ci
		change(&changed)
		tokens["ci"] = changed
		differs(what, auth.NewAccess(policy(t, goodPolicy), tokens).Sum())
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	secret := newSecret(t, 1)
	tokens := auth.Tokens{"chat": {Hash: secret.Hash(), Created: day, Expires: day.AddDate(0, 0, 90)}}
	a := auth.NewAccess(policy(t, goodPolicy+"  gone: {is: ['token:gone'], may: {acquire: ["+strings.Join(strings.Fields("a b c d e f g h i j k l"), ",")+"]}}\n"), tokens)
	for _, c := range []struct {
		who  string
		v    auth.Verb
		name string
		want auth.Explanation
	}{
		{"chat", auth.Acquire, "acme/chat/alice", auth.Explanation{Allowed: true, Principal: "chat", Reason: "chat may acquire acme/chat/**"}},
		{"chat", auth.Acquire, "acme/chat/*", auth.Explanation{Allowed: true, Principal: "chat", Reason: "chat may acquire acme/chat/**"}},
		{"uid:1000", auth.Acquire, "acme", auth.Explanation{Principal: "chat", Reason: "chat may acquire acme/chat/** and nothing else"}},
		{"chat", auth.Acquire, "*/*", auth.Explanation{Principal: "chat", Reason: "chat may acquire acme/chat/** and nothing else"}},
		{"chat", auth.Admin, "acme/chat", auth.Explanation{Principal: "chat", Reason: "chat may admin nothing"}},
		{"chat", auth.Inspect, "**", auth.Explanation{Principal: "chat", Reason: "chat may inspect acme/** and nothing else"}},
		{"ops", auth.Admin, "**", auth.Explanation{Allowed: true, Principal: "ops", Reason: "ops may admin **"}},
		{"token:chat", auth.Settle, "acme/chat/x", auth.Explanation{Allowed: true, Principal: "chat", Reason: "chat may settle acme/chat/**; token:chat is accepted until 2027-02-20T12:00:00Z"}},
		{"token:gone", auth.Acquire, "a", auth.Explanation{Principal: "gone", Reason: "gone is token:gone, but there is no such token: nobody can show it"}},
		{"gone", auth.Acquire, "z", auth.Explanation{Principal: "gone", Reason: "gone may acquire a, b, c, d, e, f, g, h, i, j and 2 more patterns and nothing else"}},
		{"uid:7", auth.Acquire, "acme", auth.Explanation{Reason: "uid:7 is no principal of the policy, and may do nothing"}},
		{"local", auth.Acquire, "acme", auth.Explanation{Reason: `"local" is no principal of the policy, and no identity such as uid:1000, token:ci, dns:chat.acme.example or spiffe://acme.example/chat`}},
		{"chat", 0, "acme", auth.Explanation{Reason: "verb(0) is no verb; want acquire, settle, inspect or admin"}},
		{"chat", auth.Acquire, "acme//x", auth.Explanation{Reason: `bucket "acme//x": an empty segment; a name is 1 to 200 bytes, up to 8 segments of letters, digits and ._:@=+- parted by /, such as acme/alice`}},
	} {
		if diff := cmp.Diff(c.want, a.Explain(c.who, c.v, c.name, day)); diff != "" {
			t.Errorf("can %s %s %s (-want +got):\n%s", c.who, c.v, c.name, diff)
		}
	}
	for at, allowed := range map[time.Time]bool{day.AddDate(0, 0, 90).Add(-1): true, day.AddDate(0, 0, 90): false} {
		e := a.Explain("token:chat", auth.Settle, "acme/chat/x", at)
		if e.Allowed != allowed || e.Principal != "chat" || strings.Contains(e.Reason, "was accepted until 2027-02-20T12:00:00Z") == allowed {
			t.Errorf("a token that expires, at %v: %+v", at, e)
		}
		if _, err := a.Token(secret.Reveal(), at); (err == nil) != allowed {
			t.Errorf("and it is accepted: %v", err)
		}
	}
	want := auth.Explanation{Allowed: true, Principal: "local", Reason: "there is no policy: whoever reaches quotad may do everything"}
	if diff := cmp.Diff(want, auth.OpenAccess().Explain("uid:7", auth.Admin, "**", day)); diff != "" {
		t.Errorf("without a policy (-want +got):\n%s", diff)
	}
}

// Until an access is set, everybody is let in as local; then nobody but by that one.
func TestGate(t *testing.T) {
	t.Parallel()
	var g auth.Gate
	shown := []auth.Identity{"uid:7"}
	if p := g.Get().Principal(shown); p != auth.Local() || g.Get().Policy() || g.Get().Unused() != nil || g.Get().Principals() != 0 {
		t.Errorf("an empty gate says %v", p)
	}
	a := access(t, goodPolicy, "")
	g.Set(a)
	if p := g.Get().Principal(shown); g.Get() != a || p.Name != "" {
		t.Errorf("the gate says %v", p)
	}
}
