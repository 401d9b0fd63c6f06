package service

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/window"
)

const (
	// pageDefault is how many results a page has where nothing is said.
	pageDefault = 100

	// pageBytesMax is where a page ends although it may have more results. It is well below what one message may have, as a
	// page passes it by up to one result. A page of counts never gets there: they are small, and a page has 1,000.
	pageBytesMax = 1 << 20

	// viewsAtOnce is how many buckets are read in one snapshot. A bucket may have many counts.
	viewsAtOnce = 200

	// reservationsAtOnce is how many reservations are read in one snapshot. Each touches up to 256 counts, and so has as many charges
	// where it was extended with others again and again: with names of the greatest length it takes 150 KB, settled, and a page
	// stays below 3 MiB.
	reservationsAtOnce = 10
)

// inspectServer answers reads.
type inspectServer struct {
	quotadv1.UnimplementedInspectServiceServer
	s *Service
}

// checkPrefix notes what is wrong with a prefix.
func checkPrefix(ps *quota.Problems, prefix string) quota.Bucket {
	if prefix != "" {
		ps.Try("prefix", quota.Bucket(prefix).Check())
	}
	return quota.Bucket(prefix)
}

func pageSize(ps *quota.Problems, n int32) int {
	if n < 0 || n > store.PageMax {
		ps.Add("page_size", "is %d; want 1 to %d, or leave it out for %d", n, store.PageMax, pageDefault)
	}
	if n == 0 {
		return pageDefault
	}
	return int(n)
}

// ListBuckets lists declared and counted buckets.
func (i inspectServer) ListBuckets(ctx context.Context, req *quotadv1.ListBucketsRequest) (*quotadv1.ListBucketsResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	var ps quota.Problems
	q := store.BucketQuery{
		Prefix: checkPrefix(&ps, req.GetPrefix()), Max: pageSize(&ps, req.GetPageSize()),
		After: req.GetPageToken(), DeclaredOnly: req.GetDeclaredOnly(),
	}
	if q.After != "" && quota.CheckPattern(q.After) != nil {
		ps.Add("page_token", "%q is not one of ours", q.After)
	}
	if ps != nil {
		return nil, invalid(ps)
	}
	return i.listBuckets(ctx, q)
}

// listBuckets reads a page from several snapshots, until it has enough results or bytes.
func (i inspectServer) listBuckets(ctx context.Context, q store.BucketQuery) (*quotadv1.ListBucketsResponse, error) {
	resp := &quotadv1.ListBucketsResponse{}
	bytes := 0
	for left := q.Max; left > 0; left = q.Max - len(resp.GetBuckets()) {
		part := q
		part.Max = min(left, viewsAtOnce)
		views, next, err := i.s.c.Ledger.Buckets(ctx, part)
		if err != nil {
			return nil, failure(err)
		}
		for n, v := range views {
			found := view(v)
			resp.Buckets = append(resp.Buckets, found)
			bytes += proto.Size(found)
			if bytes >= pageBytesMax && (n+1 < len(views) || next != "") {
				resp.NextPageToken = v.Name
				return resp, nil
			}
		}
		if q.After, resp.NextPageToken = next, next; next == "" {
			break
		}
	}
	return resp, nil
}

// GetBucket shows one bucket.
func (i inspectServer) GetBucket(ctx context.Context, req *quotadv1.GetBucketRequest) (*quotadv1.GetBucketResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	if err := quota.CheckPattern(req.GetName()); err != nil {
		return nil, invalid(quota.Problems{{Field: "name", Text: err.Error()}})
	}
	v, err := i.s.c.Ledger.Bucket(ctx, req.GetName())
	if err != nil {
		return nil, failure(err)
	}
	if v.Unknown && len(v.Balances) == 0 && v.InFlight == 0 || quota.IsPattern(v.Name) && v.Declared == nil {
		return nil, refusal(ctx, quota.Decision{Outcome: quota.UnknownBucket, Detail: v.Name})
	}
	return &quotadv1.GetBucketResponse{Bucket: view(v)}, nil
}

// ListUsage lists counts of past and current windows.
func (i inspectServer) ListUsage(ctx context.Context, req *quotadv1.ListUsageRequest) (*quotadv1.ListUsageResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	var ps quota.Problems
	checkWindow(&ps, "window", req.GetWindow())
	q := store.UsageQuery{
		Prefix: checkPrefix(&ps, req.GetPrefix()), Span: spanOf(req.GetWindow()), From: req.GetFrom(), To: req.GetTo(),
		Unit: quota.Unit(req.GetUnit()), After: req.GetPageToken(), Max: pageSize(&ps, req.GetPageSize()),
	}
	if q.Span == 0 {
		q.Span = window.Day
	}
	if q.Unit != "" {
		ps.Try("unit", q.Unit.Check())
	}
	checkLabel(&ps, "from", q.Span, q.From)
	checkLabel(&ps, "to", q.Span, q.To)
	if q.From != "" && q.To != "" && q.From > q.To {
		ps.Add("to", "%q is before from, which is %q", q.To, q.From)
	}
	if ps != nil {
		return nil, invalid(ps)
	}
	found, next, err := i.s.c.Ledger.Usage(ctx, q)
	if err != nil {
		return nil, failure(err)
	}
	return &quotadv1.ListUsageResponse{Usage: balances(found), NextPageToken: next}, nil
}

