package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
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

func (n *amount) String() string { return "" } // no default to be shown: what is left out is not 0
func (n *amount) Type() string   { return "N" }

// register makes the flags of an acquire.
func (f *chargeFlags) register(a *app, cmd *cobra.Command) {
	f.registerAmounts(cmd, "take `N` of it (default the bucket's estimate, else 1)", "[,ceiling=N][,window=WINDOW]")
	f.registerCeilings(a, cmd)
}

// registerAmounts makes the flags that name amounts: what is said of --amount, and what a --charge may have besides a bucket.
func (f *chargeFlags) registerAmounts(cmd *cobra.Command, amount, more string) {
	flags := cmd.Flags()
	flags.Var(&f.amount, "amount", amount)
	flags.StringVar(&f.unit, "unit", "calls", "the `UNIT` that is counted, such as calls or input_tokens")
	flags.StringArrayVar(&f.charges, "charge", nil, "a `CHARGE`, UNIT[=AMOUNT][,bucket=BUCKET]"+more+"; may be repeated")
}

func (f *chargeFlags) registerCeilings(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(&f.ceiling, "ceiling", "take only if used and held stay at or below `N`, though the limit may be higher (default none)")
	flags.StringVar(&f.ceilingWindow, "ceiling-window", "", "the `WINDOW` whose count the ceiling binds (default every limited one)")
	a.completeWindow(cmd, "ceiling-window")
}

// build returns the charges that the flags and the operands ask for; none if there are no such flags.
func (f *chargeFlags) build(cmd *cobra.Command, operands ...string) ([]*quotadv1.Charge, error) {
	short := slices.DeleteFunc([]string{"amount", "unit", "ceiling", "ceiling-window"}, func(name string) bool {
		return !cmd.Flags().Changed(name)
	})
	many := slices.Concat(operands, f.charges)
	switch {
	case len(many) > 0 && len(short) > 0:
		return nil, usagef(cmd, "--%s does not go with a charge that says it all, %s; give one or the other", short[0], many[0])
	case len(many) > 0:
		charges := make([]*quotadv1.Charge, len(many))
		for i, text := range many {
			c, err := parseCharge(text)
			if err != nil {
				return nil, usagef(cmd, "charge %q: %w", text, err)
			}
			charges[i] = c
		}
		return charges, nil
	case len(short) == 0:
		return nil, nil
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
// have commas in their names. The amount may be left out, with its "=": that is for quotad to know.
func parseCharge(text string) (*quotadv1.Charge, error) {
	parts := strings.Split(text, ",")
	unit, amount, named := strings.Cut(parts[0], "=")
	if quota.Unit(unit).Check() != nil {
		return nil, fmt.Errorf("want UNIT=AMOUNT first, such as calls=1 or input_tokens=1200, or UNIT alone")
	}
	c := &quotadv1.Charge{Unit: unit}
	if named {
		n, err := parseAmount(amount)
		if err != nil {
			return nil, fmt.Errorf("amount: %w", err)
		}
		c.Amount = &n
	}
	var err error
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
			return nil, fmt.Errorf("%q is unknown; after UNIT=AMOUNT, in the same word, come bucket=, ceiling= and window=", part)
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
