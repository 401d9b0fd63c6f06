package quotatest

import (
	"context"
	"time"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
)

// answerMax is how long the Server waits for an answer of its own quotad.
const answerMax = 10 * time.Second

// Declare declares a bucket, or a pattern such as "users/*", with limits such as "50 calls/day" or "2_000_000 tokens/month"; none
// means that it is only counted. It replaces what was declared under that name, and leaves the counts alone.
func (s *Server) Declare(name string, limits ...string) {
	s.t.Helper()
	s.DeclareIn(name, "", limits...)
}

// DeclareIn is Declare with the IANA zone whose days and other windows hold for the bucket, such as "Europe/Berlin".
func (s *Server) DeclareIn(name, zone string, limits ...string) {
	s.t.Helper()
	parsed, err := limitsOf(limits)
	if err != nil {
		s.t.Fatalf("quotatest: declaring %s: %v", name, err)
	}
	b := &quotadv1.Bucket{Name: name, Zone: zone}
	for _, l := range parsed {
		b.Limits = append(b.Limits, limitOf(l))
	}
	s.DeclareBucket(b)
}

// limitOf returns a limit for the wire, where the windows have the same numbers by design.
func limitOf(l quota.Limit) *quotadv1.Limit {
	return &quotadv1.Limit{Unit: string(l.Unit), Window: quotadv1.Window(l.Span), Max: l.Max}
}

// DeclareBucket declares a bucket or a pattern with everything there is to say of it: estimates, hold, on_expiry and so on.
func (s *Server) DeclareBucket(b *quotadv1.Bucket) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.context(), answerMax)
	defer cancel()
	_, err := quotadv1.NewAdminServiceClient(s.conn).SetBucket(ctx, &quotadv1.SetBucketRequest{Bucket: b, Reason: "quotatest"})
	if err != nil {
		s.t.Fatalf("quotatest: declaring %s: %v", b.GetName(), err)
	}
}

// Used returns how much of a unit a bucket has used; "" is calls. It is the count of the current day or, where the unit is limited
// in other windows only, of the shortest of these: what a user of "50 calls/hour" has used in this hour. What was never charged is
// 0. A stopped quotad cannot be asked, and ends the test.
func (s *Server) Used(bucket, unit string) int64 {
	s.t.Helper()
	return s.balance("Used", bucket, unit).GetUsed()
}

// Held returns how much of a unit open reservations hold of a bucket, in the window of Used.
func (s *Server) Held(bucket, unit string) int64 {
	s.t.Helper()
	return s.balance("Held", bucket, unit).GetHeld()
}

// Open returns how many reservations are open.
func (s *Server) Open() int {
	s.t.Helper()
	ctx, cancel := s.look("Open")
	defer cancel()
	resp, err := quotadv1.NewInspectServiceClient(s.conn).GetStatus(ctx, &quotadv1.GetStatusRequest{})
	if err != nil {
		s.t.Fatalf("quotatest: Open: %v", err)
	}
	return int(resp.GetOpenReservations())
}

// look begins a reading of the counts, with everything expired that is due: under RealTime the store's own keeper may come to it a
// moment later.
func (s *Server) look(what string) (context.Context, context.CancelFunc) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.context(), answerMax)
	if err := s.expire(ctx); err != nil {
		cancel()
		s.t.Fatalf("quotatest: %s: expiring reservations: %v", what, err)
	}
	return ctx, cancel
}

// balance returns nil, which has 0 of everything, if there is no such count.
func (s *Server) balance(what, bucket, unit string) *quotadv1.Balance {
	s.t.Helper()
	ctx, cancel := s.look(what)
	defer cancel()
	if unit == "" {
		unit = string(quota.Calls)
	}
	resp, err := quotadv1.NewInspectServiceClient(s.conn).GetBucket(ctx, &quotadv1.GetBucketRequest{Name: bucket})
	if err != nil {
		s.t.Fatalf("quotatest: %s(%q, %q): %v", what, bucket, unit, err)
	}
	var found *quotadv1.Balance
	for _, b := range resp.GetBucket().GetBalances() { // the shortest window first
		if b.GetUnit() == unit && (found == nil || b.GetWindow() == quotadv1.Window_WINDOW_DAY) {
			found = b
		}
	}
	return found
}
