package memengine

import "hash/maphash"

// tree is a treap: a binary tree in order of its keys, kept shallow by being also a heap in order of a hash of them. Its nodes
// never change. A write copies the path from the root to the key, some two dozen nodes among 100,000 keys, and leaves the tree
// that it started from as it was: that tree is a reader's snapshot, and what a failed transaction goes back to.
type tree[V any] struct{ root *node[V] }

type node[V any] struct {
	key         string
	rank        uint64 // a parent's is at least that of its children
	value       V
	left, right *node[V]
}

// seed makes ranks unpredictable, so that no choice of keys makes a tree deep.
type seed struct{ maphash.Seed }

func newSeed() seed { return seed{maphash.MakeSeed()} }

func (s seed) rank(key string) uint64 { return maphash.String(s.Seed, key) }

func (t tree[V]) get(key string) (value V, found bool) {
	for n := t.root; n != nil; {
		switch {
		case key < n.key:
			n = n.left
		case key > n.key:
			n = n.right
		default:
			return n.value, true
		}
	}
	return value, false
}

func (t tree[V]) put(key string, rank uint64, value V) tree[V] {
	return tree[V]{t.root.put(key, rank, value)}
}

func (n *node[V]) put(key string, rank uint64, value V) *node[V] {
	if n == nil {
		return &node[V]{key: key, rank: rank, value: value}
	}
	if n.key != key && n.rank < rank { // the key cannot be further down: those ranks are lower still
		left, right := n.split(key)
		return &node[V]{key: key, rank: rank, value: value, left: left, right: right}
	}
	c := *n
	switch {
	case key < n.key:
		c.left = n.left.put(key, rank, value)
	case key > n.key:
		c.right = n.right.put(key, rank, value)
	default:
		c.value = value
	}
	return &c
}

// split returns the keys below and above one that is not there.
func (n *node[V]) split(key string) (below, above *node[V]) {
	if n == nil {
		return nil, nil
	}
	c := *n
	if n.key < key {
		c.right, above = n.right.split(key)
		return &c, above
	}
	below, c.left = n.left.split(key)
	return below, &c
}

// remove takes a key out that is there.
func (t tree[V]) remove(key string) tree[V] { return tree[V]{t.root.remove(key)} }

func (n *node[V]) remove(key string) *node[V] {
	if n.key == key {
		return join(n.left, n.right)
	}
	c := *n
	if key < n.key {
		c.left = n.left.remove(key)
	} else {
		c.right = n.right.remove(key)
	}
	return &c
}

// join makes one tree of two, where each key of a is below those of b.
func join[V any](a, b *node[V]) *node[V] {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.rank >= b.rank:
		c := *a
		c.right = join(a.right, b)
		return &c
	default:
		c := *b
		c.left = join(a, b.left)
		return &c
	}
}

// scan calls fn for the keys from from on, until it returns false, and tells whether it never did.
func (t tree[V]) scan(from string, fn func(key string, value V) bool) bool {
	return t.root.scan(from, fn)
}

func (n *node[V]) scan(from string, fn func(key string, value V) bool) bool {
	if n == nil {
		return true
	}
	if from <= n.key {
		if !n.left.scan(from, fn) || !fn(n.key, n.value) {
			return false
		}
	}
	return n.right.scan(from, fn)
}
