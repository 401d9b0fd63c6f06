package config

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// where a key may be given. A flag is possible for all.
type where uint8

const (
	anywhere    where = iota // flag, environment, file
	notFile                  // flag, environment
	flagOnly                 // flag
	envPrefix   = "QUOTAD_"
	separator   = "," // of a list in the environment
	offWord     = "off"
	listenUsual = "127.0.0.1:7070"
)

// key is one thing that can be set. Its name is the flag, with -- before it; the environment's, with QUOTAD_ before it, in
// capitals, with _ for -; and the file's, as it is.
type key struct {
	name   string
	where  where
	list   bool // may be given more than once
	toggle bool // true where a flag has no value
	secret bool // true where a value may hold a secret, and is not shown
	unsaid bool // true where no error repeats a value, as what was put there may be a secret
	def    []string
	set    func(*Config, string) error
	get    func(*Config) []string // as set reads it; none if it is not set
	clear  func(*Config)          // forgets what a source of less weight said
}

// EnvName returns the name that a key has in the environment.
func EnvName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// keys is all that can be set, in the order of the documentation.
var keys = []*key{
	text("data", "", setPath, func(c *Config) *string { return &c.Data }),
	toggle("create", notFile, func(c *Config) *bool { return &c.Create }),
	{
		name: "listen", list: true, def: []string{listenUsual},
		set: func(c *Config, s string) error {
			a, err := ParseAddress(s)
			if err == nil {
				c.Listen = append(c.Listen, a)
			}
			return err
		},
		get: func(c *Config) (all []string) {
			for _, a := range c.Listen {
				all = append(all, a.String())
			}
			return all
		},
		clear: func(c *Config) { c.Listen = nil },
	},
	{
		name: "control-listen", list: true,
		set: func(c *Config, s string) error {
			a, err := ParseAddress(s)
			if err == nil {
				c.Control = append(c.Control, a)
			}
			return err
		},
		get: func(c *Config) (all []string) {
			for _, a := range c.Control {
				all = append(all, a.String())
			}
			return all
		},
		clear: func(c *Config) { c.Control = nil },
	},
	addressOrOff("admin-listen", "127.0.0.1:7071", func(c *Config) *Address { return &c.Admin }),
	toggle("admin-remote", anywhere, func(c *Config) *bool { return &c.AdminRemote }),
	addressOrOff("probe-listen", offWord, func(c *Config) *Address { return &c.Probe }),
	{
		name: "socket-mode", def: []string{"0600"},
		set: func(c *Config, s string) error {
			modes := map[string]fs.FileMode{"0600": 0o600, "0660": 0o660, "0666": 0o666}
			if modes[s] == 0 {
				return fmt.Errorf("%q is not a mode for a socket; want 0600 (its owner), 0660 (its group too) or 0666 (everybody, for a policy to tell apart)", s)
			}
			c.SocketMode = modes[s]
			return nil
		},
		get:   func(c *Config) []string { return []string{fmt.Sprintf("%04o", c.SocketMode)} },
		clear: keep,
	},
	text("socket-group", "", setWord, func(c *Config) *string { return &c.SocketGroup }),
	text("tls-cert", "", setPath, func(c *Config) *string { return &c.TLSCert }),
	text("tls-key", "", setPath, func(c *Config) *string { return &c.TLSKey }),
	text("tls-client-ca", "", setPath, func(c *Config) *string { return &c.TLSClientCA }),
	text("tls-clients", "require", oneOf("require", "optional"), func(c *Config) *string { return &c.TLSClients }),
	text("policy", "", setPath, func(c *Config) *string { return &c.Policy }),
	unsaid(text("tokens", "", setTokens, func(c *Config) *string { return &c.Tokens })),
	text("buckets", "", setPath, func(c *Config) *string { return &c.Buckets }),
	{
		name: "config", where: notFile,
		set:   func(c *Config, s string) error { return setPath(&c.File, s) },
		get:   func(c *Config) []string { return unlessEmpty(c.File) },
		clear: keep,
	},
	toggle("dev", anywhere, func(c *Config) *bool { return &c.Dev }),
	{
		name: "default", def: []string{"50 calls/day"},
		set: func(c *Config, s string) (err error) {
			if s == "" {
				return fmt.Errorf("is empty; want limits such as 50 calls/day, or off")
			}
			c.Defaults.Limits, err = quota.ParseLimits(s)
			return err
		},
		get:   func(c *Config) []string { return []string{quota.FormatLimits(c.Defaults.Limits)} },
		clear: keep,
	},
	text("zone", "UTC", setZone, func(c *Config) *string { return &c.Defaults.Zone }),
	{
		name: "max-undeclared", def: []string{"10000"},
		set: func(c *Config, s string) error {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil || n < 0 || n > undeclaredMax {
				return fmt.Errorf("%q is out of range; want a whole number from 0 to %d", s, undeclaredMax)
			}
			c.Defaults.UndeclaredLive = n
			return nil
		},
		get:   func(c *Config) []string { return []string{strconv.FormatInt(c.Defaults.UndeclaredLive, 10)} },
		clear: keep,
	},
	duration("retain", "400d", retainMin, retainMax, func(c *Config) *time.Duration { return &c.Retain }),
	{
		name: "max-size", def: []string{"4GiB"},
		set: func(c *Config, s string) (err error) {
			if c.MaxSize, err = parseSize(s); err == nil && c.MaxSize < MaxSizeMin {
				err = fmt.Errorf("%q is too small; want at least %s", s, formatSize(MaxSizeMin))
			}
			return err
		},
		get:   func(c *Config) []string { return []string{formatSize(c.MaxSize)} },
		clear: keep,
	},
	{
		name: "thresholds", def: []string{"80%, 100%"},
		set: func(c *Config, s string) (err error) {
			c.Defaults.Thresholds, err = quota.ParseThresholds(s)
			return err
		},
		get:   func(c *Config) []string { return []string{c.Defaults.Thresholds.String()} },
		clear: keep,
	},
	secret(text("webhook", "", setWebhook, func(c *Config) *string { return &c.Webhook })),
	text("webhook-key", "", setPath, func(c *Config) *string { return &c.WebhookKey }),
	unsaid(text("otlp-endpoint", "", setOTLP, func(c *Config) *string { return &c.OTLP })),
	toggle("accept-clock", notFile, func(c *Config) *bool { return &c.AcceptClock }),
	text("log-format", "auto", oneOf("auto", "text", "json"), func(c *Config) *string { return &c.LogFormat }),
	{
		name: "log-level", def: []string{"info"},
		set: func(c *Config, s string) error {
			if !slices.Contains([]string{"debug", "info", "warn", "error"}, s) {
				return fmt.Errorf("%q is unknown; want debug, info, warn or error", s)
			}
			return c.LogLevel.UnmarshalText([]byte(s))
		},
		get:   func(c *Config) []string { return []string{levelName(c.LogLevel)} },
		clear: keep,
	},
	duration("drain-timeout", "10s", 0, drainMax, func(c *Config) *time.Duration { return &c.DrainTimeout }),
	text("addr-file", "", setPath, func(c *Config) *string { return &c.AddrFile }),
	toggle("print-config", flagOnly, func(c *Config) *bool { return &c.Print }),
	toggle("version", flagOnly, func(c *Config) *bool { return &c.Version }),
	toggle("help", flagOnly, func(c *Config) *bool { return &c.Help }),
}

