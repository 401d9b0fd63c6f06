// Package config makes one checked struct of flags, environment and file. Nothing is guessed: a key that is not known, a value
// that cannot be, or a flag given twice is an error that says where it stands and what would be right.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/strictyaml"
)

// Config is all that can be set about the daemon, checked. Every value stands once among flags, environment, file and defaults,
// in this order of precedence; Origin tells where.
type Config struct {
	Data         string         // the directory that keeps the ledger; "" means memory, which only Dev allows
	Create       bool           // make the data file if there is none
	Listen       []Address      // for gRPC; at least one
	Control      []Address      // for gRPC, inspecting and administration included; none means that Listen has those too
	Probe        Address        // for gRPC health alone, in the clear; the zero value means off
	Admin        Address        // for metrics and probes over HTTP; the zero value means off
	AdminRemote  bool           // let Admin be reached from other machines
	SocketMode   fs.FileMode    // of the unix sockets among Listen, 0600 or 0660 or 0666; those of Control and Admin have 0600
	SocketGroup  string         // the group of the unix sockets among Listen, by name or number; "" means the process's own
	TLSCert      string         // the certificate for TCP addresses, a PEM file; "" means in the clear
	TLSKey       string         // its key
	TLSClientCA  string         // whose certificates clients show; "" means that none are asked for
	TLSClients   string         // "require" or "optional"
	Policy       string         // the policy file; "" means that everybody who reaches the daemon may do everything
	Tokens       string         // the tokens file; "" means that there are none
	Webhook      string         // where events are sent; "" means nowhere
	WebhookKey   string         // the file with the key that signs them
	OTLP         string         // where traces are sent, host:port or http(s)://host:port; "" means nowhere
	Buckets      string         // the buckets file; "" means none
	File         string         // the configuration file; "" means none
	Dev          bool           // try it out: memory instead of a file where Data is ""
	Defaults     quota.Defaults // for what is not declared
	Retain       time.Duration  // how long counts of days and longer are kept after they end
	MaxSize      int64          // the most that the data file may grow to, in bytes
	AcceptClock  bool           // take the clock as it is, once
	LogFormat    string         // "auto", "text" or "json"
	LogLevel     slog.Level     // the least that is logged
	DrainTimeout time.Duration  // how long calls may take to end when the daemon stops
	AddrFile     string         // where to write the addresses that were bound; "" means nowhere
	Print        bool           // print the configuration and leave
	Version      bool           // print the version and leave
	Help         bool           // print the usage and leave

	origins map[string]string
}

// FileBytesMax is how large a configuration file may be.
const FileBytesMax = 1 << 20

// MaxSizeMin is the least that max-size may be, in bytes.
const MaxSizeMin = 1 << 20

// Bounds of durations.
const (
	retainMin = 2 * 24 * time.Hour
	retainMax = 100 * 366 * 24 * time.Hour
	drainMax  = time.Hour
)

// Parse reads args (without the program's name), the environment, and the file that one of them names. Where Help or Version is
// set nothing else has been looked at. The error may be of several lines.
func Parse(args []string, env func(string) string) (*Config, error) {
	given, err := parseFlags(args)
	if err != nil {
		return nil, err
	}
	c := &Config{origins: make(map[string]string)}
	for _, k := range keys {
		for _, value := range k.def {
			if err := k.set(c, value); err != nil {
				return nil, fmt.Errorf("default of %s: %w", k.name, err)
			}
		}
		c.origins[k.name] = "default"
	}
	for _, name := range []string{"help", "version"} {
		if given.has(name) {
			return c, apply(c, given.only(name))
		}
	}
	environment := parseEnvironment(env)
	// The file is named by one of the other two, so those are looked at first and applied last.
	path := append(environment.only("config"), given.only("config")...)
	if err := apply(c, path); err != nil {
		return nil, err
	}
	if c.File != "" {
		if err := c.readFile(); err != nil {
			return nil, err
		}
	}
	if err := apply(c, environment); err != nil {
		return nil, err
	}
	if err := apply(c, given); err != nil {
		return nil, err
	}
	return c, c.check()
}

// Origin tells where the value of a key comes from: "--zone", "QUOTAD_ZONE", "quotad.yaml:3" or "default".
func (c *Config) Origin(key string) string { return c.origins[key] }

// check looks at what no value can tell alone.
func (c *Config) check() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case c.Data == "" && !c.Dev && !c.Print:
		add("no --data: want the directory that keeps the ledger, such as quotad --data /var/lib/quotad --create; or --dev, to try quotad out in memory")
	case c.Data == "" && c.Create:
		add("--create without --data: there is nothing to create; want --data DIR --create")
	}
	if len(c.Listen) == 0 {
		add("no address to listen on: want at least one, such as 127.0.0.1:7070")
	}
	errs = append(errs, c.checkAddresses()...)
	errs = append(errs, c.checkFiles()...)
	return errors.Join(errs...)
}

