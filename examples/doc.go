// Package examples has its tests here: each example is run as its README says, against a real quotad.
package examples
