package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"quotad": func() {
			os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
		},
	})
}

// patience is how long anything may take that a script waits for. It is generous, as it is spent only on failure.
const patience = 20 * time.Second

// TestScript plays testdata/script/*.txtar with real processes, sockets and files. Beside the usual commands there are:
//
//	start NAME ARGS...        starts quotad on free ports and waits until it is ready; its log is the file NAME.log
//	signal NAME SIGNAL...     sends TERM, INT, HUP or KILL
//	insist NAME SIGNAL        sends it again and again until the daemon has ended
//	ended NAME CODE           waits until it has ended, with that exit code
//	exits CODE COMMAND...     runs a command that must end with that exit code
//	logged NAME REGEXP        waits until its log matches
//	probe NAME PATH CODE RE   waits until GET PATH on its admin address answers so
//	health NAME STATUS        waits until gRPC health says so
//	acquire NAME BUCKET CODE  takes one call
//	declare NAME BUCKET CODE  sets a bucket of 2 calls a day
//	flood NAME                takes calls until there is no room for more
//	hold NAME                 opens a call that ends with the script
//
// and those of reservationCommands.
func TestScript(t *testing.T) {
	t.Parallel()
	commands := map[string]func(*testscript.TestScript, bool, []string){
		"start": start, "signal": sendSignal, "insist": insist, "ended": ended, "exits": exits, "logged": logged, "probe": probe,
		"health": health, "acquire": acquire, "declare": declare, "flood": flood, "hold": hold,
	}
	maps.Copy(commands, reservationCommands)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Values[daemonsKey{}] = map[string]*process{}
			return nil
		},
		Cmds: commands,
	})
}

type daemonsKey struct{}

// process is a quotad that a script has started.
type process struct {
	cmd     *exec.Cmd
	done    chan struct{} // closed once it has ended
	log     string        // its file
	addr    string        // its addresses' file
	started time.Time     // to the millisecond, as the ledger has times
}

func processOf(ts *testscript.TestScript, name string) *process {
	p := ts.Value(daemonsKey{}).(map[string]*process)[name]
	if p == nil {
		ts.Fatalf("no daemon %q was started", name)
	}
	return p
}

func usage(ts *testscript.TestScript, neg bool, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// until asks again and again, as neither a file nor a process of its own tells when it has changed.
func until(ts *testscript.TestScript, what string, done func() (bool, string)) {
	var last string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		ok, now := done()
		if ok {
			return
		}
		last = now
		time.Sleep(5 * time.Millisecond) // see above
	}
	ts.Fatalf("%s: not so within %v; last: %s", what, patience, last)
}

func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	path := args[0]
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if candidate := filepath.Join(dir, path); !strings.Contains(path, "/") {
			if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() {
				path = candidate
			}
		}
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Dir = ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "QUOTAD_ZONE", "QUOTAD_CONFIG", "QUOTAD_DATA", "QUOTAD_LISTEN"} {
		if value := ts.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 0, "start NAME ARGS...")
	name, flags := args[0], args[1:]
	p := &process{done: make(chan struct{}), log: ts.MkAbs(name + ".log"), addr: ts.MkAbs(name + ".addr")}
	given := strings.Join(flags, " ") + " "
	if !strings.Contains(given, "--listen ") {
		flags = append(flags, "--listen", "127.0.0.1:0")
	}
	if !strings.Contains(given, "--admin-listen ") {
		flags = append(flags, "--admin-listen", "127.0.0.1:0")
	}
	p.cmd = command(ts, append([]string{"quotad", "--addr-file", p.addr, "--log-format", "text"}, flags...))
	log, err := os.Create(p.log)
	ts.Check(err)
	p.cmd.Stderr = log
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	p.cmd.Stdout = out
	p.started = time.Now().Truncate(time.Millisecond)
	ts.Check(p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		_ = log.Close()
		_ = out.Close()
		close(p.done)
	}()
	ts.Defer(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	ts.Value(daemonsKey{}).(map[string]*process)[name] = p
	until(ts, "start "+name, func() (bool, string) {
		select {
		case <-p.done:
			content, _ := os.ReadFile(p.log)
			ts.Fatalf("%s ended: %v\n%s", name, p.cmd.ProcessState, content)
		default:
		}
		content, err := os.ReadFile(p.log)
		return bytes.Contains(content, []byte(" msg=ready\n")), fmt.Sprintf("%s %v", content, err)
	})
}

// address returns the first address of a kind that a daemon listens on.
func (p *process) address(ts *testscript.TestScript, kind string) string {
	for line := range strings.Lines(ts.ReadFile(p.addr)) {
		if a, ok := strings.CutPrefix(strings.TrimSpace(line), kind+" "); ok {
			return a
		}
	}
	ts.Fatalf("%s has no %s", p.addr, kind)
	return ""
}

