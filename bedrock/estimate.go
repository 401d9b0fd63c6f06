package bedrock

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
)

// Estimate is what a request says of what its call will use, before it is sent. It is made from sizes alone and meant to be rather too
// high: what was held in excess is given back when the call is settled, what was not held may already have been passed by.
type Estimate struct {
	// InputTokens is guessed from the request's size: a token for every 3 bytes of text, and constants for what is not text. 0 of
	// operations without tokens, and of bidirectional streams, whose input is not there yet.
	InputTokens int64
	// MaxTokens is how many output tokens the request allows, all its answers together; 0 if it does not say.
	MaxTokens int64
	// TextUnits is what guardrails bill by: 1,000 characters, begun, for each block of text and policy.
	TextUnits int64
	// Images is how many images a guardrail is to look at, or a model to make.
	Images int64
}

// How input is guessed. Nobody but the model's own tokenizer knows; CountTokens asks it.
const (
	// inputBytesPerToken is low on purpose. English prose has a good 4 bytes a token, so it is taken for a third more than it is; code, JSON,
	// and languages of 2 or 3 bytes a character come to about 3. Less than that is rare: long numbers, emoji, scripts that a tokenizer
	// was not made for.
	inputBytesPerToken = 3
	// messageTokens is what marks the beginning and end of a message, and whose it is.
	messageTokens = 10
	// toolsTokens is what a model is told about tools in general once a request has any; Anthropic's documentation of tool use names up
	// to some 530 tokens.
	toolsTokens = 600
	// imageTokens is about what the largest image takes after it was scaled down: 4,784 of the newest Claude, whose patches of 28 pixels
	// Anthropic's documentation of vision describes; 2,600 of Nova, 1,600 of older Claude. The size in bytes says nothing about it.
	imageTokens = 4_800
	// documentBytesPerToken is of formats that are packed, such as PDF and DOCX: they take more bytes for a token than text does, with
	// fonts and layout, or are images of pages, at some 30 kB and 3,000 tokens a page and more.
	documentBytesPerToken = 8
	documentTokensMin     = 3_000  // one page of text and image
	documentTokensRemote  = 50_000 // of a document that lies in S3
	// videoTokensMax is Nova's most: 960 frames of 288 tokens, one for each second of 16 minutes, and no more of longer ones, as its
	// guide to video understanding says. videoBytesPerToken is such a second at 58 kB, a low bit rate.
	videoTokensMax     = 276_480
	videoBytesPerToken = 200
	// audioBytesPerToken is speech at 16 kbit/s and some 30 tokens a second; audioTokensRemote a quarter of an hour of it.
	audioBytesPerToken = 64
	audioTokensRemote  = 30_000
	// unknownTokens is of a block of a kind that this guard does not know.
	unknownTokens = imageTokens
)

const (
	// textUnitCharacters is how many characters guardrails take for one unit of text.
	textUnitCharacters = 1_000
	// guardrailPolicies is how many kinds of policies count units of text. A request names its guardrail, not what is in it: all.
	guardrailPolicies = 6
)

const (
	// tierDefault is the service tier of a request that names none.
	tierDefault = "default"
	// guardrailPrefix makes the id of a guardrail a name that cannot be a model's, in the form that ends its ARN.
	guardrailPrefix = "guardrail/"
	// guardrailChecks stands for InvokeGuardrailChecks, which has no guardrail.
	guardrailChecks = "guardrail-checks"
)

