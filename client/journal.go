package client

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gofrs/flock"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// JournalMax is how large a journal may become, in bytes. What it cannot take is kept in memory alone, and counted as Unjournaled.
const JournalMax = 16 << 20

const (
	journalMagic  = "quotad-journal "
	journalHeader = journalMagic + "1\n"
	sumLength     = 8           // hexadecimal digits of a CRC32C
	sumRoom       = "00000000 " // what a line begins with until it is known

	// Below journalSmall a file is left as it is: to cut it after every settlement would cost more than to add a line.
	journalSmall = 64 << 10
)

// journal keeps notes in a file, so that they survive the process. After the header each line is a CRC32C in hexadecimal, a space,
// and the JSON of an entry: a note under a number, or the numbers of notes that are done. All methods are safe for concurrent use.
type journal struct {
	path  string
	lock  *flock.Flock
	seq   atomic.Uint64 // the last number that was given
	small int64         // journalSmall, but in tests

	disk sync.Mutex // held while the disk works, so that mu need not be; taken before mu

	mu        sync.Mutex
	file      *os.File
	size      int64             // up to where the file is good
	live      map[uint64][]byte // the lines of notes that are not done
	alive     int64             // their bytes
	owed      []byte            // lines that say what is done and found no room
	torn      bool              // what is past size has still to be cut off
	dirty     bool              // written since the last sync
	rewriting bool
	again     int64 // no rewriting below this size
	broken    error // the first sync that went wrong
}

// entry is a line as JSON.
type entry struct {
	Seq     uint64          `json:"seq"`
	Acquire json.RawMessage `json:"acquire"`
	Made    int64           `json:"made"`
	Settle  json.RawMessage `json:"settle"`
	Release json.RawMessage `json:"release"`
	Perhaps bool            `json:"perhaps"`
	Done    []uint64        `json:"done"`
}

// openJournal opens the journal at path, or makes it, and returns the notes that were not delivered, oldest first. An error leaves the
// file as it is.
func openJournal(path string) (*journal, []*note, error) {
	path, err := placeOf(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the journal %s: %w", path, err)
	}
	j := &journal{path: path, small: journalSmall, live: make(map[uint64][]byte)}
	notes, err := j.open()
	if err != nil {
		return nil, nil, fmt.Errorf("opening the journal %s: %w", path, err)
	}
	return j, notes, nil
}

// placeOf returns where a journal is, for good: a process may change its directory, a rewriting must not replace a link, and two that
// come by different names must meet at one lock.
func placeOf(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path, err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err == nil {
		return real, nil
	}
	if info, err := os.Lstat(abs); err == nil && info.Mode()&os.ModeSymlink != 0 {
		return path, errors.New("it is a link that leads nowhere; make the file it leads to, or name that")
	}
	return abs, nil // it is yet to be made
}

func (j *journal) open() (notes []*note, err error) {
	if info, err := os.Stat(j.path); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("it is not a file") // to open a pipe would wait for its other end
	}
	// The lock has a file of its own, as a rewriting replaces the journal's.
	j.lock = flock.New(j.path + ".lock")
	locked, err := j.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking it: %w", err)
	}
	if !locked {
		return nil, errors.New("another process or client has it; give each worker a journal of its own")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.shut())
		}
	}()
	j.file, err = os.OpenFile(j.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, bare(err)
	}
	info, err := j.file.Stat()
	if err != nil {
		return nil, bare(err)
	}
	if info.Size() > 2*JournalMax { // lines that say what is done may pass the bound a little
		return nil, fmt.Errorf("it is larger than %d bytes, which no journal becomes", 2*JournalMax)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(j.file, data); err != nil {
		return nil, bare(err)
	}
	notes, err = j.read(data)
	if err != nil {
		return nil, err
	}
	if j.size == 0 {
		return notes, j.begin()
	}
	return notes, j.cut(j.size)
}

