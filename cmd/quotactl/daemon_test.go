package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// daemon is a real quotad, as a process of its own.
type daemon struct {
	cmd   *exec.Cmd
	log   *buffer
	ended chan struct{} // closed when the process has ended
	err   error         // how it ended; read it after ended
}

// daemonDir is the environment variable that says where to build quotad.
const daemonDir = "QUOTACTL_TEST_DAEMON_DIR"

// buildDaemon builds quotad, once for all tests, and returns the path of the program.
var buildDaemon = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.Getenv(daemonDir), "quotad")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../quotad").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building quotad: %w\n%s", err, out)
	}
	return path, nil
})

// startDaemon starts a real quotad, and returns when it serves at that address.
func startDaemon(server string, flags ...string) (*daemon, error) {
	path, err := buildDaemon()
	if err != nil {
		return nil, err
	}
	d := &daemon{log: &buffer{}, ended: make(chan struct{})}
	d.cmd = exec.Command(path, append([]string{"--listen", server, "--admin-listen", "off"}, flags...)...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
		cancel() // nobody will serve any more
	}()
	if err := serving(ctx, server); err != nil {
		_ = d.end(os.Kill)
		return nil, fmt.Errorf("waiting for quotad: %w\n%s", err, d.log)
	}
	return d, nil
}

// end sends the process a signal, and waits for its end.
func (d *daemon) end(s os.Signal) error {
	if err := d.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-d.ended
	if d.err != nil {
		return fmt.Errorf("quotad: %w\n%s", d.err, d.log)
	}
	return nil
}

// serving waits until a daemon serves.
func serving(ctx context.Context, server string) error {
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.2, MaxDelay: 100 * time.Millisecond}, MinConnectTimeout: time.Second,
	}))
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
		if err != nil || resp.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING {
			return err
		}
	}
}

// buffer is a bytes.Buffer that one goroutine writes and others read.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