// estimateOf returns what the input of a paid operation says of itself: the model's id or ARN, or guardrail/ID of a guardrail that is
// not named by its ARN; its metadata, which is the request's own map and must not be changed; its service tier; and the estimate. An
// operation it does not know has no model, the default tier, and nothing in its estimate.
func estimateOf(params any) (model string, metadata map[string]string, tier string, e Estimate) {
	switch in := params.(type) {
	case *bedrockruntime.ConverseInput:
		if in != nil {
			e = conversation{in.Messages, in.System, in.ToolConfig, in.InferenceConfig, in.OutputConfig, in.PromptVariables, in.AdditionalModelRequestFields}.estimate()
			return aws.ToString(in.ModelId), in.RequestMetadata, tierOf(in.ServiceTier), e
		}
	case *bedrockruntime.ConverseStreamInput:
		if in != nil {
			e = conversation{in.Messages, in.System, in.ToolConfig, in.InferenceConfig, in.OutputConfig, in.PromptVariables, in.AdditionalModelRequestFields}.estimate()
			return aws.ToString(in.ModelId), in.RequestMetadata, tierOf(in.ServiceTier), e
		}
	case *bedrockruntime.InvokeModelInput:
		if in != nil {
			model = aws.ToString(in.ModelId)
			return model, metadataOf(in.RequestMetadata), tierNamed(in.ServiceTier), estimateOfBody(model, in.Body)
		}
	case *bedrockruntime.InvokeModelWithResponseStreamInput:
		if in != nil {
			model = aws.ToString(in.ModelId)
			return model, metadataOf(in.RequestMetadata), tierNamed(in.ServiceTier), estimateOfBody(model, in.Body)
		}
	case *bedrockruntime.InvokeModelWithBidirectionalStreamInput:
		if in != nil {
			model = aws.ToString(in.ModelId)
		}
	case *bedrockruntime.StartAsyncInvokeInput:
		if in != nil {
			model = aws.ToString(in.ModelId)
			e = estimateOfBody(model, marshal(in.ModelInput))
		}
	case *bedrockruntime.ApplyGuardrailInput:
		if in != nil {
			model, e = guardrailName(aws.ToString(in.GuardrailIdentifier)), estimateOfGuardrail(in.Content)
		}
	case *bedrockruntime.InvokeGuardrailChecksInput:
		if in != nil {
			model, e = guardrailChecks, estimateOfChecks(in)
		}
	}
	return model, nil, tierDefault, e
}

func tierOf(t *types.ServiceTier) string {
	if t == nil {
		return tierDefault
	}
	return tierNamed(t.Type)
}

func tierNamed(t types.ServiceTierType) string {
	if t == "" {
		return tierDefault
	}
	return string(t)
}

// metadataOf reads the metadata of InvokeModel, which is JSON in a header. What is not an object of strings is left to AWS to refuse.
func metadataOf(text *string) map[string]string {
	var m map[string]string
	if text == nil || json.Unmarshal([]byte(*text), &m) != nil {
		return nil
	}
	return m
}

func guardrailName(id string) string {
	if id == "" || strings.HasPrefix(id, "arn:") {
		return id
	}
	return guardrailPrefix + id
}

// estimateOfBody estimates the request of a model's own form. Text that is quoted in JSON is counted with its quotes, names and escapes,
// images and the like by their kind.
func estimateOfBody(model string, body []byte) Estimate {
	var z size
	z.body(body)
	if bytes.Contains(body, []byte(`"tools"`)) {
		z.tokens += toolsTokens
	}
	e := asked(body)
	e.InputTokens = z.total()
	if e.Images == 0 && makesImages(model) {
		e.Images = 1
	}
	return e
}

// asked returns what a request in a model's own form wants at most. Several answers to one prompt (n, num_generations) may each be as
// long as the limit. A limit that is no count is as none: AWS will refuse it.
func asked(body []byte) Estimate {
	var s countScan
	if !s.read(body, inRequest) {
		return Estimate{}
	}
	most, answers := s.n[askTokens], max(s.n[askAnswers], 1)
	if most > countMax/answers {
		most = countMax
	} else {
		most *= answers
	}
	e := Estimate{MaxTokens: most, Images: s.n[askImages]}
	if s.visited[inImageGeneration] {
		e.Images = max(e.Images, 1)
	}
	return e
}

// makesImages tells whether a model is one of those whose requests may leave out how many images they want: one.
func makesImages(model string) bool {
	for _, name := range []string{"stability.", "nova-canvas", "titan-image"} {
		if strings.Contains(model, name) {
			return true
		}
	}
	return false
}

