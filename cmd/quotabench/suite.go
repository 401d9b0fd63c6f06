package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// suiteOptions say how thorough the suite is.
type suiteOptions struct {
	rounds   int
	duration time.Duration
	warmup   time.Duration
	zipf     float64
	pairs    bool // nothing but pairs
	million  bool
	buckets  int
	dir      string
	quotad   string
}

func parseSuite(args []string, stderr io.Writer) (suiteOptions, error) {
	var o suiteOptions
	fs := newFlags("quotabench suite", stderr)
	fs.IntVar(&o.rounds, "rounds", 5, "how often each pair is measured; the median of their ratios counts")
	fs.DurationVar(&o.duration, "duration", 1500*time.Millisecond, "how long each load measures")
	fs.DurationVar(&o.warmup, "warmup", 400*time.Millisecond, "how long each load calls before that")
	fs.Float64Var(&o.zipf, "zipf", 1.1, "exponent of the Zipf distribution over many buckets")
	fs.BoolVar(&o.million, "million", true, "measure a file with many live buckets too")
	fs.IntVar(&o.buckets, "buckets", 1_000_000, "how many these are")
	fs.BoolVar(&o.pairs, "pairs", false, "measure nothing but reservations that are settled")
	quick := fs.Bool("quick", false, "one short round without --million: does all of it run?")
	fs.StringVar(&o.dir, "dir", "", "`directory` for the files, on a disk; the system's temporary one unless that is in memory, then bin/")
	fs.StringVar(&o.quotad, "quotad", "", "the daemon's `binary`; built from ./cmd/quotad if absent")
	if err := parse(fs, args); err != nil {
		return o, err
	}
	if *quick {
		o.rounds, o.duration, o.warmup, o.million = 1, 500*time.Millisecond, 200*time.Millisecond, false
	}
	if o.pairs {
		o.million = false
	}
	if o.rounds < 1 || o.rounds > 100 || o.duration <= 0 || o.duration > time.Minute || o.warmup < 0 || o.warmup > time.Minute ||
		o.zipf <= 1 || o.buckets < 1000 || o.buckets > keysMax {
		fmt.Fprintf(stderr, "quotabench suite: out of range; want 1 to 100 rounds of at most a minute, --zipf above 1, 1000 to %d --buckets\n", keysMax)
		return o, errUsage
	}
	return o, nil
}

// A cell is one line of the table: what is asked of both servers.
type cell struct {
	inFlight int
	keys     int
	ids      bool
	pairs    bool // reserve and settle, rather than acquire
}

const manyKeys = 10_000

// what says what is asked for, in words of one length.
func (c cell) what() string {
	switch {
	case c.pairs:
		return "held and settled"
	case c.ids:
		return "with receipts   "
	}
	return "without receipts"
}

// cells are those to measure; those that share an echo's load stand together.
func (o suiteOptions) cells() []cell {
	var all []cell
	for _, inFlight := range []int{256, 64, 1} {
		if o.pairs {
			break
		}
		for _, ids := range []bool{false, true} {
			for _, keys := range []int{1, manyKeys} {
				all = append(all, cell{inFlight: inFlight, keys: keys, ids: ids})
			}
		}
	}
	for _, inFlight := range []int{256, 64} {
		for _, keys := range []int{1, manyKeys} {
			all = append(all, cell{inFlight: inFlight, keys: keys, ids: true, pairs: true})
		}
	}
	return all
}

// A comparison has the figures of one cell, an echo's beside ours for each round.
type comparison struct{ ours, echo []figures }

// ratio returns the median over the rounds of our rate in the echo's.
func (c comparison) ratio() float64 {
	ratios := make([]float64, len(c.ours))
	for i := range c.ours {
		ratios[i] = c.ours[i].RPS / c.echo[i].RPS
	}
	return middleOf(ratios)
}

