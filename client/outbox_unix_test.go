//go:build unix

package client_test

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quotad/quotad/client"
	"github.com/quotad/quotad/client/quotatest"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// What the test program is to do as another process, by environment variables.
const (
	childTarget  = "QUOTAD_TEST_TARGET"
	childJournal = "QUOTAD_TEST_OUTBOX" // "" for none
	childPrefix  = "QUOTAD_TEST_PREFIX" // of request ids
	childCloses  = "QUOTAD_TEST_CLOSES" // whether it closes the client in the end
)

// perLife is how many reservations a process makes at most; it then waits for its end.
const perLife = 300

// child starts the test of that name as another process, and returns its output.
func child(t *testing.T, test string, env ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func childClient(t *testing.T) *client.Client {
	t.Helper()
	opts := []client.Option{
		client.WithFailOpen(client.FailOpen{PerMinute: 1 << 20}), client.WithTries(1, time.Millisecond), client.WithTimeout(time.Second),
		client.WithOnLost(func(l client.Lost) { fmt.Fprintf(os.Stderr, "the child lost %s: %v\n", l.RequestID, l.Err) }),
	}
	if path := os.Getenv(childJournal); path != "" {
		opts = append(opts, client.WithJournal(path))
	}
	c, err := client.Dial(os.Getenv(childTarget), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// die ends this process as the kernel does when it is short of memory.
func die(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestEveryEndingSurvivesKill kills processes that reserve and settle, while quotad comes and goes, and compares its counts with what
// they said they had done.
func TestEveryEndingSurvivesKill(t *testing.T) {
	if os.Getenv(childTarget) != "" {
		settleUntilKilled(t)
		return
	}
	t.Parallel()
	rounds := 4
	if os.Getenv("QUOTAD_LONG") != "" {
		rounds = 300
	}
	if err := killed(t, rounds, filepath.Join(t.TempDir(), "journal")); err != nil {
		t.Error(err)
	}
	// The control: processes without a journal.
	if err := killed(t, 2, ""); err == nil {
		t.Error("what a process takes with it without a journal is not missed")
	}
}

func settleUntilKilled(t *testing.T) {
	t.Helper()
	c := childClient(t)
	for i := range perLife {
		id := fmt.Sprintf("%s-%d", os.Getenv(childPrefix), i)
		r, err := c.Reserve(t.Context(), "b", client.Charge{Unit: "tokens", Amount: 10}, client.WithRequestID(id))
		if err != nil {
			continue
		}
		fmt.Printf("reserved %s\n", id)
		if err := r.SettleSoon(client.Charge{Unit: "tokens", Amount: int64(i % 20)}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("settled %s %d\n", id, i%20)
	}
	fmt.Println("over")
	select {}
}

// killed lets so many processes live and die on a journal, and says what is wrong with what quotad knows in the end.
func killed(t *testing.T, rounds int, journal string) error {
	t.Helper()
	q := quotatest.New(t)
	q.Declare("b", "1_000_000_000 tokens/day")
	target := q.Listen()
	settled := make(map[string]int64)
	reserved := make(map[string]bool)
	for round := range rounds {
		q.Restart()
		cmd, out := child(t, "TestEveryEndingSurvivesKill", childTarget+"="+target, childJournal+"="+journal, fmt.Sprintf("%s=%d", childPrefix, round))
		stop, restart, last := rand.IntN(perLife), rand.IntN(2*perLife), rand.IntN(2*perLife)
		if round == rounds-1 {
			stop, restart = min(stop, last/2), -1 // so that something is left for the last client
		}
		for n := 0; out.Scan(); n++ {
			var id string
			var tokens int64
			if k, _ := fmt.Sscanf(out.Text(), "settled %s %d", &id, &tokens); k == 2 {
				settled[id] = tokens
			} else if k, _ := fmt.Sscanf(out.Text(), "reserved %s", &id); k == 1 {
				reserved[id] = true
			}
			switch {
			case n == last || out.Text() == "over":
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			case n == stop:
				q.Stop()
			case n == restart:
				q.Restart()
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child was not killed: %v", err)
		}
	}
	q.Restart()
	if len(settled) < rounds*10 {
		t.Fatalf("only %d were settled", len(settled))
	}
	if journal != "" {
		c := q.Client(client.WithJournal(journal), client.WithOnLost(func(l client.Lost) { t.Errorf("lost %s: %v", l.RequestID, l.Err) }))
		if err := errors.Join(c.Flush(t.Context()), c.Close()); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d were settled, %d of them by the last client", len(settled), c.Stats().Delivered)
	}
	return compare(t, q, reserved, settled)
}

// compare holds what processes said they reserved and settled against what quotad says.
func compare(t *testing.T, q *quotatest.Server, reserved map[string]bool, settled map[string]int64) error {
	t.Helper()
	var used, held int64
	known := make(map[string]bool)
	req := &quotadv1.ListReservationsRequest{PageSize: 1000}
	for {
		page, err := quotadv1.NewInspectServiceClient(q.Conn()).ListReservations(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.GetReservations() {
			id := r.GetRequestId()
			known[id] = true
			tokens, said := settled[id]
			switch r.GetState() {
			case quotadv1.ReservationState_RESERVATION_STATE_SETTLED:
				used += r.GetSettled()[0].GetAmount()
				if said && r.GetSettled()[0].GetAmount() != tokens || !said && !reserved[id] {
					return fmt.Errorf("%s is settled with %v; said were %d (%v)", id, r.GetSettled(), tokens, said)
				}
			case quotadv1.ReservationState_RESERVATION_STATE_OPEN:
				held += 10
				if said {
					return fmt.Errorf("%s is open; it was settled with %d", id, tokens)
				}
			default:
				return fmt.Errorf("%s is %s", id, r.GetState())
			}
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	for id := range settled {
		if !known[id] {
			return fmt.Errorf("%s is unknown", id)
		}
	}
	if u, h := q.Used("b", "tokens"), q.Held("b", "tokens"); u != used || h != held {
		return fmt.Errorf("%d tokens are used and %d held; the reservations say %d and %d", u, h, used, held)
	}
	return nil
}

// TestFullDisk has a process whose file may not grow, so that a line is torn in its middle, and then may.
func TestFullDisk(t *testing.T) {
	if os.Getenv(childTarget) != "" {
		settleWithoutRoom(t)
		return
	}
	t.Parallel()
	for name, c := range map[string]struct {
		closes    string
		delivered func(unjournaled int64) int64
	}{
		"killed": {"", func(unjournaled int64) int64 { return 11 - unjournaled }},
		"closed": {"yes", func(int64) int64 { return 11 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := quotatest.New(t)
			q.Declare("b")
			path := filepath.Join(t.TempDir(), "journal")
			cmd, out := child(t, "TestFullDisk", childTarget+"=127.0.0.1:1", childJournal+"="+path, childCloses+"="+c.closes)
			var unjournaled int64
			for out.Scan() {
				if strings.HasPrefix(out.Text(), "unjournaled") {
					_, _ = fmt.Sscanf(out.Text(), "unjournaled %d", &unjournaled)
				}
			}
			_ = cmd.Wait() // it ends by a signal
			if unjournaled < 1 || unjournaled > 9 {
				t.Fatalf("%d of 10 found no room; want some", unjournaled)
			}
			var lost losses
			cl := q.Client(client.WithJournal(path), lost.option())
			if err := cl.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s, want := cl.Stats(), c.delivered(unjournaled); s.Delivered != want || s.Lost != 0 || q.Used("b", "") != want {
				t.Errorf("%+v, %d used; want %d delivered", s, q.Used("b", ""), want)
			}
		})
	}
}

func settleWithoutRoom(t *testing.T) {
	t.Helper()
	c := childClient(t)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	most := limit.Cur
	limit.Cur = 1000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	settle := func() {
		r, err := c.Reserve(t.Context(), "b")
		if err == nil {
			err = r.SettleSoon(client.Charge{Amount: 1})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		settle()
	}
	limit.Cur = most
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	settle()
	fmt.Printf("unjournaled %d\n", c.Stats().Unjournaled)
	if os.Getenv(childCloses) != "" {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	die(t)
}
