package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
	"github.com/quotad/quotad/internal/window"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quotad.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := Parse([]string{"--data", "/var/lib/quotad"}, env())
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Data:   "/var/lib/quotad",
		Listen: []Address{{"tcp", "127.0.0.1:7070"}},
		Admin:  Address{"tcp", "127.0.0.1:7071"},
		Defaults: quota.Defaults{
			Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: 50}}, Zone: "UTC", UndeclaredLive: 10_000,
			Thresholds: quota.Thresholds{80, 100},
		},
		SocketMode: 0o600, TLSClients: "require",
		Retain: store.DefaultRetain, MaxSize: boltengine.DefaultMaxSize, LogFormat: "auto", LogLevel: slog.LevelInfo, DrainTimeout: 10 * time.Second,
	}
	got := *c
	got.origins = nil
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Config{})); diff != "" {
		t.Errorf("defaults differ (-want +got):\n%s", diff)
	}
	if MaxSizeMin != boltengine.MinMaxSize {
		t.Errorf("max-size may be %d at least, but the engine wants %d", MaxSizeMin, boltengine.MinMaxSize)
	}
}

// TestPrecedence sets one key after the other in each source: flags win over the environment, that over the file, and that over
// the default, also for the key that is a list.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := write(t, "zone: Europe/Berlin\nretain: 30d\nlog-level: warn\nlisten: [127.0.0.1:1, '127.0.0.1:2']\n")
	environment := env("QUOTAD_CONFIG", file, "QUOTAD_RETAIN", "40d", "QUOTAD_LOG_LEVEL", "error", "QUOTAD_LISTEN", "127.0.0.1:3, unix:///run/q.sock")
	for _, test := range []struct {
		args  []string
		env   func(string) string
		key   string
		want  string
		from  string
		wants []Address
	}{
		{env: env(), key: "zone", want: "UTC", from: "default"},
		{env: environment, key: "zone", want: "Europe/Berlin", from: file + ":1"},
		{env: environment, key: "retain", want: "40d", from: "QUOTAD_RETAIN"},
		{env: environment, args: []string{"--log-level", "debug"}, key: "log-level", want: "debug", from: "--log-level"},
		{env: env("QUOTAD_CONFIG", file), key: "listen", want: "127.0.0.1:1 127.0.0.1:2", from: file + ":4"},
		{env: environment, key: "listen", want: "127.0.0.1:3 unix:///run/q.sock", from: "QUOTAD_LISTEN"},
		{env: environment, args: []string{"--listen=127.0.0.1:4", "--listen", "127.0.0.1:5"}, key: "listen", want: "127.0.0.1:4 127.0.0.1:5", from: "--listen"},
		{env: env("QUOTAD_CONFIG", "/does/not/exist"), args: []string{"--config", file}, key: "config", want: file, from: "--config"},
		{env: env("QUOTAD_CREATE", "1"), key: "create", want: "true", from: "QUOTAD_CREATE"},
		{env: env("QUOTAD_CREATE", "1"), args: []string{"--create=false"}, key: "create", want: "false", from: "--create"},
		{env: env(), args: []string{"--admin-listen", "off"}, key: "admin-listen", want: "off", from: "--admin-listen"},
		{env: env(), args: []string{"--default", "off"}, key: "default", want: "off", from: "--default"},
	} {
		c, err := Parse(append([]string{"--data", "d"}, test.args...), test.env)
		if err != nil {
			t.Errorf("%s: %v", test.key, err)
			continue
		}
		if got := strings.Join(find(test.key).get(c), " "); got != test.want || c.Origin(test.key) != test.from {
			t.Errorf("%s is %q from %s, want %q from %s", test.key, got, c.Origin(test.key), test.want, test.from)
		}
	}
}

