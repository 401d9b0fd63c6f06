package boltengine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt reads pages in place, from a mapped file, and trusts what they say: a page number or length that is wrong makes it
// read outside the file, which ends the process. So every number on every page is checked here first, by plain reads, and one
// thing that bbolt relies on when it writes, but does not check: that a branch page names each child by its first key. Whether
// the keys are in order is left to bbolt's own check, which is safe after this one.
//
// The format, in the byte order of the machine: a page begins with its id (8 bytes), flags (2), count (2) and overflow (4, the
// number of pages that follow as part of it). A branch page goes on with count elements of pos (4), key size (4), page (8); a leaf
// page with flags (4), pos (4), key size (4), value size (4); pos counts from the element. The value of a bolt bucket is its root
// page (8) and a sequence (8); if the root is 0, a leaf page of its own follows. A free list holds count page ids.

const (
	headerSize  = 16
	elementSize = 16
	bucketSize  = 16
	metaSize    = 64

	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of a leaf element

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	noFreelist  = ^uint64(0)

	minPageSize = 1 << 10
	maxPageSize = 1 << 24
)

var order = binary.NativeEndian

// meta is what a meta page says.
type meta struct {
	pageSize              uint64
	root, freelist, pages uint64 // page ids; pages is one more than the last in use
	txid                  uint64
}

// checkPages checks the file's metas against its size, and all that the newest of them leads to. It tells whether the other
// meta was unreadable.
func checkPages(f *os.File) (torn bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	size := uint64(max(info.Size(), 0))
	if size == 0 {
		return false, damaged("it is empty (if nothing was ever kept in it, remove it and start with --create)")
	}
	metas, err := readMetas(f, size)
	if err != nil {
		return false, err
	}
	newest := metas[0]
	for _, m := range metas {
		if m.txid > newest.txid {
			newest = m
		}
		if want := max(m.pages, 4); want > size/m.pageSize { // a new file has 4
			return false, damaged("it was cut short: it has %d bytes, and should have at least %d pages of %d", size, want, m.pageSize)
		}
	}
	w := &walker{r: f, meta: newest, seen: make([]bool, newest.pages)}
	if err := w.walk(); err != nil {
		return false, damaged("%w", err)
	}
	return len(metas) == 1, nil
}

// readMetas returns the one or two valid metas. It looks for them where bbolt does.
func readMetas(r io.ReaderAt, size uint64) ([]meta, error) {
	first, ok := readMeta(r, 0)
	if !ok {
		for at := uint64(minPageSize); at <= maxPageSize && at < size; at *= 2 {
			if second, ok := readMeta(r, at); ok {
				return []meta{second}, second.checkPageSize(at)
			}
		}
		return nil, damaged("neither of its two first pages is readable")
	}
	if err := first.checkPageSize(first.pageSize); err != nil {
		return nil, err
	}
	second, ok := readMeta(r, first.pageSize)
	if !ok {
		return []meta{first}, nil
	}
	return []meta{first, second}, second.checkPageSize(first.pageSize)
}

// checkPageSize checks the size of a page, which must be where the second meta is.
func (m meta) checkPageSize(want uint64) error {
	if m.pageSize != want || want < minPageSize || want > maxPageSize || want&(want-1) != 0 {
		return damaged("its pages are said to have %d bytes", m.pageSize)
	}
	return nil
}

// readMeta reads the meta page at an offset, and tells whether its checksum is right.
func readMeta(r io.ReaderAt, at uint64) (meta, bool) {
	b := make([]byte, headerSize+metaSize)
	if _, err := r.ReadAt(b, int64(at)); err != nil { //nolint:gosec // at most maxPageSize
		return meta{}, false
	}
	b = b[headerSize:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8]) // never fails
	m := meta{
		pageSize: uint64(order.Uint32(b[8:])),
		root:     order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]),
		pages:    order.Uint64(b[40:]),
		txid:     order.Uint64(b[48:]),
	}
	return m, order.Uint32(b) == metaMagic && order.Uint32(b[4:]) == metaVersion && order.Uint64(b[56:]) == sum.Sum64()
}

