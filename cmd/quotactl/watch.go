package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) watchCommand() *cobra.Command {
	var interval time.Duration
	var most int
	cmd := &cobra.Command{
		Use:   "watch [PREFIX] [flags]",
		Short: "show counts as they change",
		Long: `Shows the current counts, and then their changes, until it is interrupted; with PREFIX those of that bucket and those below
it, and thresholds as they are crossed. A terminal is painted anew; a pipe gets a line for each change and each threshold. When
quotad goes away it says so, and comes back with it; what was crossed meanwhile is not shown.`,
		Example: `  quotactl watch
  quotactl watch acme --interval 100ms -o json`,
		Args:              operands("[PREFIX]"),
		ValidArgsFunction: a.completeBucket,
	}
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "the least `DURATION` between two updates, 100ms to 1h")
	cmd.Flags().IntVar(&most, "count", 0, "end after `N` updates (default never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if most < 0 {
			return usagef(cmd, "--count %d is negative; want 1 or more", most)
		}
		req := &quotadv1.WatchUsageRequest{Interval: durationpb.New(interval)}
		if len(args) > 0 {
			req.Prefix = args[0]
		}
		w := &watcher{app: a, req: req, most: most, known: make(map[countKey]*quotadv1.Balance)}
		err := w.run(cmd.Context())
		if errors.Is(cmd.Context().Err(), context.Canceled) {
			return nil // being interrupted is how it ends
		}
		return err
	}
	return cmd
}

// countKey names a count whatever window is the current one.
type countKey struct {
	bucket, unit string
	window       quotadv1.Window
}

// watcher shows counts while they change.
type watcher struct {
	*app
	req   *quotadv1.WatchUsageRequest
	most  int // updates to show; 0 means no end
	seen  int
	known map[countKey]*quotadv1.Balance
	told  []*quotadv1.ThresholdEvent // the newest, for a terminal
}

// toldShown is how many thresholds that were crossed a terminal shows below the counts.
const toldShown = 5

// The pauses before it tries to reach a daemon that went away.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 5 * time.Second
)

// errEnough ends a watch that has shown all it was asked to.
var errEnough = errors.New("enough")

// run watches, over as many connections as it takes. Only a daemon that was never there is an error.
func (w *watcher) run(ctx context.Context) error {
	pause := firstPause
	for {
		before := w.seen
		err := w.stream(ctx)
		switch code := status.Code(err); {
		case errors.Is(err, errEnough):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case w.seen == 0, code != codes.Unavailable && code != codes.Internal && !errors.Is(err, io.EOF):
			return err
		case w.seen > before:
			pause = firstPause
		}
		fmt.Fprintf(w.stderr, "quotactl: lost quotad at %s; trying again in %v\n", w.server, pause)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, lastPause)
	}
}

// stream shows what one connection brings.
func (w *watcher) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.inspect().WatchUsage(ctx, w.req)
	if err != nil {
		return err
	}
	updates := make(chan *quotadv1.WatchUsageResponse)
	failed := make(chan error, 1)
	go func() {
		for {
			update, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case updates <- update:
			case <-ctx.Done():
				return
			}
		}
	}()
	clock := time.NewTicker(time.Second) // what is left until a reset changes although no count does
	defer clock.Stop()
	for {
		select {
		case err := <-failed:
			return err
		case <-clock.C:
			if w.output == "table" && w.isTerminal(1) && w.seen > 0 {
				w.repaint()
			}
		case update := <-updates:
			if err := w.show(update); err != nil {
				return err
			}
			if w.seen++; w.seen == w.most {
				return errEnough
			}
		}
	}
}

func (w *watcher) show(update *quotadv1.WatchUsageResponse) error {
	if w.output != "table" {
		return w.emitLine(update)
	}
	changed := w.learn(update)
	if w.isTerminal(1) {
		w.told = append(w.told, update.GetEvents()...)
		w.told = w.told[max(0, len(w.told)-toldShown):]
		w.repaint()
		return nil
	}
	for _, b := range changed {
		fmt.Fprintln(w.stdout, changeLine(update.GetTime().AsTime(), b))
	}
	for _, e := range update.GetEvents() {
		fmt.Fprintln(w.stdout, eventLine(e))
	}
	return nil
}

// learn takes an update in, and returns the counts that differ from what was known.
func (w *watcher) learn(update *quotadv1.WatchUsageResponse) []*quotadv1.Balance {
	var changed []*quotadv1.Balance
	now := make(map[countKey]*quotadv1.Balance)
	for _, b := range update.GetBalances() {
		key := countKey{b.GetBucket(), b.GetUnit(), b.GetWindow()}
		if old := w.known[key]; old == nil || differs(old, b) {
			changed = append(changed, b)
		}
		now[key] = b
	}
	if update.GetFull() {
		w.known = now
	} else {
		maps.Copy(w.known, now)
	}
	return changed
}

func differs(a, b *quotadv1.Balance) bool {
	return a.GetUsed() != b.GetUsed() || a.GetHeld() != b.GetHeld() || a.GetLimit() != b.GetLimit() ||
		(a.Limit == nil) != (b.Limit == nil) || a.GetWindowLabel() != b.GetWindowLabel() || a.GetOverridden() != b.GetOverridden()
}

// changeLine says how a count stands, in a line whose parts do not move.
func changeLine(at time.Time, b *quotadv1.Balance) string {
	limit, left := "-", "-"
	if b.Limit != nil {
		limit = fmt.Sprint(b.GetLimit())
	}
	if b.Remaining != nil {
		left = fmt.Sprint(b.GetRemaining())
	}
	return fmt.Sprintf("%s %s %s/%s %s used=%d held=%d limit=%s left=%s over=%d", stamp(at), b.GetBucket(), b.GetUnit(),
		spanOf(b.GetWindow()), orDash(b.GetWindowLabel()), b.GetUsed(), b.GetHeld(), limit, left, b.GetOverage())
}

// eventLine says which threshold was crossed, in a line that begins like those of the counts.
func eventLine(e *quotadv1.ThresholdEvent) string {
	b := e.GetBalance()
	return fmt.Sprintf("%s %s %s/%s %s crossed=%d%% used=%d limit=%d", stamp(e.GetTime().AsTime()), b.GetBucket(), b.GetUnit(),
		spanOf(b.GetWindow()), orDash(b.GetWindowLabel()), e.GetPercent(), b.GetUsed(), b.GetLimit())
}

// repaint shows all counts from the top of the screen, and below them the thresholds that were crossed last.
func (w *watcher) repaint() {
	list := slices.Collect(maps.Values(w.known))
	slices.SortFunc(list, func(a, b *quotadv1.Balance) int {
		return cmp.Or(cmp.Compare(a.GetBucket(), b.GetBucket()), cmp.Compare(a.GetUnit(), b.GetUnit()), cmp.Compare(a.GetWindow(), b.GetWindow()))
	})
	fmt.Fprint(w.stdout, "\x1b[H\x1b[J")
	if len(list) == 0 {
		fmt.Fprintf(w.stdout, "nothing has been counted yet%s\n", under(w.req.GetPrefix()))
	}
	w.balances(list).write(w.stdout)
	for i, e := range w.told {
		if i == 0 {
			fmt.Fprintln(w.stdout)
		}
		fmt.Fprintln(w.stdout, eventLine(e))
	}
}
