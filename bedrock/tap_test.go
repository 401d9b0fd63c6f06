package bedrock

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var errTest = errors.New("the test says so")

// encodeFrame makes a frame as Bedrock does; headers are names and values in turn.
func encodeFrame(t testing.TB, payload string, headers ...string) []byte {
	t.Helper()
	msg := eventstream.Message{Payload: []byte(payload)}
	for pair := range slices.Chunk(headers, 2) {
		msg.Headers.Set(pair[0], eventstream.StringValue(pair[1]))
	}
	var buf bytes.Buffer
	if err := eventstream.NewEncoder().Encode(&buf, msg); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func eventFrame(t testing.TB, name, payload string) []byte {
	t.Helper()
	return encodeFrame(t, payload, ":event-type", name, ":content-type", "application/json", ":message-type", "event")
}

func deltaFrame(t testing.TB, text string) []byte {
	t.Helper()
	return eventFrame(t, "contentBlockDelta", fmt.Sprintf(`{"contentBlockIndex":0,"delta":{"text":%q},"p":"abcdefghijklmnop"}`, text))
}

// converseFrames is an answer of 4, 6 and 1 bytes of text, hence of 1, 3 and 3 tokens
// in all after each, which used 11 tokens.
func converseFrames(t testing.TB) [][]byte {
	t.Helper()
	return [][]byte{
		eventFrame(t, "messageStart", `{"role":"assistant","p":"abcd"}`),
		deltaFrame(t, "Four"),
		deltaFrame(t, "sixsix"),
		deltaFrame(t, "1"),
		eventFrame(t, "contentBlockStop", `{"contentBlockIndex":0,"p":"abc"}`),
		eventFrame(t, "messageStop", `{"stopReason":"end_turn"}`),
		eventFrame(t, "metadata", `{"metrics":{"latencyMs":3},"usage":{"inputTokens":7,"outputTokens":4,"totalTokens":11}}`),
	}
}

var converseUsage = Usage{InputTokens: 7, OutputTokens: 4, Source: SourceStream}

// A fakeBody gives a stream piece by piece, and then err for ever.
type fakeBody struct {
	pieces   [][]byte
	err      error
	together bool // the last piece comes with err
	closes   int
}

// splitBody gives stream in pieces of that size, and then err.
func splitBody(stream []byte, size int, err error) *fakeBody {
	return &fakeBody{pieces: slices.Collect(slices.Chunk(slices.Clone(stream), size)), err: err}
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if len(b.pieces) == 0 {
		return 0, b.err
	}
	n := copy(p, b.pieces[0])
	if b.pieces[0] = b.pieces[0][n:]; len(b.pieces[0]) == 0 {
		b.pieces = b.pieces[1:]
	}
	if len(b.pieces) == 0 && b.together {
		return n, b.err
	}
	return n, nil
}

func (b *fakeBody) Close() error {
	b.closes++
	return nil
}

// A ledger writes down what the hooks were told.
type ledger struct {
	mu       sync.Mutex
	progress []int64
	ends     []streamEnd
	refuse   int // the progress that is refused, counted from 1; 0: none
}

func (l *ledger) hooks() tapHooks {
	return tapHooks{
		progress: func(tokens int64) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.progress = append(l.progress, tokens)
			if len(l.progress) == l.refuse {
				return errTest
			}
			return nil
		},
		end: func(end streamEnd) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ends = append(l.ends, end)
		},
	}
}

// only returns the one end that was told.
func (l *ledger) only() (streamEnd, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ends) != 1 {
		return streamEnd{}, fmt.Errorf("end was called %d times, want once: %+v", len(l.ends), l.ends)
	}
	return l.ends[0], nil
}

// drain reads r to its end and closes it twice, and reports what no tap may do: change
// a byte, lose one, end a stream not once.
func drain(r io.ReadCloser, l *ledger, want []byte, wantErr error) (streamEnd, error) {
	got, err := io.ReadAll(bufio.NewReaderSize(r, 64<<10)) // asks for more than a frame
	if !errors.Is(err, wantErr) {
		return streamEnd{}, fmt.Errorf("reading says %v, want %v", err, wantErr)
	}
	if !bytes.Equal(got, want) {
		return streamEnd{}, fmt.Errorf("%d bytes passed, want these %d:\n%q\n%q", len(got), len(want), got, want)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		return streamEnd{}, err
	}
	return l.only()
}

