package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/window"
)

func (a *app) historyCommand() *cobra.Command {
	req := &quotadv1.ListUsageRequest{PageSize: 1000}
	var span string
	var last int
	cmd := &cobra.Command{
		Use:   "history BUCKET [flags]",
		Short: "show what was used, window by window",
		Long: `Shows what BUCKET and those below it used in past windows and the current one, with the limit that held then. A terminal
shows a chart for each bucket and unit, a pipe a table; --output csv is for spreadsheets.

Windows are named as in --from 2026-11-01 for days and for the weeks from that Monday, 2026-11 for months, 2026 for years; for
minutes and hours --from and --to are dates in UTC.`,
		Example: `  quotactl history portfolio
  quotactl history acme --window month --from 2026-01 --unit input_tokens -o csv`,
		Args:              operands("BUCKET"),
		ValidArgsFunction: a.completeBucket,
	}
	cmd.Flags().StringVar(&span, "window", "day", "the kind of `WINDOW`")
	cmd.Flags().IntVar(&last, "last", 30, "show `N` windows, the current one included")
	cmd.Flags().StringVar(&req.From, "from", "", "the first window, by its `LABEL`, in place of --last")
	cmd.Flags().StringVar(&req.To, "to", "", "the last window, by its `LABEL`")
	cmd.Flags().StringVar(&req.Unit, "unit", "", "only this `UNIT` (default all)")
	a.completeWindow(cmd, "window")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Prefix = args[0]
		var err error
		if req.Window, err = parseWindow(span); err != nil {
			return usagef(cmd, "--window: %w", err)
		}
		if last < 1 || last > 10_000 {
			return usagef(cmd, "--last %d is out of range; want 1 to 10000", last)
		}
		ranged := req.GetFrom() != "" || req.GetTo() != ""
		if ranged && cmd.Flags().Changed("last") {
			return usagef(cmd, "--last does not go with --from and --to; give one or the other")
		}
		first := ""
		if !ranged {
			if first, err = a.since(cmd.Context(), req, last); err != nil {
				return err
			}
		}
		usage, err := a.listUsage(cmd.Context(), req, first)
		if err != nil {
			return err
		}
		return a.showHistory(usage)
	}
	return cmd
}

// since asks for the last windows, which are those of the bucket's own zone. It returns the label of the first.
func (a *app) since(ctx context.Context, req *quotadv1.ListUsageRequest, last int) (string, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	resp, err := a.inspect().GetBucket(ctx, &quotadv1.GetBucketRequest{Name: req.GetPrefix()})
	if err != nil {
		return "", err
	}
	zone, err := window.LoadZone(resp.GetBucket().GetZone())
	if err != nil {
		return "", err
	}
	w := back(spanOf(req.GetWindow()), a.now(), zone, last-1)
	req.From = w.Label
	if w.Span == window.Minute || w.Span == window.Hour {
		req.From, _, _ = strings.Cut(w.Label, "T")
	}
	return w.Label, nil
}

// listUsage asks for all pages, and keeps what is not before the window named first.
func (a *app) listUsage(ctx context.Context, req *quotadv1.ListUsageRequest, first string) (*quotadv1.ListUsageResponse, error) {
	sum := &quotadv1.ListUsageResponse{}
	for {
		resp, err := a.usagePage(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, b := range resp.GetUsage() {
			if b.GetWindowLabel() >= first {
				sum.Usage = append(sum.Usage, b)
			}
		}
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			return sum, nil
		}
	}
}

func (a *app) usagePage(ctx context.Context, req *quotadv1.ListUsageRequest) (*quotadv1.ListUsageResponse, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	return a.inspect().ListUsage(ctx, req)
}

func (a *app) showHistory(usage *quotadv1.ListUsageResponse) error {
	if a.output == "csv" {
		return writeCSV(a.stdout, usage.GetUsage())
	}
	return a.emit(usage, func(w io.Writer) {
		switch {
		case len(usage.GetUsage()) == 0:
			fmt.Fprintln(a.stderr, "quotactl: nothing was counted in that time")
		case a.isTerminal(1):
			a.charts(w, usage.GetUsage())
		default:
			a.usageTable(usage.GetUsage()).write(w)
		}
	})
}

