package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
)

// bar is the least share of the echo's rate that we want of a cell; 0 where there is a bar of another kind.
func (c cell) bar() float64 {
	switch {
	case c.pairs && c.inFlight == 256: // two durable calls for one
		return 0.30
	case c.pairs:
		return 0
	case c.inFlight == 256 && c.keys == 1:
		return 0.62
	case c.inFlight == 256:
		return 0.55
	case c.inFlight == 64 && c.keys == 1:
		return 0.50
	case c.inFlight == 64:
		return 0.45
	}
	return 0
}

const (
	manyBar  = 0.65            // the least share of the rate with few live buckets that is left with many
	startBar = 2 * time.Second // the longest start with many live buckets
)

// facts describe the machine and the run in a line.
func facts(ctx context.Context, dir string, before float64, at time.Time, took time.Duration) string {
	fs, _ := fileSystem(dir)
	busy := ""
	if before > float64(runtime.NumCPU())/2 {
		busy = fmt.Sprintf("The machine was busy with something else: its load average was %.1f before. ", before)
	}
	commit := "unknown"
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
		commit = strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%s, commit %s. %d CPUs (%s), %s, %s, grpc %s, files on %s; servers and load on the same CPUs. %sThe run took %.0f s.",
		at.UTC().Format(time.DateOnly), commit, runtime.NumCPU(), cpu(), kernel(), runtime.Version(), grpc.Version, fs, busy, took.Seconds())
}

// loadAverage returns how many processes wanted a CPU over the last minute; 0 where /proc does not tell it.
func loadAverage() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	n, _ := strconv.ParseFloat(first, 64)
	return n
}

// cpu returns the processor's name, where /proc tells it.
func cpu() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// report writes what was found as Markdown.
func (s *suite) report(w io.Writer, facts string) {
	fmt.Fprintf(w, "%s Medians of %d rounds of %.1f s, one connection, Zipf exponent %g. Latencies in microseconds.\n",
		facts, s.rounds, s.duration.Seconds(), s.zipf)
	if !s.pairs {
		s.reportRates(w)
		s.reportAlone(w)
	}
	s.reportPairs(w)
	if s.many != nil {
		s.reportMany(w)
	}
}

func (s *suite) reportRates(w io.Writer) {
	fmt.Fprintln(w, "\n| in flight | buckets | receipts | quotad/s | echo/s | ratio | bar | | p50 | p99 | echo p50 |")
	fmt.Fprintln(w, "|---:|---:|---|---:|---:|---:|---:|---|---:|---:|---:|")
	for _, c := range s.cells() {
		if !c.pairs {
			fmt.Fprintf(w, "| %d | %d | %s | %s |\n", c.inFlight, c.keys, onOff(c.ids), s.rates(c))
		}
	}
}

// reportPairs shows what two durable calls for one cost: an acquire that holds, and its settlement.
func (s *suite) reportPairs(w io.Writer) {
	fmt.Fprintln(w, "\n| held and settled, in flight | buckets | pairs/s | echo/s | ratio | bar | | p50 of a pair | p99 | echo p50 |")
	fmt.Fprintln(w, "|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|")
	for _, c := range s.cells() {
		if c.pairs {
			fmt.Fprintf(w, "| %d | %d | %s |\n", c.inFlight, c.keys, s.rates(c))
		}
	}
}

// rates are the columns that every cell has.
func (s *suite) rates(c cell) string {
	r := s.found[c]
	bar, verdict := "", ""
	if c.bar() > 0 {
		bar, verdict = fmt.Sprintf("%.2f", c.bar()), word(r.ratio() >= c.bar())
	}
	return fmt.Sprintf("%.0f | %.0f | %.2f | %s | %s | %.0f | %.0f | %.0f",
		over(r.ours, rate), over(r.echo, rate), r.ratio(), bar, verdict, over(r.ours, p50), over(r.ours, p99), over(r.echo, p50))
}

// reportAlone shows what a lone caller waits for: two syncs, and a call and a half of wake-ups.
func (s *suite) reportAlone(w io.Writer) {
	pair := overSyncs(s.syncs, func(d syncs) time.Duration { return d.pair })
	appended := overSyncs(s.syncs, func(d syncs) time.Duration { return d.appended })
	fmt.Fprintf(w, "\nThe same disk: two fdatasyncs, each after a page was overwritten, as a commit makes them: p50 %.0f. One after an append: p50 %.0f.\n\n", pair, appended)
	fmt.Fprintln(w, "| one caller alone, one bucket | p50 | bar: two fdatasyncs and two echoes | | bar with two appends |")
	fmt.Fprintln(w, "|---|---:|---:|---|---:|")
	for _, ids := range []bool{false, true} {
		r := s.found[cell{inFlight: 1, keys: 1, ids: ids}]
		ours, noop := over(r.ours, p50), over(r.echo, p50)
		bar := pair + 2*noop
		fmt.Fprintf(w, "| receipts %s | %.0f | %.0f + 2 x %.0f = %.0f | %s | %.0f |\n", onOff(ids), ours, pair, noop, bar, word(ours <= bar), 2*appended+2*noop)
	}
}

func (s *suite) reportMany(w io.Writer) {
	m := s.many
	few, all := over(m.few, rate), over(m.all, rate)
	ratios := make([]float64, len(m.all))
	for i := range m.all {
		ratios[i] = m.all[i].RPS / m.few[i].RPS
	}
	ratio := middleOf(ratios)
	fmt.Fprintf(w, "\n| %d live buckets | | bar | |\n|---|---:|---:|---|\n", m.buckets)
	fmt.Fprintf(w, "| rate at 256 in flight, Zipf, no receipts | %.0f/s | | |\n", all)
	fmt.Fprintf(w, "| the same with %d live buckets | %.0f/s | | |\n", fewBuckets, few)
	fmt.Fprintf(w, "| ratio | %.2f | %.2f | %s |\n", ratio, manyBar, word(ratio >= manyBar))
	fmt.Fprintf(w, "| start to first answer | %.2f s | %.0f s | %s |\n", m.started.Seconds(), startBar.Seconds(), word(m.started <= startBar))
	fmt.Fprintf(w, "| memory of the process, after start and load | %.0f MB, %.0f bytes a bucket | | |\n", float64(m.own)/1e6, float64(m.own)/float64(m.buckets))
	fmt.Fprintf(w, "| pages of the file it maps | %.0f MB | | |\n", float64(m.showing)/1e6)
	fmt.Fprintf(w, "| file, each bucket charged once | %.0f MB, %.0f bytes a bucket | | |\n", float64(m.file)/1e6, float64(m.file)/float64(m.buckets))
	fmt.Fprintf(w, "| to charge each once, 32 in a request | %.1f s | | |\n", m.filled.Seconds())
}

func overSyncs(rounds []syncs, of func(syncs) time.Duration) float64 {
	values := make([]float64, len(rounds))
	for i, d := range rounds {
		values[i] = float64(of(d)) / float64(time.Microsecond)
	}
	return middleOf(values)
}

func word(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
