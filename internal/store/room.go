package store

import (
	"errors"
	"time"

	"github.com/quotad/quotad/internal/groupcommit"
	"github.com/quotad/quotad/internal/quota"
)

// ending tells whether an op records what is spent already, or makes room.
func ending(op quota.Op) bool {
	switch op.(type) {
	case quota.Settle, quota.Release, quota.Expire:
		return true
	}
	return false
}

// parts is a batch for which there was no room as a whole, being written part by part.
type parts struct {
	s       *Store
	now     time.Time
	ops     []request
	results []groupcommit.Result[*quota.Decision]
	wrote   bool
	fault   error // why the engine failed last, if it did
	full    bool  // there was no room for a single op
}

// writeParts decides a batch for which there was no room as a whole. What ends reservations comes first, in ever smaller parts: a
// large transaction needs room for all the pages that it changes, and by leaving the receipts in the spaces where they are: those of
// today would need new pages, and the old ones are free only when most of what was on them has moved. Such a receipt may leave a day
// sooner than it would have. The rest is then tried once, and expires nothing by the way.
func (s *Store) writeParts(now time.Time, ops []request, results []groupcommit.Result[*quota.Decision]) (wrote bool, fault error) {
	p := parts{s: s, now: now, ops: ops, results: results}
	var endings, others []int
	for i, r := range ops {
		if ending(r.op) {
			endings = append(endings, i)
		} else {
			others = append(others, i)
		}
	}
	s.waits, s.stays = true, true
	defer func() { s.waits, s.stays = false, false }()
	p.write(endings, true)
	s.stays = false
	p.write(others, false)
	return p.wrote, p.fault
}

// write decides the ops at these places.
func (p *parts) write(at []int, split bool) {
	if len(at) == 0 {
		return
	}
	if p.full && split || errors.Is(p.fault, ErrUnknown) {
		p.refuse(at, p.fault)
		return
	}
	ops := make([]request, len(at))
	results := make([]groupcommit.Result[*quota.Decision], len(at))
	for i, n := range at {
		ops[i] = p.ops[n]
	}
	wrote, err := p.s.write(p.now, ops, results)
	switch {
	case errors.Is(err, ErrFull) && split && len(at) > 1:
		half := len(at) / 2
		p.write(at[:half], true)
		p.write(at[half:], true)
		return
	case engineFault(err):
		p.fault = err
		p.full = p.full || errors.Is(err, ErrFull)
		p.refuse(at, err)
		return
	case err != nil:
		var fault error
		if wrote, fault = p.s.writeSingly(p.now, ops, results); fault != nil {
			p.fault = fault
		}
	}
	p.wrote = p.wrote || wrote
	for i, n := range at {
		p.results[n] = results[i]
	}
}

func (p *parts) refuse(at []int, err error) {
	for _, n := range at {
		p.results[n] = groupcommit.Result[*quota.Decision]{Err: err}
	}
}
