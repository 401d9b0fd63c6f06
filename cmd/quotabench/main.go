// Command quotabench measures quotad over real sockets. It is a closed-loop load generator: each of its callers waits for an
// answer before it asks again. "quotabench suite" runs it against a fresh quotad and against an echo server in turn, and
// prints what quotad costs on top of gRPC and the disk.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `Usage:
  quotabench [flags]               load a running server
  quotabench --serve-echo ADDR     serve the echo method until stopped
  quotabench suite [flags]         start a quotad and an echo server, compare them, print a table
  quotabench secured [flags]       compare a quotad with mTLS, policy, metrics and events to a plain one

Flags:
`

// errUsage is an error in the command line, which has been told already.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err != nil && interrupted: // what else went wrong follows from it
		fmt.Fprintln(os.Stderr, "quotabench: interrupted")
		os.Exit(1)
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "quotabench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "suite" {
		o, err := parseSuite(args[1:], stderr)
		if err != nil {
			return err
		}
		return runSuite(ctx, o, stdout, stderr)
	}
	if len(args) > 0 && args[0] == "secured" {
		o, err := parseSuite(args[1:], stderr)
		if err != nil {
			return err
		}
		return runSecured(ctx, o, stdout, stderr)
	}
	o, err := parseLoad(args, stderr)
	switch {
	case err != nil:
		return err
	case o.serveEcho != "":
		return serveEcho(ctx, o.serveEcho, stdout)
	}
	if o.load.Target != targetEcho && !o.noSetup {
		if err := declareBy(ctx, o.load.Server, o.load.TLS); err != nil {
			return err
		}
	}
	f, err := o.load.run(ctx)
	if err != nil {
		return err
	}
	return f.write(stdout, o.output)
}

// options are those of a single load.
type options struct {
	load      load
	serveEcho string
	noSetup   bool
	output    string
}

func parseLoad(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := newFlags("quotabench", stderr)
	fs.StringVar(&o.load.Server, "server", "127.0.0.1:7070", "`address` of the server; unix:///path too")
	fs.StringVar(&o.load.Target, "target", targetAcquire, "what to call: acquire; pairs, each an acquire with hold and its settlement; or echo, which a quotabench --serve-echo answers")
	fs.IntVar(&o.load.Connections, "connections", 1, "connections that the callers share")
	fs.IntVar(&o.load.InFlight, "inflight", 64, "callers, each with one call at a time")
	fs.IntVar(&o.load.Keys, "keys", 1, "buckets to charge, from bench/0000000 on; 1 is the hot bucket")
	fs.Float64Var(&o.load.Zipf, "zipf", 0, "exponent of a Zipf distribution over the buckets, above 1; 0 means uniform")
	fs.BoolVar(&o.load.IDs, "ids", false, "send a request_id (UUIDv7) with each call, for which a receipt is kept")
	fs.DurationVar(&o.load.Duration, "duration", 5*time.Second, "how long to measure")
	fs.DurationVar(&o.load.Warmup, "warmup", time.Second, "how long to call before that")
	fs.Uint64Var(&o.load.Seed, "seed", 1, "of the sequence of buckets")
	fs.StringVar(&o.load.TLS, "tls", "", "`directory` with ca.pem, client.pem and client-key.pem, for mTLS")
	fs.BoolVar(&o.noSetup, "no-setup", false, "do not declare bench/* with a limit out of reach first")
	fs.StringVar(&o.output, "o", "table", "output: table or json")
	fs.StringVar(&o.serveEcho, "serve-echo", "", "serve the echo method on this `address` instead of calling anything")
	if err := parse(fs, args); err != nil {
		return o, err
	}
	if err := o.check(); err != nil {
		fmt.Fprintln(stderr, "quotabench:", err)
		return o, errUsage
	}
	return o, nil
}

func (o options) check() error {
	if o.output != "table" && o.output != "json" {
		return fmt.Errorf("-o %q is unknown; want table or json", o.output)
	}
	return o.load.check()
}

func newFlags(name string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage)
		fs.PrintDefaults()
	}
	return fs
}

func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(fs.Output(), "%s: %q is not a flag\n", fs.Name(), fs.Arg(0))
		return errUsage
	}
	return nil
}

// write prints the figures of one load.
func (f figures) write(w io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(f)
	}
	fmt.Fprintf(w, "target   %s, %d in flight on %d connections, %d keys, %s, %.1f s\n",
		f.Target, f.InFlight, f.Connections, f.Keys, f.shape(), f.Seconds)
	what := "calls"
	if f.Target == targetPairs {
		what = "pairs"
	}
	fmt.Fprintf(w, "rate     %.0f %s/s\n", f.RPS, what)
	fmt.Fprintf(w, "latency  p50 %.0f us, p90 %.0f us, p99 %.0f us, p99.9 %.0f us\n", f.P50, f.P90, f.P99, f.P999)
	fmt.Fprintf(w, "errors   %d\ndenials  %d\n", f.Errors, f.Denials)
	if f.FirstError != "" {
		fmt.Fprintf(w, "first    %s\n", f.FirstError)
	}
	return nil
}

func (f figures) shape() string {
	s := "uniform"
	if f.Zipf > 0 {
		s = fmt.Sprintf("zipf %g", f.Zipf)
	}
	if f.IDs {
		s += ", with ids"
	}
	return s
}
