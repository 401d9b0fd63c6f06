// Package service answers the wire contract: it validates what was asked, has the ledger decide, and translates the outcome.
package service

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// Ledger is what the services need of a store. Apply is the one door for change.
type Ledger interface {
	// Apply makes one change, and answers when it is durable.
	Apply(context.Context, quota.Op) (quota.Decision, error)
	// Check tells what an acquire would be answered now.
	Check(context.Context, quota.Acquire) (quota.Decision, error)
	// Bucket returns a bucket, or a declared pattern, as it stands.
	Bucket(ctx context.Context, name string) (quota.View, error)
	// Buckets returns a page of them by name; next is "" at the end.
	Buckets(context.Context, store.BucketQuery) (views []quota.View, next string, err error)
	// Usage returns a page of counts, the oldest window first; next is "" at the end.
	Usage(context.Context, store.UsageQuery) (balances []quota.Balance, next string, err error)
	// Audit returns a page of the audit trail.
	Audit(context.Context, store.AuditQuery) (store.AuditPage, error)
	// Reservations returns a page of reservations; next is "" at the end.
	Reservations(context.Context, store.ReservationQuery) (found []quota.Reservation, next string, err error)
	// LastEvent returns the id of the newest event; 0 if there never was one.
	LastEvent() int64
	// Events returns events in the order of their ids, from the one above after on, at most most.
	Events(ctx context.Context, after int64, most int) ([]quota.Event, error)
	// Status tells how the ledger is.
	Status(context.Context) store.Status
	// Now returns the time by which the ledger counts; it never goes back.
	Now() time.Time
	// Revision rises with every commit that changed anything.
	Revision() int64
	// Backup writes a consistent copy to a new file at path, and checks its structure, not what its records say.
	Backup(ctx context.Context, path string) error
}

// Config is what a Service is made of.
type Config struct {
	Ledger    Ledger          // required
	Log       *slog.Logger    // nil means nowhere
	Version   string          // of the daemon, for GetStatus
	Engine    string          // what the ledger is kept in: "bbolt" or "memory"
	Problems  func() []string // what is wrong besides the ledger's own problems; nil means nothing
	BackupDir string          // where a backup is written before it is sent, of this daemon alone; "" means that for temporary files
	Stopping  <-chan struct{} // closed when the daemon stops, to end streams; nil means never
	// Access is the policy in force, for WhoAmI and ExplainAccess; nil means that there never is one. What a caller may do comes with
	// each call.
	Access func() *auth.Access
}

// Service implements the three services of the contract.
type Service struct {
	c         Config
	backingUp sync.Mutex // held while a backup is made and sent
	tokens    sealer     // of pages from which something may be hidden
}

// New returns a Service.
func New(c Config) *Service {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Problems == nil {
		c.Problems = func() []string { return nil }
	}
	if c.Access == nil {
		none := auth.OpenAccess()
		c.Access = func() *auth.Access { return none }
	}
	return &Service{c: c, tokens: newSealer()}
}

// Register makes a server answer the three services.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	quotadv1.RegisterQuotaServiceServer(r, quotaServer{s: s})
	quotadv1.RegisterInspectServiceServer(r, inspectServer{s: s})
	quotadv1.RegisterAdminServiceServer(r, adminServer{s: s})
}

// apply has the ledger make one change, in the name of who calls, if they may make it. It is the only place that says who that is.
func (s *Service) apply(ctx context.Context, who auth.Principal, op quota.Op) (quota.Decision, error) {
	what, err := askedOf(op)
	if err != nil {
		return quota.Decision{}, failure(err)
	}
	if err := authorise(who, what); err != nil {
		return quota.Decision{}, err
	}
	if op, err = inNameOf(who, op); err != nil {
		return quota.Decision{}, failure(err)
	}
	d, err := s.c.Ledger.Apply(ctx, op)
	if err != nil { // which may be of a record that the caller did not ask for: others' reservations expire on the way
		return d, s.sightOf(who).failure(ctx, err)
	}
	if d.Outcome == quota.NotAllowed {
		return d, notAllowed(who, what.verb, texts(d.Refused))
	}
	return d, refusal(ctx, d)
}

// inNameOf returns op as a change by who. An op that is not told apart here is refused, so that none is made in nobody's name.
func inNameOf(who auth.Principal, op quota.Op) (quota.Op, error) {
	switch op := op.(type) {
	case quota.Acquire:
		op.Principal = who.Name
		return op, nil
	case quota.Settle:
		op.Principal = who.Name
		return op, nil
	case quota.Release:
		op.Principal = who.Name
		return op, nil
	case quota.Extend:
		op.Principal = who.Name
		op.May = func(b quota.Bucket) bool { return who.May(auth.Acquire, b) }
		return op, nil
	case quota.SetBucket:
		op.Principal = who.Name
		return op, nil
	case quota.DeleteBucket:
		op.Principal = who.Name
		return op, nil
	case quota.ApplySet:
		op.Principal = who.Name
		return op, nil
	case quota.SetOverride:
		op.Principal = who.Name
		return op, nil
	case quota.Reset:
		op.Principal = who.Name
		return op, nil
	default:
		return nil, fmt.Errorf("a caller cannot make a %T", op)
	}
}
