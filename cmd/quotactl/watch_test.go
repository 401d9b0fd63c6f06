package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// A pipe gets a line for each threshold that is crossed, after those of the counts; a terminal shows the newest below them.
func TestWatchShowsThresholds(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 16, 5, 31, 0, time.UTC)
	update := &quotadv1.WatchUsageResponse{Time: timestamppb.New(at)}
	for i := range int32(7) {
		b := &quotadv1.Balance{
			Bucket: "acme", Unit: "calls", Window: quotadv1.Window_WINDOW_DAY, WindowLabel: "2026-11-22", Used: int64(i + 1),
			Limit: new(int64(50)), Remaining: new(int64(49 - i)),
		}
		update.Balances = []*quotadv1.Balance{b}
		update.Events = append(update.Events, &quotadv1.ThresholdEvent{Id: int64(i + 1), Time: timestamppb.New(at), Percent: 80 + i, Balance: b})
	}
	show := func(terminal bool) string {
		var out bytes.Buffer
		a := &app{env: env{stdout: &out, stderr: &out, now: func() time.Time { return at }, isTerminal: func(int) bool { return terminal }, getenv: func(string) string { return "" }}, output: "table"}
		w := &watcher{app: a, req: &quotadv1.WatchUsageRequest{}, known: make(map[countKey]*quotadv1.Balance)}
		if err := w.show(update); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	const line = "2026-11-22T16:05:31Z acme calls/day 2026-11-22 crossed=80% used=1 limit=50\n"
	piped := show(false)
	if first, rest, _ := strings.Cut(piped, "\n"); !strings.Contains(first, "used=7 held=0") || !strings.HasPrefix(rest, line) || strings.Count(rest, "\n") != 7 {
		t.Errorf("a pipe is shown\n%s", piped)
	}
	if painted := show(true); strings.Contains(painted, "crossed=81%") || strings.Count(painted, "crossed=") != 5 || !strings.HasSuffix(painted, "crossed=86% used=7 limit=50\n") {
		t.Errorf("a terminal is shown\n%s", painted)
	}
}
