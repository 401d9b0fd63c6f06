package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func (a *app) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "health [flags]",
		Short:   "ask whether quotad serves; exits with 0 or 1",
		Long:    `Asks whether quotad serves, by gRPC's own health protocol. It exits with 0 if it does, and 1 if it does not or cannot be reached.`,
		Example: `  quotactl health --timeout 1s || systemctl restart quotad`,
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.within(cmd.Context())
			defer cancel()
			resp, err := grpc_health_v1.NewHealthClient(a.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			if err != nil {
				return err
			}
			word := map[grpc_health_v1.HealthCheckResponse_ServingStatus]string{
				grpc_health_v1.HealthCheckResponse_SERVING:     "serving",
				grpc_health_v1.HealthCheckResponse_NOT_SERVING: "not serving",
			}[resp.GetStatus()]
			err = a.emit(resp, func(w io.Writer) { fmt.Fprintln(w, orDash(word)) })
			if err == nil && resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
				err = &hinted{err: fmt.Errorf("quotad at %s does not serve", a.server), hint: "quotactl status says what is wrong"}
			}
			return err
		},
	}
}
