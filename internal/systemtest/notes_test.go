package systemtest_test

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// An answer is what a client may conclude from how a call ended.
type answer int

const (
	perhaps  answer = iota // not answered: only the same id again can tell
	granted                // charged, and durable
	denied                 // nothing charged: a limit
	refused                // nothing charged: the daemon says why it could not decide
	unlawful               // an answer that the contract does not know here
)

// conclude reads the end of an acquire.
func conclude(err error) answer {
	s := status.Convert(err)
	reason := ""
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "quotad" {
			reason = info.GetReason()
		}
	}
	switch s.Code() {
	case codes.OK:
		return granted
	case codes.ResourceExhausted:
		if reason == "LIMIT_EXCEEDED" {
			return denied
		}
	case codes.Unavailable:
		switch reason {
		case "OVERLOADED", "SHUTTING_DOWN", "STORAGE_FULL":
			return refused
		}
		return perhaps
	case codes.DeadlineExceeded, codes.Canceled:
		return perhaps
	}
	return unlawful
}

// A note is what the clients know of one acquire.
type note struct {
	id      string
	charges []*quotadv1.Charge
	answer  answer
}

func (n *note) request() *quotadv1.AcquireRequest {
	return &quotadv1.AcquireRequest{Bucket: n.charges[0].GetBucket(), Charges: n.charges, RequestId: n.id}
}

// notes are all that the clients know, against which the ledger is held. Safe for concurrent use.
type notes struct {
	mu    sync.Mutex
	all   []*note
	fault []string
}

// begin notes that an acquire is about to be sent.
func (ns *notes) begin(charges ...*quotadv1.Charge) *note {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := &note{id: fmt.Sprintf("call-%08d", len(ns.all)), charges: charges}
	ns.all = append(ns.all, n)
	return n
}

// end notes how it ended.
func (ns *notes) end(n *note, err error) answer {
	a := conclude(err)
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if n.answer = a; a == unlawful {
		ns.faults("%s: an answer that the contract does not have: %v", n.id, err)
	}
	return a
}

// faults adds one, unless there are many already. Called with mu held.
func (ns *notes) faults(format string, args ...any) {
	if len(ns.fault) < 20 {
		ns.fault = append(ns.fault, fmt.Sprintf(format, args...))
	}
}

// found returns the faults that were found so far.
func (ns *notes) found() []string {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return append([]string(nil), ns.fault...)
}

// with returns the acquires that ended in a certain way, from the one numbered from on.
func (ns *notes) with(a answer, from int) []*note {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	var some []*note
	for _, n := range ns.all[from:] {
		if n.answer == a {
			some = append(some, n)
		}
	}
	return some
}

func (ns *notes) len() int {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return len(ns.all)
}

// learn sends again what was not answered, until each has its one true answer. Nothing else may be running.
func (ns *notes) learn(ctx context.Context, c *client, from int) {
	each(ns.with(perhaps, from), func(n *note) {
		for ns.end(n, acquire(ctx, c, n)) == perhaps && ctx.Err() == nil {
		}
	})
}

// compare holds the counts, by bucket, against what was granted.
func (ns *notes) compare(used map[string]int64) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	want := make(map[string]int64)
	for _, n := range ns.all {
		if n.answer == granted {
			for _, c := range n.charges {
				for _, bucket := range lineage(c.GetBucket()) {
					want[bucket] += c.GetAmount()
				}
			}
		}
	}
	for bucket := range used {
		want[bucket] += 0 // nothing, unless something was acknowledged
	}
	for bucket, n := range want {
		switch count := used[bucket]; {
		case count < n:
			ns.faults("lost: %s counts %d, but %d were acknowledged", bucket, count, n)
		case count > n:
			ns.faults("invented: %s counts %d, but %d were acknowledged", bucket, count, n)
		}
	}
}

// recall sends acknowledged acquires again: each must be known, and charge nothing.
func (ns *notes) recall(ctx context.Context, c *client, some []*note) {
	each(some, func(n *note) {
		response, err := c.Acquire(ctx, n.request(), grpc.WaitForReady(true))
		ns.mu.Lock()
		defer ns.mu.Unlock()
		switch {
		case err != nil:
			ns.faults("lost: %s was acknowledged, and is answered by %v when it is sent again", n.id, err)
		case !response.GetReplayed():
			ns.faults("lost: %s was acknowledged, and charged anew when it was sent again", n.id)
		}
	})
}

func acquire(ctx context.Context, c *client, n *note) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.Acquire(ctx, n.request(), grpc.WaitForReady(true))
	return err
}

// each runs fn for all, many at a time.
func each(all []*note, fn func(*note)) {
	work := make(chan *note)
	var wg sync.WaitGroup
	for range min(64, len(all)) {
		wg.Go(func() {
			for n := range work {
				fn(n)
			}
		})
	}
	for _, n := range all {
		work <- n
	}
	close(work)
	wg.Wait()
}

// lineage returns a bucket and its parents.
func lineage(bucket string) []string {
	all := []string{bucket}
	for i := len(bucket) - 1; i > 0; i-- {
		if bucket[i] == '/' {
			all = append(all, bucket[:i])
		}
	}
	return all
}
