package service_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
)

const pageBytes = 1 << 20

func (s *shown) Usage(_ context.Context, q store.UsageQuery) (found []quota.Balance, next string, err error) {
	for _, v := range s.picture.Load().views[:q.Max] {
		found = append(found, v.Balances...)
	}
	return found, "token", nil
}

func (s *shown) Audit(_ context.Context, q store.AuditQuery) (page store.AuditPage, err error) {
	if q.Before == 0 {
		q.Before = 2001
	}
	for n := q.Before - 1; n > 0 && len(page.Records) < q.Max; n-- {
		page.Records, page.Next = append(page.Records, quota.AuditRecord{Sequence: n, After: strings.Repeat("x", 10_000)}), n
	}
	if page.Next == 1 {
		page.Next = 0
	}
	return page, nil
}

func startShown(t *testing.T, views []quota.View) (*rig, *shown) {
	t.Helper()
	s, err := store.Open(t.Context(), memengine.New(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := &shown{Ledger: s}
	l.show(views)
	return serve(t, s, l), l
}

// A page of large buckets ends where its bytes do, and the next one goes on there: all are listed, each once.
func TestBucketPages(t *testing.T) {
	for _, c := range []struct {
		what            string
		balances, pages int
		n, size         int32
	}{
		{"small", 0, 1, 1000, 1000},
		{"small, in pages", 0, 4, 1000, 300},
		{"pages as large as a snapshot", 0, 5, 1000, 200},
		{"large", 50, 11, 600, 1000},
		{"as large as a page", 3000, 3, 3, 1000},
	} {
		views := counts(int(c.n), "b")
		for i := range views {
			for range c.balances - 1 {
				views[i].Balances = append(views[i].Balances, views[i].Balances[0])
			}
		}
		r, l := startShown(t, views)
		seen, pages, token := 0, 0, ""
		for {
			resp, err := r.ListBuckets(t.Context(), &quotadv1.ListBucketsRequest{PageSize: c.size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, b := range resp.GetBuckets() {
				if b.GetName() != views[seen].Name {
					t.Fatalf("%s: %s is listed where %s should be", c.what, b.GetName(), views[seen].Name)
				}
				seen++
			}
			if got := resp.GetBuckets(); len(got) > int(c.size) || len(got) > 1 && proto.Size(resp)-proto.Size(got[len(got)-1]) > pageBytes+8*len(got) {
				t.Errorf("%s: a page of %d buckets and %d bytes", c.what, len(got), proto.Size(resp))
			}
			if token = resp.GetNextPageToken(); token == "" {
				break
			}
		}
		if seen != int(c.n) || pages != c.pages {
			t.Errorf("%s: %d of %d, on %d pages, want %d", c.what, seen, c.n, pages, c.pages)
		}
		if n := l.pageMax.Load(); n > 200 {
			t.Errorf("%s: one snapshot had %d buckets", c.what, n)
		}
		r.close()
	}
}

// The largest page of the largest counts is still small.
func TestUsagePage(t *testing.T) {
	r, _ := startShown(t, counts(store.PageMax, "b"))
	defer r.close()
	resp, err := r.ListUsage(t.Context(), &quotadv1.ListUsageRequest{PageSize: store.PageMax})
	if err != nil || len(resp.GetUsage()) != store.PageMax || resp.GetNextPageToken() != "token" || proto.Size(resp) > pageBytes {
		t.Errorf("%d counts in %d bytes, %v", len(resp.GetUsage()), proto.Size(resp), err)
	}
}

// So does a page of the trail end: its records have lists of counts in them.
func TestAuditPages(t *testing.T) {
	r, _ := startShown(t, nil)
	defer r.close()
	want, pages, token := int64(2000), 0, ""
	for {
		resp, err := r.ListAudit(t.Context(), &quotadv1.ListAuditRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if n := proto.Size(resp); n > pageBytes+20_000 {
			t.Errorf("a page of %d bytes", n)
		}
		for _, a := range resp.GetRecords() {
			if a.GetSequence() != want {
				t.Fatalf("record %d is listed where %d should be", a.GetSequence(), want)
			}
			want--
		}
		pages++
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if want != 0 || pages != 20 {
		t.Errorf("%d records are missing, on %d pages", want, pages)
	}
}
