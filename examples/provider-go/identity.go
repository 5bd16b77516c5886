package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	maxAge = time.Minute
	leeway = 2 * time.Second
)

var errToken = status.Error(codes.Unauthenticated, "A valid token of the tools service is required.")

// Caller is for whom a call is made. The workspace is empty for ListTools.
type Caller struct {
	WorkspaceID string `json:"ws"`
	jwt.RegisteredClaims
}

// Verifier checks the tokens that Runwarden's tools service signs for each call.
type Verifier struct {
	key    ed25519.PublicKey
	parser *jwt.Parser
}

// NewVerifier takes the key out of RUNWARDEN_TRUSTED_KEYS, where it is the base64 of an SPKI DER,
// and the name under which the mesh knows this provider.
func NewVerifier(trustedKeys, audience string) (*Verifier, error) {
	var keys struct{ Tools []byte }
	if err := json.Unmarshal([]byte(trustedKeys), &keys); err != nil {
		return nil, fmt.Errorf("reading the trusted keys: %w", err)
	}
	key, err := x509.ParsePKIXPublicKey(keys.Tools)
	if err != nil {
		return nil, fmt.Errorf("reading the key of tools: %w", err)
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the key of tools is not an Ed25519 key")
	}
	return &Verifier{key: public, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{"EdDSA"}),
		jwt.WithIssuer("tools"),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
	)}, nil
}

// Caller tells who asks, from the metadata of the call.
func (v *Verifier) Caller(ctx context.Context) (*Caller, error) {
	tokens := metadata.ValueFromIncomingContext(ctx, "runwarden-identity")
	if len(tokens) == 0 {
		return nil, errToken
	}
	return v.Verify(tokens[0])
}

// Verify reads one token.
func (v *Verifier) Verify(token string) (*Caller, error) {
	caller := &Caller{}
	parsed, err := v.parser.ParseWithClaims(token, caller, func(*jwt.Token) (any, error) {
		return v.key, nil
	})
	if err != nil || parsed.Header["typ"] != "runwarden-hop+jwt" {
		return nil, errToken
	}
	if caller.IssuedAt == nil || time.Since(caller.IssuedAt.Time) > maxAge+leeway || caller.Subject == "" {
		return nil, errToken
	}
	return caller, nil
}