// TestRefusals holds what Parse says of what is wrong, as the user reads it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	withData := func(args ...string) []string { return append([]string{"--data", "d"}, args...) }
	for _, test := range []refused{
		{args: nil, want: "no --data: want the directory that keeps the ledger, such as quotad --data /var/lib/quotad --create; or --dev, to try quotad out in memory"},
		{args: []string{"--dev", "--create"}, want: "--create without --data: there is nothing to create; want --data DIR --create"},
		{args: withData("--lisen", "x"), want: "unknown flag --lisen; did you mean --listen?"},
		{args: withData("--max-sise=1"), want: "unknown flag --max-sise; did you mean --max-size?"},
		{args: withData("--frobnicate"), want: "unknown flag --frobnicate"},
		{args: withData("-zone", "UTC"), want: `unexpected "-zone"; did you mean --zone?`},
		{args: withData("start"), want: `unexpected "start"; quotad takes flags only, such as --data DIR`},
		{args: withData("--create", "false"), want: `unexpected "false"; quotad takes flags only, such as --data DIR`},
		{args: withData("--zone"), want: "--zone needs a value"},
		{args: withData("--zone", "--dev"), want: "--zone needs a value"},
		{args: withData("--zone", "UTC", "--zone", "Europe/Rome"), want: "--zone is given twice: UTC and Europe/Rome; keep one"},
		{args: []string{"--data="}, want: `--data: "" is not a path`},
		{args: withData("--create=maybe"), want: `--create: "maybe" is neither; want true or false`},
		{args: withData("--zone", "Mars/Olympus"), want: `--zone: unknown time zone "Mars/Olympus": want a name of the IANA database such as "Europe/Berlin", or "UTC"`},
		{args: withData("--zone", "Local"), want: `--zone: time zone "Local" means another zone on every machine: want a name such as "Europe/Berlin", or "UTC"`},
		{args: withData("--default", ""), want: "--default: is empty; want limits such as 50 calls/day, or off"},
		{args: withData("--default", "-1"), want: `--default: limit "-1": max -1 is out of range; want 0 to 4000000000000000000`},
		{args: withData("--default", "50 calls/dya"), want: `--default: limit "50 calls/dya": unknown window "dya": want one of minute, hour, day, week, month, year, ever; did you mean "day"?`},
		{args: withData("--max-undeclared", "-1"), want: `--max-undeclared: "-1" is out of range; want a whole number from 0 to 10000000`},
		{args: withData("--retain", "400"), want: `--retain: "400" is not a duration; want one such as 90s, 10m, 36h, 400d or 2w`},
		{args: withData("--retain", "1d"), want: `--retain: "1d" is out of range; want 2d to 36600d`},
		{args: withData("--drain-timeout", "-5s"), want: `--drain-timeout: "-5s" is not a duration; want one such as 90s, 10m, 36h, 400d or 2w`},
		{args: withData("--max-size", "4GB"), want: `--max-size: "4GB" is not a size; want bytes, or a number of KiB, MiB, GiB or TiB, such as 4GiB`},
		{args: withData("--max-size", "12KiB"), want: `--max-size: "12KiB" is too small; want at least 1MiB`},
		{args: withData("--log-level", "loud"), want: `--log-level: "loud" is unknown; want debug, info, warn or error`},
		{args: withData("--log-format", "xml"), want: `--log-format: "xml" is unknown; want one of auto, text, json`},
		{args: withData("--listen", "127.0.0.1:1", "--listen", "127.0.0.1:1"), want: "127.0.0.1:1 is to be listened on twice: keep one"},
		{args: withData("--admin-listen", "127.0.0.1:7070"), want: "127.0.0.1:7070 is given for listen and for admin-listen: want two different addresses"},
		{
			args: withData("--zone", "x", "--log-level", "y"), // all at once
			want: `--zone: unknown time zone "x": want a name of the IANA database such as "Europe/Berlin", or "UTC"` + "\n" +
				`--log-level: "y" is unknown; want debug, info, warn or error`,
		},
		{args: withData(), env: env("QUOTAD_ADMIN_LISTEN", "nowhere"), want: `QUOTAD_ADMIN_LISTEN: "nowhere" is not an address; want host:port such as 127.0.0.1:7070, or unix:///run/quotad/quotad.sock; or off for none`},
		{args: withData("--config", "/does/not/exist"), want: "configuration file: open /does/not/exist: no such file or directory"},
	} {
		test.try(t)
	}
}

// refused is a call that has to be refused, and what it has to say.
type refused struct {
	args []string
	env  func(string) string // nil means an empty one
	want string
}

func (r refused) try(t *testing.T) {
	t.Helper()
	if r.env == nil {
		r.env = env()
	}
	c, err := Parse(r.args, r.env)
	if err == nil {
		t.Errorf("%q: no error, want %q; got %+v", r.args, r.want, c)
	} else if err.Error() != r.want {
		t.Errorf("%q:\n got %s\nwant %s", r.args, err, r.want)
	}
}

