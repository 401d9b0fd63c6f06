package bedrock

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// bodies are the answers of each family, in full and without what they may leave out.
var bodies = []struct {
	name, body string
	want       Usage // with SourceBody
	says       bool
}{
	{"claude", `{"id":"msg_1","type":"message","content":[{"type":"text","text":"say \"usage\": {}"}],"usage":{"input_tokens":11,"output_tokens":22,"cache_read_input_tokens":33,"cache_creation_input_tokens":44}}`, Usage{InputTokens: 11, OutputTokens: 22, CacheReadTokens: 33, CacheWriteTokens: 44}, true},
	{"claude, writes by TTL", `{"usage":{"input_tokens":11,"cache_creation_input_tokens":44,"cache_creation":{"ephemeral_5m_input_tokens":40,"ephemeral_1h_input_tokens":4},"output_tokens":22,"service_tier":"standard","server_tool_use":{"web_search_requests":3}}}`, Usage{InputTokens: 11, OutputTokens: 22, CacheWriteTokens: 40, CacheWrite1hTokens: 4}, true},
	{"claude, writes by TTL alone", `{"usage":{"input_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":40,"ephemeral_1h_input_tokens":4}}}`, Usage{InputTokens: 1, CacheWriteTokens: 40, CacheWrite1hTokens: 4}, true},
	{"claude, nulls", `{"usage":{"input_tokens":11,"output_tokens":22,"cache_read_input_tokens":null,"cache_creation":null}}`, Usage{InputTokens: 11, OutputTokens: 22}, true},
	{"claude, a refusal", `{"usage":{"input_tokens":0,"output_tokens":0}}`, Usage{}, true},
	{"openai responses", `{"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":107}}`, Usage{InputTokens: 40, OutputTokens: 7, CacheReadTokens: 60}, true},
	{"nova", `{"output":{"message":{"content":[{"text":"hi"}],"role":"assistant"}},"stopReason":"end_turn","usage":{"inputTokens":5,"outputTokens":6,"totalTokens":11,"cacheReadInputTokenCount":7,"cacheWriteInputTokenCount":8}}`, Usage{InputTokens: 5, OutputTokens: 6, CacheReadTokens: 7, CacheWriteTokens: 8}, true},
	{"nova, both spellings", `{"usage":{"inputTokens":5,"outputTokens":6,"cacheReadInputTokens":7,"cacheReadInputTokenCount":7,"cacheWriteInputTokens":8,"cacheWriteInputTokenCount":8,"cacheDetails":[{"ttl":"1h","inputTokens":3},{"inputTokens":5,"ttl":"5m"}]}}`, Usage{InputTokens: 5, OutputTokens: 6, CacheReadTokens: 7, CacheWriteTokens: 5, CacheWrite1hTokens: 3}, true},
	{"nova, writes by TTL alone", `{"usage":{"inputTokens":5,"cacheDetails":[ {"inputTokens":3,"ttl":"1h"} , {"inputTokens":5,"ttl":"5m"},{"inputTokens":2,"ttl":"1h"},7,[] ]}}`, Usage{InputTokens: 5, CacheWriteTokens: 5, CacheWrite1hTokens: 5}, true},
	{"nova, writes without a TTL", `{"usage":{"inputTokens":5,"cacheDetails":[{"inputTokens":3,"ttl":"1h"},{"inputTokens":5}]}}`, Usage{InputTokens: 5, CacheWriteTokens: 5, CacheWrite1hTokens: 3}, true},
	{"nova, writes that are too large a sum", `{"usage":{"inputTokens":5,"cacheDetails":[{"inputTokens":3,"ttl":"1h"},{"inputTokens":1000000000000}]}}`, Usage{}, false},
	{"llama", `{"generation":"hi","prompt_token_count":9,"generation_token_count":4,"stop_reason":"stop"}`, Usage{InputTokens: 9, OutputTokens: 4}, true},
	{"titan text", `{"inputTextTokenCount":4,"results":[{"tokenCount":10,"outputText":"a","completionReason":"FINISH"},{"tokenCount":2,"outputText":"b"}]}`, Usage{InputTokens: 4, OutputTokens: 12}, true},
	{"titan embedding", `{"embedding":[0.1,-2e-3,3],"inputTextTokenCount":6}`, Usage{InputTokens: 6}, true},
	{"titan embedding of an image", `{"embedding":[0.1],"inputTextTokenCount":null}`, Usage{}, false},
	{"mistral, old", `{"outputs":[{"text":"hi","stop_reason":"stop"}]}`, Usage{}, false},
	{"mistral, new", `{"object":"chat.completion","choices":[{"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":12,"total_tokens":20,"completion_tokens":8}}`, Usage{InputTokens: 12, OutputTokens: 8}, true},
	{"openai-like, cached", `{"usage":{"prompt_tokens":120,"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":100,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":3}}}`, Usage{InputTokens: 20, OutputTokens: 8, CacheReadTokens: 100}, true},
	{"openai-like, more cached than read", `{"usage":{"prompt_tokens":99,"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":100}}}`, Usage{}, false},
	{"openai-like embedding", `{"data":[],"usage":{"prompt_tokens":3,"total_tokens":3}}`, Usage{InputTokens: 3}, true},
	{"cohere, billed", `{"text":"hi","meta":{"api_version":{"version":"1"},"billed_units":{"input_tokens":3,"output_tokens":4},"tokens":{"input_tokens":70,"output_tokens":5}}}`, Usage{InputTokens: 3, OutputTokens: 4}, true},
	{"cohere v2", `{"usage":{"billed_units":{"input_tokens":3,"output_tokens":4},"tokens":{"input_tokens":70,"output_tokens":5}}}`, Usage{InputTokens: 3, OutputTokens: 4}, true},
	{"cohere, counted", `{"meta":{"tokens":{"input_tokens":70,"output_tokens":5}}}`, Usage{InputTokens: 70, OutputTokens: 5}, true},
	{"cohere, a stream's end", `{"event_type":"stream-end","response":{"text":"hi","meta":{"billed_units":{"input_tokens":3,"output_tokens":4}}}}`, Usage{InputTokens: 3, OutputTokens: 4}, true},
	{"cohere, old", `{"text":"hi","token_count":{"prompt_tokens":3,"response_tokens":4,"total_tokens":7,"billed_tokens":7}}`, Usage{InputTokens: 3, OutputTokens: 4}, true},
	{"cohere embedding of images", `{"meta":{"billed_units":{"images":2}}}`, Usage{Images: 2}, true},
	{"cohere rerank", `{"results":[{"index":1,"relevance_score":0.98}],"meta":{"billed_units":{"search_units":1}}}`, Usage{}, false},
	{"cohere embedding", `{"embeddings":[[0.1]],"id":"x","response_type":"embeddings_floats"}`, Usage{}, false},
	{"stability", `{"images":["iVBORw0KGgo="],"seeds":[1],"finish_reasons":[null]}`, Usage{}, false},

	{"spaces", " {\r\n\t\"usage\" : { \"input_tokens\" : 1 , \"output_tokens\" : 2 } } \n", Usage{InputTokens: 1, OutputTokens: 2}, true},
	{"the largest count", `{"prompt_token_count":1000000000000}`, Usage{InputTokens: 1e12}, true},
	{"too large a count", `{"prompt_token_count":1000000000001}`, Usage{}, false},
	{"overflow", `{"prompt_token_count":18446744073709551617,"generation_token_count":1}`, Usage{}, false},
	{"a sum that is too large", `{"inputTextTokenCount":1,"results":[{"tokenCount":1000000000000},{"tokenCount":1}]}`, Usage{}, false},
	{"negative", `{"usage":{"input_tokens":-1,"output_tokens":2}}`, Usage{}, false},
	{"negative zero", `{"usage":{"input_tokens":-0,"output_tokens":2}}`, Usage{}, false},
	{"fraction", `{"usage":{"input_tokens":1.0,"output_tokens":2}}`, Usage{}, false},
	{"exponent", `{"usage":{"input_tokens":1e3,"output_tokens":2}}`, Usage{}, false},
	{"leading zero", `{"usage":{"input_tokens":01,"output_tokens":2}}`, Usage{}, false},
	{"string", `{"usage":{"input_tokens":"1","output_tokens":2}}`, Usage{}, false},
	{"object", `{"usage":{"input_tokens":{"n":1},"output_tokens":2}}`, Usage{}, false},
	{"bool", `{"usage":{"input_tokens":true,"output_tokens":2}}`, Usage{}, false},
	{"output alone", `{"usage":{"output_tokens":2}}`, Usage{}, false},
	{"usage is something else", `{"usage":"input_tokens","message":"usage","results":7}`, Usage{}, false},
	{"deeper than it stands", `{"x":{"usage":{"input_tokens":1,"output_tokens":2}}}`, Usage{}, false},
	{"in a text", `{"x":"\"usage\":{\"input_tokens\":1}\\"}`, Usage{}, false},
	{"cut off", `{"usage":{"input_tokens":1,"output_tokens":2}`, Usage{}, false},
	{"more follows", `{"usage":{"input_tokens":1,"output_tokens":2}}{}`, Usage{}, false},
	{"a list", `[{"usage":{"input_tokens":1}}]`, Usage{}, false},
	{"empty", ``, Usage{}, false},
	{"not JSON", `<html>"usage"</html>`, Usage{}, false},
}

