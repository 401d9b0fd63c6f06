package boltengine

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// networkFS are the file systems, by their magic number, on which neither locks nor syncs nor mapped files hold between hosts.
var networkFS = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "NFS",
	unix.SMB_SUPER_MAGIC:  "SMB",
	unix.SMB2_SUPER_MAGIC: "SMB",
	unix.CIFS_SUPER_MAGIC: "CIFS",
}

func refuseNetworkFS(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("asking for the file system of %s: %w", dir, err)
	}
	return refuseMagic(dir, int64(s.Type)&0xffffffff) //nolint:unconvert // it has 32 bits, and a sign, on some machines
}

// freeSpace returns how many bytes may be written below dir by who is not root.
func freeSpace(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	size := uint64(s.Frsize) //nolint:gosec // not negative
	if size == 0 {
		size = uint64(s.Bsize) //nolint:gosec // not negative
	}
	if s.Bavail > math.MaxInt64/max(size, 1) {
		return math.MaxInt64, nil
	}
	return int64(s.Bavail * size), nil //nolint:gosec // looked at above
}

// refuseMagic is refuseNetworkFS for a file system that is known.
func refuseMagic(dir string, magic int64) error {
	if name := networkFS[magic]; name != "" {
		return fmt.Errorf("%s is on %s, where a lock does not keep a second daemon out and a sync may not reach the disk: "+
			"use a local disk", dir, name)
	}
	return nil
}
