package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/metrics"
	"github.com/quotad/quotad/internal/server"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/boltengine"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/tracing"
)

// daemon is one run of quotad.
type daemon struct {
	c       *config.Config
	stdout  io.Writer
	log     *slog.Logger
	logText bool // whether the log is for people to read as it comes
	stderr  io.Writer
	env     func(string) string
	build   build
	metrics *metrics.Metrics

	engineName string
	file       *boltengine.Engine // nil in memory
	ledger     *store.Store
	buckets    *bucketsFile // nil without one
	gate       *auth.Gate
	access     *accessFiles         // nil without a policy
	certs      *server.Certificates // nil without TLS
	keepers    []*keeper            // of all that is read again
	server     *server.Server
	grpc       []net.Listener
	control    []net.Listener
	probe      net.Listener // nil if off
	admin      net.Listener // nil if off
}

func newDaemon(c *config.Config, stdout, stderr io.Writer, env func(string) string) *daemon {
	d := &daemon{c: c, stdout: stdout, stderr: stderr, env: env, build: readBuild(), gate: &auth.Gate{}}
	d.log, d.logText = newLog(c, stderr)
	d.metrics = metrics.New(metrics.Build{Version: d.build.version, Commit: d.build.commit})
	return d
}

// run starts, serves until a signal or a failure, and stops. The order of both is that of the lines here.
func (d *daemon) run(ctx context.Context) error {
	// From here on a signal is an orderly stop, also while the file is being checked.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	d.log.Info("starting", "version", d.build.version, "commit", d.build.commit, "pid", os.Getpid())
	declare, err := d.readBuckets()
	if err != nil {
		return exitCode{exitUsage, err}
	}
	if err := d.readAccess(ctx); err != nil {
		return exitCode{exitUsage, err}
	}
	if err := d.openLedger(ctx); err != nil {
		return err
	}
	if err = declare(ctx); err == nil {
		d.noteAccess(ctx)
		err = d.serve(ctx, signals)
	}
	if untrusted(err) {
		return err // without closing: what is in memory must not be written over what is on the disk
	}
	if err = errors.Join(err, d.close(signals)); err == nil {
		d.log.Info("stopped")
	}
	return err
}

// close closes the ledger. A signal ends the wait, as the disk may hang; the ledger bears that.
func (d *daemon) close(signals <-chan os.Signal) error {
	began := time.Now()
	closed := make(chan error, 1)
	go func() { closed <- d.ledger.Close() }()
	for {
		select {
		case err := <-closed:
			if err != nil {
				return fmt.Errorf("closing the ledger: %w", err)
			}
			return nil
		case s := <-signals:
			if s != syscall.SIGHUP && time.Since(began) > sameSignal {
				return fmt.Errorf("%s while the ledger was closing", s)
			}
		}
	}
}

// readBuckets reads the buckets file before anything is opened, so that a slip in it has no effect at all. What it returns applies
// it to the ledger.
func (d *daemon) readBuckets() (declare func(context.Context) error, err error) {
	if d.c.Buckets == "" {
		return func(ctx context.Context) error { adopt(ctx, d.ledger, d.log); return nil }, nil
	}
	d.buckets = &bucketsFile{path: d.c.Buckets, log: d.log, observe: d.metrics.ObserveLoad, now: time.Now}
	d.keepers = append(d.keepers, newKeeper("buckets file", d.buckets, d.log, d.explain))
	declared, sum, err := d.buckets.read()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		d.buckets.ledger = d.ledger
		err := d.buckets.take(ctx, declared, sum, nil)
		if err != nil && !errors.Is(err, errNotKept) {
			return exitCode{exitUsage, err} // it declares more than there may be, say
		}
		return err
	}, nil
}

// readAccess reads who may call, and what quotad shows to callers, before anything is opened.
func (d *daemon) readAccess(ctx context.Context) (err error) {
	if d.c.TLSCert != "" {
		files := server.CertificateFiles{
			Cert: d.c.TLSCert, Key: d.c.TLSKey, ClientCA: d.c.TLSClientCA, Optional: d.c.TLSClients == "optional",
		}
		if d.certs, err = server.LoadCertificates(files); err != nil {
			return err
		}
		d.metrics.SetCertificate(d.certs.Expires)
		d.keepers = append(d.keepers, newKeeper("certificate", &certificates{d.certs.Files(), d.certs.Reload}, d.log, d.explain))
	}
	if d.c.Policy == "" {
		return nil
	}
	d.access = &accessFiles{
		policy: d.c.Policy, tokens: d.c.Tokens, gate: d.gate, log: d.log, observe: d.metrics.ObserveAccess, now: time.Now,
	}
	d.keepers = append(d.keepers, newKeeper("policy", d.access, d.log, d.explain))
	return d.access.load(ctx, true)
}