// TestAccessRefusals is TestRefusals for who may call, and what is told to whom.
func TestAccessRefusals(t *testing.T) {
	t.Parallel()
	const remote = ` can be reached from other machines: want --tls-cert, --tls-key and --policy with it, or an address of this machine alone, such as 127.0.0.1:7070 or unix:///run/quotad/quotad.sock`
	withData := func(args ...string) []string { return append([]string{"--data", "d"}, args...) }
	for _, test := range []refused{
		{args: withData("--control-listen", "unix:///q", "--control-listen", "unix:///q"), want: "unix:///q is to be listened on twice: keep one"},
		{args: withData("--control-listen", "127.0.0.1:7070"), want: "127.0.0.1:7070 is given for listen and for control-listen: want two different addresses"},
		{args: withData("--probe-listen", "127.0.0.1:7071"), want: "127.0.0.1:7071 is given for admin-listen and for probe-listen: want two different addresses"},
		{args: withData("--listen", "0.0.0.0:7070"), want: `"0.0.0.0:7070"` + remote},
		{args: withData("--listen", "0.0.0.0:7070", "--policy", "p"), want: `"0.0.0.0:7070"` + remote},
		{args: withData("--listen", "0.0.0.0:7070", "--tls-cert", "c", "--tls-key", "k"), want: `"0.0.0.0:7070"` + remote},
		{args: withData("--control-listen", "10.0.0.7:7070"), want: `"10.0.0.7:7070"` + remote},
		{args: withData("--admin-listen", "[::]:7071"), want: `admin-listen: "[::]:7071" can be reached from other machines: want --admin-remote, if they may read metrics and probes in the clear, or 127.0.0.1`},
		{args: withData("--listen", ":7070"), want: `--listen: ":7070" names no host; want 127.0.0.1:7070, or 0.0.0.0:7070 for every address of this machine`},
		{args: withData("--socket-mode", "0777"), want: `--socket-mode: "0777" is not a mode for a socket; want 0600 (its owner), 0660 (its group too) or 0666 (everybody, for a policy to tell apart)`},
		{args: withData("--socket-group", "a b"), want: `--socket-group: "a b" is not a name or a number`},
		{args: withData("--socket-group", "apps"), want: "--socket-group apps without --socket-mode 0660: the group could not use the socket; want both or neither"},
		{args: withData("--tls-cert", "c"), want: "--tls-cert without --tls-key: a certificate is of no use without its key; want both"},
		{args: withData("--tls-key", "k"), want: "--tls-key without --tls-cert: a key is of no use without its certificate; want both"},
		{args: withData("--tls-client-ca", "ca"), want: "--tls-client-ca without --tls-cert: clients show certificates only over TLS; want --tls-cert and --tls-key too"},
		{args: withData("--tls-clients", "maybe"), want: `--tls-clients: "maybe" is unknown; want one of require, optional`},
		{args: withData("--tls-clients", "optional"), want: "--tls-clients optional without --tls-client-ca: no certificates are asked for; want the CA, or leave it out"},
		{args: withData("--tls-clients", "require"), want: "--tls-clients require without --tls-client-ca: no certificates are asked for; want the CA, or leave it out"},
		{args: withData("--tokens", "t"), want: "--tokens without --policy: a token says who calls, and a policy what they may do; want both"},
		{args: withData("--webhook", "https://x.example"), want: "--webhook without --webhook-key: events are signed, so that their receiver can tell them from forgeries; want the file of the key"},
		{args: withData("--webhook-key", "k"), want: "--webhook-key without --webhook: there is nothing to sign; want the URL that events are sent to"},
		{args: withData("--webhook", "ftp://secret"), want: "--webhook: is not a URL of http or https with a host; want one such as https://hooks.example.org/quotad"},
		{args: withData("--webhook", "https://me:secret@x.example/"), want: "--webhook: has a user or a fragment; leave them out: what is sent is signed with --webhook-key"},
		{args: withData("--webhook", "https://x/secret\x01"), want: "--webhook: is not a URL; want one such as https://hooks.example.org/quotad"},
		{args: withData("--webhook", "https://x/secret", "--webhook", "https://y/secret"), want: "--webhook is given twice; keep one"},
		{args: withData("--otlp-endpoint", "collector"), want: `--otlp-endpoint: is not where a collector listens for OTLP over gRPC; want http://127.0.0.1:4317 (in the clear) or https://HOST:PORT`},
		{args: withData("--thresholds", "80"), want: `--thresholds: "80" is not a share; want whole numbers of percent such as 80%, 100%, or off`},
		{args: withData("--thresholds", "100%, 80%"), want: `--thresholds: 80% comes after 100%; want each threshold once, rising`},
		{args: withData("--thresholds", "0%"), want: `--thresholds: a threshold of 0% is out of range; want 1% to 1000%`},
	} {
		test.try(t)
	}
}

