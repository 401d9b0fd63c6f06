package bedrock

// slot is one count under one of its spellings.
type slot uint8

const (
	noSlot slot = iota

	// Claude, and OpenAI's Responses, which counts what came from a cache in its input.
	claudeInput
	claudeOutput
	claudeCacheRead
	claudeCacheWrite
	claudeCacheWrite5m
	claudeCacheWrite1h
	responsesCached

	// Nova, and the metadata event of ConverseStream.
	novaInput
	novaOutput
	novaCacheRead
	novaCacheWrite
	novaCacheDetail  // the tokens of one entry of cacheDetails
	novaCacheTTL     // and for how long; a string
	novaCacheDetails // added up over the entries
	novaCacheWrite1h // over those of an hour

	// OpenAI-like: gpt-oss, DeepSeek, Qwen, AI21's Jamba, the newer Mistral.
	openaiInput
	openaiOutput
	openaiCached

	cohereInput
	cohereOutput
	cohereImages
	cohereRawInput
	cohereRawOutput
	cohereOldInput
	cohereOldOutput

	llamaInput
	llamaOutput

	titanInput
	titanOutput
	titanResult // added up over the results

	sonicInput
	sonicOutput

	// Bedrock's own account at the end of a stream, whatever the model.
	metricsInput
	metricsOutput
	metricsCacheRead
	metricsCacheWrite

	// What a request says of what it wants.
	askTokens // the most tokens, the largest of several spellings
	askAnswers
	askImages

	slots // how many there are
)

// place is an object of a body in which counts stand.
type place uint8

const (
	inBody place = iota
	inMessage
	inResponse
	inMetadata
	inUsage
	inTopUsage
	inCacheCreation
	inCacheDetails
	inResponsesDetails
	inOpenAIDetails
	inMeta
	inBilled
	inRaw
	inTokenCount
	inResults
	inMetrics
	inEvent
	inUsageEvent

	inRequest
	inTextGeneration
	inInference
	inImageGeneration
)

// step is what a key leads to: a count, or a place with more keys.
type step struct {
	slot slot
	to   place
	list bool // of such places
}

var usageKeys = map[string]step{
	"input_tokens":                {slot: claudeInput},
	"output_tokens":               {slot: claudeOutput},
	"cache_read_input_tokens":     {slot: claudeCacheRead},
	"cache_creation_input_tokens": {slot: claudeCacheWrite},
	"cache_creation":              {to: inCacheCreation},
	"input_tokens_details":        {to: inResponsesDetails},

	"inputTokens":               {slot: novaInput},
	"outputTokens":              {slot: novaOutput},
	"cacheReadInputTokens":      {slot: novaCacheRead},
	"cacheReadInputTokenCount":  {slot: novaCacheRead},
	"cacheWriteInputTokens":     {slot: novaCacheWrite},
	"cacheWriteInputTokenCount": {slot: novaCacheWrite},
	"cacheDetails":              {to: inCacheDetails, list: true},
	"prompt_tokens":             {slot: openaiInput},
	"completion_tokens":         {slot: openaiOutput},
	"prompt_tokens_details":     {to: inOpenAIDetails},
	"billed_units":              {to: inBilled},
	"tokens":                    {to: inRaw},
}

