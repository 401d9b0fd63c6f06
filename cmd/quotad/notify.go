package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/quotad/quotad/internal/notify"
)

// keyBytesMax is how large the file of the webhook's key may be.
const keyBytesMax = 4096

// notifyStop is how long an end waits for what is being told. A disk that hangs must not hold up the end of the process.
const notifyStop = time.Second

// startNotify begins to tell of the thresholds that are crossed, in the log and to the webhook, until stop is called. It comes
// before the first call is taken, so that whatever that crosses is told.
func (d *daemon) startNotify(ctx context.Context) (stop func(), err error) {
	c := notify.Config{Ledger: d.ledger, Log: d.log, Webhook: d.c.Webhook, Metrics: d.metrics, Now: time.Now}
	if d.c.Webhook != "" {
		if c.Key, err = readKey(d.c.WebhookKey); err != nil {
			return nil, exitCode{exitUsage, fmt.Errorf("webhook-key %s: %w", d.c.WebhookKey, err)}
		}
	}
	n, err := notify.New(c)
	if err != nil {
		return nil, exitCode{exitUsage, err}
	}
	if err := n.Begin(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(ctx)
	}()
	return func() {
		cancel()
		select {
		case <-done:
		case <-time.After(notifyStop):
		}
	}, nil
}

// readKey reads the file of the webhook's key. No error has any of its content.
func readKey(path string) (notify.Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	content, err := io.ReadAll(io.LimitReader(f, keyBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(content) > keyBytesMax {
		return nil, errors.New("the file is too large for a key")
	}
	return notify.ParseKey(content)
}
