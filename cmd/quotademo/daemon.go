package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A daemon is a quotad that the demo starts, kills and starts again, always at the same address and on the same data.
type daemon struct {
	binary, data, addr string
	log                string // the file that has what it said
	cmd                *exec.Cmd
}

// newDaemon prepares a daemon on a fresh data directory. What it needs besides is put into scratch.
func newDaemon(ctx context.Context, binary, scratch string) (*daemon, error) {
	var err error
	d := &daemon{binary: binary, log: filepath.Join(scratch, "quotad.log")}
	if d.binary == "" {
		d.binary = filepath.Join(scratch, "quotad")
		build := exec.CommandContext(ctx, "go", "build", "-o", d.binary, "github.com/quotad/quotad/cmd/quotad")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building quotad: %w\n%s", err, out)
		}
	}
	if d.addr, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	if d.data, err = os.MkdirTemp("", "quotad-demo-"); err != nil {
		return nil, fmt.Errorf("making a data directory: %w", err)
	}
	return d, nil
}

// start starts the process and waits until it answers.
func (d *daemon) start(ctx context.Context) error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting quotad: %w", err)
	}
	defer func() { _ = log.Close() }()
	d.cmd = exec.CommandContext(ctx, d.binary, "--data", d.data, "--create", "--listen", d.addr, "--admin-listen", "off")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("starting quotad: %w", err)
	}
	if err := d.answers(ctx); err != nil {
		d.kill()
		said, _ := os.ReadFile(d.log)
		return fmt.Errorf("starting quotad: %w\n%s", err, said)
	}
	return nil
}

func (d *daemon) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := connect(d.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = quotadv1.NewInspectServiceClient(conn).GetStatus(ctx, &quotadv1.GetStatusRequest{}, grpc.WaitForReady(true))
	return err
}

// kill is kill -9: the process has no chance to tidy up. It does nothing to a process that has ended.
func (d *daemon) kill() {
	if d.cmd != nil && d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
	}
}

// stop asks the process to end, and wants it to end well.
func (d *daemon) stop() error {
	timer := time.AfterFunc(20*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer timer.Stop()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping quotad: %w", err)
	}
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("stopping quotad: %w", err)
	}
	return nil
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}
