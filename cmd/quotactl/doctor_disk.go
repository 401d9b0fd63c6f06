package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/quotad/quotad/internal/store/boltengine"
)

// volume is the file system that a directory is on.
type volume struct {
	kind        string // as mount names it; "" if it is not known
	network     bool   // whether another machine keeps it
	memory      bool   // whether nobody keeps it
	free, total int64  // bytes; what only root may use is not free
}

// roomMin is the least that should be free, in bytes, whatever the file's size: bbolt grows its file by up to 16 MiB at a time.
const roomMin = 64 << 20

// disk looks at the data directory from outside.
func (d *doctor) disk() {
	dir := d.o.data
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		d.say("data", failV, fmt.Sprintf("%s: %v", dir, cmpErr(err, fs.ErrNotExist)), "give --data the directory that quotad was given")
		return
	}
	d.modes(dir, info)
	d.volume(dir)
	d.offline(dir)
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// modes looks for what others on this machine could read or replace.
func (d *doctor) modes(dir string, info fs.FileInfo) {
	var open []string
	if info.Mode().Perm()&0o027 != 0 {
		open = append(open, fmt.Sprintf("%s has mode %04o", dir, info.Mode().Perm()))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		d.say("modes", skipV, err.Error(), "run it as quotad's own user, or as root")
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 && strings.HasSuffix(e.Name(), ".db") {
			open = append(open, fmt.Sprintf("%s has mode %04o", filepath.Join(dir, e.Name()), info.Mode().Perm()))
		}
	}
	if len(open) > 0 {
		d.say("modes", failV, someOf(open), "chmod 0700 the directory, and 0600 what is in it")
		return
	}
	d.well("modes", "%s is closed to others", dir)
}

func (d *doctor) volume(dir string) {
	v, err := volumeOf(dir)
	if err != nil {
		d.say("volume", skipV, err.Error(), "")
		return
	}
	found := fmt.Sprintf("%s free of %s", sizeOf(v.free), sizeOf(v.total))
	if v.kind != "" {
		found = v.kind + ", " + found
	}
	size := int64(roomMin)
	if info, err := os.Stat(filepath.Join(dir, boltengine.FileName)); err == nil {
		size = max(size, info.Size()) // a backup is as large as the file
	}
	switch {
	case v.network:
		d.say("volume", failV, found, "locks and syncs of network file systems cannot be relied upon: put the data on a disk of this machine")
	case v.memory:
		d.say("volume", failV, found, "what is there is gone when the machine restarts: put the data on a disk")
	case v.free < size:
		d.say("volume", warnV, found, fmt.Sprintf("make room: a backup takes as much as the file, %s here", sizeOf(size)))
	default:
		d.well("volume", "%s", found)
	}
}

// offline looks at the file itself, where no daemon has it open.
func (d *doctor) offline(dir string) {
	e, err := boltengine.Open(dir, boltengine.Options{ReadOnly: true})
	switch {
	case errors.Is(err, boltengine.ErrLocked):
		d.well("lock", "a quotad has %s open", dir)
	case err != nil:
		d.say("lock", failV, err.Error(), "keep this file, and restore a backup that verifies")
	default:
		_ = e.Close() // it was only read
		d.say("lock", warnV, "no quotad has "+dir+" open", "is it running, and with this directory? quotactl verify checks every record")
	}
}
