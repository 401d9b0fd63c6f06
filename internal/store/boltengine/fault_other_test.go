//go:build !linux

package boltengine

// faultParts is empty, as only Linux is made to fail in those ways.
func faultParts() map[string]part { return map[string]part{} }
