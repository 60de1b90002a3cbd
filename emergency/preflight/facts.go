package preflight

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/seakeep/seakeep/signals"
)

// Fact is something found out, or why it could not be.
type Fact[T any] struct {
	value T
	// unknown is why; "" when the value is known. The zero Fact is unknown.
	unknown string
	known   bool
}

// Known is a fact.
func Known[T any](value T) Fact[T] { return Fact[T]{value: value, known: true} }

// Unknown is what could not be found out, and why.
func Unknown[T any](why string) Fact[T] { return Fact[T]{unknown: why} }

// Get returns the value and whether it is known.
func (f Fact[T]) Get() (T, bool) { return f.value, f.known }

// Why says why the fact is unknown.
func (f Fact[T]) Why() string {
	if f.known || f.unknown != "" {
		return f.unknown
	}
	return "not looked for"
}

// MarshalJSON implements json.Marshaler: {"value": …} or {"unknown": "why"}.
func (f Fact[T]) MarshalJSON() ([]byte, error) {
	if !f.known {
		return json.Marshal(map[string]string{"unknown": f.Why()})
	}
	return json.Marshal(map[string]any{"value": f.value})
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *Fact[T]) UnmarshalJSON(data []byte) error {
	var form struct {
		Value   *T      `json:"value"`
		Unknown *string `json:"unknown"`
	}
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	switch {
	case form.Unknown != nil:
		*f = Unknown[T](*form.Unknown)
	case form.Value != nil:
		*f = Known(*form.Value)
	default:
		return fmt.Errorf("a fact needs value or unknown, got %.80s", data)
	}
	return nil
}

// Facts are what Judge decides on.
type Facts struct {
	// Server is the URL asked, Taken when.
	Server string    `json:"server"`
	Taken  time.Time `json:"taken"`
	// Version is the API server's gitVersion.
	Version Fact[string] `json:"version"`
	// User is whom the API server takes the kubeconfig's user for.
	User Fact[string] `json:"user"`
	// Provider says who runs the control plane.
	Provider Fact[Provider] `json:"provider"`
	// Flags are those of the API servers' static pods.
	Flags Fact[Flags] `json:"flags"`
	// Authentication is how API servers recognise callers, as they publish it for aggregated API servers.
	Authentication Fact[Authentication] `json:"authentication"`
	// Serving is what the handshake showed.
	Serving Fact[Certificate] `json:"serving"`
	// Client is the kubeconfig's own certificate; unknown when it has none.
	Client Fact[Certificate] `json:"client"`
	// Issuer and Keys are of ServiceAccount tokens; Keys is their number.
	Issuer Fact[string] `json:"issuer"`
	Keys   Fact[int]    `json:"keys"`
	// Anonymous is whether requests without credentials are let in at all.
	Anonymous Fact[bool] `json:"anonymous"`
	// PriorityAndFairness says whether API Priority and Fairness is on and which versions of its API are served.
	PriorityAndFairness Fact[PriorityAndFairness] `json:"priorityAndFairness"`
	// About is what the API server's metrics say; its being known means that they can be read.
	About Fact[signals.About] `json:"about"`
	// Nodes are counted, control plane included.
	Nodes Fact[Nodes] `json:"nodes"`
	// APIServers are the identities that hold a lease; Endpoints what the kubernetes Service leads to.
	APIServers Fact[[]string] `json:"apiServers"`
	Endpoints  Fact[[]string] `json:"endpoints"`
	// Balanced is true when Server is none of the endpoints: a name or a balancer stands before the API servers.
	Balanced Fact[bool] `json:"balanced"`
	// Clients are addresses that clients were configured with, by who they are.
	Clients []ClientAddress `json:"clients"`
	// Rights is what the kubeconfig's user may do, by name; see rights.go.
	Rights map[Right]Fact[bool] `json:"rights"`
	// MayGrantImpersonation is whether that user may give the gate the right to impersonate, by a dry run.
	MayGrantImpersonation Fact[bool] `json:"mayGrantImpersonation"`
	// BreakGlassTrusted is whether the API servers trust the break-glass CA that was named.
	BreakGlassTrusted Fact[bool] `json:"breakGlassTrusted"`
	// Etcd is each endpoint named.
	Etcd Fact[[]EtcdMember] `json:"etcd"`
}

// Authentication is the ConfigMap kube-system/extension-apiserver-authentication.
type Authentication struct {
	ClientCAs        []Certificate `json:"clientCAs"`
	RequestHeaderCAs []Certificate `json:"requestHeaderCAs"`
	AllowedNames     []string      `json:"allowedNames"`
	UsernameHeaders  []string      `json:"usernameHeaders"`
	UIDHeaders       []string      `json:"uidHeaders"`
	GroupHeaders     []string      `json:"groupHeaders"`
	ExtraPrefixes    []string      `json:"extraPrefixes"`
}

// Certificate is what matters of one.
type Certificate struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"notAfter"`
	// Fingerprint is the SHA-256 of the certificate, hexadecimal.
	Fingerprint string `json:"fingerprint"`
}

// PriorityAndFairness is the state of APF.
type PriorityAndFairness struct {
	On       bool     `json:"on"`
	Versions []string `json:"versions"`
}

// Nodes is what the nodes say; Kubelets are their versions on the first page of them.
type Nodes struct {
	Count        int64    `json:"count"`
	ControlPlane int64    `json:"controlPlane"`
	Kubelets     []string `json:"kubelets"`
	ProviderIDs  []string `json:"providerIDs"`
}

// ClientAddress is where clients were told to find the API server.
type ClientAddress struct {
	Who    string       `json:"who"`
	Server Fact[string] `json:"server"`
}

// EtcdMember is one etcd endpoint.
type EtcdMember struct {
	Endpoint string `json:"endpoint"`
	// Unreachable is why it did not answer, "" when it did; the rest is then empty.
	Unreachable string   `json:"unreachable,omitempty"`
	Healthy     bool     `json:"healthy"`
	Version     string   `json:"version,omitempty"`
	Leader      bool     `json:"leader"`
	HasLeader   bool     `json:"hasLeader"`
	DBBytes     int64    `json:"dbBytes"`
	QuotaBytes  int64    `json:"quotaBytes,omitempty"` // 0 when it does not say (etcd before 3.6)
	Alarms      []string `json:"alarms,omitempty"`
	// Members and Learners are the cluster's, as this member has it.
	Members  int `json:"members"`
	Learners int `json:"learners"`
}
