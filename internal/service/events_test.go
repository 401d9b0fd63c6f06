package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store/memengine"
)

// telling is fifty with events.
func telling() quota.Defaults {
	d := fifty
	d.UndeclaredLive, d.Thresholds = 5_000, quota.Thresholds{80, 100}
	return d
}

// toldOf returns the events of a message, a word each.
func toldOf(events []*quotadv1.ThresholdEvent) []string {
	var words []string
	for _, e := range events {
		words = append(words, fmt.Sprintf("%s:%d%%:%d", e.GetBalance().GetBucket(), e.GetPercent(), e.GetBalance().GetUsed()))
	}
	return words
}

// A watcher is told of what is crossed under its prefix from its first message on, each once, with the counts that show it.
func TestWatchTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, memengine.New(), telling())
		defer r.close()
		ctx := t.Context()
		take := func(bucket string, n int64) {
			if _, err := r.Acquire(ctx, &quotadv1.AcquireRequest{Bucket: bucket, Charges: []*quotadv1.Charge{{Amount: &n}}}); err != nil {
				t.Error(err)
			}
		}
		take("app/before", 50)
		w, err := r.WatchUsage(ctx, &quotadv1.WatchUsageRequest{Prefix: "app"})
		if err != nil {
			t.Fatal(err)
		}
		next := func(want ...string) {
			t.Helper()
			resp, err := w.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got := toldOf(resp.GetEvents()); !slices.Equal(got, want) {
				t.Errorf("told of %v, want %v", got, want)
			}
			for _, e := range resp.GetEvents() {
				shown := slices.ContainsFunc(resp.GetBalances(), func(b *quotadv1.Balance) bool {
					return b.GetBucket() == e.GetBalance().GetBucket() && b.GetUsed() >= e.GetBalance().GetUsed()
				})
				if !shown || e.GetId() == 0 || !e.GetTime().IsValid() || e.GetBalance().GetLimit() != 50 || e.GetBalance().GetWindowLabel() != "2000-01-01" {
					t.Errorf("told of %v", e)
				}
			}
		}
		next()
		take("app/a", 1)
		take("apparently/not", 50)
		next()
		take("app/a", 39)
		take("app/a", 1)
		take("app/b", 50)
		take("app", 40)
		next("app/a:80%:40", "app/b:80%:50", "app/b:100%:50", "app:80%:40")
		take("app/a", 1)
		next()
		for i := range 700 { // twice as many events
			take(fmt.Sprintf("app/many/%04d", i), 50)
		}
		resp, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		told := toldOf(resp.GetEvents())
		if len(told) != 1000 || told[0] != "app/many/0200:80%:50" || told[999] != "app/many/0699:100%:50" {
			t.Errorf("%d events from %v", len(told), told[:min(1, len(told))])
		}
	})
}

// Who may not look at a bucket is not told of it either.
func TestWatchTellsOnlyWhatMayBeSeen(t *testing.T) {
	t.Parallel()
	d := open(t, tenants)
	root := as(t.Context(), "root")
	names := []string{"acme", "acme/a", "acme/b/c", "acme-evil", "other", "other/x"}
	told := make(map[string]chan string)
	for _, who := range []string{"root", "acme", "other", "reader", "mixed"} {
		w, err := d.WatchUsage(as(t.Context(), who), &quotadv1.WatchUsageRequest{})
		if err == nil {
			_, err = w.Recv()
		}
		if err != nil {
			t.Fatal(who, err)
		}
		told[who] = make(chan string, 100)
		go func() {
			for {
				resp, err := w.Recv()
				if err != nil {
					return
				}
				for _, e := range resp.GetEvents() {
					told[who] <- e.GetBalance().GetBucket()
				}
			}
		}()
	}
	for _, name := range append(names, "zz-last") {
		bucket := &quotadv1.Bucket{Name: name, Limits: []*quotadv1.Limit{{Max: 100}}, Thresholds: &quotadv1.Thresholds{Percent: []int32{1}}}
		if _, err := d.SetBucket(root, &quotadv1.SetBucketRequest{Bucket: bucket}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Acquire(root, &quotadv1.AcquireRequest{Bucket: name}); err != nil {
			t.Fatal(err)
		}
	}
	for who, heard := range told {
		want := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !tenants.may(who, "inspect", name) })
		if len(want) == 0 || len(want) == len(names) && who != "root" {
			t.Fatalf("%s is no example", who)
		}
		if who == "root" {
			want = append(want, "zz-last")
		}
		var got []string
		for range want {
			select {
			case name := <-heard:
				got = append(got, name)
			case <-time.After(20 * time.Second):
				t.Fatalf("%s was told of %v, want %v", who, got, want)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || len(heard) > 0 {
			t.Errorf("%s was told of %v, want %v", who, got, want)
		}
	}
}

// Thresholds travel there and back: the bucket's own, none, and the daemon's.
func TestThresholdsOnTheWire(t *testing.T) {
	t.Parallel()
	r := start(t, memengine.New(), telling())
	defer r.close()
	ctx := t.Context()
	for _, c := range []struct {
		thresholds *quotadv1.Thresholds
		fault      string
	}{
		{nil, ""},
		{&quotadv1.Thresholds{}, ""},
		{&quotadv1.Thresholds{Percent: []int32{1, 50, 1000}}, ""},
		{&quotadv1.Thresholds{Percent: []int32{100, 80}}, "thresholds: 80% comes after 100%"},
		{&quotadv1.Thresholds{Percent: []int32{0}}, "thresholds: a threshold of 0% is out of range"},
		{&quotadv1.Thresholds{Percent: []int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}, "thresholds: there are 9 thresholds; at most 8"},
	} {
		resp, err := r.SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: "a", Thresholds: c.thresholds}})
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%v: %v, want %s", c.thresholds, err, c.fault)
			}
			continue
		}
		got := resp.GetBucket().GetThresholds()
		if err != nil || (got == nil) != (c.thresholds == nil) || !slices.Equal(got.GetPercent(), c.thresholds.GetPercent()) {
			t.Errorf("%v came back as %v, %v", c.thresholds, got, err)
		}
	}
}
