package main

import (
	"context"
	"time"

	"github.com/quotad/quotad/internal/tracing"
)

// tracesStop is how long an end waits for a collector that does not answer.
const tracesStop = 2 * time.Second

// startTracing begins to send traces, if that was asked for; nil if it was not.
func (d *daemon) startTracing(ctx context.Context) (*tracing.Tracing, error) {
	if d.c.OTLP == "" {
		return nil, nil //nolint:nilnil // off
	}
	t, err := tracing.Start(ctx, tracing.Config{Endpoint: d.c.OTLP, Version: d.build.version, Log: d.log, Now: time.Now})
	if err != nil {
		return nil, exitCode{exitUsage, err}
	}
	return t, nil
}

// stopTracing sends what waits to be sent. What cannot be sent is lost: it is no reason to call the end of a daemon a failure.
func (d *daemon) stopTracing(ctx context.Context, t *tracing.Tracing) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesStop)
	defer cancel()
	if err := t.Close(ctx); err != nil {
		d.log.Warn("sending the last traces", "error", err)
	}
}
