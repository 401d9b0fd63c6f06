package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts work a real daemon. The test binary stands in for quotactl as a process.
func TestMain(m *testing.M) {
	testscript.Main(withDaemon{m}, map[string]func(){"quotactl": main})
}

// withDaemon runs tests with a place for the daemon that some of them build.
type withDaemon struct{ m *testing.M }

func (w withDaemon) Run() int {
	dir, err := os.MkdirTemp("", "quotactl-test-*")
	if err == nil {
		err = os.Setenv(daemonDir, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a directory for temporary files
	return w.m.Run()
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, "ZONE="+noonZone(time.Now()), "QUOTAD_SERVER=unix://"+e.WorkDir+"/s.sock",
				"SOON="+time.Now().AddDate(0, 1, 0).Format(time.DateOnly)) // a day on which an override may begin
			e.Values[worldKey{}] = &world{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ctl": cmdQuotactl, "daemon": cmdDaemon, "halt": cmdHalt, "crash": cmdCrash, "answer": cmdAnswer, "damage": cmdDamage,
			"expired": cmdExpired, "waitfor": cmdWaitFor,
		},
	})
}

// noonZone returns a zone in which it is about noon, so that no script meets a midnight on its way.
func noonZone(now time.Time) string {
	east := 12 - now.UTC().Hour() // -11 to 12; the names of these zones count to the west
	switch {
	case east == 0:
		return "Etc/GMT+0"
	case east > 0:
		return fmt.Sprintf("Etc/GMT-%d", east)
	}
	return fmt.Sprintf("Etc/GMT+%d", -east)
}

func TestNoonZone(t *testing.T) {
	t.Parallel()
	for hour := range 24 {
		now := time.Date(2026, 11, 22, hour, 59, 59, 0, time.UTC)
		zone, err := time.LoadLocation(noonZone(now))
		if err != nil || now.In(zone).Hour() != 12 {
			t.Errorf("at %v: %q, %v", now, noonZone(now), err)
		}
	}
}

// worldKey finds a script's world.
type worldKey struct{}