func TestUsageOfBody(t *testing.T) {
	t.Parallel()
	for _, c := range bodies {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := c.want
			if c.says {
				want.Source = SourceBody
			}
			got, says := usageOfBody([]byte(c.body))
			if got != want || says != c.says {
				t.Errorf("got %+v, %v\nwant %+v, %v", got, says, want, c.says)
			}
		})
	}
}

func TestUsageOfEvent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, event string
		want        Usage
		final, says bool
	}{
		{"claude, text", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"the \"usage\" count"}}`, Usage{}, false, false},
		{"claude, begin", `{"type":"message_start","message":{"id":"m","role":"assistant","content":[],"usage":{"input_tokens":25,"cache_creation_input_tokens":8,"cache_creation":{"ephemeral_1h_input_tokens":5,"ephemeral_5m_input_tokens":3},"cache_read_input_tokens":2,"output_tokens":1}}}`, Usage{InputTokens: 25, OutputTokens: 1, CacheReadTokens: 2, CacheWriteTokens: 3, CacheWrite1hTokens: 5}, false, true},
		{"claude, end", `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}`, Usage{OutputTokens: 15}, false, true},
		{"metrics", `{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":25,"outputTokenCount":15,"invocationLatency":4151,"firstByteLatency":136,"cacheReadInputTokenCount":2,"cacheWriteInputTokenCount":8}}`, Usage{InputTokens: 25, OutputTokens: 15, CacheReadTokens: 2, CacheWriteTokens: 8}, true, true},
		{"nova", `{"metadata":{"usage":{"inputTokens":5,"outputTokens":6,"cacheReadInputTokenCount":1},"metrics":{},"trace":{}}}`, Usage{InputTokens: 5, OutputTokens: 6, CacheReadTokens: 1}, false, true},
		{"nova and metrics", `{"metadata":{"usage":{"inputTokens":5,"outputTokens":6,"cacheDetails":[{"inputTokens":9,"ttl":"1h"}]}},"amazon-bedrock-invocationMetrics":{"inputTokenCount":5,"outputTokenCount":7,"cacheWriteInputTokenCount":9}}`, Usage{InputTokens: 5, OutputTokens: 7, CacheWrite1hTokens: 9}, true, true},
		{"nova, text", `{"contentBlockDelta":{"delta":{"text":"hi"},"contentBlockIndex":0}}`, Usage{}, false, false},
		{"converse metadata", `{"metrics":{"latencyMs":5},"p":"abc","usage":{"inputTokens":5,"outputTokens":6,"totalTokens":11,"cacheWriteInputTokens":9,"cacheDetails":[{"ttl":"1h","inputTokens":4}]}}`, Usage{InputTokens: 5, OutputTokens: 6, CacheWriteTokens: 5, CacheWrite1hTokens: 4}, true, true},
		{"llama, first", `{"generation":"o","prompt_token_count":5,"generation_token_count":1,"stop_reason":null}`, Usage{InputTokens: 5, OutputTokens: 1}, false, true},
		{"llama, next", `{"generation":"k","prompt_token_count":null,"generation_token_count":3,"stop_reason":null}`, Usage{OutputTokens: 3}, false, true},
		{"llama, last", `{"generation":"","prompt_token_count":null,"generation_token_count":8,"stop_reason":"length","amazon-bedrock-invocationMetrics":{"inputTokenCount":5,"outputTokenCount":8}}`, Usage{InputTokens: 5, OutputTokens: 8}, true, true},
		{"titan, text", `{"outputText":"hi","index":0,"totalOutputTextTokenCount":null,"completionReason":null,"inputTextTokenCount":null}`, Usage{}, false, false},
		{"titan, last", `{"outputText":"","index":0,"totalOutputTextTokenCount":13,"completionReason":"FINISH","inputTextTokenCount":3}`, Usage{InputTokens: 3, OutputTokens: 13}, false, true},
		{"openai-like, text", `{"choices":[{"delta":{"content":"hi"}}],"usage":null}`, Usage{}, false, false},
		{"openai-like, last", `{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":8}}}`, Usage{InputTokens: 1, OutputTokens: 4, CacheReadTokens: 8}, false, true},
		{"sonic", `{"event":{"usageEvent":{"completionId":"c","details":{"delta":{"input":{"speechTokens":1}},"total":{"input":{"speechTokens":30,"textTokens":10},"output":{"speechTokens":50,"textTokens":10}}},"totalInputTokens":40,"totalOutputTokens":60,"totalTokens":100}}}`, Usage{InputTokens: 40, OutputTokens: 60}, false, true},
		{"sonic, audio", `{"event":{"audioOutput":{"content":"` + strings.Repeat("AAAA", 100) + `"}}}`, Usage{}, false, false},
		{"metrics that cannot be", `{"amazon-bedrock-invocationMetrics":{"inputTokenCount":-25,"outputTokenCount":15}}`, Usage{}, false, false},
		{"metrics without counts", `{"amazon-bedrock-invocationMetrics":{"invocationLatency":15}}`, Usage{}, false, false},
		{"broken", `{"usage":{"input_tokens":1`, Usage{}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := c.want
			if c.says {
				want.Source = SourceStream
			}
			got, final, says := usageOfEvent([]byte(c.event))
			if got != want || final != c.final || says != c.says {
				t.Errorf("got %+v, final %v, %v\nwant %+v, final %v, %v", got, final, says, want, c.final, c.says)
			}
		})
	}
}

