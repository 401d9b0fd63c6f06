package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// syncData makes what was written to f durable, as bbolt does it.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// fileSystem names what the directory is on, by the magic numbers of statfs(2).
func fileSystem(dir string) (name string, inMemory bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return "unknown", false
	}
	switch s.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", false
	case unix.XFS_SUPER_MAGIC:
		return "xfs", false
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", false
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs", false
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "tmpfs", true
	}
	return fmt.Sprintf("of type %#x", s.Type), false
}

// kernel returns the kernel's name and release.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}
