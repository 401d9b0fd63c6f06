package bedrock

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// chunkFrame is an event of a model, as Bedrock wraps it.
func chunkFrame(t testing.TB, event string) []byte {
	t.Helper()
	return eventFrame(t, "chunk", fmt.Sprintf(`{"bytes":%q,"p":"abcdefghijklmnop"}`, base64.StdEncoding.EncodeToString([]byte(event))))
}

// runStream passes the frames through a tap, and returns its end and what progress was told.
func runStream(t *testing.T, kind streamKind, frames ...[]byte) (streamEnd, []int64) {
	t.Helper()
	var l ledger
	stream := slices.Concat(frames...)
	end := mustDrain(t, newTap(io.NopCloser(bytes.NewReader(stream)), kind, l.hooks()), &l, stream, nil)
	return end, l.progress
}

func TestConverseText(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]int64{
		`{"contentBlockIndex":0,"delta":{"text":"Hello"},"p":"abcdefgh"}`:                           5,
		`{"p":"text","delta":{"text":""}}`:                                                          0,
		` { "delta" : { "text" : "Hello" } } `:                                                      5,
		`{"delta":{"toolUse":{"input":"{\"city\": \"Bern\"}"}},"contentBlockIndex":1}`:              16,
		`{"delta":{"reasoningContent":{"text":"Hm."}}}`:                                             3,
		`{"delta":{"reasoningContent":{"signature":"abcdefgh"}}}`:                                   0,
		`{"delta":{"reasoningContent":{"redactedContent":"YWJjZA=="}}}`:                             0,
		`{"delta":{"citation":{"title":"x","sourceContent":[{"text":"long"}]}}}`:                    0,
		`{"delta":{"image":{"source":{"bytes":"AAAA"}}}}`:                                           0,
		`{"text":"elsewhere","start":{"text":"elsewhere"}}`:                                         0,
		`{"delta":{"text":"\"}"},"p":"a"}`:                                                          2,
		`{"delta":{"text":"\\"},"p":"a\\\""}`:                                                       1,
		`{"delta":{"text":"\n\t\/\u0041\u00e9\u20ac\ud83d\ude00\ud83d"}}`:                           3 + 1 + 2 + 3 + 4 + 3,
		`{"delta":{"text":"é€😀"}}`:                                                                  9,
		`{"d\u0065lta":{"te\u0078t":"Hello"}}`:                                                      5,
		`{"delta":{"text":7}}`:                                                                      0,
		`{"delta":"text"}`:                                                                          0,
		`{"delta":{"text":"cut of`:                                                                  0,
		`{"x":[{"delta":{"text":"no"}},[],{}],"n":-1.5e3,"t":true,"z":null,"delta":{"text":"yes"}}`: 3,
		`[{"delta":{"text":"no"}}]`:                                                                 0,
		``:                                                                                          0,
		`{"delta":{"text":"Hello"},}`:                                                               5,
		`{"delta":}`:                                                                                0,
		`{"a":[1,{"b":2}` + strings.Repeat("[", 100_000):                                            0,
		strings.Repeat(`{"delta":`, 100_000):                                                        0,
		`{"contentBlockIndex":0,"delta":{"text":"` + strings.Repeat("a", 70_000) + `"},"p":"abcdefgh"}`: 70_000,
	} {
		if got := converseText([]byte(payload)); got != want {
			t.Errorf("%.120s has %d bytes of text, want %d", payload, got, want)
		}
	}
}

