package boltengine

import (
	"sync"
	"time"
)

// views are the readings that are open, in the order in which they began, so that the first is the oldest. They are linked through
// the views themselves: keeping count allocates nothing.
type views struct {
	now func() time.Time

	mu          sync.Mutex // guards what follows
	first, last *view
	open        int
}

// view is one reading that is open.
type view struct {
	began      time.Time
	prev, next *view
}

// begin adds v at the end. It reads the clock under the lock: the order of the list is that of its times.
func (s *views) begin(v *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.began, v.prev = s.now(), s.last
	if s.last != nil {
		s.last.next = v
	} else {
		s.first = v
	}
	s.last = v
	s.open++
}

// end takes v out, wherever it stands.
func (s *views) end(v *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.prev != nil {
		v.prev.next = v.next
	} else {
		s.first = v.next
	}
	if v.next != nil {
		v.next.prev = v.prev
	} else {
		s.last = v.prev
	}
	v.prev, v.next = nil, nil
	s.open--
}

// Views returns how many views and copies are open now, and for how long the oldest of them has been; 0 if none is.
func (e *Engine) Views() (open int, oldest time.Duration) {
	s := &e.views
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		oldest = max(0, s.now().Sub(s.first.began))
	}
	return s.open, oldest
}
