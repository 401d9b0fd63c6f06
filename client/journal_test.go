package client

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// settlement makes a note that no other one equals.
func settlement(i int) *note {
	return &note{settle: &quotadv1.SettleRequest{
		RequestId: fmt.Sprintf("id-%d", i),
		Charges:   []*quotadv1.Charge{{Bucket: "a/b", Unit: "tokens", Amount: new(int64(i))}, {Amount: new(int64(0))}},
	}}
}

// oneOfEach are notes of every kind.
func oneOfEach() []*note {
	acquire := &quotadv1.AcquireRequest{Bucket: "b", RequestId: "local-1", Hold: durationpb.New(0), Charges: []*quotadv1.Charge{{}, {Amount: new(int64(7)), Ceiling: new(int64(9))}}}
	return []*note{
		settlement(1),
		{release: &quotadv1.ReleaseRequest{RequestId: `"\ `}},
		{release: &quotadv1.ReleaseRequest{RequestId: "maybe"}, perhaps: true},
		{acquire: &quotadv1.AcquireRequest{Bucket: "b", RequestId: "local-0"}, made: 1_768_478_400},
		{acquire: acquire, made: 1_768_478_401, settle: &quotadv1.SettleRequest{RequestId: "local-1*JK"}}, // a bit from a line feed
	}
}

func mustOpen(t testing.TB, path string) (*journal, []*note) {
	t.Helper()
	j, notes, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return j, notes
}

func mustClose(t testing.TB, j *journal) {
	t.Helper()
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, j *journal, n *note) {
	t.Helper()
	seq, line, err := j.encode(n)
	if err == nil {
		err = j.add(seq, line)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.seq = seq
}

// quickDir is a directory in memory where there is one: what is tried there is what comes after what, not the disk.
func quickDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "quotad-test-") //nolint:usetesting // t.TempDir is on the disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// crash lets the file go as the end of a process does.
func crash(t testing.TB, j *journal) {
	t.Helper()
	if err := j.shut(); err != nil {
		t.Fatal(err)
	}
}

func different(want, got []*note) string {
	if slices.EqualFunc(want, got, func(a, b *note) bool {
		return a.seq == b.seq && a.perhaps == b.perhaps && a.made == b.made && proto.Equal(a.acquire, b.acquire) && proto.Equal(a.settle, b.settle) && proto.Equal(a.release, b.release)
	}) {
		return "" // cmp takes its time to say so
	}
	return gocmp.Diff(want, got, gocmp.AllowUnexported(note{}), protocmp.Transform(), cmpopts.EquateEmpty())
}

// written returns the bytes of a journal that holds one note of each kind, one of them done, and the notes that are left.
func written(t testing.TB) ([]byte, []*note) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "j")
	j, _ := mustOpen(t, path)
	notes := oneOfEach()
	for i, n := range notes {
		put(t, j, n)
		if i == 2 {
			j.done(notes[1].seq)
		}
	}
	crash(t, j)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data, slices.Delete(notes, 1, 2)
}

func TestJournalKeepsWhatIsNotDone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, notes := mustOpen(t, path)
	if len(notes) != 0 {
		t.Fatalf("a new journal holds %v", notes)
	}
	want := oneOfEach()
	for _, n := range want {
		put(t, j, n)
	}
	j.done(want[0].seq)
	j.done(want[0].seq) // told twice
	j.done(0)           // never written
	mustClose(t, j)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want -rw-------", info.Mode(), err)
	}
	j, got := mustOpen(t, path)
	if diff := different(want[1:], got); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	next := settlement(9)
	put(t, j, next)
	for _, n := range append(got, next) {
		j.done(n.seq)
	}
	mustClose(t, j)
	data, err := os.ReadFile(path)
	if err != nil || string(data) != journalHeader {
		t.Errorf("with nothing left: %q, %v", data, err)
	}
}

