package boltengine

import (
	"errors"
	"strings"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/quotad/quotad/internal/store"
)

// tx is a store.Tx. It remembers the bolt buckets that it met: finding one costs as much as finding a key in it.
type tx struct {
	bolt   *bolt.Tx
	kept   *arena // nil in a view
	dirty  bool   // something was written
	key    []byte // of the running call; saves an allocation for each
	last   *space
	spaces map[string]*space
}

// space is a bolt bucket in one transaction.
type space struct {
	name    string
	bucket  *bolt.Bucket // nil if there is no such space
	cursor  *bolt.Cursor // for Get and Delete, which always seek first
	written bool
	looked  bool   // last is known
	last    []byte // the last key that there was before this transaction changed anything; empty if there was none
}

// Get is store.Tx's.
func (x *tx) Get(space, key string) ([]byte, error) {
	v, _ := x.find(x.space(space), key)
	return v, nil
}

// find returns the value at key, or nil, and leaves the space's cursor there.
func (x *tx) find(s *space, key string) ([]byte, bool) {
	if s.bucket == nil {
		return nil, false
	}
	x.key = append(x.key[:0], key...)
	k, v := s.cursor.Seek(x.key)
	if k == nil || string(k) != key {
		return nil, false
	}
	if v == nil {
		v = []byte{}
	}
	return v, true
}

// Put is store.Tx's.
func (x *tx) Put(space, key string, value []byte) error {
	if x.kept == nil {
		return store.ErrReadOnly
	}
	s := x.space(space)
	x.dirty = true
	if s.bucket == nil {
		b, err := x.bolt.CreateBucket([]byte(space))
		if err != nil {
			return err
		}
		s.use(b)
	} else if !s.written {
		s.pack(key)
	}
	s.written, s.looked = true, true
	x.key = append(x.key[:0], key...)
	return s.bucket.Put(x.key, x.kept.keep(value))
}

// Delete is store.Tx's.
func (x *tx) Delete(space, key string) error {
	if x.kept == nil {
		return store.ErrReadOnly
	}
	s := x.space(space)
	if _, found := x.find(s, key); !found {
		return nil
	}
	if !s.looked {
		s.look()
		_, _ = x.find(s, key) // the cursor has moved
	}
	x.dirty = true
	return s.cursor.Delete()
}

// Scan is store.Tx's.
func (x *tx) Scan(space, from string, fn func(key string, value []byte) bool) error {
	s := x.space(space)
	if s.bucket == nil {
		return nil
	}
	c := s.bucket.Cursor() // its own, as fn may Get from the same space
	for k, v := c.Seek([]byte(from)); k != nil; k, v = c.Next() {
		if v == nil {
			v = []byte{}
		}
		if !fn(string(k), v) {
			break
		}
	}
	return nil
}

// Drop is store.Tx's. bbolt visits every key to look for buckets in the bucket, and every page to free it: 40 ms for a million
// counters that are in memory. The pages are free from then on, and every commit writes the list of the free ones.
func (x *tx) Drop(space string) error {
	if x.kept == nil {
		return store.ErrReadOnly
	}
	s := x.space(space)
	if s.bucket == nil {
		return nil
	}
	x.dirty = true
	s.bucket, s.cursor = nil, nil
	if err := x.bolt.DeleteBucket([]byte(space)); err != nil && !errors.Is(err, berrors.ErrBucketNotFound) {
		return err
	}
	return nil
}

// Spaces is store.Tx's. fn may write, and drop the space that it is given.
func (x *tx) Spaces(from string, fn func(space string) bool) error {
	c := x.bolt.Cursor()
	next := []byte(from)
	for {
		k, _ := c.Seek(next)
		if k == nil {
			return nil
		}
		next = append(append(next[:0], k...), 0) // the least name after k
		if !fn(string(k)) {
			return nil
		}
	}
}

// space finds a space once per transaction.
func (x *tx) space(name string) *space {
	if x.last != nil && x.last.name == name {
		return x.last
	}
	s := x.spaces[name]
	if s == nil {
		s = &space{name: strings.Clone(name)}
		if b := x.bolt.Bucket([]byte(name)); b != nil {
			s.use(b)
		}
		if x.spaces == nil {
			x.spaces = make(map[string]*space)
		}
		x.spaces[s.name] = s
	}
	x.last = s
	return s
}

func (s *space) use(b *bolt.Bucket) {
	s.bucket, s.cursor = b, b.Cursor()
}

// packed is how full a page is left when keys are appended. bbolt splits pages in halves unless told, and a half that is behind
// the last key never fills: audit records and receipts whose ids sort by time would take twice the room.
const packed = 0.9

// look keeps the last key that there was before this transaction changed the space. It has to be asked for before anything is
// deleted: bbolt 1.5.0 looks for the last key for ever where every leaf page has been emptied.
func (s *space) look() {
	s.looked = true
	last, _ := s.cursor.Last()
	s.last = append(s.last[:0], last...)
}

// pack has pages split unevenly if the first key that a transaction puts is behind the last one that there was. Keys in no order
// would take 1.8 times the room that way, so everything else keeps to halves.
func (s *space) pack(key string) {
	if !s.looked {
		s.look()
	}
	if len(s.last) > 0 && string(s.last) < key {
		s.bucket.FillPercent = packed
	}
}

// end rolls back what was not committed. Use after it is a defect, and panics.
func (x *tx) end() {
	_ = x.bolt.Rollback() // says only that it was committed
	*x = tx{}
}

// arena keeps copies of the values of one transaction, as bbolt wants them unchanged until its end.
type arena struct{ chunk []byte }

const (
	chunkSize  = 64 << 10
	largeValue = chunkSize / 8 // above this a value gets its own allocation, so that no chunk is mostly wasted
)

// keep returns a copy of v that is never nil and lives until the next reset.
func (a *arena) keep(v []byte) []byte {
	if len(v) > largeValue {
		return append(make([]byte, 0, len(v)), v...)
	}
	if cap(a.chunk)-len(a.chunk) < len(v) || a.chunk == nil {
		a.chunk = make([]byte, 0, chunkSize)
	}
	n := len(a.chunk)
	a.chunk = append(a.chunk, v...)
	return a.chunk[n:len(a.chunk):len(a.chunk)]
}

// reset makes room for another transaction in the last chunk.
func (a *arena) reset() { a.chunk = a.chunk[:0] }
