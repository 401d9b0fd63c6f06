package bedrock

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A streamKind is which operation a stream is the answer to: it says what the
// payloads of its frames mean.
type streamKind int

const (
	streamConverse streamKind = iota // ConverseStream
	streamInvoke                     // InvokeModelWithResponseStream
	streamBidi                       // InvokeModelWithBidirectionalStream
)

// outputBytesPerToken is how many bytes of text an output token is taken to be where the
// stream has not said. Four is the usual rule for English; other languages have fewer
// letters a token but more bytes a letter. It is a stopgap, for progress while the
// stream runs and for streams that end without their usage.
const outputBytesPerToken = 4

// A meter counts what a stream has used so far.
type meter struct {
	kind   streamKind
	stated Usage  // what the stream has said so far
	final  bool   // and that this is all
	by     served // who gave it
	text   int64  // bytes of output text so far
	// uncovered says that text has come since the stream last said how many tokens
	// it had put out.
	uncovered bool
	scratch   []byte // a decoded chunk
}

// event looks at an event: whether it carried output, or told of more, and whether it
// has the final usage.
func (m *meter) event(name, payload []byte) (output, final bool) {
	switch {
	case m.kind == streamConverse && string(name) == "contentBlockDelta":
		return m.passed(converseText(payload)), false
	case m.kind == streamConverse && string(name) == "metadata":
		m.tell(payload)
		m.by = servedByEvent(payload)
		return false, m.final
	case m.kind != streamConverse && string(name) == "chunk":
		return m.chunk(payload), m.final
	}
	return false, false
}

// passed counts bytes of text, and reports whether there were any.
func (m *meter) passed(n int64) bool {
	m.text += n
	m.uncovered = m.uncovered || n > 0
	return n > 0
}

// tell takes over what an event of JSON says was used, and reports whether more output
// was among it than before.
func (m *meter) tell(event []byte) bool {
	u, final, ok := usageOfEvent(event)
	if !ok {
		return false
	}
	before := m.stated.OutputTokens
	m.stated, m.final = m.stated.fold(u, final), final
	if u.OutputTokens > 0 && u.OutputTokens >= before {
		m.uncovered = false
	}
	return u.OutputTokens > before
}

// chunk looks at a part of what the model itself sends: JSON of its family, in base64.
func (m *meter) chunk(payload []byte) bool {
	raw, ok := m.decode(payload)
	if !ok {
		return false
	}
	s := jsonScan{src: raw}
	var text int64
	if m.kind == streamBidi {
		text = s.sonicText()
	} else {
		text = s.modelText(0)
	}
	output := m.passed(text)
	told := m.tell(raw)
	m.scratch = reuse(raw)
	return output || told
}

// decode returns the bytes of a chunk. They lie in scratch.
func (m *meter) decode(payload []byte) ([]byte, bool) {
	s := jsonScan{src: payload}
	for name := range s.members {
		if string(name) != "bytes" {
			continue
		}
		encoded, ok := s.text()
		if !ok {
			return nil, false
		}
		raw, err := base64.StdEncoding.AppendDecode(m.scratch[:0], unescape(encoded))
		return raw, err == nil
	}
	return nil, false
}

// output is how many output tokens have passed. The stream's own count is the truth
// as long as it covers everything. If text has come since, it is a lower bound, and all
// of the text together is taken for another.
func (m *meter) output() int64 {
	if !m.uncovered {
		return m.stated.OutputTokens
	}
	return max(m.stated.OutputTokens, (m.text+outputBytesPerToken-1)/outputBytesPerToken)
}

// complete reports whether what has been said is all if the stream ends well now. Nova
// Sonic speaks again and again of all so far, and of no last time.
func (m *meter) complete() bool {
	return m.kind == streamBidi && m.stated != Usage{}
}

// usage is what the stream has used: all of it if final, else what was seen, with
// InputTokens 0 if it did not get to say.
func (m *meter) usage(final bool) Usage {
	u := m.stated
	if !m.final {
		u.OutputTokens = m.output()
	}
	u.Source = SourceStream
	if !final {
		u.Source = SourcePartial
	}
	return u
}

// converseText is how many bytes of output a contentBlockDelta has: text, the input of
// a tool, reasoning. The payload has other strings as well, one of them padding.
func converseText(payload []byte) (n int64) {
	s := jsonScan{src: payload}
	for name := range s.members {
		if string(name) != "delta" {
			continue
		}
		for name := range s.members {
			switch string(name) {
			case "text":
				n += s.textLen()
			case "toolUse":
				n += s.memberLen("input")
			case "reasoningContent":
				n += s.memberLen("text")
			}
		}
	}
	return n
}

// servedByEvent is what a metadata event of ConverseStream says of who gave the answer.
func servedByEvent(payload []byte) (by served) {
	s := jsonScan{src: payload}
	for name := range s.members {
		switch string(name) {
		case "serviceTier":
			by.Tier = s.memberText("type")
		case "trace":
			for name := range s.members {
				if string(name) == "promptRouter" {
					by.Model = s.memberText("invokedModelId")
				}
			}
		}
	}
	return by
}

// memberText is one member of the object ahead, if it is a string.
func (s *jsonScan) memberText(member string) (text string) {
	for name := range s.members {
		if string(name) == member && s.next() == '"' {
			raw, _ := s.text()
			text = string(unescape(raw))
		}
	}
	return text
}