func estimateOfGuardrail(content []types.GuardrailContentBlock) Estimate {
	var e Estimate
	for _, b := range content {
		switch b := b.(type) {
		case *types.GuardrailContentBlockMemberText:
			e.TextUnits += guardrailPolicies * textUnits(aws.ToString(b.Value.Text))
		case *types.GuardrailContentBlockMemberImage:
			e.Images++
		}
	}
	return e
}

func estimateOfChecks(in *bedrockruntime.InvokeGuardrailChecksInput) Estimate {
	var units, checks int64
	for _, m := range in.Messages {
		for _, b := range m.Content {
			if text, ok := b.(*types.GuardrailChecksContentBlockMemberText); ok {
				units += textUnits(text.Value)
			}
		}
	}
	if c := in.Checks; c != nil {
		for _, asked := range []bool{c.ContentFilter != nil, c.PromptAttack != nil, c.SensitiveInformation != nil} {
			if asked {
				checks++
			}
		}
	}
	return Estimate{TextUnits: units * checks}
}

func textUnits(text string) int64 {
	return int64((utf8.RuneCountInString(text) + textUnitCharacters - 1) / textUnitCharacters)
}

// marshal returns a document as it will be sent; nothing of one that cannot be, as then the SDK will not send it.
func marshal(d document.Interface) []byte {
	if d == nil {
		return nil
	}
	src, err := d.MarshalSmithyDocument()
	if err != nil {
		return nil
	}
	return src
}

// size adds up a request.
type size struct {
	bytes  int64 // of text
	tokens int64 // of all else
}

func (z *size) total() int64 {
	return min(z.tokens+(z.bytes+inputBytesPerToken-1)/inputBytesPerToken, countMax)
}

func (z *size) text(texts ...*string) {
	for _, t := range texts {
		if t != nil {
			z.bytes += int64(len(*t))
		}
	}
}

// packed adds something at so many bytes a token, between bounds; most 0 is none.
func (z *size) packed(length, perToken, least, most int64) {
	n := max(length/perToken, least)
	if most > 0 {
		n = min(n, most)
	}
	z.tokens += n
}

// mediaBytesMin is how long a string has to be to be looked at for what it is; an image in fewer is not worth the trouble.
const mediaBytesMin = 512

// body adds JSON, whose long strings may be images, documents, video or audio in base64.
func (z *size) body(src []byte) {
	z.bytes += int64(len(src))
	s := jsonScan{src: src}
	for {
		i := bytes.IndexByte(src[s.at:], '"')
		if i < 0 {
			return
		}
		s.at += i
		text, ok := s.text()
		if !ok {
			return
		}
		if len(text) >= mediaBytesMin && z.media(text) {
			z.bytes -= int64(len(text))
		}
	}
}

// media adds a string that is media in base64, bare or as a data: URL, and tells whether it is.
func (z *size) media(text []byte) bool {
	if bytes.HasPrefix(text, []byte("data:")) {
		_, data, ok := bytes.Cut(text[:min(len(text), 256)], []byte(";base64,"))
		if !ok {
			return false
		}
		text = text[min(len(text), 256)-len(data):]
	}
	var head [48]byte
	if len(text) < 64 {
		return false
	}
	n, err := base64.StdEncoding.Decode(head[:], text[:64])
	if err != nil {
		return false
	}
	raw := int64(base64.StdEncoding.DecodedLen(len(text)))
	kind := http.DetectContentType(head[:n])
	switch {
	case strings.HasPrefix(kind, "image/"):
		z.tokens += imageTokens
	case strings.HasPrefix(kind, "video/"):
		z.packed(raw, videoBytesPerToken, 0, videoTokensMax)
	case strings.HasPrefix(kind, "audio/"), kind == "application/ogg":
		z.packed(raw, audioBytesPerToken, 0, 0)
	case kind == "application/pdf", kind == "application/zip":
		z.packed(raw, documentBytesPerToken, documentTokensMin, 0)
	default:
		return false
	}
	return true
}