// layout is where each family of models writes what a call used, and where requests say how much they want at most. Sources: the pages
// on model parameters in Bedrock's user guide, Nova's and Anthropic's guides, and answers quoted in issues of client libraries.
var layout = [...]map[string]step{
	inBody: {
		"usage":                            {to: inTopUsage},
		"message":                          {to: inMessage},  // Claude's message_start
		"response":                         {to: inResponse}, // the last event of Cohere, and of OpenAI's Responses
		"metadata":                         {to: inMetadata}, // Nova's last event
		"meta":                             {to: inMeta},     // Cohere
		"token_count":                      {to: inTokenCount},
		"prompt_token_count":               {slot: llamaInput},
		"generation_token_count":           {slot: llamaOutput},
		"inputTextTokenCount":              {slot: titanInput},
		"totalOutputTextTokenCount":        {slot: titanOutput},
		"results":                          {to: inResults, list: true},
		"event":                            {to: inEvent}, // Nova Sonic
		"amazon-bedrock-invocationMetrics": {to: inMetrics},
	},
	inMessage:          {"usage": {to: inUsage}},
	inResponse:         {"usage": {to: inUsage}, "meta": {to: inMeta}, "token_count": {to: inTokenCount}},
	inMetadata:         {"usage": {to: inUsage}},
	inUsage:            usageKeys,
	inTopUsage:         usageKeys,
	inCacheCreation:    {"ephemeral_5m_input_tokens": {slot: claudeCacheWrite5m}, "ephemeral_1h_input_tokens": {slot: claudeCacheWrite1h}},
	inCacheDetails:     {"inputTokens": {slot: novaCacheDetail}, "ttl": {slot: novaCacheTTL}},
	inResponsesDetails: {"cached_tokens": {slot: responsesCached}},
	inOpenAIDetails:    {"cached_tokens": {slot: openaiCached}},
	inMeta:             {"billed_units": {to: inBilled}, "tokens": {to: inRaw}},
	inBilled:           {"input_tokens": {slot: cohereInput}, "output_tokens": {slot: cohereOutput}, "images": {slot: cohereImages}},
	inRaw:              {"input_tokens": {slot: cohereRawInput}, "output_tokens": {slot: cohereRawOutput}},
	inTokenCount:       {"prompt_tokens": {slot: cohereOldInput}, "response_tokens": {slot: cohereOldOutput}},
	inResults:          {"tokenCount": {slot: titanResult}},
	inMetrics: {
		"inputTokenCount":           {slot: metricsInput},
		"outputTokenCount":          {slot: metricsOutput},
		"cacheReadInputTokenCount":  {slot: metricsCacheRead},
		"cacheWriteInputTokenCount": {slot: metricsCacheWrite},
	},
	inEvent:      {"usageEvent": {to: inUsageEvent}},
	inUsageEvent: {"totalInputTokens": {slot: sonicInput}, "totalOutputTokens": {slot: sonicOutput}},

	inRequest: {
		"max_tokens":            {slot: askTokens}, // Claude, Mistral, Cohere, OpenAI-like
		"max_tokens_to_sample":  {slot: askTokens}, // Claude's text completions
		"max_completion_tokens": {slot: askTokens}, // OpenAI-like
		"max_output_tokens":     {slot: askTokens}, // OpenAI's Responses
		"max_gen_len":           {slot: askTokens}, // Llama
		"max_new_tokens":        {slot: askTokens}, // imported models
		"maxTokens":             {slot: askTokens}, // AI21's Jurassic
		"n":                     {slot: askAnswers},
		"num_generations":       {slot: askAnswers},
		"numResults":            {slot: askAnswers},
		"samples":               {slot: askImages},
		"textGenerationConfig":  {to: inTextGeneration},
		"inferenceConfig":       {to: inInference},
		"imageGenerationConfig": {to: inImageGeneration},
	},
	inTextGeneration:  {"maxTokenCount": {slot: askTokens}},
	inInference:       {"maxTokens": {slot: askTokens}, "max_new_tokens": {slot: askTokens}},
	inImageGeneration: {"numberOfImages": {slot: askImages}},
}

// countScan collects the counts of one body.
type countScan struct {
	json    jsonScan
	n       [slots]int64
	told    [slots]bool
	visited [len(layout)]bool
	hour    bool // of the entry of cacheDetails that is being read
	strange bool // a count was not a number that can be believed
}

// read tells whether the body is an object that ends where it should. Bodies are read no deeper than the layout goes.
func (s *countScan) read(body []byte, from place) bool {
	s.json = jsonScan{src: body}
	return s.object(from) && s.json.whole()
}

func (s *countScan) object(p place) bool {
	if !s.json.take('{') {
		return false
	}
	s.visited[p] = true
	if s.json.take('}') {
		return true
	}
	for {
		key, ok := s.json.text()
		if !ok || !s.json.take(':') {
			return false
		}
		if st, known := layout[p][string(key)]; known {
			ok = s.value(st)
		} else {
			ok = s.json.skip()
		}
		if !ok {
			return false
		}
		if s.json.take('}') {
			return true
		}
		if !s.json.take(',') {
			return false
		}
	}
}

func (s *countScan) value(st step) bool {
	c := s.json.next()
	switch {
	case st.slot == novaCacheTTL && c == '"':
		ttl, ok := s.json.text()
		s.hour = string(ttl) == "1h"
		return ok
	case st.slot != noSlot:
		return s.count(st.slot)
	case st.list && c == '[':
		return s.list(st.to)
	case !st.list && c == '{':
		return s.object(st.to)
	}
	return s.json.skip() // something else of the same name
}

func (s *countScan) list(p place) bool {
	s.json.at++
	if s.json.take(']') {
		return true
	}
	for {
		var ok bool
		if s.json.next() == '{' {
			s.hour = false
			ok = s.object(p)
			s.endDetail(p)
		} else {
			ok = s.json.skip()
		}
		switch {
		case !ok:
			return false
		case s.json.take(']'):
			return true
		case !s.json.take(','):
			return false
		}
	}
}

