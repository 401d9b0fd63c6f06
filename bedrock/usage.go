package bedrock

import (
	"bytes"
	"net/http"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
)

// Usage is what one call used. All counts are at least 0, and at most 1,000,000,000,000: an answer that says otherwise is taken to say
// nothing. The zero value is a call that used nothing.
type Usage struct {
	// InputTokens are the tokens read anew. Those that came from a prompt cache or were written to one are not among them, also of
	// models that report them together.
	InputTokens int64
	// OutputTokens are the tokens the model made, those of its reasoning included.
	OutputTokens int64
	// CacheReadTokens are the input tokens that came from a prompt cache.
	CacheReadTokens int64
	// CacheWriteTokens are the input tokens written to a prompt cache for any time but an hour: five minutes, or not told.
	CacheWriteTokens int64
	// CacheWrite1hTokens are the input tokens written to a prompt cache for an hour.
	CacheWrite1hTokens int64
	// TextUnits are the units of text, of up to 1,000 characters, that guardrails processed, added up over their policies; those that
	// AWS names free are not counted.
	TextUnits int64
	// Images are the images that a guardrail, or an embedding model that bills by them, processed.
	Images int64
	// Source is where the counts come from; "" of the zero value.
	Source Source
}

// Source tells where a usage comes from, and so how far to trust it.
type Source string

// The sources of a usage.
const (
	// SourceResponse is the SDK's own typed output, such as the Usage of Converse.
	SourceResponse Source = "response"
	// SourceHeader is the headers of an InvokeModel response.
	SourceHeader Source = "header"
	// SourceBody is the body of an InvokeModel response, as the model's family writes it.
	SourceBody Source = "body"
	// SourceStream is the events of a stream.
	SourceStream Source = "stream"
	// SourcePartial is the events of a stream that did not end well: at least so much was used.
	SourcePartial Source = "partial"
	// SourceEstimate is the estimate made from the request, as the answer did not say.
	SourceEstimate Source = "estimate"
)

// The headers in which Bedrock tells the usage of an InvokeModel call, whatever the model. The reference of the API does not list them;
// aws-sdk-js-v3's issues 5917 and 8172 ask AWS to.
const (
	headerInput      = "X-Amzn-Bedrock-Input-Token-Count"
	headerOutput     = "X-Amzn-Bedrock-Output-Token-Count"
	headerCacheRead  = "X-Amzn-Bedrock-Cache-Read-Input-Token-Count"
	headerCacheWrite = "X-Amzn-Bedrock-Cache-Write-Input-Token-Count"
)

// countMax is the largest count that is believed. No call comes near it, and sums and prices of what is below cannot overflow.
const countMax = 1_000_000_000_000

// usageOfOutput returns what a call used by the SDK's output and, of InvokeModel, the response's headers. It is false where the answer
// does not say.
func usageOfOutput(result any, header http.Header) (Usage, bool) {
	switch out := result.(type) {
	case *bedrockruntime.ConverseOutput:
		if out != nil {
			return usageOfTokens(out.Usage)
		}
	case *bedrockruntime.InvokeModelOutput:
		if out != nil {
			return usageOfInvoke(out.Body, header)
		}
	case *bedrockruntime.ApplyGuardrailOutput:
		if out != nil {
			return usageOfGuardrail(out.Usage)
		}
	case *bedrockruntime.InvokeGuardrailChecksOutput:
		if out != nil {
			return usageOfChecks(out.Usage)
		}
	}
	return Usage{}, false
}

