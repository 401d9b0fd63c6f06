package service

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

const (
	watchDefault = time.Second
	watchMin     = 100 * time.Millisecond
	watchMax     = time.Hour

	// watchBalancesMax is how many counts one watcher may follow. Its memory and its readings grow with them.
	watchBalancesMax = 10_000
)

// WatchUsage sends counts as they change. It reads the ledger by itself now and then, and only when something was committed,
// so that a watcher that does not listen holds up nobody.
func (i inspectServer) WatchUsage(req *quotadv1.WatchUsageRequest, stream grpc.ServerStreamingServer[quotadv1.WatchUsageResponse]) error {
	ctx := stream.Context()
	if _, err := caller(ctx); err != nil {
		return err
	}
	var ps quota.Problems
	w := watcher{s: i.s, prefix: checkPrefix(&ps, req.GetPrefix()), sent: make(map[countKey]*quotadv1.Balance)}
	interval := watchDefault
	if req.GetInterval() != nil {
		interval = req.GetInterval().AsDuration()
	}
	if interval < watchMin || interval > watchMax {
		ps.Add("interval", "is %v; want %v to %v, or leave it out for %v", interval, watchMin, watchMax, watchDefault)
	}
	if ps != nil {
		return invalid(ps)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		resp, err := w.look(ctx)
		if err != nil {
			return err
		}
		if resp != nil {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ended(ctx)
		case <-i.s.c.Stopping:
			return stopping()
		case <-tick.C:
		}
	}
}

// countKey names a count without its window: what a watcher follows from window to window.
type countKey struct {
	bucket, unit string
	window       quotadv1.Window
}

type watcher struct {
	s        *Service
	prefix   quota.Bucket
	sent     map[countKey]*quotadv1.Balance
	started  bool
	revision int64
	minute   int64
}

// look returns what has changed since it looked last; nil if nothing has. The first is a full picture.
func (w *watcher) look(ctx context.Context) (*quotadv1.WatchUsageResponse, error) {
	ledger := w.s.c.Ledger
	revision, now := ledger.Revision(), ledger.Status(ctx).LedgerTime
	if minute := now.Unix() / 60; w.started && revision == w.revision && minute == w.minute {
		return nil, nil // windows end on the minute, if nothing else happens
	}
	w.revision, w.minute = revision, now.Unix()/60
	resp := &quotadv1.WatchUsageResponse{Full: !w.started, Time: timestamppb.New(now)}
	w.started = true
	listed := make(map[string]bool)
	for after := ""; ; {
		views, next, err := ledger.Buckets(ctx, store.BucketQuery{Prefix: w.prefix, After: after, Max: store.PageMax})
		if err != nil {
			return nil, failure(err)
		}
		for _, v := range views {
			listed[v.Name] = true
			w.compare(v, resp)
		}
		if len(w.sent) > watchBalancesMax {
			var ps quota.Problems
			ps.Add("prefix", "%q has more than %d counts; watch a part of it", w.prefix, watchBalancesMax)
			return nil, invalid(ps)
		}
		if after = next; next == "" {
			break
		}
	}
	if err := w.compareGone(ctx, listed, resp); err != nil {
		return nil, err
	}
	if len(resp.Balances) == 0 && !resp.Full {
		return nil, nil
	}
	return resp, nil
}

// compareGone looks at what was sent and is not listed any more: its windows have ended, and nobody has charged the new ones.
func (w *watcher) compareGone(ctx context.Context, listed map[string]bool, resp *quotadv1.WatchUsageResponse) error {
	for key := range w.sent {
		if listed[key.bucket] {
			continue
		}
		listed[key.bucket] = true
		v, err := w.s.c.Ledger.Bucket(ctx, key.bucket)
		if err != nil {
			return failure(err)
		}
		w.compare(v, resp)
	}
	return nil
}

func (w *watcher) compare(v quota.View, resp *quotadv1.WatchUsageResponse) {
	for _, b := range v.Balances {
		now := balance(b)
		key := countKey{now.GetBucket(), now.GetUnit(), now.GetWindow()}
		if before := w.sent[key]; before == nil || !proto.Equal(before, now) {
			w.sent[key] = now
			resp.Balances = append(resp.Balances, now)
		}
	}
}
