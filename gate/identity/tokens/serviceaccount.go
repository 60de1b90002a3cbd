package tokens

import (
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// legacyIssuer marks the tokens kept in Secrets, which carry no audience and do not expire. The API server accepts them
// whatever its --service-account-issuer.
const legacyIssuer = "kubernetes/serviceaccount"

// accounts verifies ServiceAccount tokens as the API server does (pkg/serviceaccount), less the look-ups of the objects
// a token is bound to: those need an API server.
type accounts struct {
	issuers, audiences []string
	keys               []publicKey
}

// accountClaims are what the API server writes into its tokens (pkg/serviceaccount/claims.go, legacy.go).
type accountClaims struct {
	Kubernetes struct {
		Namespace string     `json:"namespace"`
		Account   reference  `json:"serviceaccount"`
		Pod       *reference `json:"pod"`
		Node      *reference `json:"node"`
	} `json:"kubernetes.io"`
	LegacyNamespace string `json:"kubernetes.io/serviceaccount/namespace"`
	LegacyName      string `json:"kubernetes.io/serviceaccount/service-account.name"`
	LegacyUID       string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

type reference struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

func (a *accounts) verify(token *jwt.JSONWebToken, now time.Time) (Identity, time.Time, bool) {
	var public jwt.Claims
	var private accountClaims
	if !check(token, a.keys, &public, &private) {
		return Identity{}, time.Time{}, false
	}
	info := serviceaccount.ServiceAccountInfo{
		Namespace: private.Kubernetes.Namespace,
		Name:      private.Kubernetes.Account.Name,
		UID:       private.Kubernetes.Account.UID,
	}
	switch {
	case public.Issuer == legacyIssuer:
		info.Namespace, info.Name, info.UID = private.LegacyNamespace, private.LegacyName, private.LegacyUID
	case !slices.Contains(a.issuers, public.Issuer), public.Expiry == nil,
		!slices.ContainsFunc(public.Audience, func(audience string) bool { return slices.Contains(a.audiences, audience) }):
		return Identity{}, time.Time{}, false
	}
	// The API server allows its usual minute of skew here, and so do we: a token it takes must not lose its name with us.
	if public.ValidateWithLeeway(jwt.Expected{Time: now}, jwt.DefaultLeeway) != nil {
		return Identity{}, time.Time{}, false
	}
	if namespace, name, err := serviceaccount.SplitUsername(public.Subject); err != nil || namespace != info.Namespace || name != info.Name {
		return Identity{}, time.Time{}, false
	}
	if pod := private.Kubernetes.Pod; pod != nil {
		info.PodName, info.PodUID = pod.Name, pod.UID
	}
	if node := private.Kubernetes.Node; node != nil {
		info.NodeName, info.NodeUID = node.Name, node.UID
	}
	if public.ID != "" {
		info.CredentialID = "JTI=" + public.ID
	}
	named := info.UserInfo()
	identity := Identity{
		User:   named.GetName(),
		UID:    named.GetUID(),
		Groups: append(slices.Clone(named.GetGroups()), user.AllAuthenticated),
		Extra:  named.GetExtra(),
	}
	var until time.Time
	if public.Expiry != nil {
		identity.Expires = public.Expiry.Time()
		until = identity.Expires.Add(jwt.DefaultLeeway)
	}
	return identity, until, true
}
