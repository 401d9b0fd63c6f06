package config

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0s": 0, "90s": 90 * time.Second, "1d": day, "2w": 14 * day, "1w2d3h": 9*day + 3*time.Hour, "400d": 400 * day,
		"1d12h": 36 * time.Hour, "1.5h": 90 * time.Minute, "0": 0, "106751d": 106751 * day,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "1", "-1d", "+1d", "1d-1h", "1d1w", "1.5d", "106752d", "99999999999w", "15251w", "1d2d", "w", "1x", "٣d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestDurationRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "d"))
		if rapid.Bool().Draw(t, "whole") {
			d = d.Truncate(time.Hour)
		}
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("%d is %q, which is %d, %v", d, FormatDuration(d), got, err)
		}
	})
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "4GiB": 4 << 30, "4 GiB": 4 << 30, "12KiB": 12 << 10, "1TiB": 1 << 40, "9223372036854775807": math.MaxInt64, "7B": 7,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "4GB", "4G", "-1", "+1", "1.5GiB", "0x10", "9223372036854775808", "9007199254740992KiB", "1 2", "KiB4", "4gib"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Min(0).Draw(t, "n")
		if got, err := parseSize(formatSize(n)); err != nil || got != n {
			t.Fatalf("%d is %q, which is %d, %v", n, formatSize(n), got, err)
		}
	})
}

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Address{
		"127.0.0.1:7070":           {"tcp", "127.0.0.1:7070"},
		"127.3.2.1:0":              {"tcp", "127.3.2.1:0"},
		"[::1]:65535":              {"tcp", "[::1]:65535"},
		"[::ffff:127.0.0.1]:1":     {"tcp", "[::ffff:127.0.0.1]:1"},
		"localhost:7070":           {"tcp", "localhost:7070"}, // seen through when it is listened on
		"0.0.0.0:7070":             {"tcp", "0.0.0.0:7070"},
		"[::]:7070":                {"tcp", "[::]:7070"},
		"[fe80::1%eth0]:7070":      {"tcp", "[fe80::1%eth0]:7070"},
		"fd://quotad":              {"fd", "quotad"},
		"fd://quotad-control.sock": {"fd", "quotad-control.sock"},
		"unix:///run/q.sock":       {"unix", "/run/q.sock"},
		"unix:///with space/q,sok": {"unix", "/with space/q,sok"},
		"unix:///" + strings.Repeat("x", SocketPathMax-1): {"unix", "/" + strings.Repeat("x", SocketPathMax-1)},
	} {
		got, err := ParseAddress(text)
		if err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		} else if got.String() != text {
			t.Errorf("%q is written as %q", text, got)
		}
	}
	const inherited = ` is not the name of a socket of the service manager; want fd:// and its FileDescriptorName, such as fd://quotad`
	const socket = ` is not a socket's address; want unix:// and an absolute path, such as unix:///run/quotad/quotad.sock`
	const address = ` is not an address; want host:port such as 127.0.0.1:7070, or unix:///run/quotad/quotad.sock`
	for text, want := range map[string]string{
		":7070":              `":7070" names no host; want 127.0.0.1:7070, or 0.0.0.0:7070 for every address of this machine`,
		"fd:quotad":          `"fd:quotad"` + inherited,
		"fd://":              `"fd://"` + inherited,
		"fd://a b":           `"fd://a b"` + inherited,
		"fd://a/b":           `"fd://a/b"` + inherited,
		"fd://a:b":           `"fd://a:b"` + inherited,
		"7070":               `"7070"` + address,
		"127.0.0.1":          `"127.0.0.1"` + address,
		"http://127.0.0.1:1": `"http://127.0.0.1:1"` + address,
		"":                   `""` + address,
		"127.0.0.1:http":     `"127.0.0.1:http": the port is "http"; want 0 to 65535, where 0 means any that is free`,
		"127.0.0.1:65536":    `"127.0.0.1:65536": the port is "65536"; want 0 to 65535, where 0 means any that is free`,
		"127.0.0.1:+1":       `"127.0.0.1:+1": the port is "+1"; want 0 to 65535, where 0 means any that is free`,
		"unix:q.sock":        `"unix:q.sock"` + socket,
		"unix://q.sock":      `"unix://q.sock"` + socket,
		"unix:///run/":       `"unix:///run/"` + socket,
		"unix:///" + strings.Repeat("x", SocketPathMax): `"unix:///` + strings.Repeat("x", SocketPathMax) + `": the path has 108 bytes; a socket's may have at most 107`,
	} {
		if got, err := ParseAddress(text); err == nil || err.Error() != want {
			t.Errorf("%q is %v:\n got %v\nwant %v", text, got, err, want)
		}
	}
}

func TestRemote(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"127.0.0.1:1": false, "127.255.255.254:1": false, "[::1]:1": false, "[::ffff:127.0.0.1]:1": false, "unix:///q": false, "fd://q": false,
		"localhost:1": false, "example.org:1": false, // a name is seen through when it is listened on
		"0.0.0.0:1": true, "[::]:1": true, "[::ffff:0.0.0.0]:1": true, "10.0.0.7:1": true, "[fe80::1%eth0]:1": true, "169.254.169.254:1": true,
	} {
		a, err := ParseAddress(text)
		if err != nil || a.Remote() != want {
			t.Errorf("%s: remote %v (%v), want %v", text, a.Remote(), err, want)
		}
	}
	if !(Address{Network: "tcp", Addr: "what nobody parsed"}).Remote() {
		t.Error("an address that cannot be read is taken for one of this machine")
	}
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	plain := func(s string) string { return s }
	for word, want := range map[string]string{
		"lisen": "listen", "listne": "listen", "istenl": "listen", "max_size": "max-size", "admin-listne": "admin-listen",
		"frobnicate": "", "x": "", "": "", "datum": "data", strings.Repeat("data", 100): "",
	} {
		hint := didYouMean(word, flagNames(), plain)
		if want != "" {
			want = "; did you mean " + want + "?"
		}
		if hint != want {
			t.Errorf("%q: %q, want %q", word, hint, want)
		}
	}
}
