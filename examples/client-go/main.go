// Starts runs, follows and confirms them, over gRPC with an API key.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	orchestratorv1 "runwarden.dev/gen/go/runwarden/orchestrator/v1"
)

const maxListed = 200

const help = `usage: client COMMAND

Starts runs, follows and confirms them, over gRPC with an API key.

  start TOOL [ARGUMENTS]  start a run of one call, with its arguments as JSON, and print its id
  watch RUN               follow a run until it has ended
  confirm [--yes] RUN     show what a run waits for, and let it happen; --yes does not ask
  runs                    list runs, newest first, at most 200
  tools                   list what runs may do

environment:
  RUNWARDEN_API_KEY  whose key is used; required
  RUNWARDEN_URL      where the mesh is; http://127.0.0.1:7100 where it is not set

Ends with 0, with 1 for an error, and with 2 where a watched run did not succeed.
`

var errNotSucceeded = errors.New("the run did not succeed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	flag.Usage = func() { fmt.Fprint(flag.CommandLine.Output(), help) }
	flag.Parse()
	url := cmp.Or(os.Getenv("RUNWARDEN_URL"), "http://127.0.0.1:7100")
	switch err := run(ctx, url, flag.Args()); {
	case errors.Is(err, errNotSucceeded):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, describe(err, url))
		os.Exit(1)
	}
}

func run(ctx context.Context, url string, args []string) error {
	if len(args) == 0 {
		return errors.New(help)
	}
	client, err := Connect(ctx, url, os.Getenv("RUNWARDEN_API_KEY"))
	if err != nil {
		return err
	}
	defer client.Close()
	switch command, rest := args[0], args[1:]; {
	case command == "start" && (len(rest) == 1 || len(rest) == 2):
		return start(ctx, client, rest[0], strings.Join(rest[1:], ""))
	case command == "watch" && len(rest) == 1:
		return watch(ctx, client, rest[0])
	case command == "confirm" && len(rest) == 1:
		return confirm(ctx, client, rest[0], false)
	case command == "confirm" && len(rest) == 2 && rest[0] == "--yes":
		return confirm(ctx, client, rest[1], true)
	case command == "runs" && len(rest) == 0:
		return listRuns(ctx, client)
	case command == "tools" && len(rest) == 0:
		return listTools(ctx, client)
	default:
		return errors.New(help)
	}
}

func start(ctx context.Context, client *Client, tool, encoded string) error {
	arguments := &structpb.Struct{}
	if err := protojson.Unmarshal([]byte(cmp.Or(encoded, "{}")), arguments); err != nil {
		return fmt.Errorf("the arguments are no JSON object: %w", err)
	}
	started, err := client.Start(ctx, tool, arguments)
	if err != nil {
		return err
	}
	fmt.Println(started.RunId)
	return nil
}

func watch(ctx context.Context, client *Client, runID string) error {
	for event, err := range client.Watch(ctx, runID) {
		if err != nil {
			return err
		}
		if line := describeEvent(event, runID); line != "" {
			fmt.Println(line)
		}
	}
	ended, err := client.Get(ctx, runID)
	if err == nil && ended.State != orchestratorv1.RunState_RUN_STATE_SUCCEEDED {
		return errNotSucceeded
	}
	return err
}

func describeEvent(event *orchestratorv1.RunEvent, runID string) string {
	switch kind := event.Kind.(type) {
	case *orchestratorv1.RunEvent_RunStateChanged:
		change := kind.RunStateChanged
		return join("run", short(change.State), change.Reason)
	case *orchestratorv1.RunEvent_ToolCallStateChanged:
		call := kind.ToolCallStateChanged
		return join(fmt.Sprintf("step %d", call.StepIndex), call.Tool, short(call.State), call.Reason)
	case *orchestratorv1.RunEvent_ApprovalStateChanged:
		approval := kind.ApprovalStateChanged
		hint := ""
		if approval.State == orchestratorv1.ApprovalState_APPROVAL_STATE_PENDING {
			hint = fmt.Sprintf("(as an approver: confirm %s)", runID)
		}
		return join(fmt.Sprintf("approval of step %d", approval.StepIndex), short(approval.State), hint)
	default:
		return ""
	}
}

func confirm(ctx context.Context, client *Client, runID string, isSure bool) error {
	waiting, err := client.PendingApprovals(ctx, runID)
	if err != nil {
		return err
	}
	if len(waiting) == 0 {
		return errors.New("the run waits for nobody's yes")
	}
	for _, approval := range waiting {
		// Indented only: in it, what a screen would hide is written out.
		var shown bytes.Buffer
		if err := json.Indent(&shown, []byte(approval.Preview), "", "  "); err != nil {
			return err
		}
		fmt.Println(shown.String())
		if !isSure && !isYes("Let it happen? [y/N] ") {
			return errors.New("not confirmed")
		}
		answered, err := client.Confirm(ctx, approval)
		if err != nil {
			return err
		}
		fmt.Println(approval.Tool, short(answered.State))
	}
	return nil
}

func isYes(question string) bool {
	fmt.Print(question)
	var answer string
	_, err := fmt.Scanln(&answer)
	return err == nil && strings.EqualFold(answer, "y")
}

func listRuns(ctx context.Context, client *Client) error {
	count := 0
	for run, err := range client.Runs(ctx) {
		if err != nil {
			return err
		}
		// Quoted: what others named must not act on the terminal.
		fmt.Printf("%s %s %q\n", run.RunId, short(run.State), run.PlanName)
		if count++; count == maxListed {
			break
		}
	}
	return nil
}

func listTools(ctx context.Context, client *Client) error {
	for tool, err := range client.Tools(ctx) {
		if err != nil {
			return err
		}
		about := tool.Definition
		fmt.Printf("%s %s %s %q\n", tool.FullName, short(about.RiskClass), short(about.Effect), about.Title)
	}
	return nil
}

// short is the name of an enum's value without the name of the enum.
func short(value fmt.Stringer) string {
	name := value.String()
	for _, prefix := range []string{"RUN_STATE_", "TOOL_CALL_STATE_", "APPROVAL_STATE_", "RISK_CLASS_", "EFFECT_"} {
		name = strings.TrimPrefix(name, prefix)
	}
	return name
}

func join(words ...string) string {
	return strings.TrimSpace(strings.Join(words, " "))
}