func TestFold(t *testing.T) {
	t.Parallel()
	stream := func(final bool, events ...string) Usage {
		var u Usage
		for _, text := range events {
			e, last, ok := usageOfEvent([]byte(text))
			if !ok {
				t.Errorf("%s says nothing", text)
			}
			u = u.fold(e, last)
			final = final && last
		}
		return u
	}
	const (
		begin   = `{"message":{"usage":{"input_tokens":25,"cache_creation_input_tokens":8,"cache_creation":{"ephemeral_1h_input_tokens":5,"ephemeral_5m_input_tokens":3},"cache_read_input_tokens":2,"output_tokens":1}}}`
		more    = `{"usage":{"output_tokens":15}}`
		metrics = `{"amazon-bedrock-invocationMetrics":{"inputTokenCount":25,"outputTokenCount":14,"cacheReadInputTokenCount":2,"cacheWriteInputTokenCount":8}}`
		other   = `{"amazon-bedrock-invocationMetrics":{"inputTokenCount":25,"outputTokenCount":14,"cacheWriteInputTokenCount":9}}`
		silent  = `{"amazon-bedrock-invocationMetrics":{"inputTokenCount":25}}`
	)
	for _, c := range []struct {
		name   string
		events []string
		want   Usage
	}{
		{"cut off", []string{begin, more}, Usage{InputTokens: 25, OutputTokens: 15, CacheReadTokens: 2, CacheWriteTokens: 3, CacheWrite1hTokens: 5, Source: SourceStream}},
		{"out of order", []string{more, begin}, Usage{InputTokens: 25, OutputTokens: 15, CacheReadTokens: 2, CacheWriteTokens: 3, CacheWrite1hTokens: 5, Source: SourceStream}},
		{"the last account wins, and the split of writes stays", []string{begin, more, metrics}, Usage{InputTokens: 25, OutputTokens: 14, CacheReadTokens: 2, CacheWriteTokens: 3, CacheWrite1hTokens: 5, Source: SourceStream}},
		{"a split of another sum does not", []string{begin, more, other}, Usage{InputTokens: 25, OutputTokens: 14, CacheReadTokens: 2, CacheWriteTokens: 9, Source: SourceStream}},
		{"what it leaves out stays", []string{begin, more, silent}, Usage{InputTokens: 25, OutputTokens: 15, CacheReadTokens: 2, CacheWriteTokens: 3, CacheWrite1hTokens: 5, Source: SourceStream}},
	} {
		if diff := cmp.Diff(c.want, stream(false, c.events...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestUsageOfOutput(t *testing.T) {
	t.Parallel()
	n := aws.Int32
	headers := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Set("X-Amzn-Bedrock-"+pairs[i]+"-Token-Count", pairs[i+1])
		}
		return h
	}
	const claude = `{"usage":{"input_tokens":11,"output_tokens":22,"cache_creation_input_tokens":8,"cache_creation":{"ephemeral_1h_input_tokens":5,"ephemeral_5m_input_tokens":3}}}`
	for _, c := range []struct {
		name   string
		out    any
		header http.Header
		want   Usage // not said if it has no source
	}{
		{"converse", &bedrockruntime.ConverseOutput{Usage: &types.TokenUsage{InputTokens: n(1), OutputTokens: n(2), TotalTokens: n(9), CacheReadInputTokens: n(3), CacheWriteInputTokens: n(4)}}, nil, Usage{InputTokens: 1, OutputTokens: 2, CacheReadTokens: 3, CacheWriteTokens: 4, Source: SourceResponse}},
		{"converse, writes by TTL", &bedrockruntime.ConverseOutput{Usage: &types.TokenUsage{InputTokens: n(1), OutputTokens: n(2), CacheWriteInputTokens: n(9), CacheDetails: []types.CacheDetail{{InputTokens: n(5), Ttl: types.CacheTTLOneHour}, {InputTokens: n(4), Ttl: types.CacheTTLFiveMinutes}}}}, nil, Usage{InputTokens: 1, OutputTokens: 2, CacheWriteTokens: 4, CacheWrite1hTokens: 5, Source: SourceResponse}},
		{"converse, writes by TTL alone", &bedrockruntime.ConverseOutput{Usage: &types.TokenUsage{InputTokens: n(1), CacheDetails: []types.CacheDetail{{InputTokens: n(5), Ttl: types.CacheTTLOneHour}, {InputTokens: n(4), Ttl: "7d"}}}}, nil, Usage{InputTokens: 1, CacheWriteTokens: 4, CacheWrite1hTokens: 5, Source: SourceResponse}},
		{"converse, no usage", &bedrockruntime.ConverseOutput{}, nil, Usage{}},
		{"converse, empty usage", &bedrockruntime.ConverseOutput{Usage: &types.TokenUsage{}}, nil, Usage{}},
		{"converse, negative", &bedrockruntime.ConverseOutput{Usage: &types.TokenUsage{InputTokens: n(-1), OutputTokens: n(2)}}, nil, Usage{}},
		{"converse, negative writes", &bedrockruntime.ConverseOutput{Usage: &types.TokenUsage{InputTokens: n(1), CacheWriteInputTokens: n(-2)}}, nil, Usage{}},
		{"converse, negative detail", &bedrockruntime.ConverseOutput{Usage: &types.TokenUsage{InputTokens: n(1), CacheDetails: []types.CacheDetail{{InputTokens: n(-5)}}}}, nil, Usage{}},
		{"invoke, headers", &bedrockruntime.InvokeModelOutput{Body: []byte(`{}`)}, headers("Input", "1", "Output", "2", "Cache-Read-Input", "3", "Cache-Write-Input", "4"), Usage{InputTokens: 1, OutputTokens: 2, CacheReadTokens: 3, CacheWriteTokens: 4, Source: SourceHeader}},
		{"invoke, headers before the body", &bedrockruntime.InvokeModelOutput{Body: []byte(claude)}, headers("Input", "1", "Output", "2"), Usage{InputTokens: 1, OutputTokens: 2, Source: SourceHeader}},
		{"invoke, writes by TTL from the body", &bedrockruntime.InvokeModelOutput{Body: []byte(claude)}, headers("Input", "1", "Output", "2", "Cache-Write-Input", "8"), Usage{InputTokens: 1, OutputTokens: 2, CacheWriteTokens: 3, CacheWrite1hTokens: 5, Source: SourceHeader}},
		{"invoke, other writes in the body", &bedrockruntime.InvokeModelOutput{Body: []byte(claude)}, headers("Input", "1", "Output", "2", "Cache-Write-Input", "7"), Usage{InputTokens: 1, OutputTokens: 2, CacheWriteTokens: 7, Source: SourceHeader}},
		{"invoke, an embedding", &bedrockruntime.InvokeModelOutput{}, headers("Input", "7"), Usage{InputTokens: 7, Source: SourceHeader}},
		{"invoke, body", &bedrockruntime.InvokeModelOutput{Body: []byte(claude)}, nil, Usage{InputTokens: 11, OutputTokens: 22, CacheWriteTokens: 3, CacheWrite1hTokens: 5, Source: SourceBody}},
		{"invoke, headers that are no counts", &bedrockruntime.InvokeModelOutput{Body: []byte(claude)}, headers("Input", "-1", "Output", "2"), Usage{InputTokens: 11, OutputTokens: 22, CacheWriteTokens: 3, CacheWrite1hTokens: 5, Source: SourceBody}},
		{"invoke, one header that is no count", &bedrockruntime.InvokeModelOutput{}, headers("Input", "1", "Output", "99999999999999999999"), Usage{}},
		{"invoke, output alone", &bedrockruntime.InvokeModelOutput{}, headers("Output", "2"), Usage{}},
		{"invoke, neither", &bedrockruntime.InvokeModelOutput{Body: []byte(`{"outputs":[]}`)}, headers(), Usage{}},
		{"guardrail", &bedrockruntime.ApplyGuardrailOutput{Usage: &types.GuardrailUsage{ContentPolicyUnits: n(1), ContextualGroundingPolicyUnits: n(2), SensitiveInformationPolicyUnits: n(4), SensitiveInformationPolicyFreeUnits: n(1000), TopicPolicyUnits: n(8), WordPolicyUnits: n(16), AutomatedReasoningPolicyUnits: n(32), AutomatedReasoningPolicies: n(1000), ContentPolicyImageUnits: n(64)}}, nil, Usage{TextUnits: 63, Images: 64, Source: SourceResponse}},
		{"guardrail, nothing processed", &bedrockruntime.ApplyGuardrailOutput{Usage: &types.GuardrailUsage{ContentPolicyUnits: n(0)}}, nil, Usage{Source: SourceResponse}},
		{"guardrail, no usage", &bedrockruntime.ApplyGuardrailOutput{}, nil, Usage{}},
		{"guardrail, empty usage", &bedrockruntime.ApplyGuardrailOutput{Usage: &types.GuardrailUsage{}}, nil, Usage{}},
		{"guardrail, negative", &bedrockruntime.ApplyGuardrailOutput{Usage: &types.GuardrailUsage{ContentPolicyUnits: n(5), TopicPolicyUnits: n(-1)}}, nil, Usage{}},
		{"guardrail, negative images", &bedrockruntime.ApplyGuardrailOutput{Usage: &types.GuardrailUsage{ContentPolicyUnits: n(5), ContentPolicyImageUnits: n(-1)}}, nil, Usage{}},
		{"checks", &bedrockruntime.InvokeGuardrailChecksOutput{Usage: &types.GuardrailChecksUsageResults{ContentFilter: &types.GuardrailChecksContentFilterUsage{TextUnits: n(1)}, PromptAttack: &types.GuardrailChecksPromptAttackUsage{TextUnits: n(2)}, SensitiveInformation: &types.GuardrailChecksSensitiveInformationUsage{TextUnits: n(4)}}}, nil, Usage{TextUnits: 7, Source: SourceResponse}},
		{"checks, one", &bedrockruntime.InvokeGuardrailChecksOutput{Usage: &types.GuardrailChecksUsageResults{PromptAttack: &types.GuardrailChecksPromptAttackUsage{TextUnits: n(2)}}}, nil, Usage{TextUnits: 2, Source: SourceResponse}},
		{"checks, none", &bedrockruntime.InvokeGuardrailChecksOutput{Usage: &types.GuardrailChecksUsageResults{}}, nil, Usage{}},
		{"async", &bedrockruntime.StartAsyncInvokeOutput{}, nil, Usage{}},
		{"nil pointers", (*bedrockruntime.ConverseOutput)(nil), nil, Usage{}},
		{"nil", nil, nil, Usage{}},
	} {
		got, says := usageOfOutput(c.out, c.header)
		if got != c.want || says != (c.want.Source != "") {
			t.Errorf("%s: got %+v, %v\nwant %+v", c.name, got, says, c.want)
		}
	}
}

// reference reads Claude's and the OpenAI-like families by encoding/json, to be compared with the scanner.
func reference(body []byte) (Usage, bool) {
	var v struct {
		Usage struct {
			In      *int64 `json:"input_tokens"`
			Out     *int64 `json:"output_tokens"`
			Read    int64  `json:"cache_read_input_tokens"`
			Prompt  *int64 `json:"prompt_tokens"`
			Made    int64  `json:"completion_tokens"`
			Details struct {
				Cached int64 `json:"cached_tokens"`
			} `json:"prompt_tokens_details"`
		} `json:"usage"`
	}
	if json.Unmarshal(body, &v) != nil {
		return Usage{}, false
	}
	switch u := v.Usage; {
	case u.In != nil && u.Out != nil:
		return Usage{InputTokens: *u.In, OutputTokens: *u.Out, CacheReadTokens: u.Read, Source: SourceBody}, true
	case u.Prompt != nil && u.Details.Cached <= *u.Prompt:
		return Usage{InputTokens: *u.Prompt - u.Details.Cached, OutputTokens: u.Made, CacheReadTokens: u.Details.Cached, Source: SourceBody}, true
	}
	return Usage{}, false
}

// anyJSON draws a value that has names of counts, quotes and brackets in all places where they mean nothing.
func anyJSON(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		text := rapid.SampledFrom([]string{"", "usage", `"usage":{"input_tokens":7}`, `\`, `\"`, "]}", "é\u2028", "input_tokens", "a b"})
		kind := rapid.IntRange(0, 6).Draw(t, "kind")
		switch {
		case kind == 0:
			return nil
		case kind == 1:
			return rapid.Bool().Draw(t, "bool")
		case kind == 2:
			return rapid.Float64Range(-1e6, 1e6).Draw(t, "number")
		case kind == 3 || depth == 0:
			return text.Draw(t, "text")
		case kind == 4:
			return rapid.SliceOfN(anyJSON(depth-1), 0, 3).Draw(t, "list")
		}
		return rapid.MapOfN(text, anyJSON(depth-1), 0, 3).Draw(t, "object")
	})
}

