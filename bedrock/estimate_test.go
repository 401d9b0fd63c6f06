package bedrock

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/google/go-cmp/cmp"
)

func lazy(v any) document.Interface { return document.NewLazyDocument(v) }

// blockCases has each kind of content block of the SDK, with what it adds: bytes of text and tokens of all else.
var blockCases = []struct {
	block types.ContentBlock
	want  size
}{
	{&types.ContentBlockMemberText{Value: "0123456789"}, size{bytes: 10}},
	{&types.ContentBlockMemberImage{Value: types.ImageBlock{Source: &types.ImageSourceMemberBytes{Value: make([]byte, 10)}}}, size{tokens: imageTokens}},
	{&types.ContentBlockMemberDocument{Value: types.DocumentBlock{Name: aws.String("abc"), Context: aws.String("de"), Format: types.DocumentFormatTxt, Source: &types.DocumentSourceMemberBytes{Value: make([]byte, 90)}}}, size{bytes: 95}},
	{&types.ContentBlockMemberDocument{Value: types.DocumentBlock{Format: types.DocumentFormatPdf, Source: &types.DocumentSourceMemberBytes{Value: make([]byte, 80_000)}}}, size{tokens: 10_000}},
	{&types.ContentBlockMemberDocument{Value: types.DocumentBlock{Format: types.DocumentFormatDocx, Source: &types.DocumentSourceMemberBytes{Value: make([]byte, 10)}}}, size{tokens: documentTokensMin}},
	{&types.ContentBlockMemberDocument{Value: types.DocumentBlock{Format: types.DocumentFormatPdf, Source: &types.DocumentSourceMemberS3Location{}}}, size{tokens: documentTokensRemote}},
	{&types.ContentBlockMemberDocument{Value: types.DocumentBlock{Source: &types.DocumentSourceMemberText{Value: "0123"}}}, size{bytes: 4}},
	{&types.ContentBlockMemberDocument{Value: types.DocumentBlock{Source: &types.DocumentSourceMemberContent{Value: []types.DocumentContentBlock{&types.DocumentContentBlockMemberText{Value: "01"}, &types.DocumentContentBlockMemberText{Value: "2"}}}}}, size{bytes: 3}},
	{&types.ContentBlockMemberDocument{}, size{}},
	{&types.ContentBlockMemberVideo{Value: types.VideoBlock{Source: &types.VideoSourceMemberBytes{Value: make([]byte, 2_000)}}}, size{tokens: 10}},
	{&types.ContentBlockMemberVideo{Value: types.VideoBlock{Source: &types.VideoSourceMemberS3Location{}}}, size{tokens: videoTokensMax}},
	{&types.ContentBlockMemberAudio{Value: types.AudioBlock{Source: &types.AudioSourceMemberBytes{Value: make([]byte, 6_400)}}}, size{tokens: 100}},
	{&types.ContentBlockMemberAudio{Value: types.AudioBlock{Source: &types.AudioSourceMemberS3Location{}}}, size{tokens: audioTokensRemote}},
	{&types.ContentBlockMemberToolUse{Value: types.ToolUseBlock{Name: aws.String("abc"), ToolUseId: aws.String("de"), Input: lazy(map[string]any{"a": 1})}}, size{bytes: 12, tokens: messageTokens}},
	{&types.ContentBlockMemberToolResult{Value: types.ToolResultBlock{ToolUseId: aws.String("de"), Content: []types.ToolResultContentBlock{&types.ToolResultContentBlockMemberText{Value: "0123"}}}}, size{bytes: 6, tokens: messageTokens}},
	{&types.ContentBlockMemberGuardContent{Value: &types.GuardrailConverseContentBlockMemberText{Value: types.GuardrailConverseTextBlock{Text: aws.String("012")}}}, size{bytes: 3}},
	{&types.ContentBlockMemberGuardContent{Value: &types.GuardrailConverseContentBlockMemberImage{}}, size{tokens: imageTokens}},
	{&types.ContentBlockMemberReasoningContent{Value: &types.ReasoningContentBlockMemberReasoningText{Value: types.ReasoningTextBlock{Text: aws.String("012"), Signature: aws.String("45")}}}, size{bytes: 5}},
	{&types.ContentBlockMemberReasoningContent{Value: &types.ReasoningContentBlockMemberRedactedContent{Value: make([]byte, 7)}}, size{bytes: 7}},
	{&types.ContentBlockMemberCitationsContent{Value: types.CitationsContentBlock{Content: []types.CitationGeneratedContent{&types.CitationGeneratedContentMemberText{Value: "01"}}, Citations: []types.Citation{{Title: aws.String("t"), Source: aws.String("s"), SourceContent: []types.CitationSourceContent{&types.CitationSourceContentMemberText{Value: "456"}}}}}}, size{bytes: 7}},
	{&types.ContentBlockMemberSearchResult{Value: types.SearchResultBlock{Source: aws.String("s"), Title: aws.String("ti"), Content: []types.SearchResultContentBlock{{Text: aws.String("0123")}}}}, size{bytes: 7}},
	{&types.ContentBlockMemberToolAddition{Value: types.ToolAdditionBlock{Tool: &types.ToolReference{Name: aws.String("ab"), ServerName: aws.String("c"), Type: aws.String("d")}}}, size{bytes: 4}},
	{&types.ContentBlockMemberToolRemoval{Value: types.ToolRemovalBlock{Tool: &types.ToolReference{Name: aws.String("ab")}}}, size{bytes: 2}},
	{&types.ContentBlockMemberToolRemoval{}, size{}},
	{&types.ContentBlockMemberCachePoint{}, size{}},
	{&types.UnknownUnionMember{Tag: "new"}, size{tokens: unknownTokens}},
	{nil, size{}},
}

