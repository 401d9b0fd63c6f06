package groupcommit_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/quotad/quotad/internal/groupcommit"
)

// A panic of commit ends the process: after it nobody knows what was written,
// and no caller may be told anything.
func TestPanicEndsTheProcess(t *testing.T) {
	const inside = "GROUPCOMMIT_TEST_PANIC"
	if os.Getenv(inside) != "" {
		c := groupcommit.New(8, 8, func([]int, []groupcommit.Result[int]) error { panic("torn page") })
		defer func() { _ = recover() }() // the caller cannot catch it
		_, err := c.Do(t.Context(), 1)
		t.Fatalf("Do returned: %v", err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestPanicEndsTheProcess$")
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "torn page") || strings.Contains(string(out), "Do returned") {
		t.Errorf("ended with %v and said:\n%s", err, out)
	}
}
