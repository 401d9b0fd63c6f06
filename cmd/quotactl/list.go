package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

func (a *app) listCommand() *cobra.Command {
	req := &quotadv1.ListBucketsRequest{}
	var all bool
	cmd := &cobra.Command{
		Use:   "list [PREFIX] [flags]",
		Short: "show buckets and how much of each is used",
		Long: `Shows the declared buckets and patterns, and every bucket with a count in a current window; with PREFIX that bucket and
those below it. A terminal shows bars; a pipe gets the same columns without.`,
		Example: `  quotactl list
  quotactl list acme --all-pages -o json`,
		Args:              operands("[PREFIX]"),
		ValidArgsFunction: a.completeBucket,
	}
	cmd.Flags().BoolVar(&all, "all-pages", false, "show all, not the first page alone")
	cmd.Flags().BoolVar(&req.DeclaredOnly, "declared", false, "leave out buckets that are not declared")
	cmd.Flags().Int32Var(&req.PageSize, "page-size", 0, "show `N` at most, 1 to 1000 (default 100)")
	cmd.Flags().StringVar(&req.PageToken, "page-token", "", "`TOKEN` of the page to show, as the page before gave it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			req.Prefix = args[0]
		}
		resp, err := a.listBuckets(cmd.Context(), req, all)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) {
			if len(resp.GetBuckets()) == 0 {
				fmt.Fprintln(a.stderr, "quotactl: nothing is declared, and nothing has been counted"+under(req.GetPrefix()))
			}
			a.views(resp.GetBuckets()).write(w)
			if resp.GetNextPageToken() != "" {
				fmt.Fprintf(a.stderr, "quotactl: there are more: --all-pages, or --page-token %s for the next page\n", resp.GetNextPageToken())
			}
		})
	}
	return cmd
}

func under(prefix string) string {
	if prefix == "" {
		return ""
	}
	return " under " + prefix
}

// listBuckets asks for one page, or for all of them in one answer.
func (a *app) listBuckets(ctx context.Context, req *quotadv1.ListBucketsRequest, all bool) (*quotadv1.ListBucketsResponse, error) {
	if all && req.GetPageSize() == 0 {
		req.PageSize = 1000
	}
	sum := &quotadv1.ListBucketsResponse{}
	for {
		resp, err := a.listPage(ctx, req)
		if err != nil {
			return nil, err
		}
		sum.Buckets = append(sum.Buckets, resp.GetBuckets()...)
		sum.NextPageToken = resp.GetNextPageToken()
		if !all || sum.GetNextPageToken() == "" {
			return sum, nil
		}
		req.PageToken = sum.GetNextPageToken()
	}
}

func (a *app) listPage(ctx context.Context, req *quotadv1.ListBucketsRequest) (*quotadv1.ListBucketsResponse, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	return a.inspect().ListBuckets(ctx, req)
}

// views lays buckets out: a line for each count, and for what has none a line for each limit.
func (a *app) views(list []*quotadv1.BucketView) *table {
	t := a.countTable()
	for _, v := range list {
		note := "counted-only"
		if quota.IsPattern(v.GetName()) {
			note = "pattern"
		}
		switch {
		case len(v.GetBalances()) > 0:
			for i, b := range v.GetBalances() {
				if i == 0 {
					a.addCount(t, b, inFlightNote(v))
				} else {
					a.addCount(t, b)
				}
			}
		case len(v.GetLimits()) == 0:
			a.addDeclared(t, v.GetName(), "", "", nil, note)
		default:
			for _, l := range v.GetLimits() {
				limit := limitOf(l)
				a.addDeclared(t, v.GetName(), string(limit.Unit), limit.Span.String(), &limit.Max, note)
			}
		}
	}
	return t
}

// limitOf reads a limit from the wire, where the unit and the window may be left out.
func limitOf(l *quotadv1.Limit) quota.Limit {
	out := quota.Limit{Unit: quota.Unit(l.GetUnit()), Span: spanOf(l.GetWindow()), Max: l.GetMax()}
	if out.Unit == "" {
		out.Unit = quota.Calls
	}
	if out.Span == 0 {
		out.Span = window.Day
	}
	return out
}

// formatLimits writes limits as quotactl set reads them.
func formatLimits(limits []*quotadv1.Limit) string {
	list := make([]quota.Limit, len(limits))
	for i, l := range limits {
		list[i] = limitOf(l)
	}
	if len(list) == 0 {
		return "counted only"
	}
	return quota.FormatLimits(list)
}
