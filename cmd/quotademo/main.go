// Command quotademo plays one day of the Django app that quotad began in, against a real daemon on a fresh file: two apps
// share a budget of 50 calls, ask hundreds of times at once, and the daemon is killed in the middle, while two long calls hold
// what they may cost. It says which promises were kept, and fails if one was not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err != nil && interrupted: // what else went wrong follows from it
		fmt.Fprintln(os.Stderr, "quotademo: interrupted")
		os.Exit(1)
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "quotademo:", err)
		os.Exit(1)
	}
}

// errUsage is an error in the command line, which has been told already.
var errUsage = errors.New("usage")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("quotademo", flag.ContinueOnError)
	fs.SetOutput(stderr)
	quotad := fs.String("quotad", "", "the daemon's `binary`; built from ./cmd/quotad if absent")
	play := fs.String("play", "", "be the `app` of this name (what the demo starts itself with)")
	server := fs.String("server", "", "`address` of the daemon, for --play")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if *play != "" {
		return playApp(ctx, *play, *server, stdout)
	}
	return demo(ctx, *quotad, stdout)
}