func TestModelText(t *testing.T) {
	t.Parallel()
	for event, want := range map[string]int64{
		// Claude
		`{"type":"message_start","message":{"id":"msg_1","role":"assistant","content":[],"usage":{"input_tokens":9,"output_tokens":1}}}`: 0,
		`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`:                                             0,
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}`:                                          5,
		`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}`:                          5,
		`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}}`:                                    3,
		`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"abcdefgh"}}`:                             0,
		`{"completion":" Hello","stop_reason":null,"stop":null}`:                                                                         6,
		// Nova
		`{"contentBlockDelta":{"delta":{"text":"Hello"},"contentBlockIndex":0}}`:              5,
		`{"contentBlockDelta":{"delta":{"toolUse":{"input":"{\"a\":1}"}}}}`:                   7,
		`{"contentBlockDelta":{"delta":{"reasoningContent":{"reasoningText":{"text":"H"}}}}}`: 1,
		// Llama, Titan, Mistral
		`{"generation":"Hello","prompt_token_count":null,"generation_token_count":2,"stop_reason":null}`: 5,
		`{"outputText":"Hello","index":0,"totalOutputTextTokenCount":null,"completionReason":null}`:      5,
		`{"outputs":[{"text":"Hello","stop_reason":null},{"text":"you"}]}`:                               8,
		// OpenAI-like
		`{"choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}]}`:            5,
		`{"choices":[{"delta":{"reasoning_content":"Hm.","content":null}}]}`:                                       3,
		`{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"weather","arguments":"{\"a\":"}}]}}]}`: 5,
		`{"choices":[{"text":"Hello"}]}`: 5,
		// Cohere
		`{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"Hello"}}}}`:       5,
		`{"event_type":"stream-end","finish_reason":"COMPLETE","response":{"text":"Hello, again"}}`: 0,
		// Bedrock's own
		`{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":9,"text":"no"}}`: 0,
		`{"outputText":"Hi","amazon-bedrock-trace":{"guardrail":{"content":"no"}}}`:                    2,
		strings.Repeat(`{"a":`, 100_000) + `{"text":"too deep"}`:                                       0,
	} {
		s := jsonScan{src: []byte(event)}
		if got := s.modelText(0); got != want {
			t.Errorf("%.120s has %d bytes of text, want %d", event, got, want)
		}
	}
}

func TestSonicText(t *testing.T) {
	t.Parallel()
	for event, want := range map[string]int64{
		`{"event":{"textOutput":{"completionId":"1","content":"Hello","role":"ASSISTANT"}}}`: 5,
		`{"event":{"textOutput":{"role":"USER","content":"What I said"}}}`:                   0,
		`{"event":{"textOutput":{"content":"What I said","role":"USER"}}}`:                   0,
		`{"event":{"textOutput":{"content":"Hello"}}}`:                                       5,
		`{"event":{"toolUse":{"content":"{\"a\":1}","toolName":"weather"}}}`:                 7,
		`{"event":{"audioOutput":{"content":"AAAAAAAAAAAA"}}}`:                               0,
		`{"textOutput":{"content":"Hello"}}`:                                                 0,
	} {
		s := jsonScan{src: []byte(event)}
		if got := s.sonicText(); got != want {
			t.Errorf("%s has %d bytes of text, want %d", event, got, want)
		}
	}
}

