package bedrock

import (
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
)

// conversation is what Converse and ConverseStream have in common that the model reads, or that limits what it writes.
type conversation struct {
	messages  []types.Message
	system    []types.SystemContentBlock
	tools     *types.ToolConfiguration
	inference *types.InferenceConfiguration
	output    *types.OutputConfig
	variables map[string]types.PromptVariableValues
	fields    document.Interface // of the model's own
}

// estimate counts the parts of the request. Of a prompt that lies with Bedrock only the variables are known; what a guardrail costs
// besides is not among it.
func (c conversation) estimate() Estimate {
	var z size
	for _, m := range c.messages {
		z.tokens += messageTokens
		for _, b := range m.Content {
			z.block(b)
		}
	}
	for _, b := range c.system {
		z.system(b)
	}
	if c.tools != nil && len(c.tools.Tools) > 0 {
		z.tokens += toolsTokens
		for _, t := range c.tools.Tools {
			z.tool(t)
		}
	}
	for _, v := range c.variables {
		if text, ok := v.(*types.PromptVariableValuesMemberText); ok {
			z.text(&text.Value)
		}
	}
	if c.output != nil && c.output.TextFormat != nil {
		if schema, ok := c.output.TextFormat.Structure.(*types.OutputFormatStructureMemberJsonSchema); ok {
			z.text(schema.Value.Name, schema.Value.Description, schema.Value.Schema)
		}
	}
	fields := marshal(c.fields)
	z.body(fields)
	e := asked(fields)
	e.InputTokens = z.total()
	if c.inference != nil {
		e.MaxTokens = max(e.MaxTokens, int64(aws.ToInt32(c.inference.MaxTokens)))
	}
	return e
}

func (z *size) system(b types.SystemContentBlock) {
	switch b := b.(type) {
	case *types.SystemContentBlockMemberText:
		z.text(&b.Value)
	case *types.SystemContentBlockMemberGuardContent:
		z.guarded(b.Value)
	case *types.SystemContentBlockMemberCachePoint, nil:
	default:
		z.tokens += unknownTokens
	}
}

func (z *size) tool(t types.Tool) {
	switch t := t.(type) {
	case *types.ToolMemberToolSpec:
		z.tokens += messageTokens
		z.text(t.Value.Name, t.Value.Description)
		if schema, ok := t.Value.InputSchema.(*types.ToolInputSchemaMemberJson); ok {
			z.body(marshal(schema.Value))
		}
	case *types.ToolMemberSystemTool:
		z.tokens += toolsTokens // the model's maker describes it
	case *types.ToolMemberCachePoint, nil:
	default:
		z.tokens += unknownTokens
	}
}

// block adds one block of a message. Each kind of the SDK's has its case, as an unknown one is taken for an image.
func (z *size) block(b types.ContentBlock) {
	switch b := b.(type) {
	case *types.ContentBlockMemberText:
		z.text(&b.Value)
	case *types.ContentBlockMemberImage:
		z.tokens += imageTokens
	case *types.ContentBlockMemberDocument:
		z.document(b.Value)
	case *types.ContentBlockMemberVideo:
		z.video(b.Value)
	case *types.ContentBlockMemberAudio:
		z.audio(b.Value)
	case *types.ContentBlockMemberToolUse:
		z.tokens += messageTokens
		z.text(b.Value.Name, b.Value.ToolUseId)
		z.body(marshal(b.Value.Input))
	case *types.ContentBlockMemberToolResult:
		z.tokens += messageTokens
		z.text(b.Value.ToolUseId)
		for _, c := range b.Value.Content {
			z.result(c)
		}
	case *types.ContentBlockMemberGuardContent:
		z.guarded(b.Value)
	case *types.ContentBlockMemberReasoningContent:
		z.reasoning(b.Value)
	case *types.ContentBlockMemberCitationsContent:
		for _, c := range b.Value.Content {
			if text, ok := c.(*types.CitationGeneratedContentMemberText); ok {
				z.text(&text.Value)
			}
		}
		for _, c := range b.Value.Citations {
			z.citation(c)
		}
	case *types.ContentBlockMemberSearchResult:
		z.search(b.Value)
	case *types.ContentBlockMemberToolAddition:
		z.reference(b.Value.Tool)
	case *types.ContentBlockMemberToolRemoval:
		z.reference(b.Value.Tool)
	case *types.ContentBlockMemberCachePoint, nil:
	default:
		z.tokens += unknownTokens
	}
}