// checkLabel notes what is wrong with a label; those of minutes and hours are dates here.
func checkLabel(ps *quota.Problems, field string, span window.Span, label string) {
	if label == "" {
		return
	}
	if span == window.Minute || span == window.Hour {
		span = window.Day
	}
	_, err := span.Parse(label, time.UTC)
	ps.Try(field, err)
}

// ListReservations lists reservations, open and ended.
func (i inspectServer) ListReservations(ctx context.Context, req *quotadv1.ListReservationsRequest) (*quotadv1.ListReservationsResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	var ps quota.Problems
	q := store.ReservationQuery{
		Prefix: checkPrefix(&ps, req.GetPrefix()), Phase: phaseOf(req.GetState()), After: req.GetPageToken(), Max: pageSize(&ps, req.GetPageSize()),
	}
	if _, known := quotadv1.ReservationState_name[int32(req.GetState())]; !known {
		ps.Add("state", "is %d, which is not a state", req.GetState())
	}
	if req.GetMinAge() != nil {
		if q.MinAge = duration(&ps, "min_age", req.GetMinAge()); q.MinAge < 0 {
			ps.Add("min_age", "is %v; want 0 or more, or leave it out for all", q.MinAge)
		}
	}
	if ps != nil {
		return nil, invalid(ps)
	}
	return i.listReservations(ctx, q)
}

// listReservations reads a page from several snapshots, until it has enough results or bytes. A reservation may have many charges.
func (i inspectServer) listReservations(ctx context.Context, q store.ReservationQuery) (*quotadv1.ListReservationsResponse, error) {
	resp := &quotadv1.ListReservationsResponse{}
	bytes := 0
	for left := q.Max; left > 0 && bytes < pageBytesMax; left = q.Max - len(resp.GetReservations()) {
		part := q
		part.Max = min(left, reservationsAtOnce)
		found, next, err := i.s.c.Ledger.Reservations(ctx, part)
		if err != nil {
			return nil, failure(err)
		}
		for _, r := range found {
			listed := reservation(r)
			resp.Reservations = append(resp.Reservations, listed)
			bytes += proto.Size(listed)
		}
		q.After, resp.NextPageToken = next, next
		if next == "" || len(found) < part.Max { // a look that was cut short: the next page goes on
			break
		}
	}
	return resp, nil
}

// ListAudit lists administrative changes.
func (i inspectServer) ListAudit(ctx context.Context, req *quotadv1.ListAuditRequest) (*quotadv1.ListAuditResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	var ps quota.Problems
	q := store.AuditQuery{Prefix: checkPrefix(&ps, req.GetPrefix()), Max: pageSize(&ps, req.GetPageSize())}
	if token := req.GetPageToken(); token != "" {
		var err error
		if q.Before, err = strconv.ParseInt(token, 10, 64); err != nil || q.Before < 1 {
			ps.Add("page_token", "%q is not one of ours", token)
		}
	}
	if ps != nil {
		return nil, invalid(ps)
	}
	records, next, err := i.s.c.Ledger.Audit(ctx, q)
	if err != nil {
		return nil, failure(err)
	}
	return auditPage(records, next), nil
}

// auditPage returns the first of these records, as many as one page may have by its bytes.
func auditPage(records []quota.AuditRecord, next int64) *quotadv1.ListAuditResponse {
	resp := &quotadv1.ListAuditResponse{}
	bytes := 0
	for i, r := range records {
		record := &quotadv1.AuditRecord{
			Sequence: r.Sequence, Time: timestamp(r.Time), Principal: r.Principal, Action: r.Action, Bucket: r.Bucket,
			Before: r.Before, After: r.After, Reason: r.Reason,
		}
		resp.Records = append(resp.Records, record)
		bytes += proto.Size(record)
		if bytes >= pageBytesMax && i+1 < len(records) {
			next = r.Sequence
			break
		}
	}
	if next > 0 {
		resp.NextPageToken = strconv.FormatInt(next, 10)
	}
	return resp
}

// GetStatus describes the daemon.
func (i inspectServer) GetStatus(ctx context.Context, _ *quotadv1.GetStatusRequest) (*quotadv1.GetStatusResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	st := i.s.c.Ledger.Status(ctx)
	return &quotadv1.GetStatusResponse{
		Version: i.s.c.Version, Engine: i.s.c.Engine, StartTime: timestamp(st.Start), LedgerTime: timestamp(st.LedgerTime),
		FileBytes: st.Bytes, FileBytesMax: st.Most, Problems: append(st.Problems, i.s.c.Problems()...),
		DefaultLimits: limits(st.Defaults.Limits), Zone: st.Defaults.Zone, UndeclaredNames: st.Undeclared,
		UndeclaredNamesMax: st.Defaults.UndeclaredLive, Retain: durationpb.New(st.Retain), OpenReservations: st.Open,
	}, nil
}
