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
	server     *server.Server
	grpc       []net.Listener
	admin      net.Listener // nil if off
}

func newDaemon(c *config.Config, stdout, stderr io.Writer, env func(string) string) *daemon {
	d := &daemon{c: c, stdout: stdout, stderr: stderr, env: env, build: readBuild()}
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
	if err := d.openLedger(ctx); err != nil {
		return err
	}
	if err = declare(ctx); err == nil {
		err = d.serve(ctx, signals)
	}
	if code, ok := errors.AsType[exitCode](err); ok && code.code == exitDisk {
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
	d.buckets = &bucketsFile{path: d.c.Buckets, log: d.log, observe: d.metrics.ObserveLoad, now: time.Now, explain: d.explain}
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
	if err := d.listen(ctx); err != nil {
		return err
	}
	d.server = server.New(server.Config{
		Listeners: d.grpc, Admin: d.admin, Log: d.log, Metrics: d.metrics, Methods: auth.Methods(),
		Health: d.health, Drain: d.c.DrainTimeout, Now: time.Now, Ready: d.ready,
	})
	service.New(service.Config{
		Ledger: d.ledger, Log: d.log, Version: d.build.version, Engine: d.engineName,
		Problems: d.problems, BackupDir: d.c.Data, Stopping: d.server.Stopping(),
	}).Register(d.server)
	return d.wait(ctx, signals)
}

// listen opens the addresses. The directory's lock is held by now, so a socket that was left over is nobody's.
func (d *daemon) listen(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			for _, l := range d.grpc {
				_ = l.Close()
			}
			if d.admin != nil {
				_ = d.admin.Close()
			}
		}
	}()
	for _, a := range d.c.Listen {
		l, err := server.Listen(ctx, a)
		if err != nil {
			return err
		}
		d.grpc = append(d.grpc, l)
	}
	if d.c.Admin.Network != "" {
		if d.admin, err = server.Listen(ctx, d.c.Admin); err != nil {
			return fmt.Errorf("%w (--admin-listen takes another address, or off)", err)
		}
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
	reload := make(chan struct{}, 1)
	if d.buckets != nil {
		go d.buckets.keep(ctx, reload)
	}
	var stopping time.Time // when it began; zero before
	for {
		select {
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				d.hangUp(reload)
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

func (d *daemon) hangUp(reload chan<- struct{}) {
	if d.buckets == nil {
		d.log.Info("SIGHUP: there is no buckets file to read again")
		return
	}
	select {
	case reload <- struct{}{}:
	default: // one is due already
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
func (d *daemon) problems() []string {
	if d.buckets == nil {
		return nil
	}
	return d.buckets.problems()
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
