package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/server"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// ledger stands in for the store: it answers what a test wants.
type ledger struct {
	answer quota.Decision
	err    error
	got    []quota.ApplySet
}

func (l *ledger) Apply(_ context.Context, op quota.Op) (quota.Decision, error) {
	l.got = append(l.got, op.(quota.ApplySet))
	return l.answer, l.err
}

func newBuckets(t *testing.T, l *ledger) (b *bucketsFile, log *bytes.Buffer, write func(string)) {
	t.Helper()
	log = &bytes.Buffer{}
	b = &bucketsFile{
		path: filepath.Join(t.TempDir(), "buckets.yaml"), ledger: l, log: slog.New(slog.NewTextHandler(log, nil)),
		observe: func(time.Time, bool) {}, now: time.Now,
	}
	return b, log, func(content string) {
		t.Helper()
		if err := os.WriteFile(b.path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	good  = "buckets:\n  a: {limits: [1]}\n"
	other = "buckets:\n  a: {limits: [2]}\n"
	bad   = "buckets:\n  a: {limts: [1]}\n"
)

func TestBucketsFileIsAppliedOnce(t *testing.T) {
	t.Parallel()
	l := &ledger{answer: quota.Decision{Outcome: quota.Done}}
	b, _, write := newBuckets(t, l)
	for i, step := range []struct {
		content string
		force   bool
		applied int // in all
		problem bool
	}{
		{good, true, 1, false},
		{good, false, 1, false},
		{good + "# a remark\n", false, 1, false},
		{good, true, 2, false},
		{bad, false, 2, true},
		{bad, false, 2, true},
		{good, false, 3, false},
		{other, false, 4, false},
	} {
		write(step.content)
		err := b.load(t.Context(), step.force)
		if len(l.got) != step.applied || (len(b.problems()) > 0) != step.problem {
			t.Errorf("step %d: applied %d times (%v), problems %q; want %d, %v", i, len(l.got), err, b.problems(), step.applied, step.problem)
		}
	}
	op := l.got[0]
	if op.Source != quota.SourceFile || op.ValidateOnly || op.Principal != "quotad" || len(op.Buckets) != 1 || op.Buckets["a"].Limits[0].Max != 1 {
		t.Errorf("applied %+v", op)
	}
}

func TestBucketsFileRefusals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		content string
		ledger  ledger
		notKept bool
		want    string
	}{
		{name: "bad", content: bad, want: `buckets.yaml:2:7: unknown key "limts"; did you mean "limits"?`},
		{name: "invalid", content: good, ledger: ledger{answer: quota.Decision{
			Outcome: quota.Invalid, Problems: quota.Problems{{Field: "buckets", Text: "would make 10001 declared buckets; at most 10000"}},
		}}, want: "buckets.yaml: buckets: would make 10001 declared buckets; at most 10000"},
		{name: "refused", content: good, ledger: ledger{answer: quota.Decision{Outcome: quota.DeclaredInFile, Detail: "a"}}, want: "buckets.yaml: the ledger refused it: declared_in_file a"},
		{name: "no room", content: good, ledger: ledger{err: store.ErrFull}, notKept: true, want: "buckets.yaml: the ledger did not keep it: store: no room to write"},
	} {
		b, _, write := newBuckets(t, &test.ledger)
		write(test.content)
		err := b.load(t.Context(), true)
		first, _, _ := strings.Cut(fmt.Sprint(err), "\n")
		if !strings.HasSuffix(first, test.want) || errors.Is(err, errNotKept) != test.notKept {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
		if p := b.problems(); len(p) != 1 || !strings.HasSuffix(p[0], test.want) {
			t.Errorf("%s: problems are %q", test.name, p)
		}
	}
}

// adopter is a ledger that is asked to adopt.
type adopter struct {
	answer quota.Decision
	err    error
	got    quota.Op
}

func (l *adopter) Apply(_ context.Context, op quota.Op) (quota.Decision, error) {
	l.got = op
	return l.answer, l.err
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	two := quota.Decision{Outcome: quota.Done, Changes: make([]quota.Change, 2)}
	for want, l := range map[string]*adopter{
		"":                                     {answer: quota.Decision{Outcome: quota.Done}},
		"can be changed by calls\" declared=2": {answer: two},
		"error=\"" + store.ErrFull.Error() + "\"": {err: store.ErrFull},
	} {
		var log bytes.Buffer
		adopt(t.Context(), l, slog.New(slog.NewTextHandler(&log, nil)))
		if l.got != (quota.Adopt{Principal: "quotad"}) || !strings.Contains(log.String(), want) || want == "" && log.Len() > 0 {
			t.Errorf("applied %+v and logged %q, want %q", l.got, log.String(), want)
		}
	}
}

// TestBucketsFileIsTriedAgain: what is wrong with the ledger is not wrong with the file, and does not wait for it to change.
func TestBucketsFileIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{err: store.ErrFull}
		b, log, write := newBuckets(t, l)
		k := newKeeper("buckets file", b, b.log, func(err error) { fmt.Fprintln(log, err) })
		write(good)
		still := time.NewTimer(time.Hour)
		k.load(t.Context(), still, false)
		at := time.Now()
		<-still.C
		if waited := time.Since(at); waited != retryAfter {
			t.Errorf("it is tried again after %v, want %v", waited, retryAfter)
		}
		l.err, l.answer = nil, quota.Decision{Outcome: quota.Done}
		k.load(t.Context(), still, false)
		if len(l.got) != 2 || len(b.problems()) != 0 {
			t.Errorf("applied %d times, problems %q", len(l.got), b.problems())
		}
	})
}

