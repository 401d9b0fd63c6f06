package server

import (
	"sync"
	"sync/atomic"

	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/store"
)

// Bounds on what one principal may have under way, on all of its connections together, so that it leaves room for the others. They
// hold where there is a policy: without one everybody is one principal, and has what there is.
const (
	// InFlightDefault is how many calls one principal may have under way at a time, where the policy says nothing else; more are
	// refused with UNAVAILABLE.
	InFlightDefault = 1024
	// StreamsPrincipalMax is how many streaming calls one principal may have open at a time, health watches aside.
	StreamsPrincipalMax = 16
	// HealthWatchesPrincipalMax is how many health watches one principal may have open at a time; all who are nobody are one.
	HealthWatchesPrincipalMax = 256
)

// Several principals that do their worst together still leave room in the writer's queue, and for streams.
const (
	_ = uint(store.QueueMax - 4*InFlightDefault)
	_ = uint(StreamsMax - 4*StreamsPrincipalMax)
	_ = uint(HealthWatchesMax - 4*HealthWatchesPrincipalMax)
)

// load is what one principal has under way.
type load struct{ calls, streams, watches atomic.Int64 }

// take counts one more in n unless there are as many as may be.
func take(n *atomic.Int64, most int64) bool {
	if n.Add(1) > most {
		n.Add(-1)
		return false
	}
	return true
}

// loads has the load of each principal by its name. Names are those of policies, so what operators write bounds it; none leaves, as a
// call that is under way must be counted where the next one of the same name is.
type loads struct {
	mu     sync.Mutex
	byName map[string]*load
}

func (l *loads) of(name string) *load {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.byName[name]
	if found == nil {
		if l.byName == nil {
			l.byName = make(map[string]*load)
		}
		found = new(load)
		l.byName[name] = found
	}
	return found
}

// know resolves who shows these identities under an access.
func (l *loads) know(access *auth.Access, ids []auth.Identity) *known {
	p := access.Principal(ids)
	k := &known{
		access: access, caller: &auth.Caller{Principal: p, Identities: ids}, load: l.of(p.Name),
		calls: InFlightDefault, streams: StreamsPrincipalMax, watches: HealthWatchesPrincipalMax,
	}
	switch most := p.InFlightMax(); {
	case !access.Policy():
		k.calls, k.streams, k.watches = store.QueueMax, StreamsMax, HealthWatchesMax
	case most > 0:
		k.calls = int64(most)
	}
	return k
}
