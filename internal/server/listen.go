package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/quotad/quotad/internal/config"
)

// socketMask leaves a socket readable and writable for its owner alone.
const socketMask = 0o177

// answerTimeout is how long a socket that stands there already has to show that somebody answers on it.
const answerTimeout = time.Second

// usualMode is that of a socket for which no other is asked for: its owner's alone.
const usualMode fs.FileMode = 0o600

// ListenOptions says who may reach what is listened on. The zero value is the narrowest: loopback, and sockets of their owner alone.
type ListenOptions struct {
	Mode      fs.FileMode // of a unix socket: 0600, 0660 or 0666 in the main; 0 means 0600
	Group     string      // of a unix socket, a name or a number; "" means that of the process, or of the directory if it says so
	Remote    bool        // whether other machines may reach it
	Inherited *Inherited  // what the service manager passed, for fd://NAME; nil means nothing
	// Unlocked is for who holds no lock of a data directory, and so cannot know that a socket which is left over is nobody's: it is
	// left where it is, and refused.
	Unlocked bool
}

// Listen opens an address. Unless other machines may reach it, a host name is resolved, and refused unless every address that it stands
// for is on loopback. A socket is at no moment more open than it will be; one that is left over and that nobody answers on is taken away,
// unless Unlocked is set: the caller holds the lock of the data directory. What the service manager opened is checked for where it can be reached from,
// and is otherwise as its unit says.
func Listen(ctx context.Context, a config.Address, o ListenOptions) (net.Listener, error) {
	var l net.Listener
	var err error
	switch a.Network {
	case "unix":
		l, err = listenSocket(ctx, a.Addr, o)
	case "fd":
		l, err = o.Inherited.take(a.Addr, o.Remote)
	default:
		l, err = listenTCP(ctx, a.Addr, o.Remote)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", a, err)
	}
	return l, nil
}

func listenTCP(ctx context.Context, address string, remote bool) (net.Listener, error) {
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
		if !remote && !ips[i].IsLoopback() {
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

func listenSocket(ctx context.Context, path string, o ListenOptions) (net.Listener, error) {
	if len(path) > config.SocketPathMax {
		return nil, fmt.Errorf("the path has %d bytes; a socket's may have at most %d", len(path), config.SocketPathMax)
	}
	if o.Mode&^0o666 != 0 {
		return nil, fmt.Errorf("%04o is not a mode for a socket; want 0600, 0660 or 0666", uint32(o.Mode))
	}
	gid, err := groupOf(o.Group)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("the socket's directory: %w; make it beforehand, for those alone who may call: mkdir -m 0750 %s", err, dir)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	if err := clearSocket(ctx, path, o.Unlocked); err != nil {
		return nil, err
	}
	l, err := bindSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := openSocket(path, gid, o); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func bindSocket(ctx context.Context, path string) (net.Listener, error) {
	umask.Lock()
	defer umask.Unlock()
	// By the mask at the time of the bind: a chmod after it would leave the socket open for a moment.
	before := syscall.Umask(socketMask)
	defer syscall.Umask(before)
	var lc net.ListenConfig
	return lc.Listen(ctx, "unix", path)
}

// openSocket gives a socket that is its owner's alone to a group, and then opens it as far as is wished. The other way round the group
// of before could come in for a moment.
func openSocket(path string, gid int, o ListenOptions) error {
	if gid >= 0 {
		if err := os.Lchown(path, -1, gid); err != nil {
			return fmt.Errorf("giving it to the group %s, which the user of quotad has to be a member of: %w", o.Group, err)
		}
	}
	if o.Mode == 0 || o.Mode == usualMode {
		return nil
	}
	return os.Chmod(path, o.Mode)
}

// groupOf returns the number of a group; -1 for none.
func groupOf(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	found, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("no group is called %q on this machine; want a name of getent group, or a number", group)
	}
	return strconv.Atoi(found.Gid)
}

// clearSocket takes away what a killed daemon left behind, and nothing else.
func clearSocket(ctx context.Context, path string, unlocked bool) error {
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
	if unlocked {
		return fmt.Errorf("%s was left over by a process that was killed, and without --data there is no lock that says whose it is; if it is nobody's, remove it", path)
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