// checkAddresses looks for addresses that are given twice, and for those that may not be reached by everybody who reaches them.
func (c *Config) checkAddresses() (errs []error) {
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	seen := map[Address]string{}
	look := func(key string, a Address) {
		switch before := seen[a]; {
		case a.Network == "" || a.anyPort():
		case before == key:
			add("%s is to be listened on twice: keep one", a)
		case before != "":
			add("%s is given for %s and for %s: want two different addresses", a, before, key)
		default:
			seen[a] = key
		}
	}
	for _, a := range c.Listen {
		look("listen", a)
	}
	for _, a := range c.Control {
		look("control-listen", a)
	}
	look("admin-listen", c.Admin)
	look("probe-listen", c.Probe)
	for _, a := range append(slices.Clone(c.Listen), c.Control...) {
		if a.Remote() && (c.TLSCert == "" || c.Policy == "") {
			errs = append(errs, NotLocal(a.Addr))
		}
	}
	if c.Admin.Remote() && !c.AdminRemote {
		add("admin-listen: %q can be reached from other machines: want --admin-remote, if they may read metrics and probes in the clear, or 127.0.0.1", c.Admin.Addr)
	}
	if c.SocketGroup != "" && c.SocketMode == 0o600 {
		add("--socket-group %s without --socket-mode 0660: the group could not use the socket; want both or neither", c.SocketGroup)
	}
	return errs
}

// checkFiles looks for files that are of no use without each other.
func (c *Config) checkFiles() (errs []error) {
	both := func(name, value, other, otherValue, why string) {
		if value != "" && otherValue == "" {
			errs = append(errs, fmt.Errorf("--%s without --%s: %s", name, other, why))
		}
	}
	both("tls-cert", c.TLSCert, "tls-key", c.TLSKey, "a certificate is of no use without its key; want both")
	both("tls-key", c.TLSKey, "tls-cert", c.TLSCert, "a key is of no use without its certificate; want both")
	both("tls-client-ca", c.TLSClientCA, "tls-cert", c.TLSCert, "clients show certificates only over TLS; want --tls-cert and --tls-key too")
	both("tokens", c.Tokens, "policy", c.Policy, "a token says who calls, and a policy what they may do; want both")
	both("webhook", c.Webhook, "webhook-key", c.WebhookKey, "events are signed, so that their receiver can tell them from forgeries; want the file of the key")
	both("webhook-key", c.WebhookKey, "webhook", c.Webhook, "there is nothing to sign; want the URL that events are sent to")
	if c.TLSClientCA == "" && c.Origin("tls-clients") != "default" {
		errs = append(errs, fmt.Errorf("--tls-clients %s without --tls-client-ca: no certificates are asked for; want the CA, or leave it out", c.TLSClients))
	}
	return errs
}

func (a Address) anyPort() bool { return a.Network == "tcp" && strings.HasSuffix(a.Addr, ":0") }

// readFile applies the configuration file.
func (c *Config) readFile() error {
	src, err := readFile(c.File, FileBytesMax)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	return c.applyFile(c.File, src)
}

// applyFile applies a configuration file's content, or tells all that is wrong with it.
func (c *Config) applyFile(name string, src []byte) error {
	f, entries := parseFile(name, src)
	for _, e := range entries {
		k := find(e.Key)
		switch {
		case k == nil:
			f.Fault(e.At, "unknown key %q%s", e.Key, orList(e.Key, fileKeys(), strconv.Quote))
			continue
		case k.where != anywhere:
			f.Fault(e.At, "%s is for one start and not for a file; give it as --%s", k.name, k.name)
			continue
		}
		c.origins[k.name] = fmt.Sprintf("%s:%d", name, e.At.Line)
		c.applyEntry(f, k, e)
	}
	return masked(f.Err())
}

func (c *Config) applyEntry(f file, k *key, e strictyaml.Entry) {
	k.clear(c)
	nodes := []strictyaml.Node{e.Value}
	if k.list && e.Value.Kind == strictyaml.List {
		nodes = e.Value.Items()
	}
	for _, n := range nodes {
		text, ok := f.Scalar(e, n)
		if !ok {
			continue
		}
		if err := k.set(c, text); err != nil {
			f.Fault(n.At, "%s: %v", k.name, err)
		}
	}
}

// String returns the configuration as a file, with the origin of each value.
func (c *Config) String() string {
	var s strings.Builder
	for _, k := range keys {
		if k.where == flagOnly {
			continue
		}
		values := k.get(c)
		for i, v := range values {
			values[i] = printed(v)
		}
		value := strings.Join(values, ", ")
		if k.secret && value != "" {
			fmt.Fprintf(&s, "# %s: (set, and not shown) # %s\n", k.name, c.origins[k.name])
			continue
		}
		if k.list {
			value = "[" + value + "]"
		}
		if len(values) == 0 {
			value = "(not set)"
		}
		if k.where != anywhere || len(values) == 0 {
			s.WriteString("# ")
		}
		fmt.Fprintf(&s, "%s: %s # %s\n", k.name, value, c.origins[k.name])
	}
	return s.String()
}

// printed returns a value as it can stand in our file, where words and numbers are text and need no quotes.
func printed(s string) string {
	for i := range len(s) {
		c := s[i]
		plain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '/'
		if !plain && (i == 0 || i+1 == len(s) || strings.IndexByte("._:+-", c) < 0) {
			return quoteYAML(s)
		}
	}
	return s
}