// begin makes a new journal of an empty file. It is durable at once: what a power cut leaves of a header is not told from a file of
// somebody else's.
func (j *journal) begin() error {
	if _, err := j.file.WriteAt([]byte(journalHeader), 0); err != nil {
		return bare(err)
	}
	if err := j.cut(int64(len(journalHeader))); err != nil {
		return err
	}
	if err := j.file.Sync(); err != nil {
		return bare(err)
	}
	return syncDir(filepath.Dir(j.path))
}

// read takes over what a file says, and returns the notes that are not done. What a crash leaves of the last line is not counted
// into size; any other damage is an error.
func (j *journal) read(data []byte) ([]*note, error) {
	if len(data) < len(journalHeader) && strings.HasPrefix(journalHeader, string(data)) {
		return nil, nil // it was not even begun
	}
	if !bytes.HasPrefix(data, []byte(journalHeader)) {
		first, _, _ := bytes.Cut(data, []byte("\n"))
		version, ours := bytes.CutPrefix(first, []byte(journalMagic))
		if n, err := strconv.Atoi(string(version)); ours && err == nil && n > 1 {
			return nil, fmt.Errorf("it has format %d, and this version of the client knows 1 alone; use the newer one", n)
		}
		return nil, errors.New("it is not a journal of quotad's client")
	}
	notes := make(map[uint64]*note)
	j.size = int64(len(journalHeader))
	for number := 2; j.size < int64(len(data)); number++ {
		line, _, whole := bytes.Cut(data[j.size:], []byte("\n"))
		body, good := checked(line)
		if last := j.size+int64(len(line))+1 >= int64(len(data)); last && torn(line, whole) {
			break
		}
		if !good || !whole {
			return nil, fmt.Errorf("line %d is damaged; nothing was deleted: mend it, or move the file away", number)
		}
		if err := j.take(notes, line, body); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		j.size += int64(len(line)) + 1
	}
	left := make([]*note, 0, len(notes))
	for _, seq := range slices.Sorted(maps.Keys(notes)) {
		left = append(left, notes[seq])
	}
	return left, nil
}

// take applies one entry.
func (j *journal) take(notes map[uint64]*note, line, body []byte) error {
	var e entry
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields() // it would be worse to forget half of a note
	if err := d.Decode(&e); err != nil {
		return err
	}
	for _, seq := range e.Done {
		delete(notes, seq)
		j.drop(seq)
	}
	if e.Seq == 0 {
		return nil
	}
	n := &note{seq: e.Seq, made: e.Made, perhaps: e.Perhaps}
	if e.Acquire != nil {
		n.acquire = &quotadv1.AcquireRequest{}
		if err := protojson.Unmarshal(e.Acquire, n.acquire); err != nil {
			return err
		}
	}
	if e.Settle != nil {
		n.settle = &quotadv1.SettleRequest{}
		if err := protojson.Unmarshal(e.Settle, n.settle); err != nil {
			return err
		}
	}
	if e.Release != nil {
		n.release = &quotadv1.ReleaseRequest{}
		if err := protojson.Unmarshal(e.Release, n.release); err != nil {
			return err
		}
	}
	if n.id() == "" {
		return errors.New("it names no request")
	}
	j.keep(e.Seq, append(bytes.Clone(line), '\n'))
	notes[e.Seq] = n
	j.seq.Store(max(j.seq.Load(), e.Seq))
	return nil
}

func (j *journal) keep(seq uint64, line []byte) {
	j.drop(seq)
	j.live[seq] = line
	j.alive += int64(len(line))
}

func (j *journal) drop(seq uint64) {
	j.alive -= int64(len(j.live[seq]))
	delete(j.live, seq)
}