// world is what one script has besides its files.
type world struct {
	answer string
	quotad *daemon
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// cmdQuotactl runs quotactl within the test: ctl [-tty] ARGS. What changes from run to run is written as <time>, <id> and
// the like, and an exit code that is not 0 ends the standard error, so that it is part of what is compared.
func cmdQuotactl(ts *testscript.TestScript, neg bool, args []string) {
	tty := len(args) > 0 && args[0] == "-tty"
	if tty {
		args = args[1:]
	}
	w := worldOf(ts)
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var stdin io.Reader = strings.NewReader(w.answer)
	if tty {
		stdin = io.TeeReader(stdin, &errs) // a terminal echoes what is typed
	}
	code := run(ctx, args, env{
		stdin: stdin, stdout: &out, stderr: &errs,
		getenv: ts.Getenv, isTerminal: func(int) bool { return tty }, now: time.Now,
	})
	w.answer = ""
	if code != 0 {
		fmt.Fprintf(&errs, "[exit %d]\n", code)
	}
	write := func(w io.Writer, b *bytes.Buffer) {
		_, err := io.WriteString(w, steady(b.String(), ts.Getenv("WORK"), ts.Getenv("ZONE")))
		ts.Check(err)
	}
	write(ts.Stdout(), &out)
	write(ts.Stderr(), &errs)
	if neg == (code == 0) {
		ts.Fatalf("quotactl exited with %d", code)
	}
}

// unsteady is what changes from run to run, and what is written for it. Columns keep their width.
var unsteady = []struct {
	was *regexp.Regexp
	is  string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "YYYY-MM-DDTHH:MM:SSZ"},
	{regexp.MustCompile(`\b\d{8}T\d{6}Z\b`), "YYYYMMDDTHHMMSSZ"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "<sha256>"},
	{regexp.MustCompile(`"hash": "[0-9A-Za-z+/]{43}="`), `"hash": "<sha256>"`},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d\b`), "YYYY-MM-DD"},
	{regexp.MustCompile(`"\d{4}-\d\d"`), `"YYYY-MM"`},
	{regexp.MustCompile(`\bin \d+[dhms](\d+[hms])?`), "in <span>"},
	{regexp.MustCompile(`\d+[dhms](\d+[hms])?, since`), "<span>, since"},
	{regexp.MustCompile(`\b\d+\.\d [KMG]iB`), "<size>"},
	{regexp.MustCompile(`"bytes": \d+`), `"bytes": <size>`},
	{regexp.MustCompile(`quotad_[A-Za-z0-9_-]{43}`), "quotad_<token>"},
	{regexp.MustCompile(`process \d+`), "process <pid>"},
}

// steady takes out of a text what no two runs have in common.
func steady(text, work, zone string) string {
	text = strings.ReplaceAll(text, work, "$WORK")
	text = strings.ReplaceAll(text, zone, "<zone>")
	for _, u := range unsteady {
		text = u.was.ReplaceAllString(text, u.is)
	}
	return text
}

// cmdAnswer sets what the next quotactl reads from its standard input.
func cmdAnswer(ts *testscript.TestScript, _ bool, args []string) {
	worldOf(ts).answer = strings.Join(args, " ") + "\n"
}

// cmdExpired waits until the expiry of reservations has been carried out: expired ID...
func cmdExpired(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, id := range args {
		for expired := false; !expired; {
			var out bytes.Buffer
			code := run(ctx, []string{"reservations", "--state", "expired", "-o", "json", "--limit", "1000"}, env{
				stdin: strings.NewReader(""), stdout: &out, stderr: io.Discard,
				getenv: ts.Getenv, isTerminal: func(int) bool { return false }, now: time.Now,
			})
			if code != exitOK {
				ts.Fatalf("%s has not expired: exit %d", id, code)
			}
			var list struct {
				Reservations []struct {
					ID    string `json:"request_id"`
					Ended string `json:"end_time"`
				}
			}
			ts.Check(json.Unmarshal(out.Bytes(), &list))
			for _, r := range list.Reservations {
				expired = expired || r.ID == id && r.Ended != ""
			}
		}
	}
}

// cmdWaitFor runs the doctor until it says what a pattern matches: waitfor PATTERN.
func cmdWaitFor(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[0])
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		var out bytes.Buffer
		run(ctx, []string{"doctor"}, env{
			stdin: strings.NewReader(""), stdout: &out, stderr: io.Discard,
			getenv: ts.Getenv, isTerminal: func(int) bool { return false }, now: time.Now,
		})
		if want.Match(out.Bytes()) {
			return
		}
		if ctx.Err() != nil {
			ts.Fatalf("it never said %q, but at last:\n%s", want, &out)
		}
	}
}

// cmdDaemon starts quotad on $WORK/data, and returns when it serves: daemon [FLAGS].
func cmdDaemon(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	flags := append([]string{"--data", ts.MkAbs("data"), "--create", "--zone", ts.Getenv("ZONE")}, args...)
	d, err := startDaemon(ts.Getenv("QUOTAD_SERVER"), flags...)
	ts.Check(err)
	w.quotad = d
	ts.Defer(func() { _ = d.end(syscall.SIGKILL) })
}

// cmdHalt ends quotad in order.
func cmdHalt(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(worldOf(ts).quotad.end(syscall.SIGTERM))
}

// cmdCrash ends quotad as a crash would.
func cmdCrash(ts *testscript.TestScript, _ bool, _ []string) {
	_ = worldOf(ts).quotad.end(syscall.SIGKILL) // that it was killed is what was wanted
}

// cmdDamage writes over the bytes TEXT in FILE: damage FILE TEXT.
func cmdDamage(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	if !bytes.Contains(b, []byte(args[1])) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	b = bytes.ReplaceAll(b, []byte(args[1]), bytes.Repeat([]byte("#"), len(args[1])))
	ts.Check(os.WriteFile(path, b, 0o600))
}
