package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"google.golang.org/grpc"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// killAt is after how many grants the daemon is killed: in the middle of the day.
const killAt = 20

// demo plays the day and says how it went.
func demo(ctx context.Context, binary string, w io.Writer) (err error) {
	scratch, err := os.MkdirTemp("", "quotademo-")
	if err != nil {
		return fmt.Errorf("making a scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	fmt.Fprintf(w, "One budget of %d calls a day, shared by two apps; one of them is dear and stops at 10.\n\n", limit)
	if binary == "" {
		fmt.Fprintln(w, "  building quotad")
	}
	d, err := newDaemon(ctx, binary, scratch)
	if err != nil {
		return err
	}
	defer d.kill()
	if err := d.start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(w, "  quotad serves on %s and keeps its counts in %s\n", d.addr, d.data)
	conn, err := connect(d.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := declare(ctx, conn); err != nil {
		return err
	}
	if err := reserve(ctx, conn, w); err != nil {
		return err
	}
	today := newDay()
	if err := play(ctx, d, today, w); err != nil {
		return err
	}
	if err := today.conclude(ctx, conn, w); err != nil {
		return err
	}
	if err := today.audit(ctx, conn); err != nil {
		return err
	}
	if err := d.stop(); err != nil {
		return err
	}
	today.print(w, time.Now())
	if broken := today.broken(); len(broken) > 0 {
		return fmt.Errorf("%d promises were broken; the data is in %s", len(broken), d.data)
	}
	byHand(w, d.data)
	return nil
}

// declare sets the shared limits, in a zone whose day does not end while the demo runs.
func declare(ctx context.Context, conn *grpc.ClientConn) error {
	zone := "UTC"
	if now := time.Now().UTC(); now.Hour() == 23 && now.Minute() >= 55 {
		zone = "Asia/Tokyo"
	}
	day := func(unit string, most int64) []*quotadv1.Limit {
		return []*quotadv1.Limit{{Unit: unit, Window: quotadv1.Window_WINDOW_DAY, Max: most}}
	}
	for _, b := range []*quotadv1.Bucket{
		{Name: bucket, Zone: zone, Description: "what both apps share", Limits: day("calls", limit)},
		{Name: spending, Zone: zone, Description: "what long calls cost", Limits: day(money, 1_000_000)},
	} {
		request := &quotadv1.SetBucketRequest{Bucket: b, Reason: "the demo"}
		if _, err := quotadv1.NewAdminServiceClient(conn).SetBucket(ctx, request, grpc.WaitForReady(true)); err != nil {
			return fmt.Errorf("declaring %s: %w", b.GetName(), err)
		}
	}
	return nil
}

// ending is how an app's process ended.
type ending struct{ err error }

// play runs the apps, the dear one first, and kills the daemon while both are asking.
func play(ctx context.Context, d *daemon, today *day, w io.Writer) error {
	playing, cancel := context.WithTimeout(ctx, time.Minute) // of the apps; the daemon outlives them
	defer cancel()
	answers, ended := make(chan answer, 1000), make(chan ending, 2) // room for all, so that no app waits for us
	start := func(a app) {
		text := "with no ceiling of its own"
		if a.ceiling > 0 {
			text = fmt.Sprintf("only while the count that both share stays at or below %d", a.ceiling)
		}
		fmt.Fprintf(w, "  %s asks %d times in %.1f s, %s\n", a.name, a.calls, a.over.Seconds(), text)
		go func() { ended <- ending{runApp(playing, a, d.addr, answers)} }()
	}
	dear, other := apps()[0], apps()[1]
	running, begun := 1, false
	defer func() { // whatever happened, leave no process behind
		for cancel(); running > 0; running-- {
			<-ended
		}
	}()
	start(dear)
	for running > 0 {
		select {
		case a := <-answers:
			today.note(a)
			if !begun && today.tally(dear.name).granted == int(dear.ceiling) {
				begun = true
				running++
				start(other)
			}
			if today.killed.IsZero() && today.granted() == killAt {
				if err := today.crash(ctx, d, w); err != nil {
					return err
				}
			}
		case app := <-ended:
			running--
			if app.err != nil {
				return app.err
			}
		}
	}
	for len(answers) > 0 {
		today.note(<-answers)
	}
	return nil
}

// crash kills the daemon and starts it again on the file that it left.
func (t *day) crash(ctx context.Context, d *daemon, w io.Writer) error {
	d.kill()
	t.killed = time.Now()
	fmt.Fprintf(w, "  kill -9 after %d grants, while both apps are asking\n", t.granted())
	pause(ctx, 200*time.Millisecond) // calls without an answer pile up
	begun := time.Now()
	if err := d.start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(w, "  quotad is back after %d ms, and the apps ask again with the same ids\n", time.Since(begun).Milliseconds())
	return nil
}

// runApp runs this program as the app, and passes on what it tells.
func runApp(ctx context.Context, a app, server string, answers chan<- answer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("starting %s: %w", a.name, err)
	}
	cmd := exec.CommandContext(ctx, self, "--play", a.name, "--server", server)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting %s: %w", a.name, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", a.name, err)
	}
	for in := json.NewDecoder(out); ; {
		var got answer
		if err = in.Decode(&got); err != nil {
			break
		}
		answers <- got
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return fmt.Errorf("running %s: %w", a.name, err)
	}
	return nil
}

func byHand(w io.Writer, data string) {
	fmt.Fprintf(w, `
The daemon is stopped; its file stays in %[1]s. By hand, in two terminals:

  make build && bin/quotad --data %[1]s

  bin/quotactl list                   # the count, and when it resets
  bin/quotactl acquire %[2]s      # denied, exit 3
  bin/quotactl history %[2]s
  bin/quotactl reset %[2]s        # asks first
  grpcurl -plaintext -d '{"bucket": "%[2]s"}' 127.0.0.1:7070 quotad.v1.QuotaService/Acquire
`, data, bucket)
}
