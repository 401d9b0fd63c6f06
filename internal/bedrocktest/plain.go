package bedrocktest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// text is what models have to say.
const text = "An answer that is always the same."

// converseUsage is TokenUsage of the Converse operations, or nil.
func (c *call) converseUsage() object {
	used := c.answer.Usage
	fields := object{"inputTokens": used.Input, "outputTokens": used.Output, "totalTokens": used.total()}
	if used.CacheRead > 0 {
		fields["cacheReadInputTokens"] = used.CacheRead
	}
	if used.CacheWrite > 0 {
		fields["cacheWriteInputTokens"] = used.CacheWrite
		fields["cacheDetails"] = []object{
			{"ttl": "1h", "inputTokens": used.CacheWrite1h},
			{"ttl": "5m", "inputTokens": used.CacheWrite - used.CacheWrite1h},
		}
	}
	return fields
}

// about adds to the answer of a Converse operation what it tells beside the text.
func (c *call) about(body object) object {
	body["metrics"] = object{"latencyMs": 1}
	if !c.answer.NoUsage {
		body["usage"] = c.converseUsage()
	}
	if c.answer.Tier != "" {
		body["serviceTier"] = object{"type": c.answer.Tier}
	}
	if c.answer.InvokedModel != "" {
		body["trace"] = object{"promptRouter": object{"invokedModelId": c.answer.InvokedModel}}
	}
	return body
}

func (c *call) converseBody() object {
	return c.about(object{
		"output":     object{"message": object{"role": "assistant", "content": []object{{"text": text}}}},
		"stopReason": "end_turn",
	})
}

// guardrailBody shares the text units between two policies, and adds some that
// are named free and on no bill.
func (c *call) guardrailBody() object {
	body := object{"action": "NONE", "outputs": []object{}, "assessments": []object{}}
	if units := c.answer.Usage.TextUnits; !c.answer.NoUsage {
		body["usage"] = object{
			"topicPolicyUnits":                    units / 2,
			"contentPolicyUnits":                  units - units/2,
			"wordPolicyUnits":                     0,
			"sensitiveInformationPolicyUnits":     0,
			"sensitiveInformationPolicyFreeUnits": units,
			"contextualGroundingPolicyUnits":      0,
		}
	}
	return body
}

func (c *call) checksBody() object {
	body := object{"results": object{
		"contentFilter": object{"results": []object{}},
		"promptAttack":  object{"results": []object{}},
	}}
	if units := c.answer.Usage.TextUnits; !c.answer.NoUsage {
		body["usage"] = object{
			"contentFilter": object{"textUnits": units - units/2},
			"promptAttack":  object{"textUnits": units / 2},
		}
	}
	return body
}

// A job is an invocation that goes on after its call.
type job struct {
	arn, model, token, bucket string
	submitted                 time.Time
}

// asyncRequest is what the server reads of the body of StartAsyncInvoke.
type asyncRequest struct {
	Model  string `json:"modelId"`
	Token  string `json:"clientRequestToken"`
	Output struct {
		S3 struct {
			URI string `json:"s3Uri"`
		} `json:"s3OutputDataConfig"`
	} `json:"outputDataConfig"`
}

func asyncModel(body []byte) string {
	var asked asyncRequest
	_ = json.Unmarshal(body, &asked) // "" is what such a request has for a model
	return asked.Model
}

// submit keeps and bills a new job. One whose token is known is the same job
// again, and free.
func (c *call) submit() {
	var asked asyncRequest
	if json.Unmarshal(c.request.Body, &asked) != nil {
		return // the answer says so
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if asked.Token != "" {
		for _, j := range c.jobs {
			if j.token == asked.Token {
				return
			}
		}
	}
	n := len(c.jobs) + 1
	c.jobs = append(c.jobs, job{
		arn:    fmt.Sprintf("arn:aws:bedrock:us-east-1:123456789012:async-invoke/%012d", n),
		model:  asked.Model,
		token:  asked.Token,
		bucket: asked.Output.S3.URI,
		// Any instant will do; one second apart makes an order of them.
		submitted: time.Date(2026, 1, 2, 3, 4, 5+n, 0, time.UTC),
	})
	c.bill.Calls++
}

// asyncBody answers the three operations about jobs, which are all complete; false
// if there is no such job.
func (c *call) asyncBody() (object, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.op.Name == ListAsyncInvokes {
		return c.page(), true
	}
	var asked asyncRequest
	_ = json.Unmarshal(c.request.Body, &asked) // GetAsyncInvoke has none
	for _, j := range slices.Backward(c.jobs) {
		switch {
		case c.op.Name == GetAsyncInvoke && j.arn == c.values["invocation"]:
			return j.body(), true
		case c.op.Name == StartAsyncInvoke && j.token == asked.Token:
			return object{"invocationArn": j.arn}, true
		}
	}
	return nil, false
}

// page is the jobs from nextToken on, as many as maxResults has.
func (c *call) page() object {
	query := c.r.URL.Query()
	from, _ := strconv.Atoi(query.Get("nextToken")) // without one, from the first
	from = min(max(from, 0), len(c.jobs))
	till := len(c.jobs)
	if size, err := strconv.Atoi(query.Get("maxResults")); err == nil && size > 0 {
		till = min(till, from+size)
	}
	list := make([]object, 0, till-from)
	for _, j := range c.jobs[from:till] {
		list = append(list, j.body())
	}
	body := object{"asyncInvokeSummaries": list}
	if till < len(c.jobs) {
		body["nextToken"] = strconv.Itoa(till)
	}
	return body
}

func (j job) body() object {
	at := j.submitted.Format(time.RFC3339)
	return object{
		"invocationArn":      j.arn,
		"modelArn":           "arn:aws:bedrock:us-east-1::foundation-model/" + j.model,
		"clientRequestToken": j.token,
		"status":             "Completed",
		"submitTime":         at,
		"lastModifiedTime":   at,
		"endTime":            at,
		"outputDataConfig":   object{"s3OutputDataConfig": object{"s3Uri": j.bucket}},
	}
}
