package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// SocketPathMax is the longest path of a unix socket, in bytes. The kernel's structure has no room for more.
const SocketPathMax = 107

// Address is where to listen. The zero value is nowhere.
type Address struct {
	Network string // "tcp", "unix", or "fd" for a socket that the service manager opened
	Addr    string // host:port, the socket's path, or the name that the service manager gave it
}

// ParseAddress reads an address: host:port, unix:///path, or fd://NAME. A host name is taken as it is; whoever listens on it has to
// see where it leads.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return parseSocket(s, path)
	}
	if name, ok := strings.CutPrefix(s, "fd:"); ok {
		return parseInherited(s, name)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not an address; want host:port such as 127.0.0.1:7070, or unix:///run/quotad/quotad.sock", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return Address{}, fmt.Errorf("%q: the port is %q; want 0 to 65535, where 0 means any that is free", s, port)
	}
	if host == "" {
		return Address{}, fmt.Errorf("%q names no host; want 127.0.0.1:%s, or 0.0.0.0:%s for every address of this machine", s, port, port)
	}
	return Address{Network: "tcp", Addr: s}, nil
}

// parseInherited reads the name of a socket that systemd opened, which is that of its FileDescriptorName.
func parseInherited(s, name string) (Address, error) {
	name, ok := strings.CutPrefix(name, "//")
	if !ok || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == '/' }) {
		return Address{}, fmt.Errorf("%q is not the name of a socket of the service manager; want fd:// and its FileDescriptorName, such as fd://quotad", s)
	}
	return Address{Network: "fd", Addr: name}, nil
}

// Remote tells whether other machines may reach the address, as far as it says itself: a host's name does not.
func (a Address) Remote() bool {
	if a.Network != "tcp" {
		return false
	}
	host, _, err := net.SplitHostPort(a.Addr)
	if err != nil {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && !ip.Unmap().IsLoopback()
}

// NotLocal is the error for an address of callers which other machines may reach, where they could not be told apart or listened in on.
func NotLocal(address string) error {
	return fmt.Errorf("%q can be reached from other machines: want --tls-cert, --tls-key and --policy with it, or an address of this machine alone, such as 127.0.0.1:7070 or unix:///run/quotad/quotad.sock", address)
}

func parseSocket(s, path string) (Address, error) {
	path, ok := strings.CutPrefix(path, "//")
	switch {
	case !ok || !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/"):
		return Address{}, fmt.Errorf("%q is not a socket's address; want unix:// and an absolute path, such as unix:///run/quotad/quotad.sock", s)
	case len(path) > SocketPathMax:
		return Address{}, fmt.Errorf("%q: the path has %d bytes; a socket's may have at most %d", s, len(path), SocketPathMax)
	case strings.ContainsRune(path, 0):
		return Address{}, fmt.Errorf("%q: the path has a zero byte", s)
	}
	return Address{Network: "unix", Addr: path}, nil
}

// String returns the address as ParseAddress reads it, and as clients dial it; "off" for none.
func (a Address) String() string {
	switch a.Network {
	case "":
		return "off"
	case "unix", "fd":
		return a.Network + "://" + a.Addr
	}
	return a.Addr
}
