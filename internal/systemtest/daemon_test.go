package systemtest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// patience is how long anything may take that should take no time: a start, a stop, an answer.
const patience = 20 * time.Second

// A site is where daemons live one after the other: a data directory and a socket.
type site struct {
	t      *testing.T
	dir    string // of the data
	socket string
	hasty  bool     // run the control instead of quotad
	more   []string // flags besides those that all have
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	return &site{t: t, dir: filepath.Join(dir, "data"), socket: filepath.Join(dir, "s")}
}

// A daemon is one process on a site.
type daemon struct {
	t      *testing.T
	cmd    *exec.Cmd
	said   *output
	exited chan struct{} // closed once the process has ended
	err    error         // how; read it after exited
	socket string
}

// launch starts a daemon and does not wait for it.
func (s *site) launch() *daemon {
	s.t.Helper()
	d := &daemon{t: s.t, said: new(output), exited: make(chan struct{}), socket: s.socket}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "QUOTAD_") })
	if s.hasty {
		self, err := os.Executable()
		if err != nil {
			s.t.Fatal(err)
		}
		d.cmd = exec.Command(self, s.dir, s.socket)
		env = append(env, hastyRole+"=1")
	} else {
		args := append([]string{"--data", s.dir, "--create", "--listen", "unix://" + s.socket, "--admin-listen", "off"}, s.more...)
		d.cmd = exec.Command(os.Getenv(built), args...)
	}
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = env, d.said, d.said
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	s.t.Cleanup(d.kill)
	return d
}

// start starts a daemon and waits until it answers.
func (s *site) start() *daemon {
	s.t.Helper()
	d := s.launch()
	c := d.dial(s.t)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		_, err := c.GetStatus(ctx, &quotadv1.GetStatusRequest{}, grpc.WaitForReady(true))
		answered <- err
	}()
	select {
	case <-d.exited:
		s.t.Fatalf("the daemon ended instead of serving: %v\n%s", d.err, d.said)
	case err := <-answered:
		if err != nil {
			s.t.Fatalf("the daemon does not answer: %v\n%s", err, d.said)
		}
	}
	return d
}

// kill ends the process as a power switch would, and waits until it is gone.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.exited
}

// stop asks the daemon to end, and wants it to end well.
func (d *daemon) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatalf("stopping the daemon: %v\n%s", err, d.said)
	}
	select {
	case <-d.exited:
	case <-time.After(patience):
		d.t.Fatalf("the daemon did not stop within %v\n%s", patience, d.said)
	}
	if d.err != nil {
		d.t.Fatalf("the daemon stopped with %v\n%s", d.err, d.said)
	}
}

// A client is one connection with the services on it.
type client struct {
	conn *grpc.ClientConn
	quotadv1.QuotaServiceClient
	quotadv1.InspectServiceClient
	quotadv1.AdminServiceClient
}

func (d *daemon) dial(t *testing.T) *client {
	t.Helper()
	return dial(t, "unix://"+d.socket)
}

// dial returns a connection that comes back soon, and is closed with the test if not before.
func dial(t *testing.T, target string) *client {
	t.Helper()
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.2, MaxDelay: 10 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		t.Fatal(err)
	}
	c := &client{conn, quotadv1.NewQuotaServiceClient(conn), quotadv1.NewInspectServiceClient(conn), quotadv1.NewAdminServiceClient(conn)}
	t.Cleanup(c.close)
	return c
}

func (c *client) close() { _ = c.conn.Close() }

// declare sets the limit on calls in the one window that no midnight ends.
func (c *client) declare(t *testing.T, name string, most int64) {
	t.Helper()
	_, err := c.SetBucket(t.Context(), &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{
		Name: name, Limits: []*quotadv1.Limit{{Unit: "calls", Window: quotadv1.Window_WINDOW_EVER, Max: most}},
	}})
	if err != nil {
		t.Fatalf("declaring %s: %v", name, err)
	}
}

// used returns what the daemon says is used of every declared or counted bucket at or below prefix, in windows that never end.
func (c *client) used(t *testing.T, prefix string) map[string]int64 {
	t.Helper()
	counts := make(map[string]int64)
	request := &quotadv1.ListBucketsRequest{Prefix: prefix, PageSize: 1000}
	for {
		page, err := c.ListBuckets(t.Context(), request)
		if err != nil {
			t.Fatalf("listing %s: %v", prefix, err)
		}
		for _, view := range page.GetBuckets() {
			for _, b := range view.GetBalances() {
				if b.GetWindow() == quotadv1.Window_WINDOW_EVER && b.GetUnit() == "calls" {
					counts[b.GetBucket()] = b.GetUsed()
				}
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return counts
		}
	}
}

// output keeps what a process says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write is io.Writer's.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() > 1<<20 {
		return 0, errors.New("the process says too much")
	}
	return o.text.Write(p)
}

// String returns all of it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