var resultCases = []struct {
	block types.ToolResultContentBlock
	want  size
}{
	{&types.ToolResultContentBlockMemberText{Value: "0123"}, size{bytes: 4}},
	{&types.ToolResultContentBlockMemberJson{Value: lazy(map[string]any{"a": "b"})}, size{bytes: 9}},
	{&types.ToolResultContentBlockMemberImage{}, size{tokens: imageTokens}},
	{&types.ToolResultContentBlockMemberDocument{Value: types.DocumentBlock{Source: &types.DocumentSourceMemberText{Value: "0123"}}}, size{bytes: 4}},
	{&types.ToolResultContentBlockMemberVideo{}, size{tokens: videoTokensMax}},
	{&types.ToolResultContentBlockMemberSearchResult{Value: types.SearchResultBlock{Title: aws.String("ti")}}, size{bytes: 2}},
	{&types.UnknownUnionMember{Tag: "new"}, size{tokens: unknownTokens}},
	{nil, size{}},
}

var systemCases = []struct {
	block types.SystemContentBlock
	want  size
}{
	{&types.SystemContentBlockMemberText{Value: "0123"}, size{bytes: 4}},
	{&types.SystemContentBlockMemberGuardContent{Value: &types.GuardrailConverseContentBlockMemberText{Value: types.GuardrailConverseTextBlock{Text: aws.String("012")}}}, size{bytes: 3}},
	{&types.SystemContentBlockMemberCachePoint{}, size{}},
	{&types.UnknownUnionMember{Tag: "new"}, size{tokens: unknownTokens}},
	{nil, size{}},
}

var toolCases = []struct {
	tool types.Tool
	want size
}{
	{&types.ToolMemberToolSpec{Value: types.ToolSpecification{Name: aws.String("ab"), Description: aws.String("cde"), InputSchema: &types.ToolInputSchemaMemberJson{Value: lazy(map[string]any{"type": "object"})}}}, size{bytes: 22, tokens: messageTokens}},
	{&types.ToolMemberSystemTool{Value: types.SystemTool{Name: aws.String("web")}}, size{tokens: toolsTokens}},
	{&types.ToolMemberCachePoint{}, size{}},
	{&types.UnknownUnionMember{Tag: "new"}, size{tokens: unknownTokens}},
	{nil, size{}},
}

// TestBlocks also fails when an SDK has a kind that there is no case for.
func TestBlocks(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	check := func(value any, want size, add func(*size)) {
		t.Helper()
		var got size
		add(&got)
		if got != want {
			t.Errorf("%T: got %+v, want %+v", value, got, want)
		}
		if value != nil {
			seen[reflect.TypeOf(value).Elem().Name()] = true
		}
	}
	for _, c := range blockCases {
		check(c.block, c.want, func(z *size) { z.block(c.block) })
	}
	for _, c := range resultCases {
		check(c.block, c.want, func(z *size) { z.result(c.block) })
	}
	for _, c := range systemCases {
		check(c.block, c.want, func(z *size) { z.system(c.block) })
	}
	for _, c := range toolCases {
		check(c.tool, c.want, func(z *size) { z.tool(c.tool) })
	}
	src := sdkFiles(t, "github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types", "types.go")
	kinds := named(src, `func \(\*(\w+)\) is(?:ContentBlock|ToolResultContentBlock|SystemContentBlock|Tool)\(\)`)
	if len(kinds) < 20 {
		t.Errorf("the SDK has %d kinds of blocks; were they found?", len(kinds))
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("%s has no case in this test: what does it cost?", kind)
		}
	}
}

