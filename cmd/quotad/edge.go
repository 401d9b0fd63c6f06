package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/server"
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
	if d.admin != nil {
		fmt.Fprintf(&text, "admin-listen %s\n", server.AddressOf(d.admin))
	}
	aside := filepath.Join(filepath.Dir(d.c.AddrFile), "."+filepath.Base(d.c.AddrFile)+".new")
	if err := os.WriteFile(aside, []byte(text.String()), fileMode); err != nil {
		return err
	}
	return os.Rename(aside, d.c.AddrFile)
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
