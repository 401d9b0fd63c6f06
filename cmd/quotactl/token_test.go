package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/quotad/quotad/internal/auth"
)

// TestTokenWaitsForItsTurn: while another process changes the file nothing is done, and then it is.
func TestTokenWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	other := flock.New(path + ".lock")
	if ok, err := other.TryLock(); err != nil || !ok {
		t.Fatal(err)
	}
	out, errs, code := ask(t, "token", "create", "ci", "--file", path, "--timeout", "30ms")
	if want := "another process has changed " + path + " for 30ms, and nothing was done"; code != exitError || out != "" || !strings.Contains(errs, want) {
		t.Errorf("exit %d, %q, %q; want %q", code, out, errs, want)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it was done all the same")
	}
	waited := make(chan int)
	go func() {
		_, _, code := ask(t, "token", "create", "ci", "--file", path, "--timeout", "20s")
		waited <- code
	}()
	if err := other.Unlock(); err != nil {
		t.Fatal(err)
	}
	if code := <-waited; code != exitOK {
		t.Errorf("after it had waited it exited with %d", code)
	}
	if tokens, err := auth.LoadTokens(path); err != nil || len(tokens) != 1 {
		t.Errorf("the file has %v, %v", tokens, err)
	}
}

// noRoom is a standard output that takes nothing.
type noRoom struct{}

func (noRoom) Write([]byte) (int, error) { return 0, errors.New("no room") }

// TestTokenThatNobodySaw: a token that could not be printed is said to be of no use, and is not printed elsewhere.
func TestTokenThatNobodySaw(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	for _, format := range []string{"table", "json", "yaml"} {
		var errs bytes.Buffer
		code := run(t.Context(), []string{"token", "create", "ci-" + format, "--file", path, "-o", format}, env{
			stdin: strings.NewReader(""), stdout: noRoom{}, stderr: &errs, now: time.Now,
			getenv: func(string) string { return "" }, isTerminal: func(int) bool { return false },
		})
		if code != exitError || !strings.Contains(errs.String(), "printing the token: no room") || !strings.Contains(errs.String(), "quotactl token revoke ci-"+format) {
			t.Errorf("%s: exit %d, %s", format, code, errs.String())
		}
		if strings.Contains(errs.String(), "quotad_") {
			t.Errorf("%s: the token is in %s", format, errs.String())
		}
	}
}

// TestFullTokensFile: one token more than there may be is refused, and would be refused by the daemon.
func TestFullTokensFile(t *testing.T) {
	t.Parallel()
	tokens := make(auth.Tokens)
	full := 0
	for i := range auth.TokensMax + 1 {
		if addToken(tokens, fmt.Sprintf("t%d", i), auth.Token{}, "tokens.yaml") != nil {
			full++
		}
	}
	if len(tokens) != auth.TokensMax || full != 1 {
		t.Errorf("%d tokens, %d refused", len(tokens), full)
	}
}
