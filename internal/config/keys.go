package config

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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
		name: "admin-listen", def: []string{"127.0.0.1:7071"},
		set:   setAdmin,
		get:   func(c *Config) []string { return []string{c.Admin.String()} },
		clear: keep,
	},
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

func setAdmin(c *Config, s string) (err error) {
	c.Admin = Address{}
	if s == offWord {
		return nil
	}
	if c.Admin, err = ParseAddress(s); err != nil {
		return fmt.Errorf("%w; or off for none", err)
	}
	return nil
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
