//go:build !linux

package server

import "syscall"

// peerOf would ask the kernel who connected to a unix socket. How that is done here nobody has written yet, so that connections show
// nothing: nil.
func peerOf(syscall.Conn) (*unixPeer, error) { return nil, nil } //nolint:nilnil // nil is the answer
