//go:build !race

package systemtest_test

const underRace = false
