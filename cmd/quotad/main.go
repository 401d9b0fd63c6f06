// Command quotad keeps counts of what applications use, and refuses what is over the limit.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	_ "time/tzdata" // zones are the same on every machine, and there on images that have nothing but this program

	"github.com/quotad/quotad/internal/config"
)

// What the process exits with.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2  // a flag, a setting or the buckets file is wrong
	exitDisk  = 74 // the disk failed or the data file was replaced: only a restart can read the truth (EX_IOERR)
)

// collectAt is how much garbage may pile up, in per cent of what lives, before it is collected. A daemon that keeps its counts on
// the disk has little alive, so that Go's 100 collects all the time under load: a fifth of a profile was allocation and collection.
// docs/performance.md has what 400 brought. GOGC in the environment has the last word.
const collectAt = 400

func main() {
	// A core would hold the keys of TLS and of the webhook. Where it cannot be forbidden the unit's LimitCORE is what is left.
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
}

// run is the whole program as a function of its inputs. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, env func(string) string) int {
	c, err := config.Parse(args, env)
	if err != nil {
		complain(stderr, err)
		fmt.Fprintln(stderr, "quotad: quotad --help lists the flags")
		return exitUsage
	}
	switch {
	case c.Help:
		fmt.Fprint(stdout, config.Usage)
		return exitOK
	case c.Version:
		fmt.Fprintln(stdout, readBuild())
		return exitOK
	case c.Print:
		fmt.Fprint(stdout, c)
		return exitOK
	}
	d := newDaemon(c, stdout, stderr, env)
	if err := d.run(ctx); err != nil {
		complain(stderr, err)
		if code, ok := errors.AsType[exitCode](err); ok {
			return code.code
		}
		return exitError
	}
	return exitOK
}

// exitCode is an error that the process exits with a code of its own for.
type exitCode struct {
	code int
	err  error
}

func (e exitCode) Error() string { return e.err.Error() }
func (e exitCode) Unwrap() error { return e.err }

// complain prints an error for people, each of its lines as it is: the caret below a line of a file has to stay there.
func complain(stderr io.Writer, err error) {
	for i, line := range strings.Split(err.Error(), "\n") {
		if i == 0 || !strings.HasPrefix(line, " ") {
			line = "quotad: " + line
		}
		fmt.Fprintln(stderr, line)
	}
}
