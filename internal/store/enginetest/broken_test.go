package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/quotad/quotad/internal/store"
)

// bug is one way in which an engine can be wrong.
type bug string

const (
	sound             bug = "sound" // no bug at all
	keepsOnError      bug = "keeps writes of a function that failed"
	keepsOnPanic      bug = "keeps writes of a function that panicked"
	swallowsPanics    bug = "counts a panic as done"
	wrapsErrors       bug = "hands back another error"
	liesWhenEnded     bug = "refuses an ended context, but keeps the writes"
	emptyBecomesNil   bug = "hands out empty values as nil"
	keysAreText       bug = "takes keys for text"
	takesEmptyNames   bug = "takes empty names"
	scansUnordered    bug = "scans out of order"
	scansFromStart    bug = "scans from the start"
	scansOn           bug = "scans on when told to stop"
	oneScanAtATime    bug = "scans one at a time"
	failsWhenMissing  bug = "fails where there is nothing"
	dropsNothing      bug = "drops nothing"
	dropsAtTheEnd     bug = "drops when the transaction ends"
	dropsUndone       bug = "drops at once, whatever becomes of the transaction"
	listsUnordered    bug = "lists spaces out of order"
	stopsAtDrop       bug = "ends a list of spaces at a drop"
	losesTheEmptied   bug = "takes nothing more into a space that it has emptied"
	readsOldValues    bug = "does not read its own writes"
	keepsTheSlice     bug = "keeps the slice that it was given"
	reusesTheSlice    bug = "hands out the same slice for all values"
	viewsSeeRunning   bug = "views see a running update"
	viewsFollow       bug = "views see later commits"
	viewsWrite        bug = "views write"
	updatesOverlap    bug = "updates overlap"
	worksWhenClosed   bug = "works on after Close"
	closesAtOnce      bug = "closes without waiting"
	cutsValues        bug = "cuts large values"
	losesKeys         bug = "loses keys above 50,000"
	forgets           bug = "forgets when closed"
	remembersFailures bug = "keeps what failed, and shows it when opened again"
	dropsReturn       bug = "dropped spaces return when opened again"
	forgetsEmpty      bug = "forgets empty values when closed"
	keepsFirstSession bug = "keeps only the first session"
)

// disk is what a naive engine leaves behind.
type disk struct {
	data   contents
	failed contents
	opens  int
}

// naive is an engine of nested maps that are copied for every update, with one bug.
type naive struct {
	bug     bug
	disk    *disk
	current atomic.Pointer[contents]
	writing sync.Mutex
	state   sync.RWMutex
	closed  atomic.Bool
	shared  []byte
}

func openNaive(b bug, d *disk) *naive {
	n := &naive{bug: b, disk: d}
	d.opens++
	c := d.data.clone()
	if b == remembersFailures {
		for space, keys := range d.failed {
			c[space] = maps.Clone(keys)
		}
	}
	n.current.Store(&c)
	return n
}

func (n *naive) Update(ctx context.Context, fn func(store.Tx) error) (err error) {
	if n.bug != closesAtOnce {
		n.state.RLock()
		defer n.state.RUnlock()
	}
	if n.closed.Load() && n.bug != worksWhenClosed {
		return store.ErrClosed
	}
	if ctx.Err() != nil && n.bug != liesWhenEnded {
		return ctx.Err()
	}
	if n.bug != updatesOverlap {
		n.writing.Lock()
		defer n.writing.Unlock()
	}
	old := n.current.Load()
	c := old.copied()
	if n.bug == viewsSeeRunning {
		n.current.Store(&c)
	}
	x := &naiveTx{n: n, data: func() contents { return c }, old: *old, writable: true}
	ended := false
	defer func() {
		if ended {
			return
		}
		if n.bug == keepsOnPanic {
			n.current.Store(&c)
		} else {
			n.current.Store(old)
		}
		if n.bug == swallowsPanics && recover() != nil {
			err = nil
		}
	}()
	err = fn(x)
	ended = true
	n.settle(x, old, &c, err)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && n.bug == wrapsErrors:
		return fmt.Errorf("naive: %w", err)
	}
	return err
}

// settle keeps or gives up what an update wrote.
func (n *naive) settle(x *naiveTx, old, c *contents, err error) {
	for _, space := range x.late {
		delete(*c, space)
	}
	switch {
	case err == nil || n.bug == keepsOnError:
		n.current.Store(c)
	case n.bug == dropsUndone && len(x.dropped) > 0:
		undone := old.copied()
		for _, space := range x.dropped {
			delete(undone, space)
		}
		n.current.Store(&undone)
	default:
		if n.bug == remembersFailures {
			n.disk.failed = c.copied()
		}
		n.current.Store(old)
	}
}

