package systemtest_test

import (
	"context"
	"fmt"
	"slices"
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
	reason := reasonOf(err)
	switch status.Code(err) {
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

// reasonOf returns why quotad refused; "" if it was not quotad that did.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "quotad" {
			return info.GetReason()
		}
	}
	return ""
}

// reservationIn returns the reservation that a refusal tells of; nil if it tells of none.
func reservationIn(err error) *quotadv1.Reservation {
	for _, detail := range status.Convert(err).Details() {
		if r, ok := detail.(*quotadv1.Reservation); ok {
			return r
		}
	}
	return nil
}

// findings are what was found to be wrong. Safe for concurrent use.
type findings struct {
	mu  sync.Mutex
	all []string
}

// faults adds one, unless there are many already.
func (f *findings) faults(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) < 20 {
		f.all = append(f.all, fmt.Sprintf(format, args...))
	}
}

// found returns the faults that were found so far.
func (f *findings) found() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
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
	findings
	mu  sync.Mutex
	all []*note
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
func each[T any](all []T, fn func(T)) {
	work := make(chan T)
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
