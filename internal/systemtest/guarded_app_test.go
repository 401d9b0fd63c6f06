package systemtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quotad/quotad/bedrock"
	quota "github.com/quotad/quotad/client"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// appRole makes this test binary serve as the app of the tests that kill it: see serveApp.
const appRole = "SYSTEMTEST_APP"

// appHold is how long the app's reservations are held: what a killed app leaves open expires while the test looks on. That calls of
// its successor may be settled after it does no harm, as a late settlement corrects the count.
const appHold = time.Second

// What each call of the app uses.
const (
	appInput  = 11
	appOutput = 7
)

// A said is one thing that the app says, as a line of JSON.
type said struct {
	Pending int64           // notes found in the journal, when it has started
	Model   string          // of a call that has ended
	Outcome bedrock.Outcome // how
	ID      string          // its reservation
	Usage   bedrock.Usage
	Lost    int64 // settlements, when all is done
}

// serveApp makes guarded calls: the daemon's socket, Bedrock's address, the journal, and the numbers of the first call and of the one
// after the last are its arguments. With no calls left it delivers what there is.
func serveApp(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("%d arguments, want 5", len(args))
	}
	from, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	to, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	q, err := quota.Dial("unix://"+args[0], quota.WithJournal(args[2]))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(s said) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(os.Stdout).Encode(s) // the test misses it
	}
	say(said{Pending: q.Stats().Pending})
	cfg := aws.Config{
		Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""), BaseEndpoint: &args[1],
	}
	guard := bedrock.Guard(q, bedrock.BucketBy(paidBucket), bedrock.Hold(appHold), bedrock.Observe(func(r bedrock.Record) {
		say(said{Model: r.Call.Model, Outcome: r.Outcome, ID: r.RequestID, Usage: r.Usage})
	}))
	kinds := []string{bedrocktest.Converse, bedrocktest.InvokeModel, bedrocktest.ConverseStream}
	var next atomic.Int64
	next.Store(int64(from))
	var wg sync.WaitGroup
	for range 16 {
		sdk := bedrockruntime.NewFromConfig(cfg, guard) // one for each caller, as in payer.sdk
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < to; n = int(next.Add(1)) - 1 {
				_ = makePaid(ctx, sdk, fmt.Sprintf("call-%06d", n), kinds[n%len(kinds)]) // Observe tells
			}
		})
	}
	wg.Wait()
	err = errors.Join(q.Flush(ctx), q.Close())
	say(said{Lost: q.Stats().Lost})
	return err
}

// An app is one process of serveApp.
type app struct {
	p      *payer
	cmd    *exec.Cmd
	errs   *output
	rest   []byte // of a line that has not ended
	exited chan struct{}

	journaled, lost int64 // what it has said; guarded by p.mu
	err             error // how it ended; read it after exited
}

// launchApp starts an app that makes the calls numbered from up to to.
func (p *payer) launchApp(journal string, from, to int) *app {
	p.t.Helper()
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	a := &app{p: p, errs: new(output), exited: make(chan struct{})}
	a.cmd = exec.Command(self, p.socket, p.fake.URL(), journal, strconv.Itoa(from), strconv.Itoa(to))
	a.cmd.Env, a.cmd.Stdout, a.cmd.Stderr = append(os.Environ(), appRole+"=1"), a, a.errs
	if err := a.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		a.err = a.cmd.Wait()
		close(a.exited)
	}()
	p.t.Cleanup(a.kill)
	return a
}

// kill ends the app in the middle of what it does, and waits until it is gone.
func (a *app) kill() {
	_ = a.cmd.Process.Kill()
	<-a.exited
}

// finish waits until the app has done all, and wants it to end well.
func (a *app) finish() {
	a.p.t.Helper()
	select {
	case <-a.exited:
	case <-time.After(2 * patience):
		a.p.t.Fatalf("the app did not end within %v\n%s", 2*patience, a.errs)
	}
	if a.err != nil {
		a.p.t.Fatalf("the app ended with %v\n%s", a.err, a.errs)
	}
}