// TestJournalCutAnywhere is what a crash in the middle of a write leaves: the notes before it, and a file that can be written on.
func TestJournalCutAnywhere(t *testing.T) {
	t.Parallel()
	data, _ := written(t)
	path := filepath.Join(quickDir(t), "j")
	for size := range data {
		if err := os.WriteFile(path, data[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		want := notesIn(t, data[:bytes.LastIndexByte(data[:size], '\n')+1])
		j, got := mustOpen(t, path)
		if diff := different(want, got); diff != "" {
			t.Fatalf("of %d bytes (-want +got):\n%s", size, diff)
		}
		next := settlement(99)
		put(t, j, next)
		crash(t, j)
		j, got = mustOpen(t, path)
		if diff := different(append(want, next), got); diff != "" {
			t.Fatalf("of %d bytes, and one more (-want +got):\n%s", size, diff)
		}
		crash(t, j)
	}
}

// notesIn reads whole lines by the least that there is to know of them.
func notesIn(t *testing.T, data []byte) []*note {
	t.Helper()
	j := &journal{live: make(map[uint64][]byte)}
	notes := make(map[uint64]*note)
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte(journalHeader))) {
		if err := j.take(notes, bytes.TrimSuffix(line, []byte("\n")), line[sumLength+1:]); err != nil {
			t.Fatal(err)
		}
	}
	var left []*note
	for _, seq := range slices.Sorted(maps.Keys(notes)) {
		left = append(left, notes[seq])
	}
	return left
}

// wrongNote changes each byte of a journal in turn, mends the changed file, and returns what is wrong with what can be read from
// it: notes that are not those that were written. A hole in the last line is what a power cut leaves, and that line is lost.
func wrongNote(data []byte, want []*note, mend func(file []byte, at int)) error {
	for at := range data {
		for bit := range 8 {
			file := bytes.Clone(data)
			file[at] ^= 1 << bit
			mend(file, at)
			got, err := (&journal{live: make(map[uint64][]byte)}).read(file)
			if err != nil || different(want, got) == "" {
				continue
			}
			if last := bytes.LastIndexByte(data[:len(data)-1], '\n'); at > last && file[at] == 0 && different(want[:len(want)-1], got) == "" {
				continue
			}
			return fmt.Errorf("bit %d of byte %d (%q): other notes, and no error", bit, at, data[at])
		}
	}
	return nil
}

func TestJournalFindsDamage(t *testing.T) {
	t.Parallel()
	data, want := written(t)
	if err := wrongNote(data, want, func([]byte, int) {}); err != nil {
		t.Error(err)
	}
	// The control: a journal whose checksums are always right, as if there were none.
	err := wrongNote(data, want, func(file []byte, at int) {
		from := bytes.LastIndexByte(file[:at], '\n') + 1
		to := from + bytes.IndexByte(file[from:], '\n') + 1
		if from >= len(journalHeader) && to-from > sumLength+1 {
			summed(file[from:to])
		}
	})
	if err == nil {
		t.Error("no damage is seen without a checksum, either")
	}
}

