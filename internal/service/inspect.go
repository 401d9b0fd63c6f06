package service

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
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

// The lists whose page tokens are of no use for another one.
const (
	listOfBuckets      = "buckets"
	listOfUsage        = "usage"
	listOfReservations = "reservations"
	listOfOpen         = "reservations/open"
)

// sight returns what the caller may look at.
func (i inspectServer) sight(ctx context.Context) (sight, error) {
	who, err := caller(ctx)
	if err != nil {
		return sight{}, err
	}
	return i.s.sightOf(who), nil
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
	see, err := i.sight(ctx)
	if err != nil {
		return nil, err
	}
	var ps quota.Problems
	q := store.BucketQuery{
		Prefix: checkPrefix(&ps, req.GetPrefix()), Max: pageSize(&ps, req.GetPageSize()),
		After: see.after(&ps, !see.all, listOfBuckets, req.GetPageToken()), DeclaredOnly: req.GetDeclaredOnly(),
	}
	if q.After != "" && quota.CheckPattern(q.After) != nil {
		ps.Add("page_token", "%q is not one of ours", q.After)
	}
	if ps != nil {
		return nil, invalid(ps)
	}
	resp, next, err := i.listBuckets(ctx, see, q)
	if err != nil {
		return nil, see.failure(ctx, err)
	}
	resp.NextPageToken = see.next(!see.all, listOfBuckets, next)
	return resp, nil
}

// listBuckets reads a page from several snapshots, until it has enough results or bytes, or has read enough.
func (i inspectServer) listBuckets(ctx context.Context, see sight, q store.BucketQuery) (resp *quotadv1.ListBucketsResponse, next string, err error) {
	resp = &quotadv1.ListBucketsResponse{}
	var some bool
	if q.Prefix, some = see.narrow(q.Prefix); !some {
		return resp, "", nil
	}
	bytes := 0
	for reads, left := 0, q.Max; left > 0 && (see.all || reads < filteredReads); reads, left = reads+1, q.Max-len(resp.GetBuckets()) {
		part := q
		part.Max = min(left, viewsAtOnce)
		var views []quota.View
		if views, next, err = i.s.c.Ledger.Buckets(ctx, part); err != nil {
			return nil, "", err
		}
		for n, v := range views {
			if !see.bucket(v.Name) {
				continue
			}
			found := view(v)
			resp.Buckets = append(resp.Buckets, found)
			bytes += proto.Size(found)
			if bytes >= pageBytesMax && (n+1 < len(views) || next != "") {
				return resp, v.Name, nil
			}
		}
		if q.After = next; next == "" {
			break
		}
	}
	return resp, next, nil
}

// GetBucket shows one bucket.
func (i inspectServer) GetBucket(ctx context.Context, req *quotadv1.GetBucketRequest) (*quotadv1.GetBucketResponse, error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := quota.CheckPattern(req.GetName()); err != nil {
		return nil, invalid(quota.Problems{{Field: "name", Text: err.Error()}})
	}
	if err := authorise(who, asked{auth.Inspect, []string{req.GetName()}}); err != nil {
		return nil, err
	}
	v, err := i.s.c.Ledger.Bucket(ctx, req.GetName())
	if err != nil {
		return nil, i.s.sightOf(who).failure(ctx, err)
	}
	if v.Unknown && len(v.Balances) == 0 && v.InFlight == 0 || quota.IsPattern(v.Name) && v.Declared == nil {
		return nil, refusal(ctx, quota.Decision{Outcome: quota.UnknownBucket, Detail: v.Name})
	}
	return &quotadv1.GetBucketResponse{Bucket: view(v)}, nil
}

