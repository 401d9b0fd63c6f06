package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/quotad/quotad/internal/config"
)

// socketMask leaves a socket readable and writable for its owner alone.
const socketMask = 0o177

// answerTimeout is how long a socket that stands there already has to show that somebody answers on it.
const answerTimeout = time.Second

// Listen opens an address that only this machine can reach. A host name is resolved, and refused unless every address that it
// stands for is on loopback. A socket is made with mode 0600; one that is left over and that nobody answers on is taken away,
// so the caller should hold the lock of the data directory.
func Listen(ctx context.Context, a config.Address) (net.Listener, error) {
	var l net.Listener
	var err error
	if a.Network == "unix" {
		l, err = listenSocket(ctx, a.Addr)
	} else {
		l, err = listenTCP(ctx, a.Addr)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", a, err)
	}
	return l, nil
}

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		ips[i] = ip.Unmap()
		if !ips[i].IsLoopback() {
			return nil, config.NotLocal(address)
		}
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	// IPv4 first, as clients do with localhost. The number and not the name, so that what was checked is what is bound.
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", net.JoinHostPort(ips[0].String(), port))
}

// umask guards the process's file mode mask, which is one for all goroutines. While it is narrow, a file that somebody else
// makes can only become less open.
var umask sync.Mutex

func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("the socket's directory: %w; make it beforehand, for those alone who may call: mkdir -m 0750 %s", err, dir)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	if err := clearSocket(ctx, path); err != nil {
		return nil, err
	}
	umask.Lock()
	defer umask.Unlock()
	// By the mask at the time of the bind: a chmod after it would leave the socket open for a moment.
	before := syscall.Umask(socketMask)
	defer syscall.Umask(before)
	var lc net.ListenConfig
	return lc.Listen(ctx, "unix", path)
}

// clearSocket takes away what a killed daemon left behind, and nothing else.
func clearSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket; it is left as it is", path)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return errors.New("another process answers on it")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("seeing whether somebody answers: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("taking away what was left over: %w", err)
	}
	return nil
}

// AddressOf returns a listener's address as clients dial it.
func AddressOf(l net.Listener) string {
	a := l.Addr()
	return config.Address{Network: a.Network(), Addr: a.String()}.String()
}