// The length of a text is that of the string which encoding/json makes of it, whichever
// way it is written.
func TestTextLength(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var written strings.Builder
		for _, r := range rapid.String().Draw(t, "text") {
			switch rapid.IntRange(0, 2).Draw(t, "way") {
			case 0:
				quoted, err := json.Marshal(string(r))
				if err != nil {
					t.Fatal(err)
				}
				written.Write(quoted[1 : len(quoted)-1])
			case 1:
				fmt.Fprintf(&written, `\u%04x`, r&0xffff) // halves of pairs among them
			case 2:
				written.WriteString(rapid.SampledFrom([]string{`\"`, `\\`, `\/`, `\n`, `\ud83d\ude00`, `\uD83D`, `\ude00\ud83d`}).Draw(t, "escape"))
			}
		}
		payload := fmt.Sprintf(`{"contentBlockIndex":0,"delta":{"text":"%s"},"p":"ab"}`, written.String())
		var v struct{ Delta struct{ Text string } }
		if err := json.Unmarshal([]byte(payload), &v); err != nil {
			t.Fatal(err)
		}
		if got, want := converseText([]byte(payload)), int64(len(v.Delta.Text)); got != want {
			t.Errorf("%s has %d bytes of text, want %d", payload, got, want)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add([]byte(`{"contentBlockIndex":0,"delta":{"text":"Hello \ud83d\ude00"},"p":"abcdefgh"}`))
	f.Add([]byte(`{"choices":[{"delta":{"content":"Hello"}}],"event":{"textOutput":{"content":"x"}}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		model, sonic := jsonScan{src: payload}, jsonScan{src: payload}
		for name, n := range map[string]int64{"converse": converseText(payload), "model": model.modelText(0), "sonic": sonic.sonicText()} {
			if n < 0 || n > int64(len(payload)) {
				t.Errorf("%s: %d bytes of text in %d", name, n, len(payload))
			}
		}
	})
}

func TestConverseMetadata(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		payload string
		want    Usage
		how     endKind
	}{
		"plain":        {`{"usage":{"inputTokens":7,"outputTokens":4,"totalTokens":11}}`, Usage{InputTokens: 7, OutputTokens: 4}, endUsage},
		"cache":        {`{"usage":{"inputTokens":7,"outputTokens":4,"cacheReadInputTokens":5,"cacheWriteInputTokens":6}}`, Usage{InputTokens: 7, OutputTokens: 4, CacheReadTokens: 5, CacheWriteTokens: 6}, endUsage},
		"cache by age": {`{"usage":{"inputTokens":7,"outputTokens":4,"cacheWriteInputTokens":6,"cacheDetails":[{"ttl":"1h","inputTokens":4},{"inputTokens":2,"ttl":"5m"}]}}`, Usage{InputTokens: 7, OutputTokens: 4, CacheWriteTokens: 2, CacheWrite1hTokens: 4}, endUsage},
		"no output":    {`{"usage":{"inputTokens":7,"outputTokens":0}}`, Usage{InputTokens: 7}, endUsage},
		"no usage":     {`{"metrics":{"latencyMs":3}}`, Usage{OutputTokens: 2}, endEOF},
		"null":         {`{"usage":null}`, Usage{OutputTokens: 2}, endEOF},
		"no numbers":   {`{"usage":{"inputTokens":"7","outputTokens":4}}`, Usage{OutputTokens: 2}, endEOF},
		"below zero":   {`{"usage":{"inputTokens":7,"outputTokens":-4}}`, Usage{OutputTokens: 2}, endEOF},
		"no JSON":      {`{"usage":{"inputTokens":7,`, Usage{OutputTokens: 2}, endEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			frames := [][]byte{eventFrame(t, "metadata", tt.payload)}
			tt.want.Source = SourceStream
			if tt.how == endEOF || tt.want.OutputTokens == 0 {
				frames = slices.Insert(frames, 0, deltaFrame(t, "Hello"))
			}
			if tt.how == endEOF {
				tt.want.Source = SourcePartial
			}
			if tt.want.OutputTokens == 0 {
				frames = frames[1:]
			}
			end, _ := runStream(t, streamConverse, frames...)
			wantEnd(t, end, streamEnd{Usage: tt.want, Seen: true, How: tt.how})
		})
	}
}

// What each family says as it streams, and what is known if the stream stops there.
func TestInvokeStreams(t *testing.T) {
	t.Parallel()
	const metrics = `"amazon-bedrock-invocationMetrics":{"inputTokenCount":9,"outputTokenCount":6,"invocationLatency":5,"firstByteLatency":2}`
	claude := []string{
		`{"type":"message_start","message":{"id":"1","content":[],"usage":{"input_tokens":9,"cache_read_input_tokens":3,"output_tokens":1}}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello, "}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"you over there"}}`,
		`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}`,
		`{"type":"message_stop",` + metrics + `}`,
	}
	llama := []string{
		`{"generation":"Hello, ","prompt_token_count":9,"generation_token_count":1}`,
		`{"generation":"you over there","prompt_token_count":null,"generation_token_count":4}`,
		`{"generation":"","stop_reason":"stop","generation_token_count":4,` + metrics + `}`,
	}
	type at struct {
		events   []string
		want     Usage
		how      endKind
		progress []int64
	}
	for name, tt := range map[string]at{
		"claude, started":   {claude[:1], Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 1}, endEOF, []int64{1}},
		"claude, one word":  {claude[:2], Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 2}, endEOF, []int64{1, 2}},
		"claude, all words": {claude[:3], Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 6}, endEOF, []int64{1, 2, 6}},
		"claude, counted":   {claude[:4], Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 5}, endEOF, []int64{1, 2, 6, 5}},
		"claude":            {claude, Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 6}, endUsage, []int64{1, 2, 6, 5}},
		"claude, repeated":  {slices.Concat(claude[:4], claude[3:4], claude[3:4]), Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 5}, endEOF, []int64{1, 2, 6, 5}},
		"claude, going on":  {slices.Concat(claude[:4], claude[1:2]), Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 7}, endEOF, []int64{1, 2, 6, 5, 7}},
		"claude, lagging":   {slices.Concat(claude[:4], claude[1:2], claude[:1]), Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 7}, endEOF, []int64{1, 2, 6, 5, 7}},
		"claude, terse":     {slices.Concat(claude[1:3], claude[1:3], claude[4:]), Usage{InputTokens: 9, OutputTokens: 6}, endUsage, []int64{2, 6, 7, 11}},
		"claude, corrected": {append(slices.Concat(claude[:4], claude[1:3]), `{"amazon-bedrock-invocationMetrics":{"inputTokenCount":9,"outputTokenCount":3}}`), Usage{InputTokens: 9, CacheReadTokens: 3, OutputTokens: 3}, endUsage, []int64{1, 2, 6, 5, 7, 11}},
		"llama, input only": {[]string{`{"generation":"Hello"}`, `{"prompt_token_count":9}`}, Usage{InputTokens: 9, OutputTokens: 2}, endEOF, []int64{2}},
		"llama, stopped":    {llama[:2], Usage{InputTokens: 9, OutputTokens: 4}, endEOF, []int64{1, 4}},
		"llama":             {llama, Usage{InputTokens: 9, OutputTokens: 6}, endUsage, []int64{1, 4}},
		"mistral, stopped":  {[]string{`{"outputs":[{"text":"Hello","stop_reason":null}]}`}, Usage{OutputTokens: 2}, endEOF, []int64{2}},
		"no JSON":           {[]string{`data: {"text":"Hello"}`}, Usage{}, endEOF, nil},
		"nothing":           {[]string{``}, Usage{}, endEOF, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var frames [][]byte
			for _, event := range tt.events {
				frames = append(frames, chunkFrame(t, event))
			}
			end, progress := runStream(t, streamInvoke, frames...)
			if diff := cmp.Diff(tt.progress, progress); diff != "" {
				t.Errorf("progress (-want +got):\n%s", diff)
			}
			tt.want.Source = SourceStream
			if tt.how == endEOF {
				tt.want.Source = SourcePartial
			}
			wantEnd(t, end, streamEnd{Usage: tt.want, Seen: true, How: tt.how})
		})
	}
}