// modelText is how many bytes of output an event of InvokeModelWithResponseStream has:
// the strings under the names that the families give to it, wherever they stand. An
// event is small and says little else.
func (s *jsonScan) modelText(depth int) (n int64) {
	const deepest = 16 // no family goes half as deep
	if depth > deepest {
		return 0
	}
	switch s.next() {
	case '{':
		for name := range s.members {
			switch {
			case repeats(name):
			case s.next() == '"':
				if isText(name) {
					n += s.textLen()
				}
			default:
				n += s.modelText(depth + 1)
			}
		}
	case '[':
		for range s.elements {
			n += s.modelText(depth + 1)
		}
	}
	return n
}

// isText reports whether a string of that name is output.
func isText(name []byte) bool {
	switch string(name) {
	case "text", // Claude, Nova, Mistral, Cohere, completions in OpenAI's style
		"thinking", "partial_json", "completion", // Claude
		"input",                                     // Nova, for a tool
		"generation",                                // Llama
		"outputText",                                // Titan
		"content", "reasoning_content", "arguments": // chats in OpenAI's style
		return true
	}
	return false
}

// repeats reports whether what has that name tells again what other events told: the
// whole answer in Cohere's last event, and Bedrock's metrics and traces.
func repeats(name []byte) bool {
	return string(name) == "response" || bytes.HasPrefix(name, []byte("amazon-bedrock-"))
}

// sonicText is how many bytes of text an event of Nova Sonic has that the model put
// out: what it says, as text, and what it tells tools, but not what it heard. Speech
// has no bytes here; what it cost, the usage events tell.
func (s *jsonScan) sonicText() (n int64) {
	for name := range s.members {
		if string(name) != "event" {
			continue
		}
		for name := range s.members {
			if string(name) != "textOutput" && string(name) != "toolUse" {
				continue
			}
			var content int64
			var heard bool
			for name := range s.members {
				switch string(name) {
				case "content":
					content = s.textLen()
				case "role":
					role, _ := s.text()
					heard = string(role) == "USER"
				}
			}
			if !heard {
				n += content
			}
		}
	}
	return n
}

// members yields the name of each member of the object ahead, while the scan stands
// before its value. A value that is not read is skipped. Of what is no object there are
// none, and where the text is not JSON the scan ends.
func (s *jsonScan) members(yield func(name []byte) bool) {
	if !s.take('{') || s.take('}') {
		return
	}
	for {
		name, ok := s.text()
		if !ok || !s.take(':') {
			s.lose()
			return
		}
		s.next()
		start := s.at
		if !yield(unescape(name)) || !s.past(start, '}') {
			return
		}
	}
}

// elements yields before each element of the array ahead, as members does.
func (s *jsonScan) elements(yield func() bool) {
	if !s.take('[') || s.take(']') {
		return
	}
	for {
		s.next()
		start := s.at
		if !yield() || !s.past(start, ']') {
			return
		}
	}
}

// past leaves the value that began at start, read or not, and reports whether there is
// another one before the bracket.
func (s *jsonScan) past(start int, bracket byte) bool {
	switch {
	case s.at == start && !s.skip():
		s.lose()
		return false
	case s.take(bracket):
		return false
	case s.take(','):
		return true
	}
	s.lose()
	return false
}

// lose ends the scan: nothing follows.
func (s *jsonScan) lose() { s.at = len(s.src) }

// textLen is how many bytes of UTF-8 the string ahead stands for. It is 0 for another
// value, which is left where it is.
func (s *jsonScan) textLen() int64 {
	raw, ok := s.text()
	if !ok {
		return 0
	}
	n := len(raw)
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			break
		}
		written, meant := escapeLen(raw[i:])
		n += meant - written
		raw = raw[i+written:]
	}
	return int64(n)
}

// memberLen is textLen of one member of the object ahead.
func (s *jsonScan) memberLen(member string) (n int64) {
	for name := range s.members {
		if string(name) == member {
			n += s.textLen()
		}
	}
	return n
}

// escapeLen says how many bytes the escape that b begins with takes, and how many
// bytes of UTF-8 it means.
func escapeLen(b []byte) (written, meant int) {
	const short, long = len(`\n`), len(`\u0000`)
	r, ok := codeUnit(b)
	if !ok {
		return min(short, len(b)), 1
	}
	if !utf16.IsSurrogate(r) {
		return long, utf8.RuneLen(r)
	}
	if low, ok := codeUnit(b[long:]); ok {
		if r := utf16.DecodeRune(r, low); r != utf8.RuneError {
			return 2 * long, utf8.RuneLen(r)
		}
	}
	return long, utf8.RuneLen(utf8.RuneError) // half a pair means nothing
}

// codeUnit is the value of the \u escape that b begins with.
func codeUnit(b []byte) (rune, bool) {
	const long = len(`\u0000`)
	if len(b) < long || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:long]), 16, 16)
	return rune(n), err == nil
}

// unescape returns what raw, the inside of a string, means. Names and base64 come
// without escapes, so that nothing is copied for them.
func unescape(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	var s string
	if err := json.Unmarshal(slices.Concat([]byte{'"'}, raw, []byte{'"'}), &s); err != nil {
		return nil
	}
	return []byte(s)
}