// fakeMedia is a file of a kind as far as anyone looks, in base64.
func fakeMedia(kind string, length int) string {
	head := map[string]string{
		"png": "\x89PNG\r\n\x1a\n", "jpeg": "\xff\xd8\xff\xe0", "pdf": "%PDF-1.7\n", "docx": "PK\x03\x04",
		"mp4": "\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "mp3": "ID3\x04", "ogg": "OggS\x00",
	}[kind]
	return base64.StdEncoding.EncodeToString([]byte(head + strings.Repeat("\x00", length-len(head))))
}

func TestEstimateOfBody(t *testing.T) {
	t.Parallel()
	text := func(n int) int64 { return int64((n + inputBytesPerToken - 1) / inputBytesPerToken) }
	for _, c := range []struct {
		name, model, body string
		want              Estimate // InputTokens 0: a third of the bytes, rounded up
	}{
		{"claude", "", `{"anthropic_version":"bedrock-2023-05-31","max_tokens":1024,"messages":[]}`, Estimate{MaxTokens: 1024}},
		{"claude, completion", "", `{"prompt":"x","max_tokens_to_sample":300}`, Estimate{MaxTokens: 300}},
		{"llama", "", `{"prompt":"x","max_gen_len":512}`, Estimate{MaxTokens: 512}},
		{"openai-like", "", `{"messages":[],"max_completion_tokens":70}`, Estimate{MaxTokens: 70}},
		{"responses", "", `{"input":"x","max_output_tokens":70}`, Estimate{MaxTokens: 70}},
		{"titan", "", `{"inputText":"x","textGenerationConfig":{"maxTokenCount":33,"topP":1}}`, Estimate{MaxTokens: 33}},
		{"nova", "", `{"messages":[],"inferenceConfig":{"maxTokens":44}}`, Estimate{MaxTokens: 44}},
		{"nova, old", "", `{"messages":[],"inferenceConfig":{"max_new_tokens":45}}`, Estimate{MaxTokens: 45}},
		{"jurassic", "", `{"prompt":"x","maxTokens":46,"numResults":2}`, Estimate{MaxTokens: 92}},
		{"mistral", "", `{"prompt":"x","max_tokens":47}`, Estimate{MaxTokens: 47}},
		{"cohere, several", "", `{"prompt":"x","max_tokens":50,"num_generations":5}`, Estimate{MaxTokens: 250}},
		{"openai-like, several", "", `{"n":3,"max_tokens":50}`, Estimate{MaxTokens: 150}},
		{"two limits", "", `{"max_tokens":10,"max_completion_tokens":20}`, Estimate{MaxTokens: 20}},
		{"no limit", "", `{"messages":[{"role":"user","content":"max_tokens"}]}`, Estimate{}},
		{"a limit elsewhere", "", `{"x":{"max_tokens":10}}`, Estimate{}},
		{"zero", "", `{"max_tokens":0}`, Estimate{}},
		{"negative", "", `{"max_tokens":-5}`, Estimate{}},
		{"fraction", "", `{"max_tokens":5.5,"n":2}`, Estimate{}},
		{"string", "", `{"max_tokens":"5"}`, Estimate{}},
		{"overflow", "", `{"max_tokens":99999999999999999999}`, Estimate{}},
		{"bounded", "", `{"max_tokens":1000000000000,"n":1000000000000}`, Estimate{MaxTokens: countMax}},
		{"n is 0", "", `{"max_tokens":5,"n":0}`, Estimate{MaxTokens: 5}},
		{"tools", "", `{"tools":[]}`, Estimate{InputTokens: toolsTokens + 4}},
		{"image model", "amazon.nova-canvas-v1:0", `{"taskType":"TEXT_IMAGE","imageGenerationConfig":{"numberOfImages":3}}`, Estimate{Images: 3}},
		{"image model, one", "", `{"imageGenerationConfig":{"width":1024}}`, Estimate{Images: 1}},
		{"stability", "stability.stable-image-core-v1:1", `{"prompt":"x"}`, Estimate{Images: 1}},
		{"stability, several", "stability.stable-diffusion-xl-v1", `{"samples":4}`, Estimate{Images: 4}},
		{"not JSON", "", `hello`, Estimate{}},
		{"an open string", "", `{"x":"`, Estimate{}},
		{"png", "", `{"image":"` + fakeMedia("png", 100_000) + `"}`, Estimate{InputTokens: imageTokens + 4}},
		{"data URL", "", `{"url":"data:image/jpeg;base64,` + fakeMedia("jpeg", 100_000) + `"}`, Estimate{InputTokens: imageTokens + 4}},
		{"pdf", "", `{"data":"` + fakeMedia("pdf", 80_001) + `"}`, Estimate{InputTokens: 10_000 + 4}},
		{"docx", "", `{"data":"` + fakeMedia("docx", 3_000) + `"}`, Estimate{InputTokens: documentTokensMin + 4}},
		{"mp4", "", `{"data":"` + fakeMedia("mp4", 200_001) + `"}`, Estimate{InputTokens: 1_000 + 4}},
		{"mp3", "", `{"data":"` + fakeMedia("mp3", 64_002) + `"}`, Estimate{InputTokens: 1_000 + 4}},
		{"ogg", "", `{"data":"` + fakeMedia("ogg", 64_002) + `"}`, Estimate{InputTokens: 1_000 + 4}},
		{"letters that are no image", "", `{"text":"` + strings.Repeat("abcd", 1000) + `"}`, Estimate{}},
		{"a long text", "", `{"text":"` + strings.Repeat("a b ", 1000) + `"}`, Estimate{}},
		{"a data URL that is none", "", `{"text":"data:` + strings.Repeat("abc", 1000) + `"}`, Estimate{}},
		{"a data URL of nothing", "", `{"text":"` + strings.Repeat("x", 500) + `data:;base64,"}`, Estimate{}},
		{"empty", "", ``, Estimate{}},
	} {
		if c.want.InputTokens == 0 {
			c.want.InputTokens = text(len(c.body))
		}
		if diff := cmp.Diff(c.want, estimateOfBody(c.model, []byte(c.body))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// operationCases has an input for each operation that is paid, and what is to be seen in it.
var operationCases = map[string]struct {
	input    any
	model    string
	metadata map[string]string
	tier     string
	want     Estimate
}{
	"Converse": {
		&bedrockruntime.ConverseInput{
			ModelId: aws.String("m"), RequestMetadata: map[string]string{"user": "ann"}, ServiceTier: &types.ServiceTier{Type: types.ServiceTierTypeFlex},
			InferenceConfig: &types.InferenceConfiguration{MaxTokens: aws.Int32(50)},
			Messages:        []types.Message{{Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: "0123456"}}}, {}},
			System:          []types.SystemContentBlock{&types.SystemContentBlockMemberText{Value: "89"}},
			ToolConfig:      &types.ToolConfiguration{Tools: []types.Tool{&types.ToolMemberCachePoint{}}},
			PromptVariables: map[string]types.PromptVariableValues{"v": &types.PromptVariableValuesMemberText{Value: "123"}},
			OutputConfig: &types.OutputConfig{TextFormat: &types.OutputFormat{Structure: &types.OutputFormatStructureMemberJsonSchema{
				Value: types.JsonSchemaDefinition{Name: aws.String("a"), Description: aws.String("b"), Schema: aws.String("{}")},
			}}},
		},
		"m",
		map[string]string{"user": "ann"},
		"flex",
		Estimate{InputTokens: 2*messageTokens + toolsTokens + 6, MaxTokens: 50},
	},
	"ConverseStream": {
		&bedrockruntime.ConverseStreamInput{
			ModelId: aws.String("arn:aws:bedrock:us-east-1:1:prompt/P:1"), RequestMetadata: map[string]string{"user": "ann"},
			AdditionalModelRequestFields: lazy(map[string]any{"max_tokens": 99}), // {"max_tokens":99}
			InferenceConfig:              &types.InferenceConfiguration{MaxTokens: aws.Int32(50)},
		},
		"arn:aws:bedrock:us-east-1:1:prompt/P:1",
		map[string]string{"user": "ann"},
		"default",
		Estimate{InputTokens: 6, MaxTokens: 99},
	},
	"InvokeModel": {
		&bedrockruntime.InvokeModelInput{ModelId: aws.String("m"), Body: []byte(`{"max_tokens":9}`), RequestMetadata: aws.String(`{"user":"ann"}`), ServiceTier: types.ServiceTierTypePriority},
		"m",
		map[string]string{"user": "ann"},
		"priority",
		Estimate{InputTokens: 6, MaxTokens: 9},
	},
	"InvokeModelWithResponseStream": {
		&bedrockruntime.InvokeModelWithResponseStreamInput{ModelId: aws.String("m"), Body: []byte(`{"max_tokens":9}`), RequestMetadata: aws.String(`{"user":7}`)},
		"m", nil, "default",
		Estimate{InputTokens: 6, MaxTokens: 9},
	},
	"InvokeModelWithBidirectionalStream": {
		&bedrockruntime.InvokeModelWithBidirectionalStreamInput{ModelId: aws.String("m")}, "m", nil, "default", Estimate{},
	},
	"StartAsyncInvoke": {
		&bedrockruntime.StartAsyncInvokeInput{ModelId: aws.String("m"), ModelInput: lazy(map[string]any{"prompt": "x"})}, // {"prompt":"x"}
		"m", nil, "default", Estimate{InputTokens: 5},
	},
	"ApplyGuardrail": {
		&bedrockruntime.ApplyGuardrailInput{GuardrailIdentifier: aws.String("g"), Content: []types.GuardrailContentBlock{
			&types.GuardrailContentBlockMemberText{Value: types.GuardrailTextBlock{Text: aws.String(strings.Repeat("é", 1000))}},
			&types.GuardrailContentBlockMemberText{Value: types.GuardrailTextBlock{Text: aws.String(strings.Repeat("e", 1001))}},
			&types.GuardrailContentBlockMemberText{},
			&types.GuardrailContentBlockMemberImage{},
		}},
		"guardrail/g", nil, "default",
		Estimate{TextUnits: 3 * guardrailPolicies, Images: 1},
	},
	"InvokeGuardrailChecks": {
		&bedrockruntime.InvokeGuardrailChecksInput{
			Checks:   &types.GuardrailChecksConfig{ContentFilter: &types.GuardrailChecksContentFilterConfig{}, SensitiveInformation: &types.GuardrailChecksSensitiveInformationConfig{}},
			Messages: []types.GuardrailChecksMessage{{Content: []types.GuardrailChecksContentBlock{&types.GuardrailChecksContentBlockMemberText{Value: "x"}}}, {Content: []types.GuardrailChecksContentBlock{&types.GuardrailChecksContentBlockMemberText{Value: "y"}}}},
		},
		"guardrail-checks", nil, "default",
		Estimate{TextUnits: 4},
	},
}

// TestEstimateOf also fails when an SDK has an operation that there is no case for.
func TestEstimateOf(t *testing.T) {
	t.Parallel()
	for name, c := range operationCases {
		model, metadata, tier, got := estimateOf(c.input)
		if model != c.model || tier != c.tier || !maps.Equal(metadata, c.metadata) {
			t.Errorf("%s: %q, %q, %v; want %q, %q, %v", name, model, tier, metadata, c.model, c.tier, c.metadata)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		// Without anything in it, and as a nil pointer.
		for _, empty := range []any{reflect.New(reflect.TypeOf(c.input).Elem()).Interface(), reflect.Zero(reflect.TypeOf(c.input)).Interface()} {
			if _, _, tier, e := estimateOf(empty); e != (Estimate{}) || tier != "default" {
				t.Errorf("%s: an empty input has tier %q and %+v", name, tier, e)
			}
		}
	}
	if model, _, _, _ := estimateOf(&bedrockruntime.ApplyGuardrailInput{GuardrailIdentifier: aws.String("arn:aws:bedrock:us-east-1:1:guardrail/g")}); model != "arn:aws:bedrock:us-east-1:1:guardrail/g" {
		t.Errorf("the ARN of a guardrail is %q", model)
	}
	if model, _, tier, e := estimateOf("anything"); model != "" || tier != "default" || e != (Estimate{}) {
		t.Errorf("an unknown input is %q, %q, %+v", model, tier, e)
	}
	src := sdkFiles(t, "github.com/aws/aws-sdk-go-v2/service/bedrockruntime", "api_op_*.go")
	all := named(src, `(?m)^func \(c \*Client\) (\w+)\(ctx context\.Context, params \*\w+Input`)
	if len(all) < 10 {
		t.Errorf("the SDK has %d operations; were they found?", len(all))
	}
	for name := range all {
		if _, there := operationCases[name]; !there && !slices.Contains([]string{"CountTokens", "GetAsyncInvoke", "ListAsyncInvokes"}, name) {
			t.Errorf("%s has no case in this test: what does it use?", name)
		}
	}
}

func BenchmarkEstimateOf(b *testing.B) {
	body := bytes.Repeat([]byte(" and so on"), 1000)
	long := []byte(fmt.Sprintf(`{"max_tokens":10,"image":%q,"text":%q}`, fakeMedia("png", 1<<20), body))
	for name, params := range map[string]any{
		"converse": operationCases["Converse"].input,
		"invoke":   &bedrockruntime.InvokeModelInput{ModelId: aws.String("m"), Body: long},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				estimateOf(params)
			}
		})
	}
}
