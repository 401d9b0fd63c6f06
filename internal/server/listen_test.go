package server

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quotad/quotad/internal/config"
)

func unix(path string) config.Address { return config.Address{Network: "unix", Addr: path} }

func TestListenSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.sock")
	l, err := Listen(t.Context(), unix(path))
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
	if _, err := Listen(t.Context(), unix(path)); err == nil || err.Error() != "listening on unix://"+path+": another process answers on it" {
		t.Errorf("a socket that is in use: %v", err)
	}
	// A killed daemon leaves its socket behind.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	again, err := Listen(t.Context(), unix(path))
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
	} {
		l, err := Listen(t.Context(), unix(path))
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file has become %q (%v)", content, err)
	}
}

func TestListenTCP(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "localhost"} {
		l, err := Listen(t.Context(), config.Address{Network: "tcp", Addr: host + ":0"})
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
		l, err := Listen(t.Context(), config.Address{Network: "tcp", Addr: address})
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "which other machines may reach, and quotad does not ask callers who they are yet") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := Listen(t.Context(), config.Address{Network: "tcp", Addr: ":0"}); err == nil {
		t.Error("an address without a host was listened on")
	}
}
