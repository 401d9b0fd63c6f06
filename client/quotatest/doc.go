// Package quotatest runs a whole quotad inside a test, with a clock that the test sets.
package quotatest