func usageOfTokens(t *types.TokenUsage) (Usage, bool) {
	if t == nil || t.InputTokens == nil && t.OutputTokens == nil {
		return Usage{}, false
	}
	var write, hour int64
	for _, d := range t.CacheDetails {
		n := count32(d.InputTokens)
		if n < 0 {
			return Usage{}, false
		}
		write += n
		if d.Ttl == types.CacheTTLOneHour {
			hour += n
		}
	}
	told := count32(t.CacheWriteInputTokens)
	u := Usage{
		InputTokens:        count32(t.InputTokens),
		OutputTokens:       count32(t.OutputTokens),
		CacheReadTokens:    count32(t.CacheReadInputTokens),
		CacheWriteTokens:   max(write, told) - hour,
		CacheWrite1hTokens: hour,
		Source:             SourceResponse,
	}
	return u.believed(told >= 0)
}

func usageOfInvoke(body []byte, header http.Header) (Usage, bool) {
	u, ok := usageOfHeader(header)
	if !ok {
		return usageOfBody(body)
	}
	if u.CacheWriteTokens > 0 {
		if told, ok := usageOfBody(body); ok {
			u = u.split(told)
		}
	}
	return u, true
}

// usageOfHeader needs the input alone: an embedding makes no output, and has no header for it.
func usageOfHeader(header http.Header) (Usage, bool) {
	in, ok := headerCount(header, headerInput)
	if !ok {
		return Usage{}, false
	}
	u := Usage{InputTokens: in, Source: SourceHeader}
	for _, h := range []struct {
		name string
		n    *int64
	}{{headerOutput, &u.OutputTokens}, {headerCacheRead, &u.CacheReadTokens}, {headerCacheWrite, &u.CacheWriteTokens}} {
		if header.Get(h.name) == "" {
			continue
		}
		if *h.n, ok = headerCount(header, h.name); !ok {
			return Usage{}, false
		}
	}
	return u, true
}

func headerCount(header http.Header, name string) (int64, bool) {
	n, err := strconv.ParseUint(header.Get(name), 10, 63)
	return int64(n), err == nil && n <= countMax
}

// usageOfGuardrail adds up what the policies processed. Word filters are among them: AWS counts them against a quota of their own.
func usageOfGuardrail(g *types.GuardrailUsage) (Usage, bool) {
	if g == nil {
		return Usage{}, false
	}
	policies := []*int32{
		g.ContentPolicyUnits, g.ContextualGroundingPolicyUnits, g.SensitiveInformationPolicyUnits,
		g.TopicPolicyUnits, g.WordPolicyUnits, g.AutomatedReasoningPolicyUnits,
	}
	u := Usage{Images: count32(g.ContentPolicyImageUnits), Source: SourceResponse}
	return u.withUnits(policies...)
}

func usageOfChecks(c *types.GuardrailChecksUsageResults) (Usage, bool) {
	if c == nil {
		return Usage{}, false
	}
	var checks []*int32
	if c.ContentFilter != nil {
		checks = append(checks, c.ContentFilter.TextUnits)
	}
	if c.PromptAttack != nil {
		checks = append(checks, c.PromptAttack.TextUnits)
	}
	if c.SensitiveInformation != nil {
		checks = append(checks, c.SensitiveInformation.TextUnits)
	}
	return Usage{Source: SourceResponse}.withUnits(checks...)
}

// withUnits adds units of text. It is false if none of them was told, or one is not a count.
func (u Usage) withUnits(units ...*int32) (Usage, bool) {
	told := false
	for _, p := range units {
		n := count32(p)
		if n < 0 {
			return Usage{}, false
		}
		told = told || p != nil
		u.TextUnits += n
	}
	return u.believed(told || u.Images > 0)
}

// count32 returns a count of the SDK's; 0 if it is not told.
func count32(p *int32) int64 {
	if p == nil {
		return 0
	}
	return int64(*p)
}

// believed returns the usage if the answer told it and every count is within its bounds, and nothing otherwise.
func (u Usage) believed(told bool) (Usage, bool) {
	if !told || !u.sound() {
		return Usage{}, false
	}
	return u, true
}

