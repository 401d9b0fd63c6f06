package bedrock

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
)

// counted asks CountTokens for the input of a request; false without the option, for operations that it does not know, and where it
// fails: the estimate by size then stands.
func (g *guard) counted(ctx context.Context, params any) (int64, bool) {
	if g.counter == nil {
		return 0, false
	}
	in := &bedrockruntime.CountTokensInput{}
	converse := func(v types.ConverseTokensRequest) {
		in.Input = &types.CountTokensInputMemberConverse{Value: v}
	}
	switch p := params.(type) {
	case *bedrockruntime.ConverseInput:
		in.ModelId = p.ModelId
		converse(types.ConverseTokensRequest{
			Messages: p.Messages, System: p.System, ToolConfig: p.ToolConfig, AdditionalModelRequestFields: p.AdditionalModelRequestFields,
		})
	case *bedrockruntime.ConverseStreamInput:
		in.ModelId = p.ModelId
		converse(types.ConverseTokensRequest{
			Messages: p.Messages, System: p.System, ToolConfig: p.ToolConfig, AdditionalModelRequestFields: p.AdditionalModelRequestFields,
		})
	case *bedrockruntime.InvokeModelInput:
		in.ModelId = p.ModelId
		in.Input = &types.CountTokensInputMemberInvokeModel{Value: types.InvokeModelTokensRequest{Body: p.Body}}
	case *bedrockruntime.InvokeModelWithResponseStreamInput:
		in.ModelId = p.ModelId
		in.Input = &types.CountTokensInputMemberInvokeModel{Value: types.InvokeModelTokensRequest{Body: p.Body}}
	default:
		return 0, false
	}
	out, err := g.counter.CountTokens(ctx, in)
	if err != nil || out.InputTokens == nil || *out.InputTokens < 0 {
		return 0, false
	}
	return int64(*out.InputTokens), true
}
