package bedrock

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

// A caller hangs up while progress waits for an answer that takes long.
func TestTapCloseDuringProgress(t *testing.T) {
	t.Parallel()
	for _, answer := range []error{nil, errTest} {
		var l ledger
		asked, asking := make(chan struct{}), make(chan struct{})
		hooks := l.hooks()
		hooks.progress = func(int64) error {
			close(asked)
			<-asking
			return answer
		}
		stream := slices.Concat(converseFrames(t)...)
		body := &fakeBody{pieces: [][]byte{slices.Clone(stream)}, err: io.EOF}
		tapped := newTap(body, streamConverse, hooks)
		read := make(chan int)
		go func() {
			n, _ := tapped.Read(make([]byte, len(stream)))
			read <- n
		}()
		<-asked
		if err := tapped.Close(); err != nil { // it would hang here
			t.Error(err)
		}
		if body.closes != 1 {
			t.Errorf("the body was closed %d times, want once", body.closes)
		}
		if _, err := l.only(); err == nil {
			t.Error("end was called while progress was running")
		}
		close(asking)
		if n := <-read; n != len(stream) {
			t.Errorf("Read says %d, want %d", n, len(stream))
		}
		end, err := l.only()
		if err != nil {
			t.Fatal(err)
		}
		wantEnd(t, end, streamEnd{Usage: Usage{OutputTokens: 1, Source: SourcePartial}, Seen: true, How: endClosed})
	}
}

// A caller hangs up while the SDK waits for the next frame, whole or begun.
func TestTapCloseDuringRead(t *testing.T) {
	t.Parallel()
	delta := deltaFrame(t, "Hello")
	for _, sent := range [][]byte{nil, delta, slices.Concat(delta, delta[:9])} {
		r, w := io.Pipe()
		waiting := make(chan struct{})
		var l ledger
		tapped := newTap(&noticedBody{PipeReader: r, after: len(sent), waiting: waiting}, streamConverse, l.hooks())
		read := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, tapped)
			read <- err
		}()
		if len(sent) > 0 {
			if _, err := w.Write(sent); err != nil {
				t.Fatal(err)
			}
		}
		<-waiting
		if err := tapped.Close(); err != nil {
			t.Error(err)
		}
		if err := <-read; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Read says %v", err)
		}
		end, err := l.only()
		if err != nil {
			t.Fatal(err)
		}
		want := streamEnd{Usage: Usage{Source: SourcePartial}, How: endClosed}
		if len(sent) > 0 {
			want.Seen, want.Usage.OutputTokens = true, 2
		}
		wantEnd(t, end, want)
	}
}

// A noticedBody tells when a Read begins that has nothing to give.
type noticedBody struct {
	*io.PipeReader
	after   int
	waiting chan struct{}
}

func (b *noticedBody) Read(p []byte) (int, error) {
	if b.after == 0 {
		close(b.waiting)
	}
	n, err := b.PipeReader.Read(p)
	b.after -= n
	return n, err
}

// Hooks may close the tap, and an end that blocks keeps no Close waiting.
func TestTapCloseInHooks(t *testing.T) {
	t.Parallel()
	stream := slices.Concat(converseFrames(t)...)
	var l ledger
	var tapped *tap
	told := l.hooks()
	tapped = newTap(io.NopCloser(bytes.NewReader(stream)), streamConverse, tapHooks{
		progress: func(int64) error { return tapped.Close() },
		end: func(end streamEnd) {
			closed := make(chan struct{})
			go func() { _ = tapped.Close(); close(closed) }()
			<-closed
			told.end(end)
		},
	})
	end := mustDrain(t, tapped, &l, stream, nil)
	wantEnd(t, end, streamEnd{Usage: Usage{OutputTokens: 1, Source: SourcePartial}, Seen: true, How: endClosed})
}

// Readers and closers at the same time: hooks never overlap, and end is called once.
func TestTapConcurrent(t *testing.T) {
	t.Parallel()
	frames := slices.Concat(converseFrames(t)[:4], converseFrames(t))
	stream := slices.Concat(frames...)
	for round := range 300 {
		var busy atomic.Int32
		alone := func() func() {
			if busy.Add(1) != 1 {
				t.Error("two hooks at the same time")
			}
			return func() { busy.Add(-1) }
		}
		l := ledger{refuse: round % 7}
		told := l.hooks()
		tapped := newTap(io.NopCloser(iotest.OneByteReader(bytes.NewReader(stream))), streamConverse, tapHooks{
			progress: func(tokens int64) error { defer alone()(); return told.progress(tokens) },
			end:      func(end streamEnd) { defer alone()(); told.end(end) },
		})
		var wg sync.WaitGroup
		halfway := make(chan struct{})
		wg.Go(func() {
			buf := make([]byte, 64)
			for i := 0; ; i++ {
				if i == round {
					close(halfway)
				}
				if _, err := tapped.Read(buf); err != nil {
					if i < round {
						close(halfway)
					}
					return
				}
			}
		})
		for range 2 {
			wg.Go(func() { <-halfway; _ = tapped.Close() })
		}
		wg.Wait()
		if _, err := l.only(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}
