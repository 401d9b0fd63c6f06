package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// verdict is what a check found.
type verdict string

const (
	wellV verdict = "ok"
	warnV verdict = "warn" // works, and somebody should look at it
	failV verdict = "FAIL" // does not work, or not for long
	skipV verdict = "skip" // could not be looked at
)

// finding is one line of what the doctor says.
type finding struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Found   string  `json:"found"`
	Advice  string  `json:"advice,omitempty"` // what to do; "" where all is well
}

// doctor looks a deployment over.
type doctor struct {
	a        *app
	o        doctorOptions
	findings []finding
	seesAll  bool // whether its caller may inspect every bucket; lists leave out what they may not
}

// doctorOptions is what the doctor is told about the deployment; "" leaves out what it is about.
type doctorOptions struct {
	data    string // the daemon's data directory, where it is on this machine
	buckets string // the buckets file that should be in force
	policy  string // the policy that should be
	tokens  string
	deep    bool // read every record of a fresh backup
}

func (d *doctor) say(check string, v verdict, found, advice string) {
	d.findings = append(d.findings, finding{check, v, found, advice})
}

func (d *doctor) well(check, format string, args ...any) {
	d.say(check, wellV, fmt.Sprintf(format, args...), "")
}

func (a *app) doctorCommand() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "check a deployment, and say what to do about what is wrong",
		Long: `Checks a deployment from where it is run: whether quotad can be reached and serves, who it takes you for, its clock against this
one, its file, and with the flags below its disk, and whether the files that you keep are those in force. It changes nothing.
It exits with 1 if a check fails; what only deserves a look is a warning.`,
		Example: `  quotactl doctor
  quotactl doctor --data /var/lib/quotad --buckets /etc/quotad/buckets.yaml --policy /etc/quotad/policy.yaml
  quotactl doctor --deep --timeout 1m`,
		Args: operands(),
	}
	cmd.Flags().StringVar(&o.data, "data", "", "the daemon's data `DIR`, to look at its disk and its modes")
	cmd.Flags().StringVar(&o.buckets, "buckets", "", "compare what is declared with this buckets `FILE`")
	cmd.Flags().StringVar(&o.policy, "policy", "", "compare the policy in force with this `FILE`")
	cmd.Flags().StringVar(&o.tokens, "tokens", "", "the tokens `FILE` that belongs to the policy")
	cmd.Flags().BoolVar(&o.deep, "deep", false, "make a backup, and check every record of it and the audit trail")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.tokens != "" && o.policy == "" {
			return usagef(cmd, "--tokens without --policy: a token says who calls, and a policy what they may do; want both")
		}
		d := &doctor{a: a, o: o}
		d.run(cmd.Context())
		return d.report()
	}
	return cmd
}

// run looks at one thing after the other. What cannot be looked at without a daemon is left out if there is none.
func (d *doctor) run(ctx context.Context) {
	if d.reach(ctx) {
		d.identity(ctx)
		if status := d.status(ctx); status != nil {
			d.clock(status)
			d.file(status)
			d.problems(status)
		}
		if d.o.buckets != "" {
			d.bucketsDrift(ctx)
		}
		if d.o.policy != "" {
			d.policyDrift(ctx)
		}
		if d.o.deep {
			d.records(ctx)
		}
	}
	if d.o.data != "" {
		d.disk()
	}
}

// report prints what was found, and is an error if something fails.
func (d *doctor) report() error {
	failed := 0
	for _, f := range d.findings {
		if f.Verdict == failV {
			failed++
		}
	}
	if err := d.a.emitOwn(d.findings, d.show); err != nil {
		return err
	}
	if failed > 0 {
		return &hinted{err: fmt.Errorf("%s of %d failed", count(failed, "check"), len(d.findings)), hint: "what to do stands below each"}
	}
	return nil
}

func (d *doctor) show(w io.Writer) {
	width := 0
	for _, f := range d.findings {
		width = max(width, len(f.Check))
	}
	styles := map[verdict]style{wellV: green, warnV: yellow, failV: red, skipV: dim}
	for _, f := range d.findings {
		fmt.Fprintf(w, "%s  %-*s  %s\n", d.a.paint(1, styles[f.Verdict], fmt.Sprintf("%-4s", f.Verdict)), width, f.Check, f.Found)
		if f.Advice != "" {
			fmt.Fprintf(w, "%s-> %s\n", strings.Repeat(" ", width+8), f.Advice)
		}
	}
}