// endDetail adds an entry of cacheDetails, whose two keys come in any order.
func (s *countScan) endDetail(p place) {
	if p == inCacheDetails && s.told[novaCacheDetail] {
		s.add(novaCacheDetails, s.n[novaCacheDetail])
		if s.hour {
			s.add(novaCacheWrite1h, s.n[novaCacheDetail])
		}
		s.n[novaCacheDetail], s.told[novaCacheDetail] = 0, false
	}
}

func (s *countScan) count(to slot) bool {
	if c := s.json.next(); c == '"' || c == '{' || c == '[' {
		s.strange = true
		return s.json.skip()
	}
	literal, ok := s.json.literal()
	if !ok || string(literal) == "null" {
		return ok
	}
	n, ok := number(literal)
	switch {
	case !ok:
		s.strange = true
	case to == titanResult:
		s.add(to, n)
	case to == askTokens, to == askAnswers, to == askImages:
		s.n[to], s.told[to] = max(s.n[to], n), true
	default:
		s.n[to], s.told[to] = n, true
	}
	return true
}

func (s *countScan) add(to slot, n int64) {
	s.n[to], s.told[to] = s.n[to]+n, true
	s.strange = s.strange || s.n[to] > countMax
}

// final tells whether the body has the account at the end of a stream: Bedrock's metrics, or the usage of ConverseStream's metadata, which
// is the only one of its spelling that stands at the top.
func (s *countScan) final() bool {
	return s.visited[inMetrics] || s.visited[inTopUsage] && s.told[novaInput]
}

// usage returns what the counts say; false if they say nothing. A whole body has to tell the input, as an answer is never made of
// none: output alone would be half of the account.
func (s *countScan) usage(source Source, whole bool) (Usage, bool) {
	if s.strange {
		return Usage{}, false
	}
	u, ok := s.ofModel(whole)
	if s.told[metricsInput] || s.told[metricsOutput] {
		u = s.ofMetrics().split(u)
		ok = true
	}
	u.Source = source
	return u.believed(ok)
}

// ofModel returns what the first family says of which there are counts.
func (s *countScan) ofModel(whole bool) (Usage, bool) {
	n, has := &s.n, func(in, out slot) bool { return s.told[in] || s.told[out] && !whole }
	switch {
	case has(claudeInput, claudeOutput):
		written := max(n[claudeCacheWrite], n[claudeCacheWrite5m]+n[claudeCacheWrite1h])
		return Usage{
			InputTokens: n[claudeInput] - n[responsesCached], OutputTokens: n[claudeOutput], CacheReadTokens: n[claudeCacheRead] + n[responsesCached],
			CacheWriteTokens: written - n[claudeCacheWrite1h], CacheWrite1hTokens: n[claudeCacheWrite1h],
		}, true
	case has(novaInput, novaOutput):
		written := max(n[novaCacheWrite], n[novaCacheDetails])
		return Usage{
			InputTokens: n[novaInput], OutputTokens: n[novaOutput], CacheReadTokens: n[novaCacheRead],
			CacheWriteTokens: written - n[novaCacheWrite1h], CacheWrite1hTokens: n[novaCacheWrite1h],
		}, true
	case has(openaiInput, openaiOutput):
		return Usage{InputTokens: n[openaiInput] - n[openaiCached], OutputTokens: n[openaiOutput], CacheReadTokens: n[openaiCached]}, true
	case has(cohereInput, cohereOutput) || s.told[cohereImages]:
		return Usage{InputTokens: n[cohereInput], OutputTokens: n[cohereOutput], Images: n[cohereImages]}, true
	case has(cohereRawInput, cohereRawOutput):
		return Usage{InputTokens: n[cohereRawInput], OutputTokens: n[cohereRawOutput]}, true
	case has(cohereOldInput, cohereOldOutput):
		return Usage{InputTokens: n[cohereOldInput], OutputTokens: n[cohereOldOutput]}, true
	case has(llamaInput, llamaOutput):
		return Usage{InputTokens: n[llamaInput], OutputTokens: n[llamaOutput]}, true
	case has(titanInput, titanOutput):
		return Usage{InputTokens: n[titanInput], OutputTokens: max(n[titanOutput], n[titanResult])}, true
	case has(sonicInput, sonicOutput):
		return Usage{InputTokens: n[sonicInput], OutputTokens: n[sonicOutput]}, true
	}
	return Usage{}, false
}

func (s *countScan) ofMetrics() Usage {
	return Usage{
		InputTokens: s.n[metricsInput], OutputTokens: s.n[metricsOutput],
		CacheReadTokens: s.n[metricsCacheRead], CacheWriteTokens: s.n[metricsCacheWrite],
	}
}
