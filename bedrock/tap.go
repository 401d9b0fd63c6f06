package bedrock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A frame of an event stream, as smithy's specification of application/vnd.amazon.eventstream
// has it: the length of the whole, that of the headers, a checksum of these two; the
// headers; the payload; a checksum of all. Numbers are big-endian.
const (
	preludeLen  = 12
	frameMinLen = preludeLen + 4
	// frameMaxLen bounds what a tap keeps: the specification lets a payload have 24 MiB.
	frameMaxLen = 24 << 20
	// keepLen is the largest buffer that is kept for the next frame. Text needs no more;
	// a picture should not stay in memory for as long as its stream is open.
	keepLen = 64 << 10
)

// errNoFrame ends a stream whose bytes are no frames, as far as the tap can see.
var errNoFrame = errors.New("bytes that are no frame of an event stream")

// A tap is the body of a response that is an event stream, and looks at the frames
// that go by. It changes no byte and delays none, but for the time that its hooks take.
//
// The SDK reads a body on a goroutine of its own, and closes it on the caller's. So
// Read and Close may run at the same time, as those of an HTTP body may; two Reads
// may not. The two hooks never run at the same time, and none after end. A Close waits
// for neither, so that it may return while one is at work.
//
// Checksums are not looked at. The SDK, which reads the same bytes right after, refuses
// a frame whose checksum is wrong, and hangs up; below, TLS has already refused any
// byte that was altered on the way. What is left is that the guard counts a frame
// which the application never saw, and which has been billed all the same.
type tap struct {
	body      io.ReadCloser
	closeBody func() error // closes body; once, and then says the same again
	hooks     tapHooks

	refused error // what progress answered when it cut the stream; only Read looks

	// mu guards the rest. It is never held while a hook runs or while the body is read
	// or closed: those may take as long as the network likes, and Close must not wait.
	mu    sync.Mutex
	meter meter
	buf   []byte // the frame at hand, if it did not come in one piece
	seen  bool   // an event has passed
	blind bool   // what came is no frame, so that where the next one begins is unknown
	// hooking says that progress is running. Close leaves the end of the stream to
	// the Read that runs it, so that progress and end are never at work at once.
	hooking bool
	closed  bool // the caller hung up
	ended   bool // end has been called, or is about to be
}

// tapHooks are told what passes through a tap.
type tapHooks struct {
	// progress is told, after each frame that carried output, how many output tokens
	// have passed since the stream began. It may block, and the reader waits for it. An
	// error ends the stream: the frame is delivered whole, what came behind it is not,
	// the body is closed, and Read returns that error from then on. It should be neither
	// io.EOF nor io.ErrUnexpectedEOF, which the SDK takes for a good end. nil: nobody asks.
	progress func(outputTokens int64) error
	// end is called exactly once: when the frame with the final usage has passed, since
	// some endpoints hold the body open after it, or else at an exception, at EOF, at an
	// error, at a cut or by Close. After a Close during progress it runs when progress
	// has returned, which may be after Close has. It may block its caller.
	end func(streamEnd)
}

// A streamEnd is what is known when a stream is over.
type streamEnd struct {
	Usage Usage   // final if How is endUsage, else what was seen, with SourcePartial
	By    served  // as far as the stream has said
	Seen  bool    // an event has passed; an exception is none
	How   endKind // why nothing more is expected
	// Exception is the type of the exception, or the code of the error, that came
	// instead of an event, or "unknown" if it had none; "" but for endException.
	Exception string
	// Err is why Read failed with endTruncated, and what progress said with endCut.
	Err error
}

// An endKind says how a stream ended.
type endKind int

const (
	endUsage     endKind = iota // the stream said what it used in all
	endEOF                      // it ended after a whole frame, and had not said so
	endTruncated                // it ended within a frame, reading failed, or it was no event stream
	endClosed                   // the caller hung up
	endCut                      // progress refused to go on
	endException                // an exception or an error came as a frame
)

