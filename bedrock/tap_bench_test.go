package bedrock

import (
	"io"
	"testing"
)

// A loopBody gives the same frame for ever.
type loopBody struct {
	frame []byte
	at    int
}

func (b *loopBody) Read(p []byte) (int, error) {
	n := copy(p, b.frame[b.at:])
	b.at = (b.at + n) % len(b.frame)
	return n, nil
}

func (b *loopBody) Close() error { return nil }

// BenchmarkTap is what a tap costs beyond the reads of the body. As the SDK reads is
// in a score of small pieces a frame: its decoder asks for each number and each string
// of the headers by itself.
func BenchmarkTap(b *testing.B) {
	delta := deltaFrame(b, "Hello, over there")
	claude := chunkFrame(b, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello, over there"}}`)
	llama := chunkFrame(b, `{"generation":"Hello, over there","prompt_token_count":null,"generation_token_count":2,"stop_reason":null}`)
	for _, bm := range []struct {
		name  string
		kind  streamKind
		frame []byte
	}{
		{"converse-delta", streamConverse, delta},
		{"chunk-text", streamInvoke, claude},
		{"chunk-text-and-count", streamInvoke, llama},
		{"converse-escaped", streamConverse, eventFrame(b, "contentBlockDelta", `{"delta":{"text":"\u201cHello\u201d,\n\ud83d\ude00"},"p":"abcdefghijk"}`)},
	} {
		b.Run(bm.name+"/whole", func(b *testing.B) { benchTap(b, bm.kind, bm.frame, []int{len(bm.frame)}) })
		b.Run(bm.name+"/as-the-sdk", func(b *testing.B) { benchTap(b, bm.kind, bm.frame, sdkReads(bm.frame)) })
	}
}

// sdkReads are the sizes of the reads in which the SDK's decoder takes a frame.
func sdkReads(frame []byte) []int {
	f, _ := parseFrame(frame)
	sizes := []int{4, 4, 4}
	rest := frame[preludeLen : len(frame)-4-len(f.payload)]
	for len(rest) > 0 {
		name := int(rest[0])
		value := int(rest[1+name+2])
		sizes = append(sizes, 1, name, 1, 2, value)
		rest = rest[1+name+3+value:]
	}
	return append(sizes, len(f.payload), 4)
}

func benchTap(b *testing.B, kind streamKind, frame []byte, sizes []int) {
	b.Helper()
	var tokens int64
	tapped := newTap(&loopBody{frame: frame}, kind, tapHooks{
		progress: func(n int64) error { tokens = n; return nil },
		end:      func(streamEnd) {},
	})
	buf := make([]byte, len(frame))
	run := func(r io.Reader) {
		for _, size := range sizes {
			if n, err := r.Read(buf[:size]); n != size || err != nil {
				b.Fatalf("reading %d bytes: %d, %v", size, n, err)
			}
		}
	}
	run(tapped) // the buffers are there
	b.ReportAllocs()
	for b.Loop() {
		run(tapped)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/frame")
	if tokens == 0 {
		b.Error("no progress was told")
	}
}
