package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/window"
)

// chargeFlags say what to take. Either the short ones make one charge, or each --charge makes one.
type chargeFlags struct {
	amount, ceiling     amount
	unit, ceilingWindow string
	charges             []string
}

// amount is the value of a flag: a whole number in decimal digits, which may have "_" between them.
type amount int64

func (n *amount) Set(s string) error {
	v, err := parseAmount(s)
	*n = amount(v)
	return err
}

func (n *amount) String() string { return strconv.FormatInt(int64(*n), 10) }
func (n *amount) Type() string   { return "N" }

func (f *chargeFlags) register(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	f.amount = 1
	flags.Var(&f.amount, "amount", "take `N` of it")
	flags.StringVar(&f.unit, "unit", "calls", "the `UNIT` that is counted, such as calls or input_tokens")
	flags.Var(&f.ceiling, "ceiling", "take only if used and held stay at or below `N`, though the limit may be higher (default none)")
	flags.StringVar(&f.ceilingWindow, "ceiling-window", "", "the `WINDOW` whose count the ceiling binds (default every limited one)")
	flags.StringArrayVar(&f.charges, "charge", nil,
		"a `CHARGE`, UNIT=AMOUNT[,bucket=BUCKET][,ceiling=N][,window=WINDOW]; may be repeated")
	a.completeWindow(cmd, "ceiling-window")
}

// build returns the charges that the flags ask for; none means one call.
func (f *chargeFlags) build(cmd *cobra.Command) ([]*quotadv1.Charge, error) {
	if len(f.charges) > 0 {
		for _, short := range []string{"amount", "unit", "ceiling", "ceiling-window"} {
			if cmd.Flags().Changed(short) {
				return nil, usagef(cmd, "--%s does not go with --charge, which says it all; give one or the other", short)
			}
		}
		charges := make([]*quotadv1.Charge, len(f.charges))
		for i, text := range f.charges {
			c, err := parseCharge(text)
			if err != nil {
				return nil, usagef(cmd, "--charge %q: %w", text, err)
			}
			charges[i] = c
		}
		return charges, nil
	}
	c := &quotadv1.Charge{}
	if cmd.Flags().Changed("unit") {
		c.Unit = f.unit
	}
	if cmd.Flags().Changed("amount") {
		c.Amount = (*int64)(&f.amount)
	}
	if cmd.Flags().Changed("ceiling") {
		c.Ceiling = (*int64)(&f.ceiling)
	}
	if f.ceilingWindow != "" {
		if c.Ceiling == nil {
			return nil, usagef(cmd, "--ceiling-window is given without --ceiling")
		}
		w, err := parseWindow(f.ceilingWindow)
		if err != nil {
			return nil, usagef(cmd, "--ceiling-window: %w", err)
		}
		c.CeilingWindow = w
	}
	return []*quotadv1.Charge{c}, nil
}

// parseCharge reads a charge such as "input_tokens=1200,bucket=acme/alice,ceiling=5000,window=day". Neither units nor buckets
// have commas in their names.
func parseCharge(text string) (*quotadv1.Charge, error) {
	parts := strings.Split(text, ",")
	unit, amount, ok := strings.Cut(parts[0], "=")
	if !ok || unit == "" {
		return nil, fmt.Errorf("want UNIT=AMOUNT first, such as calls=1 or input_tokens=1200")
	}
	n, err := parseAmount(amount)
	if err != nil {
		return nil, fmt.Errorf("amount: %w", err)
	}
	c := &quotadv1.Charge{Unit: unit, Amount: &n}
	seen := make(map[string]bool)
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(part, "=")
		if seen[key] {
			return nil, fmt.Errorf("%s is given twice", key)
		}
		seen[key] = true
		switch key {
		case "bucket":
			if c.Bucket = value; value == "" {
				return nil, fmt.Errorf("bucket: is empty; leave it out for the command's own")
			}
		case "ceiling":
			n, err := parseAmount(value)
			if err != nil {
				return nil, fmt.Errorf("ceiling: %w", err)
			}
			c.Ceiling = &n
		case "window":
			if c.CeilingWindow, err = parseWindow(value); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%q is unknown; after UNIT=AMOUNT come bucket=, ceiling= and window=", part)
		}
	}
	if c.CeilingWindow != 0 && c.Ceiling == nil {
		return nil, fmt.Errorf("window is that of a ceiling, and none is given")
	}
	return c, nil
}

// parseAmount reads a whole number, which may have "_" between digits as in a buckets file.
func parseAmount(s string) (int64, error) {
	digits := s
	if !strings.HasPrefix(s, "_") && !strings.HasSuffix(s, "_") && !strings.Contains(s, "__") {
		digits = strings.ReplaceAll(s, "_", "")
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%s is too large", s)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return n, nil
}

// parseWindow reads the name of a window; the empty name is none.
func parseWindow(name string) (quotadv1.Window, error) {
	if name == "" {
		return quotadv1.Window_WINDOW_UNSPECIFIED, nil
	}
	span, err := window.ParseSpan(name)
	return quotadv1.Window(span), err
}

// spanOf returns the span that a window on the wire is; zero if it is none that this version knows.
func spanOf(w quotadv1.Window) window.Span {
	for _, s := range window.Spans() {
		if quotadv1.Window(s) == w {
			return s
		}
	}
	return 0
}