func mustDrain(t *testing.T, r io.ReadCloser, l *ledger, want []byte, wantErr error) streamEnd {
	t.Helper()
	end, err := drain(r, l, want, wantErr)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func wantEnd(t *testing.T, got, want streamEnd) {
	t.Helper()
	if !errors.Is(got.Err, want.Err) || got.Err != nil && want.Err == nil {
		t.Errorf("the end's error is %v, want %v", got.Err, want.Err)
	}
	got.Err, want.Err = nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the end (-want +got):\n%s", diff)
	}
}

// A leakyTap breaks the rules in the ways that drain is there for.
type leakyTap struct {
	*tap
	drop, alter bool
}

func (l *leakyTap) Read(p []byte) (int, error) {
	n, err := l.tap.Read(p)
	switch {
	case n == 0:
	case l.drop:
		n--
	case l.alter:
		p[n-1]++
	}
	return n, err
}

func TestDrainControl(t *testing.T) {
	t.Parallel()
	stream := slices.Concat(converseFrames(t)...)
	run := func(leaky leakyTap, hooks func(*ledger) tapHooks) error {
		var l ledger
		leaky.tap = newTap(&fakeBody{pieces: [][]byte{slices.Clone(stream)}, err: io.EOF}, streamConverse, hooks(&l))
		_, err := drain(&leaky, &l, stream, nil)
		return err
	}
	if err := run(leakyTap{}, (*ledger).hooks); err != nil {
		t.Errorf("a good tap: %v", err)
	}
	for name, err := range map[string]error{
		"drops a byte":  run(leakyTap{drop: true}, (*ledger).hooks),
		"alters a byte": run(leakyTap{alter: true}, (*ledger).hooks),
		"never ends":    run(leakyTap{}, func(*ledger) tapHooks { return tapHooks{end: func(streamEnd) {}} }),
		"ends twice": run(leakyTap{}, func(l *ledger) tapHooks {
			end := l.hooks().end
			return tapHooks{end: func(e streamEnd) { end(e); end(e) }}
		}),
	} {
		if err == nil {
			t.Errorf("a tap that %s is not caught", name)
		}
	}
}

