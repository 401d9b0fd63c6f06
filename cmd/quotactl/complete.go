package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/window"
)

// completeBucket completes a command's first operand with the names that quotad knows. A shell waits for it, so that it gives
// up soon and without a word.
func (a *app) completeBucket(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || a.connect() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := a.briefly(cmd)
	defer cancel()
	prefix := ""
	if i := strings.LastIndexByte(start, '/'); i > 0 {
		prefix = start[:i]
	}
	resp, err := a.inspect().ListBuckets(ctx, &quotadv1.ListBucketsRequest{Prefix: prefix, PageSize: 1000})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, b := range resp.GetBuckets() {
		if strings.HasPrefix(b.GetName(), start) {
			names = append(names, b.GetName())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeReservation completes a command's first operand with the ids of open reservations.
func (a *app) completeReservation(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || a.connect() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := a.briefly(cmd)
	defer cancel()
	resp, err := a.inspect().ListReservations(ctx, &quotadv1.ListReservationsRequest{State: states["open"], PageSize: 1000})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, r := range resp.GetReservations() {
		if strings.HasPrefix(r.GetRequestId(), start) {
			ids = append(ids, r.GetRequestId())
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// briefly bounds a call that a shell waits for. The command that is being completed has no context of its own before cobra
// runs it.
func (a *app) briefly(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	return context.WithTimeout(ctx, min(a.timeout, 500*time.Millisecond))
}

// completeWindow completes a flag with the names of windows.
func (a *app) completeWindow(cmd *cobra.Command, flag string) {
	var names []string
	for _, s := range window.Spans() {
		names = append(names, s.String())
	}
	a.completeFlag(cmd, flag, cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

func (a *app) completeFlag(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic("main: a flag that was just made is missing: " + err.Error())
	}
}