func TestBucketsFileLogsChanges(t *testing.T) {
	t.Parallel()
	limits := func(n int64) *quota.Settings {
		return &quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: n}}}
	}
	changes := []quota.Change{{Name: "a", After: limits(1)}, {Name: "b", Before: limits(1)}, {Name: "c", Before: limits(1), After: limits(2)}}
	for range changesShown {
		changes = append(changes, quota.Change{Name: "more", After: limits(1)})
	}
	b, log, write := newBuckets(t, &ledger{answer: quota.Decision{Outcome: quota.Done, Changes: changes}})
	write(good)
	if err := b.load(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`msg="bucket added" bucket=a now="1 calls/day"`, `msg="bucket removed" bucket=b before="1 calls/day"`,
		`msg="bucket changed" bucket=c before="1 calls/day" now="2 calls/day"`, `msg="buckets file: and more" changes=3`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in\n%s", want, log)
		}
	}
	if lines := strings.Count(log.String(), "\n"); lines != changesShown+2 {
		t.Errorf("%d lines, want %d", lines, changesShown+2)
	}
}

func TestNotify(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var log bytes.Buffer
	d := &daemon{log: slog.New(slog.NewTextHandler(&log, nil)), env: func(name string) string {
		if name == "NOTIFY_SOCKET" {
			return path
		}
		return ""
	}}
	d.notify("READY=1")
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("the service manager was told %q (%v)", buf[:n], err)
	}
	path += ".none"
	d.notify("STOPPING=1") // must not be fatal
	if !strings.Contains(log.String(), "telling the service manager") {
		t.Errorf("the log says %s", &log)
	}
}

// TestExplain: what is wrong in a file is shown as it is on a terminal, and in one field where machines read.
func TestExplain(t *testing.T) {
	t.Parallel()
	_, faults := config.ParseBuckets("b.yaml", []byte(bad))
	for format, want := range map[string]string{
		"text": "quotad: b.yaml:2:7: unknown key \"limts\"; did you mean \"limits\"?\n    2 |   a: {limts: [1]}\n      |       ^^^^^\n",
		"json": `"msg":"why","error":"b.yaml:2:7: unknown key \"limts\"; did you mean \"limits\"?\n    2 |   a: {limts: [1]}\n      |       ^^^^^"`,
	} {
		var stderr bytes.Buffer
		c := &config.Config{LogFormat: format}
		d := &daemon{c: c, stderr: &stderr}
		d.log, d.logText = newLog(c, &stderr)
		d.explain(faults)
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%s:\n got %s\nwant %s", format, &stderr, want)
		}
	}
	var stderr bytes.Buffer
	if _, text := newLog(&config.Config{LogFormat: "auto"}, &stderr); text {
		t.Error("a log that goes nowhere near a terminal is text by itself")
	}
}

// failing is an engine whose disk fails once it is told to.
type failing struct {
	store.Engine
	broken atomic.Bool
}

func (f *failing) Update(ctx context.Context, fn func(store.Tx) error) error {
	if f.broken.Load() {
		return fmt.Errorf("%w: an injected fault", store.ErrUnknown)
	}
	return f.Engine.Update(ctx, fn)
}

// TestDiskFails: a write whose outcome is unknown ends the daemon at once, without an orderly stop.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	c, err := config.Parse([]string{"--dev"}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := newDaemon(c, io.Discard, io.Discard, func(string) string { return "" })
	d.log = slog.New(slog.NewTextHandler(&log, nil))
	engine := &failing{Engine: memengine.New()}
	if d.ledger, err = store.Open(t.Context(), engine, store.Options{Defaults: c.Defaults}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.ledger.Close() })
	ready := make(chan struct{})
	d.server = server.New(server.Config{Metrics: d.metrics, Methods: auth.Methods(), Now: time.Now, Ready: func() { close(ready) }})
	done := make(chan error, 1)
	go func() { done <- d.wait(t.Context(), nil) }()
	<-ready
	engine.broken.Store(true)
	op := quota.Acquire{Bucket: "b"}
	if problems := op.Validate(); problems != nil {
		t.Fatal(problems)
	}
	if _, err := d.ledger.Apply(t.Context(), op); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("the acquire was answered with %v", err)
	}
	err = <-done
	if code, ok := errors.AsType[exitCode](err); !ok || code.code != exitDisk {
		t.Errorf("the daemon ended with %v, want the code %d", err, exitDisk)
	}
	if strings.Contains(log.String(), "stopping") || !strings.Contains(log.String(), "the disk cannot be trusted") {
		t.Errorf("the log says\n%s", &log)
	}
}

// hanging is an engine that cannot be closed until it is told so.
type hanging struct {
	store.Engine
	release chan struct{}
}

func (h hanging) Close() error {
	<-h.release
	return h.Engine.Close()
}

// TestCloseCanBeInterrupted: a disk that hangs does not hold up the end for ever, and a signal that came twice in a moment is
// not an impatient one.
func TestCloseCanBeInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine := hanging{memengine.New(), make(chan struct{})}
		ledger, err := store.Open(t.Context(), engine, store.Options{Uptime: func() time.Duration { return 0 }})
		if err != nil {
			t.Fatal(err)
		}
		d := &daemon{ledger: ledger}
		signals := make(chan os.Signal)
		done := make(chan error, 1)
		go func() { done <- d.close(signals) }()
		signals <- syscall.SIGTERM
		signals <- syscall.SIGHUP
		time.Sleep(2 * sameSignal)
		select {
		case err := <-done:
			t.Fatalf("the first signals ended it: %v", err)
		default:
		}
		signals <- syscall.SIGHUP
		signals <- syscall.SIGINT
		if err := <-done; err == nil || err.Error() != "interrupt while the ledger was closing" {
			t.Errorf("it ended with %v", err)
		}
		close(engine.release)
		synctest.Wait()
	})
}