// Bedrock tells how much was written to the cache, and Claude for how long.
func TestCacheWritesSplit(t *testing.T) {
	t.Parallel()
	end, _ := runStream(t, streamInvoke,
		chunkFrame(t, `{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_creation_input_tokens":6,"cache_creation":{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":4},"output_tokens":1}}}`),
		chunkFrame(t, `{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":9,"outputTokenCount":6,"cacheWriteInputTokenCount":6}}`))
	wantEnd(t, end, streamEnd{Usage: Usage{InputTokens: 9, OutputTokens: 6, CacheWriteTokens: 2, CacheWrite1hTokens: 4, Source: SourceStream}, Seen: true, How: endUsage})
}

// Chunks that are no chunks are events all the same, and do no harm to the next one.
func TestBadChunks(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{`{"bytes":"?"}`, `{"bytes":7}`, `{"byte":"e30="}`, `{}`, ``, `[]`, `{"bytes":"e30`, `{"bytes":"\x"}`} {
		end, progress := runStream(t, streamInvoke, eventFrame(t, "chunk", payload), chunkFrame(t, `{"generation":"Hello"}`))
		wantEnd(t, end, streamEnd{Usage: Usage{OutputTokens: 2, Source: SourcePartial}, Seen: true, How: endEOF})
		if diff := cmp.Diff([]int64{2}, progress); diff != "" {
			t.Errorf("%s: progress (-want +got):\n%s", payload, diff)
		}
	}
	// Some encoders write the slash of base64 as \/.
	escaped := strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte(`{"generation":"???>"}`)), "/", `\/`)
	if !strings.Contains(escaped, `\/`) {
		t.Fatalf("%s has no slash", escaped)
	}
	end, _ := runStream(t, streamInvoke, eventFrame(t, "chunk", `{"bytes":"`+escaped+`"}`))
	wantEnd(t, end, streamEnd{Usage: Usage{OutputTokens: 1, Source: SourcePartial}, Seen: true, How: endEOF})
}

