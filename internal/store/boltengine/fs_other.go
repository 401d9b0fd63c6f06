//go:build !linux

package boltengine

import "math"

// refuseNetworkFS accepts every directory: only Linux is asked which file system it is on.
func refuseNetworkFS(string) error { return nil }

// freeSpace finds room everywhere: only Linux is asked how much there is.
func freeSpace(string) (int64, error) { return math.MaxInt64, nil }
