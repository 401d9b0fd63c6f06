package service

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

const (
	watchDefault = time.Second
	watchMin     = 100 * time.Millisecond
	watchMax     = time.Hour

	// watchBalancesMax is how many current counts one watcher may follow, and how many one message has. Its memory and its
	// readings grow with them.
	watchBalancesMax = 10_000

	// watchAsksMax is how many buckets one look asks the ledger for because they are not listed any more. The counts of others
	// are sent without their new window.
	watchAsksMax = 100
)

// WatchUsage sends counts as they change. It reads the ledger by itself now and then, and only when something was committed,
// so that a watcher that does not listen holds up nobody.
func (i inspectServer) WatchUsage(req *quotadv1.WatchUsageRequest, stream grpc.ServerStreamingServer[quotadv1.WatchUsageResponse]) error {
	ctx := stream.Context()
	access := i.s.c.Access()
	see, err := i.sight(ctx)
	if err != nil {
		return err
	}
	if access.Principal(auth.CallerOf(ctx).Identities) != see.who { // found out under a policy that has been replaced since
		return accessChanged()
	}
	var ps quota.Problems
	w := watcher{s: i.s, see: see, prefix: checkPrefix(&ps, req.GetPrefix())}
	interval, faults := watchDefault, len(ps)
	if req.GetInterval() != nil {
		interval = duration(&ps, "interval", req.GetInterval())
	}
	if len(ps) == faults && (interval < watchMin || interval > watchMax) {
		ps.Add("interval", "is %v; want %v to %v, or leave it out for %v", interval, watchMin, watchMax, watchDefault)
	}
	if ps != nil {
		return invalid(ps)
	}
	var some bool
	w.prefix, some = see.narrow(w.prefix)
	w.nothing = !some
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for waiting := []*quotadv1.WatchUsageResponse(nil); ; {
		// Who may do less now than when the stream began, or whose token was revoked, is asked anew who they are.
		if i.s.c.Access() != access {
			return accessChanged()
		}
		if len(waiting) == 0 {
			if waiting, err = w.look(ctx); err != nil {
				return err
			}
		}
		if len(waiting) > 0 {
			if err := stream.Send(waiting[0]); err != nil {
				return err
			}
			waiting = waiting[1:]
		}
		select {
		case <-ctx.Done():
			return streamEnded(ctx)
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

func keyOf(b *quotadv1.Balance) countKey {
	return countKey{b.GetBucket(), b.GetUnit(), b.GetWindow()}
}

type watcher struct {
	s        *Service
	see      sight
	nothing  bool // whether nothing under the prefix may be shown
	prefix   quota.Bucket
	sent     map[countKey]*quotadv1.Balance // what is current, as it was sent; nil before the first look
	revision int64
	minute   int64
	event    int64 // the last event that it was told of, or that was there before it
}

// look returns what has changed since it looked last, in as many messages as that takes; none if nothing has. The first look
// has one message, which is a full picture.
func (w *watcher) look(ctx context.Context) ([]*quotadv1.WatchUsageResponse, error) {
	revision, now := w.s.c.Ledger.Revision(), w.s.c.Ledger.Now()
	first, minute := w.sent == nil, now.Unix()/60
	if !first && revision == w.revision && minute == w.minute {
		return nil, nil // windows end on the minute, if nothing else happens
	}
	w.revision, w.minute = revision, minute
	told, err := w.told(ctx, first)
	if err != nil {
		return nil, err
	}
	current, listed, err := w.read(ctx)
	if err != nil {
		return nil, err
	}
	var changed []*quotadv1.Balance
	for key, b := range current {
		if before := w.sent[key]; before == nil || !proto.Equal(before, b) {
			changed = append(changed, b)
		}
	}
	gone, err := w.gone(ctx, current, listed)
	if err != nil {
		return nil, err
	}
	w.sent = current
	sortBalances(changed)
	changed = append(changed, gone...)
	var out []*quotadv1.WatchUsageResponse
	for some := range slices.Chunk(changed, watchBalancesMax) {
		out = append(out, &quotadv1.WatchUsageResponse{Balances: some, Time: timestamppb.New(now)})
	}
	if out == nil && (first || len(told) > 0) {
		out = append(out, &quotadv1.WatchUsageResponse{Time: timestamppb.New(now)})
	}
	if len(told) > 0 { // after the counts, so that nobody is told of what they have not seen
		out[len(out)-1].Events = told
	}
	if first {
		out[0].Full = true
	}
	return out, nil
}

// read returns the counts that are current, and the names of the buckets that are listed.
func (w *watcher) read(ctx context.Context) (current map[countKey]*quotadv1.Balance, listed map[string]bool, err error) {
	current, listed = make(map[countKey]*quotadv1.Balance), make(map[string]bool)
	if w.nothing {
		return current, listed, nil
	}
	counts := 0 // those that are not shown are read as well
	for after := ""; ; {
		views, next, err := w.s.c.Ledger.Buckets(ctx, store.BucketQuery{Prefix: w.prefix, After: after, Max: viewsAtOnce})
		if err != nil {
			return nil, nil, w.see.failure(ctx, err)
		}
		for _, v := range views {
			if counts += len(v.Balances); !w.see.bucket(v.Name) {
				continue
			}
			listed[v.Name] = true
			for _, b := range v.Balances {
				now := balance(b)
				current[keyOf(now)] = now
			}
		}
		if counts > watchBalancesMax {
			var ps quota.Problems
			ps.Add("prefix", "there are more than %d counts under %q; watch a part of them", watchBalancesMax, w.prefix)
			return nil, nil, invalid(ps)
		}
		if after = next; next == "" {
			return current, listed, nil
		}
	}
}

// gone returns, at nothing used, the counts that were current and are not any more: their windows have ended, and nobody has
// charged the new ones. What the new window is, and its limit, is asked of a bounded number of buckets.
func (w *watcher) gone(ctx context.Context, current map[countKey]*quotadv1.Balance, listed map[string]bool) ([]*quotadv1.Balance, error) {
	var gone []*quotadv1.Balance
	for key := range w.sent {
		if current[key] == nil {
			gone = append(gone, &quotadv1.Balance{Bucket: key.bucket, Unit: key.unit, Window: key.window})
		}
	}
	sortBalances(gone)
	fresh := make(map[countKey]*quotadv1.Balance)
	asked := make(map[string]bool)
	for i, b := range gone {
		if name := b.GetBucket(); !listed[name] && !asked[name] && len(asked) < watchAsksMax {
			asked[name] = true
			v, err := w.s.c.Ledger.Bucket(ctx, name)
			if err != nil {
				return nil, w.see.failure(ctx, err)
			}
			for _, b := range balances(v.Balances) {
				fresh[keyOf(b)] = b
			}
		}
		if known := fresh[keyOf(b)]; known != nil {
			gone[i] = known
		}
	}
	return gone, nil
}

func sortBalances(bs []*quotadv1.Balance) {
	slices.SortFunc(bs, func(a, b *quotadv1.Balance) int {
		return cmp.Or(cmp.Compare(a.GetBucket(), b.GetBucket()), cmp.Compare(a.GetUnit(), b.GetUnit()),
			cmp.Compare(a.GetWindow(), b.GetWindow()))
	})
}
