package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A server is a process that is measured.
type server struct {
	addr string
	cmd  *exec.Cmd
	log  string // the file that has its output

	files string // the directory of the TLS files that it is spoken to with; "" means in the clear
}

// build makes the daemon from the module of the working directory.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "quotad")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/quotad/quotad/cmd/quotad")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building quotad: %w\n%s", err, out)
	}
	return binary, nil
}

// startQuotad starts the daemon on the files in data, and waits until it answers. It also says how long that took.
func startQuotad(ctx context.Context, binary, data string) (*server, time.Duration, error) {
	return startQuotadBy(ctx, binary, data, "", "--admin-listen", "off")
}

// startQuotadBy is startQuotad with more flags, for a daemon that is spoken to with the TLS files of a directory.
func startQuotadBy(ctx context.Context, binary, data, files string, flags ...string) (*server, time.Duration, error) {
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, 0, err
	}
	log, err := os.Create(data + ".log")
	if err != nil {
		return nil, 0, fmt.Errorf("starting quotad: %w", err)
	}
	defer func() { _ = log.Close() }()
	s := &server{addr: addr, log: log.Name(), files: files}
	s.cmd = exec.CommandContext(ctx, binary, append([]string{"--data", data, "--create", "--listen", addr}, flags...)...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	begun := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, 0, fmt.Errorf("starting quotad: %w", err)
	}
	if err := s.answers(ctx); err != nil {
		said, _ := os.ReadFile(s.log)
		return nil, 0, errors.Join(fmt.Errorf("starting quotad: %w\n%s", err, said), s.stop())
	}
	return s, time.Since(begun), nil
}

func (s *server) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := connectBy(ctx, s.addr, s.files)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = quotadv1.NewInspectServiceClient(conn).GetStatus(ctx, &quotadv1.GetStatusRequest{}, grpc.WaitForReady(true))
	return err
}

// startEcho starts this program as an echo server.
func startEcho(ctx context.Context) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting the echo: %w", err)
	}
	s := &server{cmd: exec.CommandContext(ctx, self, "--serve-echo", "127.0.0.1:0")}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the echo: %w", err)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the echo: %w", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the echo: %w", err), s.stop())
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

// stop ends the process in order; what does not end within 20 seconds is killed.
func (s *server) stop() error {
	timer := time.AfterFunc(20*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", filepath.Base(s.cmd.Path), err)
	}
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("stopping %s: %w", filepath.Base(s.cmd.Path), err)
	}
	return nil
}

// freeAddress finds a port that nobody listens on now.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// resident returns the memory of the process that is its own, and that which shows files, in bytes; 0 where /proc has none.
func (s *server) resident() (own, files int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch name {
		case "RssAnon":
			own = kib << 10
		case "RssFile":
			files = kib << 10
		}
	}
	return own, files
}

// inProcess runs the load in a process of its own, so that neither the suite nor an earlier load has a part in the figures.
func (l load) inProcess(ctx context.Context) (figures, error) {
	var f figures
	self, err := os.Executable()
	if err != nil {
		return f, fmt.Errorf("loading %s: %w", l.Target, err)
	}
	cmd := exec.CommandContext(ctx, self, "--server", l.Server, "--target", l.Target, "--no-setup", "-o", "json",
		"--connections", strconv.Itoa(l.Connections), "--inflight", strconv.Itoa(l.InFlight), "--keys", strconv.Itoa(l.Keys),
		"--zipf", fmt.Sprint(l.Zipf), "--ids="+strconv.FormatBool(l.IDs), "--seed", strconv.FormatUint(l.Seed, 10),
		"--duration", l.Duration.String(), "--warmup", l.Warmup.String(), "--tls", l.TLS)
	var told bytes.Buffer
	cmd.Stderr = &told
	out, err := cmd.Output()
	if err != nil {
		return f, fmt.Errorf("loading %s: %w: %s", l.Target, err, bytes.TrimSpace(told.Bytes()))
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return f, fmt.Errorf("loading %s: reading its figures: %w", l.Target, err)
	}
	if f.Errors > 0 || f.Denials > 0 {
		return f, fmt.Errorf("loading %s: %d errors and %d denials, want none: %s", l.Target, f.Errors, f.Denials, f.FirstError)
	}
	return f, nil
}
