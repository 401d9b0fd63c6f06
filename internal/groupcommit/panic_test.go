package groupcommit_test

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/quotad/quotad/internal/groupcommit"
)

// A panic of commit ends the process, whoever runs it: after it nobody knows what was written, and no caller may be told
// anything.
func TestPanicEndsTheProcess(t *testing.T) {
	const inside = "GROUPCOMMIT_TEST_PANIC"
	if who := os.Getenv(inside); who != "" {
		panicking(t, who == "crowd")
		return
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for who, want := range map[string]string{"alone": "panic: groupcommit: writing panicked: torn page", "crowd": "panic: torn page"} {
		cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestPanicEndsTheProcess$")
		cmd.Env = append(os.Environ(), inside+"="+who)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "Do returned") {
			t.Errorf("%s: ended with %v and said:\n%s", who, err, out)
		}
	}
}

// panicking has commit panic: for a lone caller, or for one that had to wait for another's write.
func panicking(t *testing.T, crowd bool) {
	t.Helper()
	began, goOn := make(chan struct{}), make(chan struct{})
	c := groupcommit.New(8, 8, func(ops []int, _ []groupcommit.Result[int]) error {
		if crowd && ops[0] == 1 {
			close(began)
			<-goOn
			return nil
		}
		panic("torn page")
	})
	defer func() { _ = recover() }() // the caller cannot catch it
	if crowd {
		go func() { _, _ = c.Do(t.Context(), 1) }()
		<-began
		go func() {
			for c.Len() == 0 {
				runtime.Gosched()
			}
			close(goOn)
		}()
	}
	_, err := c.Do(t.Context(), 2)
	t.Fatalf("Do returned: %v", err)
}