func anyBody(t *rapid.T) []byte {
	count := rapid.Int64Range(0, countMax)
	usage := map[string]any{"other": anyJSON(2).Draw(t, "other")}
	if rapid.Bool().Draw(t, "claude") {
		usage["input_tokens"], usage["output_tokens"] = count.Draw(t, "in"), count.Draw(t, "out")
		usage["cache_read_input_tokens"] = count.Draw(t, "read")
	} else {
		prompt := count.Draw(t, "prompt")
		usage["prompt_tokens"], usage["completion_tokens"] = prompt, count.Draw(t, "made")
		usage["prompt_tokens_details"] = map[string]any{"cached_tokens": rapid.Int64Range(0, prompt).Draw(t, "cached"), "x": anyJSON(1).Draw(t, "x")}
	}
	body := map[string]any{"content": anyJSON(3).Draw(t, "content"), "zzz": anyJSON(2).Draw(t, "zzz"), "usage": usage}
	src, err := json.Marshal(body)
	if err != nil {
		t.Fatalf("making a body: %v", err)
	}
	if rapid.Bool().Draw(t, "indented") {
		var b bytes.Buffer
		if err := json.Indent(&b, src, "\r", "\t "); err != nil {
			t.Fatalf("indenting: %v", err)
		}
		src = b.Bytes()
	}
	return src
}

func TestScannerAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	caught := false
	rapid.Check(t, func(t *rapid.T) {
		body := anyBody(t)
		want, wantSays := reference(body)
		got, says := usageOfBody(body)
		if got != want || says != wantSays {
			t.Fatalf("%s\ngot  %+v, %v\nwant %+v, %v", body, got, says, want, wantSays)
		}
		if whole, _, ok := usageOfEvent(body); !ok || whole.InputTokens != want.InputTokens {
			t.Fatalf("%s: as an event it is %+v, %v", body, whole, ok)
		}
		// The control counts what came from the cache twice.
		if broken := (Usage{InputTokens: got.InputTokens + got.CacheReadTokens, OutputTokens: got.OutputTokens, CacheReadTokens: got.CacheReadTokens, Source: SourceBody}); broken != want {
			caught = true
		}
		if cut := body[:rapid.IntRange(0, len(bytes.TrimSpace(body))-1).Draw(t, "cut")]; len(cut) > 0 {
			if u, says := usageOfBody(cut); says {
				t.Fatalf("%s is not whole, and says %+v", cut, u)
			}
		}
	})
	if !caught {
		t.Error("control: no body tells cached input from other input")
	}
}

func TestEventsCostNoMemory(t *testing.T) {
	for name, text := range benchmarkEvents {
		event := []byte(text)
		if n := testing.AllocsPerRun(100, func() { usageOfEvent(event) }); n > 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

var benchmarkEvents = map[string]string{
	"text":    `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" and so the number of tokens is"}}`,
	"llama":   `{"generation":" so","prompt_token_count":null,"generation_token_count":37,"stop_reason":null}`,
	"metrics": `{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":25,"outputTokenCount":15,"invocationLatency":4151,"firstByteLatency":136,"cacheReadInputTokenCount":2,"cacheWriteInputTokenCount":8}}`,
	"audio":   `{"event":{"audioOutput":{"completionId":"c","content":"` + strings.Repeat("UklGRuGd", 1000) + `"}}}`,
}

func BenchmarkUsageOfEvent(b *testing.B) {
	for name, text := range benchmarkEvents {
		event := []byte(text)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				usageOfEvent(event)
			}
		})
	}
}