func (n *naive) View(ctx context.Context, fn func(store.Tx) error) error {
	if n.bug != closesAtOnce {
		if !n.state.TryRLock() {
			return store.ErrClosed
		}
		defer n.state.RUnlock()
	}
	if n.closed.Load() && n.bug != worksWhenClosed {
		return store.ErrClosed
	}
	c := *n.current.Load()
	x := &naiveTx{n: n, data: func() contents { return c }, old: c, writable: n.bug == viewsWrite}
	if n.bug == viewsFollow {
		x.data = func() contents { return *n.current.Load() }
	}
	return fn(x)
}

func (n *naive) Close() error {
	n.closed.Store(true)
	if n.bug != closesAtOnce {
		n.state.Lock()
		defer n.state.Unlock()
	}
	last := *n.current.Load()
	kept := last.copied()
	switch {
	case n.bug == forgets, n.bug == keepsFirstSession && n.disk.opens > 1:
		return nil
	case n.bug == dropsReturn:
		for space, keys := range n.disk.data {
			if kept[space] == nil {
				kept[space] = keys
			}
		}
	case n.bug == forgetsEmpty:
		for _, keys := range kept {
			maps.DeleteFunc(keys, func(_, value string) bool { return value == "" })
		}
	}
	n.disk.data = kept
	return nil
}

// copied is clone, with spaces that are empty.
func (c contents) copied() contents {
	all := contents{}
	for space, keys := range c {
		all[space] = maps.Clone(keys)
	}
	return all
}

type naiveTx struct {
	n        *naive
	data     func() contents
	old      contents
	writable bool
	slices   map[string][]byte
	late     []string
	dropped  []string
	scanning bool
}

func (x *naiveTx) value(v string) []byte {
	switch {
	case v == "" && x.n.bug == emptyBecomesNil:
		return nil
	case x.n.bug == reusesTheSlice:
		x.n.shared = append(x.n.shared[:0], v...)
		return x.n.shared
	}
	return append([]byte{}, v...)
}

func (x *naiveTx) Get(space, key string) ([]byte, error) {
	data := x.data()
	if x.n.bug == readsOldValues {
		data = x.old
	}
	if data[space] == nil && x.n.bug == failsWhenMissing {
		return nil, errors.New("no such space")
	}
	if held, ok := x.slices[space+"/"+key]; ok {
		return held, nil
	}
	if v, ok := data[space][key]; ok {
		return x.value(v), nil
	}
	return nil, nil
}

func (x *naiveTx) Put(space, key string, value []byte) error {
	if !x.writable {
		return store.ErrReadOnly
	}
	if (space == "" || key == "") && x.n.bug != takesEmptyNames {
		return errors.New("no name")
	}
	data := x.data()
	if data[space] == nil {
		data[space] = map[string]string{}
	}
	switch {
	case x.n.bug == keysAreText:
		key = strings.ToValidUTF8(key, "?")
	case x.n.bug == cutsValues && len(value) > 1<<15:
		value = value[:1<<15]
	case x.n.bug == losesKeys && len(data[space]) >= 50_000:
		return nil
	case x.n.bug == losesTheEmptied && len(data[space]) == 0 && len(x.old[space]) > 0:
		return nil
	case x.n.bug == keepsTheSlice:
		if x.slices == nil {
			x.slices = map[string][]byte{}
		}
		x.slices[space+"/"+key] = value
	}
	data[space][key] = string(value)
	return nil
}

func (x *naiveTx) Delete(space, key string) error {
	if !x.writable {
		return store.ErrReadOnly
	}
	delete(x.slices, space+"/"+key)
	delete(x.data()[space], key)
	return nil
}

func (x *naiveTx) Scan(space, from string, fn func(key string, value []byte) bool) error {
	if x.n.bug == oneScanAtATime {
		if x.scanning {
			return nil
		}
		x.scanning = true
		defer func() { x.scanning = false }()
	}
	keys := slices.Sorted(maps.Keys(x.data()[space]))
	if x.n.bug == scansUnordered {
		slices.Reverse(keys)
	}
	for _, key := range keys {
		if key < from && x.n.bug != scansFromStart {
			continue
		}
		if !fn(key, x.value(x.data()[space][key])) && x.n.bug != scansOn {
			break
		}
	}
	return nil
}

func (x *naiveTx) Drop(space string) error {
	if !x.writable {
		return store.ErrReadOnly
	}
	x.dropped = append(x.dropped, space)
	switch x.n.bug {
	case dropsNothing:
	case dropsAtTheEnd:
		x.late = append(x.late, space)
	default:
		delete(x.data(), space)
	}
	return nil
}

func (x *naiveTx) Spaces(from string, fn func(space string) bool) error {
	names := slices.Sorted(maps.Keys(x.data()))
	if x.n.bug == listsUnordered {
		slices.Reverse(names)
	}
	for _, name := range names {
		drops := len(x.dropped)
		if name >= from && !fn(name) || x.n.bug == stopsAtDrop && len(x.dropped) > drops {
			break
		}
	}
	return nil
}