// undeclaredMax is the most undeclared names that may be allowed on one day. Each costs memory and room in the file.
const undeclaredMax = 10_000_000

// find returns the key of that name, or nil.
func find(name string) *key {
	for _, k := range keys {
		if k.name == name {
			return k
		}
	}
	return nil
}

func fileKeys() []string {
	var names []string
	for _, k := range keys {
		if k.where == anywhere {
			names = append(names, k.name)
		}
	}
	return names
}

func keep(*Config) {}

func text(name, def string, set func(*string, string) error, field func(*Config) *string) *key {
	k := &key{
		name:  name,
		set:   func(c *Config, s string) error { return set(field(c), s) },
		get:   func(c *Config) []string { return unlessEmpty(*field(c)) },
		clear: keep,
	}
	if def != "" {
		k.def = []string{def}
	}
	return k
}

func secret(k *key) *key {
	k.secret = true
	return unsaid(k)
}

func unsaid(k *key) *key {
	k.unsaid = true
	return k
}

func toggle(name string, w where, field func(*Config) *bool) *key {
	return &key{
		name: name, where: w, toggle: true,
		set: func(c *Config, s string) (err error) {
			*field(c), err = parseBool(s)
			return err
		},
		get:   func(c *Config) []string { return []string{strconv.FormatBool(*field(c))} },
		clear: keep,
	}
}