// TestRefusalsKeepSecrets: no error shows what may be a secret, wherever it was put. The control is what is no secret.
func TestRefusalsKeepSecrets(t *testing.T) {
	t.Parallel()
	const canary = "quotad_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	file := func(content string) []string { return []string{"--data", "d", "--config", write(t, content)} }
	for what, args := range map[string][]string{
		"a webhook of another scheme": file("webhook: ftp://hooks.example/" + canary[7:]),
		"a webhook given twice":       file("webhook: https://h/" + canary[7:] + "\nwebhook: https://h/" + canary[7:]),
		"a webhook as a list":         file("webhook:\n  - https://h/" + canary[7:]),
		"a webhook in one line":       file(`{"webhook": nowhere/` + canary[7:] + "}"),
		"a webhook misspelled":        file("webhok: https://h/" + canary[7:]),
		"a webhook that is broken":    file("webhook: [https://h/" + canary[7:]),
		"a collector with a password": file("otlp-endpoint: u:" + canary[7:] + "@h"),
		"a collector given twice":     {"--data", "d", "--otlp-endpoint", "http://u:" + canary[7:] + "@h:1", "--otlp-endpoint", "h:1"},
		"a token as its file":         {"--data", "d", "--policy", "p", "--tokens", canary},
		"a token as the file's file":  file("tokens: " + canary),
		"a token as a key":            file(canary + ": x"),
		"two files of tokens":         {"--data", "d", "--tokens", canary, "--tokens", "x"},
	} {
		_, err := Parse(args, env())
		if err == nil {
			t.Errorf("%s: no error", what)
		} else if strings.Contains(err.Error(), canary[7:]) {
			t.Errorf("%s: it is shown:\n%v", what, err)
		}
	}
	want := []string{"unix:///run/" + canary[7:] + "/", "        | " + strings.Repeat(" ", len("listen: [")) + "^"}
	_, err := Parse(file("listen: ["+want[0]+"]"), env())
	for _, text := range want {
		if err == nil || !strings.Contains(err.Error(), text[2:]) {
			t.Errorf("an address of a socket: %v; want it shown, with %q", err, text)
		}
	}
}

// TestHelpFirst: help and version answer whatever else is wrong.
func TestHelpFirst(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"-h"}, {"--zone", "nowhere", "--help"}, {"--config", "/does/not/exist", "--help"}} {
		c, err := Parse(args, env("QUOTAD_ZONE", "nowhere"))
		if err != nil || !c.Help {
			t.Errorf("%q: %v, want help", args, err)
		}
	}
	if c, err := Parse([]string{"--version"}, env()); err != nil || !c.Version {
		t.Errorf("--version: %v", err)
	}
}

// TestPrint: what --print-config prints is a configuration file that says the same.
func TestPrint(t *testing.T) {
	t.Parallel()
	args := []string{
		"--data", "/var/lib/quotad data", "--listen", "127.0.0.1:0", "--listen", "unix:///run/q.sock", "--default", "5 calls/hour, 2 usd_micros/month",
		"--retain", "2w", "--max-size", "3MiB", "--zone", "America/Havana", "--admin-listen", "off", "--log-level", "warn", "--drain-timeout", "90s",
		"--control-listen", "unix:///run/c.sock", "--control-listen", "fd://control", "--probe-listen", "0.0.0.0:7072", "--admin-remote",
		"--socket-mode", "0660", "--socket-group", "apps", "--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-client-ca", "ca.pem",
		"--tls-clients", "optional", "--policy", "p.yaml", "--tokens", "t.yaml", "--thresholds", "50%, 90%, 100%",
		"--otlp-endpoint", "http://127.0.0.1:4317",
	}
	first, err := Parse(args, env())
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, first.String())
	second, err := Parse([]string{"--config", path}, env())
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, first)
	}
	second.File = ""
	a, b := *first, *second
	a.origins, b.origins = nil, nil
	if diff := cmp.Diff(a, b, cmp.AllowUnexported(Config{})); diff != "" {
		t.Errorf("read back it differs (-printed +read):\n%s\n%s", diff, first)
	}
	if want := "zone: America/Havana # --zone\n"; !strings.Contains(first.String(), want) {
		t.Errorf("no %q in\n%s", want, first)
	}
}

func TestFileTooLarge(t *testing.T) {
	t.Parallel()
	path := write(t, strings.Repeat("#", FileBytesMax+1))
	_, err := Parse([]string{"--data", "d", "--config", path}, env())
	if err == nil || !strings.HasSuffix(err.Error(), "is too large: at most 1MiB") {
		t.Errorf("error is %v, want that it is too large", err)
	}
}

// TestSecretIsNotPrinted: the address of a webhook may hold a secret in its path, and is shown by nothing.
func TestSecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	const secret = "https://hooks.example/T0/s3cr3t"
	c, err := Parse([]string{"--data", "d", "--webhook", secret, "--webhook-key", "k"}, env())
	if err != nil {
		t.Fatal(err)
	}
	if text := c.String(); strings.Contains(text, "s3cr3t") || !strings.Contains(text, "# webhook: (set, and not shown) # --webhook\n") {
		t.Errorf("it prints\n%s", text)
	}
}
