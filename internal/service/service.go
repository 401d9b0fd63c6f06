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
	// Audit returns a page of the audit trail, newest first; next is 0 at the end.
	Audit(context.Context, store.AuditQuery) (records []quota.AuditRecord, next int64, err error)
	// Reservations returns a page of reservations; next is "" at the end.
	Reservations(context.Context, store.ReservationQuery) (found []quota.Reservation, next string, err error)
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
}

// Service implements the three services of the contract.
type Service struct {
	c         Config
	backingUp sync.Mutex // held while a backup is made and sent
}

// New returns a Service.
func New(c Config) *Service {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Problems == nil {
		c.Problems = func() []string { return nil }
	}
	return &Service{c: c}
}

// Register makes a server answer the three services.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	quotadv1.RegisterQuotaServiceServer(r, quotaServer{s: s})
	quotadv1.RegisterInspectServiceServer(r, inspectServer{s: s})
	quotadv1.RegisterAdminServiceServer(r, adminServer{s: s})
}

// apply has the ledger make one change, in the name of who calls. It is the only place that says who that is.
func (s *Service) apply(ctx context.Context, who auth.Principal, op quota.Op) (quota.Decision, error) {
	op, err := inNameOf(who, op)
	if err != nil {
		return quota.Decision{}, failure(err)
	}
	d, err := s.c.Ledger.Apply(ctx, op)
	if err != nil {
		return d, failure(err)
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