// middleOf returns the median.
func middleOf(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// over returns the median of one figure over rounds.
func over(rounds []figures, figure func(figures) float64) float64 {
	values := make([]float64, len(rounds))
	for i, f := range rounds {
		values[i] = figure(f)
	}
	return middleOf(values)
}

func rate(f figures) float64 { return f.RPS }
func p50(f figures) float64  { return f.P50 }
func p99(f figures) float64  { return f.P99 }

// A suite is one run of it and what it found.
type suite struct {
	suiteOptions
	progress io.Writer
	dir      string
	found    map[cell]*comparison
	syncs    []syncs // one for each round
	many     *many   // nil without --million
}

func runSuite(ctx context.Context, o suiteOptions, stdout, stderr io.Writer) (err error) {
	began, before := time.Now(), loadAverage()
	s := &suite{suiteOptions: o, progress: stderr, found: make(map[cell]*comparison)}
	if s.dir, err = realDisk(o.dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	fs, _ := fileSystem(s.dir)
	fmt.Fprintf(stderr, "the files are in %s (%s)\n", s.dir, fs)
	if s.quotad == "" {
		fmt.Fprintln(stderr, "building quotad")
		if s.quotad, err = build(ctx, s.dir); err != nil {
			return err
		}
	}
	if err := s.compare(ctx); err != nil {
		return err
	}
	if s.million {
		if err := s.measureMany(ctx); err != nil {
			return err
		}
	}
	s.report(stdout, facts(ctx, s.dir, before, began, time.Since(began)))
	return nil
}

// compare runs both servers side by side, and loads one at a time. An idle server costs the other nothing.
func (s *suite) compare(ctx context.Context) (err error) {
	quotad, _, err := startQuotad(ctx, s.quotad, filepath.Join(s.dir, "compare"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, quotad.stop()) }()
	if err := declare(ctx, quotad.addr); err != nil {
		return err
	}
	echo, err := startEcho(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, echo.stop()) }()
	for round := range s.rounds {
		disk, err := measureSyncs(s.dir, min(time.Second, s.duration))
		if err != nil {
			return err
		}
		s.syncs = append(s.syncs, disk)
		if err := s.round(ctx, round, quotad.addr, echo.addr); err != nil {
			return err
		}
	}
	return nil
}

// round measures every cell once. Cells that differ in their keys alone share an echo's load, to which keys are nothing.
func (s *suite) round(ctx context.Context, round int, quotad, echo string) error {
	var noop figures
	all := s.cells()
	for i, c := range all {
		l := s.load(c, round)
		if i == 0 || all[i-1].keys > c.keys {
			l.Server, l.Target = echo, targetEcho
			var err error
			if noop, err = l.inProcess(ctx); err != nil {
				return err
			}
		}
		if l.Server, l.Target = quotad, targetAcquire; c.pairs {
			l.Target = targetPairs
		}
		ours, err := l.inProcess(ctx)
		if err != nil {
			return err
		}
		if s.found[c] == nil {
			s.found[c] = new(comparison)
		}
		s.found[c].ours = append(s.found[c].ours, ours)
		s.found[c].echo = append(s.found[c].echo, noop)
		fmt.Fprintf(s.progress, "round %d of %d: %3d in flight, %5d buckets, %s %6.0f/s, echo %6.0f/s, ratio %.2f\n",
			round+1, s.rounds, c.inFlight, c.keys, c.what(), ours.RPS, noop.RPS, ours.RPS/noop.RPS)
	}
	return nil
}

func (s *suite) load(c cell, round int) load {
	l := load{
		Connections: 1, InFlight: c.inFlight, Keys: c.keys, IDs: c.ids,
		Duration: s.duration, Warmup: s.warmup, Seed: uint64(round + 1), //nolint:gosec // a small number
	}
	if c.keys > 1 {
		l.Zipf = s.zipf
	}
	if c.inFlight == 1 {
		l.Duration /= 2 // a lone caller's median settles soon
	}
	return l
}