// String is the name of k, for logs and tests.
func (k endKind) String() string {
	switch k {
	case endUsage:
		return "usage"
	case endEOF:
		return "eof"
	case endTruncated:
		return "truncated"
	case endClosed:
		return "closed"
	case endCut:
		return "cut"
	case endException:
		return "exception"
	}
	return fmt.Sprintf("endKind(%d)", int(k))
}

// newTap taps body, which carries a stream of that kind. The tap closes body.
func newTap(body io.ReadCloser, kind streamKind, hooks tapHooks) *tap {
	return &tap{
		body:      body,
		closeBody: sync.OnceValue(body.Close),
		hooks:     hooks,
		meter:     meter{kind: kind},
	}
}

// Read reads from the body. Its hooks run before it returns.
func (t *tap) Read(p []byte) (int, error) {
	if t.refused != nil {
		return 0, t.refused
	}
	n, err := t.body.Read(p)

	t.mu.Lock()
	n, end := t.look(p[:n])
	if end == nil && err != nil && !t.ended {
		end = t.stopped(err)
	}
	t.mu.Unlock()

	if t.refused != nil {
		// The caller learns why from the next Read; what closing says has no meaning then.
		_ = t.closeBody()
		err = nil
	}
	if end != nil {
		t.hooks.end(*end)
	}
	return n, err
}

// Close hangs up. It waits neither for a Read nor for a progress that is running, and
// may be called again.
func (t *tap) Close() error {
	t.mu.Lock()
	t.closed = true
	var end *streamEnd
	if !t.ended && !t.hooking {
		end = t.finish(endClosed, nil)
	}
	t.mu.Unlock()

	err := t.closeBody()
	if end != nil {
		t.hooks.end(*end)
	}
	return err
}

// look follows the frames through p. It returns how much of p the caller may have,
// which is all unless the stream is cut, and the end if that is in p. It is called
// with mu held, and lets go of it while progress runs.
func (t *tap) look(p []byte) (int, *streamEnd) {
	for done := 0; done < len(p) && !t.ended && !t.blind; {
		raw, used := t.next(p[done:])
		done += used
		if raw == nil {
			continue
		}
		end := t.see(raw)
		t.buf = reuse(t.buf)
		if t.refused != nil {
			return done, end
		}
		if end != nil {
			return len(p), end
		}
	}
	return len(p), nil
}

// next takes from p what the frame at hand lacks, and returns the frame once it is
// whole: where it lies, if all of it is in p, else from the buffer.
func (t *tap) next(p []byte) (frame []byte, used int) {
	if len(t.buf) == 0 && len(p) >= preludeLen {
		total, ok := frameLen(p)
		if !ok {
			t.blind = true
			return nil, 0
		}
		if total <= len(p) {
			return p[:total], total
		}
	}
	used = t.gather(p, preludeLen)
	if len(t.buf) < preludeLen {
		return nil, used
	}
	total, ok := frameLen(t.buf)
	if !ok {
		t.blind, t.buf = true, nil
		return nil, used
	}
	used += t.gather(p[used:], total)
	if len(t.buf) < total {
		return nil, used
	}
	return t.buf, used
}

// gather appends to the buffer from p until it has size bytes, and returns how many
// it took. The buffer grows by what has come, never by what a frame says of itself.
func (t *tap) gather(p []byte, size int) int {
	n := min(max(size-len(t.buf), 0), len(p))
	t.buf = append(t.buf, p[:n]...)
	return n
}

