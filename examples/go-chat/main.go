// Command go-chat talks to a model of AWS Bedrock. Each user has a budget of their own below a shared one, and no line is sent
// without quota.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"

	"github.com/quotad/quotad/bedrock"
	"github.com/quotad/quotad/client"
)

// chat is one conversation.
type chat struct {
	bedrock  *bedrockruntime.Client
	model    string
	user     string
	max      int32
	messages []types.Message
}

func main() {
	c := chat{}
	server := flag.String("server", "", "the `ADDRESS` of quotad (default $QUOTAD_SERVER, else "+client.TargetDefault+")")
	flag.StringVar(&c.model, "model", "amazon.nova-lite-v1:0", "the `ID` of the model")
	flag.StringVar(&c.user, "user", cmp.Or(os.Getenv("USER"), "somebody"), "the `NAME` that chat/NAME is charged for")
	maxTokens := flag.Int("max-tokens", 500, "the `MOST` tokens of one answer")
	flag.Parse()
	if *maxTokens < 1 || *maxTokens > 100_000 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "go-chat: --max-tokens is 1 to 100000, and there are no arguments: lines come from the terminal")
		os.Exit(2)
	}
	c.max = int32(*maxTokens) //nolint:gosec // bounded right above
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *server, &c, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "go-chat:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func run(ctx context.Context, server string, c *chat, in io.Reader, out io.Writer) (err error) {
	quota, err := client.Dial(server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, quota.Close()) }() // waits until quotad knows what was used
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("reading the AWS configuration: %w", err)
	}
	// This is all it takes. A stream holds 100 tokens at a time, and is cut where the bucket has no more.
	c.bedrock = bedrockruntime.NewFromConfig(cfg, bedrock.Guard(quota,
		bedrock.BucketFromMetadata("chat", "user"),
		bedrock.Slices(100, bedrock.EmptyCuts),
	))
	for line := range linesOf(ctx, in) {
		if err := c.say(ctx, line, out); err != nil {
			fmt.Fprintf(out, "\n[%v]\n", err) // the next line may fare better
		}
	}
	return nil
}

// linesOf yields what is typed until the end of it, or of ctx. A terminal that is being read cannot be left, so the reading goroutine is
// left behind.
func linesOf(ctx context.Context, in io.Reader) func(func(string) bool) {
	typed := make(chan string)
	go func() {
		defer close(typed)
		for r := bufio.NewReader(in); ; {
			line, err := r.ReadString('\n')
			if line = strings.TrimSpace(line); line != "" {
				typed <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return func(yield func(string) bool) {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case line, more := <-typed:
				if !more || !yield(line) {
					return
				}
			}
		}
	}
}

// say sends one line and prints the answer as it comes. A denial is told to the user, and is no error.
func (c *chat) say(ctx context.Context, line string, out io.Writer) error {
	asked := append(slices.Clip(c.messages), message(types.ConversationRoleUser, line))
	answer, err := c.ask(ctx, asked, out)
	if denied, ok := errors.AsType[*bedrock.DeniedError](err); ok {
		fmt.Fprintf(out, "\n[%s]\n", denied.UserMessage())
	} else if err != nil {
		return err
	}
	if answer != "" {
		c.messages = append(asked, message(types.ConversationRoleAssistant, answer))
	}
	return nil
}

func (c *chat) ask(ctx context.Context, messages []types.Message, out io.Writer) (answer string, err error) {
	resp, err := c.bedrock.ConverseStream(ctx, &bedrockruntime.ConverseStreamInput{
		ModelId:         &c.model,
		Messages:        messages,
		InferenceConfig: &types.InferenceConfiguration{MaxTokens: aws.Int32(c.max)},
		RequestMetadata: map[string]string{"user": c.user},
	})
	if err != nil {
		return "", err
	}
	stream := resp.GetStream()
	defer func() { err = errors.Join(err, stream.Close()) }()
	for event := range stream.Events() {
		delta, ok := event.(*types.ConverseStreamOutputMemberContentBlockDelta)
		if !ok {
			continue
		}
		if text, ok := delta.Value.Delta.(*types.ContentBlockDeltaMemberText); ok {
			answer += text.Value
			fmt.Fprint(out, text.Value)
		}
	}
	fmt.Fprintln(out)
	return answer, stream.Err()
}

func message(role types.ConversationRole, text string) types.Message {
	return types.Message{Role: role, Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: text}}}
}