// encode returns the line of a note, and the number that the note has in it.
func (j *journal) encode(n *note) (seq uint64, line []byte, err error) {
	seq = j.seq.Add(1)
	b := append(make([]byte, 0, 512), sumRoom+`{"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	for _, part := range []struct {
		name    string
		present bool
		message proto.Message
	}{{"acquire", n.acquire != nil, n.acquire}, {"settle", n.settle != nil, n.settle}, {"release", n.release != nil, n.release}} {
		if !part.present {
			continue
		}
		b = append(append(append(b, `,"`...), part.name...), `":`...)
		if b, err = (protojson.MarshalOptions{}).MarshalAppend(b, part.message); err != nil {
			return 0, nil, fmt.Errorf("writing it as JSON: %w", err)
		}
	}
	if n.acquire != nil {
		b = strconv.AppendInt(append(b, `,"made":`...), n.made, 10)
	}
	if n.perhaps {
		b = append(b, `,"perhaps":true`...)
	}
	return seq, summed(append(b, "}\n"...)), nil
}

// summed writes the checksum over the beginning of a line, which has room for it.
func summed(line []byte) []byte {
	sum := sumOf(line[sumLength+1 : len(line)-1])
	copy(line, sum[:])
	return line
}

// checked returns what follows the checksum of a line without its end, and whether that is right.
func checked(line []byte) (body []byte, good bool) {
	if len(line) <= sumLength || line[sumLength] != ' ' {
		return nil, false
	}
	body = line[sumLength+1:]
	return body, [sumLength]byte(line) == sumOf(body)
}

// torn tells whether a crash has left the last line so: without its end, as the process went, or with a hole of zeros, as the power
// did. Other damage must not pass for that, and take with it what was kept: a changed byte, even that of the end.
func torn(line []byte, whole bool) bool {
	if whole {
		return bytes.IndexByte(line, 0) >= 0
	}
	_, good := checked(line[:max(0, len(line)-1)])
	return !good
}

func sumOf(body []byte) (sum [sumLength]byte) {
	crc := binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	hex.Encode(sum[:], crc)
	return sum
}

// add writes a line of encode. It is with the system when add returns, and so survives the process; what survives a power cut is up
// to sync.
func (j *journal) add(seq uint64, line []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.size+int64(len(j.owed)+len(line)) > JournalMax {
		return fmt.Errorf("the journal %s has its %d bytes", j.path, JournalMax)
	}
	if err := j.write(line); err != nil {
		return err
	}
	j.keep(seq, line)
	return nil
}

// done takes a note off, and tells whether the file has become worth a rewriting, which the caller then owes. Where there is no room to
// write that a note is done, it is told again after a restart, which changes nothing.
func (j *journal) done(seq uint64) (rewrite bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.live[seq] == nil {
		return false
	}
	j.drop(seq)
	if len(j.live) == 0 && j.size > j.small && !j.rewriting && j.cut(int64(len(journalHeader))) == nil {
		j.again = 0
		return false
	}
	j.owed = append(j.owed, summed(fmt.Appendf(nil, sumRoom+"{\"done\":[%d]}\n", seq))...)
	_ = j.write(nil) // what is owed goes with the next line
	if j.rewriting || j.size <= max(16*j.small, j.again) || j.size <= 4*j.alive {
		return false
	}
	j.rewriting = true
	return true
}

// write appends what is owed and a line, wholly or not at all. mu is held.
func (j *journal) write(line []byte) error {
	if j.torn {
		if err := j.cut(j.size); err != nil {
			return err
		}
	}
	if len(j.owed) > 0 {
		line = slices.Concat(j.owed, line)
	}
	if _, err := j.file.WriteAt(line, j.size); err != nil {
		j.torn = true
		_ = j.cut(j.size) // else the next one does it
		return fmt.Errorf("writing the journal %s: %w", j.path, bare(err))
	}
	j.size += int64(len(line))
	j.owed, j.dirty = nil, true
	return nil
}

// cut ends the file after size bytes. mu is held, or nobody else has the journal yet.
func (j *journal) cut(size int64) error {
	if err := j.file.Truncate(size); err != nil {
		return fmt.Errorf("shortening the journal %s: %w", j.path, bare(err))
	}
	if size < j.size {
		j.owed, j.dirty = nil, true
	}
	j.size, j.torn = size, false
	return nil
}

// sync makes what was written durable. Writers need not wait for it.
func (j *journal) sync() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	err := j.restore()
	j.mu.Lock()
	dirty, file := j.dirty, j.file
	j.dirty = false
	j.mu.Unlock()
	if dirty {
		// Only a rewriting replaces the file, and that needs disk.
		err = errors.Join(err, file.Sync())
	}
	if err == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	err = fmt.Errorf("syncing the journal %s: %w", j.path, bare(err))
	// The system reports it once; whether a later sync helps, nobody knows.
	if j.broken == nil {
		j.broken = err
	}
	return err
}

// restore writes the file again if somebody has removed it, as what is kept would end with the process. One that somebody has put in
// its place is left to them. disk is held.
func (j *journal) restore() error {
	j.mu.Lock()
	kept, file := len(j.live), j.file
	j.mu.Unlock()
	if kept == 0 {
		return nil
	}
	there, err := os.Stat(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return j.rewriteHeld()
	}
	ours, err2 := file.Stat()
	if err = errors.Join(err, err2); err == nil && !os.SameFile(there, ours) {
		err = errors.New("another file has taken its place; what is not delivered is kept in memory alone")
	}
	return err
}

// rewrite replaces the file by one without what is done. Writers wait only for the last step. After an error the old one is still
// there and good, and will not be tried again before it has doubled.
func (j *journal) rewrite() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	return j.rewriteHeld()
}

// rewriteHeld is rewrite for a caller that holds disk.
func (j *journal) rewriteHeld() error {
	j.mu.Lock()
	j.rewriting = true // the file is not cut in the meantime
	from, live := j.size, maps.Clone(j.live)
	j.mu.Unlock()

	kept := []byte(journalHeader)
	for _, seq := range slices.Sorted(maps.Keys(live)) {
		kept = append(kept, live[seq]...)
	}
	file, err := writeAside(j.path+".new", kept)
	j.mu.Lock()
	j.rewriting = false
	if err == nil {
		err = j.replace(file, int64(len(kept)), from)
	}
	if err != nil {
		j.again = 2 * j.size
	}
	j.mu.Unlock()
	if err == nil {
		err = syncDir(filepath.Dir(j.path))
	}
	if err != nil {
		return fmt.Errorf("rewriting the journal %s: %w", j.path, err)
	}
	return nil
}

// replace adds to a new file of so many bytes what was written to the old one after from, and puts it in its place. mu is held.
func (j *journal) replace(file *os.File, size, from int64) error {
	late := make([]byte, j.size-from)
	_, err := j.file.ReadAt(late, from)
	if err == nil {
		_, err = file.WriteAt(late, size)
	}
	if err == nil {
		err = os.Rename(file.Name(), j.path)
	}
	if err != nil {
		return errors.Join(bare(err), file.Close(), os.Remove(file.Name()))
	}
	_ = j.file.Close() // it has no name any more
	j.file, j.size, j.torn, j.dirty, j.again = file, size+int64(len(late)), false, true, 0
	return nil
}

// close makes all durable and lets the file go.
func (j *journal) close() error {
	j.mu.Lock()
	if len(j.live) == 0 && j.size > int64(len(journalHeader)) {
		_ = j.cut(int64(len(journalHeader))) // else what is done is told again
	}
	j.mu.Unlock()
	_ = j.sync() // broken has it
	return errors.Join(j.broken, j.shut())
}

func (j *journal) shut() error {
	var err error
	if j.file != nil {
		err = j.file.Close()
	}
	return errors.Join(err, j.lock.Unlock())
}

// writeAside makes a new file durable, but not yet its name.
func writeAside(path string, data []byte) (*os.File, error) {
	// One that a crash has left. Whatever else has that name is not written through.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(path))
	}
	return file, nil
}

// syncDir makes the names in a directory durable, where a directory can be synced.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// bare leaves the path out of an error whose reader knows it.
func bare(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}
