package bedrocktest

import "encoding/base64"

// familyBody is what a model of the family says to InvokeModel. The fields of the
// usage are those of the "Inference request parameters" pages of Bedrock's user
// guide; Cohere's are those of its own chat API.
func (c *call) familyBody() object {
	switch c.answer.Family {
	case "nova":
		return c.with("usage", object{
			"output":     object{"message": object{"role": "assistant", "content": []object{{"text": text}}}},
			"stopReason": "end_turn",
		})
	case "llama":
		body := object{"generation": text, "stop_reason": "stop"}
		if !c.answer.NoUsage {
			body["prompt_token_count"], body["generation_token_count"] = c.answer.Usage.Input, c.answer.Usage.Output
		}
		return body
	case "titan":
		result := object{"outputText": text, "completionReason": "FINISH"}
		body := object{"results": []object{result}}
		if !c.answer.NoUsage {
			body["inputTextTokenCount"], result["tokenCount"] = c.answer.Usage.Input, c.answer.Usage.Output
		}
		return body
	case "mistral7b":
		return object{"outputs": []object{{"text": text, "stop_reason": "stop"}}}
	case "mistral", "openai":
		return c.with("usage", object{
			"id": "chatcmpl-1", "object": "chat.completion", "created": 1767225600, "model": c.request.ModelID,
			"choices": []object{{"index": 0, "message": object{"role": "assistant", "content": text}, "finish_reason": "stop"}},
		})
	case "cohere":
		return c.with("meta", object{"response_id": "1", "generation_id": "1", "text": text, "finish_reason": "COMPLETE"})
	case "cohere-embed":
		return object{"id": "1", "response_type": "embeddings_floats", "embeddings": [][]float64{{0.25, -0.5}}, "texts": []string{text}}
	case "image":
		return object{"images": []string{base64.StdEncoding.EncodeToString([]byte(text))}, "error": nil}
	default:
		return c.with("usage", object{
			"id": "msg_1", "type": "message", "role": "assistant", "model": c.request.ModelID,
			"content": []object{{"type": "text", "text": text}}, "stop_reason": "end_turn", "stop_sequence": nil,
		})
	}
}

// with adds the family's usage under a name, unless the answer does not tell.
func (c *call) with(name string, body object) object {
	if !c.answer.NoUsage {
		body[name] = c.familyUsage()
	}
	return body
}

// familyUsage is the object in which the family counts tokens.
func (c *call) familyUsage() object {
	used := c.answer.Usage
	switch c.answer.Family {
	case "nova":
		return object{
			"inputTokens": used.Input, "outputTokens": used.Output, "totalTokens": used.total(),
			"cacheReadInputTokenCount": used.CacheRead, "cacheWriteInputTokenCount": used.CacheWrite,
		}
	case "mistral", "openai":
		// Here alone what the cache had is part of the prompt's tokens.
		prompt := used.Input + used.CacheRead + used.CacheWrite
		fields := object{"prompt_tokens": prompt, "completion_tokens": used.Output, "total_tokens": prompt + used.Output}
		if used.CacheRead > 0 {
			fields["prompt_tokens_details"] = object{"cached_tokens": used.CacheRead}
		}
		return fields
	case "cohere":
		return object{"api_version": object{"version": "1"}, "billed_units": object{"input_tokens": used.Input, "output_tokens": used.Output}}
	default:
		fields := c.claudeInput()
		fields["output_tokens"] = used.Output
		return fields
	}
}

// claudeInput is Claude's usage without the output.
func (c *call) claudeInput() object {
	used := c.answer.Usage
	fields := object{
		"input_tokens":                used.Input,
		"cache_read_input_tokens":     used.CacheRead,
		"cache_creation_input_tokens": used.CacheWrite,
	}
	if used.CacheWrite > 0 {
		fields["cache_creation"] = object{
			"ephemeral_5m_input_tokens": used.CacheWrite - used.CacheWrite1h,
			"ephemeral_1h_input_tokens": used.CacheWrite1h,
		}
	}
	return fields
}

// metrics is what Bedrock adds to the last chunk of a stream, whatever the family.
func (c *call) metrics() object {
	used := c.answer.Usage
	fields := object{
		"inputTokenCount": used.Input, "outputTokenCount": used.Output,
		"invocationLatency": 2, "firstByteLatency": 1,
	}
	if used.CacheRead > 0 {
		fields["cacheReadInputTokenCount"] = used.CacheRead
	}
	if used.CacheWrite > 0 {
		fields["cacheWriteInputTokenCount"] = used.CacheWrite
	}
	return fields
}