// Write takes what the app says.
func (a *app) Write(text []byte) (int, error) {
	a.rest = append(a.rest, text...)
	for {
		line, rest, whole := bytes.Cut(a.rest, []byte("\n"))
		if !whole {
			return len(text), nil
		}
		var s said
		if err := json.Unmarshal(line, &s); err != nil {
			return 0, fmt.Errorf("the app says %q: %w", line, err)
		}
		a.rest = rest
		a.p.note(func() {
			a.journaled += s.Pending
			a.lost += s.Lost
			if s.Model != "" {
				a.p.end(bedrock.Record{Call: bedrock.Call{Model: s.Model}, Outcome: s.Outcome, RequestID: s.ID, Usage: s.Usage})
			}
		})
	}
}

// expire waits until nothing is held any more.
func (p *payer) expire(d *daemon) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	c := d.dial(p.t)
	defer c.close()
	watch, err := c.WatchUsage(ctx, &quotadv1.WatchUsageRequest{Prefix: "paid", Interval: durationpb.New(100 * time.Millisecond)})
	if err != nil {
		p.t.Fatal(err)
	}
	for {
		seen, err := watch.Recv()
		if err != nil {
			p.t.Fatalf("waiting for what is held to expire: %v", err)
		}
		for _, b := range seen.GetBalances() {
			if b.GetBucket() == "paid" && b.GetUnit() == "calls" && b.GetWindow() == quotadv1.Window_WINDOW_EVER && b.GetHeld() == 0 {
				return
			}
		}
	}
}

// An audit is what became of the calls of apps that were killed.
type audit struct {
	settled int64            // counted as Bedrock has billed them
	cut     int64            // on their way when their app died, and charged as held
	unsent  int64            // reserved when their app died before it sent them, and charged as held
	charged map[string]int64 // all of them, by unit
}

