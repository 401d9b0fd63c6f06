package bedrocktest_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/google/go-cmp/cmp"

	"github.com/quotad/quotad/internal/bedrocktest"
)

// numbers is every field of a JSON text that is a number and counts tokens, by its
// path.
func numbers(t *testing.T, text string) map[string]int64 {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	found := make(map[string]int64)
	walk("", value, found)
	maps.DeleteFunc(found, func(name string, _ int64) bool {
		return !strings.Contains(strings.ToLower(name), "token")
	})
	return found
}

func walk(path string, value any, found map[string]int64) {
	switch value := value.(type) {
	case float64:
		found[path] = int64(value)
	case []any:
		for i, v := range value {
			walk(path+"/"+strconv.Itoa(i), v, found)
		}
	case map[string]any:
		for name, v := range value {
			walk(path+"/"+name, v, found)
		}
	}
}

// counts is what is where in the bodies of InvokeModel for the usage full.
func counts() map[string]map[string]int64 {
	openai := map[string]int64{
		"/usage/prompt_tokens": 101 + 1009 + 307, "/usage/completion_tokens": 23, "/usage/total_tokens": 1440,
		"/usage/prompt_tokens_details/cached_tokens": 1009,
	}
	return map[string]map[string]int64{
		"claude": {
			"/usage/input_tokens": 101, "/usage/output_tokens": 23,
			"/usage/cache_read_input_tokens": 1009, "/usage/cache_creation_input_tokens": 307,
			"/usage/cache_creation/ephemeral_5m_input_tokens": 266, "/usage/cache_creation/ephemeral_1h_input_tokens": 41,
		},
		"nova": {
			"/usage/inputTokens": 101, "/usage/outputTokens": 23, "/usage/totalTokens": 1440,
			"/usage/cacheReadInputTokenCount": 1009, "/usage/cacheWriteInputTokenCount": 307,
		},
		"llama":        {"/prompt_token_count": 101, "/generation_token_count": 23},
		"titan":        {"/inputTextTokenCount": 101, "/results/0/tokenCount": 23},
		"mistral":      openai,
		"mistral7b":    {},
		"cohere":       {"/meta/billed_units/input_tokens": 101, "/meta/billed_units/output_tokens": 23},
		"cohere-embed": {},
		"openai":       openai,
		"image":        {},
	}
}

func TestFamilies(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(counts())), slices.Sorted(slices.Values(bedrocktest.Families()))); diff != "" {
		t.Fatalf("families (-tested +known):\n%s", diff)
	}
	for family, want := range counts() {
		s, c := fixture(t)
		for _, answer := range []bedrocktest.Answer{
			{Family: family, Usage: full},
			{Family: family, Usage: full, NoHeaders: true},
			{Family: family, Usage: full, NoUsage: true},
		} {
			s.Script(answer)
			out, err := c.InvokeModel(t.Context(), invokeInput())
			if err != nil {
				t.Fatal(err)
			}
			if answer.NoUsage {
				want = map[string]int64{}
			}
			if diff := cmp.Diff(want, numbers(t, string(out.Body))); diff != "" {
				t.Errorf("%+v: body (-want +got):\n%s", answer, diff)
			}
			headers := tokenHeaders(awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response).Header)
			wantHeaders := map[string]string{}
			if !answer.NoUsage && !answer.NoHeaders {
				wantHeaders = map[string]string{"Input": "101", "Output": "23", "Cache-Read-Input": "1009", "Cache-Write-Input": "307"}
				if family == "cohere-embed" || family == "image" {
					delete(wantHeaders, "Output")
				}
			}
			if diff := cmp.Diff(wantHeaders, headers); diff != "" {
				t.Errorf("%+v: headers (-want +got):\n%s", answer, diff)
			}
		}
		if s.Billed().Calls != 3 || s.Billed().Tokens.Output != 3*23 {
			t.Errorf("%s: billed %+v", family, s.Billed())
		}
	}
}

func tokenHeaders(header http.Header) map[string]string {
	found := make(map[string]string)
	for name := range header {
		if short, ok := strings.CutPrefix(name, "X-Amzn-Bedrock-"); ok {
			if kind, ok := strings.CutSuffix(short, "-Token-Count"); ok {
				found[kind] = header.Get(name)
			}
		}
	}
	return found
}

func TestBody(t *testing.T) {
	t.Parallel()
	_, c := fixture(t, bedrocktest.Answer{Body: `{"mine":1}`})
	if out, err := c.InvokeModel(t.Context(), invokeInput()); err != nil || string(out.Body) != `{"mine":1}` {
		t.Errorf("got %+v, %v", out, err)
	}
}

