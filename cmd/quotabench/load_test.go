package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// echoServer serves the echo for one test, and returns its address.
func echoServer(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serveEcho(ctx, "127.0.0.1:0", w) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// A load on the echo is answered, and its figures are those that the suite reads.
func TestLoadOnEcho(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	err := run(t.Context(), []string{
		"--server", echoServer(t), "--target", "echo", "--inflight", "8", "--connections", "2", "--keys", "100", "--zipf", "1.2", "--ids",
		"--duration", "100ms", "--warmup", "10ms", "-o", "json",
	}, &out, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var f figures
	if err := json.Unmarshal([]byte(out.String()), &f); err != nil {
		t.Fatal(err)
	}
	if f.RPS < 10 || f.P50 <= 0 || f.P50 > f.P90 || f.P90 > f.P99 || f.P99 > f.P999 || f.Errors != 0 || f.Denials != 0 || f.InFlight != 8 {
		t.Errorf("figures %+v", f)
	}
}

// A server that knows no Acquire is an error and not a rate of zero.
func TestLoadOnTheWrongServer(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), []string{"--server", echoServer(t), "--no-setup", "--inflight", "2", "--duration", "50ms", "--warmup", "0s"}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "no call was answered") || !strings.Contains(err.Error(), "Unimplemented") {
		t.Errorf("error %v", err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--target nothing":               `--target "nothing" is unknown; want acquire, pairs or echo`,
		"--target pairs":                 "--target pairs needs --ids",
		"--zipf 0.9":                     "--zipf 0.9 is out of range; want more than 1, or 0 for a uniform load",
		"--inflight 2 --connections 4":   "--inflight 2 is out of range",
		"--keys 0":                       "--keys 0 is out of range",
		"-o yaml":                        `-o "yaml" is unknown; want table or json`,
		"sweet":                          `"sweet" is not a flag`,
		"suite --rounds 0":               "out of range",
		"suite --quick --buckets 1":      "out of range",
		"--duration 2h":                  "at most an hour",
		"--server x --nonsense":          "flag provided but not defined: -nonsense",
		"suite --duration 1s unexpected": `"unexpected" is not a flag`,
	} {
		var told strings.Builder
		err := run(t.Context(), strings.Fields(args), io.Discard, &told)
		if !errors.Is(err, errUsage) || !strings.Contains(told.String(), want) {
			t.Errorf("%s: error %v, told %q, want %q", args, err, told.String(), want)
		}
	}
}

// What is reported are medians over rounds, each round's ratio by itself, and whether they meet the bars.
func TestReport(t *testing.T) {
	t.Parallel()
	s := &suite{suiteOptions: suiteOptions{rounds: 3, duration: time.Second, zipf: 1.1}, found: make(map[cell]*comparison)}
	for _, c := range s.cells() {
		s.found[c] = &comparison{
			ours: []figures{{RPS: 70, P50: 500, P99: 900}, {RPS: 20, P50: 400, P99: 1000}, {RPS: 30, P50: 450, P99: 800}},
			echo: []figures{{RPS: 100, P50: 150}, {RPS: 10, P50: 50}, {RPS: 60, P50: 100}},
		}
	}
	s.syncs = []syncs{{appended: 300 * time.Microsecond, pair: 260 * time.Microsecond}}
	s.many = &many{buckets: 1000, all: []figures{{RPS: 6}}, few: []figures{{RPS: 10}}, started: 3 * time.Second, file: 53_000, own: 2_000_000}
	var out strings.Builder
	s.report(&out, "Facts.")
	for _, want := range []string{
		"Facts. Medians of 3 rounds of 1.0 s",
		"| 256 | 1 | off | 30 | 60 | 0.70 | 0.62 | met | 450 | 900 | 100 |",
		"| 1 | 10000 | on | 30 | 60 | 0.70 |  |  | 450 | 900 | 100 |",
		"| 256 | 1 | 30 | 60 | 0.70 | 0.30 | met | 450 | 900 | 100 |",
		"| 64 | 10000 | 30 | 60 | 0.70 |  |  | 450 | 900 | 100 |",
		"| receipts off | 450 | 260 + 2 x 100 = 460 | met | 800 |",
		"| ratio | 0.60 | 0.65 | missed |",
		"| start to first answer | 3.00 s | 2 s | missed |",
		"53 bytes a bucket",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
