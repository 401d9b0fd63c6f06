package config

import (
	"errors"
	"fmt"
	"strings"
)

// setting is what one source says about a key.
type setting struct {
	key    *key
	values []string
	origin string // "--zone" or "QUOTAD_ZONE"
}

type settings []setting

func (ss settings) has(name string) bool { return len(ss.only(name)) > 0 }

func (ss settings) only(name string) settings {
	for _, s := range ss {
		if s.key.name == name {
			return settings{s}
		}
	}
	return nil
}

// apply sets what a source says, or tells all that is wrong with it.
func apply(c *Config, ss settings) error {
	var errs []error
	for _, s := range ss {
		s.key.clear(c)
		c.origins[s.key.name] = s.origin
		for _, value := range s.values {
			if err := s.key.set(c, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.origin, err))
			}
		}
	}
	return errors.Join(errs...)
}

// parseFlags splits up a command line. Values are not looked at yet.
func parseFlags(args []string) (settings, error) {
	var ss settings
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "-h" {
			arg = "--help"
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !strings.HasPrefix(arg, "--") || name == "" {
			return nil, unexpected(arg)
		}
		k := find(name)
		if k == nil {
			return nil, fmt.Errorf("unknown flag --%s%s", name, didYouMean(name, flagNames(), func(s string) string { return "--" + s }))
		}
		switch {
		case hasValue:
		case k.toggle:
			value = "true"
		case i+1 == len(args) || strings.HasPrefix(args[i+1], "--"):
			return nil, fmt.Errorf("--%s needs a value", name)
		default:
			i++
			value = args[i]
		}
		if earlier := ss.only(name); earlier == nil {
			ss = append(ss, setting{key: k, values: []string{value}, origin: "--" + name})
		} else if k.unsaid {
			return nil, fmt.Errorf("--%s is given twice; keep one", name)
		} else if !k.list {
			return nil, fmt.Errorf("--%s is given twice: %s and %s; keep one", name, earlier[0].values[0], value)
		} else {
			ss.append(name, value)
		}
	}
	return ss, nil
}

func (ss settings) append(name, value string) {
	for i := range ss {
		if ss[i].key.name == name {
			ss[i].values = append(ss[i].values, value)
		}
	}
}

func unexpected(arg string) error {
	if strings.HasPrefix(arg, "-") && find(strings.TrimLeft(arg, "-")) != nil {
		return fmt.Errorf("unexpected %q; did you mean --%s?", arg, strings.TrimLeft(arg, "-"))
	}
	return fmt.Errorf("unexpected %q; quotad takes flags only, such as --data DIR", arg)
}

func flagNames() []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return names
}

// parseEnvironment returns what the environment says. An empty variable is one that is not set.
func parseEnvironment(env func(string) string) settings {
	var ss settings
	for _, k := range keys {
		if k.where == flagOnly {
			continue
		}
		name := EnvName(k.name)
		value := env(name)
		if value == "" {
			continue
		}
		s := setting{key: k, values: []string{value}, origin: name}
		if k.list {
			s.values = nil
			for part := range strings.SplitSeq(value, separator) {
				s.values = append(s.values, strings.TrimSpace(part))
			}
		}
		ss = append(ss, s)
	}
	return ss
}
