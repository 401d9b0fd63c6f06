package main

import (
	"fmt"
	"syscall"
)

// volumeKind tells file systems apart by the numbers that the kernel gives them: statfs(2).
func volumeKind(number int64) volume {
	switch number {
	case 0xef53:
		return volume{kind: "ext4"}
	case 0x58465342:
		return volume{kind: "xfs"}
	case 0x9123683e:
		return volume{kind: "btrfs"}
	case 0x2fc12fc1:
		return volume{kind: "zfs"}
	case 0x794c7630:
		return volume{kind: "overlay"}
	case 0x01021994:
		return volume{kind: "tmpfs", memory: true}
	case 0x858458f6:
		return volume{kind: "ramfs", memory: true}
	case 0x6969:
		return volume{kind: "nfs", network: true}
	case 0xff534d42:
		return volume{kind: "cifs", network: true}
	case 0xfe534d42:
		return volume{kind: "smb2", network: true}
	case 0x01021997:
		return volume{kind: "9p", network: true}
	case 0x00c36400:
		return volume{kind: "ceph", network: true}
	case 0x65735546: // which one cannot be told; most of them are on a network
		return volume{kind: "fuse", network: true}
	}
	return volume{}
}

func volumeOf(dir string) (volume, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return volume{}, fmt.Errorf("looking at the file system of %s: %w", dir, err)
	}
	v := volumeKind(int64(st.Type) & 0xffffffff)                   //nolint:unconvert // 32 bits on some machines
	size := int64(st.Bsize)                                        //nolint:unconvert // as above
	v.free, v.total = int64(st.Bavail)*size, int64(st.Blocks)*size //nolint:gosec // no disk has so much
	return v, nil
}