// TestFamilyStreams looks at every number in every chunk: the metrics are in the
// last, and the family's own count has the truth at its end.
func TestFamilyStreams(t *testing.T) {
	t.Parallel()
	metrics := map[string]int64{
		"/amazon-bedrock-invocationMetrics/inputTokenCount": 101, "/amazon-bedrock-invocationMetrics/outputTokenCount": 23,
		"/amazon-bedrock-invocationMetrics/cacheReadInputTokenCount": 1009, "/amazon-bedrock-invocationMetrics/cacheWriteInputTokenCount": 307,
	}
	for family, own := range map[string][]map[string]int64{ // the family's own counts with 2 frames of text
		"claude": {
			{
				"/message/usage/input_tokens": 101, "/message/usage/output_tokens": 1,
				"/message/usage/cache_read_input_tokens": 1009, "/message/usage/cache_creation_input_tokens": 307,
				"/message/usage/cache_creation/ephemeral_5m_input_tokens": 266, "/message/usage/cache_creation/ephemeral_1h_input_tokens": 41,
			},
			{"/usage/output_tokens": 11},
			{"/usage/output_tokens": 23},
		},
		"nova": {{
			"/metadata/usage/inputTokens": 101, "/metadata/usage/outputTokens": 23, "/metadata/usage/totalTokens": 1440,
			"/metadata/usage/cacheReadInputTokenCount": 1009, "/metadata/usage/cacheWriteInputTokenCount": 307,
		}},
		"llama":     {{"/prompt_token_count": 101, "/generation_token_count": 11}, {"/generation_token_count": 23}, {"/generation_token_count": 23}},
		"titan":     {{"/inputTextTokenCount": 101, "/totalOutputTextTokenCount": 23}},
		"mistral":   {counts()["mistral"]},
		"mistral7b": nil,
		"cohere":    {{"/response/meta/billed_units/input_tokens": 101, "/response/meta/billed_units/output_tokens": 23}},
		"openai":    {counts()["openai"]},
	} {
		s, c := fixture(t)
		for _, answer := range []bedrocktest.Answer{
			{Family: family, Usage: full, Frames: 2},
			{Family: family, Usage: full, Frames: 2, NoHeaders: true},
			{Family: family, Usage: full, Frames: 2, NoUsage: true},
		} {
			s.Script(answer)
			chunks, err := readChunks(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(bedrocktest.Events(bedrocktest.InvokeModelWithResponseStream, answer)); n != len(chunks) {
				t.Errorf("%+v: %d chunks, and Events has %d", answer, len(chunks), n)
			}
			added, told := metricsAndCounts(t, chunks)
			wantAdded, wantTold := metrics, own
			if answer.NoHeaders || answer.NoUsage {
				wantAdded = map[string]int64{}
			}
			if answer.NoUsage {
				wantTold = nil
			}
			if diff := cmp.Diff(wantAdded, added); diff != "" {
				t.Errorf("%+v: metrics (-want +got):\n%s", answer, diff)
			}
			if diff := cmp.Diff(wantTold, told); diff != "" {
				t.Errorf("%+v: counts (-want +got):\n%s", answer, diff)
			}
		}
		want := bedrocktest.Usage{Input: 303, Output: 69, CacheRead: 3027, CacheWrite: 921, CacheWrite1h: 123}
		billed(t, s, 3, want)
	}
}

// metricsAndCounts is what Bedrock has added to the last chunk, and what the
// family's own chunks count, each that does.
func metricsAndCounts(t *testing.T, chunks []string) (added map[string]int64, told []map[string]int64) {
	t.Helper()
	added = map[string]int64{}
	for i, chunk := range chunks {
		own := numbers(t, chunk)
		for name, n := range own {
			if strings.HasPrefix(name, "/amazon-bedrock-invocationMetrics/") {
				added[name] = n
				delete(own, name)
				if i != len(chunks)-1 {
					t.Errorf("metrics in chunk %d of %d", i, len(chunks))
				}
			}
		}
		if len(own) > 0 {
			told = append(told, own)
		}
	}
	return added, told
}

func TestNoStreamOfSomeFamilies(t *testing.T) {
	t.Parallel()
	for _, family := range []string{"cohere-embed", "image"} {
		s, c := fixture(t, bedrocktest.Answer{Family: family})
		_, err := readChunks(t.Context(), c)
		refused(t, err, "ValidationException")
		billed(t, s, 0, bedrocktest.Usage{})
		if _, err := c.InvokeModel(t.Context(), invokeInput()); err != nil {
			t.Error(err)
		}
		billed(t, s, 1, bedrocktest.Usage{Input: 11})
	}
}
