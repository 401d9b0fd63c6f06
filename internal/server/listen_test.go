package server

import (
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/quotad/quotad/internal/config"
)

func TestListenSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.sock")
	l, err := Listen(t.Context(), socketAt(path), ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := AddressOf(l); got != "unix://"+path {
		t.Errorf("its address is %s", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket has mode %v (%v), want 0600", info.Mode(), err)
	}
	if _, err := Listen(t.Context(), socketAt(path), ListenOptions{}); err == nil || err.Error() != "listening on unix://"+path+": another process answers on it" {
		t.Errorf("a socket that is in use: %v", err)
	}
	// A killed daemon leaves its socket behind.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	if l, err := Listen(t.Context(), socketAt(path), ListenOptions{Unlocked: true}); err == nil {
		_ = l.Close()
		t.Error("a socket that was left over is taken without a lock")
	} else if !strings.HasSuffix(err.Error(), "if it is nobody's, remove it") {
		t.Errorf("a socket that was left over, without a lock: %v", err)
	}
	again, err := Listen(t.Context(), socketAt(path), ListenOptions{})
	if err != nil {
		t.Fatalf("a socket that was left over: %v", err)
	}
	_ = again.Close()
}

func TestListenSocketRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none", "q.sock"): "no such file or directory; make it beforehand, for those alone who may call: mkdir -m 0750 " + filepath.Join(dir, "none"),
		filepath.Join(file, "q.sock"):        file + " is not a directory",
		file:                                 file + " exists and is not a socket; it is left as it is",
		link:                                 link + " exists and is not a socket; it is left as it is",
		dir:                                  dir + " exists and is not a socket; it is left as it is",
		filepath.Join(dir, strings.Repeat("x", 107-len(dir))): "the path has 108 bytes; a socket's may have at most 107",
	} {
		l, err := Listen(t.Context(), socketAt(path), ListenOptions{})
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	for want, o := range map[string]ListenOptions{
		"0755 is not a mode for a socket; want 0600, 0660 or 0666":                                   {Mode: 0o755},
		`no group is called "quotad-none" on this machine; want a name of getent group, or a number`: {Group: "quotad-none"},
	} {
		if _, err := Listen(t.Context(), socketAt(filepath.Join(dir, "q.sock")), o); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", o, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "q.sock")); err == nil {
		t.Error("a socket was made that was refused")
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file has become %q (%v)", content, err)
	}
}

func TestListenTCP(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "localhost"} {
		l, err := Listen(t.Context(), config.Address{Network: "tcp", Addr: host + ":0"}, ListenOptions{})
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if ip := l.Addr().(*net.TCPAddr).IP; !ip.IsLoopback() {
			t.Errorf("%s: bound %v", host, ip)
		}
		_ = l.Close()
	}
	// config.ParseAddress refuses these already; whoever comes here without it must not be let through.
	for _, address := range []string{"0.0.0.0:0", "[::]:0", "192.0.2.1:0", "1.1.1.1:0"} {
		l, err := Listen(t.Context(), config.Address{Network: "tcp", Addr: address}, ListenOptions{})
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "can be reached from other machines: want --tls-cert, --tls-key and --policy with it") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := Listen(t.Context(), config.Address{Network: "tcp", Addr: ":0"}, ListenOptions{}); err == nil {
		t.Error("an address without a host was listened on")
	}
}

func TestListenRemote(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:0", "127.0.0.1:0"} {
		l, err := Listen(t.Context(), config.Address{Network: "tcp", Addr: address}, ListenOptions{Remote: true})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if ip := l.Addr().(*net.TCPAddr).IP; ip.IsLoopback() != strings.HasPrefix(address, "127.") {
			t.Errorf("%s: bound %v", address, ip)
		}
		_ = l.Close()
	}
}

// tooOpen tells whether a socket is more open than it shall be: to somebody whom its mode at the end does not let in, or to a group that
// it does not belong to at the end.
func tooOpen(info os.FileInfo, o ListenOptions, gid uint32) bool {
	mode, stat := info.Mode().Perm(), info.Sys().(*syscall.Stat_t)
	return mode&^max(o.Mode, usualMode) != 0 || mode&0o070 != 0 && stat.Gid != gid
}

// seenTooOpen makes a socket again and again, and looks at it all the while. It tells whether it was ever too open.
func seenTooOpen(t *testing.T, rounds int, o ListenOptions, gid uint32, listen func(path string) (net.Listener, error)) bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "q.sock")
	var open, stop atomic.Bool
	var looking sync.WaitGroup
	looking.Go(func() {
		for !stop.Load() {
			if info, err := os.Lstat(path); err == nil && tooOpen(info, o, gid) {
				open.Store(true)
			}
		}
	})
	for range rounds {
		l, err := listen(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|max(o.Mode, usualMode) || info.Sys().(*syscall.Stat_t).Gid != gid {
			t.Errorf("%+v: the socket has become %v of group %d (%v)", o, info.Mode(), info.Sys().(*syscall.Stat_t).Gid, err)
		}
		_ = l.Close()
		if open.Load() {
			break
		}
	}
	stop.Store(true)
	looking.Wait()
	return open.Load()
}

// TestSocketNeverTooOpen looks at sockets while they are made. It is alone, as the mask is the whole process's.
func TestSocketNeverTooOpen(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0)) // the most that a mask lets through
	own := uint32(os.Getegid())
	cases := []struct {
		o   ListenOptions
		gid uint32
	}{{ListenOptions{}, own}, {ListenOptions{Mode: 0o660}, own}, {ListenOptions{Mode: 0o666}, own}}
	if os.Geteuid() == 0 {
		cases = append(cases, struct {
			o   ListenOptions
			gid uint32
		}{ListenOptions{Mode: 0o660, Group: "61234"}, 61234})
	} else {
		t.Log("only root can give a socket to any group: make test-root")
	}
	for _, c := range cases {
		if seenTooOpen(t, 100, c.o, c.gid, func(path string) (net.Listener, error) { return Listen(t.Context(), socketAt(path), c.o) }) {
			t.Errorf("%+v: it was more open than that for a moment", c.o)
		}
	}

	// Controls. A moment is short, so that it is not found each time.
	const rounds = 20_000
	if !seenTooOpen(t, rounds, ListenOptions{}, own, func(path string) (net.Listener, error) {
		var lc net.ListenConfig
		l, err := lc.Listen(t.Context(), "unix", path)
		if err != nil {
			return nil, err
		}
		return l, os.Chmod(path, usualMode)
	}) {
		t.Error("control: a chmod after the bind was not found")
	}
	if os.Geteuid() != 0 {
		return
	}
	if !seenTooOpen(t, rounds, ListenOptions{Mode: 0o660}, 61234, func(path string) (net.Listener, error) {
		l, err := bindSocket(t.Context(), path)
		if err != nil {
			return nil, err
		}
		return l, errors.Join(os.Chmod(path, 0o660), os.Lchown(path, -1, 61234))
	}) {
		t.Error("control: a group that is given after the mode was not found")
	}
}

func TestGroupByName(t *testing.T) {
	t.Parallel()
	found, err := user.LookupGroupId(strconv.Itoa(os.Getegid()))
	if err != nil {
		t.Skipf("the group of this process has no name: %v", err)
	}
	if gid, err := groupOf(found.Name); err != nil || gid != os.Getegid() {
		t.Errorf("%s is %d, %v", found.Name, gid, err)
	}
}
