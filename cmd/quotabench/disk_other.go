//go:build !linux

package main

import (
	"os"
	"runtime"
)

func syncData(f *os.File) error { return f.Sync() }

func fileSystem(string) (name string, inMemory bool) { return "unknown", false }

func kernel() string { return runtime.GOOS }