func TestBidi(t *testing.T) {
	t.Parallel()
	usage := func(in, out int) []byte {
		return chunkFrame(t, fmt.Sprintf(`{"event":{"usageEvent":{"details":{"delta":{},"total":{}},"totalInputTokens":%d,"totalOutputTokens":%d,"totalTokens":%d}}}`, in, out, in+out))
	}
	speech := chunkFrame(t, `{"event":{"audioOutput":{"content":"AAAAAAAAAAAAAAAAAAAAAAAA"}}}`)
	text := chunkFrame(t, `{"event":{"textOutput":{"content":"Hello, you over there","role":"ASSISTANT"}}}`)
	seen := func(in, out int64, source Source, how endKind, err error) streamEnd {
		return streamEnd{Usage: Usage{InputTokens: in, OutputTokens: out, Source: source}, Seen: true, How: how, Err: err}
	}
	for name, tt := range map[string]struct {
		frames [][]byte
		want   streamEnd
		told   []int64
	}{
		"totals":       {[][]byte{usage(5, 0), speech, usage(5, 20), text, usage(8, 31)}, seen(8, 31, SourceStream, endUsage, nil), []int64{20, 20, 31}},
		"text after":   {[][]byte{usage(5, 1), text}, seen(5, 6, SourceStream, endUsage, nil), []int64{1, 6}},
		"broken":       {[][]byte{usage(5, 20), text[:20]}, seen(5, 20, SourcePartial, endTruncated, io.ErrUnexpectedEOF), []int64{20}},
		"no usage":     {[][]byte{speech, text}, seen(0, 6, SourcePartial, endEOF, nil), []int64{6}},
		"only started": {[][]byte{speech}, seen(0, 0, SourcePartial, endEOF, nil), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			end, progress := runStream(t, streamBidi, tt.frames...)
			wantEnd(t, end, tt.want)
			if diff := cmp.Diff(tt.told, progress); diff != "" {
				t.Errorf("progress (-want +got):\n%s", diff)
			}
		})
	}
}

// An operation's stream has the events of that operation: a name that another one
// uses means nothing in it.
func TestKindsApart(t *testing.T) {
	t.Parallel()
	for kind, frame := range map[streamKind][]byte{
		streamConverse: chunkFrame(t, `{"generation":"Hello"}`),
		streamInvoke:   deltaFrame(t, "Hello"),
		streamBidi:     deltaFrame(t, "Hello"),
	} {
		end, progress := runStream(t, kind, frame)
		wantEnd(t, end, streamEnd{Usage: Usage{Source: SourcePartial}, Seen: true, How: endEOF})
		if progress != nil {
			t.Errorf("kind %d: progress was told %v", kind, progress)
		}
	}
}