func TestTapSplitAnywhere(t *testing.T) {
	t.Parallel()
	stream := slices.Concat(converseFrames(t)...)
	splits := [][][]byte{slices.Collect(slices.Chunk(stream, 1)), converseFrames(t)}
	for at := range len(stream) {
		splits = append(splits, [][]byte{slices.Clone(stream[:at]), slices.Clone(stream[at:])})
	}
	for size := 2; size < 40; size++ {
		splits = append(splits, slices.Collect(slices.Chunk(slices.Clone(stream), size)))
	}
	for i, pieces := range splits {
		var l ledger
		end := mustDrain(t, newTap(&fakeBody{pieces: pieces, err: io.EOF}, streamConverse, l.hooks()), &l, stream, nil)
		wantEnd(t, end, streamEnd{Usage: converseUsage, Seen: true, How: endUsage})
		if diff := cmp.Diff([]int64{1, 3, 3}, l.progress); diff != "" {
			t.Errorf("split %d: progress (-want +got):\n%s", i, diff)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// A stream that stops after any of its bytes, in each of the ways in which bodies stop.
func TestTapTruncatedAnywhere(t *testing.T) {
	t.Parallel()
	frames := converseFrames(t)
	stream := slices.Concat(frames...)
	for at := range len(stream) + 1 {
		whole, size := 0, 0
		for whole < len(frames) && size+len(frames[whole]) <= at {
			size += len(frames[whole])
			whole++
		}
		want := streamEnd{
			Usage: Usage{OutputTokens: []int64{0, 0, 1, 3, 3, 3, 3, 3}[whole], Source: SourcePartial},
			Seen:  whole > 0,
			How:   endEOF,
		}
		switch {
		case whole == len(frames):
			want.Usage, want.How = converseUsage, endUsage
		case size < at:
			want.How, want.Err = endTruncated, io.ErrUnexpectedEOF
		}
		broken := want
		if whole < len(frames) {
			broken.How, broken.Err = endTruncated, errTest
		}
		for _, size := range []int{7, len(stream)} {
			for _, together := range []bool{false, true} {
				run := func(err, seen error) streamEnd {
					var l ledger
					body := splitBody(stream[:at], size, err)
					body.together = together
					return mustDrain(t, newTap(body, streamConverse, l.hooks()), &l, stream[:at], seen)
				}
				wantEnd(t, run(io.EOF, nil), want)
				wantEnd(t, run(errTest, errTest), broken)
			}
		}
		if t.Failed() {
			t.Fatalf("cut at byte %d of %d", at, len(stream))
		}
	}
}

// The SDK's own reader gets the same messages through a tap as without, in the small
// reads that it makes.
func TestTapUnderDecoder(t *testing.T) {
	t.Parallel()
	stream := slices.Concat(converseFrames(t)...)
	decode := func(r io.Reader) (messages []eventstream.Message) {
		decoder := eventstream.NewDecoder()
		for {
			msg, err := decoder.Decode(r, nil)
			if errors.Is(err, io.EOF) {
				return messages
			}
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, msg)
		}
	}
	var l ledger
	tapped := decode(newTap(io.NopCloser(bytes.NewReader(stream)), streamConverse, l.hooks()))
	if diff := cmp.Diff(decode(bytes.NewReader(stream)), tapped); diff != "" {
		t.Errorf("messages (-plain +tapped):\n%s", diff)
	}
	end, err := l.only()
	if err != nil {
		t.Fatal(err)
	}
	wantEnd(t, end, streamEnd{Usage: converseUsage, Seen: true, How: endUsage})
}

// Some endpoints hold the body open after the last frame.
func TestTapEndsAtUsage(t *testing.T) {
	t.Parallel()
	stream := slices.Concat(converseFrames(t)...)
	r, w := io.Pipe()
	var l ledger
	tapped := newTap(r, streamConverse, l.hooks())
	go func() { _, _ = w.Write(stream) }()
	got := make([]byte, len(stream))
	if _, err := io.ReadFull(tapped, got); err != nil {
		t.Fatal(err)
	}
	end, err := l.only()
	if err != nil {
		t.Fatal(err)
	}
	wantEnd(t, end, streamEnd{Usage: converseUsage, Seen: true, How: endUsage})
	if err := tapped.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.only(); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

func TestTapExceptions(t *testing.T) {
	t.Parallel()
	exception := encodeFrame(t, `{"message":"slow down"}`, ":exception-type", "throttlingException", ":content-type", "application/json", ":message-type", "exception")
	fault := encodeFrame(t, "", ":error-message", "sorry", ":error-code", "InternalFailure", ":message-type", "error")
	delta := deltaFrame(t, "Hello")
	partial := Usage{Source: SourcePartial}
	after := Usage{OutputTokens: 2, Source: SourcePartial}
	for name, tt := range map[string]struct {
		stream []byte
		want   streamEnd
	}{
		"first":      {exception, streamEnd{Usage: partial, How: endException, Exception: "throttlingException"}},
		"after text": {slices.Concat(delta, exception, delta), streamEnd{Usage: after, Seen: true, How: endException, Exception: "throttlingException"}},
		"error":      {slices.Concat(delta, fault), streamEnd{Usage: after, Seen: true, How: endException, Exception: "InternalFailure"}},
		"nameless":   {encodeFrame(t, "{}", ":message-type", "exception"), streamEnd{Usage: partial, How: endException, Exception: "unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for size := 1; size <= len(tt.stream); size++ {
				var l ledger
				body := splitBody(tt.stream, size, io.EOF)
				wantEnd(t, mustDrain(t, newTap(body, streamConverse, l.hooks()), &l, tt.stream, nil), tt.want)
			}
		})
	}
}

// Frames that make no sense end the looking, not the stream.
func TestTapNonsense(t *testing.T) {
	t.Parallel()
	good := deltaFrame(t, "Hello")
	alter := func(change func(frame []byte)) []byte {
		frame := slices.Clone(good)
		change(frame)
		return frame
	}
	const firstType = preludeLen + 1 + len(":event-type") // where the type of the first header stands
	for name, bad := range map[string][]byte{
		"shorter than a frame":      alter(func(b []byte) { copy(b, []byte{0, 0, 0, 15}) }),
		"longer than any":           alter(func(b []byte) { copy(b, []byte{1, 128, 0, 1}) }),
		"headers longer than it":    alter(func(b []byte) { copy(b[4:], []byte{0, 0, 16, 0}) }),
		"headers in its checksum":   alter(func(b []byte) { b[7] = b[3] - frameMinLen + 1 }),
		"headers beyond all":        alter(func(b []byte) { copy(b[4:], []byte{255, 255, 255, 255}) }),
		"a header of no known type": alter(func(b []byte) { b[firstType] = 10 }),
		"a value without an end":    alter(func(b []byte) { b[firstType+1] = 255 }),
		"a name without an end":     alter(func(b []byte) { b[preludeLen] = 255 }),
		"a name and no value":       alter(func(b []byte) { copy(b[4:], []byte{0, 0, 0, byte(firstType - preludeLen)}) }),
		"a value without a length":  alter(func(b []byte) { copy(b[4:], []byte{0, 0, 0, byte(firstType + 2 - preludeLen)}) }),
		"no message type":           encodeFrame(t, "{}", ":event-type", "contentBlockDelta"),
		"no such message type":      encodeFrame(t, "{}", ":event-type", "contentBlockDelta", ":message-type", "rumour"),
		"text":                      []byte("<html>502 Bad Gateway</html>"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := slices.Concat(good, bad, good)
			for size := 1; size <= len(stream); size++ {
				var l ledger
				body := splitBody(stream, size, io.EOF)
				wantEnd(t, mustDrain(t, newTap(body, streamConverse, l.hooks()), &l, stream, nil),
					streamEnd{Usage: Usage{OutputTokens: 2, Source: SourcePartial}, Seen: true, How: endTruncated, Err: errNoFrame})
			}
		})
	}
}

// Headers of every type stand beside those that matter, and are passed over.
func TestTapHeaderTypes(t *testing.T) {
	t.Parallel()
	msg := eventstream.Message{Payload: []byte(`{"delta":{"text":"Hello"}}`)}
	for _, value := range []eventstream.Value{
		eventstream.BoolValue(true), eventstream.BoolValue(false), eventstream.Int8Value(1), eventstream.Int16Value(2), eventstream.Int32Value(3),
		eventstream.Int64Value(4), eventstream.BytesValue("five"), eventstream.StringValue(""),
		eventstream.TimestampValue{},
		eventstream.UUIDValue{},
	} {
		msg.Headers.Set(fmt.Sprintf("x-%d", len(msg.Headers)), value)
	}
	msg.Headers.Set(":message-type", eventstream.StringValue("event"))
	msg.Headers.Set(":event-type", eventstream.StringValue("contentBlockDelta"))
	var buf bytes.Buffer
	if err := eventstream.NewEncoder().Encode(&buf, msg); err != nil {
		t.Fatal(err)
	}
	var l ledger
	stream := buf.Bytes()
	end := mustDrain(t, newTap(io.NopCloser(bytes.NewReader(stream)), streamConverse, l.hooks()), &l, stream, nil)
	wantEnd(t, end, streamEnd{Usage: Usage{OutputTokens: 2, Source: SourcePartial}, Seen: true, How: endEOF})
}

func TestTapRefused(t *testing.T) {
	t.Parallel()
	frames := converseFrames(t)
	stream := slices.Concat(frames...)
	for refuse, tokens := range map[int]int64{1: 1, 2: 3, 3: 3} {
		delivered := slices.Concat(frames[:refuse+1]...)
		for size := 1; size <= len(stream); size++ {
			l := ledger{refuse: refuse}
			body := splitBody(stream, size, io.EOF)
			body.together = true
			hooks := l.hooks()
			tell := hooks.end
			hooks.end = func(end streamEnd) {
				if tell(end); body.closes != 1 {
					t.Errorf("the body was closed %d times when the end was told, want once", body.closes)
				}
			}
			tapped := newTap(body, streamConverse, hooks)
			end := mustDrain(t, tapped, &l, delivered, errTest)
			wantEnd(t, end, streamEnd{Usage: Usage{OutputTokens: tokens, Source: SourcePartial}, Seen: true, How: endCut, Err: errTest})
			if n, err := tapped.Read(make([]byte, 8)); n != 0 || !errors.Is(err, errTest) {
				t.Errorf("after the cut Read says %d, %v", n, err)
			}
			if body.closes != 1 {
				t.Errorf("the body was closed %d times, want once", body.closes)
			}
			if len(l.progress) != refuse {
				t.Errorf("progress was asked %d times, want %d", len(l.progress), refuse)
			}
		}
	}
}

// What a frame says of its length takes no memory, and large ones do not stay in it.
func TestTapMemory(t *testing.T) {
	t.Parallel()
	large := eventFrame(t, "contentBlockDelta", `{"delta":{"text":"`+strings.Repeat("a", 4*keepLen)+`"}}`)
	var l ledger
	tapped := newTap(&fakeBody{pieces: [][]byte{large[:100], large[100:], deltaFrame(t, "Hello")[:50]}, err: io.EOF}, streamConverse, l.hooks())
	buf := make([]byte, len(large))
	for i, most := range []int{4 << 10, 0, 4 << 10} {
		if _, err := tapped.Read(buf); err != nil {
			t.Fatal(err)
		}
		if got := cap(tapped.buf); got > most {
			t.Errorf("after read %d the tap keeps %d bytes, want %d at most", i, got, most)
		}
	}
	if diff := cmp.Diff([]int64{keepLen}, l.progress); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

// Once its buffers have grown a tap takes no memory, however the frames come.
func TestTapAllocs(t *testing.T) {
	for name, tt := range map[string]struct {
		kind  streamKind
		frame []byte
	}{
		"delta": {streamConverse, eventFrame(t, "contentBlockDelta", `{"delta":{"text":"\u201cHello\u201d"}}`)},
		"text":  {streamInvoke, chunkFrame(t, `{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hello \"you\""}}`)},
		"count": {streamInvoke, chunkFrame(t, `{"generation":"Hello","generation_token_count":2}`)},
		"sonic": {streamBidi, chunkFrame(t, `{"event":{"textOutput":{"content":"Hello","role":"ASSISTANT"}}}`)},
	} {
		for _, size := range []int{len(tt.frame), 50, 3} {
			tapped := newTap(&loopBody{frame: tt.frame}, tt.kind, tapHooks{progress: func(int64) error { return nil }})
			buf := make([]byte, size)
			got := testing.AllocsPerRun(10, func() {
				for range len(tt.frame)/size + 1 {
					if _, err := tapped.Read(buf); err != nil {
						t.Fatal(err)
					}
				}
			})
			if got > 0 {
				t.Errorf("%s in reads of %d bytes: %v allocations a frame, want none", name, size, got)
			}
		}
	}
}

func TestEndKindNames(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for kind := endUsage; kind <= endException+1; kind++ {
		seen[kind.String()] = true
	}
	if len(seen) != int(endException)+2 || !seen["endKind(6)"] {
		t.Errorf("names are not one each: %v", seen)
	}
}

// Good frames, damaged ones and noise in any order, size and kind of stream.
func TestTapAnything(t *testing.T) {
	t.Parallel()
	kinds := []streamKind{streamConverse, streamInvoke, streamBidi}
	good := append(converseFrames(t)[:6], chunkFrame(t, `{"generation":"Hello","generation_token_count":2}`),
		chunkFrame(t, `{"event":{"usageEvent":{"totalInputTokens":3,"totalOutputTokens":2}}}`))
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		for range rapid.IntRange(0, 6).Draw(t, "frames") {
			frame := slices.Clone(rapid.SampledFrom(good).Draw(t, "frame"))
			if rapid.IntRange(0, 3).Draw(t, "damage") == 0 {
				frame[rapid.IntRange(0, len(frame)-1).Draw(t, "where")] ^= rapid.Byte().Draw(t, "how")
			}
			stream = append(stream, frame...)
		}
		stream = append(stream, rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "noise")...)
		size := rapid.IntRange(1, len(stream)+1).Draw(t, "size")
		checkAnything(t, stream, size, rapid.SampledFrom(kinds).Draw(t, "kind"))
	})
}

func FuzzTap(f *testing.F) {
	f.Add(slices.Concat(converseFrames(f)...), uint16(9), uint8(0))
	f.Add(chunkFrame(f, `{"generation":"Hello","generation_token_count":2}`), uint16(1), uint8(1))
	f.Add(chunkFrame(f, `{"event":{"textOutput":{"content":"Hello"}}}`), uint16(500), uint8(2))
	f.Fuzz(func(t *testing.T, stream []byte, size uint16, kind uint8) {
		checkAnything(t, stream, max(int(size), 1), streamKind(kind%3))
	})
}

// checkAnything holds of any bytes in reads of any size.
func checkAnything(t rapid.TB, stream []byte, size int, kind streamKind) {
	t.Helper()
	var l ledger
	body := splitBody(stream, size, io.EOF)
	end, err := drain(newTap(body, kind, l.hooks()), &l, stream, nil)
	if err != nil {
		t.Fatal(err)
	}
	if (end.Usage.Source == SourceStream) != (end.How == endUsage) {
		t.Errorf("the usage is from %q at an end of %v", end.Usage.Source, end.How)
	}
	if !end.Usage.sound() {
		t.Errorf("a usage that cannot be: %+v", end.Usage)
	}
}
