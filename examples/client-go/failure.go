package main

import (
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var advice = map[string]string{
	"UNAUTHENTICATED":        "Set RUNWARDEN_API_KEY to a valid key; `npm start` prints some.",
	"ROLE_TOO_LOW":           "Use the key of somebody with the role that it needs.",
	"APPROVER_NOT_ALLOWED":   "Have somebody else confirm it, such as an approver who did not ask.",
	"UNKNOWN_TOOL":           "See which there are: tools",
	"AMBIGUOUS_TOOL":         "Write the full name, provider/tool: tools",
	"TOOL_ARGUMENTS_INVALID": "Correct the arguments; the tool's input schema says what fits.",
	"INVALID_REQUEST":        "Correct the fields that are named.",
	"NOT_FOUND":              "See which runs there are: runs",
	"APPROVAL_NOT_PENDING":   "Look how the run stands: watch",
}

// describe tells a person what failed, why, and what to do. It reads the google.rpc details that
// every error of Runwarden carries.
func describe(err error, url string) string {
	failed, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	var reason string
	var fields []string
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.BadRequest:
			for _, it := range detail.FieldViolations {
				fields = append(fields, fmt.Sprintf("  %s: %s", it.Field, it.Description))
			}
		}
	}
	if reason == "" {
		if failed.Code() == codes.Unavailable {
			return fmt.Sprintf("Nothing answers at %s. Start a mesh with `npm start`, or set RUNWARDEN_URL.", url)
		}
		return err.Error()
	}
	lines := append([]string{reason + ": " + failed.Message()}, fields...)
	if what := advice[reason]; what != "" {
		lines = append(lines, what)
	}
	return strings.Join(lines, "\n")
}