func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 1, "signal NAME SIGNAL...")
	for _, s := range args[1:] {
		ts.Check(processOf(ts, args[0]).cmd.Process.Signal(signals()[s]))
	}
}

func signals() map[string]os.Signal {
	return map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}
}

func insist(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "insist NAME SIGNAL")
	p := processOf(ts, args[0])
	until(ts, "insist "+args[0], func() (bool, string) {
		select {
		case <-p.done:
			return true, ""
		default:
		}
		if p.cmd.Process.Signal(signals()[args[1]]) != nil {
			return true, "" // it ended just now
		}
		return false, ts.ReadFile(p.log)
	})
}

func ended(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "ended NAME CODE")
	p := processOf(ts, args[0])
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("%s is still running:\n%s", args[0], ts.ReadFile(p.log))
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("%s ended with %s, want %s:\n%s", args[0], got, args[1], ts.ReadFile(p.log))
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) > 1, "exits CODE COMMAND...")
	cmd := command(ts, args[1:])
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(ts.Stdout(), &stdout), io.MultiWriter(ts.Stderr(), &stderr)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("it ended with %s, want %s:\n%s%s", got, args[0], &stdout, &stderr)
	}
}

func logged(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "logged NAME REGEXP")
	p, want := processOf(ts, args[0]), regexp.MustCompile("(?m)"+args[1])
	until(ts, "log "+args[1], func() (bool, string) {
		content := ts.ReadFile(p.log)
		return want.MatchString(content), content
	})
}

func probe(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 4, "probe NAME PATH CODE REGEXP")
	url, want := "http://"+processOf(ts, args[0]).address(ts, "admin-listen")+args[1], regexp.MustCompile("(?m)"+args[3])
	until(ts, "probe "+args[1], func() (bool, string) {
		resp, err := http.Get(url)
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return err == nil && strconv.Itoa(resp.StatusCode) == args[2] && want.Match(body), fmt.Sprintf("%s %s", resp.Status, body)
	})
}

func dial(ts *testscript.TestScript, name string) *grpc.ClientConn {
	conn, err := grpc.NewClient(processOf(ts, name).address(ts, "listen"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close() })
	return conn
}

func health(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "health NAME STATUS")
	client := healthpb.NewHealthClient(dial(ts, args[0]))
	until(ts, "health", func() (bool, string) {
		resp, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{Service: "quotad.v1.QuotaService"})
		return err == nil && resp.GetStatus().String() == args[1], fmt.Sprint(resp, err)
	})
}

func acquire(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "acquire NAME BUCKET CODE")
	_, err := quotadv1.NewQuotaServiceClient(dial(ts, args[0])).Acquire(context.Background(), &quotadv1.AcquireRequest{Bucket: args[1]})
	if got := status.Code(err).String(); got != args[2] {
		ts.Fatalf("%s: %v, want %s", args[1], err, args[2])
	}
}

func declare(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "declare NAME BUCKET CODE")
	_, err := quotadv1.NewAdminServiceClient(dial(ts, args[0])).SetBucket(context.Background(), &quotadv1.SetBucketRequest{
		Bucket: &quotadv1.Bucket{Name: args[1], Limits: []*quotadv1.Limit{{Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, Max: 2}}},
	})
	if got := status.Code(err).String(); got != args[2] {
		ts.Fatalf("%s: %v, want %s", args[1], err, args[2])
	}
}

func flood(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "flood NAME")
	const most = 200_000
	client := quotadv1.NewQuotaServiceClient(dial(ts, args[0]))
	var sent atomic.Int64
	var wrong atomic.Pointer[error]
	var flooding sync.WaitGroup
	for range 128 {
		flooding.Go(func() {
			for {
				i := sent.Add(1)
				_, err := client.Acquire(context.Background(), &quotadv1.AcquireRequest{
					Bucket: "flood", RequestId: fmt.Sprintf("%0128d", i), Charges: []*quotadv1.Charge{{Unit: "drops"}},
				})
				switch {
				case i > most:
					err = fmt.Errorf("%d acquires, and there is still room", most)
				case err == nil:
					continue
				case status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "no room"):
					return
				}
				wrong.Store(&err)
				return
			}
		})
	}
	flooding.Wait()
	if err := wrong.Load(); err != nil {
		ts.Fatalf("flood: %v", *err)
	}
}

func hold(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "hold NAME")
	ctx, cancel := context.WithCancel(context.Background())
	ts.Defer(cancel)
	stream, err := reflectionpb.NewServerReflectionClient(dial(ts, args[0])).ServerReflectionInfo(ctx)
	ts.Check(err)
	ts.Check(stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}))
	_, err = stream.Recv()
	ts.Check(err)
}
