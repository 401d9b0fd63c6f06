package main

import (
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) deleteCommand() *cobra.Command {
	req := &quotadv1.DeleteBucketRequest{}
	cmd := &cobra.Command{
		Use:               "delete NAME [flags]",
		Short:             "take a declaration away; counts and history stay",
		Long:              `Takes the declaration of a bucket or a pattern away. Counts and history stay; from now on a pattern or the default holds for it.`,
		Example:           `  quotactl delete portfolio --reason "project ended"`,
		Args:              operands("NAME"),
		ValidArgsFunction: a.completeBucket,
	}
	a.reasonFlag(cmd, &req.Reason)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name = args[0]
		ctx, cancel := a.within(cmd.Context())
		defer cancel()
		resp, err := a.admin().DeleteBucket(ctx, req)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) {
			a.showChange(w, &quotadv1.BucketChange{Name: req.GetName(), Before: resp.GetPrevious()})
		})
	}
	return cmd
}
