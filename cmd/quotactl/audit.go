package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) auditCommand() *cobra.Command {
	var most int32
	cmd := &cobra.Command{
		Use:   "audit [PREFIX] [flags]",
		Short: "show who changed what, newest first",
		Long: `Shows the changes that people and the buckets file made, newest first; with PREFIX those of that bucket and those below it. A
bucket that is named as a command below stands behind "--".`,
		Example: `  quotactl audit --limit 5
  quotactl audit verify`,
		Args:              operands("[PREFIX]"),
		ValidArgsFunction: a.completeBucket,
	}
	cmd.AddCommand(a.auditVerifyCommand())
	cmd.Flags().Int32Var(&most, "limit", 20, "show `N` changes at most")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if most < 1 {
			return usagef(cmd, "--limit %d is out of range; want 1 or more", most)
		}
		req := &quotadv1.ListAuditRequest{}
		if len(args) > 0 {
			req.Prefix = args[0]
		}
		resp, err := a.listAudit(cmd.Context(), req, most)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) {
			t := a.newTable("SEQUENCE", "TIME", "PRINCIPAL", "ACTION", "BUCKET", "CHANGE")
			for _, r := range resp.GetRecords() {
				t.add(number(r.GetSequence()), words(stamp(r.GetTime().AsTime())), words(r.GetPrincipal()), words(r.GetAction()),
					words(r.GetBucket()), words(changeOf(r)))
			}
			t.write(w)
		})
	}
	return cmd
}

// listAudit asks for pages until it has most records or there are no more.
func (a *app) listAudit(ctx context.Context, req *quotadv1.ListAuditRequest, most int32) (*quotadv1.ListAuditResponse, error) {
	sum := &quotadv1.ListAuditResponse{}
	for {
		req.PageSize = min(most, 1000)
		resp, err := a.auditPage(ctx, req)
		if err != nil {
			return nil, err
		}
		sum.Records = append(sum.Records, resp.GetRecords()...)
		sum.NextPageToken = resp.GetNextPageToken()
		most -= int32(min(len(resp.GetRecords()), 1000))
		if most <= 0 || sum.GetNextPageToken() == "" {
			return sum, nil
		}
		req.PageToken = sum.GetNextPageToken()
	}
}

func (a *app) auditPage(ctx context.Context, req *quotadv1.ListAuditRequest) (*quotadv1.ListAuditResponse, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	return a.inspect().ListAudit(ctx, req)
}

// changeOf says in a line how it was, how it is, and why.
func changeOf(r *quotadv1.AuditRecord) string {
	s := r.GetAfter()
	switch {
	case r.GetBefore() != "" && r.GetAfter() != "":
		s = fmt.Sprintf("%s -> %s", r.GetBefore(), r.GetAfter())
	case r.GetBefore() != "":
		s = r.GetBefore() + " -> nothing"
	}
	if r.GetReason() != "" {
		s += fmt.Sprintf(" (%s)", r.GetReason())
	}
	return s
}