// noteAccess has the audit trail say which policy is in force.
func (d *daemon) noteAccess(ctx context.Context) {
	note := func(ctx context.Context) error { return noteAccess(ctx, d.ledger, noPolicy) }
	if d.access != nil {
		d.access.ledger = d.ledger
		note = d.access.note
	}
	if err := note(ctx); err != nil {
		d.log.Warn("noting who may call", "error", err)
	}
}

func (d *daemon) openLedger(ctx context.Context) error {
	var engine store.Engine
	if d.c.Data == "" {
		d.engineName = "memory"
		engine = memengine.New()
	} else {
		file, err := boltengine.Open(d.c.Data, boltengine.Options{Create: d.c.Create, MaxSize: d.c.MaxSize})
		if err != nil {
			return fmt.Errorf("opening %s: %w", d.c.Data, err)
		}
		if file.TornMeta() {
			d.log.Warn("a page of the data file was half written; the file is whole, and the next commits mend it", "file", file.Path())
		}
		d.engineName, d.file, engine = "bbolt", file, file
	}
	began := time.Now()
	ledger, err := store.Open(ctx, engine, store.Options{
		Defaults:    d.c.Defaults,
		Retain:      d.c.Retain,
		AcceptClock: d.c.AcceptClock,
		Now:         time.Now,
		OnBatch:     d.metrics.ObserveBatch,
		Log:         d.log,
	})
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	d.ledger = ledger
	d.metrics.SetStatus(func() store.Status { return scraped(context.WithoutCancel(ctx), ledger) })
	s := ledger.Status(ctx)
	d.log.Info("ledger is open", "engine", d.engineName, "data", d.c.Data, "bytes", s.Bytes, "declared", s.Declared,
		"default", d.c.Defaults.String(), "ledger_time", s.LedgerTime, "stopped_in_order", s.CleanStop, "took", time.Since(began))
	return nil
}

// serve answers calls until it is told to stop.
func (d *daemon) serve(ctx context.Context, signals <-chan os.Signal) error {
	// What may be refused comes before the addresses are there: whoever reads them may call at once.
	trace, err := d.startTracing(ctx)
	if err != nil {
		return err
	}
	stopNotify, err := d.startNotify(ctx)
	if err != nil {
		d.stopTracing(ctx, trace)
		return err
	}
	if err = d.listen(ctx); err == nil {
		err = d.answer(ctx, trace, signals)
	}
	if !untrusted(err) {
		stopNotify()
		d.stopTracing(ctx, trace)
	}
	return err
}

// answer answers calls on what is listened on.
func (d *daemon) answer(ctx context.Context, trace *tracing.Tracing, signals <-chan os.Signal) error {
	d.server = server.New(server.Config{
		Listeners: d.grpc, Control: d.control, Probe: d.probe, Admin: d.admin, AdminRemote: d.c.AdminRemote,
		TLS: d.certs, Gate: d.gate, Trace: trace.Handler(),
		Log: d.log, Metrics: d.metrics, Methods: auth.Methods(),
		Health: d.health, Drain: d.c.DrainTimeout, Now: time.Now, Ready: d.ready,
	})
	service.New(service.Config{
		Ledger: d.ledger, Log: d.log, Version: d.build.version, Engine: d.engineName, Access: d.gate.Get,
		Problems: d.problems, BackupDir: d.c.Data, Stopping: d.server.Stopping(),
	}).Register(d.server)
	return d.wait(ctx, signals)
}

// untrusted tells whether an error says that the disk cannot be trusted: then the process ends at once, without any further step.
func untrusted(err error) bool {
	code, ok := errors.AsType[exitCode](err)
	return ok && code.code == exitDisk
}

