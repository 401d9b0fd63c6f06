package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status [flags]",
		Short:   "describe the daemon: its version, its file, its defaults, what is wrong",
		Long:    `Describes the daemon: its version, since when it runs, what it keeps its counts in, its defaults, and what is wrong with it.`,
		Example: `  quotactl status -o json`,
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.within(cmd.Context())
			defer cancel()
			resp, err := a.inspect().GetStatus(ctx, &quotadv1.GetStatusRequest{})
			if err != nil {
				return err
			}
			return a.emit(resp, func(w io.Writer) { a.showStatus(w, resp) })
		},
	}
}

func (a *app) showStatus(w io.Writer, s *quotadv1.GetStatusResponse) {
	file := ""
	if s.GetFileBytes() > 0 {
		file = sizeOf(s.GetFileBytes())
		if s.GetFileBytesMax() > 0 {
			file += " of at most " + sizeOf(s.GetFileBytesMax())
		}
	}
	defaults := "off: a name that nobody declared is refused"
	if len(s.GetDefaultLimits()) > 0 {
		defaults = formatLimits(s.GetDefaultLimits())
	}
	started := s.GetStartTime().AsTime()
	facts := [][2]string{
		{"server", a.server},
		{"version", s.GetVersion()},
		{"running", fmt.Sprintf("%s, since %s", span(a.now().Sub(started)), stamp(started))},
		{"ledger time", stamp(s.GetLedgerTime().AsTime())},
		{"engine", s.GetEngine()},
		{"file", file},
		{"retains", span(s.GetRetain().AsDuration())},
		{"default", defaults},
		{"zone", s.GetZone()},
	}
	// Who may not inspect every bucket is told neither these nor the size of the file, and is shown no zeros in their place.
	if s.GetUndeclaredNamesMax() > 0 || s.GetOpenReservations() > 0 || s.GetFileBytes() > 0 {
		facts = append(facts,
			[2]string{"reservations", fmt.Sprintf("%d open", s.GetOpenReservations())},
			[2]string{"undeclared", fmt.Sprintf("%d of at most %d names today", s.GetUndeclaredNames(), s.GetUndeclaredNamesMax())})
	}
	if len(s.GetProblems()) == 0 {
		facts = append(facts, [2]string{"problems", a.paint(1, green, "none")})
	}
	for _, p := range s.GetProblems() {
		facts = append(facts, [2]string{"problem", a.paint(1, red, p)})
	}
	a.showFacts(w, facts)
}