func (a *app) usageTable(usage []*quotadv1.Balance) *table {
	t := a.newTable("BUCKET", "UNIT", "WINDOW", "LABEL", "USED", "HELD", "LIMIT", "LEFT", "NOTES")
	for _, b := range usage {
		t.add(words(b.GetBucket()), words(b.GetUnit()), words(spanOf(b.GetWindow()).String()), words(b.GetWindowLabel()),
			number(b.GetUsed()), number(b.GetHeld()), numberOrDash(b.Limit), numberOrDash(b.Remaining), words(notesOf(b)))
	}
	return t
}

// series is what one bucket used of one unit, window by window.
type series struct {
	bucket, unit string
	points       []*quotadv1.Balance
	most         int64 // what a full bar stands for
}

// seriesOf groups counts by bucket and unit, in the order in which they come.
func seriesOf(usage []*quotadv1.Balance) []*series {
	var list []*series
	index := make(map[[2]string]*series)
	for _, b := range usage {
		key := [2]string{b.GetBucket(), b.GetUnit()}
		s := index[key]
		if s == nil {
			s = &series{bucket: b.GetBucket(), unit: b.GetUnit()}
			index[key] = s
			list = append(list, s)
		}
		s.points = append(s.points, b)
		s.most = max(s.most, b.GetUsed()+b.GetHeld(), b.GetLimit())
	}
	return list
}

// charts draws a bar for each window, all of one bucket and unit on one scale.
func (a *app) charts(w io.Writer, usage []*quotadv1.Balance) {
	for i, s := range seriesOf(usage) {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s, %s by the %s\n", a.paint(1, bold, s.bucket), s.unit, spanOf(s.points[0].GetWindow()))
		for i, b := range s.points {
			if i > 0 && b.GetStart().AsTime().After(s.points[i-1].GetEnd().AsTime()) {
				fmt.Fprintln(w, a.paint(1, dim, "  nothing for "+span(b.GetStart().AsTime().Sub(s.points[i-1].GetEnd().AsTime()))))
			}
			drawn := bar(b.GetUsed(), b.GetHeld(), s.most, 2*barWidth)
			text := strconv.FormatInt(b.GetUsed(), 10)
			tint := green
			if b.Limit != nil {
				text += fmt.Sprintf(" of %d", b.GetLimit())
				if b.GetUsed()+b.GetHeld() >= b.GetLimit() {
					tint = red
				}
			}
			if b.GetHeld() > 0 {
				text += fmt.Sprintf(", %d held", b.GetHeld())
			}
			if notes := notesOf(b); notes != "" {
				text += "  " + notes
			}
			fmt.Fprintf(w, "  %s  %s  %s\n", labelOf(b), a.paint(1, tint, drawn), text)
		}
	}
}

// writeCSV writes counts for a spreadsheet. What is absent is an empty field.
func writeCSV(w io.Writer, usage []*quotadv1.Balance) error {
	out := csv.NewWriter(w)
	rows := [][]string{{
		"bucket", "unit", "window", "label", "start", "end", "limit", "used", "held", "remaining", "overage", "overridden",
	}}
	whole := func(n int64) string { return strconv.FormatInt(n, 10) }
	maybe := func(n *int64) string {
		if n == nil {
			return ""
		}
		return whole(*n)
	}
	for _, b := range usage {
		start, end := "", ""
		if b.GetStart() != nil {
			start, end = stamp(b.GetStart().AsTime()), stamp(b.GetEnd().AsTime())
		}
		rows = append(rows, []string{
			b.GetBucket(), b.GetUnit(), spanOf(b.GetWindow()).String(), b.GetWindowLabel(), start, end, maybe(b.Limit),
			whole(b.GetUsed()), whole(b.GetHeld()), maybe(b.Remaining), whole(b.GetOverage()), strconv.FormatBool(b.GetOverridden()),
		})
	}
	if err := out.WriteAll(rows); err != nil {
		return fmt.Errorf("writing CSV: %w", err)
	}
	return nil
}