// listen opens the addresses. The directory's lock is held by now, so a socket that was left over is nobody's.
func (d *daemon) listen(ctx context.Context) (err error) {
	var all []net.Listener
	defer func() {
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
		}
	}()
	inherited, err := server.Inherit()
	if err != nil {
		return err
	}
	open := func(a config.Address, o server.ListenOptions) (net.Listener, error) {
		if a.Network == "" {
			return nil, nil //nolint:nilnil // off
		}
		o.Inherited, o.Unlocked = inherited, d.c.Data == ""
		l, err := server.Listen(ctx, a, o)
		if err == nil {
			all = append(all, l)
		}
		return l, err
	}
	known := d.certs != nil && d.access != nil // callers are told apart, and nobody listens in
	for _, a := range d.c.Listen {
		l, err := open(a, server.ListenOptions{Remote: known, Mode: d.c.SocketMode, Group: d.c.SocketGroup})
		if err != nil {
			return err
		}
		d.grpc = append(d.grpc, l)
	}
	for _, a := range d.c.Control {
		l, err := open(a, server.ListenOptions{Remote: known})
		if err != nil {
			return err
		}
		d.control = append(d.control, l)
	}
	if d.probe, err = open(d.c.Probe, server.ListenOptions{Remote: true}); err != nil {
		return fmt.Errorf("%w (--probe-listen takes another address, or off)", err)
	}
	if d.admin, err = open(d.c.Admin, server.ListenOptions{Remote: d.c.AdminRemote}); err != nil {
		return fmt.Errorf("%w (--admin-listen takes another address, or off)", err)
	}
	if unused := inherited.Unused(); len(unused) > 0 {
		return exitCode{exitUsage, fmt.Errorf("the service manager passed sockets that no address names: %s; want --listen fd://%s or the like for each", strings.Join(unused, ", "), unused[0])}
	}
	// Whoever reads them may call at once: the call waits until the server takes it.
	if err := d.writeAddrFile(); err != nil {
		return fmt.Errorf("writing the addresses: %w", err)
	}
	return nil
}

// sameSignal is how soon after the first a signal to stop means no more than that one did: timeout(1) and others send it to the
// process and to its group.
const sameSignal = 500 * time.Millisecond

// wait runs the server, and stops it when something says so.
func (d *daemon) wait(ctx context.Context, signals <-chan os.Signal) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan error, 1)
	go func() { stopped <- d.server.Run(ctx) }()
	gone := make(chan error, 1)
	if d.file != nil {
		go func() {
			if err := d.file.Watch(ctx, 0); err != nil {
				gone <- err
			}
		}()
	}
	for _, k := range d.keepers {
		go k.keep(ctx)
	}
	go d.watchdog(ctx)
	var stopping time.Time // when it began; zero before
	for {
		select {
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				d.hangUp()
			case !stopping.IsZero() && time.Since(stopping) < sameSignal:
			case !stopping.IsZero():
				d.log.Warn("a second signal: stopping at once", "signal", s.String())
				d.server.Stop()
			default:
				stopping = time.Now()
				d.log.Info("stopping", "signal", s.String())
				d.notify("STOPPING=1")
				stop()
			}
		case <-d.ledger.Failed():
			return d.diskFailed(errors.New("a write to the disk failed, and nobody knows what is on it now"))
		case err := <-gone:
			return d.diskFailed(err)
		case err := <-stopped:
			d.removeAddrFile()
			return err
		}
	}
}

// diskFailed ends the process without any further step: each could answer from what is not on the disk, or write to what is not
// ours any more.
func (d *daemon) diskFailed(why error) error {
	err := fmt.Errorf("%w: ending at once, so that the next start reads what is true", why)
	d.log.Error("the disk cannot be trusted", "error", err)
	return exitCode{exitDisk, err}
}

func (d *daemon) hangUp() {
	if len(d.keepers) == 0 {
		d.log.Info("SIGHUP: there is no file to read again")
	}
	for _, k := range d.keepers {
		k.ask()
	}
}

// ready is told once calls are taken.
func (d *daemon) ready() {
	if d.c.Dev {
		printDev(d.stdout, server.AddressOf(d.grpc[0]), d.engineName == "memory")
	}
	d.notify("READY=1")
	d.log.Info("ready")
}

// health sorts what is wrong into what stops the work and what somebody should look at. Without room to write every acquire is
// refused, so nobody should be sent here. A damaged record refuses its own bucket, a clock that is not believed keeps the old
// day, and a bad buckets file leaves the old one in force: to take the daemon out of service for these would turn a slip in one
// file into an outage of all that ask.
func (d *daemon) health(ctx context.Context) server.Health {
	s := d.ledger.Status(ctx)
	h := server.Health{Degraded: d.problems()}
	if s.Full {
		h.Down = s.Problems
	} else {
		h.Degraded = append(h.Degraded, s.Problems...)
	}
	return h
}

// problems returns what is wrong besides the ledger's own problems.
func (d *daemon) problems() (all []string) {
	if d.buckets != nil {
		all = append(all, d.buckets.problems()...)
	}
	if d.access != nil {
		all = append(all, d.access.problems()...)
	}
	if d.certs != nil {
		all = append(all, d.certs.Problems(time.Now())...)
	}
	return all
}

// scraped is the state of the ledger with what a scrape shows besides, and nobody else has to wait for.
func scraped(ctx context.Context, ledger *store.Store) store.Status {
	s := ledger.Status(ctx)
	var err error
	if s.Oldest, err = ledger.Oldest(ctx); err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	return s
}
