package groupcommit

// queue holds calls in the order in which they came. It is linked through the
// calls, so that a caller that gives up leaves from the middle at once: its place
// is free for another, and nobody else still holds its call. The zero value is
// an empty queue.
type queue[Op, Res any] struct {
	first, last *call[Op, Res]
	len         int
}

// push adds k, which is in no queue, at the end.
func (q *queue[Op, Res]) push(k *call[Op, Res]) {
	k.queued, k.prev = true, q.last
	if q.last != nil {
		q.last.next = k
	} else {
		q.first = k
	}
	q.last = k
	q.len++
}

// remove takes k out, wherever in the queue it is.
func (q *queue[Op, Res]) remove(k *call[Op, Res]) {
	if k.prev != nil {
		k.prev.next = k.next
	} else {
		q.first = k.next
	}
	if k.next != nil {
		k.next.prev = k.prev
	} else {
		q.last = k.prev
	}
	k.queued, k.prev, k.next = false, nil, nil
	q.len--
}
