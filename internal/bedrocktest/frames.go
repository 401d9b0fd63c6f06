package bedrocktest

import "fmt"

// A frame is one event of a stream.
type frame struct {
	event  string // its :event-type
	body   object
	tokens int64 // of the output, that are billed with it
}

// An Event is a frame of the streams that the server sends.
type Event struct {
	// Type is the frame's :event-type, such as "messageStart" or "chunk".
	Type string
	// Output is the tokens that are billed with it.
	Output int64
}

// Events lists the frames of a whole stream of the operation, for an Answer that
// lets it end: what CutAfter and Pace count. It is nil for what is no stream.
func Events(operation string, answer Answer) []Event {
	c := &call{op: Operation{Name: operation}, request: &Request{}, answer: answer.fill()}
	var list []Event
	for _, f := range c.frames() {
		list = append(list, Event{f.event, f.tokens})
	}
	return list
}

// frames is the whole stream.
func (c *call) frames() []frame {
	switch c.op.Name {
	case ConverseStream:
		return c.converseFrames()
	case InvokeModelWithResponseStream:
		return c.chunks()
	case InvokeModelWithBidirectionalStream:
		return c.sonicFrames()
	default:
		return nil
	}
}

// words is the 20 bytes of text in frame i.
func words(i int) string { return fmt.Sprintf("the words of #%05d ", i%100_000) }

// through is the output tokens of the first n frames of text: all of them are
// spread evenly.
func (c *call) through(n int) int64 {
	if c.answer.Frames == 0 {
		return 0
	}
	return c.answer.Usage.Output * int64(n) / int64(c.answer.Frames)
}

// share is the output tokens of text frame i.
func (c *call) share(i int) int64 { return c.through(i+1) - c.through(i) }

func (c *call) converseFrames() []frame {
	list := []frame{{event: "messageStart", body: object{"role": "assistant"}}}
	for i := range c.answer.Frames {
		list = append(list, frame{"contentBlockDelta", object{"contentBlockIndex": 0, "delta": object{"text": words(i)}}, c.share(i)})
	}
	list = append(list,
		frame{event: "contentBlockStop", body: object{"contentBlockIndex": 0}},
		frame{event: "messageStop", body: object{"stopReason": "end_turn"}})
	if !c.answer.NoUsage {
		list = append(list, frame{event: "metadata", body: c.about(object{})})
	}
	for i := range list {
		list[i].body["p"] = padding(i)
	}
	return list
}

// padding is what the service adds to hide how long a token is.
func padding(i int) string { return "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"[:1+i*7%36] }

// chunks is the stream of InvokeModelWithResponseStream: what the family says,
// each wrapped as bytes, and in the last one the service's metrics.
func (c *call) chunks() []frame {
	said := c.familyChunks()
	if !c.answer.NoUsage && !c.answer.NoHeaders {
		said[len(said)-1].body["amazon-bedrock-invocationMetrics"] = c.metrics()
	}
	for i := range said {
		said[i] = frame{"chunk", object{"bytes": encode(said[i].body), "p": padding(i)}, said[i].tokens}
	}
	return said
}

// familyChunks is the stream in the family's own words; the last chunk ends it.
func (c *call) familyChunks() []frame {
	if c.answer.Family == "claude" {
		return c.claudeChunks()
	}
	var list []frame
	if c.answer.Family == "nova" {
		list = append(list, frame{body: object{"messageStart": object{"role": "assistant"}}})
	}
	for i := range c.answer.Frames {
		list = append(list, frame{body: c.familyChunk(i), tokens: c.share(i)})
	}
	switch c.answer.Family {
	case "nova":
		list = append(list,
			frame{body: object{"contentBlockStop": object{"contentBlockIndex": 0}}},
			frame{body: object{"messageStop": object{"stopReason": "end_turn"}}},
			frame{body: object{"metadata": c.with("usage", object{"metrics": object{}})}})
	case "llama":
		last := object{"generation": "", "prompt_token_count": nil, "generation_token_count": nil, "stop_reason": "stop"}
		if !c.answer.NoUsage {
			last["generation_token_count"] = c.answer.Usage.Output
		}
		list = append(list, frame{body: last})
	case "titan":
		last := object{"outputText": "", "index": 0, "totalOutputTextTokenCount": nil, "completionReason": "FINISH", "inputTextTokenCount": nil}
		if !c.answer.NoUsage {
			last["totalOutputTextTokenCount"], last["inputTextTokenCount"] = c.answer.Usage.Output, c.answer.Usage.Input
		}
		list = append(list, frame{body: last})
	case "mistral7b":
		list = append(list, frame{body: object{"outputs": []object{{"text": "", "stop_reason": "stop"}}}})
	case "cohere":
		list = append(list, frame{body: object{"event_type": "stream-end", "is_finished": true, "finish_reason": "COMPLETE", "response": c.familyBody()}})
	default:
		list = append(list, frame{body: c.with("usage", c.completion(object{}, "stop"))})
	}
	return list
}

