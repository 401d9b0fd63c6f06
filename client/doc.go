// Package client asks quotad before a call that costs money, and tells it afterwards what the call really used.
package client
