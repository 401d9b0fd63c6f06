package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/server"
	"github.com/quotad/quotad/internal/store"
)

// fileMode is that of the file with the addresses: others on this machine may read where to call.
const fileMode os.FileMode = 0o644

// newLog returns the log, and whether it is text for people.
func newLog(c *config.Config, stderr io.Writer) (*slog.Logger, bool) {
	text := c.LogFormat == "text"
	if f, ok := stderr.(*os.File); ok && c.LogFormat == "auto" {
		text = term.IsTerminal(int(f.Fd()))
	}
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if text {
		return slog.New(slog.NewTextHandler(stderr, o)), true
	}
	return slog.New(slog.NewJSONHandler(stderr, o)), false
}

// explain shows an error in full. Lines with carets are for people as they are; a log that machines read has them in one field.
func (d *daemon) explain(err error) {
	if d.logText {
		complain(d.stderr, err)
		return
	}
	d.log.Error("why", "error", err.Error())
}

// writeAddrFile writes the addresses that were bound, one on a line, whole or not at all.
func (d *daemon) writeAddrFile() error {
	if d.c.AddrFile == "" {
		return nil
	}
	var text strings.Builder
	for _, l := range d.grpc {
		fmt.Fprintf(&text, "listen %s\n", server.AddressOf(l))
	}
	for _, l := range d.control {
		fmt.Fprintf(&text, "control-listen %s\n", server.AddressOf(l))
	}
	if d.probe != nil {
		fmt.Fprintf(&text, "probe-listen %s\n", server.AddressOf(d.probe))
	}
	if d.admin != nil {
		fmt.Fprintf(&text, "admin-listen %s\n", server.AddressOf(d.admin))
	}
	aside := filepath.Join(filepath.Dir(d.c.AddrFile), "."+filepath.Base(d.c.AddrFile)+".new")
	if err := writeNew(aside, text.String()); err != nil {
		return err
	}
	return os.Rename(aside, d.c.AddrFile)
}

// writeNew writes a file that is new, and nobody's link to another: the directory may be one that others write to.
func writeNew(path, text string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // left over by a start that was killed
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// removeAddrFile takes the file away with the addresses that nobody listens on any more.
func (d *daemon) removeAddrFile() {
	if d.c.AddrFile != "" {
		_ = os.Remove(d.c.AddrFile) // somebody else may have done so
	}
}

// notify tells systemd how far the daemon is, if it was started by it (Type=notify).
func (d *daemon) notify(state string) {
	path := d.env("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close()
	}
	if err != nil {
		d.log.Warn("telling the service manager", "state", state, "error", err)
	}
}

// watchdog tells systemd that the daemon lives, as often as it wants to know (WatchdogSec). It asks the ledger's writer each time: a
// process whose disk hangs is not alive to anybody who needs an answer.
func (d *daemon) watchdog(ctx context.Context) {
	usec, err := strconv.ParseInt(d.env("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || d.env("NOTIFY_SOCKET") == "" {
		return
	}
	every := time.Duration(usec) * time.Microsecond / 2
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			asking, cancel := context.WithTimeout(ctx, every)
			_, err := d.ledger.Apply(asking, quota.Expire{}) // tells whether something is due, and writes nothing
			cancel()
			if err == nil || errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrOverloaded) {
				d.notify("WATCHDOG=1")
			}
		}
	}
}

// printDev prints lines to paste.
func printDev(out io.Writer, address string, memory bool) {
	if memory {
		fmt.Fprint(out, "\nNOTHING IS KEPT: quotad counts in memory, and forgets it all when it stops.\n"+
			"For counts that last: quotad --data DIR --create\n")
	}
	grpcurl := "grpcurl -plaintext -d '{\"bucket\":\"portfolio\"}' " + address
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		grpcurl = "grpcurl -plaintext -unix -d '{\"bucket\":\"portfolio\"}' " + path
	}
	fmt.Fprintf(out, `
Take one call from the bucket "portfolio", in three ways:
  quotactl --server %s acquire portfolio
  %s quotad.v1.QuotaService/Acquire
  conn, err := grpc.NewClient(%q, grpc.WithTransportCredentials(insecure.NewCredentials())); resp, err := quotadv1.NewQuotaServiceClient(conn).Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "portfolio"})

`, address, grpcurl, address)
}
