package service_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// A watcher gets everything once, then what changed, and the new day when it comes; the daemon's end ends it.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), fifty)
		defer r.close()
		ctx := t.Context()
		acquire := func() {
			if _, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: "app/a"}); err != nil {
				t.Error(err)
			}
		}
		acquire()
		w, err := r.WatchUsage(ctx, &quotadv1.WatchUsageRequest{Prefix: "app"})
		if err != nil {
			t.Fatal(err)
		}
		next := func(full bool, used int64, day string) {
			t.Helper()
			resp, err := w.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if b := resp.GetBalances(); resp.GetFull() != full || len(b) != 1 || b[0].GetUsed() != used || b[0].GetWindowLabel() != day {
				t.Errorf("%v", resp)
			}
		}
		next(true, 1, "2000-01-01")
		acquire()
		acquire()
		next(false, 3, "2000-01-01")
		time.Sleep(24*time.Hour + time.Second/2) // between two looks of the watcher
		next(false, 0, "2000-01-02")
		acquire()
		next(false, 1, "2000-01-02")
		close(r.stop)
		if _, err := w.Recv(); status.Code(err) != codes.Unavailable || reason(err) != service.ReasonShuttingDown {
			t.Errorf("at the end: %v", err)
		}
	})
}

// A count that is not current any more is sent once at nothing used, without its old window, and then it is forgotten.
func TestWatchForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), quota.Defaults{})
		defer r.close()
		ctx := t.Context()
		for _, name := range []string{"app/free", "app/limited"} {
			declared := &quotadv1.Bucket{Name: name}
			if name == "app/limited" {
				declared.Limits = []*quotadv1.Limit{{Max: 5}}
			}
			if _, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: declared}); err != nil {
				t.Fatal(err)
			}
		}
		acquire := func(bucket, unit string) {
			t.Helper()
			if _, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: bucket, Charges: []*quotadv1.Charge{{Unit: unit}}}); err != nil {
				t.Error(err)
			}
		}
		acquire("app/free", "tokens")
		acquire("app/limited", "tokens")
		w, err := r.WatchUsage(ctx, &quotadv1.WatchUsageRequest{})
		if err != nil {
			t.Fatal(err)
		}
		next := func(want ...string) {
			t.Helper()
			resp, err := w.Recv()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range resp.GetBalances() {
				got = append(got, fmt.Sprintf("%s %s %d %q", b.GetBucket(), b.GetUnit(), b.GetUsed(), b.GetWindowLabel()))
				if bare := b.GetWindowLabel() == ""; bare != (b.GetStart() == nil) || bare != (b.GetEnd() == nil) || b.GetHeld() != 0 {
					t.Errorf("half a window: %v", b)
				}
			}
			if strings.Join(got, "; ") != strings.Join(want, "; ") {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		next(`app/free tokens 1 "2000-01-01"`, `app/limited calls 0 "2000-01-01"`, `app/limited tokens 1 "2000-01-01"`)
		time.Sleep(24*time.Hour + time.Second/2)
		next(`app/limited calls 0 "2000-01-02"`, `app/free tokens 0 ""`, `app/limited tokens 0 ""`)
		acquire("app/limited", "calls")
		next(`app/limited calls 1 "2000-01-02"`)
		acquire("app/free", "tokens")
		next(`app/free tokens 1 "2000-01-02"`)
	})
}

// shown is a ledger that shows some counts, one to a bucket, from one moment on.
type shown struct {
	service.Ledger
	picture atomic.Pointer[picture]
	asked   atomic.Int64 // calls of Bucket
	pageMax atomic.Int64 // the largest page of buckets that was asked for
}

type picture struct {
	revision int64
	views    []quota.View
}

func (s *shown) Now() time.Time                      { return time.Unix(0, 0) }
func (s *shown) Revision() int64                     { return s.picture.Load().revision }
func (s *shown) Status(context.Context) store.Status { panic("a watcher needs no more than the time") }

func (s *shown) Bucket(_ context.Context, name string) (quota.View, error) {
	s.asked.Add(1)
	return quota.View{Name: name, Balances: []quota.Balance{aCount(name, 0, "new")}}, nil
}

func (s *shown) Buckets(_ context.Context, q store.BucketQuery) (views []quota.View, next string, err error) {
	s.pageMax.Store(max(s.pageMax.Load(), int64(q.Max)))
	for _, v := range s.picture.Load().views {
		switch {
		case v.Name <= q.After:
		case len(views) == q.Max:
			return views, views[q.Max-1].Name, nil
		default:
			views = append(views, v)
		}
	}
	return views, "", nil
}

func (s *shown) show(views []quota.View) {
	p := &picture{views: views}
	if old := s.picture.Load(); old != nil {
		p.revision = old.revision + 1
	}
	s.picture.Store(p)
}

// aCount is a count that takes as many bytes as one can.
func aCount(name string, used int64, label string) quota.Balance {
	end := time.Unix(1<<40, 999_999_999)
	return quota.Balance{
		Bucket: quota.Bucket(name), Unit: quota.Unit(strings.Repeat("u", quota.UnitBytesMax)), Used: used, Held: quota.CountMax,
		Limit: quota.AtMost(quota.CountMax), Overridden: true, Window: window.Window{Span: window.Day, Label: label, Start: end, End: end},
	}
}

func counts(n int, prefix string) []quota.View {
	views := make([]quota.View, n)
	for i := range views {
		name := fmt.Sprintf("%s%05d", prefix, i)
		name += strings.Repeat("x", quota.NameBytesMax-len(name))
		views[i] = quota.View{Name: name, Balances: []quota.Balance{aCount(name, quota.CountMax, "2000-01-01T00:00:00Z")}}
	}
	return views
}

// The bound is on what is current, not on what ever was; a look asks for few buckets that are gone, and no message is too large.
func TestWatchBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(t.Context(), memengine.New(), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		l := &shown{Ledger: s}
		l.show(counts(10_000, "a"))
		r := serve(t, s, l)
		defer r.close()
		w, err := r.WatchUsage(t.Context(), &quotadv1.WatchUsageRequest{})
		if err != nil {
			t.Fatal(err)
		}
		next := func(full bool, used, fresh, bare int) {
			t.Helper()
			resp, err := w.Recv()
			if err != nil {
				t.Fatal(err)
			}
			var u, f, b int
			for _, x := range resp.GetBalances() {
				switch {
				case x.GetUsed() > 0:
					u++
				case x.GetWindowLabel() == "new":
					f++
				case x.GetStart() == nil && x.GetEnd() == nil && x.GetWindowLabel() == "":
					b++
				}
			}
			if u != used || f != fresh || b != bare || len(resp.GetBalances()) != u+f+b || resp.GetFull() != full {
				t.Errorf("%d in use, %d with a new window, %d without; full %v", u, f, b, resp.GetFull())
			}
		}
		next(true, 10_000, 0, 0)
		l.show(counts(10_000, "b"))
		next(false, 10_000, 0, 0)
		next(false, 0, 100, 9_900)
		if n := l.asked.Load(); n != 100 {
			t.Errorf("%d buckets were asked for", n)
		}
		l.show(counts(1, "b"))
		next(false, 0, 100, 9_899)
		l.show(counts(10_001, "c"))
		if _, err := w.Recv(); status.Code(err) != codes.InvalidArgument || fmt.Sprint(fields(err)) != "[prefix]" {
			t.Errorf("too many: %v", err)
		}
	})
}
