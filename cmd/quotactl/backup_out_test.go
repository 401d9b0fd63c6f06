package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestBackupOut: a backup on standard output is a backup, and nothing else is there.
func TestBackupOut(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	if _, errs, code := ctl(t, l.server, "acquire", "portfolio"); code != 0 {
		t.Fatal(errs)
	}
	world := func(out, errs *bytes.Buffer, terminal bool) env {
		return env{
			stdin: strings.NewReader(""), stdout: out, stderr: errs, now: time.Now,
			getenv: func(string) string { return "" }, isTerminal: func(int) bool { return terminal },
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"backup", "-", "--server", l.server}, world(&out, &errs, false)); code != exitOK {
		t.Fatalf("exit %d: %s", code, &errs)
	}
	if want := `^quotactl: .* KiB, 1 count, sha256 [0-9a-f]{64}; verified\n$`; !regexp.MustCompile(want).MatchString(errs.String()) {
		t.Errorf("it says %q, want %s", &errs, want)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, errs, code := ask(t, "verify", path); code != exitOK || !strings.Contains(said, ": sound") {
		t.Errorf("exit %d: %s%s", code, said, errs)
	}
	out.Reset()
	errs.Reset()
	code := run(t.Context(), []string{"backup", "-", "--server", l.server}, world(&out, &errs, true))
	if code != exitUsage || out.Len() > 0 || !strings.Contains(errs.String(), "terminal") {
		t.Errorf("to a terminal: exit %d, %d bytes, %s", code, out.Len(), &errs)
	}
}