// judgeKilled holds the books against each other when every app is gone and what was held has expired. Of a call that was on its way when
// its app died nobody can say what it used. What holds is that no call is free: each that Bedrock has billed is counted, as billed
// or as it was held, and nothing else is, but for calls that were reserved and never sent.
func (p *payer) judgeKilled(a accounts) audit {
	of := audit{charged: make(map[string]int64)}
	for model := range a.reached {
		p.granted(a, model)
	}
	for model, reserved := range a.reserved {
		for _, r := range reserved {
			p.audit(&of, r, a.reached[model] > 0)
		}
	}
	if a.bill.Calls != of.settled+of.cut {
		p.faults("sum: Bedrock has billed %d calls; %d are settled, and %d were cut off", a.bill.Calls, of.settled, of.cut)
	}
	for unit, billed := range map[string]int64{"calls": a.bill.Calls, "input_tokens": a.bill.Tokens.Input, "output_tokens": a.bill.Tokens.Output} {
		if a.used[unit] != of.charged[unit] || a.used[unit] < billed || a.held[unit] != 0 {
			p.faults("sum: %d %s are used and %d held, want %d; Bedrock has billed %d", a.used[unit], unit, a.held[unit], of.charged[unit], billed)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for model, records := range p.records {
		switch {
		case len(records) != 1:
			p.faults("%s has ended %d times: %v", model, len(records), records)
		case records[0].Outcome == bedrock.OutcomeSettled:
			p.stands(a, records[0], quotadv1.ReservationState_RESERVATION_STATE_SETTLED)
		case records[0].Outcome == bedrock.OutcomeRefused && len(a.reserved[model]) == 0:
		case records[0].Outcome == bedrock.OutcomeRefused:
			p.stands(a, records[0], quotadv1.ReservationState_RESERVATION_STATE_RELEASED)
		default:
			p.faults("%s is %s", model, records[0].Outcome)
		}
	}
	return of
}

// audit enters what a reservation has in the counts.
func (p *payer) audit(of *audit, r *quotadv1.Reservation, reached bool) {
	charged := r.GetCharges()
	switch state := r.GetState(); {
	case state == quotadv1.ReservationState_RESERVATION_STATE_SETTLED && reached:
		of.settled++
		charged = r.GetSettled()
	case state == quotadv1.ReservationState_RESERVATION_STATE_EXPIRED && reached:
		of.cut++
	case state == quotadv1.ReservationState_RESERVATION_STATE_EXPIRED:
		of.unsent++
	case state == quotadv1.ReservationState_RESERVATION_STATE_RELEASED && !reached:
		return
	default:
		p.faults("%s is %s, and was sent: %t", r.GetBucket(), state, reached)
	}
	amounts := unitsOf(charged)
	for unit, n := range amounts {
		of.charged[unit] += n
	}
	exact := amounts["calls"] == 1 && amounts["input_tokens"] == appInput && amounts["output_tokens"] == appOutput
	if r.GetState() == quotadv1.ReservationState_RESERVATION_STATE_SETTLED && !exact {
		p.faults("%s is settled with %v", r.GetBucket(), amounts)
	}
}

// killApps has an app killed in the middle of its calls, the next one and its daemon too, and a third that comes to its end. Each of the
// three has the journal of its number.
func (p *payer) killApps(under, part int, journals [3]string) (d *daemon, apps [3]*app) {
	p.t.Helper()
	p.fake.Script(bedrocktest.Answer{Usage: bedrocktest.Usage{Input: appInput, Output: appOutput}, Pace: p.pass})
	d = p.start()
	p.declare(d)

	apps[0] = p.launchApp(journals[0], 0, 1e6)
	p.underWay(under, part)
	apps[0].kill()
	p.gate.open()

	apps[1] = p.launchApp(journals[1], 1e6, 2e6)
	p.underWay(under, 2*part)
	d.kill()
	p.gate.open() // the streams end, and cannot be settled
	p.until("a call finds no daemon", func() bool { return p.ended[bedrock.OutcomeRefused] > 0 })
	apps[1].kill()

	d = p.start()
	apps[2] = p.launchApp(journals[2], 2e6, 2e6+part)
	apps[2].finish()
	p.expire(d)
	return d, apps
}

// underWay waits until so many streams are, after so many calls have ended.
func (p *payer) underWay(streams, ended int) {
	p.t.Helper()
	p.until("calls go on", func() bool { return p.ended[bedrock.OutcomeSettled] >= ended })
	p.note(func() { p.arrived = 0 })
	p.gate.close()
	p.until("streams are under way", func() bool { return p.arrived >= streams })
}

// Whatever dies, the app or the daemon too, no call that Bedrock has billed goes uncounted, and what was known of a call is counted
// exactly once its journal is delivered by the app that comes after.
func TestGuardedAppKilled(t *testing.T) {
	t.Parallel()
	const under = 4
	p := newPayer(t, 1e12, 1e12)
	journal := filepath.Join(t.TempDir(), "journal")
	d, apps := p.killApps(under, portion(150, 50, 500), [3]string{journal, journal, journal})
	a := p.accounts(d)
	of := p.judgeKilled(a)
	d.stop()
	p.verify(&p.findings)
	if faults := p.found(); len(faults) > 0 {
		t.Fatal(strings.Join(faults, "\n"))
	}
	last := apps[2]
	if of.cut < under || last.journaled < under || last.lost != 0 {
		t.Errorf("%d calls were cut off and %d notes waited in the journal, want %d of each; %d are lost", of.cut, last.journaled, under, last.lost)
	}
	t.Logf("%+v; the second app found %d notes in the journal, the third %d; billed %+v", of, apps[1].journaled, last.journaled, a.bill)
}

// Control: an app that comes after with another journal leaves calls charged as held whose use was known, and is caught.
func TestGuardedAppKilledCatchesLostJournals(t *testing.T) {
	t.Parallel()
	p := newPayer(t, 1e12, 1e12)
	dir := t.TempDir()
	d, _ := p.killApps(4, 10, [3]string{filepath.Join(dir, "1"), filepath.Join(dir, "2"), filepath.Join(dir, "3")})
	p.judgeKilled(p.accounts(d))
	told := strings.Join(p.found(), "\n")
	if !strings.Contains(told, "is settled by reservation") || !strings.Contains(told, "RESERVATION_STATE_EXPIRED") {
		t.Errorf("not caught: %q", told)
	}
}