// walker visits every page of a tree, each once.
type walker struct {
	meta
	r    io.ReaderAt
	seen []bool
	buf  []byte
}

// page is one page with its overflow, in the walker's buffer until the next load.
type page struct {
	id    uint64
	flags uint16
	count uint64
	data  []byte // with the header
}

func (w *walker) walk() error {
	if w.freelist != noFreelist {
		if err := w.free(); err != nil {
			return err
		}
	}
	buckets, err := w.tree(child{id: w.root}, true)
	if err != nil {
		return err
	}
	for _, root := range buckets {
		if _, err := w.tree(child{id: root}, false); err != nil {
			return err
		}
	}
	return nil
}

// load reads a page that nothing has led to before.
func (w *walker) load(id uint64) (page, error) {
	if err := w.mark(id); err != nil {
		return page{}, err
	}
	if err := w.read(id, 1); err != nil {
		return page{}, err
	}
	p := page{id: id, flags: order.Uint16(w.buf[8:]), count: uint64(order.Uint16(w.buf[10:])), data: w.buf}
	if own := order.Uint64(w.buf); own != id {
		return page{}, fmt.Errorf("page %d calls itself %d", id, own)
	}
	more := uint64(order.Uint32(w.buf[12:]))
	if more == 0 {
		return p, nil
	}
	if more >= w.pages {
		return page{}, fmt.Errorf("page %d goes on for %d pages of %d", id, more, w.pages)
	}
	for i := range more {
		if err := w.mark(id + 1 + i); err != nil {
			return page{}, err
		}
	}
	if err := w.read(id, more+1); err != nil {
		return page{}, err
	}
	p.data = w.buf
	return p, nil
}

func (w *walker) mark(id uint64) error {
	if id < 2 || id >= w.pages {
		return fmt.Errorf("page %d is named, of %d", id, w.pages)
	}
	if w.seen[id] {
		return fmt.Errorf("page %d is used twice, or free and used", id)
	}
	w.seen[id] = true
	return nil
}

func (w *walker) read(id, n uint64) error {
	if size := n * w.pageSize; uint64(cap(w.buf)) < size {
		w.buf = make([]byte, size)
	}
	w.buf = w.buf[:n*w.pageSize]
	if _, err := w.r.ReadAt(w.buf, int64(id*w.pageSize)); err != nil { //nolint:gosec // within the file's size
		return fmt.Errorf("reading page %d: %w", id, err)
	}
	return nil
}

// child is what a branch page says about a page.
type child struct {
	id  uint64
	key []byte // the first one there; nil if it is not known
}

// tree visits the pages below one, and returns the root pages of the bolt buckets in it. Only the root tree holds buckets.
func (w *walker) tree(c child, buckets bool) ([]uint64, error) {
	p, err := w.load(c.id)
	if err != nil {
		return nil, err
	}
	if c.key != nil {
		first, err := p.first()
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(first, c.key) {
			return nil, fmt.Errorf("page %d begins with another key than the page above it says", c.id)
		}
	}
	if p.flags == leafFlag {
		return p.leaf(buckets)
	}
	if p.flags != branchFlag {
		return nil, fmt.Errorf("page %d is of kind %#x, not part of a tree", c.id, p.flags)
	}
	children, err := p.branch()
	if err != nil {
		return nil, err
	}
	var roots []uint64
	for _, child := range children {
		more, err := w.tree(child, buckets)
		if err != nil {
			return nil, err
		}
		roots = append(roots, more...)
	}
	return roots, nil
}

// first returns the first key of a leaf or branch page.
func (p page) first() ([]byte, error) {
	if p.count == 0 {
		return nil, fmt.Errorf("page %d is empty", p.id)
	}
	e, err := p.element(0)
	if err != nil {
		return nil, err
	}
	if p.flags == leafFlag {
		e = e[4:]
	}
	key, _, err := p.bytes(0, uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])), 0)
	return key, err
}

