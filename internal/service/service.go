// Package service answers the wire contract: it validates what was asked, has the ledger decide, and translates the outcome.
package service

import (
	"context"
	"log/slog"

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
	// Status tells how the ledger is.
	Status(context.Context) store.Status
	// Revision rises with every commit that changed anything.
	Revision() int64
	// Backup writes a verified copy to a new file at path.
	Backup(ctx context.Context, path string) error
}

// Config is what a Service is made of.
type Config struct {
	Ledger    Ledger          // required
	Log       *slog.Logger    // nil means nowhere
	Version   string          // of the daemon, for GetStatus
	Engine    string          // what the ledger is kept in: "bbolt" or "memory"
	Problems  func() []string // what is wrong besides the ledger's own problems; nil means nothing
	BackupDir string          // where a backup is written before it is sent; "" means the directory for temporary files
	Stopping  <-chan struct{} // closed when the daemon stops, to end streams; nil means never
}

// Service implements the three services of the contract.
type Service struct{ c Config }

// New returns a Service.
func New(c Config) *Service {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Problems == nil {
		c.Problems = func() []string { return nil }
	}
	return &Service{c}
}

// Register makes a server answer the three services.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	quotadv1.RegisterQuotaServiceServer(r, quotaServer{s: s})
	quotadv1.RegisterInspectServiceServer(r, inspectServer{s: s})
	quotadv1.RegisterAdminServiceServer(r, adminServer{s: s})
}

// apply has the ledger make one change. The caller is a parameter, so that none can be forgotten.
func (s *Service) apply(ctx context.Context, _ auth.Principal, op quota.Op) (quota.Decision, error) {
	d, err := s.c.Ledger.Apply(ctx, op)
	if err != nil {
		return d, failure(err)
	}
	return d, refusal(ctx, d)
}