// ListUsage lists counts of past and current windows.
func (i inspectServer) ListUsage(ctx context.Context, req *quotadv1.ListUsageRequest) (*quotadv1.ListUsageResponse, error) {
	see, err := i.sight(ctx)
	if err != nil {
		return nil, err
	}
	var ps quota.Problems
	checkWindow(&ps, "window", req.GetWindow())
	q := store.UsageQuery{
		Prefix: checkPrefix(&ps, req.GetPrefix()), Span: spanOf(req.GetWindow()), From: req.GetFrom(), To: req.GetTo(),
		Unit: quota.Unit(req.GetUnit()), After: see.after(&ps, !see.all, listOfUsage, req.GetPageToken()), Max: pageSize(&ps, req.GetPageSize()),
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
	found, next, err := i.usage(ctx, see, q)
	if err != nil {
		return nil, see.failure(ctx, err)
	}
	return &quotadv1.ListUsageResponse{Usage: balances(found), NextPageToken: see.next(!see.all, listOfUsage, next)}, nil
}

// usage reads a page of counts that may be shown.
func (i inspectServer) usage(ctx context.Context, see sight, q store.UsageQuery) (shown []quota.Balance, next string, err error) {
	var some bool
	if q.Prefix, some = see.narrow(q.Prefix); !some {
		return nil, "", nil
	}
	if see.all {
		return i.s.c.Ledger.Usage(ctx, q)
	}
	for page, reads := q.Max, 1; len(shown) < page; reads++ {
		var found []quota.Balance
		q.Max = page - len(shown)
		if found, next, err = i.s.c.Ledger.Usage(ctx, q); err != nil {
			return nil, "", err
		}
		for _, b := range found {
			if see.bucket(string(b.Bucket)) {
				shown = append(shown, b)
			}
		}
		if q.After = next; next == "" || reads == filteredReads {
			break
		}
	}
	return shown, next, nil
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
	see, err := i.sight(ctx)
	if err != nil {
		return nil, err
	}
	var ps quota.Problems
	list := listOfReservations
	if req.GetState() == quotadv1.ReservationState_RESERVATION_STATE_OPEN {
		list = listOfOpen // which has an order of its own
	}
	q := store.ReservationQuery{
		Prefix: checkPrefix(&ps, req.GetPrefix()), Phase: phaseOf(req.GetState()),
		After: see.after(&ps, !see.each, list, req.GetPageToken()), Max: pageSize(&ps, req.GetPageSize()),
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
	resp, next, err := i.listReservations(ctx, see, q)
	if err != nil {
		return nil, see.failure(ctx, err)
	}
	resp.NextPageToken = see.next(!see.each, list, next)
	return resp, nil
}

// listReservations reads a page from several snapshots, until it has enough results or bytes, or has read enough. A reservation may
// have many charges.
func (i inspectServer) listReservations(ctx context.Context, see sight, q store.ReservationQuery) (resp *quotadv1.ListReservationsResponse, next string, err error) {
	resp = &quotadv1.ListReservationsResponse{}
	bytes := 0
	for reads, left := 0, q.Max; left > 0 && bytes < pageBytesMax && (see.each || reads < filteredReads); reads, left = reads+1, q.Max-len(resp.GetReservations()) {
		part := q
		part.Max = min(left, reservationsAtOnce)
		var found []quota.Reservation
		if found, next, err = i.s.c.Ledger.Reservations(ctx, part); err != nil {
			return nil, "", err
		}
		for _, r := range found {
			r, shown := see.reservation(r)
			if !shown {
				continue
			}
			listed := reservation(r)
			resp.Reservations = append(resp.Reservations, listed)
			bytes += proto.Size(listed)
		}
		q.After = next
		if next == "" || len(found) < part.Max { // a look that was cut short: the next page goes on
			break
		}
	}
	return resp, next, nil
}

// ListAudit lists administrative changes.
func (i inspectServer) ListAudit(ctx context.Context, req *quotadv1.ListAuditRequest) (*quotadv1.ListAuditResponse, error) {
	see, err := i.sight(ctx)
	if err != nil {
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
	page, err := i.audit(ctx, see, q)
	if err != nil {
		return nil, see.failure(ctx, err)
	}
	return auditPage(page, see.all), nil
}

// audit reads a page of the records that may be shown. A page token is the number of a record, which tells nothing of it.
func (i inspectServer) audit(ctx context.Context, see sight, q store.AuditQuery) (page store.AuditPage, err error) {
	var some bool
	if q.Prefix, some = see.narrow(q.Prefix); !some {
		return store.AuditPage{}, nil
	}
	if see.all {
		return i.s.c.Ledger.Audit(ctx, q)
	}
	for most, reads := q.Max, 1; len(page.Records) < most; reads++ {
		q.Max = most - len(page.Records)
		found, err := i.s.c.Ledger.Audit(ctx, q)
		if err != nil {
			return store.AuditPage{}, err
		}
		for _, r := range found.Records {
			if see.audit(r) {
				page.Records = append(page.Records, r)
			}
		}
		page.Next = found.Next
		if q.Before = page.Next; page.Next == 0 || reads == filteredReads {
			break
		}
	}
	return page, nil
}

// auditPage returns the first of these records, as many as one page may have by its bytes. The chain, its ends and its hashes, is for
// who sees all of it: the ends would tell others how much they do not see, and a hash covers the records before it, so that what is
// hidden between two records could be guessed and the guess tried.
func auditPage(page store.AuditPage, all bool) *quotadv1.ListAuditResponse {
	resp := &quotadv1.ListAuditResponse{}
	if all {
		resp.Chain = auditChain(page.Chain)
	}
	bytes := 0
	for i, r := range page.Records {
		record := &quotadv1.AuditRecord{
			Sequence: r.Sequence, Time: timestamp(r.Time), Principal: r.Principal, Action: r.Action, Bucket: r.Bucket,
			Before: r.Before, After: r.After, Reason: r.Reason,
		}
		if all && r.Hash != (quota.AuditHash{}) {
			record.Hash = r.Hash[:]
		}
		resp.Records = append(resp.Records, record)
		bytes += proto.Size(record)
		if bytes >= pageBytesMax && i+1 < len(page.Records) {
			page.Next = r.Sequence
			break
		}
	}
	if page.Next > 0 {
		resp.NextPageToken = strconv.FormatInt(page.Next, 10)
	}
	return resp
}

func auditChain(c quota.AuditChain) *quotadv1.AuditChain {
	chain := &quotadv1.AuditChain{BaseSequence: c.Base.Sequence, HeadSequence: c.Head.Sequence}
	if c.Base.Sequence > 0 {
		chain.BaseHash = c.Base.Hash[:]
	}
	if c.Head.Sequence > 0 {
		chain.HeadHash = c.Head.Hash[:]
	}
	return chain
}

// GetStatus describes the daemon. What speaks of everybody's buckets is for who may inspect them all: a problem may name one, and how
// many there are and what they take is the business of no tenant.
func (i inspectServer) GetStatus(ctx context.Context, _ *quotadv1.GetStatusRequest) (*quotadv1.GetStatusResponse, error) {
	see, err := i.sight(ctx)
	if err != nil {
		return nil, err
	}
	st := i.s.c.Ledger.Status(ctx)
	resp := &quotadv1.GetStatusResponse{
		Version: i.s.c.Version, Engine: i.s.c.Engine, StartTime: timestamp(st.Start), LedgerTime: timestamp(st.LedgerTime),
		Problems: append(st.Problems, i.s.c.Problems()...), DefaultLimits: limits(st.Defaults.Limits), Zone: st.Defaults.Zone,
		Retain: durationpb.New(st.Retain),
	}
	if !see.all {
		if len(resp.GetProblems()) > 0 {
			resp.Problems = []string{"something is wrong; who may inspect every bucket is told what"}
		}
		return resp, nil
	}
	resp.FileBytes, resp.FileBytesMax, resp.OpenReservations = st.Bytes, st.Most, st.Open
	resp.UndeclaredNames, resp.UndeclaredNamesMax = st.Undeclared, st.Defaults.UndeclaredLive
	return resp, nil
}
