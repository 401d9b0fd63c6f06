package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version [flags]",
		Short:   "print the versions of quotactl and of the quotad that it reaches",
		Long:    `Prints the version of quotactl, and that of quotad if one answers within a second.`,
		Example: `  quotactl version`,
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), min(a.timeout, time.Second))
			defer cancel()
			versions := struct {
				Client string `json:"client"`
				Server string `json:"server,omitempty"`
			}{Client: buildVersion()}
			resp, err := a.inspect().GetStatus(ctx, &quotadv1.GetStatusRequest{})
			if err == nil {
				versions.Server = resp.GetVersion()
			}
			return a.emitOwn(versions, func(w io.Writer) {
				fmt.Fprintf(w, "quotactl %s\n", versions.Client)
				if err != nil {
					fmt.Fprintf(w, "quotad   does not answer at %s\n", a.server)
					return
				}
				fmt.Fprintf(w, "quotad   %s\n", versions.Server)
			})
		},
	}
}

// buildVersion is the module's version as the Go command stamped it.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// emitOwn prints what is no message of the contract.
func (a *app) emitOwn(v any, table func(io.Writer)) error {
	if a.output == "table" {
		table(a.stdout)
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	return a.emitJSON(text, "  ")
}