func (z *size) result(c types.ToolResultContentBlock) {
	switch c := c.(type) {
	case *types.ToolResultContentBlockMemberText:
		z.text(&c.Value)
	case *types.ToolResultContentBlockMemberJson:
		z.body(marshal(c.Value))
	case *types.ToolResultContentBlockMemberImage:
		z.tokens += imageTokens
	case *types.ToolResultContentBlockMemberDocument:
		z.document(c.Value)
	case *types.ToolResultContentBlockMemberVideo:
		z.video(c.Value)
	case *types.ToolResultContentBlockMemberSearchResult:
		z.search(c.Value)
	case nil:
	default:
		z.tokens += unknownTokens
	}
}

func (z *size) guarded(b types.GuardrailConverseContentBlock) {
	switch b := b.(type) {
	case *types.GuardrailConverseContentBlockMemberText:
		z.text(b.Value.Text)
	case *types.GuardrailConverseContentBlockMemberImage:
		z.tokens += imageTokens
	case nil:
	default:
		z.tokens += unknownTokens
	}
}

func (z *size) reasoning(b types.ReasoningContentBlock) {
	switch b := b.(type) {
	case *types.ReasoningContentBlockMemberReasoningText:
		z.text(b.Value.Text, b.Value.Signature)
	case *types.ReasoningContentBlockMemberRedactedContent:
		z.bytes += int64(len(b.Value))
	case nil:
	default:
		z.tokens += unknownTokens
	}
}

func (z *size) citation(c types.Citation) {
	z.text(c.Title, c.Source)
	for _, content := range c.SourceContent {
		if text, ok := content.(*types.CitationSourceContentMemberText); ok {
			z.text(&text.Value)
		}
	}
}

func (z *size) search(b types.SearchResultBlock) {
	z.text(b.Source, b.Title)
	for _, c := range b.Content {
		z.text(c.Text)
	}
}

func (z *size) reference(r *types.ToolReference) {
	if r != nil {
		z.text(r.Name, r.ServerName, r.Type)
	}
}

func (z *size) document(d types.DocumentBlock) {
	z.text(d.Name, d.Context)
	switch s := d.Source.(type) {
	case *types.DocumentSourceMemberBytes:
		n := int64(len(s.Value))
		if slices.Contains([]types.DocumentFormat{types.DocumentFormatTxt, types.DocumentFormatMd, types.DocumentFormatCsv, types.DocumentFormatHtml}, d.Format) {
			z.bytes += n
		} else {
			z.packed(n, documentBytesPerToken, documentTokensMin, 0)
		}
	case *types.DocumentSourceMemberText:
		z.text(&s.Value)
	case *types.DocumentSourceMemberContent:
		for _, c := range s.Value {
			if text, ok := c.(*types.DocumentContentBlockMemberText); ok {
				z.text(&text.Value)
			}
		}
	case nil:
	default: // in S3
		z.tokens += documentTokensRemote
	}
}

func (z *size) video(v types.VideoBlock) {
	if s, ok := v.Source.(*types.VideoSourceMemberBytes); ok {
		z.packed(int64(len(s.Value)), videoBytesPerToken, 0, videoTokensMax)
		return
	}
	z.tokens += videoTokensMax
}

func (z *size) audio(a types.AudioBlock) {
	if s, ok := a.Source.(*types.AudioSourceMemberBytes); ok {
		z.packed(int64(len(s.Value)), audioBytesPerToken, 0, 0)
		return
	}
	z.tokens += audioTokensRemote
}