// branch returns the pages that a branch page leads to.
func (p page) branch() ([]child, error) {
	if p.count == 0 {
		return nil, fmt.Errorf("branch page %d is empty", p.id)
	}
	children := make([]child, 0, p.count)
	for i := range p.count {
		e, err := p.element(i)
		if err != nil {
			return nil, err
		}
		key, _, err := p.bytes(i, uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])), 0)
		if err != nil {
			return nil, err
		}
		children = append(children, child{id: order.Uint64(e[8:]), key: bytes.Clone(key)})
	}
	return children, nil
}

// leaf checks a leaf page, and returns the root pages of the buckets on it.
func (p page) leaf(buckets bool) ([]uint64, error) {
	var roots []uint64
	for i := range p.count {
		e, err := p.element(i)
		if err != nil {
			return nil, err
		}
		_, value, err := p.bytes(i, uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:])))
		if err != nil {
			return nil, err
		}
		want := uint32(0)
		if buckets {
			want = bucketFlag
		}
		if flags := order.Uint32(e); flags != want {
			return nil, fmt.Errorf("element %d of page %d is of kind %#x, want %#x", i, p.id, flags, want)
		}
		if !buckets {
			continue
		}
		root, err := bucketRoot(value)
		if err != nil {
			return nil, fmt.Errorf("element %d of page %d: %w", i, p.id, err)
		}
		if root != 0 {
			roots = append(roots, root)
		}
	}
	return roots, nil
}

// bucketRoot returns the root page of a bolt bucket, or 0 if it lies inside its own value.
func bucketRoot(value []byte) (uint64, error) {
	if len(value) < bucketSize {
		return 0, errors.New("a space is cut short")
	}
	if root := order.Uint64(value); root != 0 {
		return root, nil
	}
	data := value[bucketSize:]
	if len(data) < headerSize || order.Uint16(data[8:]) != leafFlag {
		return 0, errors.New("a small space is no leaf")
	}
	_, err := page{count: uint64(order.Uint16(data[10:])), data: data}.leaf(false)
	return 0, err
}

// element returns the fixed part of an element.
func (p page) element(i uint64) ([]byte, error) {
	at := headerSize + i*elementSize
	if at+elementSize > uint64(len(p.data)) {
		return nil, fmt.Errorf("page %d has no room for %d elements", p.id, p.count)
	}
	return p.data[at:][:elementSize], nil
}

// bytes returns the key and the value of element i, which must lie behind the elements and on the page.
func (p page) bytes(i, pos, key, value uint64) (k, v []byte, err error) {
	at := headerSize + i*elementSize + pos
	if key == 0 || at < headerSize+p.count*elementSize || at+key+value > uint64(len(p.data)) {
		return nil, nil, fmt.Errorf("element %d of page %d points off the page", i, p.id)
	}
	return p.data[at:][:key], p.data[at+key:][:value], nil
}

// free marks the free pages, which are in order.
func (w *walker) free() error {
	p, err := w.load(w.freelist)
	if err != nil {
		return err
	}
	if p.flags != freelistFlag {
		return fmt.Errorf("page %d is of kind %#x, not the free list", p.id, p.flags)
	}
	ids := p.data[headerSize:]
	if p.count == 0xFFFF { // more than fit: the first id is the count
		p.count, ids = order.Uint64(ids), ids[8:]
	}
	if p.count > uint64(len(ids))/8 {
		return fmt.Errorf("the free list names %d pages, and has room for %d", p.count, len(ids)/8)
	}
	for i, last := uint64(0), uint64(0); i < p.count; i++ {
		id := order.Uint64(ids[i*8:])
		if id <= last {
			return fmt.Errorf("the free list is out of order at page %d", id)
		}
		if err := w.mark(id); err != nil {
			return err
		}
		last = id
	}
	return nil
}