// sound tells whether every count is within its bounds.
func (u Usage) sound() bool {
	for _, n := range []int64{u.InputTokens, u.OutputTokens, u.CacheReadTokens, u.CacheWriteTokens, u.CacheWrite1hTokens, u.TextUnits, u.Images} {
		if n < 0 || n > countMax {
			return false
		}
	}
	return true
}

// split takes over from another account of the same call which cache writes were for an hour: Bedrock's headers and metrics tell the
// sum alone. The split is taken only if it is one of the same sum.
func (u Usage) split(told Usage) Usage {
	if u.CacheWrite1hTokens == 0 && u.CacheWriteTokens == told.CacheWriteTokens+told.CacheWrite1hTokens {
		u.CacheWriteTokens, u.CacheWrite1hTokens = told.CacheWriteTokens, told.CacheWrite1hTokens
	}
	return u
}

// fold returns the usage of a stream after one more of its events. Counts of events are of the stream so far, not of the event, and an
// event tells some of them: the largest is the latest. The final event is Bedrock's own account and replaces what was seen before,
// except that a 0 in it takes nothing back.
func (u Usage) fold(event Usage, final bool) Usage {
	if !final {
		hour := max(u.CacheWrite1hTokens, event.CacheWrite1hTokens)
		written := max(u.CacheWriteTokens+u.CacheWrite1hTokens, event.CacheWriteTokens+event.CacheWrite1hTokens)
		return Usage{
			InputTokens:        max(u.InputTokens, event.InputTokens),
			OutputTokens:       max(u.OutputTokens, event.OutputTokens),
			CacheReadTokens:    max(u.CacheReadTokens, event.CacheReadTokens),
			CacheWriteTokens:   written - hour,
			CacheWrite1hTokens: hour,
			TextUnits:          max(u.TextUnits, event.TextUnits),
			Images:             max(u.Images, event.Images),
			Source:             event.Source,
		}
	}
	last := event.split(u)
	if last.CacheWriteTokens+last.CacheWrite1hTokens == 0 {
		last.CacheWriteTokens, last.CacheWrite1hTokens = u.CacheWriteTokens, u.CacheWrite1hTokens
	}
	for _, c := range [][2]*int64{
		{&last.InputTokens, &u.InputTokens},
		{&last.OutputTokens, &u.OutputTokens},
		{&last.CacheReadTokens, &u.CacheReadTokens},
		{&last.TextUnits, &u.TextUnits},
		{&last.Images, &u.Images},
	} {
		if *c[0] == 0 {
			*c[0] = *c[1]
		}
	}
	return last
}

// usageOfBody returns what an InvokeModel call used by the body of its answer. It is false for families whose bodies do not say, such as
// those that make images, and for bodies that are not whole.
func usageOfBody(body []byte) (Usage, bool) {
	var s countScan
	if !s.read(body, inBody) {
		return Usage{}, false
	}
	return s.usage(SourceBody, true)
}

// The marks of an event that may tell a usage: each spelling that family.go knows has one of them in its name or around it. As a quote
// inside a text is written \", the text of a model cannot have "usage or Count" in it unescaped at both ends, and where half of a mark
// does come up, the event is read and found to say nothing.
var usageMarks = [...][]byte{[]byte(`"usage`), []byte(`ount"`), []byte(`Metrics"`), []byte(`"meta"`)}

// usageOfEvent returns what one JSON event tells of the usage so far: of an InvokeModel response stream or a bidirectional one, or the
// metadata event of ConverseStream. It is final if it is the account at the end of the stream. An event that tells nothing, such as a
// piece of text, costs a search for a few words and no memory.
func usageOfEvent(event []byte) (u Usage, final, ok bool) {
	marked := false
	for _, mark := range usageMarks {
		if bytes.Contains(event, mark) {
			marked = true
			break
		}
	}
	if !marked {
		return Usage{}, false, false
	}
	var s countScan
	if !s.read(event, inBody) {
		return Usage{}, false, false
	}
	u, ok = s.usage(SourceStream, false)
	return u, ok && s.final(), ok
}