func TestJournalRefuses(t *testing.T) {
	t.Parallel()
	data, _ := written(t)
	lines := strings.SplitAfter(string(data), "\n")
	damaged := slices.Clone(lines)
	damaged[2] = strings.Replace(damaged[2], "release", "relaese", 1)
	strange := slices.Clone(lines)
	strange[1] = string(summed([]byte(sumRoom + `{"seq":1,"color":"blue"}` + "\n")))
	for name, c := range map[string]struct{ file, want string }{
		"text":     {"hello\n", "it is not a journal of quotad's client"},
		"zeros":    {strings.Repeat("\x00", 100), "it is not a journal of quotad's client"},
		"newer":    {"quotad-journal 2\n", "it has format 2, and this version of the client knows 1 alone; use the newer one"},
		"damaged":  {strings.Join(damaged, ""), "line 3 is damaged; nothing was deleted: mend it, or move the file away"},
		"strange":  {strings.Join(strange, ""), `line 2: json: unknown field "color"`},
		"nameless": {journalHeader + string(summed([]byte(sumRoom+`{"seq":1}`+"\n"))), "line 2: it names no request"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "j")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time it is not locked, either
				_, _, err := openJournal(path)
				if want := "opening the journal " + path + ": " + c.want; err == nil || err.Error() != want {
					t.Errorf("error %v\n want %s", err, want)
				}
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != c.file {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
	long := filepath.Join(t.TempDir(), "j")
	err := os.WriteFile(long, []byte(journalHeader), 0o600)
	if err == nil {
		err = os.Truncate(long, 2*JournalMax+1)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(long); err == nil || !strings.HasSuffix(err.Error(), ": it is larger than 33554432 bytes, which no journal becomes") {
		t.Errorf("very long: %v", err)
	}
	for name, path := range map[string]string{"directory": t.TempDir(), "no directory": filepath.Join(t.TempDir(), "no", "j")} {
		if _, _, err := openJournal(path); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

const childJournal = "QUOTAD_TEST_JOURNAL"

func TestJournalHasOneOwner(t *testing.T) {
	t.Parallel()
	if path := os.Getenv(childJournal); path != "" { // the other process
		_, _, err := openJournal(path)
		fmt.Println(err)
		return
	}
	path := filepath.Join(t.TempDir(), "j")
	j, _ := mustOpen(t, path)
	want := "opening the journal " + path + ": another process or client has it; give each worker a journal of its own"
	if _, _, err := openJournal(path); err == nil || err.Error() != want {
		t.Errorf("error %v\n want %s", err, want)
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(link); err == nil || err.Error() != want {
		t.Errorf("by another name: error %v\n want %s", err, want)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.CommandContext(t.Context(), self, "-test.run=^TestJournalHasOneOwner$")
	other.Env = append(os.Environ(), childJournal+"="+path)
	if out, err := other.Output(); err != nil || !strings.HasPrefix(string(out), want+"\n") {
		t.Errorf("another process: %v, %s", err, out)
	}
	mustClose(t, j)
	j, _ = mustOpen(t, link)
	mustClose(t, j)
}

// modelled is a journal and what should be in it.
type modelled struct {
	j     *journal
	path  string
	small int64
	notes map[uint64]*note
}

// reopen ends the journal in some way, leaves perhaps a torn line behind it, and compares what is read.
func (m *modelled) reopen(t *rapid.T, end func() error) {
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if tail := rapid.IntRange(-20, 60).Draw(t, "torn"); tail > 0 {
		_, line, _ := m.j.encode(settlement(1))
		spoil(t, m.path, line[:tail])
	}
	j, got, err := openJournal(m.path)
	if err != nil {
		t.Fatal(err)
	}
	m.j, j.small = j, m.small
	var want []*note
	for _, seq := range slices.Sorted(maps.Keys(m.notes)) {
		want = append(want, m.notes[seq])
	}
	if diff := different(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func (m *modelled) add(t *rapid.T) {
	n := settlement(rapid.IntRange(0, 1e9).Draw(t, "i"))
	seq, line, err := m.j.encode(n)
	if err == nil {
		err = m.j.add(seq, line)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.seq = seq
	m.notes[seq] = n
}

func (m *modelled) done(t *rapid.T) {
	if len(m.notes) == 0 {
		t.Skip("nothing is kept")
	}
	seq := rapid.SampledFrom(slices.Sorted(maps.Keys(m.notes))).Draw(t, "seq")
	if m.j.done(seq) {
		m.rewrite(t)
	}
	delete(m.notes, seq)
}

func (m *modelled) rewrite(t *rapid.T) {
	if err := errors.Join(m.j.rewrite(), m.j.sync()); err != nil {
		t.Fatal(err)
	}
}

// TestJournalModel compares a journal with a map, through restarts, crashes and rewritings.
func TestJournalModel(t *testing.T) {
	t.Parallel()
	dir := quickDir(t)
	var runs atomic.Int64
	rapid.Check(t, func(t *rapid.T) {
		m := &modelled{path: filepath.Join(dir, fmt.Sprint(runs.Add(1))), notes: make(map[uint64]*note)}
		m.small = rapid.Int64Range(0, 400).Draw(t, "small")
		var err error
		if m.j, _, err = openJournal(m.path); err != nil {
			t.Fatal(err)
		}
		m.j.small = m.small
		defer func() { _ = m.j.shut() }()
		t.Repeat(map[string]func(*rapid.T){
			"add":     m.add,
			"done":    m.done,
			"rewrite": m.rewrite,
			"restart": func(t *rapid.T) { m.reopen(t, m.j.close) },
			"crash":   func(t *rapid.T) { m.reopen(t, m.j.shut) },
		})
		m.reopen(t, m.j.close)
	})
}

func spoil(t *rapid.T, path string, tail []byte) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(tail); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestJournalIsRewrittenUnderAdds adds and takes off from many goroutines while the file is rewritten again and again.
func TestJournalIsRewrittenUnderAdds(t *testing.T) {
	t.Parallel()
	for name, kept := range map[string]int{"some are kept": 5, "none is kept": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(quickDir(t), "j")
			j, _ := mustOpen(t, path)
			j.small = 1 // it is cut whenever it may be
			want := addUnderRewriting(t, j, kept)
			crash(t, j)
			j, got := mustOpen(t, path)
			if diff := different(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			mustClose(t, j)
			if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file is left aside: %v", err)
			}
		})
	}
}

// addUnderRewriting returns what is left: one of so many notes.
func addUnderRewriting(t *testing.T, j *journal, kept int) []*note {
	t.Helper()
	const writers, each = 4, 500
	left := make([][]*note, writers)
	var writing, rewriting sync.WaitGroup
	over := make(chan struct{})
	rewriting.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
				if err := errors.Join(j.rewrite(), j.sync()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				n := settlement(w*each + i)
				put(t, j, n)
				if i%kept == kept-1 {
					left[w] = append(left[w], n)
				} else {
					j.done(n.seq) // what it asks for is done all the time
				}
			}
		})
	}
	writing.Wait()
	close(over)
	rewriting.Wait()
	all := slices.Concat(left...)
	slices.SortFunc(all, func(a, b *note) int { return cmp.Compare(a.seq, b.seq) })
	return all
}

// TestJournalThatCannotBeRewritten goes on in the old file.
func TestJournalThatCannotBeRewritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j")
	j, _ := mustOpen(t, path)
	j.small = 1
	if err := os.MkdirAll(path+".new/in the way", 0o700); err != nil {
		t.Fatal(err)
	}
	kept := settlement(0)
	put(t, j, kept)
	asked := 0
	for i := range 200 {
		n := settlement(i)
		put(t, j, n)
		if j.done(n.seq) {
			asked++
			if err := j.rewrite(); err == nil {
				t.Fatal("rewritten, with a directory in the way")
			}
		}
	}
	if asked == 0 || asked > 8 {
		t.Errorf("a rewriting that cannot be was asked for %d times; want one for each time the file doubles", asked)
	}
	crash(t, j)
	j, got := mustOpen(t, path)
	if diff := different([]*note{kept}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	mustClose(t, j)
}

// TestJournalWithoutRoom has the disk full for a while, by a file that takes nothing.
func TestJournalWithoutRoom(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	defer full.Close()
	path := filepath.Join(t.TempDir(), "j")
	j, _ := mustOpen(t, path)
	before, after := settlement(1), settlement(3)
	put(t, j, before)
	file := j.file
	j.file = full
	seq, line, err := j.encode(settlement(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.add(seq, line); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("add: %v", err)
	}
	j.done(before.seq) // which finds no room, either
	j.file = file
	put(t, j, after)
	crash(t, j)
	j, got := mustOpen(t, path)
	if diff := different([]*note{after}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	j.size = JournalMax
	if err := j.add(seq, line); err == nil || !strings.Contains(err.Error(), "has its 16777216 bytes") {
		t.Errorf("past its bound: %v", err)
	}
	crash(t, j)
}

// TestJournalAfterTornWrite has had a write of two lines end in the second, and no way to cut it off at once.
func TestJournalAfterTornWrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j")
	j, _ := mustOpen(t, path)
	if _, err := j.file.WriteAt(bytes.Repeat([]byte(sumRoom+strings.Repeat("x", 500)+"\n"), 2), j.size); err != nil {
		t.Fatal(err)
	}
	j.torn = true
	n := settlement(1)
	put(t, j, n)
	crash(t, j)
	j, got := mustOpen(t, path)
	if diff := different([]*note{n}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	mustClose(t, j)
}

func BenchmarkJournalAdd(b *testing.B) {
	j, _ := mustOpen(b, filepath.Join(b.TempDir(), "j"))
	b.ReportAllocs()
	for b.Loop() {
		n := settlement(1)
		put(b, j, n)
		j.done(n.seq)
	}
	mustClose(b, j)
}
