package store_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
	"github.com/quotad/quotad/internal/store/memengine"
	"github.com/quotad/quotad/internal/window"
)

// forgetful is an engine whose store makes a mistake with the chain.
type forgetful struct {
	store.Tx
	t       *testing.T
	mistake string
}

func (f forgetful) Put(space, key string, record []byte) error {
	switch {
	case f.mistake == "no base" && space == "meta" && key == "audit-base":
		return nil
	case f.mistake == "no head" && space == "meta" && key == "audit" && record[8]%5 == 0:
		return nil
	case f.mistake == "no previous" && strings.HasPrefix(space, "audit/"):
		var r auditJSON
		if err := json.Unmarshal(record[1:len(record)-4], &r); err != nil {
			f.t.Fatal(err)
		}
		var n int64
		if _, err := fmt.Sscanf(key, "%x", &n); err != nil {
			f.t.Fatal(err)
		}
		r.Hash = quota.AuditRecord{
			Sequence: n, Time: time.UnixMilli(r.Time), Principal: r.Principal, Action: r.Action, Bucket: r.Bucket,
			Before: r.Before, After: r.After, Reason: r.Reason,
		}.Link(quota.AuditHash{}).String()
		body, err := json.Marshal(r)
		if err != nil {
			f.t.Fatal(err)
		}
		record = store.Seal(append([]byte{1}, body...), space, key)
	}
	return f.Tx.Put(space, key, record)
}

// trailStep is a step of a random life.
type trailStep struct {
	op   quota.Op
	then int // 0: a restart, 1: hours pass, 2: the head is noted, else nothing
	wait time.Duration
}

func drawLife(rt *rapid.T) []trailStep {
	steps := make([]trailStep, rapid.IntRange(1, 30).Draw(rt, "steps"))
	for i := range steps {
		steps[i] = trailStep{
			trailOp(rt), rapid.IntRange(0, 7).Draw(rt, "then"), time.Duration(rapid.IntRange(1, 60).Draw(rt, "hours")) * time.Hour,
		}
	}
	return steps
}

// trailLife leads a life of administration, restarts and days that pass, and returns what is wrong with the trail at its end.
func trailLife(t *testing.T, steps []trailStep, mistake string) (faults []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := memengine.New()
		start := func() *store.Store {
			return open(t, noClose{&hooks{Engine: e, tx: func(tx store.Tx) store.Tx { return forgetful{tx, t, mistake} }}},
				store.Options{Defaults: fifty, Retain: 24 * time.Hour})
		}
		s := start()
		var noted []quota.AuditPoint
		for _, step := range steps {
			if d, err := s.Apply(t.Context(), step.op); err != nil && mistake == "" || d.Outcome == quota.Invalid {
				faults = append(faults, fmt.Sprintf("%+v: %+v, %v", step.op, d, err))
			}
			switch step.then {
			case 0:
				closeStore(t, s)
				s = start()
			case 1:
				time.Sleep(step.wait)
				synctest.Wait()
			case 2:
				if page, err := s.Audit(t.Context(), store.AuditQuery{Max: 1}); err == nil {
					noted = append(noted, page.Chain.Head)
				}
			}
		}
		closeStore(t, s)
		faults = append(faults, lifeFaults(t, e, noted)...)
	})
	return faults
}

// lifeFaults verifies the trail and holds the heads that were noted on the way against it.
func lifeFaults(t *testing.T, e store.Engine, noted []quota.AuditPoint) (faults []string) {
	t.Helper()
	places := make(map[int64]quota.AuditHash)
	r, err := store.VerifyAudit(t.Context(), e, func(p quota.AuditPoint) { places[p.Sequence] = p.Hash })
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range noted {
		if hash, there := places[p.Sequence]; there && hash != p.Hash || !there && p.Sequence > r.Chain.Base.Sequence {
			faults = append(faults, fmt.Sprintf("the head %s was noted, and the chain has %s there", p, hash))
		}
	}
	return append(faults, r.Faults...)
}

// trailOp is what somebody may administer.
func trailOp(rt *rapid.T) quota.Op {
	n := rapid.Int64Range(1, 3).Draw(rt, "n")
	settings := quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: n}}}
	name := rapid.SampledFrom([]string{"a", "a/b", "c/*"}).Draw(rt, "name")
	reason := rapid.StringN(0, 5, -1).Draw(rt, "reason")
	switch rapid.IntRange(0, 7).Draw(rt, "op") {
	case 0:
		return quota.SetBucket{Principal: "test", Name: name, Settings: settings, Reason: reason}
	case 1:
		return quota.DeleteBucket{Principal: "test", Name: name, Reason: reason}
	case 2:
		return quota.ApplySet{Principal: "test", Source: quota.SourceAPI, Buckets: map[string]quota.Settings{"a": settings, "b": settings, name: settings}}
	case 3:
		return quota.SetOverride{Principal: "test", Bucket: "a/b", Limit: quota.AtMost(n)}
	case 4:
		return quota.Configure{Principal: "test", Defaults: quota.Defaults{Limits: settings.Limits, UndeclaredLive: 100}}
	case 5:
		return quota.Exhaust{Principal: "test", Reason: reason}
	case 6:
		return acquire("a/b", "")
	}
	return quota.Note{Principal: "test", Action: "access", Before: reason, After: name}
}

// Whatever is administered, restarted and waited for: the chain is whole, and has every head that it ever had since its base.
func TestTrailRandom(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if faults := trailLife(t, drawLife(rt), ""); len(faults) > 0 {
			rt.Fatalf("%q", faults)
		}
	})
}

// The controls of the one above: a store that makes a mistake is found out.
func TestTrailRandomControls(t *testing.T) {
	for _, mistake := range []string{"no base", "no head", "no previous"} {
		t.Run(mistake, func(t *testing.T) {
			found := false
			for seed := 0; seed < 30 && !found; seed++ {
				found = len(trailLife(t, rapid.Custom(drawLife).Example(seed), mistake)) > 0
			}
			if !found {
				t.Error("a mistake was not found")
			}
		})
	}
}