func BenchmarkUsageOfBody(b *testing.B) {
	body := []byte(`{"images":["` + strings.Repeat("iVBORw0K", 1<<17) + `"],"usage":{"input_tokens":1,"output_tokens":2}}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		usageOfBody(body)
	}
}

func FuzzUsage(f *testing.F) {
	for _, c := range bodies {
		f.Add([]byte(c.body))
	}
	for _, e := range benchmarkEvents {
		f.Add([]byte(e))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		u, says := usageOfBody(src)
		if says && (!u.sound() || u.Source != SourceBody) {
			t.Errorf("%+v is no usage", u)
		}
		e, final, ok := usageOfEvent(src)
		if ok && !e.sound() || final && !ok {
			t.Errorf("%+v, final %v, %v", e, final, ok)
		}
		if f := u.fold(e, final); f.CacheWriteTokens < 0 || f.CacheWrite1hTokens < 0 {
			t.Errorf("%+v and %+v make %+v", u, e, f)
		}
		for _, params := range []any{
			&bedrockruntime.InvokeModelInput{ModelId: aws.String("stability.x"), Body: src, RequestMetadata: aws.String(string(src))},
			&bedrockruntime.ApplyGuardrailInput{Content: []types.GuardrailContentBlock{&types.GuardrailContentBlockMemberText{Value: types.GuardrailTextBlock{Text: aws.String(string(src))}}}},
		} {
			if _, _, _, e := estimateOf(params); e.InputTokens < 0 || e.MaxTokens < 0 || e.MaxTokens > countMax || e.TextUnits < 0 || e.Images < 0 {
				t.Errorf("the estimate of %T is %+v", params, e)
			}
		}
	})
}

// sdkFiles returns the sources of a package of the SDK, as they are compiled.
func sdkFiles(t *testing.T, pkg, glob string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pkg, err)
	}
	paths, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), glob))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s has no %s (%v)", pkg, glob, err)
	}
	var all []byte
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, src...)
	}
	return all
}

// named returns the first group of each match.
func named(src []byte, pattern string) map[string]bool {
	found := make(map[string]bool)
	for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(src, -1) {
		found[string(m[1])] = true
	}
	return found
}