func duration(name, def string, least, most time.Duration, field func(*Config) *time.Duration) *key {
	return &key{
		name: name, def: []string{def},
		set: func(c *Config, s string) error {
			d, err := ParseDuration(s)
			if err == nil && (d < least || d > most) {
				err = fmt.Errorf("%q is out of range; want %s to %s", s, FormatDuration(least), FormatDuration(most))
			}
			*field(c) = d
			return err
		},
		get:   func(c *Config) []string { return []string{FormatDuration(*field(c))} },
		clear: keep,
	}
}

func setPath(field *string, s string) error {
	if s == "" || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not a path", s)
	}
	*field = filepath.Clean(s)
	return nil
}

// setTokens wants the path of the file, and finds a token that was put there instead. Every later error would show it.
func setTokens(field *string, s string) error {
	if _, err := auth.ParseSecret(s); err == nil {
		return fmt.Errorf("is a token itself; want the file with the hashes, as quotactl token create writes it, and revoke the token: others may have seen it")
	}
	return setPath(field, s)
}

// addressOrOff is a key for one address, or none.
func addressOrOff(name, def string, field func(*Config) *Address) *key {
	return &key{
		name: name, def: []string{def},
		set: func(c *Config, s string) (err error) {
			*field(c) = Address{}
			if s == offWord {
				return nil
			}
			if *field(c), err = ParseAddress(s); err != nil {
				return fmt.Errorf("%w; or off for none", err)
			}
			return nil
		},
		get:   func(c *Config) []string { return []string{field(c).String()} },
		clear: keep,
	}
}

func setWord(field *string, s string) error {
	*field = s
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ':' }) {
		return fmt.Errorf("%q is not a name or a number", s)
	}
	return nil
}

// setWebhook wants a URL that says how to get there. What may be in its path or query is a secret of who wrote it, so that an error
// does not repeat it.
func setWebhook(field *string, s string) error {
	*field = s
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("is not a URL; want one such as https://hooks.example.org/quotad")
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return fmt.Errorf("is not a URL of http or https with a host; want one such as https://hooks.example.org/quotad")
	case u.User != nil || u.Fragment != "":
		return fmt.Errorf("has a user or a fragment; leave them out: what is sent is signed with --webhook-key")
	}
	return nil
}

// setOTLP wants host:port, or a URL of which only scheme, host and port count.
func setOTLP(field *string, s string) error {
	*field = s
	u, err := url.Parse(s)
	if err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Port() != "" && u.User == nil && u.Path == "" {
		return nil
	}
	if host, port, err := net.SplitHostPort(s); err == nil && host != "" && !strings.ContainsAny(host, "@/") {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			return nil
		}
	}
	// Without the value: somebody may have put a password into it.
	return fmt.Errorf("is not where a collector listens for OTLP over gRPC; want http://127.0.0.1:4317 (in the clear) or https://HOST:PORT")
}

func setZone(field *string, s string) error {
	if s == "" {
		return fmt.Errorf("is empty; want a name such as Europe/Berlin, or UTC")
	}
	_, err := window.LoadZone(s)
	*field = s
	return err
}

func oneOf(words ...string) func(*string, string) error {
	return func(field *string, s string) error {
		*field = s
		if !slices.Contains(words, s) {
			return fmt.Errorf("%q is unknown; want one of %s", s, strings.Join(words, ", "))
		}
		return nil
	}
}

func unlessEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func levelName(l slog.Level) string { return strings.ToLower(l.String()) }
