package server

import (
	"os"
	"os/exec"
	"testing"
)

// again returns a command that runs some tests of this very binary in a process of their own. It has it as its descriptor 3, and the
// commands' own files after that: where the binary lies not every user may go.
func again(t *testing.T, run string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Skipf("there is no /proc here: %v", err)
	}
	t.Cleanup(func() { _ = self.Close() })
	child := exec.CommandContext(t.Context(), "/proc/self/fd/3", "-test.run="+run, "-test.count=1")
	child.ExtraFiles = []*os.File{self}
	child.Dir = "/"
	child.Env = append(os.Environ(), append(env, "HOME=/", "TMPDIR=/tmp", "GOCOVERDIR=")...)
	return child
}

// openDir returns a directory of the test's own, which every user may go into.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "quotad-server-test-") //nolint:usetesting // that of t has a parent which is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
