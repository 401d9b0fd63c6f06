package server

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/quotad/quotad/internal/config"
)

func fd(name string) config.Address { return config.Address{Network: "fd", Addr: name} }

// activate returns a command that runs a test of this binary as the service manager would, with these sockets under these names.
func activate(t *testing.T, run string, names []string, sockets []interface{ File() (*os.File, error) }, env ...string) (out string, err error) {
	t.Helper()
	self := again(t, run)
	// The number of a process is known to itself alone before it begins: the shell names its own, and becomes the test.
	child := again(t, run, append(env, "LISTEN_FDS="+itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))...)
	child.ExtraFiles = nil
	for _, s := range sockets {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		child.ExtraFiles = append(child.ExtraFiles, f)
	}
	child.ExtraFiles = append(child.ExtraFiles, self.ExtraFiles...)
	binary := "/proc/self/fd/" + itoa(3+len(sockets))
	child.Path = "/bin/sh"
	child.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary}, child.Args[1:]...)
	text, err := child.CombinedOutput()
	return string(text), err
}

func itoa(n int) string { return string(rune('0' + n)) }

// TestInherited hands sockets to a process of its own, as systemd does.
func TestInherited(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.sock")
	app, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	var lc net.ListenConfig
	everywhere, err := lc.Listen(t.Context(), "tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer everywhere.Close()
	local, twin := listenLocal(t), listenLocal(t)
	type filer = interface{ File() (*os.File, error) }
	dialed := make(chan error, 1)
	go func() {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		dialed <- err
	}()
	out, err := activate(t, "^TestInheritAsChild$", []string{"app", "local", "everywhere", "twin", "twin"},
		[]filer{app.(filer), local.(filer), everywhere.(filer), local.(filer), twin.(filer)}, "SERVER_TEST_INHERIT="+path)
	if err != nil || !strings.Contains(out, "the child was through") {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := <-dialed; err != nil {
		t.Errorf("calling the child: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the service manager's socket was taken away: %v", err)
	}
}

// TestInheritAsChild is run by TestInherited, with sockets.
func TestInheritAsChild(t *testing.T) {
	path := os.Getenv("SERVER_TEST_INHERIT")
	if path == "" {
		t.Skip("a part of TestInherited")
	}
	in, err := Inherit()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if os.Getenv("LISTEN_FDS")+os.Getenv("LISTEN_PID")+os.Getenv("LISTEN_FDNAMES") != "" {
		t.Error("the variables are left for other programs")
	}
	o := ListenOptions{Inherited: in}
	for _, c := range []struct{ name, want string }{
		{"none", "passed no socket of that name, but app, everywhere, local, twin; want one of these, or FileDescriptorName=none"},
		{"everywhere", "can be reached from other machines"},
		{"twin", "passed 2 sockets of that name; want a .socket unit for each"},
	} {
		if _, err := Listen(t.Context(), fd(c.name), o); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "listening on fd://"+c.name+": ") {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	app, err := Listen(t.Context(), fd("app"), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := AddressOf(app); got != "unix://"+path {
		t.Errorf("the address to dial is %s", got)
	}
	if _, err := Listen(t.Context(), fd("app"), o); err == nil || !strings.Contains(err.Error(), "another address has taken this socket") {
		t.Errorf("taken twice: %v", err)
	}
	local, err := Listen(t.Context(), fd("local"), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := in.Unused(); !slices.Equal(got, []string{"everywhere", "twin"}) {
		t.Errorf("unused: %q", got)
	}
	o.Remote = true
	everywhere, err := Listen(t.Context(), fd("everywhere"), o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := shake(limitConnections(app, 4, nil), nil)
	if err != nil || !s.private || s.ids[0] != numbered("uid:", uint32(os.Geteuid())) {
		t.Errorf("a connection of an inherited socket: %v, %v", s, err)
	}
	for _, l := range []net.Listener{app, local, everywhere} {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("closing it took the socket away: %v", err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			_, _ = os.Stdout.WriteString("the child was through\n")
		}
	})
}

// What is passed and cannot be listened on is refused, each by its name.
func TestInheritedOddities(t *testing.T) {
	t.Parallel()
	type filer = interface{ File() (*os.File, error) }
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	local := listenLocal(t)
	conn, err := net.Dial("tcp", local.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out, err := activate(t, "^TestInheritOdditiesAsChild$", []string{"datagrams", "good", "connected"},
		[]filer{udp.(filer), local.(filer), conn.(filer)}, "SERVER_TEST_ODDITIES=1")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"datagrams", "connected"} {
		if !strings.Contains(out, `what the service manager passed as "`+name+`": nobody can connect to it; want a socket of ListenStream=, without Accept=yes`) {
			t.Errorf("%s is not refused:\n%s", name, out)
		}
	}
	if strings.Contains(out, `"good"`) {
		t.Errorf("a good one is refused:\n%s", out)
	}
}

// TestInheritOdditiesAsChild is run by TestInheritedOddities.
func TestInheritOdditiesAsChild(t *testing.T) {
	if os.Getenv("SERVER_TEST_ODDITIES") == "" {
		t.Skip("a part of TestInheritedOddities")
	}
	_, err := Inherit()
	if err == nil {
		t.Fatal("taken")
	}
	_, _ = os.Stdout.WriteString(err.Error() + "\n")
}

// Sockets for another process are not ours.
func TestInheritNothing(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "2")
	t.Setenv("LISTEN_FDNAMES", "a:b")
	in, err := Inherit()
	if err != nil || len(in.Unused()) > 0 {
		t.Errorf("inherited %v, %v", in, err)
	}
	for _, in := range []*Inherited{in, nil} {
		if _, err := Listen(t.Context(), fd("a"), ListenOptions{Inherited: in}); err == nil || !strings.Contains(err.Error(), "passed no socket; want a .socket unit") {
			t.Errorf("%v", err)
		}
		in.Close()
	}
	if got := (*Inherited)(nil).Unused(); got != nil {
		t.Errorf("nothing has unused %q", got)
	}
}
