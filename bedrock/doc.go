// Package bedrock guards a bedrockruntime client of the AWS SDK: no paid call is sent without quota, and each is settled with
// what it really used.
package bedrock
