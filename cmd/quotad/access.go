package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// accessFiles keeps the gate to what the policy and the tokens say: both whole, or neither. Files that are bad leave what was in
// force before.
type accessFiles struct {
	policy, tokens string // tokens is "" without any
	gate           *auth.Gate
	ledger         trail // nil before it is open
	log            *slog.Logger
	observe        func(at time.Time, ok bool)
	now            func() time.Time

	inForce string // the sum of what is; of the goroutine that loads
	noted   string // the sum that the audit trail has; of the same

	mu      sync.Mutex
	problem string // why the files on the disk are not in force; "" if they are
}

// trail is the ledger as a place to note what was changed outside of it.
type trail interface {
	applier
	Audit(context.Context, store.AuditQuery) (store.AuditPage, error)
}

func (a *accessFiles) files() []string {
	if a.tokens == "" {
		return []string{a.policy}
	}
	return []string{a.policy, a.tokens}
}

func (a *accessFiles) problems() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.problem == "" {
		return nil
	}
	return []string{a.problem}
}

// load reads the files and puts them in force.
func (a *accessFiles) load(ctx context.Context, force bool) error {
	access, err := auth.LoadAccess(a.policy, a.tokens)
	if err == nil && !force && access.Sum() == a.inForce {
		_ = a.settled(nil) // what was bad may be as it was before
		return a.note(ctx)
	}
	if err == nil {
		a.take(access)
	}
	a.observe(a.now(), err == nil)
	if a.settled(err) != nil {
		return err
	}
	return a.note(ctx)
}

// settled keeps in mind how the latest reading went.
func (a *accessFiles) settled(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.problem = ""
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		a.problem = "the policy or the tokens are refused, and those before are in force: " + first
	}
	return err
}

// take puts an access in force.
func (a *accessFiles) take(access *auth.Access) {
	a.inForce = access.Sum()
	a.gate.Set(access)
	a.log.Info("policy is in force", "policy", a.policy, "tokens", a.tokens, "sum", a.inForce)
	for _, name := range access.Unused() {
		a.log.Warn("in the policy or the tokens, and not in the other", "what", name)
	}
}

// errNotNoted means that what is in force is not in the audit trail yet.
var errNotNoted = errors.New("the audit trail does not have the policy that is in force")

// note notes in the audit trail what is in force, once it is open. What the ledger cannot note is in force all the same, and is noted
// later: a token that was revoked has to go also while the disk is full.
func (a *accessFiles) note(ctx context.Context) error {
	if a.ledger == nil || a.noted == a.inForce {
		return nil
	}
	err := noteAccess(ctx, a.ledger, fmt.Sprintf("policy %s tokens %s sum %s", a.policy, orNone(a.tokens), a.inForce))
	if err == nil {
		a.noted = a.inForce
	}
	return err
}

// lookBack is how many audit records a start looks through for the policy that it finds in force.
const lookBack = store.PageMax

// noPolicy is noted by a start without a policy.
const noPolicy = "policy none"

// noteAccess puts what is in force into the audit trail, unless the latest note there says so already: a restart changes nothing. That
// there is no policy is nothing new where there never was one. The error is an errNotNoted.
func noteAccess(ctx context.Context, ledger trail, after string) error {
	page, err := ledger.Audit(ctx, store.AuditQuery{Max: lookBack})
	if err == nil {
		note := quota.Note{Principal: "quotad", Action: "access", After: after}
		if i := slices.IndexFunc(page.Records, func(r quota.AuditRecord) bool { return r.Action == note.Action }); i >= 0 {
			note.Before = page.Records[i].After
		}
		if note.Before == after || note.Before == "" && after == noPolicy {
			return nil
		}
		_, err = ledger.Apply(ctx, note)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotNoted, err)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// certificates has TLS certificates read again.
type certificates struct {
	paths  []string
	reload func() error
}

func (c *certificates) files() []string { return c.paths }

func (c *certificates) load(context.Context, bool) error { return c.reload() }
