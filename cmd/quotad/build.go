package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// build is what the go command noted about this binary.
type build struct{ version, commit string }

func readBuild() build {
	b := build{version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.version = info.Main.Version
	}
	changed := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.commit = s.Value
		case "vcs.modified":
			changed = s.Value == "true"
		}
	}
	if b.commit != "" && changed {
		b.commit += "+changes"
	}
	return b
}

// String returns the build in a line, as --version prints it.
func (b build) String() string {
	commit := b.commit
	if commit == "" {
		commit = "unknown"
	}
	return fmt.Sprintf("quotad %s (commit %s, %s, %s/%s)", b.version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
