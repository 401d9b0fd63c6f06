//go:build !linux

package main

import "errors"

func volumeOf(string) (volume, error) {
	return volume{}, errors.New("what file system it is can be told on Linux alone")
}
