// Package bedrocktest is a Bedrock for tests: it speaks the service's HTTP, so that the real SDK talks to it.
package bedrocktest
