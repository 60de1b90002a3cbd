package recorded

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// event is one request of the log, as the limits see it.
type event struct {
	id       string
	flow     *flow.Request
	received time.Time
	ended    time.Time
	// begun is true for a stream's beginning: its end is another event.
	begun bool
}

// line is the part of audit.k8s.io/v1 Event that is read.
type line struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Stage      string `json:"stage"`
	AuditID    string `json:"auditID"`
	RequestURI string `json:"requestURI"`
	Verb       string `json:"verb"`
	User       struct {
		Username string   `json:"username"`
		Groups   []string `json:"groups"`
	} `json:"user"`
	SourceIPs []string  `json:"sourceIPs"`
	UserAgent string    `json:"userAgent"`
	Received  time.Time `json:"requestReceivedTimestamp"`
	Staged    time.Time `json:"stageTimestamp"`
}

// What becomes of a line that is no event to be judged.
var (
	errNotEvent   = errors.New("not an audit.k8s.io event with its timestamps")
	errOtherStage = errors.New("an event of another stage")
	errSelf       = errors.New("the API server's own request")
)

const (
	apiServerUser = "system:apiserver"
	anonymousUser = "system:anonymous"
)

// methods are those of Kubernetes' verbs; a verb outside the resource API is its method in lower case.
var methods = map[string]string{
	"list": http.MethodGet, "watch": http.MethodGet, "create": http.MethodPost, "update": http.MethodPut, "deletecollection": http.MethodDelete,
	"proxy": http.MethodGet, "connect": http.MethodGet,
}

var plainMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// parse reads one line, which others wrote.
func parse(data []byte) (*event, error) {
	var l line
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, err
	}
	if l.Kind != "Event" || !strings.HasPrefix(l.APIVersion, "audit.k8s.io/") || l.Received.IsZero() || l.Staged.IsZero() {
		return nil, errNotEvent
	}
	switch l.Stage {
	case "ResponseComplete", "Panic", "ResponseStarted":
	default:
		return nil, errOtherStage
	}
	if l.User.Username == apiServerUser {
		return nil, errSelf
	}
	f, err := l.flow()
	if err != nil {
		return nil, err
	}
	e := &event{id: l.AuditID, flow: f, received: l.Received, ended: l.Staged}
	if e.ended.Before(e.received) {
		e.ended = e.received
	}
	if l.Stage == "ResponseStarted" {
		if !f.LongRunning || l.AuditID == "" {
			return nil, errOtherStage
		}
		e.begun = true
	}
	return e, nil
}

// flow is what a gate would have made of the request.
func (l *line) flow() (*flow.Request, error) {
	target, err := url.ParseRequestURI(l.RequestURI)
	if err != nil {
		return nil, err
	}
	method, ok := methods[l.Verb]
	if !ok {
		if method = strings.ToUpper(l.Verb); !slices.Contains(plainMethods, method) {
			return nil, errNotEvent
		}
	}
	source := l.source()
	r := &http.Request{Method: method, URL: target, Header: http.Header{"User-Agent": {l.UserAgent}}, ProtoMajor: 2}
	if source.IsValid() {
		r.RemoteAddr = net.JoinHostPort(source.String(), "0")
	}
	caller := flow.Caller{User: l.User.Username, Groups: l.User.Groups, Certainty: flow.CertificateVerified}
	switch {
	case l.User.Username == anonymousUser, l.User.Username == "": // a credential that was refused leaves no name
		caller = flow.Caller{User: "unverified:" + flow.Origin(source)}
	case strings.HasPrefix(l.User.Username, "system:serviceaccount:"):
		caller.Certainty = flow.TokenVerified
	}
	return flow.Classify(r, caller, flow.Standard, l.Received)
}

// source is the client's address: the first the API server heard of, as in `gate top --audit`.
func (l *line) source() netip.Addr {
	if len(l.SourceIPs) == 0 {
		return netip.Addr{}
	}
	address, err := netip.ParseAddr(l.SourceIPs[0])
	if err != nil {
		return netip.Addr{}
	}
	return address.Unmap()
}
