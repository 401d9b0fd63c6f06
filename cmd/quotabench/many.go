package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// many is what a file with many live buckets costs.
type many struct {
	buckets      int
	few, all     []figures     // rates with fewBuckets and with all of them
	filled       time.Duration // how long it took to charge each bucket once
	started      time.Duration // from the start of the process to its first answer
	own, showing int64         // memory after that start and the loads: its own, and pages of the file
	file         int64         // size of the file once it was filled
}

const fewBuckets = 100

// measureMany fills a file, starts the daemon on it, and compares its rate with that of a daemon on a small file.
func (s *suite) measureMany(ctx context.Context) (err error) {
	m := &many{buckets: s.buckets}
	s.many = m
	data := filepath.Join(s.dir, "many")
	if err := s.fillMany(ctx, m, data); err != nil {
		return err
	}
	few, _, err := startQuotad(ctx, s.quotad, filepath.Join(s.dir, "few"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, few.stop()) }()
	if err := declare(ctx, few.addr); err != nil {
		return err
	}
	all, started, err := startQuotad(ctx, s.quotad, data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, all.stop()) }()
	m.started = started
	for round := range s.rounds {
		l := s.load(cell{inFlight: 256, keys: fewBuckets}, round)
		l.Server, l.Target = few.addr, targetAcquire
		small, err := l.inProcess(ctx)
		if err != nil {
			return err
		}
		l = s.load(cell{inFlight: 256, keys: m.buckets}, round)
		l.Server, l.Target = all.addr, targetAcquire
		large, err := l.inProcess(ctx)
		if err != nil {
			return err
		}
		m.few, m.all = append(m.few, small), append(m.all, large)
		fmt.Fprintf(s.progress, "round %d of %d: %d live buckets %6.0f/s, %d %6.0f/s, ratio %.2f\n",
			round+1, s.rounds, m.buckets, large.RPS, fewBuckets, small.RPS, large.RPS/small.RPS)
	}
	m.own, m.showing = all.resident()
	return nil
}

// fillMany charges every bucket once and stops the daemon again.
func (s *suite) fillMany(ctx context.Context, m *many, data string) error {
	quotad, _, err := startQuotad(ctx, s.quotad, data)
	if err != nil {
		return err
	}
	begun := time.Now()
	err = declare(ctx, quotad.addr)
	if err == nil {
		err = fill(ctx, quotad.addr, m.buckets)
	}
	m.filled = time.Since(begun)
	if err := errors.Join(err, quotad.stop()); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(data, "quotad.db"))
	if err != nil {
		return fmt.Errorf("looking at the size of the file: %w", err)
	}
	m.file = info.Size()
	fmt.Fprintf(s.progress, "%d live buckets made in %.1f s, %.0f MB\n", m.buckets, m.filled.Seconds(), float64(m.file)/1e6)
	return nil
}

// fill charges n buckets, as many in one request as a request may have, in an order that leaps about.
func fill(ctx context.Context, server string, n int) error {
	const (
		charges = 32
		callers = 512
	)
	conn, err := connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	client := quotadv1.NewQuotaServiceClient(conn)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stride := strideOf(n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				from := int(next.Add(charges)) - charges
				if from >= n {
					return
				}
				request := &quotadv1.AcquireRequest{Bucket: bucketName(from)}
				for rank := from; rank < min(n, from+charges); rank++ {
					request.Charges = append(request.Charges, &quotadv1.Charge{Bucket: bucketName(strew(rank, stride, n))})
				}
				if _, err := client.Acquire(ctx, request); err != nil {
					cancel(fmt.Errorf("filling the file: %w", err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