// see looks at one whole frame. It returns the end of the stream if this is it.
func (t *tap) see(raw []byte) *streamEnd {
	f, ok := parseFrame(raw)
	if !ok {
		t.blind = true
		return nil
	}
	switch string(f.messageType) {
	case "event":
	case "exception":
		return t.exception(f.exceptionType)
	case "error":
		return t.exception(f.errorCode)
	default:
		t.blind = true // the SDK gives up at such a frame
		return nil
	}
	t.seen = true
	output, final := t.meter.event(f.eventType, f.payload)
	if final {
		return t.finish(endUsage, nil)
	}
	if !output || t.hooks.progress == nil {
		return nil
	}
	tokens := t.meter.output()
	t.hooking = true
	t.mu.Unlock()
	err := t.hooks.progress(tokens)
	t.mu.Lock()
	t.hooking = false
	switch {
	case t.closed:
		return t.finish(endClosed, nil)
	case err != nil:
		t.refused = err
		return t.finish(endCut, err)
	}
	return nil
}

// exception is the end that a frame of that kind is.
func (t *tap) exception(name []byte) *streamEnd {
	end := t.finish(endException, nil)
	end.Exception = "unknown"
	if len(name) > 0 {
		end.Exception = string(name)
	}
	return end
}

// stopped is the end that an error of the body is.
func (t *tap) stopped(err error) *streamEnd {
	switch {
	case !errors.Is(err, io.EOF):
		return t.finish(endTruncated, err)
	case t.blind:
		return t.finish(endTruncated, errNoFrame)
	case len(t.buf) > 0:
		return t.finish(endTruncated, io.ErrUnexpectedEOF)
	case t.meter.complete():
		return t.finish(endUsage, nil)
	}
	return t.finish(endEOF, nil)
}

// finish makes the one end of the stream, which its caller passes to the hook as
// soon as it has let go of mu.
func (t *tap) finish(how endKind, err error) *streamEnd {
	t.ended = true
	t.buf = nil
	return &streamEnd{Usage: t.meter.usage(how == endUsage), By: t.meter.by, Seen: t.seen, How: how, Err: err}
}

// frameLen is the length of the frame that b begins with, if that makes sense.
func frameLen(b []byte) (int, bool) {
	total, headers := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	return int(total), total <= frameMaxLen && headers <= total-frameMinLen
}

// A frame is what the guard wants to know of one. Its slices point into the bytes
// it was parsed from; what is missing is nil.
type frame struct {
	messageType, eventType, exceptionType, errorCode []byte
	payload                                          []byte
}

// parseFrame takes b, which is as long as it says, apart.
func parseFrame(b []byte) (f frame, ok bool) {
	headers := b[preludeLen : preludeLen+int(binary.BigEndian.Uint32(b[4:]))]
	f.payload = b[preludeLen+len(headers) : len(b)-4]
	for len(headers) > 0 {
		name, rest, ok := split(headers[1:], int(headers[0]))
		if !ok || len(rest) == 0 {
			return frame{}, false
		}
		value, rest, ok := headerValue(rest[0], rest[1:])
		if !ok {
			return frame{}, false
		}
		switch string(name) {
		case ":message-type":
			f.messageType = value
		case ":event-type":
			f.eventType = value
		case ":exception-type":
			f.exceptionType = value
		case ":error-code":
			f.errorCode = value
		}
		headers = rest
	}
	return f, true
}

// headerValue returns the value of that type that b begins with, and what follows it.
// Types and their lengths are those of the specification.
func headerValue(kind byte, b []byte) (value, rest []byte, ok bool) {
	switch kind {
	case 0, 1: // true, false
		return nil, b, true
	case 2: // a byte
		return split(b, 1)
	case 3: // an int16
		return split(b, 2)
	case 4: // an int32
		return split(b, 4)
	case 5, 8: // an int64, a timestamp
		return split(b, 8)
	case 6, 7: // bytes, a string
		if len(b) < 2 {
			return nil, nil, false
		}
		return split(b[2:], int(binary.BigEndian.Uint16(b)))
	case 9: // a UUID
		return split(b, 16)
	}
	return nil, nil, false
}

// split returns the first n bytes of b, and the others.
func split(b []byte, n int) (first, rest []byte, ok bool) {
	if n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// reuse empties b for what comes next, or drops it if it is too large to be kept.
func reuse(b []byte) []byte {
	if cap(b) > keepLen {
		return nil
	}
	return b[:0]
}
