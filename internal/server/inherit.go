package server

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/quotad/quotad/internal/config"
)

// Inherited are the sockets that the service manager opened and passed, by the names that it gave them (FileDescriptorName). Inherit
// makes it. A nil one has none.
type Inherited struct {
	mu      sync.Mutex
	sockets map[string]*inherited
}

// inherited are all sockets of one name.
type inherited struct {
	listeners []net.Listener
	taken     bool
}

// Inherit takes over the sockets that were passed by LISTEN_FDS and LISTEN_FDNAMES, once in the life of a process: it takes the variables
// away, so that a program that is started later does not think them its own. Without any, or if LISTEN_PID names another process, it
// returns an empty Inherited. What is passed and is no listening stream socket is an error.
func Inherit() (*Inherited, error) {
	i := &Inherited{sockets: make(map[string]*inherited)}
	var faults []error
	for _, f := range activation.Files(true) {
		l, err := listenerOf(f)
		_ = f.Close() // the listener has a descriptor of its own
		if err != nil {
			faults = append(faults, fmt.Errorf("what the service manager passed as %q: %w; want a socket of ListenStream=, without Accept=yes", f.Name(), err))
			continue
		}
		s := i.sockets[f.Name()]
		if s == nil {
			s = &inherited{}
			i.sockets[f.Name()] = s
		}
		s.listeners = append(s.listeners, l)
	}
	if len(faults) > 0 {
		i.Close()
		return nil, errors.Join(faults...)
	}
	return i, nil
}

func listenerOf(f *os.File) (net.Listener, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var accepts int
	var asked error
	err = raw.Control(func(fd uintptr) {
		accepts, asked = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	})
	if err = errors.Join(err, asked); err != nil {
		return nil, err
	}
	if accepts == 0 {
		return nil, errors.New("nobody can connect to it")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if network := l.Addr().Network(); network != "tcp" && network != "unix" {
		_ = l.Close()
		return nil, fmt.Errorf("it is a socket of the kind %q", network)
	}
	return l, nil
}

// Unused returns the names of the sockets that no address has asked for, sorted. Who connects to one of them would wait for ever.
func (i *Inherited) Unused() []string {
	if i == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	var names []string
	for name, s := range i.sockets {
		if !s.taken {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Close closes the sockets that no address has asked for. The service manager keeps its own, and paths stay.
func (i *Inherited) Close() {
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, s := range i.sockets {
		for _, l := range s.listeners {
			if !s.taken {
				_ = l.Close() // nobody has used it
			}
		}
	}
}

// take returns the socket of a name, which belongs to the caller from then on.
func (i *Inherited) take(name string, remote bool) (net.Listener, error) {
	if i == nil {
		i = &Inherited{}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.sockets[name]
	switch {
	case len(i.sockets) == 0:
		return nil, errors.New("the service manager passed no socket; want a .socket unit that starts quotad")
	case s == nil:
		return nil, fmt.Errorf("the service manager passed no socket of that name, but %s; want one of these, or FileDescriptorName=%s in the .socket unit",
			strings.Join(slices.Sorted(maps.Keys(i.sockets)), ", "), name)
	case s.taken:
		return nil, errors.New("another address has taken this socket already")
	case len(s.listeners) > 1:
		return nil, fmt.Errorf("the service manager passed %d sockets of that name; want a .socket unit for each, with a FileDescriptorName of its own", len(s.listeners))
	}
	l := s.listeners[0]
	if at, ok := l.Addr().(*net.TCPAddr); ok && !remote && !at.IP.IsLoopback() {
		return nil, config.NotLocal(at.String())
	}
	s.taken = true
	return l, nil
}
