package accesslog

import (
	"strings"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// Outcome is what became of a request.
type Outcome struct {
	// Code is the HTTP status the client got, 0 when it got none.
	Code int
	// Server is the API server that was asked, "" when none was.
	Server string
	// RejectedBy is why the gate itself refused.
	RejectedBy string
	// AuditID joins the line to the API server's audit log.
	AuditID string
	// Took is from arrival to the last byte; Upstream is the API server's part of it.
	Took, Upstream time.Duration
	// RequestBytes and ResponseBytes are body bytes.
	RequestBytes, ResponseBytes int64
	// Shared is true for an answer the gate read once for many: AuditID is then that read's.
	Shared bool
	// Stream is true for a watch, an exec and the like, whose time says nothing.
	Stream bool
}

// Line is one request.
type Line struct {
	Time       time.Time `json:"time"` // of arrival
	Lane       flow.Lane `json:"lane"`
	User       string    `json:"user"`
	Source     string    `json:"source"`
	UserAgent  string    `json:"userAgent"`
	Verb       string    `json:"verb"`
	APIGroup   string    `json:"apiGroup,omitempty"`
	APIVersion string    `json:"apiVersion,omitempty"`
	// Resource is resource or resource/subresource; Path stands for it where there is none.
	Resource  string `json:"resource,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Scope     string `json:"scope"`
	Path      string `json:"path,omitempty"`
	// Query holds the values of parameters known to be harmless; what else there was is "…".
	Query           string  `json:"query,omitempty"`
	Code            int     `json:"code"`
	RequestBytes    int64   `json:"requestBytes"`
	ResponseBytes   int64   `json:"responseBytes"`
	Seconds         float64 `json:"seconds"`
	UpstreamSeconds float64 `json:"upstreamSeconds"`
	Upstream        string  `json:"upstream,omitempty"`
	RejectedBy      string  `json:"rejectedBy,omitempty"`
	AuditID         string  `json:"auditID,omitempty"`
	// Shared is true for an answer that was read once for many. The API server's audit log has that one read, as the gate's;
	// who got it stands here.
	Shared bool `json:"shared,omitempty"`
}

// maxText bounds what a client's words take in a line.
const maxText = 512

// NewLine puts a request into a line. rawQuery is as the client sent it.
func NewLine(f *flow.Request, o *Outcome, rawQuery string) *Line {
	l := &Line{
		Time: f.Arrived.UTC(), Lane: f.Lane,
		User: bounded(f.Caller.User), Source: f.Source.String(), UserAgent: bounded(f.UserAgent),
		Verb: bounded(f.Verb), APIGroup: bounded(f.APIGroup), APIVersion: bounded(f.APIVersion),
		Namespace: bounded(f.Namespace), Name: bounded(f.Name), Scope: string(f.Scope),
		Query: bounded(flow.RedactQuery(rawQuery)),
		Code:  o.Code, RequestBytes: o.RequestBytes, ResponseBytes: o.ResponseBytes,
		Seconds: seconds(o.Took), UpstreamSeconds: seconds(o.Upstream),
		Upstream: o.Server, RejectedBy: o.RejectedBy, AuditID: bounded(o.AuditID), Shared: o.Shared,
	}
	if f.Resource == "" {
		l.Path = bounded(flow.RedactPath(f))
	} else {
		l.Resource = bounded(f.ResourcePath())
	}
	return l
}

// seconds are rounded to microseconds: more digits say nothing.
func seconds(d time.Duration) float64 { return d.Round(time.Microsecond).Seconds() }

func bounded(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}
