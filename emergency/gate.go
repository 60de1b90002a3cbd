package emergency

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/pki"
)

// timeout bounds one call. A gate puts a rule in force at once; what takes seconds is a sick disk, and then the rule
// is in force and the answer late.
const timeout = 15 * time.Second

// maxAnswer bounds what is read of a gate's answer.
const maxAnswer = 16 << 20

// Gate is one gate's admin endpoint. It is safe for concurrent use.
type Gate struct {
	// Name is how the user named it, for reports.
	Name   string
	client *http.Client
	scheme string
	host   string
}

// RefusedError says that a gate was reached and did not do what was asked.
type RefusedError struct {
	// Code is the HTTP status: 422 for a rule that breaks a rule, 404 for an ID not in force, 403 for a caller not
	// allowed.
	Code int
	// Reason is the gate's.
	Reason string
	// Violations has one entry a wrong field.
	Violations []string
}

// Error implements error.
func (e *RefusedError) Error() string {
	if len(e.Violations) == 0 {
		return e.Reason
	}
	return e.Reason + ": " + strings.Join(e.Violations, "; ")
}

// OnSocket is the gate whose admin socket is at path.
func OnSocket(path string) *Gate {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Gate{Name: path, scheme: "http", host: "gate", client: &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: dial}}}
}

// Credentials are the files for gates reached over mTLS.
type Credentials struct {
	// CertFile and KeyFile show who is calling; its common name must be among the gate's allowedNames.
	CertFile, KeyFile string
	// CAFile verifies the gate.
	CAFile string
	// ServerName overrides the name verified in the gate's certificate.
	ServerName string
}

// OnAddress is the gate whose remote admin endpoint is at host:port. The files are read now.
func OnAddress(address string, files Credentials) (*Gate, error) {
	certificate, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate: %w", err)
	}
	roots, err := pki.LoadPool(files.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the gate's CA: %w", err)
	}
	return &Gate{Name: address, scheme: "https", host: address, client: &http.Client{Timeout: timeout, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{certificate},
			RootCAs:      roots,
			ServerName:   files.ServerName,
		},
	}}}, nil
}

// HTTP is how the gate is called by who reads what is not asked here: the URL without a path, and the client.
func (g *Gate) HTTP() (url string, client *http.Client) { return g.scheme + "://" + g.host, g.client }

// Close lets go of the connections.
func (g *Gate) Close() { g.client.CloseIdleConnections() }

// Set puts a rule in force, or only has it checked.
func (g *Gate) Set(ctx context.Context, rule *v1alpha1.EmergencyRule, dryRun bool) (*v1alpha1.EmergencyRuleResult, error) {
	body, err := json.Marshal(rule)
	if err != nil {
		return nil, fmt.Errorf("encoding the rule: %w", err)
	}
	var query url.Values
	if dryRun {
		query = url.Values{"dryRun": {"true"}}
	}
	result := new(v1alpha1.EmergencyRuleResult)
	return result, g.call(ctx, http.MethodPost, "/v1/rules", query, body, result)
}

// Lift takes a rule out of force.
func (g *Gate) Lift(ctx context.Context, id, reason string) (*v1alpha1.EmergencyRuleResult, error) {
	result := new(v1alpha1.EmergencyRuleResult)
	return result, g.call(ctx, http.MethodDelete, "/v1/rules/"+url.PathEscape(id), url.Values{"reason": {reason}}, nil, result)
}

// Status asks what is going on.
func (g *Gate) Status(ctx context.Context) (*v1alpha1.EmergencyStatus, error) {
	status := new(v1alpha1.EmergencyStatus)
	return status, g.call(ctx, http.MethodGet, "/v1/status", nil, nil, status)
}

// Totals asks what the gate forwarded since it started, by verb and resource, and decodes the answer into result: a
// *ledger.Totals of package gate/ledger.
func (g *Gate) Totals(ctx context.Context, result any) error {
	return g.call(ctx, http.MethodGet, "/v1/totals", nil, nil, result)
}

func (g *Gate) call(ctx context.Context, method, path string, query url.Values, body []byte, result any) error {
	target := g.scheme + "://" + g.host + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("calling the gate: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := g.client.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // its own text repeats the URL, which for a socket means nothing
		}
		return fmt.Errorf("calling the gate: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the gate's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return refusedBy(response.StatusCode, answer)
	}
	if err := json.Unmarshal(answer, result); err != nil {
		return fmt.Errorf("reading the gate's answer: %w", err)
	}
	return nil
}

func refusedBy(code int, answer []byte) error {
	var body struct {
		Error      string   `json:"error"`
		Violations []string `json:"violations"`
	}
	if err := json.Unmarshal(answer, &body); err != nil || body.Error == "" {
		return &RefusedError{Code: code, Reason: fmt.Sprintf("it answered %d: %.200q", code, answer)}
	}
	return &RefusedError{Code: code, Reason: body.Error, Violations: body.Violations}
}