// familyChunk is text frame i of a family other than Claude.
func (c *call) familyChunk(i int) object {
	switch c.answer.Family {
	case "nova":
		return object{"contentBlockDelta": object{"contentBlockIndex": 0, "delta": object{"text": words(i)}}}
	case "llama":
		body := object{"generation": words(i), "prompt_token_count": nil, "generation_token_count": nil, "stop_reason": nil}
		if !c.answer.NoUsage {
			body["generation_token_count"] = c.through(i + 1) // so far, not in this chunk
			if i == 0 {
				body["prompt_token_count"] = c.answer.Usage.Input
			}
		}
		return body
	case "titan":
		return object{"outputText": words(i), "index": 0, "totalOutputTextTokenCount": nil, "completionReason": nil, "inputTextTokenCount": nil}
	case "mistral7b":
		return object{"outputs": []object{{"text": words(i), "stop_reason": nil}}}
	case "cohere":
		return object{"event_type": "text-generation", "is_finished": false, "text": words(i)}
	default:
		return c.completion(object{"role": "assistant", "content": words(i)}, nil)
	}
}

// completion is a chunk of the families that speak as OpenAI does.
func (c *call) completion(delta object, finish any) object {
	return object{
		"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1767225600, "model": c.request.ModelID,
		"choices": []object{{"index": 0, "delta": delta, "finish_reason": finish}},
	}
}

// claudeChunks counts as Claude does: message_start has the input and one token of
// output, and each message_delta has the output so far, which is not to be summed.
// There is one in the middle, for a reader that takes the first for the last.
func (c *call) claudeChunks() []frame {
	opening := object{"id": "msg_1", "type": "message", "role": "assistant", "model": c.request.ModelID, "content": []object{}}
	if !c.answer.NoUsage {
		used := c.claudeInput()
		used["output_tokens"] = min(1, c.answer.Usage.Output)
		opening["usage"] = used
	}
	list := []frame{
		{body: object{"type": "message_start", "message": opening}},
		{body: object{"type": "content_block_start", "index": 0, "content_block": object{"type": "text", "text": ""}}},
	}
	for i := range c.answer.Frames {
		delta := object{"type": "text_delta", "text": words(i)}
		list = append(list, frame{body: object{"type": "content_block_delta", "index": 0, "delta": delta}, tokens: c.share(i)})
		if i+1 == c.answer.Frames/2 {
			list = append(list, frame{body: c.messageDelta(c.through(i+1), nil)})
		}
	}
	return append(list,
		frame{body: object{"type": "content_block_stop", "index": 0}},
		frame{body: c.messageDelta(c.answer.Usage.Output, "end_turn")},
		frame{body: object{"type": "message_stop"}})
}

func (c *call) messageDelta(output int64, stop any) object {
	body := object{"type": "message_delta", "delta": object{"stop_reason": stop, "stop_sequence": nil}}
	if !c.answer.NoUsage {
		body["usage"] = object{"output_tokens": output}
	}
	return body
}

// sonicFrames is a stream of Nova Sonic: each text is followed by a usageEvent,
// whose totals are those of the session so far.
func (c *call) sonicFrames() []frame {
	list := []frame{{body: sonic("completionStart", object{})}}
	for i := range c.answer.Frames {
		list = append(list, frame{body: sonic("textOutput", object{"role": "ASSISTANT", "content": words(i)}), tokens: c.share(i)})
		if !c.answer.NoUsage {
			list = append(list, frame{body: sonic("usageEvent", c.sonicUsage(i))})
		}
	}
	list = append(list, frame{body: sonic("completionEnd", object{"stopReason": "END_TURN"})})
	for i := range list {
		list[i].event, list[i].body = "chunk", object{"bytes": encode(list[i].body), "p": padding(i)}
	}
	return list
}

func sonic(name string, fields object) object {
	fields["sessionId"], fields["promptName"], fields["completionId"] = "session-1", "prompt-1", "completion-1"
	return object{"event": object{name: fields}}
}

// sonicUsage is the usage after text frame i. The input comes with the first.
func (c *call) sonicUsage(i int) object {
	in, out := c.answer.Usage.Input, c.through(i+1)
	fresh := in
	if i > 0 {
		fresh = 0
	}
	return object{
		"totalInputTokens": in, "totalOutputTokens": out, "totalTokens": in + out,
		"details": object{
			"delta": object{"input": sonicTokens(fresh), "output": sonicTokens(c.share(i))},
			"total": object{"input": sonicTokens(in), "output": sonicTokens(out)},
		},
	}
}

// sonicTokens splits n into speech and text.
func sonicTokens(n int64) object { return object{"speechTokens": n - n/4, "textTokens": n / 4} }
