package server

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// groupsMax is how many supplementary groups a process may have, as the kernel has it.
const groupsMax = 65536

// peerOf asks the kernel who connected to a unix socket.
func peerOf(conn syscall.Conn) (*unixPeer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("asking who connected: %w", err)
	}
	var peer *unixPeer
	var asked error
	err = raw.Control(func(fd uintptr) { peer, asked = askPeer(int(fd)) })
	if err = errors.Join(err, asked); err != nil {
		return nil, fmt.Errorf("asking who connected: %w", err)
	}
	return peer, nil
}

func askPeer(fd int) (*unixPeer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, err
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return nil, err
	}
	return &unixPeer{uid: cred.Uid, gid: cred.Gid, groups: groups}, nil
}

// peerGroups asks for the supplementary groups. The kernel says how many they are if there was no room for them.
func peerGroups(fd int) ([]uint32, error) {
	for room := identitiesMax; ; {
		groups := make([]uint32, room)
		size := uint32(room) * uint32(unsafe.Sizeof(groups[0]))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // there is no other way to call it
		n := int(size) / int(unsafe.Sizeof(groups[0]))
		switch {
		case errno == 0:
			return groups[:min(n, room, identitiesMax)], nil
		case errno == unix.ERANGE && n > room && n <= groupsMax:
			room = n
		case errno == unix.ENODATA || errno == unix.ENOPROTOOPT:
			return nil, nil // none, or a kernel from before 4.13
		default:
			return nil, errno
		}
	}
}
