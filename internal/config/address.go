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
	Network string // "tcp" or "unix"
	Addr    string // host:port, or the socket's path
}

// ParseAddress reads an address that only this machine can reach: host:port on loopback, or unix:///path. A host name is taken
// as it is; whoever listens on it has to see where it leads.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return parseSocket(s, path)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not an address; want host:port such as 127.0.0.1:7070, or unix:///run/quotad/quotad.sock", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return Address{}, fmt.Errorf("%q: the port is %q; want 0 to 65535, where 0 means any that is free", s, port)
	}
	if host == "" {
		return Address{}, NotLocal(s, "means every address of this machine", port)
	}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.Unmap().IsLoopback() {
		why := "can be reached from other machines"
		if ip.Unmap().IsUnspecified() {
			why = "means every address of this machine"
		}
		return Address{}, NotLocal(s, why, port)
	}
	return Address{Network: "tcp", Addr: s}, nil
}

// NotLocal is the error for an address that other machines can reach; why says how.
func NotLocal(address, why, port string) error {
	return fmt.Errorf("%q %s, and quotad does not ask callers who they are yet; want 127.0.0.1:%s, or a socket such as unix:///run/quotad/quotad.sock", address, why, port)
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
	case "unix":
		return "unix://" + a.Addr
	}
	return a.Addr
}
