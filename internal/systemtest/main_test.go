package systemtest_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// hastyRole makes this test binary serve as the control of the crash tests: see serveHasty.
const hastyRole = "SYSTEMTEST_HASTY"

// built is where TestMain puts the daemon. A test binary may not have package variables that change, so its place is told by
// an environment variable.
const built = "SYSTEMTEST_QUOTAD"

func TestMain(m *testing.M) {
	for role, serve := range map[string]func([]string) error{hastyRole: serveHasty, appRole: serveApp} {
		if os.Getenv(role) == "" {
			continue
		}
		if err := serve(os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

// buildAndRun builds the daemon once for all tests.
func buildAndRun(m *testing.M) (code int, err error) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "quotad-systemtest-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "quotad")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/quotad/quotad/cmd/quotad")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building quotad: %w\n%s", err, out)
	}
	if err := os.Setenv(built, binary); err != nil {
		return 1, err
	}
	if err := moreAtOnce(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// moreAtOnce has twice as many tests run at a time as there are processors, if nobody said how many: they wait for disks and for
// processes to begin and end more than they compute.
func moreAtOnce() error {
	const name = "test.parallel"
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == name })
	if said {
		return nil
	}
	return flag.Set(name, strconv.Itoa(2*runtime.GOMAXPROCS(0)))
}

// long reports whether the suites that take minutes are asked for.
func long() bool { return os.Getenv("QUOTAD_LONG") != "" }

// portion is how much of a suite to run: a part under the race detector, more where it was asked for.
func portion(fast, race, longer int) int {
	switch {
	case long():
		return longer
	case underRace:
		return race
	}
	return fast
}

// seeded returns a source of chance, and says how to have the same again.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("QUOTAD_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("QUOTAD_SEED: %v", err)
		}
	}
	t.Logf("QUOTAD_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
