package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A tally is what became of the calls of one app.
type tally struct {
	granted, denied, again, replayed int
	first                            answer // the first denial
}

// A day is what the apps were told, and what the ledger says afterwards.
type day struct {
	answers  []answer
	tallies  map[string]*tally
	killed   time.Time
	ledger   int64 // what the ledger counts at the end
	resent   int   // grants that were sent once more then, and
	replayed int   // how many of these the ledger knew
	counted  int64 // what the ledger counts after that
	spent    spent
}

func newDay() *day { return &day{tallies: make(map[string]*tally)} }

// note adds one answer.
func (t *day) note(a answer) {
	t.answers = append(t.answers, a)
	app := t.tally(a.App)
	switch {
	case a.Granted:
		app.granted++
	case app.denied == 0:
		app.first = a
		fallthrough
	default:
		app.denied++
	}
	if a.Sent > 1 {
		app.again++
	}
	if a.Replayed {
		app.replayed++
	}
}

func (t *day) tally(app string) *tally {
	if t.tallies[app] == nil {
		t.tallies[app] = new(tally)
	}
	return t.tallies[app]
}

func (t *day) granted() int {
	n := 0
	for _, app := range t.tallies {
		n += app.granted
	}
	return n
}

// audit asks the ledger: for its own count, and whether it knows every grant.
func (t *day) audit(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var err error
	if t.ledger, err = count(ctx, conn); err != nil {
		return err
	}
	client := quotadv1.NewQuotaServiceClient(conn)
	for _, a := range t.answers {
		if !a.Granted {
			continue
		}
		app, err := appNamed(a.App)
		if err != nil {
			return err
		}
		t.resent++
		response, err := client.Acquire(ctx, app.request(a.Call), grpc.WaitForReady(true))
		if err != nil && denialOf(status.Convert(err)) == nil {
			return fmt.Errorf("sending call %d of %s once more: %w", a.Call, a.App, err)
		}
		if response.GetReplayed() {
			t.replayed++
		}
	}
	t.counted, err = count(ctx, conn)
	return err
}

// count returns what the ledger says is used today.
func count(ctx context.Context, conn *grpc.ClientConn) (int64, error) {
	b, err := balanceOf(ctx, conn, bucket, "calls")
	return b.GetUsed(), err
}

// balanceOf returns how a bucket's unit stands today.
func balanceOf(ctx context.Context, conn *grpc.ClientConn, bucket, unit string) (*quotadv1.Balance, error) {
	view, err := quotadv1.NewInspectServiceClient(conn).GetBucket(ctx, &quotadv1.GetBucketRequest{Name: bucket}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("asking for the count of %s: %w", bucket, err)
	}
	for _, b := range view.GetBucket().GetBalances() {
		if b.GetUnit() == unit && b.GetWindow() == quotadv1.Window_WINDOW_DAY {
			return b, nil
		}
	}
	return nil, fmt.Errorf("asking for the count of %s: there is none", bucket)
}

// A promise is something that must hold at the end of the day.
type promise struct {
	text string
	kept bool
}

func (t *day) promises() []promise {
	dear := apps()[0]
	answered := 0
	for _, a := range apps() {
		if got := t.tally(a.name); got.granted+got.denied == a.calls {
			answered++
		}
	}
	return []promise{
		{fmt.Sprintf("granted %d in all, of a limit of %d", t.granted(), limit), t.granted() == limit},
		{fmt.Sprintf("%s was stopped at %d", dear.name, t.tally(dear.name).granted), t.tally(dear.name).granted == int(dear.ceiling)},
		{fmt.Sprintf("the ledger's own count is %d", t.ledger), t.ledger == int64(t.granted())},
		{
			fmt.Sprintf("%d of %d grants were known when they were sent once more, and charged %d more", t.replayed, t.resent, t.counted-t.ledger),
			t.resent == t.granted() && t.replayed == t.resent && t.counted == t.ledger,
		},
		{
			fmt.Sprintf("%d of %d apps had an answer to every call, with a kill -9 in between", answered, len(apps())),
			answered == len(apps()) && !t.killed.IsZero(),
		},
		t.spent.promise(),
	}
}

// broken returns the promises that were not kept.
func (t *day) broken() []promise {
	var broken []promise
	for _, p := range t.promises() {
		if !p.kept {
			broken = append(broken, p)
		}
	}
	return broken
}

// print tells the day as a table.
func (t *day) print(w io.Writer, now time.Time) {
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "app\tceiling\tcalls\tgranted\tdenied\tsent again\tanswer had been lost\t")
	var all tally
	calls := 0
	for _, a := range apps() {
		ceiling := "none"
		if a.ceiling > 0 {
			ceiling = fmt.Sprint(a.ceiling)
		}
		got := t.tally(a.name)
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t\n", a.name, ceiling, a.calls, got.granted, got.denied, got.again, got.replayed)
		calls += a.calls
		all.granted += got.granted
		all.denied += got.denied
		all.again += got.again
		all.replayed += got.replayed
	}
	fmt.Fprintf(table, "together\t\t%d\t%d\t%d\t%d\t%d\t\n", calls, all.granted, all.denied, all.again, all.replayed)
	_ = table.Flush()
	fmt.Fprintln(w)
	for _, a := range apps() {
		if first := t.tally(a.name).first; first.App != "" {
			wait := strings.TrimSuffix(first.RetryAt.Sub(now).Round(time.Minute).String(), "0s")
			fmt.Fprintf(w, "  %s was told: %s, in %s\n", a.name, first.Denial, wait)
		}
	}
	fmt.Fprintln(w)
	for _, p := range t.promises() {
		word := "kept  "
		if !p.kept {
			word = "BROKEN"
		}
		fmt.Fprintf(w, "  %s  %s\n", word, p.text)
	}
}
