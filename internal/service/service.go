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
	Apply(context.Context, quota.Op) (quota.Decision, error)
	Check(context.Context, quota.Acquire) (quota.Decision, error)
	Bucket(ctx context.Context, name string) (quota.View, error)
	Buckets(context.Context, store.BucketQuery) (views []quota.View, next string, err error)
	Usage(context.Context, store.UsageQuery) (balances []quota.Balance, next string, err error)
	Audit(context.Context, store.AuditQuery) (records []quota.AuditRecord, next int64, err error)
	Status(context.Context) store.Status
	Revision() int64
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
